"""What is shown while model files are fetched, copied or read again: one bar for all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NoReturn

from .bars import new_bar
from .output import counted, megabytes, note

if TYPE_CHECKING:
    from tqdm import tqdm

    from sdmanager.models import PullProgress

_TITLES: Final = {"downloading": "Downloading", "verifying": "Checking"}
_HEADLINES: Final = {
    "waiting": "Another process is fetching {model}: waiting for it",
    "planning": "Looking up {model}",
}
_ENDS: Final = {("downloading", "verifying"), ("verifying", "done")}


class TransferBar:
    """A bar over the bytes of all files together.

    Args:
        quiet: Show nothing.
    """

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._bar: tqdm[NoReturn] | None = None
        self._phase: str | None = None

    def show_pull(self, progress: PullProgress) -> None:
        """Draw how far a pull is."""
        if self._quiet:
            return
        if progress.phase != self._phase:
            # The last bytes of a phase are told with the next one.
            if (self._phase, progress.phase) in _ENDS and self._bar is not None and self._bar.total:
                self._show("", int(self._bar.total), int(self._bar.total))
            self.close()
            self._phase = progress.phase
            if progress.phase in _HEADLINES:
                note(_HEADLINES[progress.phase].format(model=progress.model))
            elif progress.phase == "downloading":
                note(f"Downloading {counted(progress.files, 'file')} ({megabytes(progress.total)})")
        if progress.phase in _TITLES:
            self._show(_TITLES[progress.phase], progress.done, progress.total)

    def show_bytes(self, done: int, total: int) -> None:
        """Draw how many bytes of all have been read."""
        if not self._quiet:
            self._show("Reading", done, total)

    def close(self) -> None:
        """End the bar's line."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _show(self, title: str, done: int, total: int) -> None:
        if self._bar is None:
            self._bar = new_bar(title, total, "B")
        self._bar.total = total or None
        self._bar.update(max(done - self._bar.n, 0))
