"""What looking through the installed models costs: 200 of them with four files each.

Listing them and looking whether each file is as it was, to reading the same records as bare JSON and asking the system
for the same files; finding one by its name; what all files take on the disk; and `sdmanager models list` as a whole.
"""

from __future__ import annotations

import datetime
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from _common import Figure, Options, Report, in_turn, main, spread

from sdmanager.models import Family, ModelDefaults, Role, resolve_model
from sdmanager.models.installed import InstalledFile, InstalledModel, Origin
from sdmanager.models.store import ModelStore
from sdmanager.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable

MODELS = 200
COMMAND_MS = 200.0
ROLES = (Role.DIFFUSION_MODEL, Role.CLIP_L, Role.T5XXL, Role.VAE)


def measure(options: Options) -> Report:
    """Ours and bare by turns; the rest by itself."""
    with tempfile.TemporaryDirectory(prefix="sdmanager-bench-") as name:
        home = Path(name)
        settings = Settings(home / "data", home / "cache", home / "state")
        store = ModelStore(settings)
        models = install(store, home / "weights", 20 if options.quick else MODELS)
        records = sorted((settings.models_dir / "installed").glob("*.json"))

        def ours() -> None:
            for model in store.list():
                store.check(model)

        def bare() -> None:
            for record in records:
                for file in json.loads(record.read_bytes())["files"]:
                    os.stat(file["path"])  # noqa: PTH116 - bare

        pairs = in_turn(options.runs, lambda: seconds(bare), lambda: seconds(ours))
        one = [1e3 * seconds(lambda: resolve_model(models[0].name, settings)) for _ in range(options.runs)]
        sizes = [1e3 * seconds(store.size_bytes) for _ in range(options.runs)]
        command = [1e3 * seconds(lambda: list_models(settings, home)) for _ in range(options.runs)]
    return Report(
        {
            "list_and_check": Figure(1e3 * statistics.median(pairs.ours), "ms"),
            "list_and_check_to_bare": Figure(pairs.ratio, "ratio"),
            "resolve_a_name": Figure(statistics.median(one), "ms"),
            "size_of_all": Figure(statistics.median(sizes), "ms"),
            "command": Figure(statistics.median(command), "ms", at_most=COMMAND_MS),
        },
        {
            "models": len(models),
            **pairs.to_json(),
            "resolve_ms": spread(one),
            "size_ms": spread(sizes),
            "command_ms": spread(command),
        },
    )


def install(store: ModelStore, folder: Path, number: int) -> list[InstalledModel]:
    """So many models, each with files of its own."""
    models = []
    for index in range(number):
        files = []
        for role in ROLES:
            path = folder / f"model-{index:03}" / f"{role}.gguf"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"w")
            found = path.stat()
            file = InstalledFile(role, path, found.st_size, found.st_mtime_ns, "ab" * 32, owned=True)
            files.append(replace(file, repo="organisation/name", revision="c" * 40, quantisation="Q4_K"))
        model = InstalledModel(
            f"model-{index:03}:q4_k", tuple(files), ModelDefaults(20, 1.0, 1024, 1024, 3.5), Family.FLUX,
            Origin.PULLED, datetime.datetime.now(datetime.UTC),
        )  # fmt: skip
        models.append(model)
        store.add(model)
    return models


def list_models(settings: Settings, home: Path) -> None:
    """The command, from the start of the interpreter to its end."""
    environ = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "SDMANAGER_"))
    }
    environ["SDMANAGER_HOME"] = str(home)
    command = [sys.executable, "-m", "sdmanager", "models", "list"]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
    assert str(settings.models_dir) not in done.stdout
    assert done.stdout.count("model-") >= len(list(settings.models_dir.glob("installed/*.json")))


def seconds(work: Callable[[], object]) -> float:
    """How long it takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


if __name__ == "__main__":
    main("models_list", __doc__, measure, runs=30)
