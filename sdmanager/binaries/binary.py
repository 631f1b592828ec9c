"""One engine binary: where it is, what it is, and what it can do."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sdmanager.errors import InvalidRequestError

from .capabilities import Capabilities

VARIANTS = ("cuda", "rocm", "vulkan", "metal", "cpu")
"""What an engine can be built for, the fastest first."""

CUSTOM = "custom"
"""The variant of a binary of which only its owner knows what it was built for."""


def check_variant(variant: str | None) -> None:
    """See that a variant that is asked for is one; None, for any, is right too.

    Raises:
        InvalidRequestError: There is no such variant.
    """
    if variant is not None and variant not in VARIANTS:
        raise InvalidRequestError(
            f"No engine variant is called {variant!r}.",
            hint=f"Use one of {', '.join(VARIANTS)}, also where SDMANAGER_VARIANT names one.",
        )


@dataclass(frozen=True, slots=True)
class EngineBinary:
    """An ``sd-cli`` that runs on this machine.

    Attributes:
        path: The executable, absolute.
        variant: One of ``VARIANTS``, or ``custom``.
        version: What it says of itself, such as ``master-827-97d2990+``; ``unknown`` where it does not know.
        source: How it came here: ``source-build`` or ``user``.
        sha256: Of the executable.
        capabilities: Its flags and lists.
        installed_at: When it was built, or first looked at.
    """

    path: Path
    variant: str
    version: str
    source: str
    sha256: str
    capabilities: Capabilities
    installed_at: datetime

    def installed_bytes(self) -> int:
        """Size of all files in its folder, or of the file alone where it is the user's own; 0 when it is gone."""
        if self.variant == CUSTOM:
            return self.path.stat().st_size if self.path.is_file() else 0
        return sum(path.stat().st_size for path in self.path.parent.rglob("*") if path.is_file())

    def to_json(self, relative_to: Path | None = None) -> dict[str, object]:
        """Plain data for a file.

        Args:
            relative_to: Folder below which the path is written, so that the folder can be moved.
        """
        path = self.path if relative_to is None else self.path.relative_to(relative_to)
        return {
            "path": str(path),
            "variant": self.variant,
            "version": self.version,
            "source": self.source,
            "sha256": self.sha256,
            "capabilities": self.capabilities.to_json(),
            "installed_at": self.installed_at.astimezone(UTC).isoformat(),
        }

    @classmethod
    def from_json(cls, data: object, relative_to: Path | None = None) -> EngineBinary | None:
        """What ``to_json`` gave, or None where the data is anything else."""
        if not isinstance(data, dict):
            return None
        texts: dict[str, str] = {}
        for name in ("path", "variant", "version", "source", "sha256", "installed_at"):
            value = data.get(name)
            if not isinstance(value, str):
                return None
            texts[name] = value
        capabilities = Capabilities.from_json(data.get("capabilities"))
        try:
            installed_at = datetime.fromisoformat(texts["installed_at"])
            installed_at.astimezone(UTC)
        except (ValueError, OverflowError):
            return None
        if capabilities is None or installed_at.tzinfo is None:
            return None
        path = Path(texts["path"])
        return cls(
            path=path if relative_to is None else relative_to / path,
            variant=texts["variant"],
            version=texts["version"],
            source=texts["source"],
            sha256=texts["sha256"],
            capabilities=capabilities,
            installed_at=installed_at,
        )
