"""What a generation gives."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from sdmanager.errors import InvalidRequestError, OutputError, StorageError
from sdmanager.files import write_whole

if TYPE_CHECKING:
    from PIL import Image

    from .plan import MemoryPlan
    from .request import ImageRequest

_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}


def check_image_suffix(path: Path) -> str:
    """Pillow's name of the format that the path's ending asks for.

    Raises:
        InvalidRequestError: The ending names no format that can be written.
    """
    try:
        return _FORMATS[path.suffix.lower()]
    except KeyError:
        raise InvalidRequestError(
            f"No image format is known for the ending {path.suffix!r}.",
            hint=f"Use one of {', '.join(_FORMATS)}.",
        ) from None


def check_writable(path: Path) -> None:
    """See that a file can be written there, without writing it: found out before drawing, not after.

    Raises:
        OutputError: Its folder is missing or not writable, or the path is a folder.
    """
    folder = path.parent
    try:
        is_folder, folder_exists, folder_is_folder = path.is_dir(), folder.exists(), folder.is_dir()
    except OSError as exc:
        raise OutputError(
            f"The file {path.name!r} cannot be written: {exc.strerror}.", details={"path": str(path)}
        ) from exc
    if is_folder:
        problem = "it is a folder"
    elif not folder_exists:
        problem = f"the folder {folder.name!r} does not exist"
    elif not folder_is_folder:
        problem = f"{folder.name!r} is no folder"
    elif not os.access(folder, os.W_OK | os.X_OK):
        problem = f"the folder {folder.name!r} is not writable"
    else:
        return
    raise OutputError(f"The file {path.name!r} cannot be written: {problem}.", details={"path": str(path)})


def without_pictures(request: ImageRequest) -> ImageRequest:
    """The same request as a result keeps it: without the pictures that it started from."""
    bare: dict[str, object] = {"init_image": None, "mask_image": None}
    if request.init_image is not None:
        # Set, whoever set it: it is what is left of there having been a picture.
        bare["strength"] = request.strength
    return request.model_copy(update=bare)


def settings_of(request: ImageRequest) -> dict[str, object]:
    """What is shown of how a picture was drawn: fields by their names on the wire, ready for JSON.

    Args:
        request: Of the picture, or what its result kept.

    Returns:
        All that is known, without input images and previews. ``strength`` is there only where the drawing started
        from a picture.
    """
    left_out = {"init_image", "mask_image", "previews"}
    if request.init_image is None and "strength" not in request.model_fields_set:
        left_out.add("strength")
    return request.model_dump(by_alias=True, exclude=left_out, exclude_none=True)


@dataclass(frozen=True, slots=True)
class ImageData:
    """Encoded image bytes with what is needed to show them.

    Attributes:
        data: The bytes of an image file.
        format: ``png``, ``jpeg`` or ``webp``.
        width: Pixels.
        height: Pixels.
    """

    data: bytes = field(repr=False)
    format: str
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class GeneratedImage:
    """One finished picture.

    Attributes:
        source: The bytes of a PNG file, or the path of one that a server keeps for as long as it keeps the result.
        seed: The seed that draws this picture again.
        width: Pixels.
        height: Pixels.
    """

    source: bytes | Path = field(repr=False)
    seed: int
    width: int
    height: int

    @property
    def png(self) -> bytes:
        """The bytes of a PNG file, checked to be whole, of the size asked for, and not blank.

        The engine's own settings are in its ``parameters`` text chunk.

        Raises:
            StorageError: The file is not there any more.
        """
        if isinstance(self.source, bytes):
            return self.source
        try:
            return self.source.read_bytes()
        except OSError as exc:
            raise StorageError(
                f"The image cannot be read: {exc.strerror or exc}.",
                hint="A server keeps results for a limited time: fetch them sooner.",
            ) from exc

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the picture; the ending of the path says the format (png, jpg, jpeg, webp).

        The file is there whole or not at all; one that is replaced stays untouched until then.

        Raises:
            InvalidRequestError: The ending names no format that can be written.
            OutputError: The file cannot be written.
        """
        target = Path(path)
        image_format = check_image_suffix(target)
        if image_format == "PNG":
            data = self.png
        else:
            buffer = io.BytesIO()
            self.to_pil().convert("RGB").save(buffer, format=image_format, quality=95)
            data = buffer.getvalue()
        write_whole(target, data, error=OutputError)
        return target

    def to_pil(self) -> Image.Image:
        """The picture as a Pillow image."""
        from PIL import Image

        return Image.open(io.BytesIO(self.png))


@dataclass(frozen=True, slots=True)
class StageTimings:
    """Seconds spent in each stage; what the engine did not report is 0."""

    loading: float = 0.0
    diffusion: float = 0.0
    decoding: float = 0.0
    offloading: float = 0.0


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """What a run was seen to use; None is unknown.

    Attributes:
        ram: Peak resident memory of the engine, in bytes.
        vram: Peak of the graphics memory that the engine had, in bytes.
        weights: What the engine itself says its weights take, in bytes.
    """

    ram: int | None = None
    vram: int | None = None
    weights: int | None = None


@dataclass(frozen=True, slots=True)
class PreviewTimings:
    """What the previews of a generation took; all of it beside the engine, which is not kept waiting.

    Attributes:
        count: Previews published.
        first_after: Seconds from the request to the first one, or None where there was none.
        reading: Seconds spent waiting for and reading the engine's preview file.
        encoding: Seconds spent decoding, scaling and encoding.
    """

    count: int = 0
    first_after: float | None = None
    reading: float = 0.0
    encoding: float = 0.0


@dataclass(frozen=True, slots=True)
class GenerationResult:
    """The pictures and how they came about.

    Attributes:
        images: In the order of their seeds.
        time_taken: Seconds, from the request to the last picture checked.
        timings: Seconds per stage.
        model: Name of the model.
        variant: Variant of the engine (cpu, cuda, vulkan, …, custom).
        plan: Memory flags that were used.
        previews: What the previews took, or None where none were asked for; of the start that drew the pictures, where
            the engine had to start once more.
        memory: What the engine used, or None where that was not looked at.
        out_of_memory: Plans with which the engine ran out of memory before this one.
        request: What was drawn, with the model's defaults and the seed, but without input images, which would be kept
            for as long as the result; None where it is not known, as after a restart of the server.
    """

    images: tuple[GeneratedImage, ...]
    time_taken: float
    timings: StageTimings
    model: str
    variant: str
    plan: MemoryPlan
    previews: PreviewTimings | None = None
    memory: MemoryUse | None = None
    out_of_memory: tuple[MemoryPlan, ...] = ()
    request: ImageRequest | None = field(default=None, repr=False)

    @property
    def image(self) -> GeneratedImage:
        """The first picture."""
        return self.images[0]
