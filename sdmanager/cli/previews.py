"""Previews on the command line: kept in a folder, and made into one animation."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sdmanager.errors import InvalidRequestError, OutputError

from .output import numbered

if TYPE_CHECKING:
    from PIL import Image

    from sdmanager.generation import Event, GeneratedImage, GenerationResult, Preview, PreviewOptions

_FORMATS: Final = {".webp": "WEBP", ".gif": "GIF"}
_FRAME_MS: Final = 150
_LAST_FRAME_MS: Final = 2000


class PreviewKeeper:
    """Takes the previews of a run and does with them what the options say.

    Args:
        options: What to ask the engine for; None: no previews.
        folder: Where the previews are kept, or None.
        timelapse: The animation to make, or None.
    """

    def __init__(self, options: PreviewOptions | None, folder: Path | None, timelapse: Path | None) -> None:
        self.options = options
        self._folder = folder
        self._timelapse = timelapse
        self._kept: list[Path] = []
        self._frames: dict[int, list[bytes]] = {}
        self._animations: list[Path] = []

    @classmethod
    def from_options(cls, method: object, folder: object, timelapse: object, stride: object) -> PreviewKeeper:
        """From the command line's values, each None where it was not given.

        Raises:
            InvalidRequestError: The options contradict each other, or the animation's ending is unknown.
        """
        from sdmanager.generation import PreviewFormat, PreviewMethod, PreviewOptions

        kept = Path(str(folder)) if folder is not None else None
        film = Path(str(timelapse)) if timelapse is not None else None
        if kept is None and film is None:
            if method not in {None, "none"} or stride is not None:
                raise InvalidRequestError(
                    "Previews were asked for, but not where to put them.",
                    hint="Add --preview-dir DIR to keep them, or --timelapse FILE.webp to make an animation.",
                )
            return cls(None, None, None)
        if method == "none":
            raise InvalidRequestError(
                "--preview none leaves nothing for --preview-dir or --timelapse.",
                hint="Leave --preview out, or choose proj, tae or vae.",
            )
        if film is not None and film.suffix.lower() not in _FORMATS:
            raise InvalidRequestError(
                f"No animation format is known for the ending {film.suffix!r}.", hint="Use .webp or .gif."
            )
        options = PreviewOptions(
            method=PreviewMethod(str(method)) if method is not None else PreviewMethod.AUTO,
            format=PreviewFormat.PNG,
            stride=stride,
        )
        return cls(options, kept, film)

    def check_targets(self, pictures: list[Path]) -> None:
        """See that the animations can be written and are no file of the pictures.

        Raises:
            InvalidRequestError: An animation would replace a picture.
            OutputError: An animation cannot be written.
        """
        from sdmanager.generation import check_writable

        films = self._films(len(pictures))
        for film in films:
            check_writable(film)
        if {film.absolute() for film in films} & {picture.absolute() for picture in pictures}:
            raise InvalidRequestError(
                "The picture and the timelapse would be the same file.", hint="Give --timelapse another name."
            )

    def make_folder(self) -> None:
        """Make the folder of the previews.

        Raises:
            OutputError: It cannot be made.
        """
        if self._folder is not None:
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
            except OSError as exc:
                raise OutputError(
                    f"The folder {self._folder.name!r} for the previews cannot be made: {exc.strerror}."
                ) from exc

    def _films(self, count: int) -> list[Path]:
        return numbered(self._timelapse, count) if self._timelapse is not None else []

    def take(self, event: Event) -> None:
        """Keep an event that is a preview.

        Raises:
            OutputError: It cannot be written.
        """
        from sdmanager.files import write_whole
        from sdmanager.generation import Preview

        if not isinstance(event, Preview):
            return
        if self._timelapse is not None:
            self._frames.setdefault(event.image_index, []).append(event.image.data)
        if self._folder is not None:
            path = self._folder / _name(event)
            write_whole(path, event.image.data, durable=False, error=OutputError)
            self._kept.append(path)

    def finish(self, result: GenerationResult) -> None:
        """Make the animation, one for each image.

        Raises:
            OutputError: It cannot be written.
        """
        from sdmanager.files import write_whole

        films = self._films(len(result.images))
        for index, (image, target) in enumerate(zip(result.images, films, strict=False), start=1):
            data = _animate(self._frames.get(index, []), image, _FORMATS[target.suffix.lower()])
            write_whole(target, data, error=OutputError)
            self._animations.append(target)

    def describe(self) -> list[str]:
        """Lines for the user."""
        lines = [f"{path}  timelapse" for path in self._animations]
        if self._folder is not None:
            lines.append(f"{self._folder}  {len(self._kept)} previews")
        return lines

    def as_json(self) -> dict[str, object]:
        """What ``--json`` says of it: only what was asked for."""
        facts: dict[str, object] = {}
        if self._folder is not None:
            facts["previews"] = [str(path.absolute()) for path in self._kept]
        if self._timelapse is not None:
            facts["timelapse"] = [str(path.absolute()) for path in self._animations]
        return facts


def _name(event: Preview) -> str:
    digits = len(str(event.total_steps))
    return f"image{event.image_index}-step{event.step:0{digits}}.{event.image.format}"


def _animate(frames: list[bytes], final: GeneratedImage, image_format: str) -> bytes:
    from PIL import Image

    size = (final.width, final.height)

    def enlarged(data: bytes) -> Image.Image:
        return Image.open(io.BytesIO(data)).convert("RGB").resize(size, Image.Resampling.BICUBIC)

    pictures = [*(enlarged(data) for data in frames), final.to_pil().convert("RGB")]
    durations = [_FRAME_MS] * len(frames) + [_LAST_FRAME_MS]
    buffer = io.BytesIO()
    pictures[0].save(
        buffer,
        image_format,
        save_all=True,
        append_images=pictures[1:],
        duration=durations,
        loop=0,
        quality=90,
    )
    return buffer.getvalue()
