"""The real SDK of OpenAI against a server of ours, and what comes out of it."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np
from openai import AsyncOpenAI, DefaultAsyncHttpxClient
from PIL import Image
from serving import Served

KEY = "sk-credential-of-a-client"
SMALL: dict[str, Any] = {"prompt": "a lighthouse", "size": "64x64", "extra_body": {"steps": 2, "seed": 7}}


class Counted(AsyncOpenAI):
    """It counts what it sends."""

    posts = 0


def sdk(served: Served, path: str = "/openai/v1", **options: Any) -> Counted:
    """A client; to be closed."""

    async def count(request) -> None:
        client.posts += request.method == "POST"

    http = DefaultAsyncHttpxClient(event_hooks={"request": [count]})
    client = Counted(**{"base_url": served.url + path, "api_key": KEY, "http_client": http, **options})
    return client


def picture_of(b64_json: str | None) -> Image.Image:
    """A picture, decoded whole."""
    assert b64_json is not None
    picture = Image.open(io.BytesIO(base64.b64decode(b64_json, validate=True)))
    picture.load()
    return picture


def pixels_of(b64_json: str | None) -> np.ndarray:
    """Rows, columns, colours."""
    return np.asarray(picture_of(b64_json).convert("RGB"), dtype=float)


def without_pictures(data: bytes) -> bytes:
    """Frames as they came, but for what differs from one run to the next."""
    data = re.sub(rb'"b64_json":"[A-Za-z0-9+/=]+"', b'"b64_json":"..."', data)
    return re.sub(rb'"created_at":1\d{9}', b'"created_at":0', data)


def failing(error: Exception) -> Callable[..., NoReturn]:
    """A function that cannot do its work."""

    def fail(*_given: object) -> NoReturn:
        raise error

    return fail
