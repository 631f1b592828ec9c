"""The tree of commands, and how errors and signals become exit codes."""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import os
import signal
import sys
from typing import TYPE_CHECKING, Final

from sdmanager import __version__
from sdmanager.errors import SDManagerError

from . import aside, calibrate, doctor, engine, generate, models, serve
from .output import report_error

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Sequence
    from types import FrameType

EXIT_INTERRUPTED: Final = 130


def build_parser() -> argparse.ArgumentParser:
    """All commands with their options."""
    parser = argparse.ArgumentParser(
        prog="sdmanager",
        description="Pictures from stable-diffusion.cpp on this machine: with progress, previews and clean "
        "cancellation.",
        epilog="Environment: SDMANAGER_ENGINE=/path/to/sd-cli uses your own engine, SDMANAGER_VARIANT=cpu only engines "
        "of this variant; SDMANAGER_HOME=/folder keeps engines, models and what was learned there; "
        "SDMANAGER_LORAS=/folder is where LoRAs are taken from; "
        "SDMANAGER_MIRROR=https://… stands in the place of the host of release archives; HTTPS_PROXY is honoured.",
    )
    parser.add_argument("--version", action="version", version=f"sdmanager {__version__}")
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND", required=True)
    generate.add_parser(commands)
    calibrate.add_parser(commands)
    serve.add_parser(commands)
    models.add_parser(commands)
    engine.add_parser(commands)
    aside.add_parser(commands)
    doctor.add_parser(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Ctrl-C, SIGTERM and SIGHUP end it cleanly; a second Ctrl-C kills at once, and the engine dies with it.

    Returns:
        0, the error's own exit code, 2 for wrong usage, 128 and the number of the signal that ended it: 130 after
        Ctrl-C, 143 after SIGTERM. A server that was ready when the signal came returns 0.
    """
    _prepare_streams()
    args = build_parser().parse_args(argv)
    try:
        return _run(args.run(args))
    except KeyboardInterrupt:  # before the command had begun
        return _interrupted()
    except SDManagerError as exc:
        report_error(exc, as_json=getattr(args, "json", False))
        return exc.exit_code


def _prepare_streams() -> None:
    # A socket must not get the number of a stream that a parent closed.
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    # None where a parent closed them (cron, pythonw): print() would then take the other one, or fail.
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a file name may hold what the terminal cannot show
            stream.reconfigure(errors="backslashreplace")


def _run(command: Coroutine[object, object, int]) -> int:
    """Run a command so that a signal cancels it."""
    import asyncio  # here, so that --help and --version need not wait for it

    asked: list[int] = []
    cancel: Callable[[], object] | None = None

    async def guarded() -> int:
        nonlocal cancel
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None  # noqa: S101 - this is one

        def cancel_once() -> None:
            if not task.cancelling():
                task.cancel()

        cancel = functools.partial(loop.call_soon_threadsafe, cancel_once)
        if asked:
            cancel()
        return await command

    def on_signal(number: int, _: FrameType | None) -> None:
        if not asked:
            asked.append(number)
            if cancel is not None:
                cancel()
        elif number == signal.SIGINT:
            # Only a person presses Ctrl-C twice; shells and supervisors send the others twice as a matter of course.
            os._exit(EXIT_INTERRUPTED)

    with _handling(on_signal):  # before asyncio.run(), which would take SIGINT itself
        try:
            return asyncio.run(guarded())
        except asyncio.CancelledError:
            return 128 + asked[0] if asked and asked[0] != signal.SIGINT else _interrupted()


@contextlib.contextmanager
def _handling(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Take the signals that end a command, but not those that a parent has switched off, as nohup does."""
    before = {}
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            with contextlib.suppress(ValueError):  # not the main thread
                before[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


def _interrupted() -> int:
    print("Cancelled.", file=sys.stderr)
    return EXIT_INTERRUPTED
