"""What some files make together: which part each plays, of which family they are, and what is missing. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from sdmanager.errors import InvalidRequestError, ModelComponentMissingError, ModelUnsupportedError

from .families import DISTILLED_STEPS, Family, ModelDefaults, Role, traits_of
from .inspection import FileFacts, FileKind

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

TITLES: Final[Mapping[Role, str]] = {
    Role.MODEL: "whole model",
    Role.DIFFUSION_MODEL: "diffusion model",
    Role.CLIP_L: "text encoder CLIP-L",
    Role.CLIP_G: "text encoder CLIP-G",
    Role.T5XXL: "text encoder T5-XXL",
    Role.LLM: "language model",
    Role.LLM_VISION: "vision part of a language model",
    Role.VAE: "VAE",
    Role.TAE: "tiny autoencoder",
}
"""What people call each part."""

MAINS: Final = frozenset({Role.MODEL, Role.DIFFUSION_MODEL})
"""Parts that draw; a model has one of them."""

_STEPS: Final = re.compile(r"(?<!\d)(\d{1,2})[ _-]?steps?(?![a-z])", re.IGNORECASE)

# As Transformers and Diffusers name the pieces of a large model.
_PIECE: Final = re.compile(r"-\d{5}-of-(\d{5})$")

# FLUX.1 dev's own default; the engine's, too.
_GUIDANCE: Final = 3.5


@dataclass(frozen=True, slots=True)
class _Variant:
    """A kind of model within a family, which a header does not tell and the file's name usually does."""

    words: tuple[str, ...]
    families: frozenset[Family] | None = None  # all
    distilled: bool = True
    cfg_scale: float = 1.0
    side: int | None = None


# The first that fits counts. Numbers are those of stable-diffusion.cpp's documents; the steps, of the family's traits.
_VARIANTS: Final = (
    _Variant(("klein", "base"), distilled=False, cfg_scale=4.0),
    # Both turbo models of Stability AI were trained at 512 pixels, unlike those that they come from.
    _Variant(("turbo",), frozenset({Family.SD2, Family.SDXL}), side=512),
    *(_Variant((word,)) for word in ("turbo", "lightning", "schnell", "lcm", "klein")),
)

# SD3 was trained to do without it, and the engine draws without it.
_OPTIONAL: Final = {Family.SD3: frozenset({Role.T5XXL})}


@dataclass(frozen=True, slots=True)
class Candidate:
    """A file that may become a part.

    Attributes:
        path: Of the file.
        facts: What its header says.
        role: The part that the user says it plays; None: the header decides.
        picked: Whether it merely lay in a folder that was named, and may be left out.
    """

    path: Path
    facts: FileFacts
    role: Role | None = None
    picked: bool = False


@dataclass(frozen=True, slots=True)
class Composed:
    """A model that has all its parts.

    Attributes:
        parts: By role.
        family: None where it could not be told.
        defaults: What suits it.
    """

    parts: Mapping[Role, Candidate]
    family: Family | None
    defaults: ModelDefaults

    @property
    def files(self) -> dict[Role, Path]:
        """Path of each part."""
        return {role: part.path for role, part in self.parts.items()}


def compose(candidates: Sequence[Candidate]) -> Composed:
    """Find out what files make together.

    Args:
        candidates: The files. Those that merely lay in a folder are left out where they are no part of it.

    Raises:
        ModelUnsupportedError: There is nothing in them that draws pictures, or one is no part of a model.
        ModelComponentMissingError: A part is missing that the family needs.
        InvalidRequestError: Two of them could play one part.
    """
    parts = _sorted_out(candidates)
    main = parts.get(Role.MODEL) or parts.get(Role.DIFFUSION_MODEL)
    if main is None:
        raise _no_model(candidates)
    family = main.facts.family
    if family is not None:
        _check_family(family, main.path)
        parts = {role: part for role, part in parts.items() if not part.picked or _is_wanted(role, family)}
        _check_complete(family, main, parts)
    defaults = defaults_of(family, main.path.stem, takes_guidance=main.facts.takes_guidance)
    return Composed(parts, family, defaults)


def check_role(role: Role, path: Path, facts: FileFacts) -> Role:
    """The role that a file plays which somebody says plays this one.

    A diffusion model that was given as a whole model, or the other way round, is what its header says.

    Raises:
        ModelUnsupportedError: It is something else, by its header.
    """
    found = facts.role
    if facts.kind is FileKind.UNKNOWN or found == role:
        return role
    if found is not None and {found, role} <= MAINS:
        return found
    raise ModelUnsupportedError(
        f"The file {path.name!r} was given as the {TITLES[role]}, and is {_what(facts)}.",
        hint=_where_it_belongs(facts),
        details={"path": str(path), "role": str(role), "kind": facts.kind.value},
    )


def defaults_of(family: Family | None, stem: str, *, takes_guidance: bool) -> ModelDefaults:
    """What suits a model that no catalogue knows.

    By its family; and by its file's name, since nothing else says that a model was distilled: with ``turbo``,
    ``lightning``, ``schnell``, ``lcm`` or ``klein`` in it, it gets cfg scale 1 and the steps of the distilled models
    of its family, or as many as the name says (``8steps``). With ``klein`` and ``base`` it gets cfg scale 4. FLUX.1
    models without an input for guidance are schnell, or like it, and get 4 steps.

    Args:
        family: None: unknown.
        stem: Name of the file.
        takes_guidance: Whether it has an input for a distilled guidance scale.
    """
    defaults = traits_of(family).defaults if family is not None else ModelDefaults()
    guided = takes_guidance and family is not None and traits_of(family).takes_guidance
    if guided:
        defaults = replace(defaults, guidance=_GUIDANCE)
    named = _STEPS.search(stem)
    few = traits_of(family).distilled_steps if family is not None else DISTILLED_STEPS
    steps = int(named[1]) if named and int(named[1]) else few
    if family is Family.FLUX and not guided:
        return replace(defaults, steps=steps)
    variant = _variant_of(family, stem.lower())
    if variant is None:
        return defaults
    if variant.side is not None:
        defaults = replace(defaults, width=variant.side, height=variant.side)
    return replace(
        defaults, steps=steps if variant.distilled else defaults.steps, cfg_scale=variant.cfg_scale
    )


def _variant_of(family: Family | None, stem: str) -> _Variant | None:
    for variant in _VARIANTS:
        if (variant.families is None or family in variant.families) and all(
            word in stem for word in variant.words
        ):
            return variant
    return None


def _header_role(facts: FileFacts) -> Role | None:
    # What we do not know, the engine may.
    return Role.MODEL if facts.kind is FileKind.UNKNOWN and facts.role is None else facts.role


def _sorted_out(candidates: Sequence[Candidate]) -> dict[Role, Candidate]:
    parts: dict[Role, Candidate] = {}
    # What was named comes first, and what nobody knows last.
    for each in sorted(candidates, key=lambda each: (each.picked, each.facts.kind is FileKind.UNKNOWN)):
        check_whole(each.path)
        role = check_role(each.role, each.path, each.facts) if each.role else _header_role(each.facts)
        if role is None:
            if each.picked:
                continue
            raise _not_a_part(each)
        rivals = MAINS if role in MAINS else {role}
        other = next((parts[rival] for rival in rivals if rival in parts), None)
        if other is None:
            parts[role] = each
        elif not each.picked or (other.picked and each.facts.kind is not FileKind.UNKNOWN):
            raise _rivals(role, other, each)
    return parts


def check_whole(path: Path) -> None:
    """See by its name that a file is not one of several pieces.

    Raises:
        ModelUnsupportedError: It is.
    """
    piece = _PIECE.search(path.stem)
    if piece:
        raise ModelUnsupportedError(
            f"The file {path.name!r} is one of {int(piece[1])} pieces, and the engine reads models of one file.",
            hint="Get the model as a single .safetensors or .gguf file.",
            details={"path": str(path)},
        )


def _rivals(role: Role, first: Candidate, second: Candidate) -> InvalidRequestError:
    families = {each.facts.family for each in (first, second)} - {None}
    of = (
        f" (of the families {' and '.join(sorted(str(traits_of(f).title) for f in families if f))})"
        if len(families) > 1
        else ""
    )
    return InvalidRequestError(
        f"Two files could be the {TITLES[role]}{of}: {first.path.name!r} and {second.path.name!r}.",
        hint=f"Name the files that belong together, such as {option_of(role)} {second.path.name}.",
        details={"role": str(role), "paths": [str(first.path), str(second.path)]},
    )


def _no_model(candidates: Sequence[Candidate]) -> ModelUnsupportedError:
    if len(candidates) == 1:
        return _not_a_part(candidates[0])
    found = ", ".join(f"{each.path.name!r} ({_what(each.facts)})" for each in candidates[:5])
    more = f" and {len(candidates) - 5} more" if len(candidates) > 5 else ""
    return ModelUnsupportedError(
        f"There is no diffusion model among {found}{more}.",
        hint="Add the file of the diffusion model.",
        details={"paths": [str(each.path) for each in candidates]},
    )


def _not_a_part(each: Candidate) -> ModelUnsupportedError:
    return ModelUnsupportedError(
        f"The file {each.path.name!r} is {_what(each.facts)}, which cannot draw by itself.",
        hint=_where_it_belongs(each.facts),
        details={"path": str(each.path), "kind": each.facts.kind.value},
    )


def _what(facts: FileFacts) -> str:
    what = TITLES[facts.role] if facts.role is not None else facts.kind.value
    return f"{'an' if what[0] in 'aeiouAI' else 'a'} {what}"


def _where_it_belongs(facts: FileFacts) -> str:
    if facts.kind is FileKind.LORA:
        return (
            "Put it into the folder of LoRAs ('loras' in the data folder, or --lora-dir) and use --lora NAME."
        )
    if facts.kind is FileKind.TAE_HALF:
        return (
            "The engine loads those that are whole: use diffusion_pytorch_model.safetensors of the same maker, "
            "such as madebyollin/taesd, with --tae."
        )
    if facts.role in MAINS:
        return f"Give it with {option_of(facts.role)}."
    if facts.role is not None:
        return f"Give it with {option_of(facts.role)}, beside the diffusion model that it is a part of."
    return "Use the .safetensors or .gguf file of a model that draws pictures."


def _check_family(family: Family, path: Path) -> None:
    traits = traits_of(family)
    if not traits.draws_pictures:
        raise ModelUnsupportedError(
            f"The file {path.name!r} is a model of the family {traits.title}, which makes videos, not pictures.",
            hint="Use a model that draws pictures: 'sdmanager models list --all' shows some.",
            details={"path": str(path), "family": str(family)},
        )


def _is_wanted(role: Role, family: Family) -> bool:
    """Whether a family has a use for a part."""
    parts = traits_of(family).parts
    if role is Role.TAE:
        return Role.VAE in parts  # else there is nothing to decode
    return role in MAINS | parts or (role is Role.LLM_VISION and Role.LLM in parts)


def _check_complete(family: Family, main: Candidate, parts: Mapping[Role, Candidate]) -> None:
    traits = traits_of(family)
    inside = main.facts.parts if parts.get(Role.MODEL) is main else frozenset()
    missing = traits.parts - inside - set(parts) - _OPTIONAL.get(family, frozenset())
    if Role.TAE in parts:  # it decodes, where there is nothing better
        missing -= {Role.VAE}
    if not missing:
        return
    lacking = [role for role in Role if role in missing]
    named = _listed([f"{TITLES[role]}" for role in lacking])
    options = _listed([f"{option_of(role)} FILE" for role in lacking])
    raise ModelComponentMissingError(
        f"The model {main.path.name!r} ({traits.title}) comes without its {named}.",
        hint=f"Give {'it' if len(lacking) == 1 else 'them'} too: {options}.",
        details={
            "path": str(main.path),
            "family": str(family),
            "missing": [str(role) for role in lacking],
        },
    )


def option_of(role: Role) -> str:
    """The option of the command line that names the file of a part."""
    return f"--{role.replace('_', '-')}"


def _listed(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
