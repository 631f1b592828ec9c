"""All benchmarks, one after the other: every figure with its target, and which targets were missed."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

NAMES = (
    "startup",
    "guard",
    "kills",
    "parser",
    "overhead",
    "batch",
    "latency",
    "ensure",
    "download",
    "extraction",
    "server_start",
    "server_requests",
    "server_push",
    "server_memory",
    "a1111",
    "openai_api",
    "history",
    "page",
    "inspection",
    "models_list",
    "pull",
    "planning",
    "sampling",
    "lease",
)


def main() -> None:
    """Run each in a process of its own and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=None, metavar="N", help="for each; default: its own")
    parser.add_argument("--quick", action="store_true", help="only show that the scripts work")
    arguments = parser.parse_args()
    options = ["--quick"] if arguments.quick else []
    options += ["--runs", str(arguments.runs)] if arguments.runs else []
    reports = {name: run(name, options) for name in NAMES}
    figures = {
        f"{name}.{key}": figure
        for name, report in reports.items()
        for key, figure in report["figures"].items()
    }
    missed = [key for key, figure in figures.items() if figure.get("met") is False]
    print(json.dumps({"figures": figures, "missed": missed, "reports": reports}, indent=1))


def run(name: str, options: list[str]) -> dict[str, dict[str, dict[str, object]]]:
    """What one benchmark printed."""
    print(f"{name} …", file=sys.stderr, flush=True)
    argv = [sys.executable, str(Path(__file__).with_name(f"{name}.py")), *options]
    said = subprocess.run(argv, stdout=subprocess.PIPE, check=True).stdout
    report: dict[str, dict[str, dict[str, object]]] = json.loads(said)
    return report


if __name__ == "__main__":
    main()
