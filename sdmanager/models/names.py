"""Names of models, as people type them: completed where they are clear, corrected where they are not. Pure."""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING, Final

from sdmanager.errors import InvalidRequestError, ModelNotFoundError

from .demo import DEMO_NAME

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

NAME_MAX: Final = 80

_PART: Final = r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_-])?"
_NAME: Final = re.compile(rf"{_PART}(?::{_PART})?")
_UNUSABLE: Final = re.compile(r"[^\w.-]+", re.ASCII)
# Windows opens a device by each of these, whatever follows the first dot.
_DEVICE: Final = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\..*)?", re.IGNORECASE)
_HINT: Final = (
    f"Use letters, digits, '.', '_' and '-', up to {NAME_MAX} of them, beginning with a letter or a digit."
)

_SHOWN: Final = 8
# Of a name that somebody gave, in messages.
QUOTED_MAX: Final = 100
# Of `difflib`: a fifth of a name may be wrong, and of a short one a third.
_LIKENESS: Final = 0.6


def complete(given: str, names: Iterable[str], *, what: str = "model") -> str:
    """The name that is meant by one that may be cut short, or differ in case.

    A name with an option (``sd-1.5:q4_0``) may be cut short in both of its halves. One without an option means the
    model itself where that is among the names.

    Args:
        given: As typed.
        names: All that there are.
        what: What they are names of, for the message.

    Returns:
        One of the names.

    Raises:
        ModelNotFoundError: It is the beginning of none of them, or of several.
    """
    known = list(dict.fromkeys(names))
    wanted = given.strip().casefold()
    if given in known:
        return given
    exact = [name for name in known if name.casefold() == wanted]
    if len(exact) == 1:
        return exact[0]
    candidates = _beginning_with(wanted, known) if wanted.strip(":") else []
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        raise ModelNotFoundError(
            f"{given[:QUOTED_MAX]!r} is the beginning of {len(candidates)} {what} names.",
            hint=f"It may mean {_listed(candidates)}.",
            details={"name": given, "candidates": candidates},
        )
    raise not_found(given, known, what=what)


def not_found(given: str, names: Iterable[str], *, what: str = "model") -> ModelNotFoundError:
    """The error for a name that there is not, with the one that was probably meant or with what there is.

    Args:
        given: As typed.
        names: All that there are.
        what: What they are names of, for the message.
    """
    known = list(names)
    meant = suggest(given, known)
    return ModelNotFoundError(
        f"There is no {what} named {given[:QUOTED_MAX]!r}.",
        hint=f"Did you mean {meant!r}?" if meant else _what_there_is(given, known, what),
        details={"name": given, "suggestion": meant, "known": known},
    )


def suggest(given: str, names: Iterable[str]) -> str | None:
    """The name that was probably meant, or None where none is like it.

    Args:
        given: As typed.
        names: All that there are.
    """
    known = {name.casefold(): name for name in names}
    wanted = given.strip().casefold()[: 2 * NAME_MAX]
    base, _, option = wanted.partition(":")
    close = difflib.get_close_matches(wanted, known, n=1, cutoff=_LIKENESS)
    if option:
        # The half that is right says which names to compare: by the whole, another model's would be like it, too.
        near = difflib.get_close_matches(
            base, {name.partition(":")[0] for name in known}, n=1, cutoff=_LIKENESS
        )
        within = [name for name in known if near and name.startswith(f"{near[0]}:")]
        wanted = f"{near[0]}:{option}" if near else wanted
        close = difflib.get_close_matches(wanted, within, n=1, cutoff=_LIKENESS) or close
        close = [name for name in close if _is_like(option, name.partition(":")[2])]
    return known[close[0]] if close else None


def check_name(name: str) -> str:
    """See that users may give a model of their own this name; the name itself.

    It may have one option, after a colon.

    Raises:
        InvalidRequestError: It is too long, has other characters in it, or means something else.
    """
    reason = None
    if not name or len(name) > NAME_MAX:
        reason = f"it has more than {NAME_MAX} characters" if name else "it is empty"
    elif not _NAME.fullmatch(name):
        reason = "it has characters in it that no name may have, or that none may begin or end with"
    elif name.partition(":")[0].casefold() == DEMO_NAME:
        reason = "the demo model is called so"
    elif any(_DEVICE.fullmatch(part) for part in name.split(":")):
        reason = "it is the name of a device on Windows"
    if reason is None:
        return name
    raise InvalidRequestError(
        f"A model cannot be named {name[:QUOTED_MAX]!r}: {reason}.", hint=_HINT, details={"name": name}
    )


def usable_name(proposed: str) -> str:
    """The name that users may give nearest to that of a file or a folder.

    Raises:
        InvalidRequestError: Too little is left of it, or it means something else.
    """
    name = _UNUSABLE.sub("-", proposed).strip("-._")[:NAME_MAX].rstrip("-._")
    try:
        return check_name(name)
    except InvalidRequestError:
        raise InvalidRequestError(
            f"No model can have the name {proposed[:QUOTED_MAX]!r}, which its file has.",
            hint="Give it another one with --name.",
            details={"name": proposed},
        ) from None


def _beginning_with(wanted: str, known: Sequence[str]) -> list[str]:
    """The names that it may stand for: if one of them is a model and the others are its options, the model alone."""
    base, colon, option = wanted.partition(":")
    halves = [(name, *name.casefold().partition(":")[::2]) for name in known]
    if colon:
        found = [
            (name, its_base)
            for name, its_base, its_option in halves
            if its_base.startswith(base) and its_option and its_option.startswith(option)
        ]
        of_this_base = [(name, its_base) for name, its_base in found if its_base == base]
        return [name for name, _ in of_this_base or found]
    found = [(name, its_base) for name, its_base, _ in halves if its_base.startswith(base)]
    models = [name for name, its_base in found if ":" not in name]
    bases = {its_base for _, its_base in found}
    if len(models) == len(bases):
        return models
    of_this_base = [(name, its_base) for name, its_base in found if its_base == base]
    return [name for name, _ in of_this_base or found]


def _is_like(given: str, option: str) -> bool:
    return bool(option) and bool(difflib.get_close_matches(given, [option], n=1, cutoff=_LIKENESS))


def _what_there_is(given: str, known: Sequence[str], what: str) -> str:
    base, _, option = given.strip().casefold().partition(":")
    options = [name for name in known if option and name.casefold().startswith(f"{base}:")]
    if options:
        return f"There is {_listed(options)}."
    models = [name for name in known if ":" not in name] or list(known)
    return f"There is {_listed(models)}." if models else f"There is no {what} at all."


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:_SHOWN])
    return f"{shown} and {len(names) - _SHOWN} more" if len(names) > _SHOWN else shown
