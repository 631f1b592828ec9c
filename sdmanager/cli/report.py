"""The lines of ``sdmanager doctor``, from its facts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from .aside import described
from .output import counted, megabytes, printable

if TYPE_CHECKING:
    from collections.abc import Iterator

_WIDTH: Final = 11
_RUNS_MAX: Final = 12
_OUTCOMES: Final = {
    "proven": "works",
    "unproven": "unproven",
    "failed": "does not work",
    "later": "could not be tested and will be tried again",
    "unavailable": "cannot be built yet",
}


def report(facts: dict[str, Any]) -> Iterator[str]:
    """What people read: one fact a line, named at its start."""
    hardware = facts["hardware"]
    yield f"sdmanager {facts['sdmanager']}, Python {facts['python']}, {hardware['system']} ({hardware['platform']})"
    yield _line("Processor", _processor(hardware))
    yield _line("Memory", _memory(hardware))
    yield from _listed("Graphics", [_gpu(gpu) for gpu in hardware["gpus"]] or ["no graphics card found"])
    yield from _listed("Problems", hardware["problems"])
    yield from _listed("Disk", _disk(facts["disk"]))
    yield from _listed("Models", [*_models(facts)] or ["none"])
    yield from _listed("Set", [", ".join(facts["environment"])] if facts["environment"] else [])
    yield _line("Engine", _engine(facts["engine"], own=bool(facts.get("ownEngine"))))
    yield from _listed("Put aside", [described(each) for each in facts["aside"]])
    yield from _learned(facts["memory"])
    yield ""
    if facts.get("manifestError"):
        yield facts["manifestError"]
        return
    own = ", not used: your own engine is named" if facts["ownEngine"] else ""
    yield f"Candidates, the best first (release {facts['release']}){own}:"
    for candidate in facts["candidates"]:
        yield from _candidate(candidate)
    if any(c["tested"] and c["tested"]["outcome"] == "failed" for c in facts["candidates"]):
        yield "  After a change that is not noticed, such as a package or a variable: sdmanager engine install --force"
    if facts.get("note"):
        yield f"  {facts['note']}"


def _line(name: str, text: str) -> str:
    return f"{name:<{_WIDTH}}{text}"


def _listed(name: str, items: list[str]) -> Iterator[str]:
    for index, item in enumerate(items):
        yield _line("" if index else name, item)


def _disk(disk: dict[str, Any]) -> list[str]:
    free, hub_free = (
        megabytes(disk[key]) if disk[key] is not None else "unknown" for key in ("free", "hubCacheFree")
    )
    taken = ", ".join(f"{name} {megabytes(disk[name])}" for name in ("engines", "models", "downloads"))
    return [
        f"{free} free; {taken}",
        f"{hub_free} free for Hugging Face's cache; models that were pulled {megabytes(disk['pulled'])}",
    ]


def _models(facts: dict[str, Any]) -> Iterator[str]:
    for model in facts["models"]:
        state = "" if model["state"] == "ok" else f", files {model['state']}"
        yield f"{model['name']} ({megabytes(model['size'])}){state}"
    for name in facts["unreadableModels"]:
        yield f"{printable(name)}, its record cannot be read"


def _learned(runs: list[dict[str, Any]]) -> Iterator[str]:
    """What runs used, by model, size, engine and memory flags."""
    if runs:
        yield ""
        yield "Memory that runs used, the newest first:"
    for run in runs[:_RUNS_MAX]:
        what = " ".join(
            [f"{printable(run['model'])} {run['width']}x{run['height']},", run["backend"], *_flags(run)]
        )
        yield f"  {what}: {', '.join(_used(run))}"
    if len(runs) > _RUNS_MAX:
        yield f"  and {len(runs) - _RUNS_MAX} more: --json has them"


def _flags(run: dict[str, Any]) -> list[str]:
    """Its memory flags, as the command line has them."""
    named = [] if run["flags"] == "plain" else run["flags"].split(",")
    return [f"--{flag.replace('=', ' ')}" for flag in named]


def _used(run: dict[str, Any]) -> Iterator[str]:
    for key, name in (("ram", "RAM"), ("vram", "VRAM")):
        if run[key] is not None:
            yield f"{megabytes(run[key])} {name}"
    if run["runs"]:
        yield counted(run["runs"], "run")
    for key, name in (("tooSmallRam", "RAM"), ("tooSmallVram", "VRAM")):
        if run[key] is not None:
            yield f"ran out of memory with {megabytes(run[key])} {name} free"
    if run["recommended"]:
        yield "recommended"


def _processor(hardware: dict[str, Any]) -> str:
    counts = [f"{hardware[name]} {name}" for name in ("cores", "threads") if hardware[name]]
    return ", ".join([hardware["cpu"] or "unknown", *counts])


def _memory(hardware: dict[str, Any]) -> str:
    parts = [
        f"{megabytes(hardware[key])} {what}"
        for key, what in (("ramTotal", "RAM"), ("ramAvailable", "available"))
        if hardware[key] is not None
    ]
    return ", ".join(parts) or "unknown"


def _gpu(gpu: dict[str, Any]) -> str:
    name = gpu["name"] or f"{gpu['vendor'] or 'unknown'} card"
    total, free = gpu["totalVram"], gpu["freeVram"]
    vram = f"{megabytes(total)} VRAM" if total is not None else "VRAM unknown"
    if gpu["unifiedMemory"]:
        vram = "shares RAM"
    parts = [name, vram]
    if free is not None:
        parts.append(f"{megabytes(free)} free")
    parts.append(f"driver {gpu['driver']}" if gpu["driver"] else "no driver")
    return ", ".join(parts)


def _engine(engine: dict[str, Any], *, own: bool) -> str:
    if engine["problem"]:
        return f"your own, does not work: {engine['problem']}" if own else str(engine["problem"])
    if "proof" not in engine:
        what = "your own, not tested yet" if own else "not chosen yet"
        return f"{what}: 'sdmanager engine install' does, or the first picture"
    proof = engine["proof"]
    what = f"{engine['variant']} {engine['version']} ({engine['source']})"
    if not proof["proven"]:
        return f"{what}, unproven: {proof['note']}"
    device = f" on {proof['device']}" if proof["device"] else ""
    slow = ", which is slow" if proof["slow"] else ""
    drew = f"{proof['width']}x{proof['height']} with '{proof['model']}'{device} in {proof['seconds']:.1f} s{slow}"
    return f"{what}, works: drew {drew}"


def _candidate(candidate: dict[str, Any]) -> Iterator[str]:
    state = "in " if candidate["usable"] else "out"
    installed = ", installed" if candidate["installed"] else ""
    name = f"{candidate['variant']:<7} {candidate['version']:<20} {candidate['source']}{installed}"
    yield f"  {state} {name}: {candidate['reason']}"
    tested = candidate["tested"]
    if tested is not None:
        took = f" in {tested['seconds']} s" if tested["seconds"] is not None else ""
        why = f": {tested['reason']}" if tested["reason"] else ""
        outcome = _OUTCOMES[tested["outcome"]]
        yield f"        tested {tested['at'][:16]}: {outcome}{took}{why}"
        if tested["hint"]:
            yield f"        {tested['hint']}"
