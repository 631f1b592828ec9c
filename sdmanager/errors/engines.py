"""What is wrong with an engine, or keeps it from being fetched or built."""

from __future__ import annotations

from typing import ClassVar

from .base import SDManagerError


class BinaryError(SDManagerError):
    """The engine binary is missing, broken or cannot be built."""

    code = "BINARY_ERROR"
    http_status = 503
    exit_code = 30
    default_hint: ClassVar[str | None] = (
        "Run 'sdmanager engine build' to build one, or set SDMANAGER_ENGINE to your own sd-cli."
    )


class EngineNotFoundError(BinaryError):
    """There is no engine where one was expected."""

    code = "ENGINE_NOT_FOUND"
    exit_code = 31
    default_hint = (
        "Run 'sdmanager engine install' to get the best that works here, or set SDMANAGER_ENGINE to your own "
        "sd-cli."
    )


class EngineNotRunnableError(BinaryError):
    """The engine's file is there but cannot be executed on this machine."""

    code = "ENGINE_NOT_RUNNABLE"
    exit_code = 32


class BuildToolsMissingError(BinaryError):
    """A tool that the build needs is missing or too old."""

    code = "BUILD_TOOLS_MISSING"
    exit_code = 33
    default_hint: ClassVar[str | None] = None


class BuildFailedError(BinaryError):
    """The build started and did not end well; the engine in use before is untouched."""

    code = "BUILD_FAILED"
    exit_code = 34
    default_hint: ClassVar[str | None] = None


class DownloadError(BinaryError):
    """An archive could not be fetched, or is not the one that is pinned; nothing of it was used."""

    code = "DOWNLOAD_FAILED"
    exit_code = 35
    default_hint = "Check the connection, then run the command again."


class NoDeviceError(BinaryError):
    """The engine for an accelerator found no device and drew on the CPU, or could not start its driver."""

    code = "ENGINE_NO_DEVICE"
    exit_code = 36
    default_hint = "Check the driver of the graphics card, then run 'sdmanager engine test --force'."


class NoEngineWorksError(BinaryError):
    """Every engine that could be tried on this machine was tried, and none draws."""

    code = "NO_ENGINE_WORKS"
    exit_code = 37
    default_hint = "Run 'sdmanager doctor' to see what was tried and why it failed."
