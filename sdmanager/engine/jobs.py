"""The private folder of one run: made, recorded, removed; and swept at start-up if its owner died."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from typing import TYPE_CHECKING, Final, Self

from sdmanager.errors import StorageError
from sdmanager.files import read_json, write_whole
from sdmanager.process import ProcessRecord

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from types import TracebackType

_RECORD_NAME: Final = "owner.json"

# A folder without a readable record belongs to nobody once it is older than any start-up can take.
_UNOWNED_SECONDS: Final = 60.0


class JobFolder:
    """A folder that only its owner may read, gone when the block is left.

    Args:
        parent: Where; made at need.
        job_id: Its name.

    Raises:
        StorageError: On entering: it cannot be made.
    """

    def __init__(self, parent: Path, job_id: str) -> None:
        self.path = parent / job_id
        self._owner = ProcessRecord.of(os.getpid())

    def __enter__(self) -> Self:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.mkdir(mode=0o700)
            self._record(None)
        except StorageError:
            shutil.rmtree(self.path, ignore_errors=True)
            raise
        except OSError as exc:
            raise StorageError(
                f"The working folder of the generation cannot be made: {exc.strerror or exc}.",
                details={"path": str(self.path), "errno": exc.errno},
            ) from exc
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self.path, ignore_errors=True)

    def write_inputs(self, files: Mapping[str, bytes]) -> None:
        """Put what the engine is to read into the folder.

        Raises:
            StorageError: It cannot be written.
        """
        for name, data in files.items():
            write_whole(self.path / name, data, durable=False)

    def link_files(self, name: str, files: Mapping[str, Path]) -> None:
        """Put files into a folder in this one, by links where the system allows them.

        Raises:
            StorageError: They can neither be linked nor copied.
        """
        folder = self.path / name
        try:
            folder.mkdir()
            for link, file in files.items():
                _link(folder / link, file)
        except OSError as exc:
            raise StorageError(f"A LoRA cannot be made ready: {exc.strerror or exc}.") from exc

    def started(self, pid: int) -> None:
        """Record the child, so that whoever finds this folder after a crash can end it."""
        with contextlib.suppress(StorageError):
            self._record(ProcessRecord.of(pid))

    def _record(self, child: ProcessRecord | None) -> None:
        record = {
            "owner": self._owner.to_json() if self._owner else None,
            "child": child.to_json() if child else None,
        }
        write_whole(self.path / _RECORD_NAME, json.dumps(record).encode(), durable=False)


def sweep_jobs(parent: Path) -> int:
    """End and remove what runs of dead owners left behind.

    A child is killed only if its pid, start time and executable are still those that were recorded.

    Args:
        parent: Folder of the job folders.

    Returns:
        Folders removed.
    """
    removed = 0
    try:
        folders = [entry for entry in parent.iterdir() if entry.is_dir()]
    except OSError:
        return 0
    for folder in folders:
        record = read_json(folder / _RECORD_NAME)
        entries = record if isinstance(record, dict) else {}
        owner = ProcessRecord.from_json(entries.get("owner"))
        abandoned = not owner.is_running() if owner is not None else _age(folder) > _UNOWNED_SECONDS
        if abandoned:
            child = ProcessRecord.from_json(entries.get("child"))
            if child is not None:
                child.kill_group()
            shutil.rmtree(folder, ignore_errors=True)
            removed += 1
    return removed


def _link(link: Path, file: Path) -> None:
    for make in (link.symlink_to, link.hardlink_to):  # Windows reserves the first for some users
        try:
            make(file)
        except OSError:
            continue
        return
    shutil.copyfile(file, link)


def _age(folder: Path) -> float:
    try:
        return time.time() - folder.stat().st_mtime
    except OSError:
        return 0.0
