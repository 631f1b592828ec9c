"""Models by the names that clients give them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from sdmanager.errors import ModelNotFoundError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sdmanager.server.face import ModelEntry, Models

# Clients have them built in; whoever names one means whatever there is.
_ITS_OWN: Final = re.compile(r"(?:dall-e|gpt-image|chatgpt-image)(?:-.*)?", re.DOTALL)


async def find_model(models: Models, name: str) -> ModelEntry:
    """The model of this name.

    Raises:
        ModelNotFoundError: There is none.
    """
    for entry in await models.list():
        if entry.name == name:
            return entry
    raise ModelNotFoundError("There is no such model.", hint="GET /openai/v1/models lists those there are.")


def is_current(models: Models, name: str | None) -> bool:
    """Whether a name, or none, means the current model: its own does, and all those of OpenAI's."""
    return name is None or name == models.current or _ITS_OWN.fullmatch(name) is not None


def model_body(entry: ModelEntry) -> Mapping[str, object]:
    """A model in a list, and by itself."""
    return {
        "id": entry.name,
        "object": "model",
        "created": entry.installed_at,
        "owned_by": "local",
        "name": entry.name,
    }
