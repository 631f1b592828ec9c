"""A process that accepts generations and moves them on without end: `FOLDER SEED`; it says what has been done."""

import itertools
import random
import sys
from pathlib import Path

from sdmanager.errors import NoImageError
from sdmanager.generation import GeneratedImage, GenerationResult, MemoryPlan, StageTimings
from sdmanager.jobs import GenerationRegistry, Status

registry = GenerationRegistry(Path(sys.argv[1]), max_entries=1_000_000)
registry.open()
chance = random.Random(sys.argv[2])


def say(word, name):
    print(word, name, flush=True)


def picture():
    return GeneratedImage(chance.randbytes(100) * chance.randrange(1, 3000) + b"END", 1, 64, 64)


for number in itertools.count():
    name = registry.create(key=f"key-{number}").id
    say("pending", name)
    end = chance.choice((None, Status.COMPLETE, Status.COMPLETE, Status.ERROR, Status.CANCELLED))
    if end is None:
        continue
    registry.update(name, status=Status.IN_PROGRESS)
    say("in_progress", name)
    if end is Status.COMPLETE:
        drawn = tuple(picture() for _ in range(chance.randrange(1, 4)))
        result = GenerationResult(drawn, 1.0, StageTimings(), "demo", "cpu", MemoryPlan())
        registry.update(name, status=end, result=registry.store_images(name, result))
    else:
        registry.update(name, status=end, error=NoImageError("None.") if end is Status.ERROR else None)
    say(end.value, name)
