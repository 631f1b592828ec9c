"""Draws into a gallery and deletes from it, again and again, and is killed one moment later each time.

Called with a folder, and a stride: 1 for every moment, 5 for every fifth. The moments are each statement to the
database, and each file that is opened for writing, linked, renamed or removed. Leaves a folder per moment, with a file
``said`` beside the gallery: what was done by then.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from gallery import kept, previewed
from scripted_generator import png, result_of

import sdmanager.history._database as database
from sdmanager.generation import ImageRequest
from sdmanager.history import History

CHANGES = {"os.link", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree"}


class Moments:
    """Counts them, and ends the process at one."""

    def __init__(self, folder: Path, last: int) -> None:
        self.folder = str(folder)
        self.left = last

    def count(self, *_: object) -> None:
        self.left -= 1
        if self.left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def audit(self, event: str, args: tuple) -> None:
        writes = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
        if (writes or event in CHANGES) and str(args[0]).startswith(self.folder):
            self.count()


async def work(folder: Path, *, linked: bool) -> None:
    """One life of a gallery."""

    def say(what: str) -> None:
        with (folder / "said").open("a") as file:
            file.write(f"{what}\n")

    history = History(folder / "gallery")
    await history.open()
    await kept(history, "gen_0")
    say("kept gen_0-0")
    history.begin("gen_1", ImageRequest(prompt="a cat", count=2))
    history.take(previewed("gen_1", 1))
    while not (history._frames["gen_1"]._newest == {} and await shown(history)):
        await asyncio.sleep(0.001)
    result = result_of(2)
    if linked:
        sources = [folder / f"source-{index}.png" for index in range(2)]
        for source in sources:
            source.write_bytes(png(1))
        images = [dataclasses.replace(i, source=s) for i, s in zip(result.images, sources, strict=True)]
        result = dataclasses.replace(result, images=tuple(images))
    await history.keep("gen_1", result)
    say("kept gen_1-0")
    say("kept gen_1-1")
    say("deleting gen_0-0")
    await history.delete("gen_0-0")
    say("deleted gen_0-0")
    await history.clear()
    await history.aclose()


async def shown(history: History) -> bool:
    return (await history.get("gen_1-0")).path is not None


def main() -> None:
    """Fork a life for each moment, until one lives to its end."""
    parent, stride = Path(sys.argv[1]), int(sys.argv[2])
    for moment in itertools.count(0, stride):
        folder = parent / f"{moment:04}"
        (folder / "gallery").mkdir(parents=True)
        child = os.fork()
        if not child:
            moments = Moments(folder / "gallery", moment)
            connect = database.connect

            def counted(where, moments=moments, connect=connect, **options):
                connection = connect(where, **options)
                connection.set_trace_callback(moments.count)
                return connection

            database.connect = counted
            sys.addaudithook(moments.audit)
            asyncio.run(work(folder, linked=bool(moment // stride % 2)))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            print(moment, os.WEXITSTATUS(status))
            return


if __name__ == "__main__":
    main()
