"""What a model is: a name, and files by the part that each plays."""

from __future__ import annotations

import contextlib
import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from sdmanager.errors import InvalidRequestError, ModelCorruptError, ModelNotFoundError

from .families import Family, ModelDefaults, Role, traits_of

if TYPE_CHECKING:
    from collections.abc import Mapping

HEAD_BYTES: Final = 9


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A model as the engine needs it.

    Attributes:
        name: Shown to the user and kept in results.
        files: Path of each part, made absolute. Either a whole ``model`` or a ``diffusion_model`` with what it needs;
            ``tae`` is the tiny autoencoder of previews, and decodes the picture too where no other VAE is there.
        defaults: What suits the model.
        family: Decides on flags; None: unknown, and the engine finds out.
        quantisations: What most of each file is in, such as ``F32``, of those of which it is known.
    """

    name: str
    files: Mapping[Role, Path]
    defaults: ModelDefaults = field(default_factory=ModelDefaults)
    family: Family | None = None
    quantisations: Mapping[Role, str | None] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        """Refuse a set of files that no engine could draw with."""
        if Role.MODEL not in self.files and Role.DIFFUSION_MODEL not in self.files:
            raise InvalidRequestError(
                "A model needs a whole model file or a diffusion model file, and neither is given.",
                hint="Use -m FILE, or --diffusion-model FILE with its text encoder and VAE.",
            )
        # Absolute, because the engine runs in a folder of its own.
        files = {role: Path(path).absolute() for role, path in self.files.items()}
        object.__setattr__(self, "files", MappingProxyType(files))
        object.__setattr__(self, "quantisations", MappingProxyType(dict(self.quantisations)))

    @property
    def has_own_decoder(self) -> bool:
        """Whether the picture is decoded by a real VAE, or needs no decoding, so that ``tae`` serves previews alone."""
        if self.family is not None and Role.VAE not in traits_of(self.family).parts:
            return True
        return Role.VAE in self.files or Role.MODEL in self.files

    @property
    def key(self) -> str:
        """Short and stable name of exactly these files, for what is learned about them."""
        digest = hashlib.sha256()
        for role, path in sorted(self.files.items()):
            digest.update(f"{role}={path}\n".encode("utf-8", "surrogateescape"))
        return f"{self.name}:{digest.hexdigest()[:12]}"

    def size_bytes(self) -> int:
        """Size of all files together; one that cannot be read counts nothing."""
        size = 0
        for path in self.files.values():
            with contextlib.suppress(OSError, ValueError):
                size += path.stat().st_size
        return size

    def check(self) -> None:
        """See that every file is there, readable and not empty.

        Raises:
            ModelNotFoundError: A file is missing, is a folder, or may not be read.
            ModelCorruptError: A file is empty.
        """
        for role, path in self.files.items():
            what = f"The {role.replace('_', ' ')} file {path.name!r}"
            details = {"role": str(role), "path": str(path)}
            try:
                size = path.stat().st_size
            except (FileNotFoundError, ValueError):  # a name with a NUL cannot exist
                raise ModelNotFoundError(f"{what} does not exist.", details=details) from None
            except OSError as exc:
                raise ModelNotFoundError(f"{what} cannot be read: {exc.strerror}.", details=details) from exc
            if path.is_dir():
                raise ModelNotFoundError(
                    f"{what} is a folder.", hint="Name the .safetensors or .gguf file in it.", details=details
                )
            if not os.access(path, os.R_OK):
                raise ModelNotFoundError(f"{what} may not be read.", details=details)
            if size == 0:
                raise ModelCorruptError(f"{what} is empty.", details=details)

    def check_formats(self, *, allow_pickle: bool = False) -> None:
        """See by its header that every file is whole, and can be the part that it was given as.

        Args:
            allow_pickle: Take checkpoints, unread.

        Raises:
            ModelCorruptError: One is cut short, damaged, or no model.
            ModelUnsafeError: One is a checkpoint.
            ModelUnsupportedError: One is something else, such as a LoRA.
            ModelNotFoundError: One cannot be read.
        """
        from ._composing import check_role
        from .inspection import inspect_file

        self.check()
        for role, path in self.files.items():
            check_role(role, path, inspect_file(path, allow_pickle=allow_pickle))


def are_weights(head: bytes) -> bool:
    """Whether a file that begins so is safetensors or GGUF; a checkpoint, which is a pickle, is neither.

    Args:
        head: Its first ``HEAD_BYTES``.
    """
    # safetensors: eight bytes for the length of a JSON header, then the header.
    return head.startswith(b"GGUF") or head[8:] == b"{"
