"""The files behind the LoRAs of a request: found in the one folder that they may come from."""

from __future__ import annotations

import contextlib
import difflib
import heapq
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sdmanager.errors import InvalidRequestError
from sdmanager.models import HEAD_BYTES, are_weights

from .loras import SUFFIXES, file_names, link_name, tagged, wanted_loras, without_suffix

if TYPE_CHECKING:
    from collections.abc import Collection

    from sdmanager.generation import ImageRequest

    from .loras import WantedLora

# For a name that is near to an unknown one: how many files and folders are looked at, and how many names are compared
# thoroughly, which takes up to a millisecond for each.
_ENTRIES_MAX: Final = 10_000
_COMPARED_MAX: Final = 300


def place_loras(request: ImageRequest, folder: Path) -> tuple[ImageRequest, dict[str, Path]]:
    """The request as the engine may see it, and the files to link into the folder that the engine looks into.

    Args:
        request: With LoRAs, tags in its prompt, both or neither.
        folder: The only one that LoRAs come from; need not exist.

    Returns:
        The request with the engine's own tags in its prompt, and the files by the names in these tags.

    Raises:
        InvalidRequestError: A LoRA is unknown, leaves the folder, or is no file that may be used.
    """
    prompt, wanted = wanted_loras(request)
    if not wanted:
        return request, {}
    links: dict[Path, str] = {}
    used: list[tuple[WantedLora, str]] = []
    for one in wanted:
        name, path = _find(one, folder)
        if one.lora.weight:
            used.append((one, links.setdefault(path, link_name(len(links) + 1, name))))
    request = request.model_copy(update={"prompt": tagged(prompt, used)})
    return request, {name: path for path, name in links.items()}


def _find(wanted: WantedLora, folder: Path) -> tuple[str, Path]:
    """The name of its file, with the ending, and the file itself, links followed."""
    for name in file_names(wanted):
        try:
            path = (folder / name).resolve(strict=True)
            inside = path.is_relative_to(folder.resolve())
            if inside and path.is_file():
                _check_content(wanted, path)
                return name, path
        except (FileNotFoundError, NotADirectoryError, ValueError):
            continue
        except (OSError, RuntimeError) as exc:  # RuntimeError is a loop of links, before Python 3.13
            reason = exc.strerror if isinstance(exc, OSError) else None
            raise InvalidRequestError(
                f"{wanted.what} cannot be read: {reason or 'its link leads nowhere'}.",
                hint="Check the file and its permissions.",
                details={"fields": [wanted.field]},
            ) from exc
        if not inside:
            raise InvalidRequestError(
                f"{wanted.what} is a link to a file outside the folder of LoRAs.",
                hint="Move the file into the folder, or use the other folder as the folder of LoRAs.",
                details={"fields": [wanted.field]},
            )
    raise _unknown(wanted, folder)


def _check_content(wanted: WantedLora, path: Path) -> None:
    # The engine goes by the content, so that an ending alone would not keep a pickle from it.
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if not are_weights(head):
        raise InvalidRequestError(
            f"{wanted.what} is neither a safetensors nor a GGUF file.",
            hint="Download it again, or convert it: files of other kinds are not used.",
            details={"fields": [wanted.field]},
        )


def _unknown(wanted: WantedLora, folder: Path) -> InvalidRequestError:
    name, (known, complete) = without_suffix(wanted.lora.name), lora_names(folder)
    by_file = {name.rpartition("/")[2]: name for name in known}
    near = _near(name, known) or [by_file[match] for match in _near(name.rpartition("/")[2], by_file)]
    if near:
        hint = f"Did you mean {' or '.join(map(repr, near))}?"
    else:
        hint = (
            "Put its .safetensors or .gguf file into the folder of LoRAs; other kinds of files are not used."
        )
    if not complete:
        hint += f" The folder has more than {_ENTRIES_MAX} files: not all were looked at for a similar name."
    return InvalidRequestError(
        f"{wanted.what} is not in the folder of LoRAs.",
        hint=hint,
        details={"lora": wanted.lora.name, "near": near, "fields": [wanted.field]},
    )


def _near(name: str, known: Collection[str]) -> list[str]:
    """Up to three names that are near to one."""
    chars = set(name)
    likely = heapq.nsmallest(_COMPARED_MAX, known, key=lambda other: len(chars.symmetric_difference(other)))
    return difflib.get_close_matches(name, likely, n=3)


def lora_names(folder: Path) -> tuple[list[str], bool]:
    """The LoRAs of a folder, as a request would name them, and whether these are all; takes time.

    Args:
        folder: Which need not exist.
    """
    found: list[str] = []
    folders, seen = [folder], 0
    while folders:
        with contextlib.suppress(OSError), os.scandir(folders.pop()) as entries:
            for entry in entries:  # not os.walk, which reads a whole folder before it gives the first name
                if seen == _ENTRIES_MAX:
                    return sorted(found), False
                seen += 1
                if entry.is_dir(follow_symlinks=False):
                    folders.append(Path(entry.path))
                elif entry.name.lower().endswith(SUFFIXES):
                    found.append(without_suffix(Path(entry.path).relative_to(folder).as_posix()))
    return sorted(found), True
