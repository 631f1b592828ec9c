"""Where the weights and the work go."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Memory flags of one run; the default is the fastest and needs the most.

    Attributes:
        offload_to_cpu: Keep the weights in RAM and bring them to the GPU when needed.
        clip_on_cpu: Run the text encoder on the CPU.
        vae_on_cpu: Run the VAE on the CPU.
        vae_tiling: Decode in tiles: less memory, somewhat slower.
        diffusion_flash_attention: Flash attention in the diffusion model: less memory, and on CUDA and ROCm faster;
            None: there, for the families that a language model conditions.
        max_vram_gib: VRAM budget in GiB, by which the engine cuts its work; None for no limit.
        stream_layers: Bring the weights to the GPU layer by layer; with ``offload_to_cpu``, and not in every engine.
        evictions: Names of what is put aside for it.
        reasons: Why, one sentence each; empty where nothing had to be chosen.
    """

    offload_to_cpu: bool = False
    clip_on_cpu: bool = False
    vae_on_cpu: bool = False
    vae_tiling: bool = False
    diffusion_flash_attention: bool | None = None
    max_vram_gib: float | None = None
    stream_layers: bool = False
    evictions: tuple[str, ...] = field(default=(), compare=False)
    reasons: tuple[str, ...] = field(default=(), compare=False)

    @classmethod
    def of_flags(
        cls, flags: Sequence[str], *, evictions: Sequence[str] = (), reasons: Sequence[str] = ()
    ) -> Self:
        """The plan that has these ``flags``; one that is not known, as of a newer server, is left out."""
        given: dict[str, bool | float] = {}
        for flag in flags:
            option, _, number = flag.partition(" ")
            for name, known in _OPTIONS.items():
                if option == known:
                    given[name] = float(number) if number else True
                elif option == known.replace("--", "--no-", 1):
                    given[name] = False
        return cls(**given, evictions=tuple(evictions), reasons=tuple(reasons))  # type: ignore[arg-type]

    @property
    def flags(self) -> tuple[str, ...]:
        """The flags that are not the default, as this package's command line has them."""
        shown: list[str] = []
        for name, option in _OPTIONS.items():
            value = getattr(self, name)
            if value is True:
                shown.append(option)
            elif value is not None and value is not False:
                shown.append(f"{option} {value:g}")
            elif name == "diffusion_flash_attention" and value is False:
                shown.append("--no-diffusion-fa")
        return tuple(shown)

    @property
    def key(self) -> str:
        """The same as one word, by which measurements are kept; ``plain`` for the default."""
        return ",".join(flag.strip("-").replace(" ", "=") for flag in self.flags) or "plain"


@dataclass(frozen=True, slots=True)
class MemoryChoices:
    """What the user has decided of a ``MemoryPlan``; what is None is chosen for each run.

    Attributes:
        offload_to_cpu: As in ``MemoryPlan``; False: never.
        clip_on_cpu: Likewise.
        vae_on_cpu: Likewise.
        vae_tiling: Likewise.
        diffusion_flash_attention: Likewise.
        max_vram_gib: No plan may use more VRAM; in GiB.
        stream_layers: Likewise.
    """

    offload_to_cpu: bool | None = None
    clip_on_cpu: bool | None = None
    vae_on_cpu: bool | None = None
    vae_tiling: bool | None = None
    diffusion_flash_attention: bool | None = None
    max_vram_gib: float | None = None
    stream_layers: bool | None = None

    @property
    def plan(self) -> MemoryPlan:
        """The fastest plan that these choices allow."""
        return MemoryPlan(**{name: value for name in _OPTIONS if (value := getattr(self, name)) is not None})

    def allow(self, plan: MemoryPlan) -> bool:
        """Whether a plan has everything that was decided, but for a budget, which it may undercut."""
        for name in _OPTIONS:
            wanted, value = getattr(self, name), getattr(plan, name)
            if wanted is None or value == wanted:
                continue
            if name != "max_vram_gib" or value is None or value > wanted:
                return False
        return True


_OPTIONS = {
    "offload_to_cpu": "--offload-to-cpu",
    "clip_on_cpu": "--clip-on-cpu",
    "vae_on_cpu": "--vae-on-cpu",
    "vae_tiling": "--vae-tiling",
    "diffusion_flash_attention": "--diffusion-fa",
    "max_vram_gib": "--max-vram",
    "stream_layers": "--stream-layers",
}
assert set(_OPTIONS) == {each.name for each in fields(MemoryChoices)}  # noqa: S101 - a slip of ours, seen at once
