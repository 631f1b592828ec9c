"""Pictures from hosted services, behind the protocol that the engine on this machine keeps to."""

from .huggingface import HuggingFaceGenerator as HuggingFaceGenerator

__all__ = ("HuggingFaceGenerator",)
