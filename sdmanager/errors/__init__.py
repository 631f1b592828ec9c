"""Every error a caller can meet, each with a code, an HTTP status, an exit code and a hint.

One root, so that ``except SDManagerError`` catches what this package raises on purpose and nothing else.
Nothing classifies an error by its text: code and class carry the meaning, the message is for people.
"""

from __future__ import annotations

from .base import InputImageError as InputImageError
from .base import InvalidRequestError as InvalidRequestError
from .base import SDManagerError as SDManagerError
from .cloud import CloudError as CloudError
from .cloud import CloudModelNotFoundError as CloudModelNotFoundError
from .cloud import CloudQuotaError as CloudQuotaError
from .cloud import CloudTimeoutError as CloudTimeoutError
from .cloud import CloudUnauthorizedError as CloudUnauthorizedError
from .cloud import CloudUnavailableError as CloudUnavailableError
from .door import BodyTimeoutError as BodyTimeoutError
from .door import BodyTooLargeError as BodyTooLargeError
from .door import MediaTypeError as MediaTypeError
from .door import MethodNotAllowedError as MethodNotAllowedError
from .door import RefusedError as RefusedError
from .door import RouteNotFoundError as RouteNotFoundError
from .door import UnauthorizedError as UnauthorizedError
from .engines import BinaryError as BinaryError
from .engines import BuildFailedError as BuildFailedError
from .engines import BuildToolsMissingError as BuildToolsMissingError
from .engines import DownloadError as DownloadError
from .engines import EngineNotFoundError as EngineNotFoundError
from .engines import EngineNotRunnableError as EngineNotRunnableError
from .engines import NoDeviceError as NoDeviceError
from .engines import NoEngineWorksError as NoEngineWorksError
from .generation import BlankImageError as BlankImageError
from .generation import EngineArgumentError as EngineArgumentError
from .generation import EngineCrashedError as EngineCrashedError
from .generation import EngineHungError as EngineHungError
from .generation import EngineOutOfMemoryError as EngineOutOfMemoryError
from .generation import GenerationError as GenerationError
from .generation import NoImageError as NoImageError
from .generation import TruncatedImageError as TruncatedImageError
from .models import ModelChangedError as ModelChangedError
from .models import ModelComponentMissingError as ModelComponentMissingError
from .models import ModelCorruptError as ModelCorruptError
from .models import ModelDownloadError as ModelDownloadError
from .models import ModelError as ModelError
from .models import ModelGatedError as ModelGatedError
from .models import ModelNotFoundError as ModelNotFoundError
from .models import ModelNotInstalledError as ModelNotInstalledError
from .models import ModelUnsafeError as ModelUnsafeError
from .models import ModelUnsupportedError as ModelUnsupportedError
from .resources import InsufficientResourcesError as InsufficientResourcesError
from .resources import OffloadError as OffloadError
from .resources import RestoreError as RestoreError
from .server import AlreadyTerminalError as AlreadyTerminalError
from .server import GalleryOffError as GalleryOffError
from .server import GenerationCancelledError as GenerationCancelledError
from .server import GenerationNotFoundError as GenerationNotFoundError
from .server import IdempotencyKeyError as IdempotencyKeyError
from .server import ImageFormingError as ImageFormingError
from .server import ImageNotFoundError as ImageNotFoundError
from .server import InterruptedGenerationError as InterruptedGenerationError
from .server import PortInUseError as PortInUseError
from .server import ServerAlreadyRunningError as ServerAlreadyRunningError
from .server import ServerBusyError as ServerBusyError
from .server import ServerError as ServerError
from .server import ServerNotRunningError as ServerNotRunningError
from .server import ServerUnreachableError as ServerUnreachableError
from .storage import OutputError as OutputError
from .storage import StorageError as StorageError

__all__ = (
    "AlreadyTerminalError",
    "BinaryError",
    "BlankImageError",
    "BodyTimeoutError",
    "BodyTooLargeError",
    "BuildFailedError",
    "BuildToolsMissingError",
    "CloudError",
    "CloudModelNotFoundError",
    "CloudQuotaError",
    "CloudTimeoutError",
    "CloudUnauthorizedError",
    "CloudUnavailableError",
    "DownloadError",
    "EngineArgumentError",
    "EngineCrashedError",
    "EngineHungError",
    "EngineNotFoundError",
    "EngineNotRunnableError",
    "EngineOutOfMemoryError",
    "GalleryOffError",
    "GenerationCancelledError",
    "GenerationError",
    "GenerationNotFoundError",
    "IdempotencyKeyError",
    "ImageFormingError",
    "ImageNotFoundError",
    "InputImageError",
    "InsufficientResourcesError",
    "InterruptedGenerationError",
    "InvalidRequestError",
    "MediaTypeError",
    "MethodNotAllowedError",
    "ModelChangedError",
    "ModelComponentMissingError",
    "ModelCorruptError",
    "ModelDownloadError",
    "ModelError",
    "ModelGatedError",
    "ModelNotFoundError",
    "ModelNotInstalledError",
    "ModelUnsafeError",
    "ModelUnsupportedError",
    "NoDeviceError",
    "NoEngineWorksError",
    "NoImageError",
    "OffloadError",
    "OutputError",
    "PortInUseError",
    "RefusedError",
    "RestoreError",
    "RouteNotFoundError",
    "SDManagerError",
    "ServerAlreadyRunningError",
    "ServerBusyError",
    "ServerError",
    "ServerNotRunningError",
    "ServerUnreachableError",
    "StorageError",
    "TruncatedImageError",
    "UnauthorizedError",
)
