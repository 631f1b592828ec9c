"""From a request to what a service is asked, in the names of huggingface_hub's client. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from sdmanager.errors import InvalidRequestError

if TYPE_CHECKING:
    from sdmanager.generation import ImageRequest

# What would silently be left out, and would change the picture.
_LOCAL_ONLY: Final = {
    "mask_image": "A mask",
    "loras": "A LoRA",
    "clip_skip": "clip_skip",
    "sampler": "A sampler",
}
_LORA_TAG: Final = re.compile(r"<lora:[^>]*>", re.IGNORECASE)

# Hosts of Hugging Face itself, where a token that was not given for this endpoint may go.
_OWN_HOSTS: Final = ("huggingface.co", "huggingface.cloud")


@dataclass(frozen=True, slots=True)
class Target:
    """What draws: a model of the hub with one of its providers, or an endpoint.

    Attributes:
        model: As the client wants it.
        provider: Likewise.
        is_endpoint: Whether the model is a URL, where no provider plays a part.
        name: Of the model, to be shown: of a URL without what may be secret in it.
        variant: Of the service, to be shown.
    """

    model: str
    provider: str
    is_endpoint: bool
    name: str
    variant: str

    @classmethod
    def of(cls, model: object, provider: object) -> Target:
        """From what the caller names.

        Raises:
            InvalidRequestError: That is neither a model of the hub nor a URL.
        """
        if not isinstance(model, str) or not isinstance(provider, str):
            raise InvalidRequestError(
                "The names of a model and of a provider must be text.",
                hint="Such as black-forest-labs/FLUX.1-schnell, or the URL of an endpoint.",
            )
        if not model.lower().startswith(("http://", "https://")):
            if not model.strip() or not provider.strip():
                raise InvalidRequestError(
                    "A hosted service needs the name of a model, and of a provider or 'auto'.",
                    hint="Such as black-forest-labs/FLUX.1-schnell, or the URL of an endpoint.",
                )
            return cls(model, provider, False, model, provider)
        try:
            url = urlsplit(model)
            host, port = url.hostname, url.port
        except ValueError:
            raise _no_host() from None
        if not host:
            raise _no_host()
        place = f"[{host}]" if ":" in host else host
        shown = f"{url.scheme}://{place}{'' if port is None else f':{port}'}{url.path}"
        return cls(f"{url.scheme}{model[len(url.scheme) :]}", provider, True, shown, "endpoint")

    @property
    def may_have_saved_token(self) -> bool:
        """Whether the user's own token of Hugging Face may be sent there without being given for it."""
        if not self.is_endpoint:
            return True
        url = urlsplit(self.model)
        host = url.hostname or ""
        return url.scheme == "https" and any(host == own or host.endswith(f".{own}") for own in _OWN_HOSTS)


def check_request(request: ImageRequest, target: Target) -> None:
    """See that a service can be asked for this.

    Raises:
        InvalidRequestError: It asks for what only the engine on this machine can do, or for another model.
    """
    if request.model_id not in {None, target.name}:
        raise InvalidRequestError(
            "A hosted service draws with the one model that it was chosen for.",
            hint="Leave model_id out, or make a HuggingFaceGenerator for the other model.",
            details={"fields": ["model_id"]},
        )
    for name, what in _LOCAL_ONLY.items():
        if getattr(request, name):
            raise _local_only(what, name)
    if _LORA_TAG.search(request.prompt):
        raise _local_only("A LoRA", "prompt")
    try:
        f"{request.prompt}{request.negative_prompt}{request.scheduler}".encode()
    except UnicodeEncodeError:
        raise InvalidRequestError(
            "The request holds bytes that are no UTF-8, which cannot be sent to a hosted service.",
            hint="Write the prompt as text.",
            details={"fields": ["prompt", "negative_prompt", "scheduler"]},
        ) from None
    if _said(request, "cfg_scale") and request.guidance is not None and request.cfg_scale != 1.0:
        raise InvalidRequestError(
            "Hosted services take one guidance scale, and both cfg_scale and guidance were given.",
            hint="Give one of them, or a cfg scale of 1 beside the guidance.",
            details={"fields": ["cfg_scale", "guidance"]},
        )


def parameters_of(request: ImageRequest) -> dict[str, Any]:
    """What to ask for besides prompt, seed and picture: only what the caller said, since the rest suits the model."""
    asked: dict[str, Any] = {}
    if request.negative_prompt:
        asked["negative_prompt"] = request.negative_prompt
    if _said(request, "steps") or request.preset != "default":
        asked["num_inference_steps"] = request.steps
    if request.guidance is not None:
        asked["guidance_scale"] = request.guidance
    elif _said(request, "cfg_scale"):
        asked["guidance_scale"] = request.cfg_scale
    if request.scheduler is not None:
        asked["scheduler"] = request.scheduler
    if request.init_image is not None and _said(request, "strength"):
        asked["strength"] = request.strength
    for side in ("width", "height"):
        if _said(request, side):
            asked[side] = getattr(request, side)
    return asked


def _no_host() -> InvalidRequestError:
    return InvalidRequestError("The URL of the endpoint names no host.", hint="Write https://HOST/PATH.")


def _said(request: ImageRequest, name: str) -> bool:
    return name in request.model_fields_set


def _local_only(what: str, field: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"{what} cannot be given to a hosted service.",
        hint="Leave it out, or draw with the engine on this machine.",
        details={"fields": [field]},
    )
