"""A transfer from the hub, carried out by a worker process that is told to go when its plan was judged."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sdmanager.errors import StorageError
from sdmanager.process import child_environment, spawn, this_interpreter
from sdmanager.threads import in_stoppable_thread

from ._hub_parts import TRIALS, clear_parts, clear_trials

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

    from sdmanager.settings import Settings

    from .catalog import CatalogFile

# The worker takes this very package, whatever else is installed under its name, and then what its interpreter has;
# last the search path of this process: what it imports need not be installed for its interpreter.
_LAUNCH: Final = (
    "import json, sys\n"
    "request = json.loads(sys.argv[1])\n"
    "sys.path += [place for place in request['python_path'] if place not in sys.path]\n"
    "sys.path.insert(0, request['root'])\n"
    "import sdmanager\n"
    "del sys.path[0]\n"
    "from sdmanager.models._hub_worker import main\n"
    "main(request)\n"
)
_LONGEST_LINE: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class FilePlan:
    """What the hub, or the cache, says of a file before anything is transferred.

    Attributes:
        size: Bytes; None where nobody says.
        etag: Of its content: a SHA-256 for large files.
        cached: Whether it is in the cache already.
        fetch: Whether it is to be transferred.
        asked: Whether the hub was asked.
        pointer: Where it is, or will be.
        blob: Where its content will be; None where that is not known.
    """

    size: int | None
    etag: str | None
    cached: bool
    fetch: bool
    asked: bool
    pointer: str
    blob: str | None


@dataclass(frozen=True, slots=True)
class Fetched:
    """A file that is in the cache, whole and with the digest that it should have.

    Attributes:
        path: Where.
        size: Bytes.
        sha256: Of its content, in hex.
        commit: Of its repository.
        fetched: Whether it was transferred now.
    """

    path: Path
    size: int
    sha256: str
    commit: str | None
    fetched: bool


class HubFaultError(Exception):
    """The worker failed; its facts are for ``fault_of``."""

    def __init__(self, facts: dict[str, Any]) -> None:
        super().__init__(facts["kind"])
        self.facts = facts


@dataclass(frozen=True, slots=True)
class Order:
    """What to fetch, and who is to be asked and told.

    Attributes:
        files: Of the catalogue, or as the user named them.
        force: Fetch what is in the cache, too.
        token: For the hub; None: that of the environment, or of the login, if there is one.
        gate: A file that may be made: the worker waits for it.
        judge: Given the plans and the folder of the cache; the transfer begins when it has returned.
        on_bytes: Called with the bytes of each file that have come.
        on_again: Called with the number of a file that is fetched after all, as what was there is gone or damaged.
        trials: How the names of temporary folders of the worker begin.
    """

    files: Sequence[CatalogFile]
    force: bool
    token: str | None
    gate: Path
    judge: Callable[[Sequence[FilePlan], Path], Awaitable[None]]
    on_bytes: Callable[[Sequence[int]], None]
    on_again: Callable[[int], None]
    trials: str = field(default_factory=lambda: f"{TRIALS}{secrets.token_hex(4)}-")


async def fetch(order: Order, settings: Settings) -> list[Fetched]:
    """Fetch files into the cache of huggingface_hub.

    Returns:
        Of each file what is now there.

    Raises:
        HubFaultError: It failed.
        StorageError: The gate cannot be made.

    If cancelled, the worker is dead and its unfinished files are gone before CancelledError goes on.
    """
    transfer = _worker if this_interpreter() is not None else _thread
    plans: list[FilePlan] = []
    try:
        async with contextlib.aclosing(transfer(order, settings)) as messages:
            async for message in messages:
                match message.get("event"):
                    case "planned":
                        plans += [
                            FilePlan(**{name: plan[name] for name in _PLAN}) for plan in message["plans"]
                        ]
                        await order.judge(plans, Path(message["cache"]))
                        order.gate.touch()
                    case "bytes":
                        order.on_bytes(message["done"])
                    case "again":
                        order.on_again(message["file"])
                    case "fetched":
                        return [Fetched(**{**file, "path": Path(file["path"])}) for file in message["files"]]
                    case "error":
                        raise HubFaultError(message)
                    case _:
                        pass
    except OSError as exc:
        if isinstance(exc, StorageError):
            raise
        raise HubFaultError({"kind": "worker", "cause": type(exc).__name__}) from exc
    finally:
        for plan in plans:  # of a worker that was killed, and could not clean up
            if plan.blob is not None:
                clear_trials(Path(plan.blob), order.trials)
                if plan.fetch:
                    clear_parts(Path(plan.blob), older=0.0)
        with contextlib.suppress(OSError):
            order.gate.unlink(missing_ok=True)
    raise HubFaultError({"kind": "worker"})


_PLAN: Final = tuple(FilePlan.__dataclass_fields__)


def _request(order: Order) -> dict[str, Any]:
    files = [
        {
            "repo": file.repo,
            "path": file.path,
            "revision": file.revision,
            "size": file.size,
            "sha256": file.sha256,
            "force": order.force,
        }
        for file in order.files
    ]
    return {
        "files": files,
        "gate": str(order.gate),
        "token": True if order.token else None,
        "trials": order.trials,
    }


async def _worker(order: Order, settings: Settings) -> AsyncGenerator[dict[str, Any]]:
    """What a worker process says, until it has ended."""
    messages: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
    lines = _Lines(messages.put_nowait)
    root = str(Path(__file__).parents[2])
    request = {**_request(order), "root": root, "python_path": [place for place in sys.path if place]}
    argv: list[str | Path] = [this_interpreter() or "", "-P", "-c", _LAUNCH, json.dumps(request)]
    env = child_environment({"HF_TOKEN": order.token} if order.token else None)
    order.gate.unlink(missing_ok=True)
    async with spawn(
        argv,
        env=env,
        on_stdout=lines.feed,
        on_stderr=lambda _: None,  # of the library, and may hold signed addresses
        grace=settings.stop_grace,
        backstop=settings.pipe_backstop,
        guard=settings.guard,
    ) as child:
        ended = asyncio.ensure_future(child.wait())
        ended.add_done_callback(lambda _: messages.put_nowait(None))
        try:
            while (message := await messages.get()) is not None:
                yield message
        finally:
            ended.cancel()


async def _thread(order: Order, settings: Settings) -> AsyncGenerator[dict[str, Any]]:  # noqa: ARG001
    """The same in a thread, where there is no interpreter to run: cancelling waits for the next piece."""
    from ._hub_worker import Job

    loop = asyncio.get_running_loop()
    messages: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
    stop = threading.Event()

    def say(facts: dict[str, Any]) -> None:
        loop.call_soon_threadsafe(messages.put_nowait, facts)

    def may_go() -> None:
        while not order.gate.exists() and not stop.wait(0.005):
            pass

    job = Job(_request(order)["files"], say, may_go, stopped=stop.is_set, token=order.token)
    order.gate.unlink(missing_ok=True)
    work = asyncio.ensure_future(in_stoppable_thread(stop, job.run, leave=False))
    work.add_done_callback(lambda _: messages.put_nowait(None))
    try:
        while (message := await messages.get()) is not None:
            yield message
    finally:
        work.cancel()
        await asyncio.wait([work])


class _Lines:
    """JSON objects out of chunks of lines; anything else is passed over."""

    def __init__(self, deliver: Callable[[dict[str, Any]], None]) -> None:
        self._deliver = deliver
        self._rest = b""

    def feed(self, chunk: bytes) -> None:
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        self._rest = self._rest[:_LONGEST_LINE]
        for line in lines:
            with contextlib.suppress(ValueError):
                message = json.loads(line)
                if isinstance(message, dict):
                    self._deliver(message)
