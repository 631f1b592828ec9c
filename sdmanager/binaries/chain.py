"""Trying one candidate after the other until an engine draws."""

from __future__ import annotations

import dataclasses
import logging
import time
from typing import TYPE_CHECKING

from sdmanager.download import Patience
from sdmanager.errors import (
    BinaryError,
    BuildToolsMissingError,
    EngineNotRunnableError,
    GenerationError,
    NoEngineWorksError,
    SDManagerError,
    StorageError,
)
from sdmanager.threads import in_thread

from ._staging import sweep_remains
from .choosing import choose
from .ensure import Ensured, now_text, surroundings
from .installed import inspect_own, list_installed
from .manifest import load_manifest
from .marks import as_installed, same_content, take_marks
from .programs import programs_in_path
from .progress import EngineProgress
from .proof import Meaning, Proof, meaning_of
from .verdicts import LATER_SECONDS, LATER_SECONDS_MAX, Book, Choice, Verdict, write_book

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from sdmanager.hardware import HardwareSnapshot
    from sdmanager.settings import Settings

    from .binary import EngineBinary
    from .choosing import Candidate
    from .manifest import Manifest
    from .progress import EnginePhase, OnProgress
    from .proof import Prover

_LOG = logging.getLogger("sdmanager.binaries")

# Where an engine works already, nobody shall wait long for a better one.
_BRIEF = Patience(connect=4.0, read=10.0, attempts=1)
_UNPROVEN = Proof(proven=False, model="", width=0, height=0, steps=0, seconds=0.0)


class Chain:
    """One search for an engine.

    Args:
        settings: Folders, mirror and manifest.
        book: What is known already and still holds.
        prove: Draws with an engine and checks the picture.
        on_progress: Called with each step.
        snapshot: The hardware to choose for; looked at when None.
    """

    def __init__(
        self,
        settings: Settings,
        book: Book,
        prove: Prover,
        on_progress: OnProgress | None,
        snapshot: HardwareSnapshot | None,
    ) -> None:
        self._settings = settings
        self._book = book
        self._prove = prove
        self._on_progress = on_progress
        self._snapshot = snapshot
        self._failures: dict[str, SDManagerError] = {}
        self._works_already = False
        self._manifest: Manifest

    async def own(self, path: Path, wish: str) -> Ensured:
        """The user's own engine: it passes the same test, and there is no other."""
        try:
            return await self._own(path, wish)
        except (BinaryError, GenerationError) as exc:
            # Under the name of the wish: what cannot even be read has no digest.
            await self._note(wish, exc)
            raise

    async def _own(self, path: Path, wish: str) -> Ensured:
        engine = await inspect_own(path, self._settings)
        key = f"own/{engine.sha256[:16]}"
        known = self._book.verdicts.get(key)
        marks = await in_thread(take_marks, engine)
        if known is not None and known.usable and known.proof and same_content(marks, known.marks):
            proof = known.proof
        else:
            self._report("proving", "does your own engine draw?")
            proof = await self._prove(engine)
        self._book = self._book.without(wish)
        verdict = Verdict(tested_at=now_text(), proof=proof, engine=engine, marks=marks)
        return await self._keep(wish, key, verdict)

    async def choose(self, wish: str, variant: str | None) -> Ensured:
        """The first candidate that works.

        What is known not to work is left alone; but where nothing else works either, it is tried once more.
        """
        candidates = await self._candidates(variant)
        usable = [candidate for candidate in candidates if candidate.usable]
        known = {candidate.key: self._book.verdicts.get(candidate.key) for candidate in usable}
        later = [c for c in usable if (verdict := known[c.key]) and verdict.rules_out(time.time(), c.engine)]
        for candidate in later:
            verdict = known[candidate.key]
            self._report(
                "rejected",
                f"{candidate.variant}, {candidate.origin}, as seen before: {verdict.reason if verdict else ''}",
            )
        self._works_already = any(verdict and verdict.usable for verdict in known.values())
        # The checks before a build say what to install; they are all that is left where nothing can be tried.
        lacking = [candidate for candidate in candidates if candidate.lacks_tools]
        for candidate in [*(c for c in usable if c not in later), *later] or lacking[-1:]:
            try:
                found = await self._try(candidate)
            except _ProofImpossibleError as exc:
                raise exc.error from exc
            except (BinaryError, GenerationError, StorageError) as exc:
                await self._reject(candidate, exc)
                continue
            better = usable[: usable.index(candidate)] if candidate.usable else []
            return await self._keep(wish, candidate.key, found, better)
        raise _nothing_works(candidates, self._failures, variant)

    async def _candidates(self, variant: str | None) -> tuple[Candidate, ...]:
        settings = self._settings
        from sdmanager.hardware import take_snapshot

        self._report("choosing", "looking at the hardware")
        self._manifest = await in_thread(load_manifest, settings.manifest)
        await sweep_remains(settings.engines_dir)
        candidates = choose(
            self._manifest,
            self._snapshot or await take_snapshot(settings),
            programs=programs_in_path(),
            installed=await in_thread(list_installed, settings),
            variant=variant,
        )
        for candidate in candidates:
            _LOG.info("%s is %s: %s", candidate.key, "in" if candidate.usable else "out", candidate.reason)
        return candidates

    async def _try(self, candidate: Candidate) -> Verdict:
        """Get it where it is not there, and have it draw where it has not yet."""
        self._report("choosing", f"{candidate.variant}, {candidate.origin} ({candidate.reason})")
        proof: Proof | None = None
        put_off: SDManagerError | None = None

        async def prove(engine: EngineBinary) -> Proof:
            nonlocal proof, put_off
            try:
                proof = await self._prove(engine)
            except StorageError as exc:
                raise _ProofImpossibleError(exc) from exc
            except (BinaryError, GenerationError) as exc:
                if meaning_of(exc) is not Meaning.LATER:
                    raise
                # What took minutes to build is installed, though not used, so that later only the proof is due.
                put_off = exc
                return _UNPROVEN
            return proof

        try:
            engine = candidate.engine
            marks = await in_thread(take_marks, engine) if engine is not None else {}
            if engine is None or not as_installed(engine, marks):
                engine = await self._get(candidate, prove)
                marks = await in_thread(take_marks, engine)
        except StorageError:
            raise
        except OSError as exc:
            raise StorageError(f"The engine's files cannot be read: {exc.strerror or exc}.") from exc
        if put_off is not None:
            raise put_off
        known = self._book.verdicts.get(candidate.key)
        if proof is None and known and known.usable and same_content(marks, known.marks):
            proof = known.proof
        if proof is None:
            self._report("proving", f"does the {engine.variant} engine draw?")
            await prove(engine)
        if put_off is not None:
            raise put_off
        assert proof is not None  # noqa: S101 - it was drawn, now or before
        return Verdict(tested_at=now_text(), proof=proof, engine=engine, marks=marks)

    async def _get(self, candidate: Candidate, prove: Prover) -> EngineBinary:
        altered = candidate.engine is not None
        if candidate.offer is None:
            raise EngineNotRunnableError(
                f"The files of the {candidate.variant} engine {candidate.version} are not those that were installed.",
                hint="Remove it with 'sdmanager engine prune'.",
            )
        if altered:
            _LOG.warning(
                "the %s engine was altered since it was installed: getting it again", candidate.variant
            )
        if candidate.kind == "release":
            from .release import install_release

            return await install_release(
                self._settings,
                candidate.offer,
                force=altered,
                on_progress=self._on_progress,
                prove=prove,
                patience=_BRIEF if self._works_already else None,
            )
        from .source import build_engine

        return await build_engine(
            self._settings, candidate.variant,
            force=altered, on_progress=self._on_progress, prove=prove, sources=self._manifest.sources,
        )  # fmt: skip

    async def _reject(self, candidate: Candidate, error: SDManagerError) -> None:
        self._failures[candidate.key] = error
        self._report("rejected", f"{candidate.variant}, {candidate.origin}: {error.message}")
        if self._on_progress is None:  # who listens is told there
            _LOG.warning("%s does not work here: %s", candidate.key, error.message)
        await self._note(candidate.key, error)

    async def _note(self, key: str, error: SDManagerError) -> None:
        self._book = self._book.with_verdict(key, _failed(error, self._book.verdicts.get(key)))
        await in_thread(write_book, self._settings, self._book)

    async def _keep(self, wish: str, key: str, verdict: Verdict, better: Sequence[Candidate] = ()) -> Ensured:
        """Note what was chosen, and when those before it are to be tried again."""
        assert verdict.engine is not None and verdict.proof is not None  # noqa: S101, PT018 - it was tried
        around = await in_thread(surroundings, self._settings)  # what was just installed belongs to them
        book = dataclasses.replace(self._book.with_verdict(key, verdict), surroundings=around)
        verdicts = [book.verdicts.get(candidate.key) for candidate in better]
        retries = [found.retry_at for found in verdicts if found and found.retry_at is not None]
        self._book = book.with_choice(wish, Choice(key, min(retries, default=None)))
        await in_thread(write_book, self._settings, self._book)
        return Ensured(verdict.engine, key, verdict.proof)

    def _report(self, phase: EnginePhase, message: str) -> None:
        if self._on_progress is not None:
            self._on_progress(EngineProgress(phase, 0, 0, message))


class _ProofImpossibleError(Exception):
    """The proof could not write its files, which says nothing about any engine."""

    def __init__(self, error: StorageError) -> None:
        super().__init__(error.message)
        self.error = error


def _failed(error: SDManagerError, before: Verdict | None) -> Verdict:
    meaning = meaning_of(error)
    tries = before.tries + 1 if before is not None and before.meaning is meaning else 1
    wait = min(LATER_SECONDS * 4 ** (tries - 1), LATER_SECONDS_MAX)
    return Verdict(
        tested_at=now_text(),
        meaning=meaning,
        code=error.code,
        reason=error.message,
        hint=error.hint,
        retry_at=time.time() + wait if meaning is Meaning.LATER else None,
        tries=tries,
    )


def _nothing_works(
    candidates: Sequence[Candidate], failures: Mapping[str, SDManagerError], variant: str | None
) -> SDManagerError:
    errors = list(failures.values())
    if len(errors) == 1 or (errors and all(isinstance(error, StorageError) for error in errors)):
        error = errors[0]
        missing = [c.reason for c in candidates if c.lacks_tools]
        if missing and not isinstance(error, StorageError | BuildToolsMissingError):
            error.hint = f"{error.hint or ''} One could be built here, but {missing[-1]}.".strip()
        return error
    if not failures:
        reasons = {c.key: c.reason for c in candidates if variant is None or c.variant == variant}
        what = f"The {variant} engine is not for this machine" if variant else "No engine is for this machine"
        said = "; ".join(dict.fromkeys(reasons.values())) or "there is none for this platform"
        return NoEngineWorksError(f"{what}: {said}.", details={"candidates": reasons})
    names = {candidate.key: candidate.variant for candidate in candidates}
    said = "; ".join(f"{names[key]}: {error.message.rstrip('.')}" for key, error in failures.items())
    return NoEngineWorksError(
        f"No engine works on this machine: {said}.",
        details={"candidates": {key: {"code": e.code, "message": e.message} for key, e in failures.items()}},
    )
