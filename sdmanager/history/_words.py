"""What words a text has, and what to look for when somebody types some. Pure.

The index gets words that were made here, and splits them at spaces alone: so what is typed is cut exactly as what it
is to be found in, and nothing in it means anything to the database.
"""

from __future__ import annotations

import functools
import hashlib
import unicodedata
from typing import Final

# Written without spaces: each character is a word, and several in a row are looked for in a row.
_UNSPACED: Final = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Burmese
    (0x1780, 0x17FF),  # Khmer
    (0x2E80, 0x312F),  # radicals, kana, bopomofo
    (0x31A0, 0x31FF),
    (0x3400, 0x9FFF),  # ideographs
    (0xF900, 0xFAFF),
    (0x20000, 0x3FFFF),
)
# What a search costs grows with both, in every image: what goes beyond is not looked for.
TERMS_MAX: Final = 32
PHRASE_MAX: Final = 16

_ACCENTS: Final = ("\u0300", "\u036f")
_ALONE: Final = "alone"
_JOINED: Final = "joined"
_BETWEEN: Final = "between"


def words_of(text: str) -> list[str]:
    """The words of a text: without case, accents and punctuation; an emoji is a word, too."""
    found: list[str] = []
    run = ""
    for char in _folded(text):
        kind = _kind(char)
        if kind == _JOINED:
            run += char
            continue
        if run:
            found.append(run)
            run = ""
        if kind == _ALONE:
            found.append(char)
    return [*found, run] if run else found


def storable(text: str) -> str:
    """A name as the database takes it: names of files may hold bytes that are no text."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def indexed(text: str) -> str:
    """A text as it goes into the index."""
    return " ".join(words_of(text))


def indexed_model(model: str | None) -> str:
    """A model as it goes into the index: one word, whatever its name is."""
    if model is None:
        return ""
    return "m" + hashlib.sha256(storable(model).encode("utf-8")).hexdigest()[:32]


def query(search: str, model: str | None) -> str | None:
    """What the index is asked for a search; None where it names no word.

    Args:
        search: As it was typed. What stands between spaces is found as it stands there, and the last may go on;
            more than ``PHRASE_MAX`` words of it are parts that are found anywhere. Of the parts, the first
            ``TERMS_MAX`` count.
        model: Only of this model.
    """
    # The words hold no character that is anything in the language of queries; quotes say that they are words.
    terms = [
        f'"{" ".join(words[first : first + PHRASE_MAX])}"'
        for words in map(words_of, search.split())
        for first in range(0, len(words), PHRASE_MAX)
    ]
    if not terms:
        return None
    *others, last = terms
    wanted = dict.fromkeys(others)  # each once: the index would look for it again
    if last not in wanted:
        wanted[f"{last}*"] = None
    counted = list(wanted)[:TERMS_MAX]
    found = f"{{prompt negative}} : ({' AND '.join(counted)})"
    return found if model is None else f"{found} AND model : {indexed_model(model)}"


def _folded(text: str) -> str:
    first, last = _ACCENTS
    apart = unicodedata.normalize("NFKD", text.casefold())
    return unicodedata.normalize("NFC", "".join(char for char in apart if not first <= char <= last)).lower()


@functools.lru_cache(maxsize=4096)
def _kind(char: str) -> str:
    if char.isascii():
        return _JOINED if char.isalnum() else _BETWEEN
    if any(first <= ord(char) <= last for first, last in _UNSPACED):
        return _ALONE if unicodedata.category(char)[0] in "LNMS" else _BETWEEN
    match unicodedata.category(char)[0]:
        case "L" | "N" | "M":
            # Signs that only say how the character before is drawn are no part of a word.
            return _BETWEEN if 0xFE00 <= ord(char) <= 0xFE0F else _JOINED
        case "S":
            return _ALONE
        case _:
            return _BETWEEN
