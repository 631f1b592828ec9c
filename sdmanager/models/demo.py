"""The demo model: small, local, made in about a second, with nothing to download.

Its weights are random, so its pictures are noise; but they depend on prompt and seed, and the real engine
loads and draws them. That proves an engine before any real model is there.
"""

from __future__ import annotations

import json
import math
import shutil
import tempfile
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
_REVISION: Final = 1
_SEED: Final = 20260
_ROLE_OF_FILE: Final = {"diffusion_model": "diffusion_model", "llm": "llm", "tae": "tae"}

# Starts the decoder at mid-grey, so that the picture is not clipped to one colour.
_LAST_DECODER_BIAS: Final = 0.5


def demo_paths(models_dir: Path) -> dict[str, Path]:
    """Path of each file of the demo model by role; they are made first where they are not there whole.

    Raises:
        StorageError: They cannot be written.
    """
    folder = models_dir / f"{DEMO_NAME}-{_REVISION}"
    if not _is_whole(folder):
        _make(folder)
    return {role: folder / f"{name}.safetensors" for name, role in _ROLE_OF_FILE.items()}


def _is_whole(folder: Path) -> bool:
    sizes = read_json(folder / "sizes.json")
    if not isinstance(sizes, dict) or set(sizes) != set(_ROLE_OF_FILE):
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
        staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        sizes = {}
        for name, tensors in layout["files"].items():
            biases = {_last_decoder_bias(tensors): _LAST_DECODER_BIAS}
            data = save(
                {
                    t: _weights(rng, dtype, shape, t.endswith(".bias"), biases.get(t, 0.0))
                    for t, (dtype, shape) in tensors.items()
                }
            )
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


def _last_decoder_bias(tensors: Iterable[str]) -> str | None:
    """The bias of the autoencoder's last layer, or None in a file that holds no decoder."""
    biases = (name for name in tensors if name.startswith("decoder.") and name.endswith(".bias"))
    return max(
        biases, key=lambda name: [int(part) for part in name.split(".") if part.isdigit()], default=None
    )


def _weights(
    rng: np.random.Generator, dtype: str, shape: list[int], is_bias: bool, bias: float
) -> NDArray[np.float16 | np.float32]:
    import numpy as np

    target = np.float16 if dtype == "F16" else np.float32
    if is_bias:
        return np.full(shape, bias, dtype=target)
    if len(shape) == 1:  # norms
        return np.ones(shape, dtype=target)
    fan_in = math.prod(shape[1:])
    return (rng.standard_normal(shape, dtype=np.float32) / math.sqrt(fan_in)).astype(target)
