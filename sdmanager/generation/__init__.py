"""The vocabulary of a generation: request, events, result, memory plan, and what those share who carry one out."""

from .calling import callback_of as callback_of
from .calling import request_of as request_of
from .events import Cancelled as Cancelled
from .events import Completed as Completed
from .events import Event as Event
from .events import EventCallback as EventCallback
from .events import Failed as Failed
from .events import Preview as Preview
from .events import Progress as Progress
from .events import Queued as Queued
from .events import Replanned as Replanned
from .events import Stage as Stage
from .events import StageChanged as StageChanged
from .generator import ImageGenerator as ImageGenerator
from .pictures import eight_bits as eight_bits
from .pictures import turn_upright as turn_upright
from .plan import MemoryChoices as MemoryChoices
from .plan import MemoryPlan as MemoryPlan
from .presets import STEPS_MAX as STEPS_MAX
from .presets import GenerationPreset as GenerationPreset
from .progress import ImageGenerationProgress as ImageGenerationProgress
from .request import CFG_SCALE_MAX as CFG_SCALE_MAX
from .request import CLIP_SKIP_MAX as CLIP_SKIP_MAX
from .request import COUNT_MAX as COUNT_MAX
from .request import EMPTY_PROMPT as EMPTY_PROMPT
from .request import LORAS_MAX as LORAS_MAX
from .request import SEED_MAX as SEED_MAX
from .request import SIZE_MAX as SIZE_MAX
from .request import SIZE_MIN as SIZE_MIN
from .request import SIZE_MULTIPLE as SIZE_MULTIPLE
from .request import ImageRequest as ImageRequest
from .request import Lora as Lora
from .request import PreviewFormat as PreviewFormat
from .request import PreviewMethod as PreviewMethod
from .request import PreviewOptions as PreviewOptions
from .request import RequestFields as RequestFields
from .result import GeneratedImage as GeneratedImage
from .result import GenerationResult as GenerationResult
from .result import ImageData as ImageData
from .result import MemoryUse as MemoryUse
from .result import PreviewTimings as PreviewTimings
from .result import StageTimings as StageTimings
from .result import check_image_suffix as check_image_suffix
from .result import check_writable as check_writable
from .result import settings_of as settings_of
from .result import without_pictures as without_pictures
from .running import LoopLocks as LoopLocks
from .running import RunningTasks as RunningTasks

__all__ = (
    "CFG_SCALE_MAX",
    "CLIP_SKIP_MAX",
    "COUNT_MAX",
    "EMPTY_PROMPT",
    "LORAS_MAX",
    "SEED_MAX",
    "SIZE_MAX",
    "SIZE_MIN",
    "SIZE_MULTIPLE",
    "STEPS_MAX",
    "Cancelled",
    "Completed",
    "Event",
    "EventCallback",
    "Failed",
    "GeneratedImage",
    "GenerationPreset",
    "GenerationResult",
    "ImageData",
    "ImageGenerationProgress",
    "ImageGenerator",
    "ImageRequest",
    "LoopLocks",
    "Lora",
    "MemoryChoices",
    "MemoryPlan",
    "MemoryUse",
    "Preview",
    "PreviewFormat",
    "PreviewMethod",
    "PreviewOptions",
    "PreviewTimings",
    "Progress",
    "Queued",
    "Replanned",
    "RequestFields",
    "RunningTasks",
    "Stage",
    "StageChanged",
    "StageTimings",
    "callback_of",
    "check_image_suffix",
    "check_writable",
    "eight_bits",
    "request_of",
    "settings_of",
    "turn_upright",
    "without_pictures",
)
