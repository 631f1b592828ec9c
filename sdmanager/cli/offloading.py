"""``--offload``: who is put aside while pictures are drawn, and when."""

from __future__ import annotations

import argparse
import contextlib
import logging
import math
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from sdmanager.errors import InvalidRequestError, StorageError

from .aside import LLAMA_SWAP, OLLAMA, aside_now, facts_of, is_left_over, tell_left_over
from .options import UNSET, settings_of
from .output import note

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from sdmanager.resources import Offloadable, OffloadingConfig, ResourceOrchestrator, SavedState
    from sdmanager.settings import Settings

_ADDRESSES: Final = {OLLAMA: "http://127.0.0.1:11434", LLAMA_SWAP: "http://127.0.0.1:8080"}
_SUFFIX: Final = ".toml"
_SHOWN_MAX: Final = 60
_DOUBLES_HINT: Final = "Name them in a settings file, each with a name."
_HINT: Final = (
    "Use ollama, ollama=URL, llama-swap=URL, or the path of a settings file, whose name ends with .toml."
)


def add_offload(parser: argparse.ArgumentParser) -> None:
    """Add the options that `offloading_of` reads."""
    group = parser.add_argument_group("room in memory")
    group.add_argument(
        "--offload", metavar="WHAT", action="append", default=UNSET,
        help="put aside while pictures are drawn that do not fit beside it, and brought back: ollama, ollama=URL, "
        "llama-swap=URL, or FILE.toml, which can say more; more than one may be given",
    )  # fmt: skip
    group.add_argument(
        "--offload-threshold", metavar="PERCENT", type=_percent, default=UNSET,
        help="of RAM and of VRAM, above which it is; 75",
    )  # fmt: skip


def offloading_of(given: dict[str, object], settings: Settings) -> OffloadingConfig:
    """Who is put aside, and when; of several files, the last says when, and the option has the last word.

    Raises:
        InvalidRequestError: There is nothing like that, or a file cannot be used.
    """
    from sdmanager.files import expanded
    from sdmanager.resources import OffloadingConfig, load_offloading, refuse_doubles

    config = OffloadingConfig()
    made: list[Offloadable] = []
    wanted = given.get("offload", ())
    for text in wanted if isinstance(wanted, list) else ():
        path = _path_of(str(text))
        if path is None:
            made.append(_named(str(text)))
        else:
            config = load_offloading(expanded(path), settings)
            made.extend(config.offloadables)
    try:
        refuse_doubles(made)
    except InvalidRequestError as exc:
        exc.hint = _DOUBLES_HINT
        raise
    percent = given.get("offload_threshold")
    threshold = percent / 100 if isinstance(percent, float) else config.threshold
    return replace(config, offloadables=tuple(made), threshold=threshold)


class Room:
    """Who makes room for the pictures of one command, and what is not back at its end.

    Args:
        orchestrator: Who makes room; None where nothing was said.
        names: Of all that it may bring back.
        quiet: Say nothing.

    Attributes:
        left: What is aside and has nobody left to bring it back; known at the end.
    """

    def __init__(
        self, orchestrator: ResourceOrchestrator | None, names: frozenset[str], *, quiet: bool
    ) -> None:
        self.orchestrator = orchestrator
        self.left: tuple[SavedState, ...] = ()
        self._names, self._quiet = names, quiet
        self._reasons: dict[str, str] = {}

    @property
    def facts(self) -> dict[str, object]:
        """For the JSON of a result: what is not back, if anything."""
        told = [facts_of(state) | {"error": self._reason(state)} for state in self.left]
        return {"aside": told} if told else {}

    def hear(self) -> None:
        """Remember why something is not back: who gives up in the end does not know it any more."""
        for state in self.orchestrator.saved_state() if self.orchestrator else ():
            if state.is_ours and state.error:
                self._reasons[state.name] = state.error

    async def leave(self, *, cancelled: bool) -> None:
        """Bring back what is aside, also from before, and say what is not.

        Args:
            cancelled: Leave to others what is from before.

        Cancelling ends the waiting.
        """
        if self.orchestrator is None:
            return
        states = self.orchestrator.saved_state()
        before = not cancelled and any(self._is_from_before(state) for state in states)
        due = [each.name for each in states if each.is_ours or (before and self._is_from_before(each))]
        if due:
            again = " (Ctrl-C once more leaves that to the next command)" if cancelled else ""
            self._note(f"Bringing back {', '.join(dict.fromkeys(due))} …{again}")
        try:
            if before:
                await self._recover(self.orchestrator)
            await self.orchestrator.aclose()
        finally:
            self._tell(self.orchestrator)

    async def _recover(self, orchestrator: ResourceOrchestrator) -> None:
        import asyncio

        try:
            await orchestrator.recover()
        except BaseException:
            # Closing would try everything once more, and be waited for.
            with contextlib.suppress(TimeoutError, asyncio.CancelledError):
                async with asyncio.timeout(0):
                    await orchestrator.aclose()
            raise

    def _is_from_before(self, state: SavedState) -> bool:
        return is_left_over(state) and state.name in self._names

    def _tell(self, orchestrator: ResourceOrchestrator) -> None:
        self.left = tuple(state for state in orchestrator.saved_state() if is_left_over(state))
        for name, state in {each.name: each for each in self.left if each.name in self._names}.items():
            reason = self._reason(state).rstrip(".")
            self._note(f"{name} is not back: {reason}. The next command with the same --offload tries again.")

    def _reason(self, state: SavedState) -> str:
        if state.name not in self._names:
            return state.error or ""
        return self._reasons.get(state.name, "Waiting for it was ended.")

    def _note(self, text: str) -> None:
        if not self._quiet:
            note(text)


@contextlib.asynccontextmanager
async def room_of(given: dict[str, object], *, quiet: bool) -> AsyncIterator[Room]:
    """Who makes room for the pictures of one command; in the end all are back, also what an earlier run left.

    A llama-server is left out: it is a child of ``serve``, which brings it back.

    Raises:
        InvalidRequestError: As ``offloading_of``.
    """
    from asyncio import CancelledError

    room = await _made(given, quiet=quiet)
    try:
        yield room
    except CancelledError:
        await room.leave(cancelled=True)
        raise
    except BaseException:
        await room.leave(cancelled=False)
        raise
    else:
        await room.leave(cancelled=False)


async def _made(given: dict[str, object], *, quiet: bool) -> Room:
    from sdmanager.threads import in_thread

    if not {"offload", "offload_threshold"} & given.keys():
        room = Room(None, frozenset(), quiet=quiet)
        # Without a home folder a hosted service draws all the same.
        with contextlib.suppress(StorageError):
            states = await in_thread(aside_now, settings_of(given))
            room.left = tuple(state for state in states if is_left_over(state))
            if not quiet:
                tell_left_over(states, ())
        return room
    from sdmanager.resources import LlamaServer, ResourceOrchestrator

    settings = settings_of(given)
    offloading = await in_thread(offloading_of, given, settings)
    wanted = [each for each in offloading.offloadables if not isinstance(each, LlamaServer)]
    names = frozenset(each.name for each in wanted)
    room = Room(None, names, quiet=quiet)
    room.orchestrator = ResourceOrchestrator(
        settings, wanted, threshold=offloading.threshold, linger=offloading.linger, on_change=room.hear
    )
    if not quiet:
        others = [each.name for each in offloading.offloadables if each.name not in names]
        for name in others:
            note(f"{name} is started by serve only, so it is left out.")
        tell_left_over(await in_thread(room.orchestrator.saved_state), {*names, *others})
    return room


@contextlib.contextmanager
def logs_as_notes(*, quiet: bool) -> Iterator[None]:
    """Show warnings of the log as notes; quiet: not at all."""
    ours = logging.getLogger("sdmanager")
    handler: logging.Handler = logging.NullHandler() if quiet else LogNotes()
    handler.setLevel(logging.WARNING)
    ours.addHandler(handler)
    try:
        yield
    finally:
        ours.removeHandler(handler)


class LogNotes(logging.Handler):
    """Shows each record on stderr.

    Args:
        in_full: With what stands in logs at debug alone.
    """

    def __init__(self, *, in_full: bool = False) -> None:
        super().__init__()
        self._in_full = in_full

    def emit(self, record: logging.LogRecord) -> None:
        """Show one."""
        from sdmanager.logbook import level_of, message_of

        try:
            level, message = level_of(record), message_of(record, in_full=self._in_full)
            note(f"sdmanager: {message}" if level == "info" else f"sdmanager: {level}: {message}")
        except Exception:  # noqa: BLE001 - a record that cannot be shown may stop nobody
            self.handleError(record)


def _path_of(text: str) -> str | None:
    """The file that was named, or None."""
    kind = text.partition("=")[0]
    if kind in _ADDRESSES:
        return None
    return text if text.lower().endswith(_SUFFIX) or os.path.lexists(text) else None


def _named(text: str) -> Offloadable:
    from sdmanager.resources import LlamaSwap, Ollama

    kind, mark, url = text.partition("=")
    if kind == OLLAMA and bool(mark) == bool(url):
        return Ollama(url or None)
    if kind == LLAMA_SWAP and url:
        return LlamaSwap(url)
    if kind in _ADDRESSES:
        plain = f"--offload {OLLAMA}, or " if kind == OLLAMA else ""
        raise InvalidRequestError(
            f"--offload {kind} needs an address.", hint=f"Write {plain}--offload {kind}={_ADDRESSES[kind]}"
        )
    raise InvalidRequestError(
        f"There is nothing to put aside called {text[:_SHOWN_MAX]!r}.", hint=_HINT, details={"offload": text}
    )


def _percent(text: str) -> float:
    try:
        value = float(text.strip().removesuffix("%"))
    except ValueError:
        value = math.nan
    if not 1 <= value <= 100:
        raise argparse.ArgumentTypeError(f"{text!r} is no percentage from 1 to 100")
    return value
