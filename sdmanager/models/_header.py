"""What the header of a weights file says, whatever its format, and how a bad one is named."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

# A whole model has about 3,000 tensors, a LoRA 10,000 at most. It bounds the memory that a hostile header takes.
MAX_TENSORS: Final = 32_768

_MAX_ELEMENTS: Final = 2**63
_SHOWN: Final = 60


class DamagedError(Exception):
    """The file is not whole, or never was a model. The text goes on after "The file X"."""


class UnreadableError(Exception):
    """The file is of a kind that no engine reads. The text goes on after "The file X"."""


@dataclass(slots=True)
class Header:
    """Filled by a reader, tensor by tensor.

    Attributes:
        shapes: By name; the slowest dimension first, as in PyTorch.
        bytes_by_type: Of all tensors of a type; types that nobody knows count nothing.
        parameters: Numbers in all tensors together, packed ones as they are counted in the file.
        architecture: As GGUF calls it.
        pieces: In how many files the model was split; this is one of them.
    """

    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    bytes_by_type: dict[str, int] = field(default_factory=dict)
    parameters: int = 0
    architecture: str | None = None
    pieces: int = 1

    def add(self, name: str, shape: tuple[int, ...], type_name: str) -> int:
        """Take one tensor in; the number of its elements."""
        if name in self.shapes:
            raise DamagedError(f"has two tensors named {shown(name)}")
        if len(self.shapes) == MAX_TENSORS:
            raise DamagedError(f"has more than {MAX_TENSORS:,} tensors, as no model does")
        elements = 1
        for length in shape:
            elements *= length
            if elements >= _MAX_ELEMENTS:
                raise DamagedError(f"gives the tensor {shown(name)} an absurd size")
        self.shapes[name] = shape
        self.bytes_by_type.setdefault(type_name, 0)
        self.parameters += elements
        return elements

    @property
    def quantisation(self) -> str | None:
        """The type that most bytes are of; None where there are none."""
        known: Mapping[str, int] = {name: size for name, size in self.bytes_by_type.items() if size}
        return max(known, key=known.__getitem__) if known else None


def shown(name: str) -> str:
    """A name out of a file, as a message can show it."""
    return repr(name if len(name) <= _SHOWN else name[: _SHOWN - 3] + "...")
