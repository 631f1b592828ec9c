"""What samplers and schedulers are called in AUTOMATIC1111's interface, and what the engine calls them. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence


@dataclass(frozen=True, slots=True)
class Named:
    """One thing with two names.

    Attributes:
        engine: The engine's own.
        label: AUTOMATIC1111's.
        aliases: Further names that clients use.
    """

    engine: str
    label: str
    aliases: tuple[str, ...] = ()


SAMPLERS: Final = (
    Named("euler", "Euler", ("k_euler",)),
    Named("euler_a", "Euler a", ("k_euler_a", "k_euler_ancestral", "euler_ancestral")),
    Named("heun", "Heun", ("k_heun",)),
    Named("dpm2", "DPM2", ("k_dpm_2", "dpm_2")),
    Named("dpm++2s_a", "DPM++ 2S a", ("k_dpmpp_2s_a", "dpmpp_2s_a", "dpmpp_2s_ancestral")),
    Named("dpm++2m", "DPM++ 2M", ("k_dpmpp_2m", "dpmpp_2m")),
    Named("dpm++2mv2", "DPM++ 2M v2", ("dpmpp_2m_v2",)),
    Named("dpm++2m_sde", "DPM++ 2M SDE", ("k_dpmpp_2m_sde", "dpmpp_2m_sde")),
    Named("dpm++2m_sde_bt", "DPM++ 2M SDE BT"),
    Named("ipndm", "IPNDM"),
    Named("ipndm_v", "IPNDM V"),
    Named("lcm", "LCM", ("k_lcm",)),
    Named("lms", "LMS", ("k_lms",)),
    Named("ddim_trailing", "DDIM", ("ddim",)),
    Named("tcd", "TCD"),
    Named("res_multistep", "Res Multistep"),
    Named("res_2s", "Res 2S"),
    Named("er_sde", "ER SDE"),
    Named("euler_ge", "Euler GE"),
    Named("euler_cfg_pp", "Euler CFG++"),
    Named("euler_a_cfg_pp", "Euler a CFG++", ("euler_ancestral_cfg_pp",)),
)

SCHEDULERS: Final = (
    Named("discrete", "Discrete", ("Uniform", "Normal")),
    Named("karras", "Karras"),
    Named("exponential", "Exponential"),
    Named("ays", "Align Your Steps", ("align_your_steps",)),
    Named("gits", "GITS"),
    Named("smoothstep", "Smoothstep"),
    Named("sgm_uniform", "SGM Uniform"),
    Named("simple", "Simple"),
    Named("kl_optimal", "KL Optimal"),
    Named("lcm", "LCM"),
    Named("beta", "Beta"),
    Named("bong_tangent", "Bong Tangent"),
    Named("ltx2", "LTX2"),
    Named("logit_normal", "Logit Normal"),
    Named("flux", "Flux"),
    Named("flux2", "Flux2"),
)

# Words for "whatever suits": no choice, and no unknown name.
_ANY: Final = frozenset({"", "automatic", "default", "use_same_sampler", "use_same_scheduler"})


@dataclass(frozen=True, slots=True)
class Chosen:
    """What the engine is told.

    Attributes:
        sampler: Its name of it; None: what suits the model.
        scheduler: Likewise.
        unknown: Names that were asked for and mean nothing here.
    """

    sampler: str | None
    scheduler: str | None
    unknown: tuple[str, ...] = ()


def choose(sampler: str, scheduler: str, samplers: Collection[str], schedulers: Collection[str]) -> Chosen:
    """What the names of a request mean to the engine; an unknown one means no choice, and is no error.

    Clients come with defaults of their own that no engine need know, so that refusing them would refuse the client.

    Args:
        sampler: By any of its names, perhaps with a scheduler behind it, as in ``DPM++ 2M Karras``, which then counts.
        scheduler: By any of its names.
        samplers: What the engine has; empty where that is not known.
        schedulers: Likewise.
    """
    known_samplers, known_schedulers = known(SAMPLERS, samplers), known(SCHEDULERS, schedulers)
    found = _find(sampler, known_samplers)
    if found is None and not _is_any(sampler):
        words = sampler.strip().split(" ")
        for start in range(1, len(words[:_WORDS_MAX])):
            front = _find(" ".join(words[:start]), known_samplers)
            back = _find(" ".join(words[start:]), known_schedulers)
            if front is not None and back is not None:
                return Chosen(front, back)
    unknown = [sampler] if found is None and not _is_any(sampler) else []
    second = _find(scheduler, known_schedulers)
    if second is None and not _is_any(scheduler):
        unknown.append(scheduler)
    return Chosen(found, second, tuple(unknown))


def known(table: tuple[Named, ...], engine: Collection[str]) -> Sequence[Named]:
    """The entries of what the engine has, in the table's order; what the table has not goes by its own name.

    Args:
        table: ``SAMPLERS`` or ``SCHEDULERS``.
        engine: Names of the engine's; empty: all of the table.
    """
    if not engine:
        return table
    listed = {entry.engine for entry in table}
    new = [Named(name, name) for name in engine if name not in listed]
    return [*(entry for entry in table if entry.engine in engine), *new]


def label_of(table: tuple[Named, ...], engine: str) -> str:
    """AUTOMATIC1111's name of something of the engine's, or the engine's own where it has none."""
    return next((entry.label for entry in table if entry.engine == engine), engine)


def sampler_rows(engine: Collection[str]) -> list[dict[str, object]]:
    """Answer to ``samplers``."""
    return [
        {"name": entry.label, "aliases": [entry.engine, *entry.aliases], "options": {}}
        for entry in known(SAMPLERS, engine)
    ]


def scheduler_rows(engine: Collection[str]) -> list[dict[str, object]]:
    """Answer to ``schedulers``; the first one leaves the choice to the model and the engine."""
    entries = [Named("automatic", "Automatic"), *known(SCHEDULERS, engine)]
    return [
        {
            "name": entry.engine,
            "label": entry.label,
            "aliases": list(entry.aliases),
            "default_rho": -1.0,
            "need_inner_model": False,
        }
        for entry in entries
    ]


# No name has more; what a client sends may have thousands.
_WORDS_MAX: Final = 8


def _find(name: str, entries: Sequence[Named]) -> str | None:
    wanted = _plain(name)
    for entry in entries:
        if wanted in map(_plain, (entry.engine, entry.label, *entry.aliases)):
            return entry.engine
    return None


def _is_any(name: str) -> bool:
    return _plain(name) in _ANY


def _plain(name: str) -> str:
    """Without what clients write differently."""
    return name.strip().casefold().replace(" ", "_").replace("-", "_")
