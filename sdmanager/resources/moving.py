"""Asks programs what they hold, and has them let go of it."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from sdmanager.errors import StorageError
from sdmanager.threads import in_thread

from .journal import Entry, Phase
from .restoring import is_cancelled, why

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .journal import Journal
    from .limits import Limits
    from .offloadable import Holding, Offloadable
    from .restoring import Aside, Restorer

_LOG = logging.getLogger("sdmanager.resources")


class _TakenError(Exception):
    """Somebody else has put it aside at the same moment."""


class Mover:
    """Puts programs aside, one at a time.

    Args:
        journal: Where each is written down before it is asked for anything.
        restorer: Takes over what was put aside, or half put aside.
        offloadables: By name.
        limits: Times.
    """

    def __init__(
        self,
        journal: Journal,
        restorer: Restorer,
        offloadables: Mapping[str, Offloadable],
        limits: Limits,
    ) -> None:
        self._journal, self._restorer = journal, restorer
        self._offloadables, self._limits = offloadables, limits

    async def holdings(self) -> dict[str, Holding]:
        """What programs hold now, asked all at once; those that hold nothing, or do not say, are left out.

        So are those that somebody else who lives has put aside: they are that one's to bring back.
        """
        elsewhere = await self.elsewhere()
        asked = [each for name, each in self._offloadables.items() if name not in elsewhere]
        found = await asyncio.gather(*map(self._holding, asked))
        return {each.name: holding for each, holding in zip(asked, found, strict=True) if holding is not None}

    async def elsewhere(self) -> set[str]:
        """Names of programs that others who live have put aside."""
        ours = {each.entry.id for each in self._restorer.aside}
        return await in_thread(self._journal.elsewhere, ours)

    async def put_aside(self, name: str, holding: Holding, tell: Callable[[], None]) -> str | None:
        """Have a program let go. Whether it does or not, the restorer has it from here on.

        Args:
            name: Of the program.
            holding: What it holds.
            tell: Called once it is written down, and before it is asked for anything.

        Returns:
            Why it was not put aside, a sentence; None: it was.
        """
        try:
            aside = await self._write_down(name, holding)
        except StorageError as exc:
            _LOG.warning("%s is not put aside, for it cannot be written down: %s", name, exc)
            return f"{name} is left alone, because it cannot be written down how it is brought back."
        except _TakenError:
            return f"{name} is left alone, because another program has it put aside."
        tell()
        try:
            async with asyncio.timeout(self._limits.put_aside):
                await self._offloadables[name].put_aside(holding)
        except (Exception, asyncio.CancelledError) as exc:  # whatever it is, the picture is drawn without
            if is_cancelled(exc):
                raise
            reason = why(exc, f"{name} could not be put aside")
            _LOG.warning("%s is not put aside: %s", name, reason)
            return reason
        aside.entry = replace(aside.entry, phase=Phase.ASIDE)
        await in_thread(self._journal.note, aside.entry)
        self._restorer.tell()
        return None

    async def _write_down(self, name: str, holding: Holding) -> Aside:
        before = self._restorer.of(name)
        unfinished = before is not None and before.entry.phase is not Phase.ASIDE
        if before is not None and unfinished and holding.is_part_of(before.entry.what):
            # It has let go of half of it, or half of it is back, and its entry knows the whole.
            before.entry = replace(before.entry, phase=Phase.ABOUT_TO)
            await in_thread(self._journal.write, before.entry)
            return before
        attempts = 0 if before is None else before.entry.attempts
        entry = Entry(
            name, holding.what, holding.state, self._journal.owner, self._limits.wall(), attempts=attempts
        )
        # First, so that it is not forgotten if this is cancelled.
        aside = self._restorer.keep(entry, before)
        try:
            await in_thread(self._journal.write, entry)
        except StorageError:
            self._restorer.drop(aside)
            raise
        if name in await self.elsewhere():  # of two at once, both may withdraw, but never both go on
            self._restorer.drop(aside)
            await in_thread(self._journal.remove, entry)
            raise _TakenError
        if before is not None:  # the user has loaded something since: that is what is to come back
            self._restorer.drop(before)
            await in_thread(self._journal.remove, before.entry)
        return aside

    async def _holding(self, offloadable: Offloadable) -> Holding | None:
        try:
            async with asyncio.timeout(self._limits.holding):
                return await offloadable.holding()
        except (Exception, asyncio.CancelledError) as exc:  # who cannot be asked cannot be put aside
            if is_cancelled(exc):
                raise
            _LOG.warning("%s", why(exc, f"{offloadable.name} does not say what it holds"))
            return None
