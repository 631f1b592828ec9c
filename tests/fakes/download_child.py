"""A process that downloads one file: `URL TARGET SHA256 SIZE`; it prints the progress that it is told of."""

import asyncio
import sys
from pathlib import Path

from sdmanager.download import Patience, download

url, target, sha256, size = sys.argv[1:]
asyncio.run(
    download(
        url,
        Path(target),
        sha256=sha256,
        size=int(size) if size != "None" else None,
        on_progress=lambda progress: print(progress.done, progress.resumed, flush=True),
        patience=Patience(first_pause=0.01),
    )
)
