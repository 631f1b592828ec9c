"""A download, its digest taken on the way, against `curl` followed by `sha256sum`, from one local server."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from _common import Figure, Options, Report, by_turns, main, spread

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent
SIZE = 300_000_000
QUICK_SIZE = 3_000_000
RATIO = 0.9


def measure(options: Options) -> Report:
    """Each by turns, into the same folder; ours puts the file on the disk (fsync), curl leaves it to the system."""
    curl, sha256sum = shutil.which("curl"), shutil.which("sha256sum")
    if curl is None or sha256sum is None:
        raise SystemExit("This needs curl and sha256sum to compare with.")
    size = QUICK_SIZE if options.quick else SIZE
    growth: list[float] = []
    with tempfile.TemporaryDirectory(prefix="sdmanager-bench-") as name:
        source, target = Path(name, "source"), Path(name, "target")
        digest = make_file(source, size)

        def theirs(*, on_disk: bool = False) -> float:
            began = time.perf_counter()
            subprocess.run([curl, "-s", "-o", target, url], check=True)
            if on_disk:
                sync(target)
            said = subprocess.run([sha256sum, target], stdout=subprocess.PIPE, check=True).stdout
            seconds = time.perf_counter() - began
            assert said.split()[0].decode() == digest
            target.unlink()
            return seconds

        def ours() -> float:
            argv = [sys.executable, HERE / "download_child.py", url, target, digest, str(size)]
            said = json.loads(subprocess.run(argv, stdout=subprocess.PIPE, check=True).stdout)
            target.unlink()
            growth.append(said["growth_mib"])
            return float(said["seconds"])

        with serving(source) as url:
            bare, on_disk, seconds = by_turns(options.runs, [theirs, lambda: theirs(on_disk=True), ours])
    speeds = {
        name: [size / 1e6 / each for each in samples]
        for name, samples in (("curl", bare), ("curl_on_disk", on_disk), ("ours", seconds))
    }
    medians = {name: statistics.median(samples) for name, samples in speeds.items()}
    return Report(
        {
            "download_plus_digest_to_curl": Figure(
                medians["ours"] / medians["curl"], "ratio", at_least=RATIO
            ),
            "download_plus_digest_to_curl_on_disk": Figure(
                medians["ours"] / medians["curl_on_disk"], "ratio"
            ),
            "download_plus_digest": Figure(medians["ours"], "MB/s"),
            "memory_growth": Figure(max(growth), "MiB"),
        },
        {"file_mb": size / 1e6, "growth_mib": spread(growth)}
        | {f"{name}_mb_per_s": spread(samples) for name, samples in speeds.items()},
    )


def make_file(path: Path, size: int) -> str:
    """Write a file that nothing can compress.

    Returns:
        Its SHA-256.
    """
    rng, digest = random.Random(size), hashlib.sha256()
    with path.open("wb") as file:
        for start in range(0, size, 1 << 20):
            data = rng.randbytes(min(1 << 20, size - start))
            digest.update(data)
            file.write(data)
    return digest.hexdigest()


def sync(path: Path) -> None:
    """Put what was written on the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


@contextlib.contextmanager
def serving(path: Path) -> Iterator[str]:
    """A server in a process of its own; its address."""
    argv = [sys.executable, "-I", "-S", HERE / "download_server.py", path]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        if server.stdin is None or server.stdout is None:
            raise SystemExit("The server has no pipes.")
        yield f"http://127.0.0.1:{server.stdout.readline().strip()}/source"
        server.stdin.close()


if __name__ == "__main__":
    main("download", __doc__, measure, runs=7)
