from __future__ import annotations

import errno
import os
import shutil
import stat
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_ELF = b"\x7fELF"
_MACH_O = frozenset(
    bytes.fromhex(magic) for magic in ("cafebabe", "cafebabf", "feedface", "feedfacf", "cefaedfe", "cffaedfe")
)
# Machines whose kernel also runs the other's programs: x86-64 and i386, AArch64 and Arm.
_SIBLINGS = frozenset({frozenset({62, 3}), frozenset({183, 40})})
_BINFMT = Path("/proc/sys/fs/binfmt_misc")


def resolve(program: str, cwd: Path | None, env: Mapping[str, str]) -> str:
    """Return the absolute path of a program that can be executed, or raise what executing it would.

    A shell between us and the program turns these errors into exit codes, and a file that the kernel does not
    know into a shell script: dash reads a foreign executable line by line. So they are found out before.
    """
    if os.path.dirname(program):  # noqa: PTH120 - Path would drop a leading "./"
        path = os.path.abspath(Path(cwd or ".") / program)  # noqa: PTH100 - resolving links changes argv[0]
    else:
        found = shutil.which(program, path=env.get("PATH", os.defpath)) if program else None
        if found is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), program)
        path = os.path.abspath(found)  # noqa: PTH100
    if not stat.S_ISREG(os.stat(path).st_mode) or not os.access(path, os.X_OK):  # noqa: PTH116
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
    if not _is_known_format(path):
        raise OSError(errno.ENOEXEC, os.strerror(errno.ENOEXEC), path)
    return path


def _is_known_format(path: str) -> bool:
    header = _header(path)
    if header is None or header.startswith(b"#!"):
        return True
    kind, native = _kind(header), _kind(_header("/bin/sh") or b"")
    if native is None or kind == native or frozenset({kind, native}) in _SIBLINGS:
        return True
    # Registered formats (an emulator, Wine) have rules of their own; let the kernel decide.
    try:
        return any(entry.name not in {"register", "status"} for entry in _BINFMT.iterdir())
    except OSError:
        return False


def _header(path: str) -> bytes | None:
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            return file.read(20)
    except OSError:  # executable but not readable
        return None


def _kind(header: bytes) -> int | str | None:
    if header.startswith(_ELF) and len(header) == 20:
        return int.from_bytes(header[18:20], "big" if header[5] == 2 else "little")
    return "mach-o" if header[:4] in _MACH_O else None
