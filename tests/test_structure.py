"""The shape of the code: small modules and functions, and things that belong to one place only."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "sdmanager"
MODULES = sorted(PACKAGE.rglob("*.py"))
LINES_MAX, FUNCTION_LINES_MAX, PUBLIC_METHODS_MAX = 400, 60, 15


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


every_module = pytest.mark.parametrize("path", MODULES, ids=name_of)


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def functions_of(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def imports_of(tree: ast.Module) -> set[str]:
    """Names of all modules that are imported from elsewhere, dotted, each with all of its parents."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names | {name.partition(".")[0] for name in names}


def attributes_of(tree: ast.Module) -> set[str]:
    """Whatever is used as ``name.attribute``."""
    return {
        f"{node.value.id}.{node.attr}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    } | imports_of(tree)


def test_the_package_is_found():
    assert len(MODULES) > 50


@every_module
def test_modules_are_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LINES_MAX


@every_module
def test_functions_are_short(path):
    too_long = [
        f"{node.name}: {node.end_lineno - node.lineno + 1}"
        for node in functions_of(tree_of(path))
        if node.end_lineno - node.lineno + 1 > FUNCTION_LINES_MAX
    ]
    assert not too_long


@every_module
def test_classes_are_small(path):
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.ClassDef):
            methods = [
                item.name for item in node.body if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef)
            ]
            assert len([name for name in methods if not name.startswith("_")]) <= PUBLIC_METHODS_MAX, (
                node.name
            )


@every_module
def test_modules_say_what_they_are_for(path):
    if not path.name.startswith("_") or path.name == "__init__.py":
        assert ast.get_docstring(tree_of(path))


@every_module
def test_only_the_command_line_prints(path):
    if name_of(path).startswith("cli/"):
        return
    calls = [node for node in ast.walk(tree_of(path)) if isinstance(node, ast.Call)]
    assert not [call.lineno for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"]


@every_module
def test_only_one_package_starts_processes_and_sends_signals(path):
    if name_of(path).startswith("process/"):
        return
    forbidden = {
        "subprocess",
        "multiprocessing",
        "os.kill",
        "os.killpg",
        "os.system",
        "os.fork",
        "os.popen",
        "pty",
    }
    forbidden |= {"asyncio.create_subprocess_exec", "asyncio.create_subprocess_shell", "asyncio.subprocess"}
    forbidden |= {
        "signal.pidfd_send_signal",
        "signal.raise_signal",
        "os.posix_spawn",
        "os.execv",
        "os.execve",
    }
    assert not attributes_of(tree_of(path)) & forbidden


@every_module
def test_systems_are_told_apart_in_few_places(path):
    name = name_of(path)
    # binaries/_probe.py has it in one function, whose result all checks of the build are given.
    if name == "settings.py" or re.match(r"(process/_\w+|hardware/\w+|binaries/_probe)\.py$", name):
        return
    tree = tree_of(path)
    assert not attributes_of(tree) & {"sys.platform", "os.name"}
    assert "platform" not in imports_of(tree)


@every_module
def test_packages_are_used_by_their_front_door(path):
    """A module of one package may not reach into the private modules of another."""
    here = name_of(path).partition("/")[0]
    for name in imports_of(tree_of(path)):
        parts = name.split(".")
        if parts[0] == "sdmanager" and len(parts) > 2 and parts[1] != here:
            assert not any(re.match("_[^_]", part) for part in parts[1:]), name


@every_module
def test_no_file_imports_a_package_that_is_for_tests(path):
    assert not imports_of(tree_of(path)) & {"pytest", "hypothesis", "unittest", "tests"}


def test_tests_use_real_children_and_few_mocks():
    users = [
        path
        for path in Path(__file__).parent.rglob("*.py")
        if any(name.startswith("unittest.mock") for name in imports_of(tree_of(path)))
    ]
    assert len(users) <= 3
