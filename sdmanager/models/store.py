"""Which models are installed: one record each, and what it takes to forget one without harm to the others."""

from __future__ import annotations

import contextlib
import json
import os
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from sdmanager.errors import InvalidRequestError, ModelChangedError, ModelNotFoundError, StorageError
from sdmanager.files import read_json, write_json

from ._deleting import delete_owned, places_of
from .installed import InstalledFile, InstalledModel, Origin

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

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
        kept: Files of the model that are still there: the user's own, and those that another model has, too.
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

    def add(self, model: InstalledModel) -> None:
        """List a model, in the place of one of the same name.

        Files of ours that only the former one had are deleted. What was fetched for another model, too, is ours to
        delete once the last of them goes.

        Raises:
            InvalidRequestError: It has a name that no model can have.
            StorageError: The record cannot be written.
        """
        with self._locked():
            self._put(model)

    def swap(self, model: InstalledModel, former: InstalledModel | None) -> bool:
        """List a model if what is listed under its name is still ``former``; whether it was done.

        Raises:
            InvalidRequestError: It has a name that no model can have.
            StorageError: The record cannot be written.
        """
        with self._locked():
            if self.find(model.name) != former:
                return False
            self._put(model)
            return True

    def remove(self, name: str) -> Removed:
        """Forget a model, and delete those of its files that are ours and that no other model has.

        Files that were imported by reference are never deleted. A record that cannot be read is taken away alone.

        Raises:
            ModelNotFoundError: No such model is installed.
            StorageError: The record, or a file, cannot be deleted.
        """
        path = self._record_of(name)
        with self._locked(none=path is None or not path.exists()):
            if path is None or not path.exists():
                raise not_installed(name)
            model = self._read(path)
            try:
                path.unlink()  # first: a model that lacks a file must not be listed
            except OSError as exc:
                raise StorageError(
                    f"The model {name[:100]!r} cannot be removed: {exc.strerror or exc}.",
                    details={"path": str(path)},
                ) from exc
            return self._delete(model.files) if model is not None else Removed(0, (), ())

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

    def _put(self, model: InstalledModel) -> None:
        path = self._record_of(model.name)
        if path is None:
            raise InvalidRequestError(
                f"No model can have the name {model.name[:100]!r}.",
                hint="Use letters, digits, '.', '_' and '-', at most 80 of them.",
            )
        former = self._read(path)
        if model.origin is Origin.PULLED:
            model = self._with_shared(model)
        write_json(path, model.to_json())
        if former is not None:
            with contextlib.suppress(StorageError):  # the new one is there, and that was asked for
                self._delete(former.files)

    def _with_shared(self, model: InstalledModel) -> InstalledModel:
        """The model, with those files as ours that were fetched by us for another one."""
        ours = {places_of(file.path)[0] for other in self.list() for file in other.files if file.owned}
        files = (replace(file, owned=file.owned or places_of(file.path)[0] in ours) for file in model.files)
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
        others = [self._read(path) or path for path in self._records()]
        named = frozenset(
            place
            for other in others
            if isinstance(other, InstalledModel)
            for file in other.files
            for place in places_of(file.path)
        )
        # A record that cannot be read, such as one of a newer release, may still name a file.
        unread = [_text(other) for other in others if not isinstance(other, InstalledModel)]
        freed, deleted, kept, failed = 0, [], [], []
        for file in files:
            unsure = any(_mentions(text, file.path) for text in unread)
            try:
                size = delete_owned(file.path, self._models_dir, named) if file.owned and not unsure else None
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
                f"The model is removed, but its file {failed[0][0].name!r} cannot be deleted: {failed[0][1]}.",
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
    try:
        found = file.path.stat()
    except FileNotFoundError:
        raise ModelNotFoundError(f"{what} is not there any more.", hint=again, details=details) from None
    except OSError as exc:
        raise ModelNotFoundError(f"{what} cannot be read: {exc.strerror}.", details=details) from exc
    if (found.st_size, found.st_mtime_ns) != (file.size, file.mtime_ns):
        raise ModelChangedError(
            f"{what} was changed since it was installed.",
            hint=f"Run 'sdmanager models verify {model.name}', which accepts it if its content is the same. Else: "
            f"{again[0].lower()}{again[1:]}",
            details={**details, "size": found.st_size, "expected": file.size},
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


def _text(record: Path) -> str | None:
    try:
        return record.read_bytes().decode("ascii", "replace")
    except OSError:
        return None


def _mentions(text: str | None, path: Path) -> bool:
    name = json.dumps(path.name)[1:]
    return text is None or f"/{name}" in text or f"\\\\{name}" in text
