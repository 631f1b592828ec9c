"""llama-swap: which models run behind it, stopping them, having them started again."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from sdmanager.errors import OffloadError, RestoreError

from ._asking import Answer, Asker, UnansweredError, checked_url, place_of, until
from ._offload_checks import checked_bytes, checked_name, checked_seconds
from .offloadable import Holding

if TYPE_CHECKING:
    from .offloadable import State

logger = logging.getLogger("sdmanager.resources")

_PORT: Final = 8080
_READY: Final = "ready"
_STARTING: Final = "starting"
_UP: Final = frozenset({_READY, _STARTING})
_LEAVING: Final = "stopping"
_NO_SUCH_MODEL: Final = (400, 404)  # older and newer releases
_NO_SUCH_ROUTE: Final = (404, 405, 501)
_REFUSED: Final = (401, 403)
_HINT: Final = "See that llama-swap runs and that its /running answers."
_KEY_HINT: Final = (
    "Give it one of the apiKeys of its configuration: api_key= in Python, api_key_env in a file."
)


class LlamaSwap:
    """A llama-swap on this machine.

    It does not say how much memory its models take, so that is given, or seen only once they are gone. What they
    are answering when they are put aside is broken off.

    Args:
        url: Where it answers.
        api_key: One of its ``apiKeys``, where it has any; never in a message, nor written down.
        name: By which it is known, also in the next run of the program; None: ``llama-swap at HOST:PORT``, so that
            models never come back in another one.
        vram_bytes: What its models take of VRAM; None: unknown.
        ram_bytes: Likewise of RAM.
        timeout: Seconds for a question.
        unload_timeout: Seconds until models must be gone.
        load_timeout: Seconds for starting one model.

    Raises:
        InvalidRequestError: The URL, the key or a number cannot be used.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        name: str | None = None,
        vram_bytes: int | None = None,
        ram_bytes: int | None = None,
        timeout: float = 5.0,
        unload_timeout: float = 30.0,
        load_timeout: float = 300.0,
    ) -> None:
        self._asker = Asker(checked_url(url, "llama-swap", _PORT), api_key)
        self._name = f"llama-swap at {place_of(self._asker.url)}" if name is None else checked_name(name)
        self._vram = checked_bytes(vram_bytes, "vram_bytes")
        self._ram = checked_bytes(ram_bytes, "ram_bytes")
        self._timeout = checked_seconds(timeout, "timeout")
        self._unload_timeout = checked_seconds(unload_timeout, "unload_timeout")
        self._load_timeout = checked_seconds(load_timeout, "load_timeout")
        self._lock = asyncio.Lock()

    @property
    def name(self) -> str:
        """By which it is known."""
        return self._name

    @property
    def url(self) -> str:
        """Where it is asked."""
        return self._asker.url

    def __repr__(self) -> str:
        return f"LlamaSwap({self.url!r}, name={self._name!r})"

    async def holding(self) -> Holding | None:
        """The models that ``/running`` lists as ready or starting.

        Raises nothing but CancelledError.
        """
        try:
            models = await self._running()
        except UnansweredError as exc:
            logger.debug("%s %s", self._name, exc)
            return None
        names = _up(models)
        if not names:
            return None
        return Holding(", ".join(names), self._ram, self._vram, {"models": names})

    async def put_aside(self, holding: Holding) -> None:
        """Stop these models and see that they are gone.

        Raises:
            OffloadError: One still runs after ``unload_timeout``, or llama-swap does not answer.
        """
        async with self._lock:
            try:
                await self._put_aside(_models_of(holding.state))
            except UnansweredError as exc:
                raise OffloadError(
                    f"Models could not be stopped: {self._name} {exc}.",
                    hint=_hint_of(exc),
                    details={"name": self._name},
                ) from exc
            except ValueError as exc:
                raise OffloadError(f"It is not known what {self._name} holds: {exc}.") from exc

    async def restore(self, state: State) -> None:
        """Have those started that do not run, unless the user has another one running meanwhile.

        Raises:
            RestoreError: llama-swap does not answer, or does not start it.
        """
        async with self._lock:
            try:
                await self._restore(_models_of(state))
            except UnansweredError as exc:
                raise RestoreError(
                    f"Models could not be started again: {self._name} {exc}.",
                    hint=_hint_of(exc),
                    details={"name": self._name},
                ) from exc
            except ValueError as exc:
                raise RestoreError(
                    f"It is not known what {self._name} had running: {exc}.",
                    hint="Start it by hand, and clear the saved state.",
                ) from exc

    async def _put_aside(self, names: list[str]) -> None:
        for name in names:
            answer = await self._ask(
                "POST", f"/api/models/unload/{quote(name, safe='/')}", self._unload_timeout
            )
            if answer.status in _NO_SUCH_ROUTE:
                await self._stop_all(names)
                break
            if not answer.ok:
                raise UnansweredError(answer.refusal)

        async def gone() -> bool:
            return not set(names) & set(await self._running())

        if not await until(gone, self._unload_timeout):
            raise UnansweredError(f"still has {', '.join(names)} running after {self._unload_timeout:g} s")

    async def _stop_all(self, names: list[str]) -> None:
        """Older releases can only stop all at once; they answer alike where the model is not in its file any more."""
        running = set(await self._running())
        if not running & set(names):
            return
        if others := sorted(running - set(names)):
            raise UnansweredError(f"cannot stop single models, and {', '.join(others)} runs by now")
        answer = await self._ask("GET", "/unload", self._unload_timeout)
        if not answer.ok:
            raise UnansweredError(answer.refusal)

    async def _restore(self, wanted: list[str]) -> None:
        async def settled() -> bool:
            states = await self._running()
            return not any(states.get(name) == _LEAVING for name in wanted)

        if not await until(settled, self._unload_timeout):
            raise UnansweredError(f"is still stopping models after {self._unload_timeout:g} s")
        for name in wanted:
            states = await self._running()
            if others := [each for each in _up(states) if each not in wanted]:
                logger.info("%s has %s running by now, which stays", self._name, ", ".join(others))
                return
            if states.get(name) == _STARTING:
                await self._wait_for(name)
            elif states.get(name) != _READY:
                await self._start(name)

    async def _wait_for(self, name: str) -> None:
        states: dict[str, str] = {}

        async def decided() -> bool:
            nonlocal states
            states = await self._running()
            return states.get(name) != _STARTING

        await until(decided, self._load_timeout)
        if states.get(name) != _READY:
            raise UnansweredError(f"does not bring {name} up")

    async def _start(self, name: str) -> None:
        """Ask the model itself something, through llama-swap, which starts it for that."""
        answer = await self._ask("GET", f"/upstream/{quote(name, safe='/')}/health", self._load_timeout)
        # The answer may be the model's own, which need not know the question: whether it runs is what counts.
        if name in _up(await self._running()):
            return
        if answer.status not in _NO_SUCH_MODEL:
            raise UnansweredError(f"does not run {name}: it {answer.refusal}")
        logger.warning("%s has no model %s any more, so it is not started again", self._name, name)

    async def _running(self) -> dict[str, str]:
        """State by model."""
        answer = await self._ask("GET", "/running", self._timeout)
        listed = answer.body.get("running") if isinstance(answer.body, dict) else None
        if not answer.ok:
            raise UnansweredError(answer.refusal)
        if not isinstance(listed, list):
            raise UnansweredError("does not answer as llama-swap does")
        found = [each for each in listed if isinstance(each, dict) and isinstance(each.get("model"), str)]
        states = {each["model"]: str(each.get("state", _READY)) for each in found}
        return {name: state for name, state in states.items() if state in _UP or state == _LEAVING}

    async def _ask(self, method: str, path: str, seconds: float) -> Answer:
        answer = await self._asker.ask(method, path, seconds=seconds)
        if answer.status in _REFUSED:
            raise _RefusedError(f"refuses the API key, or wants one ({answer.status})")
        return answer


class _RefusedError(UnansweredError):
    """It wants another key."""


def _hint_of(error: UnansweredError) -> str:
    return _KEY_HINT if isinstance(error, _RefusedError) else _HINT


def _up(models: dict[str, str]) -> list[str]:
    return [name for name, state in models.items() if state in _UP]


def _models_of(state: State) -> list[str]:
    """What is to run.

    Raises:
        ValueError: That cannot be told.
    """
    listed = state.get("models")
    if (
        not isinstance(listed, list)
        or not listed
        or not all(isinstance(name, str) and name for name in listed)
    ):
        raise ValueError("the state names no models")
    return list(listed)
