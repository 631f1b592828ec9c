"""Does this engine really draw? One small picture says so; a help text does not."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sdmanager.generation import ImageRequest, MemoryPlan
from sdmanager.models import demo_model
from sdmanager.threads import in_thread

from .estimates import EstimateStore
from .runner import Run, run_generation

if TYPE_CHECKING:
    from sdmanager.binaries import EngineBinary
    from sdmanager.models import ModelFiles
    from sdmanager.settings import Settings

_SIZE: Final = 64
_STEPS: Final = 4


@dataclass(frozen=True, slots=True)
class Proof:
    """A picture that was drawn and checked.

    Attributes:
        model: What it was drawn with.
        width: Pixels.
        height: Pixels.
        steps: Sampling steps.
        seconds: From start to the checked picture.
    """

    model: str
    width: int
    height: int
    steps: int
    seconds: float


async def prove_engine(
    binary: EngineBinary, settings: Settings, model: ModelFiles | None = None, plan: MemoryPlan | None = None
) -> Proof:
    """Draw one small picture through the same code that serves requests, and check it.

    Args:
        binary: The engine to prove.
        settings: Folders and times.
        model: What to draw with; the demo model when None.
        plan: Memory flags that would be used.

    Raises:
        SDManagerError: It did not draw; the type says why.
    """
    chosen = model if model is not None else await in_thread(demo_model, settings)
    result = await run_generation(
        Run(
            generation_id=f"proof-{secrets.token_hex(6)}",
            request=ImageRequest(
                prompt="proof", width=_SIZE, height=_SIZE, steps=_STEPS, cfg_scale=1.0, seed=1
            ),
            binary=binary,
            model=chosen,
            plan=plan or MemoryPlan(),
            settings=settings,
            estimates=EstimateStore(settings.state_dir / "estimates.json"),
        )
    )
    return Proof(chosen.name, _SIZE, _SIZE, _STEPS, result.time_taken)
