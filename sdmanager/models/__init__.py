"""Models: names for files by role, and the demo model that is made instead of downloaded."""

from .demo import DEMO_NAME as DEMO_NAME
from .files import HEAD_BYTES as HEAD_BYTES
from .files import ModelDefaults as ModelDefaults
from .files import ModelFiles as ModelFiles
from .files import Role as Role
from .files import are_weights as are_weights
from .files import demo_model as demo_model
from .files import resolve_model as resolve_model

__all__ = (
    "DEMO_NAME",
    "HEAD_BYTES",
    "ModelDefaults",
    "ModelFiles",
    "Role",
    "are_weights",
    "demo_model",
    "resolve_model",
)
