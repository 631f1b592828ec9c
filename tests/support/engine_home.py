"""Where the engine of the tests is kept: a folder in the user's cache, named by all that the build depends on.

Standard library only: `.ci/run` asks before anything is installed (`python3 tests/support/engine_home.py`).
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
from pathlib import Path

MANIFEST = Path(__file__).parents[2] / "binaries.json"


def engine_home() -> Path:
    """The folder; pinned source, compiler and processor are in its name."""
    compiler = shutil.which("c++") or "none"
    version = subprocess.run([compiler, "--version"], capture_output=True, check=False).stdout
    flags = b""
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_bytes().splitlines()
        flags = next((line for line in lines if line.startswith((b"flags", b"Features"))), b"")
    # Of the file, only what is built counts: new pins of release archives change nothing here.
    sources = json.dumps(json.loads(MANIFEST.read_bytes())["source"], sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256()
    for part in (sources.encode(), version, flags, platform.machine().encode()):
        digest.update(hashlib.sha256(part).digest())
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "sdmanager-tests" / digest.hexdigest()[:16]


if __name__ == "__main__":
    print(engine_home())
