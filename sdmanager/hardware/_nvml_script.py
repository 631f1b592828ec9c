"""Asks NVIDIA's library what it knows, and writes each fact as a line of JSON.

Run as a script in a process of its own, because the library may hang or crash. Its only argument is the folder
with the module `pynvml`. What has been written counts, whatever happens next.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

_MOST_DEVICES = 64


class _Library:
    """The library, of which any function may be missing and any call may fail."""

    def __init__(self, module: Any, output: int) -> None:
        self._module = module
        self._output = output

    def say(self, **facts: object) -> None:
        os.write(self._output, json.dumps(facts).encode("ascii") + b"\n")

    def ask(self, name: str, *arguments: object) -> tuple[Any, int | None]:
        """What a function returns, and the number of its error."""
        try:
            return getattr(self._module, name)(*arguments), None
        except UnicodeDecodeError as exc:
            return exc.object, None
        except Exception as exc:  # noqa: BLE001 - whatever the binding raises costs one fact
            return None, _code(exc)


def _code(exc: Exception) -> int:
    value = getattr(exc, "value", None)
    return value if isinstance(value, int) else -1


def _text(value: object) -> str | None:
    if isinstance(value, bytes):
        return value.split(b"\0")[0].decode("utf-8", "replace")
    return value if isinstance(value, str) else None


def _address(pci: Any) -> str | None:
    # Made of its numbers: the text is decoded by the binding, which fails where it is nonsense.
    try:
        return f"{pci.domain:04x}:{pci.bus:02x}:{pci.device:02x}.0"
    except (AttributeError, TypeError, ValueError):
        return None


def _describe(library: _Library, device: Any) -> dict[str, object]:
    memory, memory_error = library.ask("nvmlDeviceGetMemoryInfo", device)
    return {
        "name": _text(library.ask("nvmlDeviceGetName", device)[0]),
        "total": getattr(memory, "total", None),
        "free": getattr(memory, "free", None),
        "memory_error": memory_error,
        "capability": library.ask("nvmlDeviceGetCudaComputeCapability", device)[0],
    }


def _profile(library: _Library, instance: Any) -> str | None:
    attributes, _ = library.ask("nvmlDeviceGetAttributes", instance)
    try:
        gigabytes = -(-attributes.memorySizeMB // 1024)
        return f"{attributes.gpuInstanceSliceCount}g.{gigabytes}gb"
    except (AttributeError, TypeError):
        return None


def _report(library: _Library, index: int) -> None:
    device, error = library.ask("nvmlDeviceGetHandleByIndex", index)
    if device is None:
        library.say(kind="lost", error=error)
        return
    address = _address(library.ask("nvmlDeviceGetPciInfo", device)[0])
    modes, _ = library.ask("nvmlDeviceGetMigMode", device)
    if not modes or modes[0] != 1:
        library.say(kind="gpu", pci=address, mig=False, **_describe(library, device))
        return
    whole = _describe(library, device)
    instances = 0
    for number in range(min(library.ask("nvmlDeviceGetMaxMigDeviceCount", device)[0] or 0, _MOST_DEVICES)):
        instance, _ = library.ask("nvmlDeviceGetMigDeviceHandleByIndex", device, number)
        if instance is None:
            continue
        facts = _describe(library, instance)
        facts["capability"] = facts["capability"] or whole["capability"]
        facts["name"] = facts["name"] or whole["name"]
        library.say(kind="gpu", pci=address, mig=True, profile=_profile(library, instance), **facts)
        instances += 1
    if not instances:
        # The memory of a card in this mode belongs to instances, and there are none.
        library.say(
            kind="gpu", pci=address, mig=True, empty=True, name=whole["name"], capability=whole["capability"]
        )


def _run(folder: str) -> None:
    # Libraries print, and what they print on stdout must not come between the facts.
    output = os.dup(1)
    os.dup2(2, 1)
    if sys.platform != "win32":
        import resource

        # A crash is expected of drivers, and must not leave a file in somebody's working directory.
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.path.append(folder)
    try:
        import pynvml  # type: ignore[import-untyped]
    except Exception:  # noqa: BLE001 - a broken installation is one without it
        os.write(output, b'{"kind": "missing"}\n')
        return
    library = _Library(pynvml, output)
    _, error = library.ask("nvmlInit")
    if error is not None:
        library.say(kind="init", error=error)
        return
    library.say(kind="driver", version=_text(library.ask("nvmlSystemGetDriverVersion")[0]))
    count, error = library.ask("nvmlDeviceGetCount")
    if count is None:
        library.say(kind="init", error=error)
        return
    for index in range(min(count, _MOST_DEVICES)):
        _report(library, index)
    library.say(kind="end")


if __name__ == "__main__":
    _run(sys.argv[1])
    # Not through the library's own clean-up: all is said.
    os._exit(0)
