"""Models: names for files by role, and the demo model that is made instead of downloaded."""

from .demo import DEMO_NAME as DEMO_NAME
from .families import Family as Family
from .families import FamilyTraits as FamilyTraits
from .families import ModelDefaults as ModelDefaults
from .families import Role as Role
from .families import traits_of as traits_of
from .files import HEAD_BYTES as HEAD_BYTES
from .files import ModelFiles as ModelFiles
from .files import are_weights as are_weights
from .files import demo_model as demo_model
from .files import resolve_model as resolve_model

__all__ = (
    "DEMO_NAME",
    "HEAD_BYTES",
    "Family",
    "FamilyTraits",
    "ModelDefaults",
    "ModelFiles",
    "Role",
    "are_weights",
    "demo_model",
    "resolve_model",
    "traits_of",
)
