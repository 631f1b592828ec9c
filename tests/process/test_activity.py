"""What a child and all that it started have done so far."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from sdmanager.process import Activity, activity

BUSY = "import sys, time\nwhile time.process_time() < 0.4: pass\nprint(flush=True); sys.stdin.read()"
PARENT = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {BUSY!r}])"


def seen_of(code: str) -> Activity | None:
    """What a child has done that runs this, prints a line, and waits for the end of its input."""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        assert child.stdin is not None
        child.stdout.readline()
        seen = activity(child.pid)
        child.stdin.close()
    return seen


def test_the_work_of_a_grandchild_counts() -> None:
    seen = seen_of(PARENT)
    assert seen is not None
    # The kernel counts in ticks of 10 ms, user and system time apart, and the grandchild used 400 ms.
    assert seen.cpu_seconds >= 0.2


def test_reading_counts(tmp_path: Path) -> None:
    large = tmp_path / "large"
    large.write_bytes(bytes(3_000_000))
    seen = seen_of(f"import sys\nopen({str(large)!r}, 'rb').read(); print(flush=True); sys.stdin.read()")
    assert seen is not None
    assert seen.read_bytes >= 3_000_000


def test_a_process_that_is_gone_has_none() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    assert activity(child.pid) is None
