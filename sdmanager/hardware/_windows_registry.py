from __future__ import annotations

import sys

assert sys.platform == "win32"  # noqa: S101 - for the type checker

import winreg  # noqa: E402 - not there for any other


class SystemRegistry:
    """HKEY_LOCAL_MACHINE of this machine. See `_windows.Registry`."""

    def names(self, key: str) -> list[str]:
        try:
            with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, key) as opened:
                return [winreg.EnumKey(opened, number) for number in range(winreg.QueryInfoKey(opened)[0])]
        except OSError:
            return []

    def value(self, key: str, name: str) -> object:
        try:
            with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, key) as opened:
                value: object = winreg.QueryValueEx(opened, name)[0]
                return value
        except OSError:
            return None
