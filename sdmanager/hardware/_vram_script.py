"""Says what a process and its descendants have of graphics memory, for as long as it is run.

Run as a script in a process of its own, because drivers hang and crash. Its arguments are the process and the folder
that stands for ``/``. A line ``own N`` is the most bytes they had together, by what the driver says of each process;
``grown N`` is by how much the use of one card has grown at most since the first look, whoever grew it.

It imports little: it is started with each picture, and its start counts for what looking costs.
"""

# pathlib, typing and re would double the time to start.
# ruff: noqa: PTH110, PTH115, PTH118, PTH208
from __future__ import annotations

import ctypes
import os
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_EVERY = 0.1
_LONGEST = 2.0
# Of a core; where a look takes long, the next one waits longer.
_SHARE = 0.005

_MOST_DEVICES = 64
_MOST_PROCESSES = 1 << 16
_TOO_SMALL = 7
_NOT_AVAILABLE = (1 << 64) - 1
_LIBRARIES = (
    ("nvml.dll", "%WINDIR%\\System32\\nvml.dll", "%ProgramFiles%\\NVIDIA Corporation\\NVSMI\\nvml.dll")
    if sys.platform == "win32"
    else ("libnvidia-ml.so.1",)
)
_UNITS = {b"B": 1, b"KiB": 1 << 10, b"MiB": 1 << 20, b"GiB": 1 << 30}
# Regions that are a card's own memory, as the drivers of AMD (vram) and Intel (vram0, local0) call them.
_REGIONS = (b"vram", b"local")
# What is there counts before what may be; the second is what older kernels call the first.
_KEYS = (b"resident", b"memory", b"total")


class _Memory(ctypes.Structure):
    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


class _Process(ctypes.Structure):
    _fields_ = (
        ("pid", ctypes.c_uint),
        ("used", ctypes.c_ulonglong),
        ("gpu_instance", ctypes.c_uint),
        ("compute_instance", ctypes.c_uint),
    )


class _Nvidia:
    """The cards that NVIDIA's library offers; of a card that is partitioned, its instances."""

    def __init__(self) -> None:
        self._library: Any = None
        self._room = 256
        self.devices: list[Any] = []
        for name in _LIBRARIES:
            try:
                self._library = ctypes.CDLL(os.path.expandvars(name))
                break
            except OSError:
                continue
        if self._library is None:
            return
        if self._call("nvmlInitWithFlags", 0) and self._call("nvmlInit_v2"):
            return
        count = ctypes.c_uint()
        if not self._call("nvmlDeviceGetCount_v2", ctypes.byref(count)):
            for index in range(min(count.value, _MOST_DEVICES)):
                self._add(index)

    def used(self) -> dict[str, int]:
        found = {}
        for index, device in enumerate(self.devices):
            memory = _Memory()
            if not self._call("nvmlDeviceGetMemoryInfo", device, ctypes.byref(memory)):
                found[f"nvidia {index}"] = memory.used
        return found

    def own(self, pids: set[int]) -> int | None:
        found: dict[tuple[int, int], int] = {}
        for index, device in enumerate(self.devices):
            for kind in ("Compute", "Graphics"):
                # A process that does both is in both lists, with the same figure.
                for pid, used in self._processes(kind, device):
                    if pid in pids:
                        found[index, pid] = max(found.get((index, pid), 0), used)
        return sum(found.values()) if found else None

    def _add(self, index: int) -> None:
        device, instances, now, then = ctypes.c_void_p(), ctypes.c_uint(), ctypes.c_uint(), ctypes.c_uint()
        if self._call("nvmlDeviceGetHandleByIndex_v2", index, ctypes.byref(device)):
            return
        modes = (ctypes.byref(now), ctypes.byref(then))
        if self._call("nvmlDeviceGetMigMode", device, *modes) or now.value != 1:
            self.devices.append(device)
            return
        if self._call("nvmlDeviceGetMaxMigDeviceCount", device, ctypes.byref(instances)):
            return
        for number in range(min(instances.value, _MOST_DEVICES)):
            instance = ctypes.c_void_p()
            if not self._call("nvmlDeviceGetMigDeviceHandleByIndex", device, number, ctypes.byref(instance)):
                self.devices.append(instance)

    def _processes(self, kind: str, device: Any) -> list[tuple[int, int]]:
        while self._room <= _MOST_PROCESSES:
            count, room = ctypes.c_uint(self._room), (_Process * self._room)()
            error = self._list(kind, device, count, room)
            if error != _TOO_SMALL:
                told = room[: min(count.value, self._room)] if error == 0 else []
                return [(each.pid, each.used) for each in told if each.used != _NOT_AVAILABLE]
            self._room *= 4
        return []

    def _list(self, kind: str, device: Any, count: ctypes.c_uint, room: Any) -> int | None:
        error = None
        for version in ("_v3", "_v2"):  # the same structure
            error = self._call(
                f"nvmlDeviceGet{kind}RunningProcesses{version}", device, ctypes.byref(count), room
            )
            if error is not None:
                break
        return error

    def _call(self, name: str, *arguments: Any) -> int | None:
        """The number of its error; None where there is no such function."""
        try:
            function = getattr(self._library, name)
        except AttributeError:
            return None
        return int(function(*arguments))


class _Kernel:
    """Cards by what the drivers of Linux itself say in files."""

    def __init__(self, root: str) -> None:
        self._root = root
        devices = os.path.join(root, "sys/bus/pci/devices")
        paths = (os.path.join(devices, name, "mem_info_vram_used") for name in _names(devices))
        self.devices = [path for path in paths if os.path.exists(path)]

    def used(self) -> dict[str, int]:
        found = {path: _read(path).strip() for path in self.devices}
        return {path: int(text) for path, text in found.items() if text.isdigit()}

    def own(self, pids: set[int]) -> int | None:
        clients: dict[tuple[bytes, ...], int] = {}
        computing: list[int] = []
        for pid in pids:
            for text in self._descriptions(pid):
                client, size = _client(text)
                if size is not None:
                    # A descriptor that was duplicated, or given to a child, is the same client.
                    clients[client] = size
            computing += self._computing(pid)
        found = [sum(each) for each in (clients.values(), computing) if each]
        return max(found) if found else None

    def _descriptions(self, pid: int) -> list[bytes]:
        """What is said of each descriptor of a card."""
        folder = os.path.join(self._root, f"proc/{pid}")
        found = []
        for name in _names(f"{folder}/fd"):
            try:
                if os.readlink(f"{folder}/fd/{name}").startswith("/dev/dri/"):
                    found.append(_read(f"{folder}/fdinfo/{name}"))
            except OSError:
                continue
        return found

    def _computing(self, pid: int) -> list[int]:
        """What AMD's driver for computing says."""
        folder = os.path.join(self._root, f"sys/class/kfd/kfd/proc/{pid}")
        texts = [_read(f"{folder}/{name}").strip() for name in _names(folder) if name.startswith("vram_")]
        return [int(text) for text in texts if text.isdigit()]


def _client(text: bytes) -> tuple[tuple[bytes, ...], int | None]:
    """Who has a descriptor, and how many bytes of the card's own memory; see drm-usage-stats of the kernel."""
    client: list[bytes] = []
    sizes: dict[bytes, dict[bytes, int]] = {}
    for line in text.splitlines():
        name, _, value = line.partition(b":")
        words = value.split()
        if name in {b"drm-client-id", b"drm-pdev"}:
            client += words
        drm, key, region = (*name.split(b"-", 2), b"", b"")[:3]
        if drm == b"drm" and key in _KEYS and region.rstrip(b"0123456789") in _REGIONS:
            unit = _UNITS.get(words[1] if len(words) > 1 else b"B")
            if words and words[0].isdigit() and unit:
                sizes.setdefault(region, {})[key] = int(words[0]) * unit
    found = [next(each[key] for key in _KEYS if key in each) for each in sizes.values()]
    return tuple(client), sum(found) if found else None


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _read(path: str) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return b""
    try:
        return os.read(descriptor, 1 << 16)
    except OSError:
        return b""
    finally:
        os.close(descriptor)


def _family(root: str, pid: int) -> set[int]:
    """A process and, where the kernel lists them, its descendants."""
    found, waiting = {pid}, [pid]
    while waiting:
        parent = waiting.pop()
        for text in _read(os.path.join(root, f"proc/{parent}/task/{parent}/children")).split():
            child = int(text)
            if child not in found:
                found.add(child)
                waiting.append(child)
    return found


def _watch(pid: int, root: str, output: int) -> None:
    sources: list[_Nvidia | _Kernel] = [each for each in (_Nvidia(), _Kernel(root)) if each.devices]
    if not any(isinstance(each, _Kernel) for each in sources) and _names(os.path.join(root, "dev/dri")):
        sources.append(_Kernel(root))
    first: dict[str, int] = {}
    own_most, grown_most = 0, -1  # so that the first look is told
    while sources:
        began = time.process_time()
        family = _family(root, pid)
        owned = [own for each in sources if (own := each.own(family)) is not None]
        used = {name: size for each in sources for name, size in each.used().items()}
        grown = max((size - first.setdefault(name, size) for name, size in used.items()), default=0)
        if sum(owned) > own_most:
            own_most = sum(owned)
            os.write(output, b"own %d\n" % own_most)
        if grown > grown_most:
            grown_most = grown
            os.write(output, b"grown %d\n" % grown_most)
        time.sleep(min(max((time.process_time() - began) / _SHARE, _EVERY), _LONGEST))


def _run(pid: int, root: str) -> None:
    # Libraries print, and what they print on stdout must not come between the lines.
    output = os.dup(1)
    os.dup2(2, 1)
    if sys.platform != "win32":
        import resource

        # A crash is expected of drivers, and must not leave a file in somebody's working directory.
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _watch(pid, root, output)


if __name__ == "__main__":
    _run(int(sys.argv[1]), sys.argv[2])
    # Not through the library's own clean-up: all is said.
    os._exit(0)
