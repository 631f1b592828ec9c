"""A host of the package, to be killed: says "spawning", then the leader's pid, then what the child says.

Arguments: how to behave ("plain", "fork": after the child is ready, fork a process that stays), then the
child's arguments.
"""

import asyncio
import os
import sys
import time

from sdmanager.process import spawn


def say(text):
    os.write(1, text.encode() + b"\n")


async def main():
    behaviour, *argv = sys.argv[1:]

    def on_stdout(chunk):
        os.write(1, chunk)
        if behaviour == "fork" and b"ready" in chunk:
            forked = os.fork()
            if not forked:
                time.sleep(60)
                os._exit(0)
            say(f"forked {forked}")

    say("spawning")
    async with spawn(argv, on_stdout=on_stdout, on_stderr=print) as child:
        say(f"leader {child.pid}")
        await child.wait()


asyncio.run(main())
