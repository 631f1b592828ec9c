"""Which compilers there are: what the choice of a variant needs to know of the tools for building it."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

# By program: variables that may name it, variables that may name a folder with a bin/ that has it, usual folders.
# The same places are looked at by the checks before a build, which also look at versions.
_PLACES: Final[dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]]] = {
    "nvcc": (("CUDACXX",), ("CUDA_PATH", "CUDA_HOME"), ("/usr/local/cuda/bin",)),
    "hipcc": ((), ("ROCM_PATH",), ("/opt/rocm/bin",)),
    "glslc": ((), ("VULKAN_SDK",), ()),
    "c++": (("CXX",), (), ()),
    "g++": ((), (), ()),
    "clang++": ((), (), ()),
    "cl": ((), (), ()),
    "xcrun": ((), (), ()),
}


def programs_in_path(environ: Mapping[str, str] | None = None) -> frozenset[str]:
    """The names of those that are there.

    Args:
        environ: Variables to read; the process's own when None.
    """
    env = os.environ if environ is None else environ
    return frozenset(name for name in _PLACES if _is_there(name, env))


def _is_there(program: str, env: Mapping[str, str]) -> bool:
    names, homes, folders = _PLACES[program]
    places = [program, *(env[name].split()[0] for name in names if env.get(name, "").strip())]
    places += [os.path.join(env[home], "bin", program) for home in homes if env.get(home)]  # noqa: PTH118
    places += [os.path.join(folder, program) for folder in folders]  # noqa: PTH118
    return any(shutil.which(place, path=env.get("PATH", os.defpath)) for place in places)
