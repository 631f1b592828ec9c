"""What a PNG tells without being decoded: whether it is whole, and the texts in it. A walk over its chunks."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_CHUNK_OVERHEAD: Final = 12
# Of all texts together, in bytes: a compressed one may be a thousand times as long as its chunk.
_TEXTS_MAX: Final = 4 << 20
_TEXTS: Final = frozenset({b"tEXt", b"zTXt", b"iTXt"})
# What stands before a text is shorter: keywords have at most 79 bytes.
_HEAD_MAX: Final = 1 << 10


def is_whole_png(data: bytes) -> bool:
    """Whether the bytes are a PNG from its signature to IEND with every checksum right.

    The engine rewrites its preview file in place, so a reader meets empty and torn files: on 15,509 reads in a
    tight loop 132 were empty and 21 torn. Sizes tell nothing; the checksums (PNG specification, 5.3) do.
    """
    return any(kind == b"IEND" for kind, _ in _chunks(data))


def png_texts(data: bytes) -> dict[str, str] | None:
    """The texts in a PNG by their keywords, as far as the file is whole; None: it is no PNG.

    At most 4 MiB of them: one that is longer than what is left of that is left out, and so is one that cannot be read.

    Args:
        data: A file. Its pixels are not looked at, however many there are.
    """
    found: dict[str, str] | None = None
    left = _TEXTS_MAX
    for kind, content in _chunks(data):
        if found is None:
            if kind != b"IHDR":
                return None
            found = {}
        if kind in _TEXTS and (text := _text(kind, content, left)) is not None:
            left -= len(text[1])
            found[text[0].decode("latin-1")] = _decoded(text[1])
    return found


def replace_text(data: bytes, old: bytes, new: bytes) -> bytes:
    """The same file with another beginning of its plain text chunk; nothing else of it changes.

    Args:
        data: A whole PNG.
        old: How the content of the chunk begins, with its keyword; where none does, the file stays as it is.
        new: To stand there instead.
    """
    position = len(SIGNATURE)
    for kind, content in _chunks(data):
        end = position + _CHUNK_OVERHEAD + len(content)
        if kind == b"tEXt" and content[: len(old)] == old:
            body = kind + new + content[len(old) :]
            length, checksum = len(body) - len(kind), zlib.crc32(body)
            return b"".join(
                (data[:position], length.to_bytes(4), body, checksum.to_bytes(4), data[end:]),
            )
        position = end
    return data


def _chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Kinds and contents, up to IEND or to the first that is damaged or cut short."""
    if not data.startswith(SIGNATURE):
        return
    view = memoryview(data)
    position = len(SIGNATURE)
    while position + _CHUNK_OVERHEAD <= len(data):
        length = int.from_bytes(view[position : position + 4])
        end = position + _CHUNK_OVERHEAD + length
        if end > len(data):
            return
        if zlib.crc32(view[position + 4 : end - 4]) != int.from_bytes(view[end - 4 : end]):
            return
        kind = data[position + 4 : position + 8]
        yield kind, view[position + 8 : end - 4]
        if kind == b"IEND":
            return
        position = end


def _text(kind: bytes, content: memoryview, longest: int) -> tuple[bytes, bytes] | None:
    """Keyword and text of a chunk (PNG specification, 11.3.3), both in bytes; None where they cannot be read."""
    head = bytes(content[:_HEAD_MAX])
    keyword, separator, rest = head.partition(b"\0")
    if not keyword or not separator:
        return None
    start, packed = len(keyword) + 1, kind == b"zTXt"
    if kind == b"zTXt":
        start += 1  # the method, of which there is one
    elif kind == b"iTXt":
        packed = rest[:1] == b"\1"
        parts = rest[2:].split(b"\0", 2)  # a language, and the keyword in it
        if len(parts) < 3:
            return None
        start += 2 + len(parts[0]) + len(parts[1]) + 2
    text = content[start:]
    if packed:
        reader = zlib.decompressobj()
        try:
            return (keyword, plain) if len(plain := reader.decompress(text, longest + 1)) <= longest else None
        except zlib.error:
            return None
    return (keyword, bytes(text)) if len(text) <= longest else None


def _decoded(text: bytes) -> str:
    # The engine writes UTF-8 also where the specification has Latin-1; what is Latin-1 is hardly ever UTF-8.
    try:
        return text.decode()
    except UnicodeDecodeError:
        return text.decode("latin-1")
