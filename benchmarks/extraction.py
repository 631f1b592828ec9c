"""What unpacking a release archive costs: memory, and time by turns with `zipfile` and `unzip`. Linux only.

The archive is as large as the largest release (340 MB) and does not shrink, but for a tenth that does; each turn
unpacks it in a process of its own into a new folder, and tells the seconds of the unpacking alone.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

from _common import Figure, Options, Report, by_turns, main, spread

FILES, FILE_BYTES = 17, 20_000_000
TEXT = b"".join(b"%d: the compressible part of an archive\n" % number for number in range(800_000))

OURS = """
from sdmanager.binaries._unpack import unpack_archive
def unpack(archive, into):
    unpack_archive(archive, into)
"""
THEIRS = """
import zipfile
def unpack(archive, into):
    with zipfile.ZipFile(archive) as file:
        file.extractall(into)
"""
CHILD = """
import json, sys, time
from pathlib import Path
def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
idle = peak()
began = time.perf_counter()
unpack(Path(sys.argv[1]), Path(sys.argv[2]))
print(json.dumps([time.perf_counter() - began, peak() - idle]))
"""


def measure(options: Options) -> Report:
    """All three by turns; memory is the worst of all turns."""
    with tempfile.TemporaryDirectory(prefix="sdmanager-bench-") as name:
        scratch = Path(name)
        archive = make(scratch / "release.zip", 1 if options.quick else FILES)
        unpacked = total(archive)
        added: dict[str, list[int]] = {OURS: [], THEIRS: []}

        def ours() -> float:
            return in_child(OURS, archive, scratch, added)

        def theirs() -> float:
            return in_child(THEIRS, archive, scratch, added)

        tool = shutil.which("unzip")
        sides = [ours, theirs] + ([lambda: with_unzip(tool, archive, scratch)] if tool else [])
        seconds = by_turns(options.runs, sides)
        packed = archive.stat().st_size
    rates = [[unpacked / 1e6 / value for value in side] for side in seconds]
    medians = [statistics.median(side) for side in rates]
    return Report(
        {
            "peak_rss_added": Figure(max(added[OURS]) / 1e6, "MB", at_most=80),
            "throughput": Figure(medians[0], "MB/s"),
            "throughput_to_zipfile": Figure(medians[0] / medians[1], "ratio"),
        },
        {
            "archive_mb": round(packed / 1e6, 1),
            "unpacked_mb": round(unpacked / 1e6, 1),
            "mb_per_second": dict(zip(("ours", "zipfile", "unzip"), map(spread, rates), strict=False)),
            "peak_rss_added_mb": {
                "ours": spread([value / 1e6 for value in added[OURS]]),
                "zipfile": spread([value / 1e6 for value in added[THEIRS]]),
            },
        },
    )


def make(path: Path, files: int) -> Path:
    """A release archive."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for number in range(files):
            archive.writestr(f"library-{number}.so", os.urandom(FILE_BYTES))
        archive.writestr("text.txt", TEXT)
    return path


def total(path: Path) -> int:
    """Unpacked bytes of an archive."""
    with zipfile.ZipFile(path) as archive:
        return sum(entry.file_size for entry in archive.infolist())


def in_child(code: str, archive: Path, scratch: Path, added: dict[str, list[int]]) -> float:
    """Seconds of one turn; the memory it took is noted."""
    with tempfile.TemporaryDirectory(dir=scratch) as into:
        argv = [sys.executable, "-c", code + CHILD, str(archive), into]
        seconds, grown = json.loads(subprocess.run(argv, stdout=subprocess.PIPE, check=True).stdout)
    added[code].append(grown)
    return float(seconds)


def with_unzip(tool: str, archive: Path, scratch: Path) -> float:
    """Seconds of one turn, with the start of its process, which takes next to nothing."""
    with tempfile.TemporaryDirectory(dir=scratch) as into:
        began = time.perf_counter()
        subprocess.run([tool, "-q", str(archive), "-d", into], check=True)
        return time.perf_counter() - began


if __name__ == "__main__":
    main("extraction", __doc__, measure, runs=5)
