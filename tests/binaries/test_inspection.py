"""Asking an executable what it is. Broken engines are real files that fail as real ones do."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from sdmanager.binaries import inspect_engine
from sdmanager.errors import BinaryError, EngineNotFoundError, EngineNotRunnableError
from sdmanager.settings import Settings

compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")


def runs(engine: Path) -> int:
    counter = engine.with_name(f"{engine.name}.runs")
    return len(counter.read_text().splitlines()) if counter.exists() else 0


async def test_a_working_engine_is_described(good_engine: Path, settings: Settings) -> None:
    engine = await inspect_engine(good_engine, settings=settings)
    assert engine.path == good_engine
    assert (engine.variant, engine.source, engine.version) == ("custom", "user", "master-1-abc")
    assert "euler_a" in engine.capabilities.samplers
    assert len(engine.sha256) == 64


async def test_a_warm_call_runs_nothing(good_engine: Path, settings: Settings) -> None:
    first = await inspect_engine(good_engine, settings=settings)
    before = runs(good_engine)
    assert await inspect_engine(good_engine, settings=settings) == first
    assert runs(good_engine) == before


@pytest.mark.parametrize("change", ["touch", "replace", "append"])
async def test_a_changed_file_is_asked_again(good_engine: Path, settings: Settings, change: str) -> None:
    await inspect_engine(good_engine, settings=settings)
    before = runs(good_engine)
    found = good_engine.stat()
    if change == "touch":
        os.utime(good_engine, ns=(found.st_atime_ns, found.st_mtime_ns + 1))
    elif change == "append":
        good_engine.write_text(good_engine.read_text() + "\n")
        os.utime(good_engine, ns=(found.st_atime_ns, found.st_mtime_ns))
    else:
        other = good_engine.with_name("other")
        shutil.copy2(good_engine, other)
        other.replace(good_engine)
        os.utime(good_engine, ns=(found.st_atime_ns, found.st_mtime_ns))
    await inspect_engine(good_engine, settings=settings)
    assert runs(good_engine) > before


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 1}', '{"format": 99, "identity": []}'])
async def test_a_damaged_memory_is_not_believed(good_engine: Path, settings: Settings, content: str) -> None:
    await inspect_engine(good_engine, settings=settings)
    (memory,) = (settings.state_dir / "engines").iterdir()
    memory.write_text(content)
    before = runs(good_engine)
    await inspect_engine(good_engine, settings=settings)
    assert runs(good_engine) > before


async def test_a_memory_that_cannot_be_written_is_no_failure(good_engine: Path, settings: Settings) -> None:
    settings.state_dir.parent.mkdir(parents=True)
    settings.state_dir.write_text("a file where a folder should be")
    assert (await inspect_engine(good_engine, settings=settings)).version == "master-1-abc"


async def test_two_engines_are_remembered_apart(good_engine: Path, settings: Settings) -> None:
    other = Path(shutil.copy2(good_engine, good_engine.with_name("second")))
    await inspect_engine(good_engine, settings=settings)
    await inspect_engine(other, settings=settings)
    before = runs(good_engine)
    assert (await inspect_engine(good_engine, settings=settings)).path == good_engine
    assert runs(good_engine) == before


async def test_a_relative_path_becomes_absolute(
    good_engine: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(good_engine.parent)
    assert (await inspect_engine(Path(good_engine.name), settings=settings)).path == good_engine


async def test_a_missing_file(tmp_path: Path, settings: Settings) -> None:
    for path in (tmp_path / "nothing", tmp_path / "no" / "folder"):
        with pytest.raises(EngineNotFoundError, match="no engine at"):
            await inspect_engine(path, settings=settings)


async def test_a_path_through_a_file(good_engine: Path, settings: Settings) -> None:
    with pytest.raises(EngineNotFoundError):
        await inspect_engine(good_engine / "sd-cli", settings=settings)


async def test_a_dangling_link(tmp_path: Path, settings: Settings) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    with pytest.raises(EngineNotFoundError):
        await inspect_engine(tmp_path / "link", settings=settings)


async def test_a_folder_names_the_file_inside(good_engine: Path, settings: Settings) -> None:
    with pytest.raises(EngineNotRunnableError, match="is a folder") as caught:
        await inspect_engine(good_engine.parent, settings=settings)
    assert str(good_engine) in (caught.value.hint or "")


async def test_a_file_without_permission(good_engine: Path, settings: Settings) -> None:
    good_engine.chmod(0o644)
    with pytest.raises(EngineNotRunnableError, match="not executable") as caught:
        await inspect_engine(good_engine, settings=settings)
    assert "chmod +x" in (caught.value.hint or "")


@pytest.mark.parametrize(
    "content", [b"just some text\n", b"", b"\x7fELF\x02\x01\x01" + bytes(60), b"MZ\x90\x00"]
)
async def test_a_file_of_another_format(tmp_path: Path, settings: Settings, content: bytes) -> None:
    path = tmp_path / "sd-cli"
    path.write_bytes(content)
    path.chmod(0o755)
    with pytest.raises(EngineNotRunnableError, match="not a program for this system"):
        await inspect_engine(path, settings=settings)


async def test_a_script_whose_interpreter_is_missing(tmp_path: Path, settings: Settings) -> None:
    path = tmp_path / "sd-cli"
    path.write_text("#!/no/such/interpreter\n")
    path.chmod(0o755)
    with pytest.raises(EngineNotRunnableError, match="not a program for this system"):
        await inspect_engine(path, settings=settings)


@pytest.mark.parametrize("name", ["SEGV", "ABRT", "ILL", "BUS"])
async def test_an_engine_that_dies_by_a_signal(script, settings: Settings, name: str) -> None:
    with pytest.raises(EngineNotRunnableError, match=f"ended by SIG{name}"):
        await inspect_engine(script(f"kill -{name} $$"), settings=settings)


async def test_an_illegal_instruction_is_explained(script, settings: Settings) -> None:
    with pytest.raises(EngineNotRunnableError, match="another processor"):
        await inspect_engine(script("kill -ILL $$"), settings=settings)


@pytest.mark.parametrize(
    "body",
    [
        "echo hello",
        "exit 3",
        "cat /proc/version",
        "echo '  -m, --model x'; echo '  -p, --prompt x'",
        "head -c 3000000 /dev/zero",
        "printf '\\377\\376\\200'",
    ],
)
async def test_something_else_than_the_engine(script, settings: Settings, body: str) -> None:
    with pytest.raises(BinaryError, match=r"not stable-diffusion\.cpp"):
        await inspect_engine(script(body), settings=settings)


async def test_the_server_of_the_same_project(script, settings: Settings) -> None:
    with pytest.raises(BinaryError, match="is sd-server"):
        await inspect_engine(script("echo '  -l, --listen-port <int>  port'"), settings=settings)


@compiler
async def test_a_missing_shared_library_is_named(tmp_path: Path, settings: Settings) -> None:
    (tmp_path / "lib.c").write_text("int f(void) { return 0; }\n")
    (tmp_path / "main.c").write_text("int f(void);\nint main(void) { return f(); }\n")
    library, engine = tmp_path / "libggml-odd.so.1", tmp_path / "sd-cli"
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-Wl,-soname,libggml-odd.so.1", tmp_path / "lib.c", "-o", library],
        check=True,
    )
    subprocess.run(["cc", tmp_path / "main.c", library, "-o", engine], check=True)
    library.unlink()
    with pytest.raises(
        EngineNotRunnableError, match=r"library libggml-odd\.so\.1, which is missing"
    ) as caught:
        await inspect_engine(engine, settings=settings)
    assert caught.value.details["missing"] == "libggml-odd.so.1"


@pytest.mark.parametrize("what", ["GLIBC_2.38", "GLIBCXX_3.4.32"])
async def test_a_system_that_is_too_old_is_named(script, settings: Settings, what: str) -> None:
    line = f"$0: /lib/libc.so.6: version \\`{what}' not found (required by $0)"
    with pytest.raises(EngineNotRunnableError, match=what.replace(".", r"\.")) as caught:
        await inspect_engine(script(f'echo "{line}" >&2; exit 1'), settings=settings)
    assert "engine build" in (caught.value.hint or "")


async def test_an_engine_that_never_answers(script, settings: Settings) -> None:
    with pytest.raises(EngineNotRunnableError, match="did not answer"):
        await inspect_engine(script("sleep 60"), settings=settings, time_limit=0.3)


async def test_nothing_is_remembered_of_a_broken_engine(script, settings: Settings) -> None:
    with pytest.raises(BinaryError):
        await inspect_engine(script("echo hello"), settings=settings)
    assert not (settings.state_dir / "engines").exists()
