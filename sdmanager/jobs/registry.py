"""What was accepted, how it stands, and what it gave: in memory, and in a folder that outlives the process."""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, TypedDict

from sdmanager.errors import GenerationNotFoundError, InvalidRequestError
from sdmanager.threads import in_thread

from ._folder import GenerationFolder
from .ids import generate_id, is_id
from .snapshots import Failure as Failure
from .snapshots import Generation as Generation
from .snapshots import changed, interrupted
from .states import Status, check_open, check_transition

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path
    from types import EllipsisType
    from typing import Self, Unpack

    from sdmanager.errors import SDManagerError
    from sdmanager.generation import GenerationResult, Progress

TTL_SECONDS: Final = 300.0
CLEANUP_SECONDS: Final = 60.0
_MILLISECONDS_MAX: Final = 10**12


class RegistryLimits(TypedDict, total=False):
    """Keyword arguments of ``GenerationRegistry`` that no environment variable stands for."""

    max_entries: int
    max_bytes: int
    clock: Callable[[], float]
    wall: Callable[[], float]


@dataclass(frozen=True, slots=True)
class _Ended:
    expires_at: float
    size: int


class GenerationRegistry:
    """Generations by id, from their acceptance until some time after their end.

    What ``create`` returned is in the folder and survives the death of the process at any moment (not a power
    cut): whoever opens the folder next finds results for the rest of their time, and everything else that had
    been accepted as an error with the code ``INTERRUPTED``.

    Not thread-safe: all methods are to be called in one thread, such as that of the event loop, except
    ``store_images``.

    Args:
        folder: The registry's own, which must be empty or not there yet, or one that a registry had before;
            None: everything is kept in memory only.
        ttl: Seconds that a generation is kept after it has ended.
        cleanup_interval: Seconds between two sweeps of ``sweep_forever``.
        max_entries: Generations kept at most. Beyond it those go that ended first, but not the one that ended
            last, and none that has not ended.
        max_bytes: Bytes of pictures kept at most; likewise.
        clock: Seconds that only go forward.
        wall: Seconds since the epoch.

    Attributes:
        ttl: Seconds that a generation is kept after it has ended.

    Raises:
        InvalidRequestError: A time or a limit is negative, no number, or an interval of 0.
    """

    def __init__(
        self,
        folder: Path | None = None,
        *,
        ttl: float = TTL_SECONDS,
        cleanup_interval: float = CLEANUP_SECONDS,
        max_entries: int = 2000,
        max_bytes: int = 2 * 1024**3,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        if not (0 <= ttl < math.inf and 0 < cleanup_interval < math.inf):
            raise InvalidRequestError("The times of the registry must be positive and finite.")
        if max_entries < 0 or max_bytes < 0:
            raise InvalidRequestError("The limits of the registry must not be negative.")
        self._folder = GenerationFolder(folder) if folder is not None else None
        self.ttl = ttl
        self._cleanup_interval = cleanup_interval
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._clock = clock
        self._wall = wall
        self._generations: dict[str, Generation] = {}
        self._keys: dict[str, str] = {}
        # In the order of their ends, which is that in which they expire. No plain dict: finding the first of one
        # takes longer with each first one that was removed.
        self._ended: OrderedDict[str, _Ended] = OrderedDict()
        self._bytes = 0
        self._trash: set[str] = set()  # forgotten, and perhaps not yet removed from the folder

    @classmethod
    def from_environment(
        cls,
        folder: Path | None = None,
        environ: Mapping[str, str] | None = None,
        **limits: Unpack[RegistryLimits],
    ) -> Self:
        """Read ``IMAGE_RESULT_TTL_MS`` and ``IMAGE_CLEANUP_INTERVAL_MS``: whole milliseconds, at least 1.

        Args:
            folder: The registry's own.
            environ: Variables to read; the process's own when None.
            limits: What else the constructor takes.

        Raises:
            InvalidRequestError: A variable is no such number.
        """
        env = os.environ if environ is None else environ
        ttl = _seconds(env, "IMAGE_RESULT_TTL_MS", TTL_SECONDS)
        interval = _seconds(env, "IMAGE_CLEANUP_INTERVAL_MS", CLEANUP_SECONDS)
        return cls(folder, ttl=ttl, cleanup_interval=interval, **limits)

    def open(self) -> int:
        """Become the owner of the folder, and take over what an earlier owner left; nothing to do without one.

        Returns:
            Generations taken over.

        Raises:
            StorageError: Another registry has the folder, or it cannot be used.
        """
        if self._folder is None or self._folder.taken:
            return 0
        now, wall = self._clock(), self._wall()
        ends: list[tuple[float, Generation]] = []
        for found in self._folder.take():
            generation = found
            if not found.status.is_terminal:
                generation = interrupted(found, round(wall * 1000))
                self._folder.note(generation)
            # A wall clock that was set meanwhile may not make a result last longer than its time.
            left = min(max(generation.updated_at / 1000 + self.ttl - wall, 0.0), self.ttl)
            self._generations[found.id] = generation
            if generation.key is not None and not generation.was_interrupted:
                self._keys[generation.key] = generation.id
            ends.append((now + left, generation))
        for expires_at, generation in sorted(ends, key=lambda end: end[0]):
            self._end(generation, expires_at)
        self.cleanup()
        return len(self._generations)

    def create(
        self, *, key: str | None = None, fingerprint: str | None = None, generation_id: str | None = None
    ) -> Generation:
        """Accept a generation; it is on disk when this returns.

        Args:
            key: The caller's own name for the request, for ``find_key``.
            fingerprint: Digest of the request.
            generation_id: 1 to 64 of ``a-z0-9_-``; None: a new one.

        Raises:
            StorageError: It cannot be written down; nothing was accepted.
            ValueError: The id or the key is in use, or the id is none.
        """
        name = generate_id() if generation_id is None else generation_id
        if not is_id(name) or name in self._generations or name in self._trash:
            raise ValueError("not the id of a new generation")
        if key is not None and self.find_key(key) is not None:
            raise ValueError("the key is in use")
        now = self._now_ms()
        generation = Generation(name, Status.PENDING, now, now, key=key, fingerprint=fingerprint)
        folder = self._owned_folder()
        if folder is not None:
            folder.add(generation)
        self._generations[name] = generation
        if key is not None:
            self._keys[key] = name
        return generation

    def get(self, generation_id: str) -> Generation | None:
        """How a generation stands; None if there is none with this id, or it has expired."""
        self._expire()
        return self._generations.get(generation_id)

    def find_key(self, key: str) -> Generation | None:
        """The generation that was created with a key; None if it was interrupted: it may be tried again."""
        self._expire()
        generation = self._generations.get(self._keys.get(key, ""))
        return None if generation is None or generation.was_interrupted else generation

    def update(
        self,
        generation_id: str,
        *,
        status: Status | None = None,
        position: int | EllipsisType | None = ...,
        progress: Progress | EllipsisType | None = ...,
        result: GenerationResult | None = None,
        error: SDManagerError | None = None,
        keyless: bool = False,
    ) -> Generation:
        """Change how a generation stands: the only way in which one moves on.

        A change of status is written down. Where that cannot be done, it holds all the same, and a warning says so.

        Args:
            generation_id: Which.
            status: The new one; None: as it is.
            position: In the queue, from 1; only while it is pending.
            progress: Only while it is in progress.
            result: With ``COMPLETE``, and only then. One that ``store_images`` gave outlives the process.
            error: With ``ERROR``, and only then.
            keyless: Whether its key goes: who asks with it again asks for a new one.

        Raises:
            GenerationNotFoundError: There is none with this id, or it has expired.
            AlreadyTerminalError: It has ended.
            ValueError: The status cannot follow, or one of the values does not go with it.
        """
        old = self.get(generation_id)
        if old is None:
            raise GenerationNotFoundError("No generation has this id.")
        if status is None:
            check_open(old.status)
        else:
            check_transition(old.status, status)
        new = changed(old, self._now_ms(), status or old.status, position, progress, result, error)
        if keyless:
            new = replace(new, key=None, fingerprint=None)
            self._drop_key(old)
        self._generations[generation_id] = new
        if (status is not None or keyless) and self._folder is not None:
            self._folder.note(new)
        if status is not None and status.is_terminal:
            self._end(new, self._clock() + self.ttl)
            self._remove(self._trim())
        return new

    def store_images(self, generation_id: str, result: GenerationResult) -> GenerationResult:
        """Write the pictures of a generation that is being drawn to its folder. Touches nothing but files: may be
        called in any thread, as long as the registry is open.

        Returns:
            The same result with the files in the place of the bytes, to be given to ``update``; as it is without a
            folder.

        Raises:
            StorageError: They cannot be written, and none is there; or the generation was deleted meanwhile.
        """
        return result if self._folder is None else self._folder.store(generation_id, result)

    def delete(self, generation_id: str) -> bool:
        """Forget a generation, whatever its status; whether there was one."""
        self._expire()
        if generation_id not in self._generations:
            return False
        self._forget(generation_id)
        self._remove([generation_id])
        return True

    def get_all_ids(self) -> tuple[str, ...]:
        """All ids, in the order of creation."""
        self._expire()
        return tuple(self._generations)

    def list(self) -> tuple[Generation, ...]:
        """All generations, in the order of creation."""
        self._expire()
        return tuple(self._generations.values())

    def size(self) -> int:
        """How many generations there are."""
        self._expire()
        return len(self._generations)

    def cleanup(self) -> int:
        """Remove what has expired, and what is over the limits, with its files; how many that were."""
        self._expire()
        self._trim()
        return self._empty_trash()

    def clear(self) -> None:
        """Forget everything, with its files, also what has not ended."""
        for generation_id in tuple(self._generations):
            self._forget(generation_id)
        self._empty_trash()

    def destroy(self) -> None:
        """Give back the folder, and forget what is in memory. Files stay for the next owner; idempotent."""
        if self._folder is not None:
            self._folder.release()
        for kept in (self._generations, self._keys, self._ended, self._trash):
            kept.clear()
        self._bytes = 0

    async def sweep_forever(self) -> None:
        """Remove what has expired, every so often; files in a thread, so that the event loop never waits for them.

        Ends when cancelled, after the removal that is under way.
        """
        while True:
            await asyncio.sleep(self._cleanup_interval)
            self._expire()
            self._trim()
            if self._trash:
                self._trash.difference_update(await in_thread(self._remove_files, tuple(self._trash)))

    def _now_ms(self) -> int:
        return round(self._wall() * 1000)

    def _owned_folder(self) -> GenerationFolder | None:
        if self._folder is not None and not self._folder.taken:
            raise RuntimeError("open() first")
        return self._folder

    def _end(self, generation: Generation, expires_at: float) -> None:
        size = _bytes_of(generation.result) if generation.result is not None else 0
        self._ended[generation.id] = _Ended(expires_at, size)
        self._bytes += size

    def _expire(self) -> None:
        """Forget what is past its time; at no cost while nothing is."""
        now = self._clock()
        while self._ended:
            generation_id, ended = next(iter(self._ended.items()))
            if now < ended.expires_at:
                break
            self._forget(generation_id)

    def _trim(self) -> tuple[str, ...]:
        """Forget what is over the limits, the first to end first; not the last to end, whose owner comes for it."""
        gone = []
        while len(self._ended) > 1 and (
            len(self._generations) > self._max_entries or self._bytes > self._max_bytes
        ):
            gone.append(next(iter(self._ended)))
            self._forget(gone[-1])
        return tuple(gone)

    def _forget(self, generation_id: str) -> None:
        self._drop_key(self._generations.pop(generation_id))
        ended = self._ended.pop(generation_id, None)
        if ended is not None:
            self._bytes -= ended.size
        self._trash.add(generation_id)

    def _drop_key(self, generation: Generation) -> None:
        if generation.key is not None and self._keys.get(generation.key) == generation.id:
            del self._keys[generation.key]

    def _remove(self, generation_ids: Collection[str]) -> int:
        gone = self._remove_files(generation_ids)
        self._trash.difference_update(gone)
        return len(gone)

    def _remove_files(self, generation_ids: Collection[str]) -> Collection[str]:
        return self._folder.remove(generation_ids) if self._folder is not None else generation_ids

    def _empty_trash(self) -> int:
        return self._remove(tuple(self._trash))


def _bytes_of(result: GenerationResult) -> int:
    total = 0
    for image in result.images:
        if isinstance(image.source, bytes):
            total += len(image.source)
        else:
            try:
                total += image.source.stat().st_size
            except OSError:
                continue
    return total


def _seconds(environ: Mapping[str, str], name: str, default: float) -> float:
    text = environ.get(name, "").strip()
    if not text:
        return default
    plain = text.isascii() and text.isdecimal() and len(text) <= len(str(_MILLISECONDS_MAX))
    number = int(text) if plain else 0
    if not 1 <= number <= _MILLISECONDS_MAX:
        raise InvalidRequestError(
            f"The environment variable {name} is no whole number of milliseconds.",
            hint=f"Set it to a number from 1 to {_MILLISECONDS_MAX}, or not at all.",
        )
    return number / 1000
