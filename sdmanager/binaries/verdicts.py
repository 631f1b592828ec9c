"""What was found out about engines on this machine, in one file; and what of it still holds."""

from __future__ import annotations

import contextlib
import logging
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Final

from sdmanager.errors import StorageError
from sdmanager.files import read_json, write_json

from .binary import EngineBinary
from .marks import Marks, marks_from_json
from .proof import Meaning, Proof

if TYPE_CHECKING:
    from collections.abc import Container
    from pathlib import Path
    from typing import Self

    from sdmanager.settings import Settings

_LOG = logging.getLogger("sdmanager.binaries")
_FORMAT: Final = 1
_MOST: Final = 50
_BOOKS: Final = 4
_LAST_TIME: Final = 1e11

LATER_SECONDS: Final = 3600.0
"""How long a failure that may pass, such as no network, is left alone; each further time four times as long."""
LATER_SECONDS_MAX: Final = 7 * 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a verdict depends on besides the engine itself.

    Attributes:
        fingerprint: Of cards, drivers and whatever else decides whether an engine works.
        manifest: Digest of the ``binaries.json`` that the candidates came from.
        engines: What was installed: changes whenever an engine comes or goes.
    """

    fingerprint: str
    manifest: str
    engines: str

    def like(self, other: Surroundings) -> bool:
        """Whether cards, drivers and manifest are the same."""
        return (self.fingerprint, self.manifest) == (other.fingerprint, other.manifest)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is known about one candidate.

    Attributes:
        tested_at: When, ISO 8601 with zone.
        proof: What it drew, or None where it failed.
        engine: The binary, where there is one.
        marks: Its files when it was tested.
        meaning: What its failure means, or None where it did not fail.
        code: Of the error.
        reason: The error's sentence.
        hint: What to do about it.
        retry_at: Wall clock from when on it is tried again, or None.
        tries: How often it has failed like this in a row.
    """

    tested_at: str
    proof: Proof | None = None
    engine: EngineBinary | None = None
    marks: Marks = field(default_factory=dict)
    meaning: Meaning | None = None
    code: str | None = None
    reason: str | None = None
    retry_at: float | None = None
    hint: str | None = None
    tries: int = 0

    @property
    def usable(self) -> bool:
        """Whether it may be used: it drew, or only the demo model was not for it."""
        return self.proof is not None and self.engine is not None and self.meaning is None

    def rules_out(self, now: float, engine: EngineBinary | None = None) -> bool:
        """Whether trying it again now would be a waste.

        Args:
            now: Wall clock.
            engine: What is installed: an engine that came after this verdict deserves one of its own.
        """
        if engine is not None and engine.installed_at > datetime.fromisoformat(self.tested_at):
            return False
        if self.meaning is Meaning.LATER:
            return self.retry_at is not None and now < self.retry_at
        return self.meaning is Meaning.FAILED

    def to_json(self, engines_dir: Path) -> dict[str, object]:
        """Plain data for a file; engines in this folder may move with it."""
        engine = self.engine
        inside = engine is not None and engine.path.is_relative_to(engines_dir)
        return {
            "tested_at": self.tested_at,
            "proof": self.proof.to_json() if self.proof else None,
            "engine": engine.to_json(engines_dir if inside else None) if engine else None,
            "marks": self.marks,
            "meaning": self.meaning,
            "code": self.code,
            "reason": self.reason,
            "retry_at": self.retry_at,
            "hint": self.hint,
            "tries": self.tries,
        }

    @classmethod
    def from_json(cls, data: object, engines_dir: Path) -> Self | None:
        """What ``to_json`` gave, or None where the data is anything else."""
        if not isinstance(data, dict) or not _is_time(data.get("tested_at")):
            return None
        marks = marks_from_json(data.get("marks"))
        meaning = data.get("meaning")
        tries = data.get("tries")
        if marks is None or not (meaning is None or (isinstance(meaning, str) and meaning in set(Meaning))):
            return None
        return cls(
            tested_at=data["tested_at"],
            proof=Proof.from_json(data.get("proof")),
            engine=EngineBinary.from_json(data.get("engine"), relative_to=engines_dir),
            marks=marks,
            meaning=Meaning(meaning) if meaning is not None else None,
            code=_text(data.get("code")),
            reason=_text(data.get("reason")),
            retry_at=_time(data.get("retry_at")),
            hint=_text(data.get("hint")),
            tries=tries if isinstance(tries, int) and 0 <= tries < _MOST else 0,
        )


@dataclass(frozen=True, slots=True)
class Choice:
    """The engine in use for a wish.

    Attributes:
        key: Of its candidate.
        retry_at: Wall clock from when on a better one that failed for a passing reason is tried again, or None.
    """

    key: str
    retry_at: float | None = None


@dataclass(frozen=True, slots=True)
class Book:
    """All verdicts, and which engine was chosen.

    Attributes:
        surroundings: In which all of it holds.
        chosen: By what was wished for, the candidate in use.
        verdicts: By key of the candidate.
    """

    surroundings: Surroundings
    chosen: dict[str, Choice] = field(default_factory=dict)
    verdicts: dict[str, Verdict] = field(default_factory=dict)

    def in_use(self, wish: str, now: float) -> tuple[str, Verdict] | None:
        """The engine in use for a wish, with its key; None where none is, or a better one is to be tried again.

        Whether its files are still the same has not been looked at.
        """
        choice = self.chosen.get(wish)
        verdict = self.verdicts.get(choice.key) if choice is not None else None
        if choice is None or verdict is None or not verdict.usable:
            return None
        return (choice.key, verdict) if choice.retry_at is None or now < choice.retry_at else None

    def forgetting(self, prefix: str, wishes: Container[str] | None = None) -> Book:
        """The same without what is known of some candidates.

        Args:
            prefix: Of the keys of the candidates.
            wishes: Whose choices are void; None: those of all.
        """
        return Book(
            self.surroundings,
            {
                wish: choice
                for wish, choice in self.chosen.items()
                if wishes is not None and wish not in wishes
            },
            {key: verdict for key, verdict in self.verdicts.items() if not key.startswith(prefix)},
        )

    def without(self, key: str) -> Book:
        """The same without one verdict."""
        return replace(self, verdicts={name: old for name, old in self.verdicts.items() if name != key})

    def with_verdict(self, key: str, verdict: Verdict) -> Book:
        """The same with one more verdict; the oldest of too many are forgotten."""
        kept = {name: old for name, old in self.verdicts.items() if name != key}
        kept = dict(sorted(kept.items(), key=lambda item: item[1].tested_at)[-_MOST + 1 :])
        return replace(self, verdicts={**kept, key: verdict})

    def with_choice(self, wish: str, choice: Choice) -> Book:
        """The same with an engine chosen for a wish."""
        return replace(self, chosen={**self.chosen, wish: choice})

    def in_surroundings(self, now: Surroundings) -> Book:
        """What of it still holds in other surroundings."""
        if not self.surroundings.like(now):
            return Book(now)
        # Another engine was installed or removed: what is known of the others still holds, the choice does not.
        return self if now == self.surroundings else Book(now, {}, self.verdicts)


def verdicts_path(settings: Settings) -> Path:
    """The file."""
    return settings.state_dir / "verdicts.json"


def read_book(settings: Settings, around: Surroundings | None = None) -> Book | None:
    """What was kept, or None where there is nothing, or nothing readable.

    Args:
        settings: Folders.
        around: Only what was found out with these cards, drivers and manifest; None: the latest.
    """
    for book in all_books(settings):
        if around is None or book.surroundings.like(around):
            return book
    return None


def write_book(settings: Settings, book: Book) -> None:
    """Keep it. Where that cannot be done, each start proves its engine anew, and a warning says so.

    What was found out in other surroundings stays, for a while: two applications with other manifests, or with
    other cards made visible to them, would otherwise undo each other's work at every start.
    """
    others = [other for other in all_books(settings) if not other.surroundings.like(book.surroundings)]
    books = [book, *others][:_BOOKS]
    data = {"format": _FORMAT, "books": [_book_to_json(each, settings.engines_dir) for each in books]}
    try:
        write_json(verdicts_path(settings), data)
    except StorageError as exc:
        _LOG.warning("What was found out about the engines is not kept: %s", exc)


def all_books(settings: Settings) -> list[Book]:
    """Everything that was kept, the latest first."""
    data = read_json(verdicts_path(settings))
    if not isinstance(data, dict) or data.get("format") != _FORMAT or not isinstance(data.get("books"), list):
        return []
    books = [_book_from_json(book, settings.engines_dir) for book in data["books"]]
    return [book for book in books if book is not None]


def _book_to_json(book: Book, engines_dir: Path) -> dict[str, object]:
    return {
        "surroundings": asdict(book.surroundings),
        "chosen": {wish: asdict(choice) for wish, choice in book.chosen.items()},
        "verdicts": {key: verdict.to_json(engines_dir) for key, verdict in book.verdicts.items()},
    }


def _book_from_json(data: object, engines_dir: Path) -> Book | None:
    if not isinstance(data, dict):
        return None
    around, chosen, verdicts = data.get("surroundings"), data.get("chosen"), data.get("verdicts")
    if not isinstance(around, dict) or not isinstance(chosen, dict) or not isinstance(verdicts, dict):
        return None
    names = ("fingerprint", "manifest", "engines")
    if not all(isinstance(around.get(name), str) for name in names):
        return None
    read = {str(key): Verdict.from_json(value, engines_dir) for key, value in verdicts.items()}
    return Book(
        surroundings=Surroundings(*(around[name] for name in names)),
        chosen={
            str(wish): Choice(choice["key"], _time(choice.get("retry_at")))
            for wish, choice in chosen.items()
            if isinstance(choice, dict) and isinstance(choice.get("key"), str)
        },
        verdicts={key: verdict for key, verdict in read.items() if verdict is not None},
    )


def _time(value: object) -> float | None:
    """A wall clock, or None where the value is none."""
    return float(value) if isinstance(value, int | float) and 0 <= value < _LAST_TIME else None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _is_time(value: object) -> bool:
    with contextlib.suppress(ValueError, OverflowError):
        return isinstance(value, str) and datetime.fromisoformat(value).tzinfo is not None
    return False
