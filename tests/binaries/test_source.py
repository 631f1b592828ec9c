"""Building from source: a tiny source distribution goes through the real pip, cmake, ninja and compiler."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest
from processes import all_gone

from sdmanager.binaries import EngineBinary, EngineProgress, build_engine, list_installed
from sdmanager.binaries._fetch import _download_error, find_tool
from sdmanager.errors import (
    BinaryError,
    BuildFailedError,
    BuildToolsMissingError,
    DownloadError,
    GenerationError,
    StorageError,
)
from sdmanager.settings import Settings

pytestmark = pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")

ROOT = Path(__file__).parents[2]


def remains(settings: Settings) -> list[str]:
    """What lies in the folder of the engines besides engines."""
    return [path.name for path in settings.engines_dir.iterdir() if path.name.startswith(".s")]


async def until(condition, seconds: float = 30.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.02)


def descendants(name: str) -> list[psutil.Process]:
    return [child for child in psutil.Process().children(recursive=True) if name in " ".join(cmdline(child))]


def cmdline(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


async def test_an_engine_is_built_and_installed(settings: Settings, tiny) -> None:
    seen: list[EngineProgress] = []
    engine = await build_engine(settings, sources=tiny(), on_progress=seen.append)
    assert list_installed(settings) == [engine]
    assert (engine.variant, engine.version, engine.source) == ("cpu", "tiny-1.0", "source-build")
    assert engine.capabilities.samplers == ("euler", "heun")
    answer = subprocess.run([engine.path, "--version"], capture_output=True, text=True, check=True)
    assert answer.stdout == "stable-diffusion.cpp version tiny, commit x\n"
    assert remains(settings) == []
    phases = list(dict.fromkeys(step.phase for step in seen))
    assert phases == ["preparing", "fetching", "configuring", "compiling", "proving", "installing"]
    compiled = [(step.step, step.total) for step in seen if step.phase == "compiling"]
    assert compiled == [(1, 3), (2, 3), (3, 3)]


async def test_what_is_installed_is_not_built_again(settings: Settings, quick) -> None:
    sources = quick()
    engine = await build_engine(settings, sources=sources)
    seen: list[EngineProgress] = []
    assert await build_engine(settings, sources=sources, on_progress=seen.append) == engine
    assert seen == []


async def test_forced_it_is_built_again_in_the_same_place(settings: Settings, quick) -> None:
    sources = quick()
    old = await build_engine(settings, sources=sources)
    new = await build_engine(settings, sources=sources, force=True)
    assert new.path == old.path
    assert new.installed_at > old.installed_at
    assert list_installed(settings) == [new]


async def test_another_version_is_installed_beside(settings: Settings, quick) -> None:
    await build_engine(settings, sources=quick())
    await build_engine(settings, sources=quick(engine_version="tiny-2.0"))
    assert {engine.version for engine in list_installed(settings)} == {"tiny-1.0", "tiny-2.0"}


async def test_proving_sees_the_staged_engine_and_can_refuse_it(settings: Settings, quick) -> None:
    sources = quick()
    old = await build_engine(settings, sources=sources)
    proven: list[EngineBinary] = []

    async def prove(engine: EngineBinary) -> None:
        assert engine.path.is_file()
        assert ".staging-" in str(engine.path)
        proven.append(engine)
        raise GenerationError("it draws nothing")

    with pytest.raises(GenerationError, match="draws nothing"):
        await build_engine(settings, sources=sources, force=True, prove=prove)
    assert len(proven) == 1
    assert list_installed(settings) == [old]
    assert remains(settings) == []


FAILURES = {
    "compile error": (
        {"other": "int other() { return undeclared; }\n"},
        r"compiling failed: .*other\.cpp.*error: .*undeclared",
    ),
    "missing header": ({"main": "#include <no/such/header.h>\n"}, r"fatal error: no/such/header\.h"),
    "link error": ({"main": "int f(); int main() { return f(); }\n"}, "undefined reference"),
    "cmake error": (
        {
            "cmake": 'cmake_minimum_required(VERSION 3.12)\nproject(x CXX)\nmessage(FATAL_ERROR "no luck today")\n'
        },
        "could not configure it: CMake Error.*no luck today",
    ),
    "no such target": (
        {"cmake": "cmake_minimum_required(VERSION 3.12)\nproject(x CXX)\nadd_executable(other main.cpp)\n"},
        "sd-cli",
    ),
}


@pytest.mark.parametrize("name", FAILURES)
async def test_a_failed_build_leaves_the_old_engine(settings: Settings, tiny, name: str) -> None:
    folder = settings.engines_dir / "cpu-tiny-1.0"
    old = await build_engine(settings, sources=tiny()) if name == "compile error" else None
    changed, message = FAILURES[name]
    with pytest.raises(BuildFailedError, match=message) as caught:
        await build_engine(settings, sources=tiny(**changed), force=True)
    assert "\n" not in caught.value.message
    assert ".staging-" not in caught.value.message
    log = settings.state_dir / "build-cpu.log"
    assert caught.value.details["log"] == str(log)
    assert log.stat().st_size > 0
    assert list_installed(settings) == ([old] if old else [])
    assert folder.exists() == (old is not None)
    assert remains(settings) == []


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("printf '#!/bin/sh\necho hello\n' > bin/sd-cli; chmod +x bin/sd-cli", "not stable-diffusion"),
        ("printf '#!/bin/sh\nkill -SEGV $$\n' > bin/sd-cli; chmod +x bin/sd-cli", "ended by SIGSEGV"),
        ("echo text > bin/sd-cli", "is not executable"),
        ("mkdir bin/sd-cli", "made no sd-cli"),
    ],
)
async def test_a_result_that_does_not_run_leaves_the_old_engine(
    settings: Settings, quick, body: str, message: str
) -> None:
    old = await build_engine(settings, sources=quick())
    with pytest.raises(BuildFailedError, match=message) as caught:
        await build_engine(settings, sources=quick(body), force=True)
    assert ".staging-" not in caught.value.message
    assert list_installed(settings) == [old]
    assert remains(settings) == []


async def test_an_archive_that_is_not_the_pinned_one(settings: Settings, tiny) -> None:
    with pytest.raises(DownloadError, match="not the pinned one") as caught:
        await build_engine(settings, sources=tiny(sha256="0" * 64))
    assert caught.value.details["reason"] == "mismatch"
    assert remains(settings) == []


async def test_an_index_that_does_not_have_it(settings: Settings, tiny, tmp_path: Path) -> None:
    sources = tiny()
    shutil.rmtree(tmp_path / "links")
    (tmp_path / "links").mkdir()
    with pytest.raises(DownloadError, match=r"found no tiny-engine 1\.0") as caught:
        await build_engine(settings, sources=sources)
    assert caught.value.details["reason"] == "not found"


async def test_an_index_that_cannot_be_reached(
    settings: Settings, tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = tiny()
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    # Port 9 of this machine: nobody listens, so that the refusal comes at once.
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    monkeypatch.setenv("PIP_RETRIES", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    with pytest.raises(DownloadError, match="cannot reach the package index") as caught:
        await build_engine(settings, sources=sources)
    assert caught.value.details["reason"] == "unreachable"


async def test_a_misled_pip_of_the_user_still_works(
    settings: Settings, tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_USER", "1")
    monkeypatch.setenv("PIP_REQUIRE_VIRTUALENV", "1")
    monkeypatch.setenv("CLICOLOR_FORCE", "1")
    monkeypatch.setenv("NINJA_STATUS", "%p ")
    seen: list[EngineProgress] = []
    await build_engine(settings, sources=tiny(), on_progress=seen.append)
    assert [step.step for step in seen if step.phase == "compiling"] == [1, 2, 3]


async def test_missing_tools_are_told_before_anything_is_fetched(
    settings: Settings, tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = tiny()
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    seen: list[EngineProgress] = []
    with pytest.raises(
        BuildToolsMissingError, match=r"a C compiler is missing; a C\+\+17 compiler .* is missing"
    ):
        await build_engine(settings, sources=sources, on_progress=seen.append)
    assert {step.phase for step in seen} == {"preparing"}
    assert remains(settings) == []


async def test_a_state_folder_that_cannot_be_written(settings: Settings, quick) -> None:
    settings.state_dir.parent.mkdir(parents=True)
    settings.state_dir.write_text("a file")
    with pytest.raises(StorageError):
        await build_engine(settings, sources=quick())
    assert remains(settings) == []


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("exit 0", "made no sd-cli"),
        ("kill -KILL $$", "compiling failed"),
        ("echo 'g++: fatal error: Killed signal terminated program cc1plus'; exit 1", "want of memory"),
        ("head -c 20000000 /dev/zero; exit 1", "compiling failed"),
        ("printf 'no newline at the end'; exit 1", "no newline at the end"),
    ],
)
async def test_a_build_tool_that_misbehaves(settings: Settings, quick, body: str, message: str) -> None:
    sources = quick(body)
    with pytest.raises(BuildFailedError, match=message) as caught:
        await build_engine(settings, sources=sources)
    assert len(caught.value.message) < 700
    assert remains(settings) == []


async def test_a_cancelled_build_leaves_nothing(settings: Settings, quick) -> None:
    sources = quick("sleep 1000 & sleep 1001")
    task = asyncio.create_task(build_engine(settings, sources=sources))
    await until(lambda: descendants("sleep 1001"))
    assert remains(settings) != []
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert descendants("sleep 100") == []
    assert list(settings.engines_dir.glob("[!.]*")) == []
    assert remains(settings) == []


async def test_a_cancelled_compiler_is_ended_too(settings: Settings, tiny) -> None:
    # ninja puts each compiler into a group of its own, which a signal to ours does not reach by itself.
    slow = (
        "#include <array>\ntemplate <int N> struct F { static constexpr long v = F<N-1>::v + F<N-2>::v; };\n"
    )
    slow += "template <> struct F<0> { static constexpr long v = 0; };\n"
    slow += "template <> struct F<1> { static constexpr long v = 1; };\n"
    slow += "constexpr long f(long n) { long s = 0; for (long i = 0; i < n; ++i) s += i % 7; return s; }\n"
    slow += "static_assert(f(200000000) > 0);\nint other() { return 0; }\n"
    cmake = """\
cmake_minimum_required(VERSION 3.12)
project(tiny CXX)
set(CMAKE_CXX_FLAGS "-std=c++17 -fconstexpr-ops-limit=99999999999 -fconstexpr-loop-limit=2147483647")
add_executable(sd-cli main.cpp other.cpp)
"""
    task = asyncio.create_task(build_engine(settings, sources=tiny(cmake=cmake, other=slow)))

    def compiles() -> bool:
        return any("cc1plus" in " ".join(cmdline(child)[:1]) for child in descendants("other.cpp"))

    await until(lambda: task.done() or compiles())
    compilers = descendants("other.cpp")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert compilers
    assert all_gone(compilers)
    assert remains(settings) == []


@pytest.mark.parametrize(
    "phase", ["preparing", "fetching", "configuring", "compiling", "proving", "installing"]
)
async def test_an_error_of_the_listener_in_any_phase_leaves_the_old_engine(
    settings: Settings, quick, phase: str
) -> None:
    sources = quick()
    folder = settings.engines_dir / "cpu-tiny-1.0"
    if phase in {"proving", "installing"}:
        await build_engine(settings, sources=sources)
    before = list_installed(settings)

    def listen(progress: EngineProgress) -> None:
        if progress.phase == phase:
            raise RuntimeError("listener")

    with pytest.raises(RuntimeError, match="listener"):
        await build_engine(settings, sources=sources, force=True, on_progress=listen)
    assert [engine.path for engine in list_installed(settings)] == [engine.path for engine in before]
    assert folder.exists() == bool(before)
    assert remains(settings) == []


async def test_of_two_builders_the_second_waits_and_uses_the_first(settings: Settings, quick) -> None:
    sources = quick()
    seen: list[list[EngineProgress]] = [[], []]
    first, second = await asyncio.gather(
        *(build_engine(settings, sources=sources, on_progress=events.append) for events in seen)
    )
    assert first == second
    waiting, building = sorted(seen, key=len)
    assert [step.phase for step in waiting] == ["waiting"]
    assert "another process" in waiting[0].message
    assert building[0].phase == "preparing"


async def test_two_processes_build_once(settings: Settings, tiny, tmp_path: Path) -> None:
    tiny()
    # Each process prints the phases it saw; the configure step of the build leaves a line in a file.
    count = tmp_path / "count"
    cmake = f"""\
cmake_minimum_required(VERSION 3.12)
project(tiny CXX)
file(APPEND {count} "built\\n")
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${{CMAKE_BINARY_DIR}}/bin)
add_executable(sd-cli main.cpp other.cpp)
"""
    sources = tiny(cmake=cmake)
    program = f"""\
import asyncio, dataclasses, sys
from sdmanager.binaries import build_engine, pins
from sdmanager.settings import Settings
recipe = pins.Recipe(options={{}}, disk_bytes=1, job_bytes=10**6)
package = pins.SourcePackage(**{ ({name: getattr(sources.package, name) for name in sources.package.__slots__})!r})
sources = dataclasses.replace(
    pins.load_sources(), package=package, build_requirements=(), options={{}}, variants={{"cpu": recipe}}
)
seen = []
engine = asyncio.run(build_engine(Settings.from_environment(), sources=sources, on_progress=seen.append))
print(engine.path, *dict.fromkeys(step.phase for step in seen))
"""
    env = os.environ | {"SDMANAGER_HOME": str(settings.data_dir.parent), "PYTHONPATH": str(ROOT)}
    children = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(program)], env=env, stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    answers = [(await asyncio.to_thread(child.communicate))[0].split() for child in children]
    assert [child.returncode for child in children] == [0, 0, 0]
    assert {answer[0] for answer in answers} == {str(settings.engines_dir / "cpu-tiny-1.0" / "sd-cli")}
    assert count.read_text() == "built\n"
    assert sorted(len(answer) for answer in answers)[:2] == [2, 2]


async def test_a_builder_that_was_killed_leaves_no_lock_and_no_folder(settings: Settings, quick) -> None:
    settings.engines_dir.mkdir(parents=True)
    program = f"""\
import asyncio, pathlib
from sdmanager.binaries._staging import engines_lock, staging_folder
async def main():
    folder = pathlib.Path({str(settings.engines_dir)!r})
    async with engines_lock(folder, print), staging_folder(folder) as staging:
        (staging / "x").write_text("x")
        print("ready", flush=True)
        await asyncio.sleep(1000)
asyncio.run(main())
"""
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    child = subprocess.Popen([sys.executable, "-c", program], env=env, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    with child.stdout:
        assert (await asyncio.to_thread(child.stdout.readline)) == "ready\n"
        child.kill()
        child.wait()
    assert len(remains(settings)) == 1
    started = time.monotonic()
    await build_engine(settings, sources=quick())
    assert time.monotonic() - started < 60
    assert remains(settings) == []


async def test_an_interpreter_without_pip_builds_too(settings: Settings, tiny, tmp_path: Path) -> None:
    if not list(Path(os.__file__).parent.glob("ensurepip/_bundled/pip-*.whl")):
        pytest.skip("this interpreter carries no pip")
    sources = tiny()
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    bare = tmp_path / "bare" / "bin" / "python"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "executable", str(bare))
        engine = await build_engine(settings, sources=sources)
    assert engine.path.is_file()


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (["ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE."], "mismatch"),
        (
            [
                "WARNING: Retrying after connection broken by 'NewConnectionError'",
                "ERROR: No matching distribution found",
            ],
            "unreachable",
        ),
        (["ERROR: Could not find a version", "ERROR: No matching distribution found for x==1"], "not found"),
        (["ERROR: something else"], "pip"),
        ([], "pip"),
    ],
)
def test_failures_of_pip_are_told_apart(lines: list[str], reason: str) -> None:
    assert _download_error("x", lines).details["reason"] == reason


def test_fetched_tools_are_found_where_their_packages_put_them(tmp_path: Path, script) -> None:
    assert find_tool("cmake", None, tmp_path) is None
    inside = script("", "cmake", tmp_path / "cmake" / "data" / "bin")
    scripts = script("", "ninja", tmp_path / "bin")
    assert find_tool("cmake", None, tmp_path) == inside
    assert find_tool("ninja", None, tmp_path) == scripts
    assert find_tool("ninja", Path("/usr/bin/ninja"), tmp_path) == Path("/usr/bin/ninja")


def test_all_errors_of_a_build_have_their_own_exit_code() -> None:
    kinds = [BinaryError, BuildToolsMissingError, BuildFailedError, DownloadError, StorageError]
    assert len({kind.exit_code for kind in kinds}) == len(kinds)
