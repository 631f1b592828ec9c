from __future__ import annotations

import asyncio
import contextlib
import re
import threading
from typing import TYPE_CHECKING

from sdmanager.errors import InvalidRequestError

from ._types import Patience, Wanted

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ._transfer import Transfer
    from ._types import DownloadProgress

_SHA256 = re.compile(r"[0-9a-f]{64}")

# How long a cancelled download waits for its thread, which may be busy with a slow disk.
_STOP_SECONDS = 0.7


async def download(
    url: str,
    target: Path,
    *,
    sha256: str,
    size: int | None,
    on_progress: Callable[[DownloadProgress], None] | None = None,
    patience: Patience | None = None,
) -> Path:
    """Fetch a file and publish it under its name, whole and with this digest, or not at all.

    A target that has the digest already is returned without a word to the network; one with another digest
    stays until it is replaced. What an earlier call left unfinished is gone on with where the server can
    tell that it still has the same file (a strong ETag). Proxies and ``REQUESTS_CA_BUNDLE`` are taken from the
    environment.

    If cancelled: returns within a second; what has come stays beside the target for the next call.

    Args:
        url: An http or https address.
        target: Where the file goes; its folder is made at need.
        sha256: Of the whole file, 64 hex digits.
        size: Of the whole file in bytes, where it is known: then a server that has another one is refused before
            it sends anything.
        on_progress: Called on the event loop about ten times a second and at the end; what it raises ends the
            download.
        patience: How long to wait and how often to try.

    Returns:
        The target.

    Raises:
        DownloadError: The file cannot be had, or is not the one with this digest. ``details["reason"]`` is one of
            "unreachable", "interrupted", "status" (with ``status``), "mismatch" (with ``expected`` and ``actual``),
            "size", "redirect", "protocol", "certificate", "proxy" and "url".
        StorageError: The disk has too little room, or the folder cannot be written.
        InvalidRequestError: The digest or the size is none.
    """
    wanted = _wanted(url, target, sha256, size)
    call = _Call(wanted, patience or Patience(), on_progress)
    try:
        await call.finished()
    finally:
        await call.leave()
    return target


class _Call:
    """The thread of one download, seen from the event loop."""

    def __init__(
        self, wanted: Wanted, patience: Patience, on_progress: Callable[[DownloadProgress], None] | None
    ) -> None:
        self._wanted = wanted
        self._patience = patience
        self._on_progress = on_progress
        self._loop = asyncio.get_running_loop()
        self._stopped = threading.Event()
        self._transfer: Transfer | None = None
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._broke: asyncio.Future[None] = self._loop.create_future()
        # An executor's threads are waited for when the interpreter ends; this one may be stuck in a connect.
        threading.Thread(target=self._work, name="sdmanager-download", daemon=True).start()

    async def finished(self) -> None:
        """Wait for the end of the thread, or for the callback to raise."""
        await asyncio.wait((self._ended, self._broke), return_when=asyncio.FIRST_COMPLETED)
        if self._broke.done():
            self._broke.result()
        self._ended.result()

    async def leave(self) -> None:
        """Stop the thread if it still runs, and call back no more."""
        self._broke.cancel()
        if self._ended.done():
            return
        self._stopped.set()
        if self._transfer is not None:
            self._transfer.stop()
            if not self._transfer.abandon():
                await asyncio.wait((self._ended,), timeout=_STOP_SECONDS)

    def _work(self) -> None:
        from ._faults import StoppedError
        from ._transfer import Transfer

        error: BaseException | None = None
        report = None if self._on_progress is None else self._report
        try:
            self._transfer = Transfer(self._wanted, self._patience, self._stopped, report)
            self._transfer.run()
        except StoppedError:
            pass
        except BaseException as exc:  # noqa: BLE001 - raised again by whoever waits for the end
            error = exc
        self._call(self._end, error)

    def _call(self, function: Callable[..., None], *args: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(function, *args)

    def _end(self, error: BaseException | None) -> None:
        if error is None:
            self._ended.set_result(None)
        else:
            self._ended.set_exception(error)
            self._ended.exception()  # else asyncio complains where nobody waits any more

    def _report(self, progress: DownloadProgress) -> None:
        self._call(self._progress, progress)

    def _progress(self, progress: DownloadProgress) -> None:
        if self._broke.done() or self._on_progress is None:
            return
        try:
            self._on_progress(progress)
        except Exception as exc:  # noqa: BLE001 - raised again by whoever waits for the end
            self._broke.set_exception(exc)
            self._broke.exception()


def _wanted(url: str, target: Path, sha256: str, size: int | None) -> Wanted:
    digest = sha256.lower()
    if not _SHA256.fullmatch(digest):
        raise InvalidRequestError(
            f"The SHA-256 of {target.name!r} has to be 64 hex digits.", details={"sha256": sha256}
        )
    if size is not None and size < 0:
        raise InvalidRequestError(
            f"The size of {target.name!r} cannot be negative.", details={"size_bytes": size}
        )
    return Wanted(url, target.absolute(), digest, size)
