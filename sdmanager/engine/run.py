"""One run, decided: what is drawn, by which engine, with which files."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from .arguments import build_invocation
from .lora_files import place_loras
from .model_arguments import FLASH_VARIANTS

if TYPE_CHECKING:
    from collections.abc import Callable

    from sdmanager.binaries import EngineBinary
    from sdmanager.generation import EventCallback, ImageRequest, MemoryPlan
    from sdmanager.models import ModelFiles
    from sdmanager.settings import Settings

    from .arguments import Invocation
    from .estimates import EstimateStore
    from .patience import Patience

# Of the user's own engine nobody knows.
NO_CARD: Final = frozenset({"cpu", "custom"})


@dataclass(frozen=True, slots=True)
class Run:
    """Everything that one run needs, decided beforehand.

    Attributes:
        generation_id: Also the name of its private folder.
        request: What to draw.
        binary: Which engine.
        model: Which files.
        plan: Memory flags.
        settings: Folders and times.
        estimates: Where to look up and keep what runs take.
        threads: CPU threads, or None for the engine's choice.
        on_event: Called on the event loop with each event; what it raises ends the run.
        on_output: Called with the name of the stream and each raw piece of the engine's output.
        verbose: Have the engine say more.
        patience: When the run counts as hung and is ended; None: never.
        measure: Watch what memory the engine uses.
        measure_vram: Graphics memory, too; None: where the variant is one for a graphics card.
    """

    generation_id: str
    request: ImageRequest
    binary: EngineBinary
    model: ModelFiles
    plan: MemoryPlan
    settings: Settings
    estimates: EstimateStore
    threads: int | None = None
    on_event: EventCallback | None = None
    on_output: Callable[[str, bytes], None] | None = None
    verbose: bool = False
    patience: Patience | None = None
    measure: bool = True
    measure_vram: bool | None = None

    def complete_request(self) -> ImageRequest:
        """The request with the model's defaults and a seed."""
        return self.request.with_defaults(**self.model.defaults.as_fields()).with_seed()

    def invocation(self, request: ImageRequest) -> tuple[ImageRequest, Invocation]:
        """What the engine is given; starts nothing and writes nothing.

        Args:
            request: Complete.

        Returns:
            The request with the texts as the engine sees them, and the engine's arguments.

        Raises:
            InvalidRequestError: This engine or model cannot do it, or a LoRA is not there.
            EngineArgumentError: This binary lacks a flag that the request needs.
        """
        request, loras = place_loras(request, self.settings.loras_dir)
        invocation = build_invocation(
            request,
            self.model,
            self.plan,
            self.binary.capabilities,
            threads=self.threads,
            on_gpu=self.binary.variant not in NO_CARD,
            fast_attention=self.binary.variant in FLASH_VARIANTS,
            verbose=self.verbose,
        )
        return request, dataclasses.replace(invocation, loras=loras)


def draws_on_gpu(variant: str) -> bool | None:
    """Whether engines of this variant draw on a graphics card; None: the user's own, of which nobody knows."""
    return None if variant == "custom" else variant != "cpu"
