"""Taking what is the user's own business out of what is shown."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from sdmanager.files import expanded

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sdmanager.settings import Settings

# Folders of other users, and of this one where it is not the home folder now: up to the name of the user.
_HOMES = re.compile(
    r"(?<![\w<])(?:/home/|/Users/|[A-Za-z]:\\Users\\)(?:[^/\\\s'\":;,]| (?=[^/\\'\":;,\n]*[/\\]))+"
)


def names_of(settings: Settings) -> dict[str, str]:
    """What stands for folders, files and hosts that only concern the user, the longest first."""
    named = {
        str(settings.data_dir): "<data>",
        str(settings.cache_dir): "<cache>",
        str(settings.state_dir): "<state>",
        str(settings.loras_dir): "<loras>",
        str(settings.logs_dir): "<logs>",
        str(expanded("~")): "~",
    }
    if settings.engine is not None:
        named[str(settings.engine)] = "<own engine>"
    if settings.manifest is not None:
        named[str(settings.manifest)] = "<own binaries.json>"
        named[settings.manifest.name] = "<own binaries.json>"
    if settings.mirror is not None and (host := _host(settings.mirror)):
        named[host] = "<mirror>"
    # The root of a file system is nobody's, and stands in every path.
    kept = {text: name for text, name in named.items() if text and Path(text).parent != Path(text)}
    return dict(sorted(kept.items(), key=lambda item: -len(item[0])))


def without_private(value: Any, names: Mapping[str, str]) -> Any:
    """The same data with every text that has a name replaced by it; the keys of objects stay."""
    if isinstance(value, dict):
        return {key: without_private(item, names) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_private(item, names) for item in value]
    if not isinstance(value, str):
        return value
    for text, name in names.items():
        value = name.join(re.split(rf"(?<![\w.-]){re.escape(text)}(?![\w-]|\.\w)", value))
    return _HOMES.sub("~", value)


def _host(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None
