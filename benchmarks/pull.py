"""A pull, with its digest checked, against huggingface_hub alone in a process of its own, from one local hub."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import random
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from _common import Figure, Options, Report, by_turns, main, spread

from sdmanager.models import CatalogFile, ModelDefaults, Role
from sdmanager.models.pull import pull_files
from sdmanager.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HERE = Path(__file__).parent
SIZE, QUICK_SIZE = 1 << 30, 3_000_000
RATE = 100.0
RATIO = 1.05
REPO, NAME = "org/model", "model.safetensors"

BARE = "import sys; from huggingface_hub import hf_hub_download; hf_hub_download(sys.argv[1], sys.argv[2])"


def measure(options: Options) -> Report:
    """Each by turns into an empty cache; a worker process of ours against a process of the library's."""
    size = QUICK_SIZE if options.quick else SIZE
    figures: dict[str, Figure] = {}
    details: dict[str, object] = {"file_mb": size / 1e6}
    with tempfile.TemporaryDirectory(prefix="sdmanager-bench-") as name:
        source, scratch = Path(name, "source"), Path(name, "scratch")
        digest = make_file(source, size)
        # Ours imports the library in its worker alone, so that both begin with a new process.
        for label, rate in (("unlimited", 0.0), ("100_mb_per_s", RATE)):
            with serving(source, digest, rate) as endpoint:
                bare, hashed, ours = by_turns(
                    options.runs, sides(endpoint, scratch, digest, source.stat().st_size)
                )
            medians = [statistics.median(side) for side in (bare, hashed, ours)]
            figures[f"pull_to_library_{label}"] = Figure(medians[2] / medians[0], "ratio", at_most=RATIO)
            figures[f"pull_to_library_and_sha256sum_{label}"] = Figure(medians[2] / medians[1], "ratio")
            details[f"{label}_seconds"] = {
                "library": spread(bare),
                "library_and_sha256sum": spread(hashed),
                "ours": spread(ours),
            }
    return Report(figures, details)


def sides(endpoint: str, scratch: Path, digest: str, size: int) -> list[Callable[[], float]]:
    """The library alone, the library and then ``sha256sum``, and a pull."""
    own = {"HF_ENDPOINT": endpoint, "HF_HOME": str(scratch / "hf"), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    os.environ.update(own)
    for proxy in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        os.environ.pop(proxy, None)
        os.environ.pop(proxy.lower(), None)

    def timed(work: Callable[[], object]) -> float:
        began = time.perf_counter()
        work()
        seconds = time.perf_counter() - began
        shutil.rmtree(scratch)
        return seconds

    def library() -> None:
        subprocess.run([sys.executable, "-c", BARE, REPO, NAME], check=True)

    def library_and_digest() -> None:
        library()
        blob = scratch / "hf" / "hub" / "models--org--model" / "blobs" / digest
        said = subprocess.run(["sha256sum", blob], check=True, stdout=subprocess.PIPE).stdout
        assert said.split()[0].decode() == digest

    def pull() -> None:
        settings = Settings(scratch / "data", scratch / "cache", scratch / "state")
        file = CatalogFile(Role.MODEL, REPO, NAME, size=size, sha256=digest)
        task = pull_files(
            "model",
            [file],
            settings,
            defaults=ModelDefaults(),
            family=None,
            on_progress=lambda _: None,
        )
        assert asyncio.run(task).files[0].sha256 == digest

    return [lambda: timed(library), lambda: timed(library_and_digest), lambda: timed(pull)]


def make_file(path: Path, size: int) -> str:
    """Write a safetensors file of one tensor of noise.

    Returns:
        Its SHA-256.
    """
    header = json.dumps({"noise": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    rng, digest = random.Random(size), hashlib.sha256()
    with path.open("wb") as file:
        for data in (struct.pack("<Q", len(header)), header):
            digest.update(data)
            file.write(data)
        for start in range(0, size, 1 << 20):
            data = rng.randbytes(min(1 << 20, size - start))
            digest.update(data)
            file.write(data)
    return digest.hexdigest()


@contextlib.contextmanager
def serving(path: Path, digest: str, rate: float) -> Iterator[str]:
    """A hub in a process of its own; its address."""
    argv = [sys.executable, "-I", "-S", HERE / "pull_server.py", path, digest, str(rate)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        if server.stdin is None or server.stdout is None:
            raise SystemExit("The server has no pipes.")
        yield f"http://127.0.0.1:{server.stdout.readline().strip()}"
        server.stdin.close()


if __name__ == "__main__":
    main("pull", __doc__, measure, runs=5)
