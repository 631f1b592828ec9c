"""Asking a server in AUTOMATIC1111's way."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

from PIL import Image
from serving import Reply, Served

BASE = "/sdapi/v1"
SMALL = {"prompt": "a lighthouse", "width": 64, "height": 64, "steps": 2, "seed": 7}


async def post(served: Served, name: str, body: object = None, **options: Any) -> Reply:
    """A request with a body in JSON, or with none at all."""
    if body is not None:
        data = io.BytesIO(json.dumps(body).encode())
        headers = {"Content-Type": "application/json", **options.pop("headers", {})}
        options = {"data": data, "headers": headers, **options}
    return await served.ask("POST", f"{BASE}/{name}", **options)


async def get(served: Served, name: str, **options: Any) -> Any:
    """What is answered, which is no error."""
    reply = await served.get(f"{BASE}/{name}", **options)
    assert reply.status == 200, reply.body
    return reply.json


def opened(text: str) -> Image.Image:
    """A picture of an answer, which has nothing before its base64 and is a PNG."""
    data = base64.b64decode(text, validate=True)
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def encoded(picture: Image.Image, kind: str = "PNG") -> str:
    """A picture as clients send it."""
    buffer = io.BytesIO()
    picture.save(buffer, kind)
    return base64.b64encode(buffer.getvalue()).decode()


def info_of(reply: Reply) -> dict[str, Any]:
    """What an answer says of its pictures, which is JSON within a text."""
    assert reply.status == 200, reply.body
    assert isinstance(reply.json["info"], str)
    return json.loads(reply.json["info"])
