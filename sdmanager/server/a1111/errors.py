"""Errors in the shape of this API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sdmanager.errors import EngineOutOfMemoryError, InvalidRequestError
from sdmanager.server.responses import error_response

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aiohttp import web

    from sdmanager.errors import SDManagerError

_UNPROCESSABLE: Final = 422

# Where a field of ours is called otherwise here.
_NAMES: Final = {
    "negativePrompt": "negative_prompt",
    "cfgScale": "cfg_scale",
    "strength": "denoising_strength",
    "clipSkip": "clip_skip",
    "modelId": "override_settings",
    "initImage": "init_images",
    "maskImage": "mask",
}


def a1111_error(
    error: SDManagerError, headers: Mapping[str, str] | None = None, *, status: int | None = None
) -> web.Response:
    """``{"error", "detail", "body", "errors", "code"}``, with the status that its clients expect.

    Args:
        error: What is wrong with a body is 422 with a list under ``detail``, one entry a field, as FastAPI has it;
            all else is a sentence there.
        headers: More headers.
        status: Instead of the error's own; ``detail`` is then a sentence.
    """
    sentence = error.message if error.hint is None else f"{error.message} {error.hint}"
    detail: object = sentence
    if isinstance(error, InvalidRequestError) and status is None:
        status = _UNPROCESSABLE
        detail = [
            {"loc": ["body", *where], "msg": sentence, "type": "value_error"} for where in _locations(error)
        ]
    # The one error of this API that its clients look at by name.
    kind = "OutOfMemoryError" if isinstance(error, EngineOutOfMemoryError) else "HTTPException"
    body = {"error": kind, "detail": detail, "body": "", "errors": error.message, "code": error.code}
    return error_response(error, headers, status=status, body=body)


def _locations(error: InvalidRequestError) -> list[list[str]]:
    fields = error.details.get("fields")
    if not isinstance(fields, list) or not fields:
        return [[]]
    return [[_NAMES.get(str(field), str(field))] for field in fields]
