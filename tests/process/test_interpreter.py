"""Whether this process is a Python that can be run again."""

import sys
from pathlib import Path

import pytest

from sdmanager.process import this_interpreter
from sdmanager.process._interpreter import find_interpreter


@pytest.mark.parametrize("name", ["python", "python3.11", "Python", "python.exe", "pythonw.exe", "pypy3"])
def test_interpreters_are_known_by_name(name):
    assert find_interpreter(f"/usr/bin/{name}", frozen=False) == Path(f"/usr/bin/{name}")


@pytest.mark.parametrize("name", ["/usr/bin/blender", "/opt/app/app", "", None])
def test_an_application_with_python_inside_is_no_interpreter(name):
    assert find_interpreter(name, frozen=False) is None


def test_a_frozen_application_has_no_interpreter():
    assert find_interpreter("/usr/bin/python3", frozen=True) is None


def test_tests_are_run_by_one():
    assert this_interpreter() == Path(sys.executable)
