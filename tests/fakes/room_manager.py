"""A manager that makes room for one run, to be killed: `HOME PORT [POINT]`.

It says "recovered", waits for a line, makes room, "draws", and has everything brought back. At the named point it
says "at POINT" and stays there.
"""

import asyncio
import os
import sys
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from held import CHOICES, Held, footprint, supports

from sdmanager.resources.orchestrator import ResourceOrchestrator
from sdmanager.settings import Settings

home, port, point = Path(sys.argv[1]), int(sys.argv[2]), (sys.argv[3:] or [None])[0]
recovered = False


def say(text):
    os.write(1, text.encode() + b"\n")


def stop_at(here):
    if recovered and point is not None and here == point:
        say(f"at {here}")
        threading.Event().wait()


def around(owner, name, before=None, after=None):
    """Have a method of one object stop before or after it does its work."""
    inner = getattr(owner, name)

    def outer(*args):
        stop_at(before)
        result = inner(*args)
        stop_at(after)
        return result

    setattr(owner, name, outer)


class Stopping(Held):
    async def put_aside(self, holding):
        await super().put_aside(holding)
        stop_at("put-aside")

    async def restore(self, state):
        stop_at("restore-begun")
        await super().restore(state)


async def main():
    global recovered
    held = Stopping(port, sent=lambda path: stop_at(f"{path[1:]}-sent"))
    room = ResourceOrchestrator(
        Settings(home / "data", home / "cache", home / "state"), [held], linger=0.0, look=held.look
    )
    around(room._journal, "write", before="before-journal", after="after-journal")
    around(room._journal, "remove", before="entry-goes")
    await room.recover()
    say("recovered")
    sys.stdin.readline()
    recovered = True
    async with room.lease(footprint(), CHOICES, supports) as lease:
        say(f"aside {' '.join(lease.plan.evictions)}")
        stop_at("generating")
    await room.wait_for_reload()
    await room.aclose()
    say("done")


if __name__ == "__main__":
    asyncio.run(main())
