from __future__ import annotations

import sys

if sys.platform == "win32":
    from ._windows import kill_group as kill_group
    from ._windows import start as start
else:
    from ._posix import kill_group as kill_group
    from ._posix import start as start
