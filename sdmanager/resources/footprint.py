"""What a run needs: values. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sdmanager.generation import MemoryPlan
    from sdmanager.models import Family, Role

Measured: TypeAlias = "tuple[int, int, str]"
"""Width and height in pixels, and ``MemoryPlan.key``."""


@dataclass(frozen=True, slots=True)
class Peak:
    """What runs of one kind were seen to use.

    Attributes:
        ram: Bytes at the highest; None: unknown.
        vram: Likewise.
        too_small_ram: Bytes that were free when such a run ran out of memory: it needs more; None: it never did.
        too_small_vram: Likewise.
        runs: How many gave their pictures.
    """

    ram: int | None = None
    vram: int | None = None
    too_small_ram: int | None = None
    too_small_vram: int | None = None
    runs: int = 0


@dataclass(frozen=True, slots=True)
class Learned:
    """What is known of a model with one backend from earlier runs.

    Attributes:
        peaks: By size and memory flags.
        weights: What the engine itself said that the weights take, in bytes; None: it never did.
        recommended: By size: the flags that a calibration found to be the best.
    """

    peaks: Mapping[Measured, Peak] = field(default_factory=dict)
    weights: int | None = None
    recommended: Mapping[tuple[int, int], MemoryPlan] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Keep the mappings from changing."""
        object.__setattr__(self, "peaks", MappingProxyType(dict(self.peaks)))
        object.__setattr__(self, "recommended", MappingProxyType(dict(self.recommended)))


@dataclass(frozen=True, slots=True)
class Footprint:
    """What is to be run, as far as its memory goes.

    Attributes:
        model: Key of the model's files, ``ModelFiles.key``.
        name: Of the model, to be shown.
        backend: Variant of the engine: ``cuda``, ``cpu``, …
        on_gpu: Whether that draws on a graphics card; None: the user's own engine, of which nobody knows.
        width: Of the picture, in pixels.
        height: Likewise.
        weights: Bytes of each file, as it is once it is loaded.
        family: Of the model, where known.
        learned: From earlier runs.
    """

    model: str
    name: str
    backend: str
    on_gpu: bool | None
    width: int
    height: int
    weights: Mapping[Role, int]
    family: Family | None = None
    learned: Learned = field(default_factory=Learned)

    def __post_init__(self) -> None:
        """Keep the mapping from changing."""
        object.__setattr__(self, "weights", MappingProxyType(dict(self.weights)))
