"""What a generation gives."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from sdmanager.errors import InvalidRequestError, OutputError
from sdmanager.files import write_whole

if TYPE_CHECKING:
    from PIL import Image

    from .plan import MemoryPlan

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
        png: The bytes of a PNG file, checked to be whole, of the size asked for, and not blank. The engine's
            own settings are in its ``parameters`` text chunk.
        seed: The seed that draws this picture again.
        width: Pixels.
        height: Pixels.
    """

    png: bytes = field(repr=False)
    seed: int
    width: int
    height: int

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
    """

    images: tuple[GeneratedImage, ...]
    time_taken: float
    timings: StageTimings
    model: str
    variant: str
    plan: MemoryPlan

    @property
    def image(self) -> GeneratedImage:
        """The first picture."""
        return self.images[0]
