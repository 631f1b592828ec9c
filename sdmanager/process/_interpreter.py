from __future__ import annotations

import re
import sys
from pathlib import Path


def this_interpreter() -> Path | None:
    """The Python interpreter that runs this process, or None where the process is some other program."""
    return find_interpreter(sys.executable, frozen=hasattr(sys, "frozen"))


def find_interpreter(executable: str | None, *, frozen: bool) -> Path | None:
    """The same from what ``sys`` says."""
    # An application with Python inside names itself here: run, it would open a second time.
    if frozen or not executable or not re.match(r"python|pypy", Path(executable).name, re.IGNORECASE):
        return None
    return Path(executable)
