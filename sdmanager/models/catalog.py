"""The catalogue: models that can be pulled by name, with the files of each by role."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from sdmanager.errors import InvalidRequestError

from .families import Family, ModelDefaults, Role
from .names import NAME_MAX, not_found

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

_BYTES_MAX: Final = 8 << 20
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_REPO: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")
_PATH: Final = re.compile(r"(?!.*(?:^|/)\.{1,2}(?:/|$))[^/\\:\x00-\x1f][^\\:\x00-\x1f]*")
_REVISION: Final = re.compile(r"[0-9a-f]{40}")
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")

_HINT: Final = "Correct the file, or unset SDMANAGER_CATALOG to use the catalogue of this package."


@dataclass(frozen=True, slots=True)
class CatalogFile:
    """One file of a repository on the hub.

    Attributes:
        role: The part that it plays.
        repo: ``ORG/NAME``.
        path: In the repository, with ``/`` between folders.
        revision: A commit; None: the newest of ``main``.
        size: Bytes, where known.
        approx_size: Bytes, about, where they are not.
        sha256: Of its content, in hex; None: the hub's own digest is the one to check.
        quantisation: What most of its bytes are in, such as ``Q4_0``, ``F16`` or ``F32``.
    """

    role: Role
    repo: str
    path: str
    revision: str | None = None
    size: int | None = None
    approx_size: int | None = None
    sha256: str | None = None
    quantisation: str | None = None

    @property
    def bytes(self) -> int:
        """Its size, or about; 0 where neither is known."""
        return self.size or self.approx_size or 0


@dataclass(frozen=True, slots=True)
class CatalogOption:
    """One way to have a model: a quantisation of it, with all of its parts.

    Attributes:
        name: After the colon: ``q4_0`` in ``sd-1.5:q4_0``.
        files: One per role; none of a model that is made here.
        gated: Whether a repository gives its files only to those who have agreed to its terms.
    """

    name: str
    files: tuple[CatalogFile, ...]
    gated: bool = False

    @property
    def size_bytes(self) -> int:
        """Of all files together, or about."""
        return sum(file.bytes for file in self.files)

    @property
    def sizes(self) -> dict[Role, int]:
        """Bytes of each file, or about, by role."""
        return {file.role: file.bytes for file in self.files}

    @property
    def quantisations(self) -> dict[Role, str | None]:
        """That of each file by role."""
        return {file.role: file.quantisation for file in self.files}


@dataclass(frozen=True, slots=True)
class CatalogModel:
    """A model that can be pulled.

    Attributes:
        name: By which it is called.
        title: As its makers call it.
        family: Its architecture.
        licence: SPDX identifier, or the licence's own name.
        non_commercial: Whether the licence forbids commercial use.
        defaults: What suits it.
        options: In order; the first, a small one, is what the bare name means.
        preview: The tiny autoencoder for previews; None where the hub has none.
    """

    name: str
    title: str
    family: Family
    licence: str
    non_commercial: bool
    defaults: ModelDefaults
    options: tuple[CatalogOption, ...]
    preview: CatalogFile | None = None

    @property
    def default_steps(self) -> int | None:
        """Sampling steps that suit it; None: the request's own default."""
        return self.defaults.steps

    @property
    def default_size(self) -> tuple[int, int] | None:
        """Width and height in pixels that suit it; None: the request's own default."""
        if self.defaults.width is None or self.defaults.height is None:
            return None
        return self.defaults.width, self.defaults.height

    @property
    def size_gb(self) -> float:
        """Size of the first option in GB (10^9 bytes), to one decimal."""
        return round(self.options[0].size_bytes / 1e9, 1)

    def option(self, name: str | None = None) -> CatalogOption | None:
        """The option of that name, or None where there is no such; without a name, the first."""
        if name is None:
            return self.options[0]
        return next((option for option in self.options if option.name == name), None)

    def name_of(self, option: CatalogOption) -> str:
        """The name by which an option is listed once it is installed: the bare name for the first."""
        return self.name if option == self.options[0] else f"{self.name}:{option.name}"

    def to_json(self) -> dict[str, object]:
        """Plain data for programs."""
        options = [
            {
                **_facts(option),
                "files": [_facts(file) for file in option.files],
                "size_bytes": option.size_bytes,
            }
            for option in self.options
        ]
        return {
            **_facts(self),
            "defaults": self.defaults.as_fields(),
            "options": options,
            "preview": _facts(self.preview) if self.preview else None,
        }


def _facts(value: CatalogModel | CatalogOption | CatalogFile) -> dict[str, Any]:
    return {name: item for name, item in asdict(value).items() if item is not None}


@dataclass(frozen=True, slots=True)
class Catalog:
    """All models that can be pulled.

    Attributes:
        models: By name, in order.
        names: Every name that can be pulled: of each model, then of each of its options.
    """

    models: Mapping[str, CatalogModel]
    names: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        """Collect the names once."""
        object.__setattr__(self, "models", MappingProxyType(dict(self.models)))
        names = [
            name
            for model in self.models.values()
            for name in (model.name, *(f"{model.name}:{option.name}" for option in model.options))
        ]
        object.__setattr__(self, "names", tuple(names))

    def find(self, name: str) -> tuple[CatalogModel, CatalogOption] | None:
        """The model and the option of exactly that name, or None."""
        base, colon, option_name = name.partition(":")
        model = self.models.get(base)
        option = model.option(option_name if colon else None) if model else None
        return (model, option) if model and option else None

    def get(self, name: str) -> tuple[CatalogModel, CatalogOption]:
        """The model and the option of exactly that name: ``sd-1.5``, or ``sd-1.5:q4_0``.

        Raises:
            ModelNotFoundError: There is none; the hint says which may have been meant.
        """
        found = self.find(name)
        if found is None:
            raise not_found(name, self.names)
        return found

    def smaller_than(self, size: int, *, like: str) -> list[tuple[str, int]]:
        """What may be suggested in the place of a model that is too large, with the bytes of each: the best first.

        Args:
            size: Of that model.
            like: Its name. Its own smaller options come before other models, and the larger before the smaller.
        """
        own, itself = self.models.get(like.partition(":")[0]), self.find(like)
        found = [
            (model is own, option.size_bytes, model.name_of(option))
            for model in self.models.values()
            for option in model.options
            if 0 < option.size_bytes < size and (model, option) != itself
        ]
        return [(name, bytes_) for _, bytes_, name in sorted(found, key=lambda each: each[:2], reverse=True)]


def load_catalog(path: Path | None = None) -> Catalog:
    """The catalogue of this package, or one of the user's own in the same format.

    Args:
        path: Of the user's own, which is read anew each time.

    Raises:
        InvalidRequestError: It cannot be read, or is not in that format; the message names the place.
    """
    if path is None:
        return _built_in()
    try:
        with path.open("rb") as file:
            data = file.read(_BYTES_MAX + 1)
    except (OSError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else "its name is not a path"
        raise _refusal(path, f"it cannot be read ({reason})") from exc
    if len(data) > _BYTES_MAX:
        raise _refusal(path, "it is too large")
    try:
        catalog = _parse(data)
        _check_defaults(catalog)
    except _FieldError as exc:
        raise _refusal(path, str(exc)) from exc
    return catalog


@cache
def _built_in() -> Catalog:
    return _parse(resources.files(__package__).joinpath("catalog.json").read_bytes())


def _refusal(path: Path, reason: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"The catalogue {path.name!r} cannot be used: {reason}.", hint=_HINT, details={"path": str(path)}
    )


class _FieldError(ValueError):
    """Something is not as it must be; a clause that begins with the place."""


def _parse(data: bytes) -> Catalog:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as exc:
        raise _FieldError("it is not JSON") from exc
    models = _fields(document, "the file", {"models"}, {"about"})["models"]
    if not isinstance(models, dict) or not models:
        raise _FieldError("models is no object with a model in it")
    return Catalog({name: _model(name, value) for name, value in models.items()})


def _model(name: str, value: object) -> CatalogModel:
    place = f"models.{name[:NAME_MAX]}"
    if len(name) > NAME_MAX or not _NAME.fullmatch(name):
        raise _FieldError(f"{place} is no name of a model")
    data = _fields(
        value, place, {"title", "family", "licence", "defaults", "options"}, {"non_commercial", "preview"}
    )
    entries = data["options"]
    if not isinstance(entries, list) or not entries:
        raise _FieldError(f"{place}.options is no list with an option in it")
    options = tuple(_option(entry, f"{place}.options[{index}]") for index, entry in enumerate(entries))
    if len({option.name for option in options}) < len(options):
        raise _FieldError(f"{place}.options has two of the same name")
    preview = data.get("preview")
    return CatalogModel(
        name,
        _text(data["title"], f"{place}.title"),
        Family(_one_of(data["family"], list(Family), f"{place}.family")),
        _text(data["licence"], f"{place}.licence"),
        _flag(data.get("non_commercial", False), f"{place}.non_commercial"),
        _defaults(data["defaults"], f"{place}.defaults"),
        options,
        None if preview is None else _file(preview, f"{place}.preview"),
    )


def _defaults(value: object, place: str) -> ModelDefaults:
    return ModelDefaults(**_fields(value, place, set(), {item.name for item in fields(ModelDefaults)}))


def _check_defaults(catalog: Catalog) -> None:
    from sdmanager.generation import ImageRequest

    for name, model in catalog.models.items():
        try:
            ImageRequest.model_validate({"prompt": "-", **model.defaults.as_fields()})
        except InvalidRequestError as exc:
            raise _FieldError(f"models.{name}.defaults: {exc.message.rstrip('.')}") from exc


def _option(value: object, place: str) -> CatalogOption:
    data = _fields(value, place, {"name", "files"}, {"gated"})
    name = _text(data["name"], f"{place}.name", _NAME)
    entries = data["files"]
    if not isinstance(entries, list):
        raise _FieldError(f"{place}.files is not a list")
    files = tuple(_file(entry, f"{place}.files[{index}]") for index, entry in enumerate(entries))
    roles = {file.role for file in files}
    if len(roles) < len(files):
        raise _FieldError(f"{place}.files has two of the same role")
    # The demo model alone has none, being made here.
    if files and not roles & {Role.MODEL, Role.DIFFUSION_MODEL}:
        raise _FieldError(f"{place}.files has neither a model nor a diffusion_model")
    return CatalogOption(name, files, _flag(data.get("gated", False), f"{place}.gated"))


def _file(value: object, place: str) -> CatalogFile:
    data = _fields(
        value, place, {"role", "repo", "path"}, {"revision", "size", "approx_size", "sha256", "quantisation"}
    )
    for name in ("size", "approx_size"):
        size = data.get(name)
        if name in data and (type(size) is not int or not 0 < size < 1 << 50):
            raise _FieldError(f"{place}.{name} is no number of bytes")
    if "size" not in data and "approx_size" not in data:
        raise _FieldError(f"{place} has neither size nor approx_size")
    optional = {
        name: _text(data[name], f"{place}.{name}", pattern)
        for name, pattern in (("revision", _REVISION), ("sha256", _DIGEST), ("quantisation", _NAME))
        if name in data
    }
    return CatalogFile(
        role=Role(_one_of(data["role"], list(Role), f"{place}.role")),
        repo=_text(data["repo"], f"{place}.repo", _REPO),
        path=_text(data["path"], f"{place}.path", _PATH),
        size=data.get("size"),
        approx_size=data.get("approx_size"),
        **optional,
    )


def _fields(
    value: object, place: str, required: Collection[str], optional: Collection[str]
) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _FieldError(f"{place} is not an object")
    for name in required:
        if name not in value:
            raise _FieldError(f"{place} has no {name}")
    for name in value:
        if name not in required and name not in optional:
            raise _FieldError(f"{place} has a field {name[:NAME_MAX]!r}, which is not known")
    return value


def _text(value: object, place: str, pattern: re.Pattern[str] | None = None) -> str:
    if not isinstance(value, str) or not value.strip() or len(value) > 500:
        raise _FieldError(f"{place} is no text of 1 to 500 characters")
    if pattern is not None and not pattern.fullmatch(value):
        raise _FieldError(f"{place} is not what it should be: {value[:NAME_MAX]!r}")
    return value


def _flag(value: object, place: str) -> bool:
    if not isinstance(value, bool):
        raise _FieldError(f"{place} is neither true nor false")
    return value


def _one_of(value: object, known: Collection[str], place: str) -> str:
    if not isinstance(value, str) or value not in known:
        raise _FieldError(f"{place} is none of {', '.join(known)}")
    return value
