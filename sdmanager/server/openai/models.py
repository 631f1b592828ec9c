"""Models by the names that clients give them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from sdmanager.server.face import Models

# Clients have them built in; whoever names one means whatever there is.
_ITS_OWN: Final = re.compile(r"(?:dall-e|gpt-image|chatgpt-image)(?:-.*)?", re.DOTALL)


def is_current(models: Models, name: str | None) -> bool:
    """Whether a name, or none, means the current model: its own does, and all those of OpenAI's."""
    return name is None or name == models.current or _ITS_OWN.fullmatch(name) is not None
