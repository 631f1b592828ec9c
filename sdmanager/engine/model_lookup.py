"""The models that a generator draws with: looked up by name, and again once a file of them is another one or gone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sdmanager.errors import SDManagerError
from sdmanager.models import DEMO_NAME, ModelFiles, named_model, resolve_model

from .fitting import weights_of

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from sdmanager.models import Role
    from sdmanager.settings import Settings


@dataclass(slots=True)
class Found:
    """A model as it was looked up.

    Attributes:
        files: Of the model.
        state: Of these files then.
        weights: Bytes of each part once it is loaded.
        fits: Whether they were seen to fit the memory, or need not.
    """

    files: ModelFiles
    state: tuple[object, ...]
    weights: Mapping[Role, int]
    fits: bool = False


class ModelLookup:
    """Finds models, and keeps what it found; may be used in several threads at once.

    Two at the same time may look up the same model twice; what is kept is whole.

    Args:
        own: What the generator was made with: a name, a path, ``ModelFiles``, or None for the demo model. Its name
            means it and nothing else, also where a model of that name is installed.
        settings: Says where models are kept.
    """

    def __init__(self, own: str | os.PathLike[str] | ModelFiles | None, settings: Settings) -> None:
        self._given, self._settings = own, settings
        self._own: Found | None = None
        self._named: dict[str, Found] = {}

    def known(self, name: str | None) -> Found | None:
        """What was found last under exactly the model's own name; None: of the generator's own. Takes no time."""
        if name is None or (self._own is not None and self._own.files.name == name):
            return self._own
        return self._named.get(name)

    def find(self, name: str | None = None) -> Found:
        """A model, checked: its files are there, and of one that is named each can be what it was installed as.

        Blocking. The headers are read once; after that the record and the state of the files.

        Args:
            name: Of an installed model, the demo model, or the generator's own; never a path. None: its own.

        Raises:
            ModelError: See ``resolve_model`` and ``ModelFiles.check_formats``.
            InvalidRequestError: This is no name.
            StorageError: The demo model cannot be written.
        """
        if name is None or self._means_own(name):
            return self._find_own()
        # Each time: the model may have been removed, and other files be called so.
        files = named_model(name, self._settings)
        state, known = _state_of(files), self._named.get(files.name)
        if known is not None and (known.files, known.state) == (files, state):
            return known
        files.check_formats(allow_pickle=self._settings.allow_pickle)
        found = self._named[files.name] = Found(files, state, weights_of(files))
        return found

    def _find_own(self) -> Found:
        known = self._own
        if known is not None and _state_of(known.files) == known.state:
            return known
        files = resolve_model(self._given, self._settings)
        found = self._own = Found(files, _state_of(files), weights_of(files))
        return found

    def _means_own(self, name: str) -> bool:
        if self._own is not None:
            own = self._own.files.name
        elif self._given is None:
            own = DEMO_NAME
        elif isinstance(self._given, ModelFiles):
            own = self._given.name
        else:
            try:
                own = self._find_own().files.name
            except SDManagerError:  # others can be drawn with all the same
                return False
        return own.casefold() == name.casefold()


def _state_of(model: ModelFiles) -> tuple[object, ...]:
    """Equal as long as its files are the same, as far as their size and time tell."""
    states: list[object] = []
    for path in model.files.values():
        try:
            status = path.stat()
        except OSError as exc:
            states.append(exc.errno)
        else:
            states.append((status.st_size, status.st_mtime_ns, status.st_ino))
    return tuple(states)
