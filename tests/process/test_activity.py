"""What a child and all that it started have done so far."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from sdmanager.process import activity

BUSY = "import sys, time\nwhile time.process_time() < 0.4: pass\nprint(flush=True); sys.stdin.read()"
PARENT = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {BUSY!r}])"


def test_the_work_of_a_grandchild_counts() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        assert child.stdin is not None
        child.stdout.readline()
        seen = activity(child.pid)
        child.stdin.close()
    assert seen is not None
    # The kernel counts in ticks of 10 ms, user and system time apart, and the grandchild used 400 ms.
    assert seen.cpu_seconds >= 0.2


def test_reading_counts(tmp_path: Path) -> None:
    large = tmp_path / "large"
    large.write_bytes(bytes(3_000_000))
    code = f"import sys\nopen({str(large)!r}, 'rb').read(); print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        assert child.stdin is not None
        child.stdout.readline()
        seen = activity(child.pid)
        child.stdin.close()
    assert seen is not None
    assert seen.read_bytes >= 3_000_000


def test_a_process_that_is_gone_has_none() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    assert activity(child.pid) is None
