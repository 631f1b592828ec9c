"""Makes room for each run, and brings back what was put aside for it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Literal

from sdmanager.errors import ServerError, StorageError
from sdmanager.threads import in_thread

from .journal import Entry, Journal, Phase
from .leases import Ask, Lease, NoStricterPlanError, SavedState, shortfall, told
from .limits import Limits
from .looking import Looker
from .moving import Mover
from .offloading import DEFAULT_LINGER, DEFAULT_THRESHOLD, OffloadingConfig
from .restoring import Restorer
from .settling import Promise, settle

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from sdmanager.generation import MemoryChoices, MemoryPlan
    from sdmanager.hardware import HardwareSnapshot
    from sdmanager.settings import Settings

    from .footprint import Footprint
    from .offloadable import Holding, Offloadable
    from .restoring import Aside
    from .supply import Supply

_LOG = logging.getLogger("sdmanager.resources")

FOLDER = "offloads"


class ResourceOrchestrator:
    """Chooses the memory flags of each run, has others put aside where that helps, and brings them back.

    Who is put aside is written down on the disk before, and brought back a moment after the last run, whether that
    gave a picture or not; after a crash, by the next that calls `recover`. With offloadables all belongs to one event
    loop; without, leases may be taken in any.

    Args:
        settings: Folders; the journal is ``offloads`` in the state folder.
        offloadables: Who may be put aside, each with a name of its own.
        threshold: Share of RAM and of VRAM above which others are put aside; above 0, at most 1.
        linger: Seconds after the last run in which another one finds everything still aside.
        look: Looks at the machine in the place of `sdmanager.hardware`.
        on_change: Called on the loop whenever `saved_state` may have changed.
        limits: Times.

    Raises:
        InvalidRequestError: As ``OffloadingConfig.build``.
    """

    def __init__(
        self,
        settings: Settings,
        offloadables: Sequence[Offloadable] = (),
        *,
        threshold: float = DEFAULT_THRESHOLD,
        linger: float = DEFAULT_LINGER,
        look: Callable[[], Awaitable[HardwareSnapshot]] | None = None,
        on_change: Callable[[], None] | None = None,
        limits: Limits | None = None,
    ) -> None:
        wanted = OffloadingConfig.build(offloadables, threshold, linger)
        self._threshold, self._linger = wanted.threshold, wanted.linger
        self._limits = limits or Limits()
        self._offloadables = {each.name: each for each in wanted.offloadables}
        self._look = Looker(settings, look)
        self._journal = Journal(settings.state_dir / FOLDER)
        self._restorer = Restorer(
            self._journal, self._offloadables, self._limits, on_change or (lambda: None)
        )
        self._mover = Mover(self._journal, self._restorer, self._offloadables, self._limits)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock, self._closing = asyncio.Lock(), asyncio.Lock()
        self._leases = 0
        self._closed = False
        self._strangers = set[str]()

    @property
    def makes_room(self) -> bool:
        """Whether anybody can be put aside."""
        return bool(self._offloadables)

    @contextlib.asynccontextmanager
    async def lease(
        self,
        footprint: Footprint,
        choices: MemoryChoices | MemoryPlan,
        supports: Callable[[str], bool],
        *,
        failed: Sequence[MemoryPlan] = (),
        short: Literal["ram", "vram"] | None = None,
        helps: Callable[[MemoryPlan], bool] | None = None,
        on_offloading: Callable[[], None] | None = None,
    ) -> AsyncIterator[Lease]:
        """Room for one run, until the block is left; leaving it waits for nothing.

        A program that cannot be put aside is left, and the plan is made without it. So is one that another process
        has put aside. Each run is planned with what is free at that moment: runs that go on at the same time in one
        process are not counted against each other, before they have taken what they need.

        Args:
            footprint: What is to be run.
            choices: What the user decided; a ``MemoryPlan`` means exactly these flags.
            supports: Whether the engine knows a flag.
            failed: Plans with which the run ran out of memory: a stricter one is wanted.
            short: Of which memory it ran out; None: as far as estimates tell.
            helps: Whether such a plan is worth a try; others are passed over. None: all are.
            on_offloading: Called once, if something has to move, before it is asked to.

        Raises:
            NoStricterPlanError: There is none.
            ServerError: Others are using this in another event loop.

        Cancelling while something is put aside is honoured at once; it is brought back in the background.
        """
        ask = Ask(footprint, choices, supports, self._threshold, tuple(failed), short, helps)
        if not self._offloadables:
            supply = await self._look.see(footprint.on_gpu, anew=bool(failed))
            plan = ask.plan(supply, {})
            if plan is None:
                raise NoStricterPlanError
            yield Lease(plan, supply, 0.0)
            return
        self._stay_in_loop()
        self._enter()
        try:
            async with self._lock:
                lease = await self._make_room(ask, _Stopwatch(self._limits.clock, on_offloading))
            yield lease
        finally:
            self._leave()

    async def would_need_offload(
        self, footprint: Footprint, choices: MemoryChoices | MemoryPlan, supports: Callable[[str], bool]
    ) -> bool:
        """Whether a lease would have something put aside now; nothing is moved.

        Raises:
            ServerError: Others are using this in another event loop.
        """
        if not self._offloadables:
            return False
        self._stay_in_loop()
        ask = Ask(footprint, choices, supports, self._threshold)
        plan, _, _ = await self._choose(ask)
        return plan is not None and bool(plan.evictions)

    def saved_state(self) -> tuple[SavedState, ...]:
        """What is aside, or still to be brought back, by this process or another, the oldest first."""
        ours = {each.entry.id: self._our_state(each) for each in self._restorer.aside}
        others = [self._state_of_other(each) for each in self._journal.entries() if each.id not in ours]
        return tuple(sorted([*ours.values(), *others], key=lambda state: state.since))

    async def clear_saved_state(self) -> None:
        """Forget what is aside and whatever nobody is left to bring back: nothing of it is restored.

        Raises:
            StorageError: What was written down cannot be deleted.
            ServerError: Others are using this in another event loop.
        """
        self._stay_in_loop()
        async with self._lock:
            await self._restorer.forget()
            claimed = await self._claim(lambda _: True)
            await in_thread(self._journal.remove, *claimed)
            if any(entry.is_orphan for entry in await in_thread(self._journal.entries)):
                raise StorageError("What was put aside cannot be forgotten, because it cannot be deleted.")
        self._restorer.tell()

    async def wait_for_reload(self) -> None:
        """Bring back everything as soon as no lease is left, and wait for it.

        It returns as well when what is missing has been given up for the next ten minutes; `saved_state` says why.
        Within a lease it would wait for itself.
        """
        if self._offloadables:
            self._stay_in_loop()
            await self._restorer.wait()

    async def recover(self) -> None:
        """Bring back what processes that are dead had put aside, before anything is served.

        Returns when each was tried once; what is not back then is tried again in the background. What is not
        among the offloadables stays written down, and so does what another living process has put aside once more.
        It may be called again after `aclose`, and in another event loop once that of before is closed.
        """
        self._stay_in_loop()
        self._closed = False
        await self._tell_of_strangers()
        taken = await self._mover.elsewhere()
        claimed = await self._claim(
            lambda entry: entry.name in self._offloadables and entry.name not in taken
        )
        for entry in claimed:
            if (
                self._restorer.of(entry.name) is not None
            ):  # what this one has put aside since is what was there last
                await in_thread(self._journal.remove, entry)
                continue
            _LOG.info("bringing back %s, which an earlier run had put aside", entry.name)
            self._restorer.keep(entry)
        await self._restorer.try_idle()

    async def aclose(self) -> None:
        """Bring back everything at once, each with at most one attempt more; idempotent.

        What does not come back within a minute is left to the next start. From here on nothing is put aside, until
        `recover`. Leases that go on are waited for, for half of that. Cancelling ends attempts that go on.
        """
        if not self._offloadables:
            return
        self._stay_in_loop()
        self._closed = True
        async with self._closing:
            clock = asyncio.get_running_loop().time
            end = clock() + self._limits.close
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._limits.close / 2):
                    await self._restorer.until(lambda: not self._leases)
            await self._restorer.close(end - clock())

    async def _claim(self, wanted: Callable[[Entry], bool]) -> list[Entry]:
        """What is ours from here on; nothing is if this is cancelled."""
        claimed: list[Entry] = []
        try:
            return await in_thread(self._journal.claim, wanted, claimed)
        except BaseException:
            await in_thread(self._journal.release, *claimed)
            raise

    async def _tell_of_strangers(self) -> None:
        for entry in await in_thread(self._journal.entries):
            if entry.is_orphan and entry.name not in self._offloadables and entry.id not in self._strangers:
                self._strangers.add(entry.id)
                _LOG.debug(
                    "%s (%s) was put aside by an earlier run, and is not brought back: this one may not put it aside",
                    entry.name,
                    entry.what,
                )

    def _enter(self) -> None:
        self._leases += 1
        self._restorer.pause()

    def _leave(self) -> None:
        self._leases -= 1
        if not self._leases:
            self._restorer.resume(0.0 if self._closed else self._linger)

    async def _choose(self, ask: Ask) -> tuple[MemoryPlan | None, Supply, dict[str, Holding]]:
        """The plan, what it was made for, and what others hold; nobody is asked where nothing is short."""
        on_gpu = ask.footprint.on_gpu
        supply = await self._look.see(on_gpu, anew=bool(ask.failed))
        plan = None if ask.failed else ask.plan(supply, {})
        if plan is not None and not plan.reasons:
            return plan, supply, {}
        held = {} if self._closed else await self._mover.holdings()
        if held:
            supply = await self._look.see(on_gpu, anew=True)
        return ask.plan(supply, held), supply, held

    async def _make_room(self, ask: Ask, watch: _Stopwatch) -> Lease:
        if self._restorer.is_trying:
            watch.start()
            await self._restorer.make_way()
        plan, supply, held = await self._choose(ask)
        first, moved, notes = plan, list[str](), list[str]()
        while plan is not None and (wanted := [name for name in plan.evictions if name in held]):
            given = []
            for name in wanted:
                holding = held.pop(name)
                why_not = await self._mover.put_aside(name, holding, watch.start)
                if why_not is None:
                    moved.append(name)
                    given.append(holding)
                else:
                    notes.append(why_not)
            supply, missing = await self._see_it_free(ask, plan, supply, given)
            short = shortfall(missing)
            if short is not None:
                notes.append(short)
            if ask.failed and given and short is None:
                break  # the same flags with more room are the stricter plan
            again = ask.plan(supply, held)
            if again is None and given:
                break
            plan = again
        if plan is None or first is None:
            raise NoStricterPlanError
        # In the order of the configuration, with those that an earlier lease has put aside.
        aside = {each.entry.name for each in self._restorer.aside if each.entry.phase is not Phase.ABOUT_TO}
        plan = told(plan, first, moved, notes, [name for name in self._offloadables if name in aside])
        return Lease(plan, supply, watch.seconds)

    async def _see_it_free(
        self, ask: Ask, plan: MemoryPlan, before: Supply, given: list[Holding]
    ) -> tuple[Supply, tuple[int, int]]:
        """What is free once that has settled, and what is missing of the promised RAM and VRAM."""

        async def look() -> Supply:
            return await self._look.see(ask.footprint.on_gpu, anew=True)

        if not given:
            return await look(), (0, 0)
        promise = Promise.of(before, given)
        supply = await settle(look, promise, self._limits, lambda seen: ask.is_enough(plan, seen))
        return supply, (0, 0) if ask.is_enough(plan, supply) else promise.missing(supply)

    def _our_state(self, each: Aside) -> SavedState:
        retry_at = None if each.due is None else self._limits.wall() + each.due - self._limits.clock()
        return _state(each.entry, each.error, retry_at, is_ours=True)

    def _state_of_other(self, entry: Entry) -> SavedState:
        error = None
        if entry.is_orphan:
            error = f"{entry.name} is brought back at the next start."
            if entry.name not in self._offloadables:
                error = (
                    f"{entry.name} is brought back by a start that may put it aside: "
                    "add it again, or clear the saved state."
                )
        return _state(entry, error, None, is_ours=False)

    def _stay_in_loop(self) -> None:
        """All that runs belongs to the loop of the first use; another one could only wait for it in vain."""
        if not self._offloadables:
            return
        loop = asyncio.get_running_loop()
        if self._loop is None or self._loop.is_closed():
            if self._loop is not None:
                self._lock, self._closing, self._leases = asyncio.Lock(), asyncio.Lock(), 0
                self._restorer.change_loop()
            self._loop = loop
        if self._loop is not loop:
            raise ServerError(
                "Programs are put aside and brought back in another event loop.",
                hint="Use the resources within one asyncio.run(), or make others for this event loop.",
            )


class _Stopwatch:
    """Tells once that something moves, and how long that took."""

    def __init__(self, clock: Callable[[], float], tell: Callable[[], None] | None) -> None:
        self._clock, self._tell = clock, tell
        self._started: float | None = None

    def start(self) -> None:
        if self._started is None:
            self._started = self._clock()
            if self._tell is not None:
                self._tell()

    @property
    def seconds(self) -> float:
        return 0.0 if self._started is None else self._clock() - self._started


def _state(entry: Entry, error: str | None, retry_at: float | None, *, is_ours: bool) -> SavedState:
    return SavedState(entry.name, entry.what, entry.since, entry.attempts, retry_at, error, is_ours)
