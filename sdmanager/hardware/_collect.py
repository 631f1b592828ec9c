"""Running a probe that may hang, crash or talk without end."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from sdmanager.process import ExitStatus

_MOST_OUTPUT = 1 << 20
# A process that waits inside a driver cannot be killed before the driver lets go; it is not waited for.
_BACKSTOP = 0.5


@dataclass(frozen=True, slots=True)
class Answer:
    """What a probe said.

    Attributes:
        output: The first bytes of what it printed on stdout.
        messages: The same of stderr.
        status: How it ended, or None where it was killed for taking too long.
    """

    output: bytes
    messages: bytes
    status: ExitStatus | None


async def collect(
    argv: Sequence[str | Path], *, environ: Mapping[str, str], limit: float, guard: Sequence[str] | None
) -> Answer:
    """Run a probe for at most so many seconds and keep what it said until then.

    Raises:
        OSError: It cannot be started.

    If cancelled, it is dead before CancelledError goes on.
    """
    from sdmanager import process

    output, messages = bytearray(), bytearray()
    status = None
    async with process.spawn(
        argv,
        env=environ,
        on_stdout=lambda chunk: _keep(output, chunk),
        on_stderr=lambda chunk: _keep(messages, chunk),
        grace=0,
        backstop=_BACKSTOP,
        guard=guard,
    ) as child:
        try:
            async with asyncio.timeout(limit):
                status = await child.wait()
        except TimeoutError:
            pass
    return Answer(bytes(output), bytes(messages), status)


def _keep(kept: bytearray, chunk: bytes) -> None:
    kept += chunk[: max(_MOST_OUTPUT - len(kept), 0)]
