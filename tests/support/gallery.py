"""Putting into a gallery what nobody drew, and looking at what is in its folder."""

from __future__ import annotations

import dataclasses
import sqlite3
from pathlib import Path

from scripted_generator import preview, result_of

from sdmanager.generation import Cancelled, GenerationResult, ImageRequest
from sdmanager.history import History, HistoryImage


async def kept(
    history: History, name: str, *, result: GenerationResult | None = None, **fields
) -> list[HistoryImage]:
    """Images of one generation of that name; fields are those of the request."""
    request = ImageRequest(**{"prompt": "a lighthouse", "width": 64, "height": 64, "seed": 7, **fields})
    history.begin(name, request)
    drawn = result or dataclasses.replace(result_of(request.count, request.seed), request=request)
    await history.keep(name, drawn)
    return [await history.get(f"{name}-{index}") for index in range(len(drawn.images))]


async def cancelled(history: History, name: str) -> None:
    """End a generation that has begun."""
    history.take(Cancelled(generation_id=name, sequence=1, elapsed=0.0))


def previewed(name: str, step: int, *, image: int = 1, data: bytes = b""):
    """A preview as the service tells it."""
    return dataclasses.replace(preview(step, data=data), generation_id=name, image_index=image)


def pictures(folder: Path) -> set[Path]:
    """All files of pictures, wherever they are."""
    return {
        path for path in folder.rglob("*") if path.is_file() and path.suffix in {".png", ".jpeg", ".part"}
    }


def rows(folder: Path, what: str = "id FROM images") -> list:
    """What the database says, asked on a connection of its own."""
    connection = sqlite3.connect(folder / "gallery.sqlite3")
    try:
        return connection.execute(f"SELECT {what}").fetchall()
    finally:
        connection.close()


def whole(data: bytes) -> bool:
    """Whether a PNG has its end."""
    return data.startswith(b"\x89PNG") and data.endswith(b"IEND\xaeB`\x82")
