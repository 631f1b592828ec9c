"""Does this engine really draw? One small picture says so; a help text does not."""

from __future__ import annotations

import dataclasses
import secrets
from typing import TYPE_CHECKING, Final

from sdmanager.binaries import Proof
from sdmanager.errors import GenerationError, ModelError
from sdmanager.generation import ImageRequest, MemoryPlan
from sdmanager.models import demo_model
from sdmanager.threads import in_thread

from .devices import DeviceWitness
from .driver_failures import explain_no_device
from .estimates import EstimateStore
from .patience import Patience
from .run import Run
from .runner import run_generation

if TYPE_CHECKING:
    from sdmanager.binaries import EngineBinary
    from sdmanager.models import ModelFiles
    from sdmanager.settings import Settings

_SIZE: Final = 64
_STEPS: Final = 4


async def prove_engine(
    binary: EngineBinary,
    settings: Settings,
    model: ModelFiles | None = None,
    plan: MemoryPlan | None = None,
    *,
    patience: Patience | None = None,
) -> Proof:
    """Draw one small picture through the same code that serves requests, and check it.

    A model or memory flags that this engine cannot draw with say nothing against the engine: then the demo model is
    drawn without flags, and only its failure counts. An engine that refuses that model as well is left unproven.

    Args:
        binary: The engine to prove.
        settings: Folders and times.
        model: What to draw with; the demo model when None.
        plan: Memory flags that would be used.
        patience: When it counts as hung, and when as slow; by the size of the model when None.

    Raises:
        BinaryError: It does not run, or an engine for an accelerator found none.
        GenerationError: It runs and does not draw; the type says why.
        StorageError: A file could not be written, which says nothing about the engine.

    If cancelled, the engine is dead and its files are gone when the exception arrives.
    """
    note = None
    if model is not None or plan not in {None, MemoryPlan()}:
        wanted = model if model is not None else await in_thread(demo_model, settings)
        try:
            return await draw_proof(binary, settings, wanted, plan, patience=patience)
        except (ModelError, GenerationError) as exc:
            flags = "" if plan in {None, MemoryPlan()} else " and these memory flags"
            note = f"not with the model {wanted.name!r}{flags}: {exc.message}"
    demo = await in_thread(demo_model, settings)
    try:
        # Without what its family would switch on by itself: an engine is not to fail for an optimisation.
        bare = MemoryPlan(diffusion_flash_attention=False)
        proof = await draw_proof(binary, settings, demo, bare, patience=patience)
    except ModelError as exc:
        return Proof(
            proven=False, model=demo.name, width=_SIZE, height=_SIZE, steps=_STEPS, seconds=0.0,
            note=note or f"this engine refuses the demo model: {exc.message}",
        )  # fmt: skip
    return dataclasses.replace(proof, note=note)


async def draw_proof(
    binary: EngineBinary,
    settings: Settings,
    model: ModelFiles,
    plan: MemoryPlan | None = None,
    *,
    patience: Patience | None = None,
) -> Proof:
    """Draw one small picture with exactly this model, and check it.

    Args:
        binary: The engine.
        settings: Folders and times.
        model: What to draw with.
        plan: Memory flags.
        patience: As for ``prove_engine``.

    Raises:
        SDManagerError: It did not draw; the type says why.
    """
    plan = plan or MemoryPlan()
    on_gpu = binary.variant not in {"cpu", "custom"}
    patience = patience or Patience.for_model(await in_thread(model.size_bytes), on_gpu=on_gpu)
    witness = DeviceWitness()
    result = await run_generation(
        Run(
            generation_id=f"proof-{secrets.token_hex(6)}",
            request=ImageRequest(
                prompt="proof", width=_SIZE, height=_SIZE, steps=_STEPS, cfg_scale=1.0, seed=1
            ),
            binary=binary,
            model=model,
            plan=plan,
            settings=settings,
            estimates=EstimateStore(settings.state_dir / "estimates.json"),
            on_output=witness.feed,
            verbose=True,
            patience=patience,
            measure=False,
        )
    )
    device, accelerated = witness.accelerator(parts_on_cpu=plan.clip_on_cpu or plan.vae_on_cpu)
    if on_gpu and not accelerated:
        raise explain_no_device(binary.variant, witness.said())
    return Proof(
        proven=True,
        model=model.name,
        width=_SIZE,
        height=_SIZE,
        steps=_STEPS,
        seconds=result.time_taken,
        device=device,
        slow=result.time_taken > patience.slow_after,
    )
