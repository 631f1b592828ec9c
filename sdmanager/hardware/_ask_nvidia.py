"""Asking NVIDIA's library, or where that cannot be, its tool."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ._collect import Answer, collect
from ._nvidia import (
    MISMATCH,
    NO_LIBRARY,
    NOT_LOADED,
    SMI_FIELDS,
    SMI_OLD_FIELDS,
    NvidiaAnswer,
    parse_library,
    parse_smi,
    reason_for,
)

if TYPE_CHECKING:
    from ._machine import Machine

_SCRIPT = Path(__file__).with_name("_nvml_script.py")


async def ask_nvidia(machine: Machine, limit: float) -> NvidiaAnswer:
    """What can be learned in so many seconds; nothing is raised.

    If cancelled, every process is dead before CancelledError goes on.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + limit
    answer = await _ask_library(machine, limit)
    if answer is None:
        answer = await _ask_tool(machine, deadline)
    if answer is None:
        return NvidiaAnswer(absent=True, problems=(reason_for(NO_LIBRARY),))
    return answer


async def _ask_library(machine: Machine, limit: float) -> NvidiaAnswer | None:
    """The library's answer, or None where there is none to ask."""
    if machine.python is None or machine.bindings is None or not _SCRIPT.is_file():
        return None
    # Nothing of the interpreter's surroundings is run: neither .pth files nor what the user customised.
    argv: list[str | Path] = [machine.python, "-I", "-S", _SCRIPT, machine.bindings]
    try:
        said = await collect(argv, environ=machine.library_environ, limit=limit, guard=machine.guard)
    except OSError as exc:
        return NvidiaAnswer(
            problems=(f"the NVIDIA driver could not be asked ({exc.strerror or 'no process'})",)
        )
    answer = parse_library(said.output)
    if answer is None or answer.complete or answer.problems:
        return answer
    return replace(answer, problems=(_why_incomplete(said, limit),))


async def _ask_tool(machine: Machine, deadline: float) -> NvidiaAnswer | None:
    """The answer of ``nvidia-smi``, or None where it is not there."""
    for fields in (SMI_FIELDS, SMI_OLD_FIELDS):
        limit = deadline - asyncio.get_running_loop().time()
        argv: list[str | Path] = [
            "nvidia-smi",
            f"--query-gpu={','.join(fields)}",
            "--format=csv,noheader,nounits",
        ]
        try:
            said = await collect(argv, environ=machine.library_environ, limit=limit, guard=machine.guard)
        except OSError:
            return None
        gpus = parse_smi(said.output, fields)
        if gpus:
            whole = said.status is not None and said.status.ok
            problems = () if whole else (_why_incomplete(said, limit),)
            return NvidiaAnswer(gpus, gpus[0].driver, complete=whole, problems=problems)
        # Fields that an older tool does not know are refused all together.
        if b"not a valid field" not in (said.output + said.messages).lower():
            return _tool_failure(said, limit)
    return None


def _tool_failure(said: Answer, limit: float) -> NvidiaAnswer:
    text = (said.output + said.messages).lower()
    code = said.status.code if said.status else None
    if b"no devices were found" in text or (code == 0 and not text.strip()):
        return NvidiaAnswer(complete=True)
    # The tool ends with the number of the library's error.
    if code == MISMATCH or b"version mismatch" in text:
        return NvidiaAnswer(problems=(reason_for(MISMATCH),))
    if code in {NOT_LOADED, NO_LIBRARY}:
        return NvidiaAnswer(absent=True, problems=(reason_for(code),))
    return NvidiaAnswer(problems=(_why_incomplete(said, limit),))


def _why_incomplete(said: Answer, limit: float) -> str:
    if said.status is None:
        return f"the NVIDIA driver did not answer within {max(round(limit, 1), 0.1):g} s"
    if said.status.signal is not None:
        return f"the NVIDIA driver's library crashed (signal {said.status.signal})"
    if said.status.code:
        return f"the NVIDIA driver's library ended its probe (exit code {said.status.code})"
    return "the NVIDIA driver gave no usable answer"
