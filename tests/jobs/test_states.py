"""The table of states, cell by cell, against one written by hand."""

from __future__ import annotations

import itertools

import pytest

from sdmanager.errors import (
    AlreadyTerminalError,
    InterruptedGenerationError,
    SDManagerError,
    ServerBusyError,
    StorageError,
)
from sdmanager.jobs import TRANSITIONS, Failure, Status, check_transition

LEGAL = {
    "pending": {"in_progress", "error", "cancelled"},
    "in_progress": {"complete", "error", "cancelled"},
    "complete": set(),
    "error": set(),
    "cancelled": set(),
}


@pytest.mark.parametrize(("old", "new"), [*itertools.product(Status, Status)])
def test_every_pair_of_states(old, new):
    if new in LEGAL[old]:
        check_transition(old, new)
    else:
        with pytest.raises(ValueError if LEGAL[old] else AlreadyTerminalError):
            check_transition(old, new)


def test_the_words_on_the_wire():
    assert [str(status) for status in Status] == list(LEGAL)
    assert {status for status in Status if status.is_terminal} == {"complete", "error", "cancelled"}


def test_every_state_can_be_reached_and_the_table_cannot_be_changed():
    assert set(TRANSITIONS) == set(Status)
    assert set().union(*TRANSITIONS.values()) == set(Status) - {Status.PENDING}
    with pytest.raises(TypeError):
        TRANSITIONS[Status.COMPLETE] = frozenset({Status.PENDING})


@pytest.mark.parametrize(
    "error", [StorageError("Full."), ServerBusyError("Busy.", hint="Wait."), SDManagerError("?")]
)
def test_a_failure_gives_back_an_error_of_the_same_kind(error):
    failure = Failure.of(error)
    again = failure.to_error()
    assert type(again) is type(error)
    assert (again.code, again.message, again.hint) == (error.code, error.message, error.hint)


def test_a_failure_with_a_code_that_nobody_has():
    error = Failure("FROM_THE_FUTURE", "Something.", None).to_error()
    assert (type(error), error.message) == (SDManagerError, "Something.")


def test_the_hint_of_the_class_is_kept():
    assert Failure.of(InterruptedGenerationError("It ended.")).hint == InterruptedGenerationError.default_hint
