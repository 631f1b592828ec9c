"""What a weights file is, by its header alone: its format, the part it can play, its family and quantisation.

Nothing but the header is read, however large the file, and a hostile header can take neither memory nor time.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, BinaryIO, Final, NoReturn

from sdmanager.errors import ModelCorruptError, ModelNotFoundError, ModelUnsafeError, ModelUnsupportedError

from ._gguf import MAGIC, read_gguf
from ._header import DamagedError, UnreadableError
from ._safetensors import read_safetensors
from ._tensors import FileKind as FileKind
from ._tensors import classify
from .families import Family, Role

if TYPE_CHECKING:
    from pathlib import Path

_HEAD: Final = 4096
_ZIP: Final = b"PK\x03\x04"
_PICKLES: Final = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
_LFS: Final = b"version https://git-lfs"


class FileFormat(StrEnum):
    """How weights are written down."""

    GGUF = "gguf"
    SAFETENSORS = "safetensors"
    CHECKPOINT = "checkpoint"


@dataclass(frozen=True, slots=True)
class FileFacts:
    """What a weights file says about itself.

    Attributes:
        format: A checkpoint is a pickle, and is not looked into: the facts below are then not known.
        size: Bytes.
        role: The part that it can play; None for what is no part of a model, and then ``kind`` says what it is.
        kind: What it is, to people.
        family: Of a diffusion model, a whole model, or a LoRA that shows it.
        parts: What is in it.
        quantisation: The type that most of its bytes are of, such as ``Q8_0``, ``F16`` or ``F8_E4M3``.
        tensors: How many; 0 for a checkpoint.
        parameters: Numbers in all of them together; 0 for a checkpoint.
        takes_guidance: Whether it has an input for a distilled guidance scale, as FLUX.1 dev has and schnell has not.
    """

    format: FileFormat
    size: int
    role: Role | None
    kind: FileKind
    family: Family | None
    parts: frozenset[Role]
    quantisation: str | None
    tensors: int
    parameters: int
    takes_guidance: bool


def inspect_file(path: Path, *, allow_pickle: bool = False) -> FileFacts:
    """Read what a weights file says about itself.

    It takes milliseconds, and up to a second for a header that is made to be slow. Nothing can cancel it.

    Args:
        path: A GGUF or safetensors file.
        allow_pickle: Take a checkpoint as a whole model of an unknown family, unread.

    Raises:
        ModelNotFoundError: It is not there, is no file, or cannot be read.
        ModelCorruptError: It is empty, cut short, damaged, or no model.
        ModelUnsafeError: It is a checkpoint, which is a pickle, and those are not allowed.
        ModelUnsupportedError: It is of a kind that no engine reads.
    """
    try:
        # Before it is opened, because opening a pipe waits for a writer.
        try:
            mode = path.stat().st_mode
        except ValueError:  # a name with a NUL cannot exist
            raise FileNotFoundError from None
        if not stat.S_ISREG(mode):
            _refuse_what_is_no_file(path, mode)
        with path.open("rb") as file:
            return _inspect(path, file, allow_pickle=allow_pickle)
    except FileNotFoundError:
        raise ModelNotFoundError(f"The file {path.name!r} does not exist.", details=_of(path)) from None
    except OSError as exc:
        message = f"The file {path.name!r} cannot be read: {exc.strerror or exc}."
        raise ModelNotFoundError(message, details=_of(path)) from exc


def _inspect(path: Path, file: BinaryIO, *, allow_pickle: bool) -> FileFacts:
    head = file.read(_HEAD)
    size = file.seek(0, 2)
    try:
        if head.startswith(MAGIC):
            format_, header = FileFormat.GGUF, read_gguf(file, size)
        elif head[8:9] == b"{":
            format_, header = FileFormat.SAFETENSORS, read_safetensors(file, size)
        else:
            return _checkpoint(path, head, size, allow_pickle=allow_pickle)
    except DamagedError as exc:
        raise ModelCorruptError(f"The file {path.name!r} {exc}.", details=_of(path)) from None
    except UnreadableError as exc:
        raise ModelUnsupportedError(f"The file {path.name!r} {exc}.", details=_of(path)) from None
    if not header.shapes:
        raise ModelCorruptError(f"The file {path.name!r} has no tensors in it.", details=_of(path))
    if header.pieces > 1:
        raise ModelUnsupportedError(
            f"The file {path.name!r} is one of {header.pieces:,} pieces of a model.",
            hint="Get the model as one file, or join the pieces with llama-gguf-split --merge.",
            details=_of(path),
        )
    verdict = classify(header)
    return FileFacts(
        format=format_,
        size=size,
        role=verdict.role,
        kind=verdict.kind,
        family=verdict.family,
        parts=verdict.parts,
        quantisation=header.quantisation,
        tensors=len(header.shapes),
        parameters=header.parameters,
        takes_guidance=verdict.takes_guidance,
    )


def _checkpoint(path: Path, head: bytes, size: int, *, allow_pickle: bool) -> FileFacts:
    # torch.save writes a zip whose first entry is the pickle; before 2020, a bare pickle.
    if not (head.startswith(_PICKLES) or (head.startswith(_ZIP) and b".pkl" in head)):
        raise ModelCorruptError(f"The file {path.name!r} {_what_else(head)}.", details=_of(path))
    if not allow_pickle:
        raise ModelUnsafeError(
            f"The file {path.name!r} is a checkpoint, which is a pickle: opening it can run any program.",
            details=_of(path),
        )
    return FileFacts(
        format=FileFormat.CHECKPOINT,
        size=size,
        role=Role.MODEL,
        kind=FileKind.UNKNOWN,
        family=None,
        parts=frozenset(),
        quantisation=None,
        tensors=0,
        parameters=0,
        takes_guidance=False,
    )


def _what_else(head: bytes) -> str:
    if not head:
        return "is empty"
    if head.startswith(_LFS):
        return "is a pointer of Git LFS and not the model itself"
    if head.lstrip()[:5].lower() in {b"<!doc", b"<html"}:
        return "is a web page and no model"
    if MAGIC.startswith(head) or len(head) <= 8:
        return "is cut short"
    return "is neither safetensors nor GGUF nor a checkpoint"


def _refuse_what_is_no_file(path: Path, mode: int) -> NoReturn:
    if stat.S_ISDIR(mode):
        raise ModelNotFoundError(
            f"{path.name!r} is a folder.",
            hint="Name the .safetensors or .gguf file in it.",
            details=_of(path),
        )
    raise ModelNotFoundError(f"{path.name!r} is no regular file.", details=_of(path))


def _of(path: Path) -> dict[str, object]:
    return {"path": str(path)}
