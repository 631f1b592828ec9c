"""Judging a model's fit, with a suggestion from the catalogue where it does not."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Final

from sdmanager.errors import InsufficientResourcesError, SDManagerError

from .fit import check_fit, need_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sdmanager.generation import MemoryPlan
    from sdmanager.settings import Settings

    from .families import ModelDefaults, Role
    from .fit import Have

# Smaller models fit wherever an engine does: nothing is asked, and a start takes no longer for it.
_ASKED_FROM: Final = 256 << 20
# Of ImageRequest.
_USUAL_SIDE: Final = 512
_LEAST_SIDE: Final = 64


def is_large(sizes: Mapping[Role, int]) -> bool:
    """Whether it is worth looking at the machine for a model with files of these sizes: 256 MiB and more."""
    return sum(sizes.values()) >= _ASKED_FROM


def judge_fit(
    name: str,
    sizes: Mapping[Role, int],
    defaults: ModelDefaults,
    have: Have,
    plan: MemoryPlan | None,
    settings: Settings,
    *,
    on_gpu: bool | None,
    quantisations: Mapping[Role, str | None] | None = None,
) -> None:
    """Refuse a model that surely cannot run, not even for the smallest picture; may read the catalogue.

    Args:
        name: Of the model.
        sizes: Bytes of each file.
        defaults: The size of picture that suits it, for which the hint is meant.
        have: What there is.
        plan: As for ``check_fit``.
        settings: Names the catalogue.
        on_gpu: As for ``check_fit``.
        quantisations: What most of each file is in, where known.

    Raises:
        InsufficientResourcesError: It cannot; the hint says what would.
    """
    width, height = defaults.width or _USUAL_SIDE, defaults.height or _USUAL_SIDE
    tiling = plan is not None and plan.vae_tiling
    usual, need = (
        need_of(sizes, *size, tiling=tiling, quantisations=quantisations)
        for size in ((width, height), (_LEAST_SIDE, _LEAST_SIDE))
    )
    judge = functools.partial(check_fit, name, need, have, plan, on_gpu=on_gpu, usual=usual)
    try:
        judge()
    except InsufficientResourcesError:
        # The catalogue is read only now that it is needed.
        judge(smaller=smaller_models(name, sum(sizes.values()), settings))
        raise


def smaller_models(name: str, weights: int, settings: Settings) -> list[tuple[str, int]]:
    """Smaller options of a model, then smaller models, each with its bytes. Blocking: reads the catalogue."""
    from .catalog import load_catalog

    try:
        return load_catalog(settings.catalog).smaller_than(weights, like=name)
    except SDManagerError:  # the user's own catalogue is broken, which is not what is asked here
        return []
