from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ._child import spawn
from ._types import Completed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


async def run(
    argv: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float | None = None,
    limit: int = 1 << 20,
    guard: Sequence[str] | None = None,
) -> Completed:
    """Run a child to its end and collect its output.

    Args:
        argv: As for `spawn`.
        cwd: As for `spawn`.
        env: As for `spawn`.
        timeout: Seconds until the child is stopped; None waits for ever.
        limit: How many bytes of each stream to keep, counted from its end.
        guard: As for `spawn`.

    Returns:
        The output and how it ended; an exit code other than 0 is not an error here.

    Raises:
        TimeoutError: It took longer; the child is dead by then.
        OSError: As for `spawn`.

    If cancelled, the child is dead before CancelledError goes on.
    """
    stdout, stderr = _Tail(limit), _Tail(limit)
    async with (
        asyncio.timeout(timeout),
        spawn(argv, cwd=cwd, env=env, on_stdout=stdout.add, on_stderr=stderr.add, guard=guard) as child,
    ):
        status = await child.wait()
    return Completed(stdout.bytes(), stderr.bytes(), status)


class _Tail:
    def __init__(self, limit: int) -> None:
        self._limit = max(limit, 0)
        self._kept = bytearray()

    def add(self, chunk: bytes) -> None:
        self._kept += chunk
        if len(self._kept) > 2 * self._limit:
            del self._kept[: len(self._kept) - self._limit]

    def bytes(self) -> bytes:
        return bytes(self._kept[max(len(self._kept) - self._limit, 0) :])
