"""A llama-server that is our own child: put aside by ending it, brought back by the same command."""

from __future__ import annotations

import asyncio
import logging
import os
import re
from typing import TYPE_CHECKING, Final, TypeAlias

from sdmanager.errors import (
    InvalidRequestError,
    OffloadError,
    RestoreError,
    SDManagerError,
    ServerNotRunningError,
)
from sdmanager.generation import LoopLocks
from sdmanager.settings import Settings
from sdmanager.threads import in_thread

from ._llama_asking import Health, asking
from ._llama_command import PREFIX_VARIABLE, read_command
from ._llama_life import LlamaLife
from ._offload_checks import checked_bytes, checked_name, checked_seconds
from ._resident import ram_held
from .offloadable import Holding, State

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from types import TracebackType
    from typing import Self

_log = logging.getLogger("sdmanager.resources")

_KEY_VARIABLE: Final = "LLAMA_API_KEY"
_LOADING_SECONDS: Final = 10.0  # how long who asks what it holds waits for a load to end
_MEASURE_SECONDS: Final = 5.0
_LEAVING_SECONDS: Final = 3.0  # for the child of a manager that was killed a moment ago
_STRANGER_SECONDS: Final = 1.0  # in which whoever listens in its place may answer
_NAMES_SHOWN: Final = 3

Measure: TypeAlias = "Callable[[int], Awaitable[tuple[int | None, int | None]]]"
"""Given a process id, what this process and its children hold of RAM and of VRAM, in bytes; None: unknown."""


class LlamaServer:
    """Runs a ``llama-server`` of llama.cpp, and makes room by ending it for a while.

    Also an async context manager, which starts and stops it. Nothing of it outlives this process. All methods belong to
    one event loop while it runs: start it in the one in which the manager was started, which else cannot put it aside.
    It implements ``Offloadable``.

    Args:
        command: The program and its arguments, such as ``["llama-server", "-m", "model.gguf"]``. ``--host`` and
            ``--port`` may be among them.
        name: By which it is known; another one for each of several. The same in the next run of the program.
        host: Name or address to listen on; None: what the command says, else 127.0.0.1.
        port: 1 to 65535; None: what the command says, else a free one, which stays the same.
        api_key: What its clients must show. It is handed over in the environment (``LLAMA_API_KEY``, which is also
            what None stands for) and appears in no argument list, log or file.
        env: More variables for its environment.
        settings: For its guard; from the environment when None.
        ready_timeout: Seconds until its model must be loaded.
        stop_grace: Seconds between asking it to end and killing it.
        vram_bytes: What it holds of VRAM; None: what ``measure`` finds, else unknown.
        ram_bytes: Likewise of RAM; None: what ``measure`` finds, else what its processes hold.
        measure: Asked with its process id, which may be that of the guard above it.

    Raises:
        InvalidRequestError: The command, host, port, name, key or a number cannot be used, or the environment has it
            speak TLS (``LLAMA_ARG_SSL_KEY_FILE``).
    """

    def __init__(
        self,
        command: Sequence[str | os.PathLike[str]],
        *,
        name: str = "llama-server",
        host: str | None = None,
        port: int | None = None,
        api_key: str | None = None,
        env: Mapping[str, str] | None = None,
        settings: Settings | None = None,
        ready_timeout: float = 120.0,
        stop_grace: float = 5.0,
        vram_bytes: int | None = None,
        ram_bytes: int | None = None,
        measure: Measure | None = None,
    ) -> None:
        self._env = dict(env or {})
        self._command = read_command(command, host, port, {**os.environ, **self._env})
        self._name = checked_name(name)
        key = api_key or self._env.get(_KEY_VARIABLE) or os.environ.get(_KEY_VARIABLE)
        self._key = _checked_key(key) if key else None
        self._vram_bytes = checked_bytes(vram_bytes, "vram_bytes")
        self._ram_bytes = checked_bytes(ram_bytes, "ram_bytes")
        self._measure = measure
        self._unwanted = False  # the user stopped it: nobody is to bring it back
        self._warned = False
        self._locks = LoopLocks()
        self._life = LlamaLife(
            self._name,
            self._command,
            self._environment(),
            self._key,
            settings or Settings.from_environment(),
            ready_timeout=checked_seconds(ready_timeout, "ready_timeout"),
            grace=checked_seconds(stop_grace, "stop_grace"),
        )

    def _environment(self) -> dict[str, str]:
        """What it gets beside ours, as it was read: nothing that is set later changes where it is asked."""
        env = dict(self._env)
        if self._key:
            env[_KEY_VARIABLE] = self._key
        if self._command.prefix:
            env[PREFIX_VARIABLE] = self._command.prefix
        return env

    def __repr__(self) -> str:
        port = self._life.port if self._life.port is not None else "any"
        state = "running" if self.running else "not running"
        return f"<LlamaServer {self._name!r} on {self._command.host} port {port}, {state}>"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def name(self) -> str:
        """By which it is known."""
        return self._name

    @property
    def url(self) -> str:
        """Where its clients find it, without a slash at the end; it stays the same from the first start on.

        Raises:
            ServerNotRunningError: It has no port yet: none was given, and it was never started.
        """
        if self._life.port is None:
            raise ServerNotRunningError(
                f"{self._name} has no port yet.", hint="Start it first, or give it a port."
            )
        return self._command.url(self._life.port)

    @property
    def running(self) -> bool:
        """Whether its process is there and its model was loaded."""
        return self._life.running

    @property
    def error(self) -> SDManagerError | None:
        """Why the last start failed, or what it ended with by itself; None: neither."""
        return self._life.error

    def logs(self, count: int = 100) -> list[str]:
        """The latest lines that it printed since it was last started, a thousand at most, oldest first."""
        return self._life.lines.last(count)

    async def start(self) -> None:
        """Start it and wait until its model is loaded; where it runs this returns, and a start in hand is joined.

        Raises:
            PortInUseError: Another program listens on its port.
            ServerError: There is no such program, it ended, or was not ready in time. What it said last is in the
                message. Nothing of it runs then.

        If the last of those who wait is cancelled, so is the start, and nothing of it runs.
        """
        self._life.stay_in_loop()
        self._unwanted = False
        await self._life.ensure(self._may_start)

    async def stop(self) -> None:
        """End it, also while it is starting; when this returns it and all that it started are dead. Idempotent.

        From then on nobody but ``start`` brings it back. If cancelled, stopping goes on.
        """
        self._life.stay_in_loop()
        self._unwanted = True
        await self._life.end()

    async def is_healthy(self) -> bool:
        """Whether it runs and says that it is well, within five seconds."""
        if not self.running:
            return False
        async with asking(self.url) as asker:
            return await asker.health() is Health.OK

    async def holding(self) -> Holding | None:
        """What it holds now; None: it does not run. A load in hand is waited for, ten seconds at most.

        RAM leaves out files that are mapped: their pages count as free memory already. With ``--mlock`` it does not.
        """
        if not self._life.is_of_this_loop():
            self._warn_of_loop()
            return None
        await self._life.wait_for_start(_LOADING_SECONDS)
        pid = self._life.pid
        if not self.running or pid is None:
            return None
        ram, vram = await self._memory(pid)
        models = await self._models()
        state: dict[str, object] = {"port": self._life.port, "arguments": self._command.digest}
        if models is not None:
            state["models"] = list(models)
        return Holding(_shown(models or ()) or self._name, ram, vram, state)

    def _may_start(self) -> bool:
        return not self._unwanted

    def _warn_of_loop(self) -> None:
        if self._life.is_of_another_loop() and not self._warned:
            self._warned = True
            _log.warning(
                "%s was started in another event loop than the manager's, so it cannot be put aside; start it in the "
                "same one",
                self._name,
            )

    async def put_aside(self, holding: Holding) -> None:  # noqa: ARG002 - all of it goes
        """End it; its memory is free when this returns.

        Raises:
            OffloadError: It was started in another event loop.

        If cancelled, ending it goes on.
        """
        try:
            await self._life.end()
        except SDManagerError as exc:
            raise OffloadError(f"{self._name} could not be stopped: {exc.message}", hint=exc.hint) from exc

    async def restore(self, state: State) -> None:
        """Start it with the same arguments and see that it is well and serves the models that it served.

        What runs is left alone, however often this is called. Nothing is started where the user stopped it, or where
        another program serves a model on its port meanwhile. With other arguments than those of ``state``, these count.

        Raises:
            RestoreError: It is not back, or serves something else.

        If cancelled, a start that nobody else waits for ends, too.
        """
        try:
            self._life.stay_in_loop()
            # Whoever comes second finds it running.
            async with self._locks.current():
                await self._restore(state)
        except SDManagerError as exc:
            if self._unwanted:  # whatever failed did so because it was stopped meanwhile
                self._tell_of_stop()
                return
            if isinstance(exc, RestoreError):
                raise
            raise RestoreError(
                f"{self._name} could not be brought back: {exc.message}", hint=exc.hint, details=exc.details
            ) from exc

    async def _restore(self, state: State) -> None:
        if self._unwanted:
            self._tell_of_stop()
            return
        if not self._life.is_wanted():
            self._take_up_port(state)
            # Where the user called start() meanwhile, that is what listens there.
            if await self._another_serves() and not self._life.is_wanted():
                _log.info("%s is not brought back: another program serves a model on its port", self._name)
                return
        await self._life.ensure(self._may_start)
        if not await self.is_healthy():
            raise RestoreError(f"{self._name} runs but does not answer.", hint="Stop and start it by hand.")
        await self._check_models(state)

    def _tell_of_stop(self) -> None:
        _log.info("%s was stopped by its user, so it is not brought back", self._name)

    def _take_up_port(self, state: State) -> None:
        """Where a free port is to be chosen: the one that clients knew before."""
        port = state.get("port")
        if self._life.port is None and type(port) is int and 0 < port < 1 << 16:
            self._life.port = port

    async def _another_serves(self) -> bool:
        """Whether a llama-server that is none of ours answers on the port.

        Raises:
            PortInUseError: Something else is there.
        """
        deadline = asyncio.get_running_loop().time() + _LEAVING_SECONDS
        answers = 0
        while await self._life.port_is_taken():
            async with asking(self.url, seconds=_STRANGER_SECONDS) as asker:
                answers += await asker.health() in (Health.OK, Health.LOADING)
            # The child of a manager that was killed may give one more answer before it goes, too.
            if answers > 1:
                return True
            if asyncio.get_running_loop().time() >= deadline:
                self._life.leave_port()
                return False
            await asyncio.sleep(0.2)
        return False

    async def _check_models(self, state: State) -> None:
        expected = state.get("models")
        if state.get("arguments") != self._command.digest or not isinstance(expected, list):
            return
        models = await self._models()
        if models is None:
            raise RestoreError(f"{self._name} runs but does not say which models it serves.")
        if missing := [name for name in expected if name not in models]:
            raise RestoreError(
                f"{self._name} runs but does not serve {_shown(missing)}, which it did before.",
                hint="See that the file of the model is still there.",
            )

    async def _models(self) -> tuple[str, ...] | None:
        async with asking(self.url, _shown_key(self._key)) as asker:
            return await asker.models()

    async def _memory(self, pid: int) -> tuple[int | None, int | None]:
        ram, vram = self._ram_bytes, self._vram_bytes
        if self._measure is not None and (ram is None or vram is None):
            try:
                async with asyncio.timeout(_MEASURE_SECONDS):
                    seen_ram, seen_vram = await self._measure(pid)
            except Exception:  # noqa: BLE001 - the callable is the caller's, and its failing only means "unknown"
                _log.debug("what %s holds could not be measured", self._name, exc_info=True)
            else:
                ram, vram = (seen_ram if ram is None else ram), (seen_vram if vram is None else vram)
        if ram is None:
            ram = await in_thread(ram_held, pid, locked=self._command.locked)
        return ram, vram


def _shown(models: Sequence[object]) -> str:
    """Names of models for people, without folders."""
    names = [re.split(r"[\\/]", str(model))[-1] for model in models]
    more = ", …" if len(names) > _NAMES_SHOWN else ""
    return ", ".join(names[:_NAMES_SHOWN]) + more


def _shown_key(keys: str | None) -> str | None:
    """The program takes several keys, parted by commas."""
    return keys.split(",")[0].strip() if keys else None


def _checked_key(key: str) -> str:
    if not key.isprintable():
        raise InvalidRequestError("The API key of a llama-server holds characters that cannot be sent.")
    return key
