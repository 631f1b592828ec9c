"""What went wrong at a service, as one of our own errors."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any, Final

from sdmanager.errors import (
    CloudError,
    CloudModelNotFoundError,
    CloudQuotaError,
    CloudTimeoutError,
    CloudUnauthorizedError,
    CloudUnavailableError,
    InvalidRequestError,
    SDManagerError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    from ._asking import Target

_WORDS_MAX: Final = 200
_NAME_MAX: Final = 40
_TOKEN_SHOWN: Final = "***"  # noqa: S105 - what stands in its place
_ELSEWHERE_HINT: Final = "Give its token as token= in Python: HF_TOKEN is not sent outside of Hugging Face."
_PROVIDERS_HINT: Final = "The model's page on the hub names its providers; 'auto' takes the first of them."


def explained(error: BaseException, target: Target, token: str | None) -> SDManagerError:
    """The error of ours that says what a failed call means.

    Told apart by type and status, never by text. Whatever the service says is shortened, and the token is cut out.

    Args:
        error: What huggingface_hub, its HTTP client or Pillow raised.
        target: What was asked.
        token: What must not be shown.
    """
    from huggingface_hub.errors import HfHubHTTPError, InferenceTimeoutError, OfflineModeIsEnabled

    details: dict[str, object] = {"model": target.name, "provider": target.variant}
    if isinstance(error, SDManagerError):
        return error
    if isinstance(error, HfHubHTTPError):
        return _refused(error, target, token, details)
    if isinstance(error, InferenceTimeoutError | TimeoutError) or _is_of_client(error, "Timeout"):
        return timed_out(target, None)
    if isinstance(error, OfflineModeIsEnabled):
        return CloudUnavailableError(
            f"{_service(target)} cannot be reached: huggingface_hub is in its offline mode.",
            hint="Unset HF_HUB_OFFLINE to use hosted services.",
            details=details,
        )
    if _is_of_client(error, "InvalidURL", "UnsupportedProtocol", "LocalProtocolError"):
        return InvalidRequestError(
            "The address of the service cannot be used.", hint="Check it.", details=details
        )
    if isinstance(error, UnicodeEncodeError):  # all else that is sent was seen to be encodable
        return unusable_saved_token(target)
    if _is_bad_picture(error):
        return CloudError(
            f"{_service(target)} did not answer with a picture that can be read.",
            hint="Check that the model draws pictures.",
            details=details,
        )
    if _is_of_client(error, "") or isinstance(error, OSError):
        return CloudUnavailableError(f"{_service(target)} cannot be reached.", details=details)
    if not _is_about_answer(error):
        return _not_served(error, target, token, details)
    return CloudError(
        f"{_service(target)} gave an answer that is not understood.",
        hint="Try again, or use another provider.",
        details={**details, "error": type(error).__name__},
    )


def timed_out(target: Target, seconds: float | None) -> CloudTimeoutError:
    """The service gave no picture in time."""
    how_long = "in time" if seconds is None else f"within {seconds:g} s"
    return CloudTimeoutError(
        f"{_service(target)} gave no picture {how_long}.",
        hint="A model that is asleep takes minutes to wake: try again, or allow more time.",
        details={"model": target.name, "provider": target.variant},
    )


def no_token(target: Target) -> CloudUnauthorizedError:
    """Nothing was asked, since there is no token to show."""
    return CloudUnauthorizedError(
        "Hosted services need a token, and there is none.",
        details={"model": target.name, "provider": target.variant},
    )


def unusable_saved_token(target: Target) -> CloudUnauthorizedError:
    """Nothing was asked, since what is saved as the user's token is none."""
    return CloudUnauthorizedError(
        "The saved token is none of Hugging Face's, which begin with hf_ and are visible ASCII characters.",
        hint="Set HF_TOKEN without quotes, or run 'hf auth login'; a provider's own key is given as token= in Python.",
        details={"model": target.name, "provider": target.variant},
    )


def _service(target: Target) -> str:
    if target.is_endpoint:
        return f"The endpoint {target.name}"
    return "The service" if target.provider == "auto" else f"The provider {target.provider}"


def _refused(error: Any, target: Target, token: str | None, details: dict[str, object]) -> SDManagerError:
    """From the status of an answer; huggingface_hub's own class where the hub is known to answer ambiguously."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    response = error.response
    status = int(response.status_code)
    words = _shortened(_words(error), token)
    said = f": {words}" if words else ""
    details = {**details, "status": status}
    model = f"The model {target.name}"
    if isinstance(error, GatedRepoError):
        return CloudUnauthorizedError(
            f"{model} is open only to those who agreed to its terms{said}.",
            hint="Agree on the model's page, then use a token of the same account.",
            details=details,
        )
    if isinstance(error, RepositoryNotFoundError) or status in {404, 410}:
        what = f"{_service(target)} does not know its path" if target.is_endpoint else f"{model} is not known"
        return CloudModelNotFoundError(f"{what}{said}.", hint="Check its name.", details=details)
    if status in {401, 403} and token is None:
        return _no_token_given(target, said, details)
    if status in {401, 403}:
        return CloudUnauthorizedError(f"{_service(target)} does not accept the token{said}.", details=details)
    if status in {402, 429}:
        return _used_up(response, target, said, details)
    if status in {408, 504}:
        return CloudTimeoutError(
            f"{_service(target)} took too long{said}.", hint="Try again in a while.", details=details
        )
    if status in {502, 503, 529}:
        return CloudUnavailableError(f"{_service(target)} is not available now{said}.", details=details)
    if 400 <= status < 500:
        return InvalidRequestError(
            f"{_service(target)} refused the request{said or f' with status {status}'}.",
            hint="Change what it names, or leave out what this model does not take.",
            details=details,
        )
    return CloudError(
        f"{_service(target)} failed with status {status}{said}.", hint="Try again.", details=details
    )


def _no_token_given(target: Target, said: str, details: dict[str, object]) -> CloudUnauthorizedError:
    # Where the user's own may go it would have been sent, had there been one.
    hint = None if target.may_have_saved_token else _ELSEWHERE_HINT
    return CloudUnauthorizedError(
        f"{_service(target)} wants a token, and none was given for it{said}.", hint=hint, details=details
    )


def _used_up(response: Any, target: Target, said: str, details: dict[str, object]) -> CloudQuotaError:
    if details["status"] == 402:
        return CloudQuotaError(
            f"The account's credits are used up{said}.",
            hint="Buy credits on the account's billing page, or draw on this machine.",
            details=details,
        )
    wait = response.headers.get("retry-after", "").strip()
    seconds = int(wait) if wait.isascii() and wait.isdigit() and len(wait) < 7 else None
    return CloudQuotaError(
        f"{_service(target)} was asked too often{said}.",
        hint=f"Try again in {seconds} s." if seconds else "Try again in a while.",
        details=details if seconds is None else {**details, "retry_after": seconds},
    )


def _not_served(
    error: BaseException, target: Target, token: str | None, details: dict[str, object]
) -> SDManagerError:
    from huggingface_hub.errors import HFValidationError

    if isinstance(error, HFValidationError):
        return InvalidRequestError(
            f"{_shortened(target.name, token)!r} is not the name of a model.",
            hint="Write ORG/MODEL, or the URL of an endpoint.",
            details=details,
        )
    if (unknown := _unknown_provider(target, details)) is not None:
        return unknown
    words = "" if _is_stop(error) else _shortened(str(error), token)
    said = f": {words}" if words else ""
    return CloudModelNotFoundError(
        f"{_service(target)} does not draw with the model {target.name}{said}.",
        hint=_PROVIDERS_HINT,
        details=details,
    )


def _unknown_provider(target: Target, details: dict[str, object]) -> InvalidRequestError | None:
    try:
        from huggingface_hub.inference._providers import PROVIDERS
    except ImportError:  # it is not public
        return None
    if target.is_endpoint or target.provider in {"auto", *PROVIDERS}:
        return None
    close = difflib.get_close_matches(target.provider.lower(), PROVIDERS, n=1)
    return InvalidRequestError(
        f"huggingface_hub knows no provider {target.provider[:_NAME_MAX]!r}.",
        hint=f"Did you mean {close[0]!r}?" if close else f"It knows: auto, {', '.join(sorted(PROVIDERS))}.",
        details=details,
    )


def _words(error: Any) -> str:
    """What the service itself says."""
    if error.server_message:
        return str(error.server_message)
    if "html" in error.response.headers.get("content-type", "").lower():
        return ""
    try:
        facts = error.response.json()
    except ValueError:
        return ""
    found = facts.get("detail") or facts.get("message") if isinstance(facts, dict) else facts
    return "" if found is None else str(found)


def _shortened(text: str, token: str | None) -> str:
    """One line of limited length without the token, which is cut out first, so that no half of it can stay."""
    if token:
        text = text.replace(token, _TOKEN_SHOWN)
    line = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    line = line if len(line) <= _WORDS_MAX else f"{line[:_WORDS_MAX].rstrip()}…"
    return line.rstrip(".:;, ")


def _is_of_client(error: BaseException, *endings: str) -> bool:
    """Whether an HTTP client raised it: httpx, or the fork of it that later versions of huggingface_hub use."""
    return any(
        kind.__module__.startswith("httpx") and any(ending in kind.__name__ for ending in endings)
        for kind in type(error).__mro__
    )


def _is_bad_picture(error: BaseException) -> bool:
    # Pillow raises all sorts, of which some are plain OSErrors, as those of the network are.
    return any(frame.f_globals.get("__name__", "").partition(".")[0] == "PIL" for frame in _frames(error))


def _is_about_answer(error: BaseException) -> bool:
    """Whether it was raised over an answer of the provider, rather than while it was looked for.

    Both are plain ValueErrors; what tells them apart is the function that they come through.
    """
    if _is_stop(error):
        return False
    if not isinstance(error, ValueError):
        return True
    if isinstance(error, UnicodeError) or type(error).__name__ == "JSONDecodeError":
        return True
    return any(frame.f_code.co_name == "get_response" for frame in _frames(error))


def _is_stop(error: BaseException) -> bool:
    """What no provider at all looks like; a coroutine cannot raise StopIteration, but for a RuntimeError from it."""
    return isinstance(error, StopIteration) or isinstance(error.__cause__, StopIteration)


def _frames(error: BaseException) -> Iterator[FrameType]:
    """Those that it came through."""
    trace = error.__traceback__
    while trace is not None:
        yield trace.tb_frame
        trace = trace.tb_next
