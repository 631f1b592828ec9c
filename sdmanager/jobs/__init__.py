"""What was asked of a server: one generation after the other, kept for a while, and what readers see of it."""

from __future__ import annotations

from ._lock import free_folder as free_folder
from .derived import last_event as last_event
from .feed import Feed as Feed
from .feed import FeedItem as FeedItem
from .ids import generate_id as generate_id
from .recording import Recorder as Recorder
from .registry import GenerationRegistry as GenerationRegistry
from .service import GenerationService as GenerationService
from .snapshots import Failure as Failure
from .snapshots import Generation as Generation
from .states import TRANSITIONS as TRANSITIONS
from .states import Status as Status
from .states import check_transition as check_transition

__all__ = (
    "TRANSITIONS",
    "Failure",
    "Feed",
    "FeedItem",
    "Generation",
    "GenerationRegistry",
    "GenerationService",
    "Recorder",
    "Status",
    "check_transition",
    "free_folder",
    "generate_id",
    "last_event",
)
