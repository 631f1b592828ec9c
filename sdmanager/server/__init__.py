"""What the manager shows over HTTP: the door, the native API, its streams. Imports aiohttp."""

from __future__ import annotations

from .asking import answers as answers
from .face import Face as Face
from .face import ModelEntry as ModelEntry
from .face import Models as Models
from .http import HttpServer as HttpServer
from .http import bind as bind
from .metrics import Metrics as Metrics
from .origins import DoorPolicy as DoorPolicy
from .schemas import AsideInfo as AsideInfo
from .schemas import EngineInfo as EngineInfo
from .schemas import ErrorInfo as ErrorInfo
from .schemas import ServerInfo as ServerInfo

__all__ = (
    "AsideInfo",
    "DoorPolicy",
    "EngineInfo",
    "ErrorInfo",
    "Face",
    "HttpServer",
    "Metrics",
    "ModelEntry",
    "Models",
    "ServerInfo",
    "answers",
    "bind",
)
