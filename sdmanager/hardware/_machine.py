"""What a probe works with: injected, so that it can be tried on machines that are not here."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ._linux_gpus import WSL_DEVICE
from ._tree import Tree

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_WSL_LIBRARIES = "/usr/lib/wsl/lib"


@dataclass(frozen=True, slots=True)
class Machine:
    """The machine that is looked at.

    Attributes:
        tree: Its files.
        environ: The environment of everything that is run.
        python: A Python interpreter, or None in an application that has none.
        bindings: The folder with the module ``pynvml``, or None where it is not installed.
        guard: As in `Settings`.
    """

    tree: Tree
    environ: Mapping[str, str]
    python: Path | None
    bindings: Path | None
    guard: Sequence[str] | None = None

    @property
    def library_environ(self) -> dict[str, str]:
        """The environment in which NVIDIA's library is found."""
        environ = dict(self.environ)
        if self.tree.exists(WSL_DEVICE):
            # Where WSL puts the library; not every distribution has told its linker.
            for name in ("LD_LIBRARY_PATH", "PATH"):
                environ[name] = os.pathsep.join(filter(None, (environ.get(name), _WSL_LIBRARIES)))
        return environ


def this_machine(guard: Sequence[str] | None = None) -> Machine:
    """The machine that this process runs on."""
    from sdmanager import process

    return Machine(
        tree=Tree(),
        environ=process.child_environment(),
        python=process.this_interpreter(),
        bindings=_find_bindings(),
        guard=guard,
    )


def _find_bindings() -> Path | None:
    import importlib.util

    try:
        spec = importlib.util.find_spec("pynvml")
    except (ImportError, ValueError):
        return None
    if spec is None or spec.origin is None:
        return None
    module = Path(spec.origin)
    return module.parent.parent if spec.submodule_search_locations else module.parent
