"""Which models are installed: one record each, and what it takes to forget one without harm to the others."""

from __future__ import annotations

import contextlib
import json
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sdmanager.errors import InvalidRequestError, ModelChangedError, ModelNotFoundError, StorageError
from sdmanager.files import read_json, write_json

from ._deleting import Named, delete_owned, is_ours_still, places_of
from ._pull_journal import JOURNALS_NAME, used_by_pulls
from .installed import InstalledFile, InstalledModel, Origin

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from sdmanager.settings import Settings

RECORDS_NAME: Final = "installed"
"""Folder of the records, in that of the models."""

_LOCK_SECONDS: Final = 60.0

# A name that could lead out of the folder, or is none of ours, has no record.
_NAME: Final = re.compile(r"\w[\w.-]{0,79}(:\w[\w.-]{0,79})?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Removed:
    """What the removal of a model did.

    Attributes:
        freed_bytes: Size of what was deleted.
        deleted: Files that are gone.
        kept: Files of the model that are still there: the user's own, those that another model has, too, or that a
            record may name that cannot be read, and what is not the copy any more that was made.
    """

    freed_bytes: int
    deleted: tuple[Path, ...]
    kept: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class Listing:
    """What the records say.

    Attributes:
        models: By name. Whether their files are still there is not looked at.
        unreadable: Names of models whose record cannot be read; ``remove`` takes such a record away.
    """

    models: tuple[InstalledModel, ...]
    unreadable: tuple[str, ...]


class ModelStore:
    """The installed models of a data folder.

    Several processes may use it at once. Names are not told apart by case.

    Args:
        settings: Says where models are kept.
    """

    def __init__(self, settings: Settings) -> None:
        self._models_dir = settings.models_dir
        self._folder = settings.models_dir / RECORDS_NAME
        self._journals = settings.state_dir / JOURNALS_NAME

    def read(self) -> Listing:
        """Everything that is written down, read once."""
        found = [(path, self._read(path)) for path in self._records()]
        models = [model for _, model in found if model is not None]
        return Listing(
            tuple(sorted(models, key=lambda model: model.name.lower())),
            tuple(_name_of(path) for path, model in found if model is None),
        )

    def list(self) -> list[InstalledModel]:
        """All models whose record can be read, by name. Whether their files are still there is not looked at."""
        return [*self.read().models]

    def find(self, name: str) -> InstalledModel | None:
        """The model of exactly this name, whatever its case; None where there is none. Reads one file."""
        path = self._record_of(name)
        return None if path is None else self._read(path)

    def find_only_option(self, name: str) -> InstalledModel | None:
        """The one installed option ``name:OPTION`` of a model; None where there is none, or more than one."""
        if ":" in name or self._record_of(name) is None:
            return None
        start = f"{_key_of(name)}@"
        options = [path for path in self._records() if path.name.startswith(start)]
        return self._read(options[0]) if len(options) == 1 else None

    def is_unreadable(self, name: str) -> bool:
        """Whether there is a record of that name that cannot be read."""
        path = self._record_of(name)
        return path is not None and os.path.lexists(path) and self._read(path) is None

    def add(self, model: InstalledModel) -> InstalledModel:
        """List a model, in the place of one of the same name.

        Files of ours that only the former one had are deleted. What was fetched for another model, too, or is a copy
        of ours, is ours to delete once the last of them goes.

        Returns:
            What was written down.

        Raises:
            InvalidRequestError: It has a name that no model can have, it could not be read again, or it was pulled
                and the one in its place has copies of the user's files.
            StorageError: The record cannot be written.
        """
        with self._locked():
            return self._put(model)

    def swap(self, model: InstalledModel, former: InstalledModel | None) -> InstalledModel | None:
        """List a model if what is listed under its name is still ``former``.

        Returns:
            What was written down; None where something else is listed, and nothing was done.

        Raises:
            InvalidRequestError: As of ``add``.
            StorageError: The record cannot be written.
        """
        with self._locked():
            return self._put(model) if self.find(model.name) == former else None

    def remove(self, name: str) -> Removed:
        """Forget a model, and delete those of its files that are ours and that no other model has.

        Files that were imported by reference are never deleted, nor what the user has put in the place of a copy, nor
        what a pull uses. A copy that was only touched is read to see that. A record that cannot be read is taken away
        alone; while there is one, nothing is deleted that it may name.

        Raises:
            ModelNotFoundError: No such model is installed.
            StorageError: The record cannot be deleted; or a file, and the model is still listed.
        """
        path = self._record_of(name)
        with self._locked(none=path is None or not os.path.lexists(path)):
            if path is None or not os.path.lexists(path):
                raise not_installed(name)
            model = self._read(path)
            try:
                path.unlink()  # first: a model that lacks a file must not be listed
            except OSError as exc:
                raise StorageError(
                    f"The model {name[:100]!r} cannot be removed: {exc.strerror or exc}.",
                    details={"path": str(path)},
                ) from exc
            if model is None:
                return Removed(0, (), ())
            try:
                return self._delete(model.files)
            except StorageError:
                with contextlib.suppress(StorageError):  # 'remove' can be run again
                    write_json(path, model.to_json())
                raise

    @contextlib.contextmanager
    def undisturbed(self) -> Iterator[None]:
        """For the length of the block no other process, or thread, lists or removes a model.

        Raises:
            StorageError: The list cannot be locked.
        """
        with self._locked():
            yield

    def needed(self, *, but: Path | None = None) -> Named:
        """Places of all files that a record names, or that a pull uses which has not ended, or was killed.

        Args:
            but: The journal of a pull that does not count.
        """
        # First: a pull lists its model, and then closes its journal.
        pulled = used_by_pulls(self._journals, but=but)
        others = [self._read(path) or path for path in self._records()]
        models = [other for other in others if isinstance(other, InstalledModel)]
        unread = [other for other in others if not isinstance(other, InstalledModel)]
        return Named([file.path for other in models for file in other.files], unread, map(Path, pulled))

    def size_bytes(self, models: Iterable[InstalledModel] | None = None) -> int:
        """Size on the disk of all files of these models, or of all; one that several have, or that is linked, counts
        once.
        """
        seen: dict[tuple[int, int], int] = {}
        for model in self.read().models if models is None else models:
            for file in model.files:
                with contextlib.suppress(OSError):
                    found = file.path.stat()
                    seen[found.st_dev, found.st_ino] = found.st_size
        return sum(seen.values())

    def check(self, model: InstalledModel) -> None:
        """See that every file is there and was not changed since, by its size and time; reads none.

        Raises:
            ModelNotFoundError: A file is not there any more.
            ModelChangedError: A file is another one now.
        """
        for file in model.files:
            check_file(model, file)

    def _records(self) -> Sequence[Path]:
        try:
            entries = sorted(self._folder.iterdir())
        except OSError:
            return []
        return [path for path in entries if path.suffix == ".json" and not path.name.startswith(".")]

    def _record_of(self, name: str) -> Path | None:
        return self._folder / f"{_key_of(name)}.json" if _NAME.fullmatch(name) else None

    def _read(self, path: Path) -> InstalledModel | None:
        model = InstalledModel.from_json(read_json(path))
        # Renamed by hand, it would be found under one name and be called another.
        return model if model is not None and self._record_of(model.name) == path else None

    def _put(self, model: InstalledModel) -> InstalledModel:
        path = self._record_of(model.name)
        if path is None:
            raise InvalidRequestError(
                f"No model can have the name {model.name[:100]!r}.",
                hint="Use letters, digits, '.', '_' and '-', at most 80 of them.",
            )
        former = self._read(path)
        if former is not None and model.origin is Origin.PULLED and _has_copies(former):
            raise taken_by_import(former)
        model = self._with_shared(model)
        data = model.to_json()
        if InstalledModel.from_json(json.loads(json.dumps(data))) != model:
            raise InvalidRequestError(
                f"The model {model.name!r} cannot be listed: its record could not be read again.",
                details={"name": model.name},
            )
        write_json(path, data)
        if former is not None:
            with contextlib.suppress(StorageError):  # the new one is there, and that was asked for
                self._delete(former.files)
        return model

    def _with_shared(self, model: InstalledModel) -> InstalledModel:
        """The model, with those files as ours that we have fetched, or copied, for another one.

        Of an imported one, only copies in the folder of models: what the user names in the hub's cache stays.
        """
        root = places_of(self._models_dir / "_")[0].parent
        places = {file.path: places_of(file.path)[0] for file in model.files if not file.owned}
        shared = {
            path for path, place in places.items() if model.origin is Origin.PULLED or root in place.parents
        }
        if not shared:
            return model
        ours = {places_of(file.path)[0] for other in self.list() for file in other.files if file.owned}
        files = (
            replace(file, owned=file.owned or (file.path in shared and places[file.path] in ours))
            for file in model.files
        )
        return replace(model, files=tuple(files))

    @contextlib.contextmanager
    def _locked(self, *, none: bool = False) -> Iterator[None]:
        from filelock import FileLock, Timeout

        if none:  # nothing is written, and no folder is made
            yield
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self._folder / ".lock", thread_local=False)
            lock.acquire(timeout=_LOCK_SECONDS, poll_interval=0.01)
        except Timeout:
            raise StorageError(
                "Another process holds the list of installed models.", hint="Try again when it has ended."
            ) from None
        except (OSError, NotImplementedError) as exc:
            raise StorageError(
                f"The list of installed models cannot be written: {getattr(exc, 'strerror', None) or exc}.",
                details={"path": str(self._folder)},
            ) from exc
        try:
            yield
        finally:
            lock.release()

    def _delete(self, files: Iterable[InstalledFile]) -> Removed:
        """Delete what is ours of files that a record named which is gone now."""
        named = self.needed()
        freed, deleted, kept, failed = 0, [], [], []
        for file in files:
            size = None
            try:
                if file.owned and places_of(file.path)[0] not in named and _is_as_it_was(file):
                    size = delete_owned(file.path, self._models_dir, named)
            except OSError as exc:
                failed.append((file.path, exc.strerror or str(exc)))
                continue
            if size is not None:
                freed += size
                deleted.append(file.path)
            elif os.path.lexists(file.path):
                kept.append(file.path)
        if failed:
            raise StorageError(
                f"The file {failed[0][0].name!r} of the model cannot be deleted: {failed[0][1]}.",
                hint="Run 'sdmanager models remove' again when that is mended: the model is listed until then.",
                details={"paths": [str(path) for path, _ in failed], "freedBytes": freed},
            )
        return Removed(freed, tuple(deleted), tuple(kept))


def check_file(model: InstalledModel, file: InstalledFile) -> None:
    """See that a file is there and was not changed since, by its size and time.

    Raises:
        ModelNotFoundError: It is not there any more.
        ModelChangedError: It is another one now.
    """
    what = f"The {file.role.replace('_', ' ')} file {file.path.name!r} of the model {model.name!r}"
    details = {"name": model.name, "role": str(file.role), "path": str(file.path)}
    again = remedy_of(model)
    accept = (
        f"Run 'sdmanager models verify {model.name}', which accepts it if its content is the same. Else: "
    )
    try:
        found = file.path.stat()
    except FileNotFoundError:
        raise ModelNotFoundError(f"{what} is not there any more.", hint=again, details=details) from None
    except OSError as exc:
        raise ModelNotFoundError(f"{what} cannot be read: {exc.strerror}.", details=details) from exc
    if (found.st_size, found.st_mtime_ns) != (file.size, file.mtime_ns):
        raise ModelChangedError(
            f"{what} was changed since it was installed.",
            hint=again if file.sha256 is None else f"{accept}{again[0].lower()}{again[1:]}",
            details={**details, "size": found.st_size, "expected": file.size},
        )


def taken_by_import(model: InstalledModel) -> InvalidRequestError:
    """The error of a pull under the name of a model that was imported."""
    what = "its copies in the folder of models, and no other file" if _has_copies(model) else "no file"
    return InvalidRequestError(
        f"A model that was imported has the name {model.name!r}.",
        hint=f"Remove it first with 'sdmanager models remove {model.name}', which deletes {what}.",
        details={"name": model.name},
    )


def not_installed(name: str) -> ModelNotFoundError:
    """The error of a name that no installed model has."""
    return ModelNotFoundError(
        f"The model {name[:100]!r} is not installed.",
        hint="'sdmanager models list' shows what is.",
        details={"name": name},
    )


def remedy_of(model: InstalledModel) -> str:
    """What to do about a file that is not as it was."""
    if model.origin is Origin.PULLED:
        return f"Run 'sdmanager models pull {model.name} --force' to fetch it again."
    return "Import the model again, or put the file back."


def _key_of(name: str) -> str:
    # Not all systems allow a colon in a file's name, and some do not tell case apart.
    return name.lower().replace(":", "@")


def _name_of(record: Path) -> str:
    return record.name.removesuffix(".json").replace("@", ":")


def _has_copies(model: InstalledModel) -> bool:
    return model.origin is Origin.IMPORTED and any(file.owned for file in model.files)


def _is_as_it_was(file: InstalledFile) -> bool:
    if file.repo is not None:  # what was fetched has its content in its name
        return True
    try:
        return is_ours_still(file)
    except FileNotFoundError:
        return False
