"""The gallery: everything that was drawn, with its settings, in a folder of the user's choice."""

from __future__ import annotations

from .history import History as History
from .images import HistoryImage as HistoryImage
from .images import HistoryPage as HistoryPage

__all__ = ("History", "HistoryImage", "HistoryPage")
