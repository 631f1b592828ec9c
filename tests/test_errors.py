"""Every error has a code and an exit code of its own."""

from __future__ import annotations

import copy
import importlib
import pickle
import pkgutil
import re

import pytest

import sdmanager
from sdmanager import errors
from sdmanager.errors import SDManagerError


def all_errors() -> list[type[SDManagerError]]:
    """The root and all that comes from it, wherever it is defined."""
    for module in pkgutil.walk_packages(sdmanager.__path__, "sdmanager."):
        # Run as programs, or only on Windows.
        if not module.name.endswith(
            ("__main__", "_guard", "_windows_job", "_windows_registry", "process._windows")
        ):
            importlib.import_module(module.name)
    found = [SDManagerError]
    for kind in found:
        found += [child for child in kind.__subclasses__() if child not in found]
    return found


ERRORS = all_errors()
IDS = [kind.__name__ for kind in ERRORS]


def test_all_errors_are_found():
    assert len(ERRORS) >= 23
    defined = {kind for kind in vars(errors).values() if isinstance(kind, type)}
    assert {kind for kind in defined if issubclass(kind, Exception)} <= set(ERRORS)


@pytest.mark.parametrize("attribute", ["code", "exit_code", "__name__", "__doc__"])
def test_what_tells_errors_apart_is_unique(attribute):
    values = [getattr(kind, attribute) for kind in ERRORS]
    assert len(set(values)) == len(values), sorted(map(str, values))


@pytest.mark.parametrize("kind", ERRORS, ids=IDS)
def test_an_error_is_complete(kind):
    assert re.fullmatch(r"[A-Z]+(_[A-Z]+)*", kind.code)
    assert 1 <= kind.exit_code < 126  # above are those of the shell and of signals
    assert kind.http_status in range(400, 600)
    assert kind.__doc__
    assert kind.__name__.endswith("Error")
    assert kind.default_hint is None or re.fullmatch(r"[A-Z].*\.", kind.default_hint)


@pytest.mark.parametrize("kind", ERRORS, ids=IDS)
def test_an_error_says_its_message_and_nothing_else(kind):
    error = kind("The message.", details={"bytes": 3})
    assert str(error) == error.message == "The message."
    assert error.hint == kind.default_hint
    assert error.details == {"bytes": 3}
    assert kind("x").details == {}
    assert kind("x", hint="Other.").hint == "Other."
    assert kind("x", hint="").hint == ""


@pytest.mark.parametrize("kind", ERRORS, ids=IDS)
def test_details_are_the_errors_own(kind):
    given = {"a": 1}
    first, second = kind("x", details=given), kind("x")
    first.details["b"] = 2
    assert given == {"a": 1}
    assert second.details == {}


@pytest.mark.parametrize("kind", ERRORS, ids=IDS)
@pytest.mark.parametrize(
    "copied", [copy.copy, lambda error: pickle.loads(pickle.dumps(error))], ids=["copy", "pickle"]
)
def test_an_error_survives_another_process(kind, copied):
    error = copied(kind("The message.", hint="The hint.", details={"a": 1}))
    assert type(error) is kind
    assert (str(error), error.hint, error.details) == ("The message.", "The hint.", {"a": 1})


def test_errors_are_caught_by_the_usual_names():
    assert issubclass(errors.StorageError, OSError)
    assert issubclass(errors.OutputError, OSError)
    assert issubclass(errors.ModelNotFoundError, LookupError)
    assert issubclass(errors.InputImageError, errors.InvalidRequestError)
    assert not issubclass(SDManagerError, OSError | ValueError)


def test_exit_codes_of_a_family_stand_together():
    for family, tens in (
        (errors.ModelError, 2),
        (errors.BinaryError, 3),
        (errors.GenerationError, 4),
        (errors.StorageError, 5),
    ):
        assert {kind.exit_code // 10 for kind in ERRORS if issubclass(kind, family)} == {tens}
