"""The page as it goes over the wire: its sources joined into one document, and the policy that it may run under."""

from __future__ import annotations

import base64
import functools
import gzip
import hashlib
import re
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

# In this order: each part uses only names of those before it while it is loaded.
PARTS: Final = (
    "dom", "api", "connection", "models", "picture", "mask", "form", "stage", "jobs", "store", "gallery", "viewer",
    "main",
)  # fmt: skip

_PLACE: Final = re.compile(r"\{\{(\w+)\}\}")


@dataclass(frozen=True, slots=True)
class Document:
    """The page.

    Attributes:
        html: All of it, UTF-8.
        gzipped: The same, compressed.
        tag: Its entity tag, without quotes; another one for another page.
        policy: Its ``Content-Security-Policy``: the page's own style and scripts, by their digests, and nothing else.
    """

    html: bytes
    gzipped: bytes
    tag: str
    policy: str


@functools.cache
def document() -> Document:
    """The page, made of the files beside this module. Blocking the first time, which reads them; then at once."""
    folder = resources.files(__package__)
    return join(lambda name: folder.joinpath(name).read_text(encoding="utf-8"))


def join(read: Callable[[str], str]) -> Document:
    """One document of its sources.

    Args:
        read: Text of a file, by its name.
    """
    # Parts of one script: they share its names, and nothing else on the page sees them.
    blocks = {
        "style": f"\n{read('page.css')}",
        "theme": f"\n{read('js/theme.js')}",
        "script": "\n" + "\n".join(read(f"js/{part}.js") for part in PARTS),
    }
    html = _PLACE.sub(lambda place: blocks[place[1]], read("page.html")).encode()
    return Document(html, gzip.compress(html, mtime=0), _digest(html).rstrip("=")[:22], _policy(blocks))


def _policy(blocks: dict[str, str]) -> str:
    allowed = {name: f"'sha256-{_digest(text.encode())}'" for name, text in blocks.items()}
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src {allowed['theme']} {allowed['script']}",
            f"style-src {allowed['style']}",
            "img-src 'self' data: blob:",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        )
    )


def _digest(data: bytes) -> str:
    return base64.b64encode(hashlib.sha256(data).digest()).decode("ascii")
