"""One file on its way into the cache of huggingface_hub: counted, and its digest taken while it grows."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Self

from ._hub_parts import own_parts

if TYPE_CHECKING:
    from collections.abc import Callable

PIECE_BYTES = 1 << 20  # the library's own 10 MiB are seconds of a slow line


class StoppedError(Exception):
    """The transfer was told to stop."""


class Transfer:
    """One call of ``hf_hub_download``.

    Args:
        advance: Called in its thread with the number of bytes that came; what it raises ends the transfer.
        blob: What the file in the cache will be; None where it is not written from its beginning to its end.
    """

    def __init__(self, advance: Callable[[int], None], blob: Path | None) -> None:
        self._advance = advance
        self._blob = blob
        self._follower: _Follower | None = None

    def bar_class(self) -> type:
        """What the library takes for a class of progress bars."""
        transfer = self

        class Bar:
            n = 0

            def __init__(self, *_: object, total: int | None = None, initial: int = 0, **__: object) -> None:
                self.total = total
                transfer.begin(initial)

            def __enter__(self) -> Self:
                return self

            def __exit__(self, *_: object) -> None:
                pass

            def update(self, n: float | None = 1) -> None:
                transfer.add(int(n or 0))

            def ignore(self, *_: object, **__: object) -> None:
                """Whatever else a bar can be told."""

            close = refresh = reset = clear = update_transfer = set_transfer_postfix_str = ignore
            set_description = set_description_str = set_postfix = set_postfix_str = ignore

        return Bar

    def begin(self, initial: int) -> None:
        """Note that the transfer begins, with so many bytes from an earlier one."""
        if self._blob is not None and self._follower is None:
            parts = own_parts(self._blob.parent.glob(f"{self._blob.name}*.incomplete"))
            if len(parts) == 1:
                self._follower = _Follower(parts[0])
        self.add(initial)

    def add(self, count: int) -> None:
        """Note that so many bytes came; fewer than none where it begins anew."""
        if self._follower is not None:
            self._follower.grown(anew=count < 0)
        self._advance(count)

    def digest_of(self, path: str) -> str | None:
        """What was taken on the way, of the file that is now there; None where that must be read."""
        return None if self._follower is None else self._follower.finish(path)

    def close(self) -> None:
        """End what is left of it."""
        if self._follower is not None:
            self._follower.stop()


class _Follower:
    """Takes the SHA-256 of a file that another thread appends to."""

    def __init__(self, part: Path) -> None:
        self._part = part
        self._grown = threading.Event()
        self._epoch = 0
        self._ended = self._dropped = False
        self._result: tuple[int, int, int, int, str] | None = None
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def grown(self, *, anew: bool) -> None:
        if anew:
            self._epoch += 1
        self._grown.set()

    def stop(self) -> None:
        self._dropped = self._ended = True
        self._grown.set()
        self._thread.join()

    def finish(self, path: str) -> str | None:
        self._ended = True
        self._grown.set()
        self._thread.join()
        if self._result is None:
            return None
        *identity, digest = self._result
        found = Path(path).stat()
        # The very file that was read, as long as it was then, and not begun anew since.
        return digest if identity == [found.st_dev, found.st_ino, found.st_size, self._epoch] else None

    def _follow(self) -> None:
        buffer = memoryview(bytearray(PIECE_BYTES))
        with contextlib.suppress(OSError), self._part.open("rb", buffering=0) as file:
            epoch, digest = self._epoch, hashlib.sha256()
            while not self._dropped:
                self._grown.clear()
                ended = self._ended
                if epoch != self._epoch:
                    epoch, digest = self._epoch, hashlib.sha256()
                    file.seek(0)
                if count := file.readinto(buffer):
                    digest.update(buffer[:count])
                elif ended:
                    found = os.fstat(file.fileno())
                    self._result = (found.st_dev, found.st_ino, file.tell(), epoch, digest.hexdigest())
                    return
                else:
                    self._grown.wait(1.0)
