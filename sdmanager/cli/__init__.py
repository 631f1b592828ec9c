"""The command line. The only place that prints."""

from .main import main as main

__all__ = ("main",)
