"""``--ready-file``: a file that is there while the server answers, for a parent process to wait on."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

from sdmanager.client.ready_file import pid_in, writer_lives
from sdmanager.errors import OutputError
from sdmanager.files import write_whole
from sdmanager.generation import check_writable

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType
    from typing import Self


class ReadyFile:
    """The file, as a context manager: on entering a stale one goes, on leaving our own.

    A killed server leaves its file: the ``pid`` in it tells whether its process still runs.

    Args:
        path: Where; None: there is none, and nothing is done.

    Raises:
        OutputError: On entering: the folder is missing or not writable, or the file is another one or that of a
            server that runs; it is left as it is.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def __enter__(self) -> Self:
        if self._path is not None:
            check_writable(self._path)
            self._remove_stale(self._path)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._path is not None and pid_in(self._path) == os.getpid():
            try:
                self._path.unlink(missing_ok=True)
            except OSError:  # such as a folder that is read-only by now; the pid in the file tells
                return

    def write(self, facts: dict[str, object]) -> None:
        """Write the file, whole.

        Args:
            facts: What stands in it; ``pid`` must be this process.

        Raises:
            OutputError: It cannot be written.
        """
        if self._path is not None:
            write_whole(self._path, json.dumps(facts).encode() + b"\n", durable=False, error=OutputError)

    @staticmethod
    def _remove_stale(path: Path) -> None:
        try:
            # A parent may have made an empty one, to have a name of its own.
            is_ours = path.is_file() and (not path.stat().st_size or pid_in(path) is not None)
            if not is_ours and (path.exists() or path.is_symlink()):
                raise OutputError(
                    f"The file {path.name!r} is there already, and was not written by a server.",
                    hint="Name another file: this one would be replaced.",
                    details={"path": str(path)},
                )
            if is_ours and writer_lives(path):
                raise OutputError(
                    f"The file {path.name!r} is that of a server that runs.",
                    hint="Stop that server, or name another file.",
                    details={"path": str(path)},
                )
            path.unlink(missing_ok=True)
        except OutputError:
            raise
        except OSError as exc:
            raise OutputError(
                f"The file {path.name!r} cannot be replaced: {exc.strerror or exc}.",
                details={"path": str(path)},
            ) from exc
