"""What `import sdmanager` and `sdmanager --version` cost beyond the interpreter."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

from _common import ROOT, Figure, Options, Report, in_turn, main

IMPORT_MS = 60.0
VERSION_MS = 150.0


def measure(options: Options) -> Report:
    """Either against an interpreter that does nothing, by turns."""
    python = [sys.executable, "-c"]
    script = Path(sys.executable).with_name("sdmanager")
    command = [str(script)] if script.exists() else [sys.executable, "-m", "sdmanager"]
    report = Report()
    for name, argv, target in (
        ("import_sdmanager", [*python, "import sdmanager"], IMPORT_MS),
        ("sdmanager_version", [*command, "--version"], VERSION_MS),
        ("from_sdmanager_import_generate_image", [*python, "from sdmanager import generate_image"], None),
    ):
        run(argv)
        pairs = in_turn(options.runs, partial(run, [*python, "pass"]), partial(run, argv))
        report.figures[f"{name}_added"] = Figure(pairs.added_ms, "ms", at_most=target)
        report.details[name] = pairs.to_json()
    report.details["slowest_imports_ms"] = {
        "import_sdmanager": slowest_imports("import sdmanager"),
        "sdmanager_version": slowest_imports("import sdmanager.cli"),
        "generate_image": slowest_imports("from sdmanager import generate_image"),
    }
    return report


def run(argv: list[str]) -> float:
    """Seconds from start to end."""
    began = time.perf_counter()
    subprocess.run(argv, stdout=subprocess.DEVNULL, cwd=ROOT, env=environment(), check=True)
    return time.perf_counter() - began


def slowest_imports(statement: str, count: int = 5) -> dict[str, float]:
    """The modules that cost most by themselves, without those that they import in turn."""
    argv = [sys.executable, "-X", "importtime", "-c", statement]
    said = subprocess.run(argv, capture_output=True, text=True, cwd=ROOT, env=environment(), check=True)
    found = re.findall(r"^import time:\s+(\d+) \|\s+\d+ \|\s+(\S+)$", said.stderr, re.MULTILINE)
    own = sorted(((int(microseconds) / 1e3, name) for microseconds, name in found), reverse=True)
    return {name: milliseconds for milliseconds, name in own[:count]}


def environment() -> dict[str, str]:
    """Without what could change how the interpreter starts."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


if __name__ == "__main__":
    main("startup", __doc__, measure, runs=25)
