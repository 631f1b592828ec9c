"""``--provider``: the same command, with a hosted service in the place of the engine on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sdmanager.errors import InvalidRequestError

from .options import UNSET

if TYPE_CHECKING:
    import argparse

    from sdmanager.cloud import HuggingFaceGenerator

_LOCAL: Final = "local"
_HUGGING_FACE: Final = "huggingface"

# Whatever else can be given is for the engine on this machine: also what is added to the command one day.
_TAKEN: Final = frozenset(
    {
        "command", "run", "prompt", "output", "json", "quiet", "provider", "model", "negative_prompt", "width",
        "height", "steps", "preset", "cfg_scale", "guidance", "seed", "scheduler", "count", "init_image", "strength",
    }
)  # fmt: skip


def add_provider(parser: argparse.ArgumentParser) -> None:
    """Add the option that `hosted_of` reads."""
    where = parser.add_argument_group("who draws")
    where.add_argument(
        "--provider", metavar="NAME", default=UNSET,
        help="local: this machine, as without it; huggingface: a hosted service, with -m ORG/MODEL or the URL of an "
        "endpoint, and a token in HF_TOKEN or from 'hf auth login'; huggingface:NAME: one that is named, e.g. "
        "huggingface:fal-ai",
    )  # fmt: skip


def hosted_of(given: dict[str, object]) -> HuggingFaceGenerator | None:
    """The service that was named; None where this machine draws.

    Raises:
        InvalidRequestError: There is no such service, no model was named, or options were given that a service has no
            use for.
    """
    provider = str(given.get("provider", _LOCAL))
    if provider == _LOCAL:
        return None
    kind, colon, name = provider.partition(":")
    if kind != _HUGGING_FACE or (colon and not name):
        raise InvalidRequestError(
            f"There is no provider {provider[:40]!r}.",
            hint="Use local, huggingface, or huggingface:NAME with the name of one of its providers.",
        )
    useless = [_option(name, value) for name, value in given.items() if name not in _TAKEN]
    if useless:
        raise InvalidRequestError(
            f"With a hosted service there is no use for {', '.join(useless)}.",
            hint="Leave that out, or draw on this machine: without --provider.",
        )
    model = given.get("model")
    if model is None:
        raise InvalidRequestError(
            "A hosted service needs the name of a model.",
            hint="Add -m ORG/MODEL, such as -m black-forest-labs/FLUX.1-schnell.",
        )
    from sdmanager.cloud import HuggingFaceGenerator

    return HuggingFaceGenerator(str(model), provider=name or "auto")


def _option(name: str, value: object) -> str:
    """As it was written."""
    return f"--{'no-' if value is False else ''}{name.replace('_', '-')}"
