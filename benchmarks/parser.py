"""How fast the parser reads the recorded output of the engine, and how much memory an endless stream takes.

Each transcript is read by a parser of its own, in pieces of 64 KiB at most, as the process layer hands them on.
Speed is by processor time, on which other work of the machine weighs least.
"""

from __future__ import annotations

import re
import resource
import statistics
import subprocess
import sys
import time
from itertools import cycle
from typing import TYPE_CHECKING, Final

from _common import ROOT, Figure, Options, Report, main, spread

from sdmanager.engine import OutputParser

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MB = 1e6
MIB = 1024 * 1024
MB_PER_SECOND: Final = 50.0
GROWTH_MIB: Final = 16.0
CHUNK = 64 * 1024
TRANSCRIPTS = ROOT / "tests" / "data" / "transcripts"
STEP_BAR = re.compile(rb"\r  \|[= >]*\| \d+/\d+ - \d+\.\d+(?:it/s|s/it)\x1b\[K")
STREAMS = ("transcripts", "bars", "one_line")


def measure(options: Options) -> Report:
    """Speed in this process; memory in one process for each kind of stream, since its peak never falls."""
    report = Report()
    megabytes = 1 if options.quick else 20
    everything = [path.read_bytes() for path in sorted(TRANSCRIPTS.glob("*/*.stdout"))]
    drawings = [data for data in everything if STEP_BAR.search(data)]
    for name, transcripts, target in (
        ("all_stdout", everything, MB_PER_SECOND),
        ("drawings_only", drawings, MB_PER_SECOND),
        ("a_thousand_steps", [many_steps(drawings[0], 1000)], None),  # made up: nothing but bars
    ):
        speeds = [speed(transcripts, megabytes) for _ in range(options.runs)]
        report.figures[name] = Figure(statistics.median(speeds), "MB/s", at_least=target)
        report.details[name] = {"megabytes_per_second": spread(speeds), "events": count(transcripts)}
    mebibytes = 64 if options.quick else 1024
    for kind in STREAMS:
        argv = [sys.executable, __file__, "--stream", kind, str(mebibytes)]
        said = subprocess.run(argv, stdout=subprocess.PIPE, check=True).stdout
        report.figures[f"memory_growth_{kind}"] = Figure(float(said), "MiB", at_most=GROWTH_MIB)
    report.details["stream_mebibytes"] = mebibytes
    return report


def many_steps(transcript: bytes, steps: int) -> bytes:
    """A recorded drawing with one of its bars repeated and renumbered: the most events for the bytes."""
    found = STEP_BAR.search(transcript)
    assert found is not None
    bar = re.sub(rb"\d+/\d+", b"%d/%d", found.group())
    bars = b"".join(bar % (step, steps) for step in range(1, steps + 1))
    return transcript[: found.start()] + bars + b"\n"


def speed(transcripts: Sequence[bytes], megabytes: float) -> float:
    """MB/s over the transcripts, again and again until there were so many megabytes."""
    read = 0
    began = time.process_time()
    while read < megabytes * MB:
        for data in transcripts:
            parser = OutputParser()
            for start in range(0, len(data), CHUNK):
                parser.feed("stdout", data[start : start + CHUNK])
            parser.close()
            read += len(data)
    return read / MB / (time.process_time() - began)


def count(transcripts: Sequence[bytes]) -> int:
    """Events in the transcripts."""
    total = 0
    for data in transcripts:
        parser = OutputParser()
        total += len(parser.feed("stdout", data)) + len(parser.close())
    return total


def pieces(kind: str) -> Iterator[bytes]:
    """An endless stream in whole chunks."""
    drawings = [path.read_bytes() for path in sorted(TRANSCRIPTS.glob("*/txt2img.stdout"))]
    match kind:
        case "transcripts":
            whole = b"".join(path.read_bytes() for path in sorted(TRANSCRIPTS.glob("*/*.stdout")))
        case "bars":
            whole = many_steps(drawings[0], 1000)
        case _:
            whole = b"x" * CHUNK
    rest = b""
    for data in cycle([whole]):
        rest += data
        while len(rest) >= CHUNK:
            yield rest[:CHUNK]
            rest = rest[CHUNK:]


def memory_growth(kind: str, mebibytes: int) -> float:
    """MiB by which the peak of this process's memory rises, after the first MiB, while one parser reads all."""
    parser, before = OutputParser(), 0
    for number, piece in enumerate(pieces(kind), start=1):
        parser.feed("stdout", piece)
        if number * CHUNK == MIB:
            before = peak()
        if number * CHUNK >= mebibytes * MIB:
            break
    return (peak() - before) / MIB


def peak() -> int:
    """Bytes that this process held at most; Linux counts in KiB, macOS in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--stream"]:
        print(memory_growth(sys.argv[2], int(sys.argv[3])))
    else:
        main("parser", __doc__, measure, runs=5)
