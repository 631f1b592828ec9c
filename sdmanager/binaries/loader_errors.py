"""Why a system refuses to run a program, by what its loader said and how the program ended. Pure tables."""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass
from typing import Final

_BUILD: Final = "Run 'sdmanager engine build': an engine built here needs nothing newer."
_INSTALL: Final = "or run 'sdmanager engine install' for an engine that works here."


@dataclass(frozen=True, slots=True)
class LoaderError:
    """Why a program cannot be run here.

    Attributes:
        clause: What follows upon "The engine": one clause, without folders and without a period.
        hint: What to do about it, one sentence.
        missing: The library, or version of one, that is missing; None where it is something else.
    """

    clause: str
    hint: str
    missing: str | None = None


# A library's name as Linux, macOS or Windows gives it: what it belongs to. {n}: its major version, where it has one.
_LIBRARIES: Final = tuple(
    (re.compile(names, re.IGNORECASE), hint)
    for names, hint in (
        (
            r"libcuda\.|nvcuda\.dll|libnvidia-",
            "Install NVIDIA's driver, or start the container with the card (docker run --gpus all), "
            "or use another variant of the engine.",
        ),
        (
            r"(?:lib)?(?:cudart|cublas(?:Lt)?|nvrtc|cufft|curand)(?:64)?[._]",
            f"Install the runtime libraries of CUDA{{n}} (cudart, cublas), {_INSTALL}",
        ),
        (
            r"libvulkan\.|vulkan-1\.dll",
            "Install the Vulkan loader: libvulkan1 on Debian and Ubuntu, vulkan-loader on Fedora, "
            "vulkan-icd-loader on Arch; on Windows it comes with the driver of the graphics card.",
        ),
        (
            r"(?:lib)?(?:amdhip64|rocblas|hipblas(?:lt)?|rocsolver|amd_comgr|hsa-runtime64|roctx64)[._]",
            f"Install the runtime libraries of ROCm{{n}}, {_INSTALL}",
        ),
        (
            r"libgomp\.",
            f"Install the package libgomp1 (Debian, Ubuntu) or libgomp (Fedora, Alpine), {_INSTALL}",
        ),
        (
            r"libstdc\+\+\.|libgcc_s\.",
            f"Install the packages libstdc++6 and libgcc-s1 (Debian, Ubuntu) or libstdc++ (Fedora, Alpine), {_INSTALL}",
        ),
        (
            r"libopenblas\.",
            f"Install the package libopenblas0 (Debian, Ubuntu) or openblas (Fedora), {_INSTALL}",
        ),
        (
            r"msvcp\d|vcruntime\d|vcomp\d|concrt\d",
            "Install Microsoft's Visual C++ runtime (vc_redist.x64.exe).",
        ),
        (
            r"(?:lib)?(?:ggml|stable-diffusion)\b",
            f"It belongs to the engine: keep the files of its archive in one folder, {_INSTALL}",
        ),
        (r"libc\.musl|ld-musl", f"This engine was built for Alpine Linux. {_BUILD}"),
        (r"libc\.so\.6|libm\.so\.6|libdl\.so\.2|ld-linux", f"This engine was built for glibc. {_BUILD}"),
    )
)
_OTHER_LIBRARY: Final = f"Install the package with that library, {_INSTALL}"
_MAJOR: Final = re.compile(r"\.so\.(\d+)|64_(\d\d?)|\.(\d+)\.dylib")
_VERSIONED: Final = re.compile(r"cudart|cublas|nvrtc|amdhip64", re.IGNORECASE)

# What the loaders of glibc, musl and macOS say when a library is not there.
_MISSING: Final = re.compile(
    r"error while loading shared libraries: (?P<glibc>[^\s:]{1,200}): cannot open shared object file"
    r"|Error loading shared library (?P<musl>[^\s:]{1,200}): No such file"
    r"|Library not loaded: (?P<macos>[^\n]{1,300})"
)
_TOO_OLD: Final = re.compile(
    r"version [`'\"](?P<version>(?:GLIBC|GLIBCXX|CXXABI|GOMP|GCC|OPENSSL|lib[\w+.-]{1,60})_?[\w.]{0,40})['\"] not found"
    r"(?: \(required by (?P<by>[^)\n]{1,500})\))?"
)
_DAMAGED: Final = re.compile(
    r"error while loading shared libraries: (?P<name>[^\n:]{1,500}): "
    r"(?P<why>file too short|invalid ELF header|wrong ELF class[^\n]{0,30}|ELF file[^\n]{0,60}|failed to map segment"
    r"[^\n]{0,60}|cannot enable executable stack[^\n]{0,60}|cannot [\w ]{1,60}: [\w ]{1,40})"
)
_SYMBOL: Final = re.compile(
    r"symbol lookup error: [^\n]{0,500}?undefined symbol: (?P<glibc>[\w@.]{1,120})"
    r"|Error relocating [^\n]{0,500}?: (?P<musl>[\w@.]{1,120}): (?:symbol|initial-exec TLS|unsupported)[^\n]{0,60}"
    r"|Symbol not found: \(?(?P<macos>[\w$.]{1,120})"
)

_OTHER_PROCESSOR: Final = (
    "It was built for another processor or system: run 'sdmanager engine install' for one that works here."
)
_NO_EXECUTION: Final = (
    "Set SDMANAGER_HOME to a folder on a disk that is not mounted with 'noexec', "
    "or ask whoever looks after this machine."
)
_SIGNATURE: Final = (
    "Allow it under Privacy & Security in the settings of macOS, or run 'xattr -dr com.apple.quarantine' on the "
    "engine's folder if you trust it, or 'sdmanager engine build'."
)

_REFUSALS: Final = tuple(
    (re.compile(said, re.IGNORECASE), clause, hint)
    for said, clause, hint in (
        (r"code signature|CODESIGNING|library load disallowed", "is not signed as macOS demands", _SIGNATURE),
        (
            r"incompatible architecture|need '(?:arm64|x86_64)|Bad CPU type",
            "was built for another processor (incompatible architecture)",
            _OTHER_PROCESSOR,
        ),
        (
            r"cannot execute binary file|\[WinError (?:193|216)\]|not a valid Win32 application",
            "is not a program for this system (cannot execute binary file)",
            _OTHER_PROCESSOR,
        ),
        (r"Exec format error", "is not a program for this system (Exec format error)", _OTHER_PROCESSOR),
        (
            r"No such file|not found$|bad interpreter",
            "is not a program for this system (its interpreter or loader is missing)",
            f"It may have been built for another C library, such as glibc on Alpine Linux. {_BUILD}",
        ),
        (r"Text file busy", "is being written to at this moment (Text file busy)", "Try again in a moment."),
        (
            r"cannot execute|Permission denied|Operation not permitted",
            "may not be executed where it lies (permission denied)",
            _NO_EXECUTION,
        ),
    )
)
# These are all that such a line holds besides names; elsewhere the words could mean anything.
_REFUSAL_LINE: Final = re.compile(
    r"^(?:[^\n]{0,500}: )?(?:cannot execute[^\n]{0,60}|Exec format error|Text file busy|Bad CPU type[^\n]{0,30})\s*$"
    r"|^[^\n]*?(?:code signature|CODESIGNING|library load disallowed|mach-o file, but is an incompatible)[^\n]*$",
    re.MULTILINE | re.IGNORECASE,
)

# Exit codes of Windows for programs that it could not even start.
_NOT_STARTED: Final = {
    0xC0000135: (
        "needs a DLL that is missing here",
        "Install the driver of the graphics card and Microsoft's Visual C++ runtime (vc_redist.x64.exe); a CUDA "
        f"engine also needs the CUDA libraries beside it, {_INSTALL}",
    ),
    0xC0000139: ("needs a newer version of a DLL than is here", "Update the driver of the graphics card and Windows."),
    0xC0000138: ("needs a newer version of a DLL than is here", "Update the driver of the graphics card and Windows."),
    0xC000007B: ("met a DLL for another processor or a damaged one", _OTHER_PROCESSOR),
    0xC0000142: ("needs a DLL that could not be started", "Restart Windows, then update the graphics driver."),
    0xC0000428: ("is not signed as Windows demands", "Allow it in Windows Security if you trust it."),
    0xC0000022: ("may not be executed where it lies", "Allow it in Windows Security if you trust it."),
}  # fmt: skip
# And for those that it ended: the signal that stands for the same elsewhere (None: memory), and what it is called.
_ENDED: Final[dict[int, tuple[str | None, str]]] = {
    0xC000001D: ("SIGILL", "an illegal instruction"),
    0xC0000096: ("SIGILL", "a privileged instruction"),
    0xC0000005: ("SIGSEGV", "an access violation"),
    0xC00000FD: ("SIGSEGV", "a stack overflow"),
    0xC0000006: ("SIGBUS", "a file that could not be read"),
    0xC0000409: ("SIGABRT", "its own abort or a damaged stack"),
    0xC0000374: ("SIGABRT", "a damaged heap"),
    0xE06D7363: ("SIGABRT", "an uncaught exception"),
    0x80000003: ("SIGTRAP", "a breakpoint"),
    0xC0000094: ("SIGFPE", "a division by zero"),
    0xC0000017: (None, "a lack of memory"),
    0xC000012D: (None, "a lack of memory"),
}
# What those say of a program that had only been asked for its help.
_ENDS: Final = {
    "SIGILL": (
        ", as happens to a program built for another processor",
        "Run 'sdmanager engine build': an engine built here uses only what this processor has.",
    ),
    "SIGKILL": (
        ", as happens where memory runs out, or on macOS to a program that it does not trust",
        f"Free some memory. On macOS: {_SIGNATURE[0].lower()}{_SIGNATURE[1:]}",
    ),
    "SIGBUS": (
        ", as happens to a program whose file is cut short",
        "Check that the disk is not full, then run 'sdmanager engine install'.",
    ),
}


def explain_loader(stderr: str, code: int | None = None) -> LoaderError | None:
    """Why a program could not be loaded, or None where nothing says so.

    Args:
        stderr: The end of what was printed there.
        code: The exit code, or None where a signal ended it.
    """
    # First: on macOS a library that may not be loaded counts as one that is not there.
    if refusal := _REFUSAL_LINE.search(stderr):
        return explain_refusal(refusal.group())
    if missing := _MISSING.search(stderr):
        return explain_library(_name(missing[missing.lastgroup or 0].split(" (")[0]))
    if old := _TOO_OLD.search(stderr):
        version = old["version"]
        by = f" (required by {_name(old['by'])})" if old["by"] else ""
        return LoaderError(
            f"needs {version}, and this system's libraries are older: version `{version}' not found{by}",
            _BUILD,
            version,
        )
    if damaged := _DAMAGED.search(stderr):
        return _explain_damaged(_name(damaged["name"]), damaged["why"].strip())
    if symbol := _SYMBOL.search(stderr):
        name = symbol[symbol.lastgroup or 0]
        return LoaderError(
            f"needs {name}, which no library of this system has",
            f"It was built for other versions of its libraries. {_BUILD}",
            name,
        )
    if code is not None and (windows := _NOT_STARTED.get(code & 0xFFFFFFFF)):
        return LoaderError(f"{windows[0]} (0x{code & 0xFFFFFFFF:08X})", windows[1])
    if code in {126, 127}:
        last = stderr.strip().splitlines()[-1:]
        return explain_refusal(last[0] if last else "")
    return None


def explain_library(name: str) -> LoaderError:
    """What a library that is missing belongs to, and how to get it.

    Args:
        name: Without its folder.
    """
    hint = next((hint for pattern, hint in _LIBRARIES if pattern.match(name)), _OTHER_LIBRARY)
    major = _MAJOR.search(name) if _VERSIONED.search(name) else None
    number = next((part for part in major.groups() if part), "") if major else ""
    return LoaderError(
        f"needs the library {name}, which is missing here",
        hint.format(n=f" {number}" if number else ""),
        name,
    )


def explain_refusal(reason: str) -> LoaderError:
    """Why the system would not execute a file.

    Args:
        reason: What it said: the last line, or the text of an errno.
    """
    for pattern, clause, hint in _REFUSALS:
        if pattern.search(reason):
            return LoaderError(clause, hint)
    return LoaderError(
        f"is not a program for this system ({_said(reason) or 'no reason given'})",
        "Run 'sdmanager engine install' for an engine that works here.",
    )


def explain_signal(number: int, stderr: str = "") -> LoaderError:
    """What a signal says that ended a program which had only been asked for its help.

    Args:
        number: Of the signal.
        stderr: The end of what was printed there.
    """
    name = signal_name(number)
    last = stderr.strip().splitlines()[-1:]
    return _explain_end(name, f"{name}: {_said(last[0])}" if last else name)


def explain_crash(code: int) -> LoaderError | None:
    """The same for an exit code of Windows; None where it is none that stands for a crash."""
    end = windows_end(code)
    return _explain_end(end[0], f"{end[1]} (0x{code & 0xFFFFFFFF:08X})") if end else None


def windows_end(code: int) -> tuple[str | None, str] | None:
    """What an exit code of Windows stands for that it gives to programs which it ended; None for any other.

    Returns:
        The name of the signal that stands for the same elsewhere, or None for a lack of memory; and words for it.
    """
    return _ENDED.get(code & 0xFFFFFFFF) if not 0 <= code <= 255 else None


def signal_name(number: int) -> str:
    """Such as ``SIGSEGV``; its number where it has no name here."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _explain_damaged(name: str, why: str) -> LoaderError:
    if why.startswith("failed to map segment"):
        return LoaderError(f"may not use its library {name} where that lies ({why})", _NO_EXECUTION)
    if why.startswith("wrong ELF class"):
        return LoaderError(
            f"met the library {name}, which is for another processor ({why})", _OTHER_PROCESSOR
        )
    return LoaderError(
        f"cannot use the library {name} ({why})",
        "Install the package with that library again, or run 'sdmanager engine install' for another engine.",
    )


def _explain_end(kind: str | None, shown: str) -> LoaderError:
    what, hint = _ENDS.get(kind or "", ("", "Run 'sdmanager engine install' for an engine that works here."))
    return LoaderError(f"was ended by {shown}{what}", hint)


def _said(line: str) -> str:
    return " ".join(_name(line.strip().rstrip(".")).split())[:200]


def _name(path: str) -> str:
    """A path without its folders."""
    return re.split(r"[/\\]", path)[-1]
