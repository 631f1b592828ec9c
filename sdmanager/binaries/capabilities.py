"""What an engine binary can do, read from its own help text: flags differ between builds. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# Descriptions name other flags too; only what stands in the left column is an option of this build.
_OPTION = re.compile(r"^ {1,8}(-[-\w]+(?:, *-[-\w]+)*)(?=\s|$)(.*)$")
_LIST = re.compile(r"\[([^\[\]]+)\]|\{([^{}]+)\}")
_NAME = re.compile(r"[\w.+-]+")


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What one engine binary understands.

    Attributes:
        flags: Every long and short flag, with its dashes.
        samplers: Names for ``--sampling-method``.
        schedulers: Names for ``--scheduler``.
        preview_methods: Names for ``--preview``; empty where the build knows no previews.
        modes: Names for ``--mode``.
    """

    flags: frozenset[str] = frozenset()
    samplers: tuple[str, ...] = ()
    schedulers: tuple[str, ...] = ()
    preview_methods: tuple[str, ...] = ()
    modes: tuple[str, ...] = ()

    def supports(self, flag: str) -> bool:
        """Whether the binary has this flag, written with its dashes."""
        return flag in self.flags

    def to_json(self) -> dict[str, object]:
        """The same as plain lists, in a stable order."""
        return {
            "flags": sorted(self.flags),
            "samplers": list(self.samplers),
            "schedulers": list(self.schedulers),
            "preview_methods": list(self.preview_methods),
            "modes": list(self.modes),
        }

    @classmethod
    def from_json(cls, data: object) -> Capabilities | None:
        """What ``to_json`` gave, or None where the data is anything else."""
        if not isinstance(data, dict):
            return None
        lists: dict[str, tuple[str, ...]] = {}
        for name in ("flags", "samplers", "schedulers", "preview_methods", "modes"):
            value = data.get(name)
            if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
                return None
            lists[name] = tuple(value)
        return cls(
            flags=frozenset(lists["flags"]),
            samplers=lists["samplers"],
            schedulers=lists["schedulers"],
            preview_methods=lists["preview_methods"],
            modes=lists["modes"],
        )


def parse_help(text: str) -> Capabilities:
    """Read what ``sd-cli -h`` prints.

    Args:
        text: The whole help text; any other text gives capabilities without flags.
    """
    options = dict(_options(text))
    return Capabilities(
        flags=frozenset(options),
        samplers=_names(options, "--sampling-method"),
        schedulers=_names(options, "--scheduler", "--schedule"),
        preview_methods=_names(options, "--preview"),
        modes=_names(options, "--mode"),
    )


def _options(text: str) -> Iterator[tuple[str, str]]:
    """Each flag with its description, wrapped lines joined."""
    flags: list[str] = []
    description: list[str] = []
    for line in [*text.splitlines(), ""]:
        match = _OPTION.match(line)
        if match is None and line.startswith(" "):
            description.append(line.strip())
            continue
        for flag in flags:
            yield flag, " ".join(description)
        flags = [flag.strip() for flag in match[1].split(",")] if match else []
        description = [match[2].strip()] if match else []


def _names(options: Mapping[str, str], *flags: str) -> tuple[str, ...]:
    """The first list of names in the description of the first of these flags that the build has."""
    for flag in flags:
        if flag in options:
            match = _LIST.search(options[flag])
            names = (match[1] or match[2]).split(",") if match else []
            return tuple(name.strip() for name in names if _NAME.fullmatch(name.strip()))
    return ()
