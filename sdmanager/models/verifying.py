"""Reading every file of an installed model again, to see whether it still is what was installed."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from sdmanager.errors import ModelChangedError, ModelError, ModelNotFoundError
from sdmanager.threads import in_thread

from ._reading import digest, metered
from .inspection import inspect_file
from .store import ModelStore, not_installed, remedy_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from sdmanager.settings import Settings

    from ._reading import Meter
    from .installed import InstalledFile, InstalledModel


async def verify_model(
    name: str, settings: Settings, *, on_progress: Callable[[int, int], None] | None = None
) -> InstalledModel:
    """Read every file of an installed model, and see that each is there, whole, and as it was installed.

    A file whose content is the same although its time differs is accepted, and is known by its new time from then on.
    A digest that was not known yet, as of files imported where they lie, is written down.

    Args:
        name: Of the model.
        settings: Says where models are kept.
        on_progress: Called on the event loop with the bytes that are read, and all.

    Returns:
        The model, as it is written down now.

    Raises:
        ModelNotFoundError: There is no such model, or a file of it is gone.
        ModelChangedError: A file has other content than what was installed.
        ModelCorruptError: A file is damaged.
        StorageError: What was found out cannot be written down.

    The error is that of the first bad file; ``details["files"]`` has them all. Cancelling ends the reading.
    """
    store = ModelStore(settings)
    model = await in_thread(store.find, name)
    if model is None:
        raise not_installed(name)

    def work(meter: Meter) -> tuple[list[InstalledFile], list[ModelError]]:
        good, bad = [], []
        for file in model.files:
            try:
                good.append(_verified(model, file, meter))
            except ModelError as exc:
                bad.append(exc)
        return good, bad

    good, bad = await metered(model.size_bytes, on_progress, work)
    if bad:
        bad[0].details["files"] = [
            {"path": error.details.get("path"), "code": error.code, "message": error.message} for error in bad
        ]
        raise bad[0]
    verified = dataclasses.replace(model, files=tuple(good))
    if verified != model:
        await in_thread(store.swap, verified, model)  # else it was removed or replaced meanwhile
    return verified


def _verified(model: InstalledModel, file: InstalledFile, meter: Meter) -> InstalledFile:
    """The file as it is now, if it is what was installed."""
    what = f"The {file.role.replace('_', ' ')} file {file.path.name!r} of the model {model.name!r}"
    details = {"name": model.name, "role": str(file.role), "path": str(file.path)}
    try:
        before = file.path.stat()
        if before.st_size != file.size:
            raise ModelChangedError(
                f"{what} has {before.st_size:,} bytes in the place of {file.size:,}.",
                hint=remedy_of(model),
                details=details,
            )
        inspect_file(file.path, allow_pickle=True)  # it was allowed when it was installed
        sha256 = digest(file.path, meter)
        after = file.path.stat()
    except FileNotFoundError:
        raise ModelNotFoundError(
            f"{what} is not there any more.", hint=remedy_of(model), details=details
        ) from None
    except OSError as exc:
        raise ModelNotFoundError(f"{what} cannot be read: {exc.strerror or exc}.", details=details) from exc
    same_time = before.st_mtime_ns == file.mtime_ns
    written_to = (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns)
    if written_to or (sha256 != file.sha256 and not (same_time and file.sha256 is None)):
        raise ModelChangedError(
            f"{what} was changed since it was installed.",
            hint=remedy_of(model),
            details={**details, "sha256": sha256, "expected": file.sha256},
        )
    return dataclasses.replace(file, mtime_ns=after.st_mtime_ns, sha256=sha256)
