"""What loaders say of a program that they cannot run, and which signals and exit codes end one at once."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sdmanager.binaries import inspect_engine
from sdmanager.binaries.loader_errors import (
    LoaderError,
    explain_crash,
    explain_library,
    explain_loader,
    explain_refusal,
    explain_signal,
    windows_end,
)
from sdmanager.errors import EngineNotRunnableError
from sdmanager.settings import Settings

ENGINE = "/home/me/My Engines/sd-cli"
compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
glibc = pytest.mark.skipif(
    not sys.platform.startswith("linux") or not Path("/lib64/ld-linux-x86-64.so.2").exists(),
    reason="no glibc for x86-64",
)


def assert_readable(error: LoaderError | None) -> LoaderError:
    assert error is not None
    assert re.fullmatch(r"[a-z][^\n]{10,400}[^.\n]", error.clause)
    assert not re.search(r"\.\s+[A-Z]", error.clause), "one sentence"
    assert not re.search(r"(^|[\s'(])(~|[A-Za-z]:)?[/\\]\w+[/\\]", error.clause), "no folders"
    assert re.fullmatch(r"[A-Z][^\n]{10,330}\.", error.hint)
    assert "{" not in error.hint
    return error


LIBRARIES = {
    "libcuda.so.1": "NVIDIA's driver",
    "nvcuda.dll": "NVIDIA's driver",
    "libcudart.so.12": "CUDA 12 ",
    "libcudart.so.13": "CUDA 13 ",
    "libcublas.so.12": "CUDA 12 ",
    "libcublasLt.so.11": "CUDA 11 ",
    "cudart64_12.dll": "CUDA 12 ",
    "cudart64_110.dll": "CUDA 11 ",
    "cublas64_13.dll": "CUDA 13 ",
    "libnvrtc.so.12": "CUDA 12 ",
    "libcufft.so.11": "libraries of CUDA (",
    "libvulkan.so.1": "libvulkan1",
    "vulkan-1.dll": "driver of the graphics card",
    "libvulkan.1.dylib": "Vulkan loader",
    "libgomp.so.1": "libgomp1",
    "libamdhip64.so.6": "ROCm 6,",
    "amdhip64_7.dll": "ROCm 7,",
    "amdhip64.dll": "ROCm,",
    "librocblas.so.4": "ROCm,",
    "rocblas.dll": "ROCm,",
    "libhipblas.so.2": "ROCm,",
    "libhipblaslt.so.0": "ROCm,",
    "libhsa-runtime64.so.1": "ROCm,",
    "libstdc++.so.6": "libstdc++6",
    "libgcc_s.so.1": "libgcc-s1",
    "libopenblas.so.0": "libopenblas0",
    "MSVCP140.dll": "Visual C++",
    "VCRUNTIME140_1.dll": "Visual C++",
    "vcomp140.dll": "Visual C++",
    "libggml-base.so": "one folder",
    "libstable-diffusion.so": "one folder",
    "ggml-base.dll": "one folder",
    "libc.musl-x86_64.so.1": "Alpine",
    "libc.so.6": "glibc",
    "libodd.so.3": "the package with that library",
}


@pytest.mark.parametrize("name", LIBRARIES)
@pytest.mark.parametrize(
    "form",
    [
        f"{ENGINE}: error while loading shared libraries: {{}}: cannot open shared object file: No such file or "
        "directory\n",
        f"Error loading shared library {{}}: No such file or directory (needed by {ENGINE})\n"
        f"Error relocating {ENGINE}: cudaMalloc: symbol not found\n",
        f"dyld[8123]: Library not loaded: @rpath/{{}}\n  Referenced from: <1C2D> {ENGINE}\n  Reason: tried: "
        "'/usr/local/lib/x.dylib' (no such file), '/usr/lib/x.dylib' (no such file, not in dyld cache)\n",
        "dyld: Library not loaded: /opt/homebrew/lib/{}\n  Referenced from: /Users/me/sd-cli\n"
        "  Reason: image not found\n",
    ],
    ids=["glibc", "musl", "macos", "old macos"],
)
def test_a_missing_library_is_named_with_what_it_belongs_to(name: str, form: str) -> None:
    error = assert_readable(explain_loader(form.format(name), 127))
    assert error.missing == name
    assert f"needs the library {name}, which is missing here" in error.clause
    assert LIBRARIES[name] in error.hint
    assert error == explain_library(name)


@pytest.mark.parametrize(
    ("said", "missing", "words"),
    [
        (f"{ENGINE}: /lib/x86_64-linux-gnu/libc.so.6: version `GLIBC_2.38' not found (required by {ENGINE})",
         "GLIBC_2.38", "(required by sd-cli)"),
        (f"{ENGINE}: /usr/lib/libstdc++.so.6: version `GLIBCXX_3.4.32' not found (required by /home/me/libggml.so)",
         "GLIBCXX_3.4.32", "(required by libggml.so)"),
        (f"{ENGINE}: /usr/lib/libstdc++.so.6: version `CXXABI_1.3.15' not found (required by {ENGINE})",
         "CXXABI_1.3.15", "libraries are older"),
        (f"{ENGINE}: libcublas.so.12: version `libcublas.so.12' not found (required by {ENGINE})",
         "libcublas.so.12", "libraries are older"),
        (f"{ENGINE}: symbol lookup error: {ENGINE}: undefined symbol: cublasGemmEx, version libcublas.so.12",
         "cublasGemmEx", "no library of this system"),
        (f"Error relocating {ENGINE}: __printf_chk: symbol not found", "__printf_chk", "no library of this system"),
        ("dyld[2]: Symbol not found: (__ZNSt3__113basic_filebufE)\n  Referenced from: '/Users/me/sd-cli' (built "
         "for macOS 15.0 which is newer than running OS)", "__ZNSt3__113basic_filebufE", "no library"),
    ],
)  # fmt: skip
def test_a_system_that_is_too_old(said: str, missing: str, words: str) -> None:
    error = assert_readable(explain_loader(said + "\n", 1))
    assert error.missing == missing
    assert missing in error.clause
    assert words in error.clause
    assert "engine build" in error.hint


@pytest.mark.parametrize(
    ("said", "words", "hint"),
    [
        (f"{ENGINE}: error while loading shared libraries: libggml.so: wrong ELF class: ELFCLASS32",
         "another processor", "engine install"),
        (f"{ENGINE}: error while loading shared libraries: /home/me/libggml.so: invalid ELF header",
         "cannot use the library libggml.so (invalid ELF header)", "again"),
        (f"{ENGINE}: error while loading shared libraries: /home/me/x y/libggml.so: file too short",
         "cannot use the library libggml.so (file too short)", "again"),
        (f"{ENGINE}: error while loading shared libraries: libggml.so: failed to map segment from shared object: "
         "Operation not permitted", "may not use its library libggml.so", "noexec"),
        (f"{ENGINE}: error while loading shared libraries: libggml.so: cannot enable executable stack as shared object "
         "requires: Permission denied", "cannot use the library libggml.so", "again"),
        ("sh: 1: /x/y/sd-cli: Exec format error", "Exec format error", "another processor"),
        (f"bash: {ENGINE}: cannot execute binary file: Exec format error", "cannot execute binary", "processor"),
        (f"{ENGINE}: Bad CPU type in executable", "another processor", "engine install"),
        ("dyld[1]: Library not loaded: @rpath/libggml.dylib\n  Reason: tried: '/Users/me/libggml.dylib' (mach-o "
         "file, but is an incompatible architecture (have 'x86_64', need 'arm64'))", "another processor", "install"),
        ("dyld[1]: Library not loaded: @rpath/libggml.dylib\n  Reason: tried: '/Users/me/libggml.dylib' (code "
         "signature in <3F> '/Users/me/libggml.dylib' not valid for use in process: mapped file has no Team ID)",
         "not signed as macOS demands", "com.apple.quarantine"),
        (f"sdmanager-guard: 2: {ENGINE}: Text file busy", "being written to", "Try again"),
        (f"sdmanager-guard: 2: {ENGINE}: Permission denied", "may not be executed", "noexec"),
        (f"sdmanager-guard: 2: {ENGINE}: not found", "interpreter or loader is missing", "Alpine"),
        (f"bash: {ENGINE}: cannot execute: required file not found", "interpreter or loader is missing", "Alpine"),
        ("something of its own", "(something of its own)", "engine install"),
        ("", "no reason given", "engine install"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("code", [126, 127])
def test_a_program_that_the_system_refuses(said: str, words: str, hint: str, code: int) -> None:
    error = assert_readable(explain_loader(said + "\n", code))
    assert words in error.clause
    assert hint in error.hint


@pytest.mark.parametrize(
    "reason", ["[WinError 193] %1 is not a valid Win32 application", "Bad CPU type in executable"]
)
def test_the_text_of_an_error_of_the_system(reason: str) -> None:
    assert "another processor" in assert_readable(explain_refusal(reason)).hint


@pytest.mark.parametrize(
    ("code", "words", "hint"),
    [
        (0xC0000135, "needs a DLL that is missing here", "Visual C++"),
        (0xC0000139, "newer version of a DLL", "Update"),
        (0xC0000138, "newer version of a DLL", "Update"),
        (0xC0000428, "not signed as Windows demands", "Windows Security"),
        (0xC0000022, "may not be executed", "Windows Security"),
        (0xC000007B, "another processor", "engine install"),
        (0xC0000142, "could not be started", "Restart"),
    ],
)
def test_exit_codes_of_windows_for_what_it_could_not_start(code: int, words: str, hint: str) -> None:
    error = assert_readable(explain_loader("", code))
    assert words in error.clause
    assert f"0x{code:08X}" in error.clause
    assert hint in error.hint
    assert explain_loader("", code - 2**32) == error, "as a signed number"
    assert windows_end(code) is None


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (0xC0000005, "an access violation (0xC0000005)"),
        (
            0xC000001D,
            "an illegal instruction (0xC000001D), as happens to a program built for another processor",
        ),
        (0xC0000409, "its own abort"),
        (0xC00000FD, "a stack overflow"),
        (0xC0000374, "a damaged heap"),
        (0xC0000017, "a lack of memory"),
        (0xC000012D, "a lack of memory"),
        (0xC0000096, "a privileged instruction"),
        (0xC0000006, "a file that could not be read"),
        (0xE06D7363, "an uncaught exception"),
        (0x80000003, "a breakpoint"),
        (0xC0000094, "a division by zero"),
    ],
)
def test_exit_codes_of_windows_for_what_it_ended(code: int, words: str) -> None:
    assert words in assert_readable(explain_crash(code)).clause
    assert explain_crash(code - 2**32) == explain_crash(code)
    assert explain_loader("", code) is None


@pytest.mark.parametrize("code", [0, 1, 2, 3, 5, 29, 125, 128, 255])
def test_exit_codes_of_a_programs_own_mean_nothing_here(code: int) -> None:
    assert explain_loader("", code) is None
    assert explain_loader("[ERROR] a.cpp:1 - get sd version from file failed\n", code) is None
    assert explain_crash(code) is None


@pytest.mark.parametrize(
    ("number", "words", "hint"),
    [
        (
            signal.SIGILL,
            "was ended by SIGILL, as happens to a program built for another processor",
            "engine build",
        ),
        (signal.SIGKILL, "macOS", "com.apple.quarantine"),
        (signal.SIGBUS, "cut short", "disk"),
        (signal.SIGSEGV, "was ended by SIGSEGV", "engine install"),
        (63, "was ended by signal 63", "engine install"),
    ],
)
def test_signals(number: int, words: str, hint: str) -> None:
    error = assert_readable(explain_signal(number))
    assert words in error.clause
    assert hint in error.hint


def test_the_last_words_of_a_program_that_a_signal_ended() -> None:
    error = explain_signal(
        signal.SIGABRT, '\n"hipErrorNoBinaryForGpu: Unable to find code object for all current devices!"\n'
    )
    assert "SIGABRT: " in assert_readable(error).clause
    assert "hipErrorNoBinaryForGpu" in error.clause


@pytest.mark.parametrize(
    "said",
    [
        "[ERROR] main.cpp:1 - load image from '/home/me/Exec format error.png' failed",
        "[ERROR] a.cpp:1 - file /home/me/libcuda.so.1 not found",
        "load_backend: failed to load /home/me/libggml-cuda.so: libcuda.so.1: cannot open shared object file: No such "
        "file or directory",
        "[ERROR] a.cpp:1 - cannot open output: Permission denied",
        "[ERROR] a.cpp:1 - No such file or directory",
        "version `nonsense' not found",
    ],
)
def test_what_only_looks_like_a_loader(said: str) -> None:
    assert explain_loader(said + "\n", 1) is None


def test_a_flood_is_searched_quickly_and_the_words_stay_few() -> None:
    for text in (
        "x" * 65536,
        "\n" * 65536,
        ": " * 32768,
        " " * 65536,
        "version `" * 8000,
        "/" * 65536,
        "a/b:\n" * 13000,
    ):
        assert explain_loader(text, 1) is None
        error = explain_loader(text, 127)
        assert error is not None
        assert len(error.clause) < 400


def build(folder: Path, *, soname: str = "libggml-odd.so.1") -> tuple[Path, Path]:
    """A real program and the real library that it needs."""
    (folder / "lib.c").write_text("int f(void) { return 0; }\n")
    (folder / "main.c").write_text("int f(void);\nint main(void) { return f(); }\n")
    library, engine = folder / soname, folder / "sd-cli"
    subprocess.run(
        ["cc", "-shared", "-fPIC", f"-Wl,-soname,{soname}", folder / "lib.c", "-o", library], check=True
    )
    subprocess.run(["cc", folder / "main.c", library, "-Wl,-rpath,$ORIGIN", "-o", engine], check=True)
    return engine, library


@compiler
@glibc
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "file too short"),
        (b"x" * 4096, "invalid ELF header"),
        (b"\x7fELF\x01\x01\x01" + bytes(4089), "wrong ELF class"),
    ],
)
async def test_a_real_library_that_is_damaged(
    tmp_path: Path, settings: Settings, content: bytes, words: str
) -> None:
    engine, library = build(tmp_path)
    library.write_bytes(content)
    with pytest.raises(EngineNotRunnableError, match=words) as caught:
        await inspect_engine(engine, settings=settings)
    assert "libggml-odd.so.1" in caught.value.message


@compiler
@glibc
async def test_a_real_library_of_cuda_that_is_missing(tmp_path: Path, settings: Settings) -> None:
    engine, library = build(tmp_path, soname="libcudart.so.12")
    library.unlink()
    with pytest.raises(EngineNotRunnableError, match=r"libcudart\.so\.12, which is missing") as caught:
        await inspect_engine(engine, settings=settings)
    assert "CUDA 12 " in (caught.value.hint or "")
    assert caught.value.details["missing"] == "libcudart.so.12"


@compiler
@glibc
async def test_a_real_library_without_a_function(tmp_path: Path, settings: Settings) -> None:
    engine, library = build(tmp_path)
    (tmp_path / "lib.c").write_text("int g(void) { return 0; }\n")
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-Wl,-soname,libggml-odd.so.1", tmp_path / "lib.c", "-o", library],
        check=True,
    )
    with pytest.raises(EngineNotRunnableError, match="needs f, which no library"):
        await inspect_engine(engine, settings=settings)


@compiler
@glibc
async def test_a_real_version_that_is_missing(tmp_path: Path, settings: Settings) -> None:
    """The real words of the loader, not ours."""
    (tmp_path / "lib.c").write_text("int f(void) { return 0; }\n")
    (tmp_path / "main.c").write_text("int f(void);\nint main(void) { return f(); }\n")
    library, engine = tmp_path / "libodd.so.1", tmp_path / "sd-cli"
    for version in ("GLIBCXX_9.9", "GLIBCXX_1.0"):
        (tmp_path / "map").write_text(f"{version} {{ f; }};\n")
        subprocess.run(
            ["cc", "-shared", "-fPIC", "-Wl,-soname,libodd.so.1", f"-Wl,--version-script={tmp_path / 'map'}",
             tmp_path / "lib.c", "-o", library], check=True,
        )  # fmt: skip
        if not engine.exists():
            subprocess.run(
                ["cc", tmp_path / "main.c", library, "-Wl,-rpath,$ORIGIN", "-o", engine], check=True
            )
    with pytest.raises(EngineNotRunnableError, match=r"needs GLIBCXX_9\.9") as caught:
        await inspect_engine(engine, settings=settings)
    assert "engine build" in (caught.value.hint or "")
    assert caught.value.details["missing"] == "GLIBCXX_9.9"


@compiler
@glibc
async def test_a_real_program_whose_loader_is_missing(tmp_path: Path, settings: Settings) -> None:
    """As a program for glibc on Alpine Linux."""
    (tmp_path / "main.c").write_text("int main(void) { return 0; }\n")
    engine = tmp_path / "sd-cli"
    subprocess.run(
        ["cc", tmp_path / "main.c", "-Wl,--dynamic-linker=/no/such/ld-musl.so.1", "-o", engine], check=True
    )
    with pytest.raises(EngineNotRunnableError, match="interpreter or loader is missing") as caught:
        await inspect_engine(engine, settings=settings)
    assert "Alpine" in (caught.value.hint or "")


@pytest.fixture
def noexec(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "mounted"
    folder.mkdir()
    mounted = shutil.which("mount") and sys.platform.startswith("linux") and os.geteuid() == 0
    command = ["mount", "-t", "tmpfs", "-o", "size=16m,noexec", "tmpfs", str(folder)]
    if not mounted or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("a file system can only be mounted by root on Linux")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


async def test_a_disk_from_which_nothing_may_be_executed(
    noexec: Path, good_engine: Path, settings: Settings
) -> None:
    """The advice was to run chmod +x, which does not help there."""
    engine = Path(shutil.copy2(good_engine, noexec / "sd-cli"))
    with pytest.raises(EngineNotRunnableError, match="may not be executed where it lies") as caught:
        await inspect_engine(engine, settings=settings)
    assert "noexec" in (caught.value.hint or "")
    assert "chmod" not in (caught.value.hint or "")


@compiler
@glibc
async def test_a_library_on_a_disk_from_which_nothing_may_be_executed(
    noexec: Path, tmp_path: Path, settings: Settings
) -> None:
    engine, library = build(tmp_path)
    shutil.copy2(library, noexec)
    library.unlink()
    library.symlink_to(noexec / library.name)
    with pytest.raises(EngineNotRunnableError, match=r"may not use its library libggml-odd\.so\.1") as caught:
        await inspect_engine(engine, settings=settings)
    assert "noexec" in (caught.value.hint or "")


@compiler
@glibc
async def test_a_real_illegal_instruction(tmp_path: Path, settings: Settings) -> None:
    (tmp_path / "main.c").write_text("int main(void) { __builtin_trap(); }\n")
    engine = tmp_path / "sd-cli"
    subprocess.run(["cc", tmp_path / "main.c", "-o", engine], check=True)
    with pytest.raises(
        EngineNotRunnableError, match="SIGILL, as happens to a program built for another"
    ) as caught:
        await inspect_engine(engine, settings=settings)
    assert "engine build" in (caught.value.hint or "")
