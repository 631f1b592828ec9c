import errno
import os
import struct
from pathlib import Path

import pytest

from sdmanager.process import run
from sdmanager.process._executable import _is_known_format

ELF = Path("/bin/true").resolve().read_bytes()


def executable(path, content):
    path.write_bytes(content)
    path.chmod(0o755)
    return path


async def test_missing_program(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        await run([tmp_path / "absent"])
    assert caught.value.filename == str(tmp_path / "absent")


@pytest.mark.parametrize("program", ["certainly-absent-program", ""])
async def test_missing_bare_name(program):
    with pytest.raises(FileNotFoundError):
        await run([program])


async def test_bare_name_is_looked_up_in_the_path_of_the_environment(tmp_path):
    executable(tmp_path / "named", b"#!/bin/sh\necho found\n")
    assert (await run(["named"], env={"PATH": str(tmp_path)})).stdout == b"found\n"
    with pytest.raises(FileNotFoundError):
        await run(["named"], env={"PATH": "/bin"})


async def test_shell_builtins_are_not_programs():
    with pytest.raises(FileNotFoundError):
        await run(["trap", "-p"])


async def test_relative_path_counts_from_the_working_directory(tmp_path):
    (tmp_path / "-dir").mkdir()
    executable(tmp_path / "-dir" / "tool", b'#!/bin/sh\nprintf "%s." "$1"\n')
    assert (await run(["-dir/tool", "-n"], cwd=tmp_path)).stdout == b"-n."
    assert (await run(["./-dir/tool", "x"], cwd=tmp_path)).stdout == b"x."
    with pytest.raises(FileNotFoundError):
        await run(["-dir/tool"])


async def test_name_with_spaces_and_quotes(tmp_path):
    program = executable(tmp_path / "a 'b' \"c\" $d é", b"#!/bin/sh\necho ran\n")
    assert (await run([program])).stdout == b"ran\n"


async def test_file_without_the_executable_bit(tmp_path):
    path = executable(tmp_path / "plain", b"#!/bin/sh\n")
    path.chmod(0o644)
    with pytest.raises(PermissionError):
        await run([path])


async def test_directory(tmp_path):
    with pytest.raises(PermissionError):
        await run([tmp_path])


async def test_component_that_is_no_directory(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        await run([tmp_path / "file" / "program"])


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"echo a text without an interpreter line\n",
        b"MZ\x90\x00" + bytes(100),
        b"\xcf\xfa\xed\xfe" + bytes(100),
        ELF[:18],
        ELF[:18] + struct.pack("<H", 0xF3 if ELF[18] != 0xF3 else 0x3E) + ELF[20:],
    ],
    ids=["empty", "text", "windows", "macos", "cut", "elf-of-another-machine"],
)
async def test_foreign_format(tmp_path, content, monkeypatch):
    monkeypatch.setattr("sdmanager.process._executable._BINFMT", tmp_path / "none")
    program = executable(tmp_path / "foreign", content)
    with pytest.raises(OSError, match="Exec format error") as caught:
        await run([program])
    assert caught.value.errno == errno.ENOEXEC
    assert caught.value.filename == str(program)


def test_registered_formats_are_left_to_the_kernel(tmp_path, monkeypatch):
    monkeypatch.setattr("sdmanager.process._executable._BINFMT", tmp_path)
    program = executable(tmp_path / "register", b"MZ")
    (tmp_path / "status").touch()
    assert not _is_known_format(str(program))
    (tmp_path / "qemu-arm").touch()
    assert _is_known_format(str(program))


def test_32_bit_program_of_the_same_family_is_accepted(tmp_path, monkeypatch):
    monkeypatch.setattr("sdmanager.process._executable._BINFMT", tmp_path / "none")
    sibling = {62: 3, 183: 40}.get(ELF[18])
    if sibling is None:
        pytest.skip("no such machine")
    assert _is_known_format(
        str(executable(tmp_path / "old", ELF[:18] + struct.pack("<H", sibling) + ELF[20:]))
    )


async def test_script_with_an_interpreter(tmp_path):
    assert (await run([executable(tmp_path / "script", b"#!/bin/sh\nexit 9\n")])).status.code == 9


async def test_script_whose_interpreter_is_missing_says_so(tmp_path):
    completed = await run([executable(tmp_path / "script", b"#!/absent\n")])
    assert completed.status.code in (126, 127)
    assert completed.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
async def test_unreadable_program_is_left_to_the_kernel(tmp_path):
    program = executable(tmp_path / "secret", ELF)
    program.chmod(0o111)
    assert (await run([program])).status.ok
