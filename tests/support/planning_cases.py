"""Models, machines and engines to plan for."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from sdmanager.binaries import Capabilities, parse_help
from sdmanager.models import load_catalog
from sdmanager.resources.footprint import Footprint, Learned
from sdmanager.resources.offloadable import Holding
from sdmanager.resources.supply import Supply

HELP = Path(__file__).parents[1] / "data" / "help"
OLD, NEW = BUILDS = ("pypi-0.4.7", "master-97d2990")
GB = 10**9
GIB = 1 << 30


@cache
def build(name: str) -> Capabilities:
    return parse_help((HELP / f"{name}.txt").read_text(encoding="utf-8"))


def footprint(name: str, *, size: int | None = None, on_gpu: bool | None = True, backend=None, learned=None):
    """A model of the catalogue, at its own size."""
    model, option = load_catalog().get(name)
    width, height = model.default_size
    return Footprint(
        name,
        name,
        backend or ("cpu" if on_gpu is False else "cuda"),
        on_gpu,
        size or width,
        size or height,
        option.sizes,
        model.family,
        learned or Learned(),
    )


def card(gib: float, *, used: float = 0.5, ram: float = 32, ram_used: float = 8) -> Supply:
    """A machine with a graphics card; in GiB, RAM in GB."""
    return Supply(
        round((ram - ram_used) * GB),
        round(ram * GB),
        round((gib - used) * GIB),
        round(gib * GIB),
        unified=False,
        has_gpu=True,
    )


def memory(ram: float, *, used: float = 2, unified: bool = False) -> Supply:
    """A machine without a card of its own; in GB."""
    return Supply(round((ram - used) * GB), round(ram * GB), unified=unified, has_gpu=unified)


def llm(vram: float | None = 5, ram: float | None = 0.5) -> Holding:
    """A language model; in GB."""
    return Holding(
        "llama3.2:3b", None if ram is None else round(ram * GB), None if vram is None else round(vram * GB)
    )
