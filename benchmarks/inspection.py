"""What telling a weights file by its header costs: time, to reading just the header's bytes, and memory.

The files are sparse, with the headers of real models: FLUX.1 dev as it is published (24 GB, 780 tensors), in both
formats; Qwen-Image (20 GB, 1933 tensors); and Qwen3 4B, whose vocabulary alone is 300,000 strings.
"""

from __future__ import annotations

import json
import runpy
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _common import ROOT, Figure, Options, Report, in_turn, main, spread

from sdmanager.models.inspection import inspect_file

MOST_MS, MOST_MB = 50, 20

# The first inspection of a process, and what it adds to the peak of memory. Linux only.
CHILD = """
import json, sys, time
from pathlib import Path
from sdmanager.models.inspection import inspect_file
def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
idle = peak()
began = time.perf_counter()
inspect_file(Path(sys.argv[1]))
print(json.dumps([1e3 * (time.perf_counter() - began), peak() - idle]))
"""


def measure(options: Options) -> Report:
    """Each file by turns with a read of its header; memory is the worst of all processes."""
    report = Report()
    with tempfile.TemporaryDirectory(prefix="sdmanager-bench-") as name:
        for kind, (path, header) in make(Path(name)).items():

            def bare(path: Path = path, header: int = header) -> float:
                began = time.perf_counter()
                with path.open("rb") as file:
                    file.read(header)
                return time.perf_counter() - began

            def ours(path: Path = path) -> float:
                began = time.perf_counter()
                inspect_file(path)
                return time.perf_counter() - began

            pairs = in_turn(options.runs, bare, ours)
            first, added = zip(*(in_child(path) for _ in range(min(options.runs, 5))), strict=True)
            report.figures[f"{kind}_time"] = Figure(
                1e3 * statistics.median(pairs.ours), "ms", at_most=MOST_MS
            )
            report.figures[f"{kind}_first_time"] = Figure(statistics.median(first), "ms", at_most=MOST_MS)
            report.figures[f"{kind}_to_reading_the_header"] = Figure(pairs.ratio, "ratio")
            report.figures[f"{kind}_peak_rss_added"] = Figure(max(added) / 1e6, "MB", at_most=MOST_MB)
            report.details[kind] = {
                "file_gb": round(path.stat().st_size / 1e9, 1),
                "header_kb": round(header / 1e3, 1),
                "first_ms": spread(first),
                **pairs.to_json(),
            }
    return report


def make(folder: Path) -> dict[str, tuple[Path, int]]:
    """The files, each with the bytes of its header."""
    weights = runpy.run_path(str(ROOT / "tests" / "support" / "weights.py"))
    typed, gguf, safetensors = (weights[name] for name in ("typed", "gguf_header", "safetensors_header"))
    flux = typed("BF16", weights["flux_dev"]())
    headers = {
        "flux_gguf": gguf(flux, {"general.architecture": "flux"}),
        "flux_safetensors": safetensors(flux, {"format": "pt"}),
        "qwen_image_gguf": gguf(
            typed("Q8_0", weights["qwen_image"]()), {"general.architecture": "qwen_image"}
        ),
        "qwen_image_safetensors": safetensors(typed("F8_E4M3", weights["qwen_image"]())),
        "language_model": gguf(typed("Q8_0", weights["qwen3"]()), weights["vocabulary"]()),
    }
    return {
        kind: (weights["write"](folder / kind, header), len(header[0])) for kind, header in headers.items()
    }


def in_child(path: Path) -> tuple[float, int]:
    """Milliseconds and bytes of one inspection in a process of its own."""
    argv = [sys.executable, "-c", CHILD, str(path)]
    took, added = json.loads(subprocess.run(argv, stdout=subprocess.PIPE, check=True).stdout)
    return float(took), int(added)


if __name__ == "__main__":
    main("inspection", __doc__, measure, runs=25)
