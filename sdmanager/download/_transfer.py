"""One download from beginning to end, blocking: what is there, what to ask for, and what to do when it fails."""

from __future__ import annotations

import errno
import os
import shutil
import threading
import time
from typing import TYPE_CHECKING

from sdmanager.errors import StorageError

from ._faults import FULL, RetryError, disk_full, failure, mismatch, not_writable, refused, wrong_size
from ._http import Connection
from ._parts import Part, digest_of
from ._rules import Answer, EncodedError, SizeRefusedError, Verdict, is_retried, judge, retry_after
from ._types import DownloadProgress

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ._types import Patience, Wanted

# Left free beside the file: a disk that is full to the last byte breaks more than a download.
MARGIN = 16 * 2**20

_CHUNK = 1 << 20
_PROGRESS_SECONDS = 0.1


class Transfer:
    """A download in the thread that calls `run`; `stop` and `abandon` are for another one."""

    def __init__(
        self,
        wanted: Wanted,
        patience: Patience,
        stopped: threading.Event,
        report: Callable[[DownloadProgress], None] | None,
    ) -> None:
        """Do nothing yet; `stopped` may be set already."""
        self._wanted = wanted
        self._patience = patience
        self._report = report
        self._reported = 0.0
        self._connection = Connection(wanted, patience, stopped)
        self._part: Part | None = None
        # Held by the thread except while it waits for an answer, which nothing can break off.
        self._hands = threading.Lock()

    def run(self) -> Path:
        """Fetch the file.

        Raises:
            DownloadError: It could not be fetched, or is another.
            StorageError: It could not be written.
            StoppedError: Told to stop.
        """
        with self._connection, self._hands:
            try:
                self._connection.check()
                if self._wanted.target.is_dir():
                    raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
                if not self._is_there():
                    self._wanted.target.parent.mkdir(parents=True, exist_ok=True)
                    self._part = Part.claim(self._wanted, self._connection.check)
                    self._fetch(self._part)
            except StorageError:
                raise
            except OSError as exc:
                self._judge_storage(exc)
            finally:
                if self._part is not None:
                    self._part.release()
        return self._wanted.target

    def stop(self) -> None:
        """End `run` with a `StoppedError`: at once, except while it waits for an answer."""
        self._connection.stop()

    def abandon(self) -> bool:
        """After `stop`: if the thread waits for an answer, leave the unfinished file to the next call already now.

        Returns:
            Whether that is done; if not, the thread is about to end by itself.
        """
        if not self._hands.acquire(blocking=False):
            return False
        try:
            if self._part is not None:
                self._part.release()
        finally:
            self._hands.release()
        return True

    def _is_there(self) -> bool:
        target, size = self._wanted.target, self._wanted.size
        try:
            if not target.is_file() or (size is not None and target.stat().st_size != size):
                return False
            return digest_of(target, self._connection.check) == self._wanted.sha256
        except OSError:
            return False

    def _judge_storage(self, exc: OSError) -> None:
        """Raise the right error, unless somebody else put the file there meanwhile."""
        part = self._part
        if exc.errno in FULL:
            try:
                free = self._free()
            except OSError:
                free = 0
            if part is not None:
                part.discard()  # else it would be what keeps the disk full
            raise disk_full(self._wanted, self._needed(part), free) from exc
        if part is None or not self._is_there():
            raise not_writable(self._wanted, exc) from exc

    def _fetch(self, part: Part) -> None:
        failures, best, may_start_over = 0, part.done, True
        while True:
            try:
                self._attempt(part)
            except RetryError as fault:
                failures = 1 if part.done > best else failures + 1
                best = max(best, part.done)
                if failures >= self._patience.attempts:
                    raise fault.error from None
                pause = self._patience.pause(failures) if fault.after is None else fault.after
                self._connection.wait(pause)
                continue
            finally:
                self._connection.hang_up()
            self._tell(part, last=True)
            actual = part.sha256
            if actual == self._wanted.sha256:
                part.publish()
                return
            if part.is_of_one_piece or not may_start_over:
                part.discard()
                raise mismatch(self._wanted, actual)
            may_start_over, best = False, 0
            part.restart()

    def _attempt(self, part: Part) -> None:
        if part.is_whole:
            return
        self._check_space(part)
        if part.etag is None and part.done:
            part.restart()
        answer = self._ask(part)
        if answer.verdict is Verdict.ASK_AGAIN:
            self._connection.hang_up()
            part.restart()
            answer = self._ask(part)
        if answer.verdict is Verdict.COMPLETE:
            part.total = part.done
            return
        if answer.verdict is Verdict.FROM_START:
            part.restart(answer.etag, answer.total)
        part.total = answer.total
        self._check_space(part)
        self._receive(part)

    def _ask(self, part: Part) -> Answer:
        self._hands.release()
        try:
            response = self._connection.ask(part.done, part.etag)
        finally:
            self._hands.acquire()
        self._connection.check()
        status, headers = response.status_code, response.headers
        try:
            answer = judge(status, headers, done=part.done, etag=part.etag, size=part.total)
        except SizeRefusedError as refusal:
            raise wrong_size(self._wanted, refusal.expected, refusal.actual) from None
        except EncodedError:
            why = "it encoded the file, which it was asked not to"
            raise RetryError(failure(self._wanted, "protocol", why)) from None
        if answer.verdict is not Verdict.REFUSED:
            return answer
        if status < 400:
            raise failure(self._wanted, "protocol", f"it gave an answer without the file (status {status})")
        if not is_retried(status):
            raise refused(self._wanted, status)
        after = retry_after(headers.get("retry-after"), time.time())
        if after is not None and after > self._patience.longest_retry_after:
            raise refused(self._wanted, status, retry_after=after)
        raise RetryError(refused(self._wanted, status), after)

    def _receive(self, part: Part) -> None:
        part.pieces += 1
        while not part.is_whole:
            # Never more than is due: a server that sends more is not listened to.
            due = _CHUNK if part.total is None else min(_CHUNK, part.total - part.done)
            data = self._connection.read(due)
            if data:
                part.write(data)
                self._tell(part)
            elif part.total is None:
                part.total = part.done
            else:
                why = f"the connection was cut after {part.done} of {part.total} bytes"
                raise RetryError(failure(self._wanted, "interrupted", why))

    def _tell(self, part: Part, *, last: bool = False) -> None:
        now = time.monotonic()
        if self._report is not None and (last or now - self._reported >= _PROGRESS_SECONDS):
            self._reported = now
            self._report(DownloadProgress(part.done, part.total, part.adopted))

    def _check_space(self, part: Part) -> None:
        needed, free = self._needed(part), self._free()
        if needed is not None and free < needed:
            raise disk_full(self._wanted, needed, free)

    def _needed(self, part: Part | None) -> int | None:
        total = self._wanted.size if part is None else part.total
        return None if total is None else total - (0 if part is None else part.done) + MARGIN

    def _free(self) -> int:
        return shutil.disk_usage(self._wanted.target.parent).free
