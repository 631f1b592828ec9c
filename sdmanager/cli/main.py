"""The tree of commands, and how errors and signals become exit codes."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import signal
import sys
from typing import TYPE_CHECKING, Final

from sdmanager import __version__
from sdmanager.errors import SDManagerError

from . import doctor, engine, generate
from .output import report_error

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

EXIT_INTERRUPTED: Final = 130
EXIT_TERMINATED: Final = 143


def build_parser() -> argparse.ArgumentParser:
    """All commands with their options."""
    parser = argparse.ArgumentParser(
        prog="sdmanager",
        description="Pictures from stable-diffusion.cpp on this machine: with progress, previews and clean "
        "cancellation.",
        epilog="Environment: SDMANAGER_ENGINE=/path/to/sd-cli uses your own engine, SDMANAGER_VARIANT=cpu only engines "
        "of this variant; SDMANAGER_HOME=/folder keeps engines, models and what was learned there; "
        "SDMANAGER_MIRROR=https://… stands in the place of the host of release archives; HTTPS_PROXY is honoured.",
    )
    parser.add_argument("--version", action="version", version=f"sdmanager {__version__}")
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND", required=True)
    generate.add_parser(commands)
    engine.add_parser(commands)
    doctor.add_parser(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0, the error's own exit code, 2 for wrong usage, 130 after Ctrl-C, 143 after SIGTERM.
    """
    _prepare_streams()
    args = build_parser().parse_args(argv)
    try:
        return _run(args.run(args))
    except KeyboardInterrupt:
        print("Cancelled.", file=sys.stderr)
        return EXIT_INTERRUPTED
    except _TerminatedError:
        return EXIT_TERMINATED
    except SDManagerError as exc:
        report_error(exc, as_json=getattr(args, "json", False))
        return exc.exit_code


def _prepare_streams() -> None:
    # None where a parent closed them (cron, pythonw): print() would then take the other one, or fail.
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a file name may hold what the terminal cannot show
            stream.reconfigure(errors="backslashreplace")


class _TerminatedError(BaseException):
    """SIGTERM came."""


def _run(command: Coroutine[object, object, int]) -> int:
    """Run a command so that SIGTERM ends it as cleanly as Ctrl-C does."""
    import asyncio  # here, so that --help and --version need not wait for it

    terminated = False

    async def guarded() -> int:
        nonlocal terminated
        task = asyncio.current_task()

        def on_terminate() -> None:
            nonlocal terminated
            terminated = True
            if task is not None:
                task.cancel()

        with contextlib.suppress(NotImplementedError, RuntimeError):  # Windows; not the main thread
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, on_terminate)
        return await command

    try:
        return asyncio.run(guarded())
    except asyncio.CancelledError:
        if terminated:
            raise _TerminatedError from None
        raise KeyboardInterrupt from None
