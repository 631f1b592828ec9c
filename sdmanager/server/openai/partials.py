"""Which of the engine's previews become partial images. Pure."""

from __future__ import annotations


def stride_for(steps: int, count: int) -> int:
    """Steps between two previews, so that enough of them come, and few that nobody sees.

    Args:
        steps: Of each image, as far as is known beforehand.
        count: Partial images that are wanted.
    """
    return max(1, steps // (count + 1))


def due_steps(steps: int, count: int) -> list[int]:
    """After which steps a partial image is due: evenly spread between noise and the finished picture.

    Args:
        steps: Of each image; with as few of them as ``count`` or less, each gives one.
        count: Partial images that are wanted, at least 1.
    """
    if steps <= count:
        return list(range(1, steps + 1))
    stride = stride_for(steps, count)
    # Only multiples of the stride have a preview. Rounded half up: two may not fall on one.
    return [stride * int(place * steps / ((count + 1) * stride) + 0.5) for place in range(1, count + 1)]


class Partials:
    """Picks from the previews of a generation, at most so many for each image.

    Args:
        count: How many.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._image = 0
        self._shown = 0
        self._passed = 0

    def take(self, image: int, step: int, steps: int) -> int | None:
        """The index, from 0, of the partial image that a preview becomes; None where it is none.

        A preview may come late or not at all: it then stands for all that were due before it.

        Args:
            image: Whose, from 1.
            step: After which.
            steps: Of how many.
        """
        if image != self._image:
            self._image, self._shown, self._passed = image, 0, 0
        passed = sum(due <= step for due in due_steps(steps, self._count)) if self._count else 0
        if passed <= self._passed:
            return None
        self._passed, self._shown = passed, self._shown + 1
        return self._shown - 1
