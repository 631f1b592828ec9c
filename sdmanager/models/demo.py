"""The demo model: small, local, made in about a second, with nothing to download.

Its weights are random, so its pictures are noise; but they depend on prompt and seed, and the real engine
loads and draws them. That proves an engine before any real model is there.
"""

from __future__ import annotations

import json
import math
import shutil
import tempfile
import time
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sdmanager.errors import StorageError
from sdmanager.files import read_json

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy as np
    from numpy.typing import NDArray

DEMO_NAME: Final = "demo"

# Part of the folder's name: raise it when the weights change, so that an older demo model is not reused.
_REVISION: Final = 2
_SEED: Final = 20260
_FILES: Final = ("diffusion_model", "llm", "tae")  # named by the part that each plays

# The decoder's last layer starts at mid-grey with little contrast, so that colours are not clipped.
_LAST_BIAS: Final = 0.5
_LAST_GAIN: Final = 0.3

# A staging folder this old is left from a process that was killed.
_STALE_SECONDS: Final = 3600.0


def demo_paths(models_dir: Path) -> dict[str, Path]:
    """Path of each file of the demo model by role; they are made first where they are not there whole.

    Raises:
        StorageError: They cannot be written.
    """
    folder = _folder(models_dir)
    if not _is_whole(folder):
        _make(folder)
    return demo_places(models_dir)


def demo_places(models_dir: Path) -> dict[str, Path]:
    """The same paths, whether the files are there or not; nothing is looked at."""
    return {name: _folder(models_dir) / f"{name}.safetensors" for name in _FILES}


def _folder(models_dir: Path) -> Path:
    return models_dir / f"{DEMO_NAME}-{_REVISION}"


def _is_whole(folder: Path) -> bool:
    sizes = read_json(folder / "sizes.json")
    if not isinstance(sizes, dict) or set(sizes) != set(_FILES):
        return False
    try:
        return all((folder / f"{name}.safetensors").stat().st_size == size for name, size in sizes.items())
    except OSError:
        return False


def _make(folder: Path) -> None:
    import numpy as np
    from safetensors.numpy import save

    layout = json.loads(resources.files(__package__).joinpath("demo_tensors.json").read_bytes())
    rng = np.random.default_rng(_SEED)
    staging: Path | None = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        for left in folder.parent.glob(f".{DEMO_NAME}-*"):
            if time.time() - left.stat().st_mtime > _STALE_SECONDS:
                shutil.rmtree(left, ignore_errors=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        sizes = {}
        for name, tensors in layout["files"].items():
            last = _last_decoder_layer(tensors)
            data = save({t: _weights(rng, t, *spec, last=t.startswith(last)) for t, spec in tensors.items()})
            (staging / f"{name}.safetensors").write_bytes(data)
            sizes[name] = len(data)
        (staging / "sizes.json").write_text(json.dumps(sizes))
        if not _is_whole(folder):  # another process may have been first, and its engine may be reading by now
            shutil.rmtree(folder, ignore_errors=True)
        try:
            staging.rename(folder)
        except OSError:
            if not _is_whole(folder):
                raise
    except OSError as exc:
        raise StorageError(
            f"The demo model cannot be written: {exc.strerror or exc}.",
            hint="It needs 30 MB in the data folder; SDMANAGER_HOME names another place.",
        ) from exc
    finally:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)


def _last_decoder_layer(tensors: Iterable[str]) -> str:
    """Prefix of the autoencoder's last layer; of no tensor in a file that holds no decoder."""
    layers = (name.rpartition(".")[0] for name in tensors if name.startswith("decoder."))
    last = max(
        layers, key=lambda name: [int(part) for part in name.split(".") if part.isdigit()], default="none"
    )
    return f"{last}."


def _weights(
    rng: np.random.Generator, name: str, dtype: str, shape: list[int], *, last: bool
) -> NDArray[np.float16 | np.float32]:
    import numpy as np

    target = np.float16 if dtype == "F16" else np.float32
    if name.endswith(".bias"):
        return np.full(shape, _LAST_BIAS if last else 0.0, dtype=target)
    if len(shape) == 1:  # norms
        return np.ones(shape, dtype=target)
    scale = (_LAST_GAIN if last else 1.0) / math.sqrt(math.prod(shape[1:]))  # 1/sqrt(fan in)
    return (rng.standard_normal(shape, dtype=np.float32) * np.float32(scale)).astype(target)
