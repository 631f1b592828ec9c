"""What this machine has: processor, memory, graphics cards and their drivers.

Drivers are asked in a process of their own and with a time limit, because they hang and crash. What could
not be found out is None, and `HardwareSnapshot.problems` says why.
"""

from __future__ import annotations

from ._fingerprint import hardware_fingerprint as hardware_fingerprint
from ._system import current_platform as current_platform
from ._system import ram_now as ram_now
from .snapshot import Gpu as Gpu
from .snapshot import HardwareSnapshot as HardwareSnapshot
from .snapshot import Vendor as Vendor
from .taking import take_snapshot as take_snapshot
from .watching import VramWatch as VramWatch
from .watching import watch_vram as watch_vram

__all__ = (
    "Gpu",
    "HardwareSnapshot",
    "Vendor",
    "VramWatch",
    "current_platform",
    "hardware_fingerprint",
    "ram_now",
    "take_snapshot",
    "watch_vram",
)
