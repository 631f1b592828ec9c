"""A process manager around stable-diffusion.cpp: pictures, progress and live previews on the user's machine.

Names are loaded when first used, so that ``import sdmanager`` stays cheap for applications that may
never draw.
"""

from __future__ import annotations

from .version import __version__ as __version__

TYPE_CHECKING = False  # what type checkers take for typing's own, without the cost of importing it

if TYPE_CHECKING:
    from .cloud import HuggingFaceGenerator as HuggingFaceGenerator
    from .engine import LocalGenerator as LocalGenerator
    from .errors import SDManagerError as SDManagerError
    from .generation import GeneratedImage as GeneratedImage
    from .generation import GenerationPreset as GenerationPreset
    from .generation import GenerationResult as GenerationResult
    from .generation import ImageGenerationProgress as ImageGenerationProgress
    from .generation import ImageGenerator as ImageGenerator
    from .generation import ImageRequest as ImageRequest
    from .generation import Lora as Lora
    from .generation import MemoryChoices as MemoryChoices
    from .generation import MemoryPlan as MemoryPlan
    from .generation import PreviewOptions as PreviewOptions
    from .jobs import GenerationRegistry as GenerationRegistry
    from .jobs import generate_id as generate_id
    from .manager import DiffusionServerManager as DiffusionServerManager
    from .resources import HookOffloadable as HookOffloadable
    from .resources import LlamaServer as LlamaServer
    from .resources import LlamaSwap as LlamaSwap
    from .resources import Ollama as Ollama
    from .settings import Settings as Settings
    from .sync import BlockingServerManager as BlockingServerManager
    from .sync import generate_image as generate_image
    from .sync import pull_model as pull_model

_HOMES = {
    "BlockingServerManager": "sdmanager.sync",
    "DiffusionServerManager": "sdmanager.manager",
    "GeneratedImage": "sdmanager.generation",
    "GenerationPreset": "sdmanager.generation",
    "GenerationRegistry": "sdmanager.jobs",
    "GenerationResult": "sdmanager.generation",
    "HookOffloadable": "sdmanager.resources",
    "HuggingFaceGenerator": "sdmanager.cloud",
    "ImageGenerationProgress": "sdmanager.generation",
    "ImageGenerator": "sdmanager.generation",
    "ImageRequest": "sdmanager.generation",
    "LlamaServer": "sdmanager.resources",
    "LlamaSwap": "sdmanager.resources",
    "LocalGenerator": "sdmanager.engine",
    "Lora": "sdmanager.generation",
    "MemoryChoices": "sdmanager.generation",
    "MemoryPlan": "sdmanager.generation",
    "Ollama": "sdmanager.resources",
    "PreviewOptions": "sdmanager.generation",
    "SDManagerError": "sdmanager.errors",
    "Settings": "sdmanager.settings",
    "generate_id": "sdmanager.jobs",
    "generate_image": "sdmanager.sync",
    "pull_model": "sdmanager.sync",
}

__all__ = (
    "BlockingServerManager",
    "DiffusionServerManager",
    "GeneratedImage",
    "GenerationPreset",
    "GenerationRegistry",
    "GenerationResult",
    "HookOffloadable",
    "HuggingFaceGenerator",
    "ImageGenerationProgress",
    "ImageGenerator",
    "ImageRequest",
    "LlamaServer",
    "LlamaSwap",
    "LocalGenerator",
    "Lora",
    "MemoryChoices",
    "MemoryPlan",
    "Ollama",
    "PreviewOptions",
    "SDManagerError",
    "Settings",
    "generate_id",
    "generate_image",
    "pull_model",
)


def __getattr__(name: str) -> object:
    """Load a public name on first use (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    value: object = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
