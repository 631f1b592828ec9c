from __future__ import annotations

import ctypes

import psutil

_CREATE_SUSPENDED = 0x4
_CREATE_NO_WINDOW = 0x0800_0000
_PROCESS_TERMINATE = 0x1
_PROCESS_SET_QUOTA = 0x100
_BASIC_ACCOUNTING_INFORMATION = 1
_EXTENDED_LIMIT_INFORMATION = 9
_KILL_ON_JOB_CLOSE = 0x2000


class BasicAccounting(ctypes.Structure):
    """JOBOBJECT_BASIC_ACCOUNTING_INFORMATION."""

    _fields_ = (
        ("times", ctypes.c_int64 * 4),
        ("page_faults", ctypes.c_uint32),
        ("total_processes", ctypes.c_uint32),
        ("active_processes", ctypes.c_uint32),
        ("terminated_processes", ctypes.c_uint32),
    )


class ExtendedLimits(ctypes.Structure):
    """JOBOBJECT_EXTENDED_LIMIT_INFORMATION."""

    _fields_ = (
        ("time_limits", ctypes.c_int64 * 2),
        ("flags", ctypes.c_uint32),
        ("working_set", ctypes.c_size_t * 2),
        ("process_limit", ctypes.c_uint32),
        ("affinity", ctypes.c_size_t),
        ("classes", ctypes.c_uint32 * 2),
        ("io_counters", ctypes.c_uint64 * 6),
        ("memory", ctypes.c_size_t * 4),
    )


class Job:
    """A job object whose only handle is ours: the processes in it end when this process does.

    One for each child and none for this process: a library must not kill its host's other children.
    """

    creation_flags = _CREATE_SUSPENDED | _CREATE_NO_WINDOW

    def __init__(self, kernel32: ctypes.CDLL | None = None) -> None:
        # On 64-bit Windows there is one calling convention, so this needs no WinDLL.
        self._kernel32 = ctypes.CDLL("kernel32") if kernel32 is None else kernel32
        self._kernel32.CreateJobObjectW.restype = ctypes.c_void_p
        self._kernel32.OpenProcess.restype = ctypes.c_void_p
        self._handle: int | None = self._kernel32.CreateJobObjectW(None, None)
        self._check("CreateJobObject", self._handle)
        limits = ExtendedLimits(flags=_KILL_ON_JOB_CLOSE)
        try:
            self._check(
                "SetInformationJobObject",
                self._kernel32.SetInformationJobObject(
                    ctypes.c_void_p(self._handle),
                    _EXTENDED_LIMIT_INFORMATION,
                    ctypes.byref(limits),
                    ctypes.sizeof(limits),
                ),
            )
        except OSError:
            self.close()
            raise

    def adopt(self, pid: int) -> None:
        """Put a suspended process into the job and let it go."""
        ctypes.c_void_p(self._handle)
        process = self._kernel32.OpenProcess(_PROCESS_SET_QUOTA | _PROCESS_TERMINATE, 0, pid)
        self._check("OpenProcess", process)
        try:
            self._check(
                "AssignProcessToJobObject",
                self._kernel32.AssignProcessToJobObject(
                    ctypes.c_void_p(self._handle), ctypes.c_void_p(process)
                ),
            )
        finally:
            self._kernel32.CloseHandle(ctypes.c_void_p(process))
        psutil.Process(pid).resume()

    def terminate(self) -> None:
        """Kill every process in the job."""
        if self._handle is not None:
            self._kernel32.TerminateJobObject(ctypes.c_void_p(self._handle), 1)

    def active_processes(self) -> int:
        """Count the processes in the job that have not ended."""
        accounting = BasicAccounting()
        self._check(
            "QueryInformationJobObject",
            self._kernel32.QueryInformationJobObject(
                ctypes.c_void_p(self._handle),
                _BASIC_ACCOUNTING_INFORMATION,
                ctypes.byref(accounting),
                ctypes.sizeof(accounting),
                None,
            ),
        )
        return int(accounting.active_processes)

    def close(self) -> None:
        """Close the handle; whatever is still in the job is killed."""
        if self._handle is not None:
            self._kernel32.CloseHandle(ctypes.c_void_p(self._handle))
            self._handle = None

    def _check(self, function: str, result: int | None) -> None:
        if not result:
            message = f"{function} failed with Windows error {self._kernel32.GetLastError()}"
            raise OSError(message)
