"""The only place that starts processes and sends signals.

`spawn` owns a child for the length of a block, `run` collects the output of a short one, and
`ProcessRecord` remembers a process across a crash of the manager.
"""

from __future__ import annotations

from ._activity import Activity, activity
from ._child import Child, spawn
from ._environment import child_environment
from ._interpreter import this_interpreter
from ._records import ProcessRecord
from ._run import run
from ._types import Completed, ExitStatus, StopOutcome

__all__ = (
    "Activity",
    "Child",
    "Completed",
    "ExitStatus",
    "ProcessRecord",
    "StopOutcome",
    "activity",
    "child_environment",
    "run",
    "spawn",
    "this_interpreter",
)
