"""``sdmanager serve``: the HTTP server, until it is told to stop."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from .aside import aside_now, tell_left_over
from .offloading import LogNotes, add_offload, offloading_of
from .options import UNSET, add_lora_dir, add_memory, add_model, choices_of, model_of, settings_of
from .output import note, say

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterator, Iterator

    from sdmanager.errors import SDManagerError
    from sdmanager.generation import Event
    from sdmanager.manager import DiffusionServerManager, StartFields
    from sdmanager.resources import OffloadingConfig

_LEVELS: Final = ("debug", "info", "warning", "error")  # those of the log book, which takes long to import
_TOKEN_BYTES: Final = 24
_GENERATE: Final = object()  # no text that a user could give

DEMO_NOTICE: Final = (
    "No model was given, so the pictures are noise from the model 'demo'. For real ones: "
    "sdmanager models pull sd-turbo, then add  -m sd-turbo"
)


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "serve",
        help="serve pictures over HTTP",
        description="Serves pictures over HTTP to programs on this machine, until Ctrl-C or SIGTERM, which cancel "
        "the work in hand and end the server cleanly, with exit status 0 once it had been ready. A second Ctrl-C "
        "kills at once. The first run fetches or builds the engine, once.",
        epilog="Environment: SDMANAGER_TOKEN is the token, if --token names none; unlike an argument, other users of "
        "the machine cannot see it. Examples:  sdmanager serve -m sd-turbo   |   sdmanager serve "
        "-m model.gguf --port auto --queue 8 --ready-file server.json",
    )
    parser.set_defaults(run=_serve)
    _add_server(parser)
    add_model(parser)
    add_memory(parser)
    add_offload(parser)


def _add_server(parser: argparse.ArgumentParser) -> None:
    server = parser.add_argument_group("server")
    server.add_argument(
        "--host", metavar="ADDRESS", default="127.0.0.1",
        help="to listen on; 127.0.0.1. Others than this machine need a token",
    )  # fmt: skip
    server.add_argument(
        "--port", metavar="PORT", type=_port, default=UNSET, help="8081; 'auto' takes a free one"
    )
    server.add_argument(
        "--queue", metavar="N", type=int, default=0,
        help="requests that may wait while one is drawn; 0: a busy server refuses",
    )  # fmt: skip
    server.add_argument(
        "--token", metavar="TOKEN", nargs="?", const=_GENERATE, default=None,
        help="what clients must show; without TOKEN: SDMANAGER_TOKEN, else a new one, which is printed",
    )  # fmt: skip
    server.add_argument(
        "--allow-origin", metavar="ORIGIN", action="append", default=[],
        help="web origin whose pages may use the server, such as http://localhost:3000; more than one may be given",
    )  # fmt: skip
    server.add_argument(
        "--allow-host", metavar="NAME", action="append", default=[],
        help="further name by which the server may be addressed; more than one may be given",
    )  # fmt: skip
    server.add_argument(
        "--log-level", choices=_LEVELS, default="info",
        help="on stderr and in the log file; info. Prompts and what the engine prints stand there at debug only",
    )  # fmt: skip
    server.add_argument(
        "--ready-file", metavar="FILE", type=Path, default=None,
        help="written once the server answers, as JSON {url, port, pid, version}, and removed when it stops",
    )  # fmt: skip
    server.add_argument(
        "--stop-with-stdin", action="store_true",
        help="end as with Ctrl-C when stdin ends: a server whose parent keeps a pipe to it ends with the parent",
    )  # fmt: skip
    server.add_argument(
        "--gallery", metavar="DIR", type=Path, default=None,
        help="folder in which everything that is drawn is kept, with its settings, and found again; off without it",
    )  # fmt: skip
    server.add_argument(
        "--open", action="store_true", help="open the server's page in the browser once it answers"
    )
    server.add_argument("--json", action="store_true", help="print one JSON object on stdout once it answers")
    add_lora_dir(server)


def _port(text: str) -> int | Literal["auto"]:
    if text == "auto":
        return "auto"
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor 'auto'") from None


async def _serve(args: argparse.Namespace) -> int:
    import asyncio

    from sdmanager.manager import DiffusionServerManager
    from sdmanager.threads import in_thread

    from .bars import EngineBar
    from .browser import open_page
    from .lifeline import cancel_with_stdin
    from .ready import ReadyFile

    if args.stop_with_stdin:
        cancel_with_stdin()
    token, is_new = _token(args.token)
    settings = settings_of(vars(args))
    model = await in_thread(model_of, vars(args))
    offloading = await in_thread(offloading_of, vars(args), settings)
    tell_left_over(await in_thread(aside_now, settings), [each.name for each in offloading.offloadables])
    bar = EngineBar(quiet=args.json)
    with _logs_on_stderr(args.log_level):
        async with (
            DiffusionServerManager(
                settings,
                offloadables=offloading.offloadables,
                threshold=offloading.threshold,
                linger=offloading.linger,
            ) as manager,
            # Ended before the manager: it would only bring back what is ended next.
            _started(offloading),
        ):
            with ReadyFile(args.ready_file) as ready:
                crash = _crash_of(manager)
                manager.on("binary-progress", bar.show)
                manager.on("generation", lambda event: _tell_end(event, _number(args.log_level)))
                try:
                    info = await manager.start(model, **_options(args, token))
                finally:
                    bar.close()
                if model is None and not args.json:
                    note(DEMO_NOTICE)
                facts: dict[str, object] = {
                    "url": info.url, "port": info.port, "pid": info.pid, "version": info.version,
                }  # fmt: skip
                ready.write(facts)
                _announce(facts, token if is_new else None, as_json=args.json)
                if args.open:
                    open_page(str(info.url), token)
                # Nobody but a signal cancels a command; for a server that runs, this is how it ends.
                with contextlib.suppress(asyncio.CancelledError):
                    raise await crash
            note("Stopping…")
    return 0


@contextlib.asynccontextmanager
async def _started(offloading: OffloadingConfig) -> AsyncIterator[None]:
    """The language-model servers that are children of this command, for as long as it runs."""
    from sdmanager.resources import LlamaServer

    async with contextlib.AsyncExitStack() as stack:
        for each in offloading.offloadables:
            if isinstance(each, LlamaServer):
                note(f"sdmanager: starting {each.name}")
                await stack.enter_async_context(each)
                note(f"sdmanager: {each.name} is ready at {each.url}")
        yield


def _token(given: object) -> tuple[str | None, bool]:
    """The token, and whether it was made here."""
    if isinstance(given, str):
        return given, False
    known = os.environ.get("SDMANAGER_TOKEN") or None
    if known is None and given is _GENERATE:
        import secrets

        return secrets.token_urlsafe(_TOKEN_BYTES), True
    return known, False


def _options(args: argparse.Namespace, token: str | None) -> StartFields:
    choices = choices_of(vars(args))
    options: StartFields = {
        "host": args.host,
        "queue": args.queue,
        "token": token,
        "allow_origin": args.allow_origin,
        "allow_host": args.allow_host,
        "log_level": args.log_level,
        "threads": vars(args).get("threads"),
        "offload_to_cpu": choices.offload_to_cpu,
        "clip_on_cpu": choices.clip_on_cpu,
        "vae_on_cpu": choices.vae_on_cpu,
        "vae_tiling": choices.vae_tiling,
        "stream_layers": choices.stream_layers,
        "diffusion_flash_attention": choices.diffusion_flash_attention,
        "vram_budget": choices.max_vram_gib,
        "ignore_fit": "ignore_fit" in args,
        "gallery": args.gallery,
    }
    if "port" in args:
        options["port"] = args.port
    return options


def _crash_of(manager: DiffusionServerManager) -> asyncio.Future[SDManagerError]:
    """Done once the server fails by itself."""
    import asyncio

    crash: asyncio.Future[SDManagerError] = asyncio.get_running_loop().create_future()

    def on_crash(error: SDManagerError) -> None:
        if not crash.done():
            crash.set_result(error)

    manager.on("crashed", on_crash)
    return crash


def _tell_end(event: Event, least: int) -> None:
    """A line on stderr for a generation that has ended, or begins anew; the log file has the manager's own."""
    from sdmanager.generation import Cancelled, Completed, Failed, Replanned

    level, reason = logging.INFO, ""
    match event:
        case Replanned():
            level, outcome, reason = logging.WARNING, "begins anew", f": {event.reason}"
        case Completed(result=result):
            outcome, reasons = "complete", " ".join(result.plan.reasons)
            reason = f": {reasons}" if reasons else ""
        case Cancelled():
            outcome = "cancelled"
        case Failed(error=error):
            level, outcome, reason = logging.WARNING, "failed", f": {error.message} ({error.code})"
        case _:
            return
    if level >= least:
        note(f"sdmanager: generation {event.generation_id} {outcome} after {event.elapsed:.1f} s{reason}")


def _announce(facts: dict[str, object], new_token: str | None, *, as_json: bool) -> None:
    """Say where the server is; the one place where a token that was made here can be read."""
    if as_json:
        say(json.dumps(facts if new_token is None else {**facts, "token": new_token}))
        return
    if new_token is not None:
        say(f"Token: {new_token}")
    say(f"sdmanager is ready at {facts['url']}")


def _number(level: str) -> int:
    return logging.getLevelNamesMapping()[level.upper()]


@contextlib.contextmanager
def _logs_on_stderr(level: str) -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger("sdmanager")
    handler = LogNotes(in_full=level == "debug")
    before = ours.level
    # The root's, so that libraries do not print in ways of their own.
    root.addHandler(handler)
    ours.setLevel(_number(level))
    try:
        yield
    finally:
        root.removeHandler(handler)
        ours.setLevel(before)
