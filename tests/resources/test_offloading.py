"""What the caller says of who is put aside, and when."""

from __future__ import annotations

import pytest

from sdmanager.errors import InvalidRequestError
from sdmanager.resources import HookOffloadable, OffloadingConfig


class Mine:
    """An offloadable of the user's."""

    def __init__(self, name):
        self.name = name

    async def holding(self):
        return None

    async def put_aside(self, holding):
        pass

    async def restore(self, state):
        pass


def build(*offloadables, threshold=0.5, linger=1):
    return OffloadingConfig.build(offloadables, threshold, linger)


@pytest.mark.parametrize("name", ["mine", "model / 2 [gpu]", "größer", "x" * 100])
def test_a_class_of_the_users_may_have_any_name_that_can_be_shown(name):
    mine = Mine(name)
    assert build(mine) == OffloadingConfig((mine,), 0.5, 1.0)


@pytest.mark.parametrize("name", ["", "  ", "x" * 101, "a\nb", "\x1b[31m", "\ud800", None, 5, b"mine"])
def test_a_name_that_cannot_be_shown_or_written_down_is_refused(name):
    with pytest.raises(InvalidRequestError, match="The name of a Mine cannot be used") as caught:
        build(Mine(name))
    assert "1 to 100 printable characters" in caught.value.hint


def test_two_of_one_name_are_refused():
    with pytest.raises(InvalidRequestError, match="'mine' is there 2 times"):
        build(Mine("mine"), HookOffloadable("mine", ["true"], ["true"]))
