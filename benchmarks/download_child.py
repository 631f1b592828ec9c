"""One download, timed within its own process: `URL TARGET SHA256 SIZE`; prints seconds and the growth of memory."""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import time
from pathlib import Path

import requests  # noqa: F401 - so that loading it is not taken for memory of the download

from sdmanager.download import download

url, target, sha256, size = sys.argv[1:]
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
began = time.perf_counter()
asyncio.run(download(url, Path(target), sha256=sha256, size=int(size), on_progress=lambda _: None))
seconds = time.perf_counter() - began
growth = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(json.dumps({"seconds": seconds, "growth_mib": growth / 1024}))
