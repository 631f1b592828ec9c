"""Ollama: which models it has loaded, unloading them, loading them again."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from sdmanager.errors import InvalidRequestError, OffloadError, RestoreError

from ._asking import Answer, Asker, UnansweredError, checked_url, place_of, reachable_host, until
from ._offload_checks import checked_name, checked_seconds
from .offloadable import Holding

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .offloadable import State

logger = logging.getLogger("sdmanager.resources")

_PORT: Final = 11434
_FOREVER: Final = -1
# "For ever" is a date as far away as Go can count, in 292 years.
_FOREVER_SECONDS: Final = 10 * 365 * 86_400
# With less, a model could be gone again before it is seen; and what is loaded with N seconds keeps to them.
_KEEP_ALIVE_MIN: Final = 60
_CANNOT_GENERATE: Final = 400  # what a model for embeddings is answered with
_NO_SUCH_MODEL: Final = 404
_REFUSED: Final = (401, 403)
_HINT: Final = "See that Ollama runs and that 'ollama ps' answers; OLLAMA_HOST is where it is looked for."


@dataclass(frozen=True, slots=True)
class _Model:
    """One loaded model. `keep_alive` in seconds, _FOREVER, or None: whatever is Ollama's default."""

    name: str
    keep_alive: int | None
    context: int | None
    ram: int | None = None
    vram: int | None = None
    is_leaving: bool = False


class Ollama:
    """An Ollama on this machine.

    Its models are unloaded with the time that each still had to stay, and its context length, and loaded with both.
    A model that has been deleted meanwhile is not missed.

    Args:
        url: Where it answers, such as ``http://127.0.0.1:11434`` or ``127.0.0.1:11434``; None: what ``OLLAMA_HOST``
            says, else that one.
        name: By which it is known, also in the next run of the program; None: ``ollama`` at the usual address of this
            machine, else ``ollama at HOST:PORT``, so that models never come back in another one.
        timeout: Seconds for a question.
        unload_timeout: Seconds until models must be gone; one that is answering somebody first ends that.
        load_timeout: Seconds for loading one model.
        environ: Where ``OLLAMA_HOST`` is looked up; the process's own when None.
        now: The clock.

    Raises:
        InvalidRequestError: The URL or ``OLLAMA_HOST`` cannot be used.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        name: str | None = None,
        timeout: float = 5.0,
        unload_timeout: float = 30.0,
        load_timeout: float = 300.0,
        environ: Mapping[str, str] | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        env = os.environ if environ is None else environ
        self._asker = Asker(_url_of_variable(env) if url is None else _url_of(url))
        self._name = _name_at(self._asker.url) if name is None else checked_name(name)
        self._timeout = checked_seconds(timeout, "timeout")
        self._unload_timeout = checked_seconds(unload_timeout, "unload_timeout")
        self._load_timeout = checked_seconds(load_timeout, "load_timeout")
        self._now = now
        self._lock = asyncio.Lock()
        self._told_to_go: set[str] = set()

    @property
    def name(self) -> str:
        """By which it is known."""
        return self._name

    @property
    def url(self) -> str:
        """Where it is asked."""
        return self._asker.url

    def __repr__(self) -> str:
        return f"Ollama({self.url!r}, name={self._name!r})"

    async def holding(self) -> Holding | None:
        """The models that ``/api/ps`` lists; RAM is what of them is not in VRAM.

        Raises nothing but CancelledError.
        """
        try:
            models = await self._loaded()
        except UnansweredError as exc:
            logger.debug("%s %s", self._name, exc)
            return None
        if not models:
            return None
        kept = [
            {"name": each.name, "keep_alive": each.keep_alive, "context": each.context}
            for each in models.values()
        ]
        return Holding(
            ", ".join(models),
            _sum([each.ram for each in models.values()]),
            _sum([each.vram for each in models.values()]),
            {"models": kept},
        )

    async def put_aside(self, holding: Holding) -> None:
        """Unload these models and see that they are gone.

        Raises:
            OffloadError: One is still there after ``unload_timeout``, or Ollama does not answer.
        """
        async with self._lock:
            try:
                names = [model.name for model in _models_of(holding.state)]
                for name in names:
                    self._told_to_go.add(name)
                    answer = await self._request(name, {"keep_alive": 0}, self._timeout)
                    if not answer.ok and answer.status != _NO_SUCH_MODEL:
                        raise UnansweredError(answer.refusal)

                async def gone() -> bool:
                    return not set(names) & set(await self._loaded())

                if not await until(gone, self._unload_timeout):
                    raise UnansweredError(f"still has {holding.what} loaded after {self._unload_timeout:g} s")
                self._told_to_go.clear()
            except UnansweredError as exc:
                raise OffloadError(
                    f"Models could not be unloaded: {self._name} {exc}.",
                    hint=_HINT,
                    details={"name": self._name},
                ) from exc
            except ValueError as exc:
                raise OffloadError(f"It is not known what {self._name} holds: {exc}.") from exc

    async def restore(self, state: State) -> None:
        """Load what is not loaded, unless the user has loaded something else meanwhile.

        Raises:
            RestoreError: Ollama does not answer, or does not load it.
        """
        async with self._lock:
            try:
                await self._restore(_models_of(state))
            except UnansweredError as exc:
                raise RestoreError(
                    f"Models could not be loaded again: {self._name} {exc}.",
                    hint=_HINT,
                    details={"name": self._name},
                ) from exc
            except ValueError as exc:
                raise RestoreError(
                    f"It is not known what {self._name} had loaded: {exc}.",
                    hint="Load it by hand, and clear the saved state.",
                ) from exc

    async def _restore(self, wanted: list[_Model]) -> None:
        names = {model.name for model in wanted}
        loaded = await self._loaded()
        for model in wanted:
            if others := sorted(set(loaded) - names):
                logger.info("%s has %s loaded by now, which stays", self._name, ", ".join(others))
                break
            listed = loaded.get(model.name)
            # One that was told to go is listed until it has answered whoever it is talking to, with a time that is
            # over; loading it makes it stay.
            if listed is not None and not listed.is_leaving and model.name not in self._told_to_go:
                continue
            if await self._load(model):
                loaded = await self._loaded()
                if model.name not in loaded:
                    raise UnansweredError(f"does not list {model.name}, which it says that it has loaded")
            self._told_to_go.discard(model.name)
        self._told_to_go.clear()

    async def _load(self, model: _Model) -> bool:
        """Load one; False: there is no such model any more."""
        options: dict[str, object] = {}
        if model.keep_alive is not None:
            options["keep_alive"] = model.keep_alive
        if model.context is not None:
            options["options"] = {"num_ctx": model.context}
        answer = await self._request(model.name, options, self._load_timeout)
        if answer.status == _NO_SUCH_MODEL:
            logger.warning("%s has no model %s any more, so it is not loaded again", self._name, model.name)
            return False
        if not answer.ok:
            raise UnansweredError(answer.refusal)
        return True

    async def _request(self, name: str, options: dict[str, object], seconds: float) -> Answer:
        """A request without a prompt: the documented way to load and to unload."""
        answer = await self._asker.ask(
            "POST", "/api/generate", {"model": name, "stream": False, **options}, seconds=seconds
        )
        if answer.status == _CANNOT_GENERATE:
            answer = await self._asker.ask(
                "POST", "/api/embed", {"model": name, "input": [], **options}, seconds=seconds
            )
        return answer

    async def _loaded(self) -> dict[str, _Model]:
        answer = await self._asker.ask("GET", "/api/ps", seconds=self._timeout)
        listed = answer.body.get("models") if isinstance(answer.body, dict) else None
        if answer.status in _REFUSED:
            raise UnansweredError(f"wants to be shown a key ({answer.status})")
        if not answer.ok:
            raise UnansweredError(answer.refusal)
        if listed is None and isinstance(answer.body, dict) and "models" in answer.body:
            return {}  # an empty list of Go's
        if not isinstance(listed, list):
            raise UnansweredError("does not answer as Ollama does")
        models = [model for each in listed if (model := self._model_of(each)) is not None]
        return {model.name: model for model in models}

    def _model_of(self, entry: object) -> _Model | None:
        if not isinstance(entry, dict):
            return None
        name = entry.get("name") or entry.get("model")
        if not isinstance(name, str) or not name:
            return None
        size, vram = _count(entry.get("size")), _count(entry.get("size_vram", 0))
        ram = None if size is None or vram is None else max(size - vram, 0)
        left = self._left(entry.get("expires_at"))
        context = _count(entry.get("context_length")) or None
        return _Model(name, _keep_alive_of(left), context, ram, vram, left is not None and left <= 0)

    def _left(self, expires_at: object) -> float | None:
        """Seconds that a model still has to stay; None where that is not said."""
        try:
            end = datetime.fromisoformat(str(expires_at))
            return (end - self._now()).total_seconds() if end.year > 1 else None  # the zero of Go's dates
        except (ValueError, TypeError, OverflowError):
            return None


def _keep_alive_of(seconds: float | None) -> int | None:
    if seconds is None or seconds <= 0:
        return None
    return _FOREVER if seconds > _FOREVER_SECONDS else max(math.ceil(seconds), _KEEP_ALIVE_MIN)


def _models_of(state: State) -> list[_Model]:
    """What is to be loaded.

    Raises:
        ValueError: That cannot be told.
    """
    listed = state.get("models")
    if not isinstance(listed, list) or not listed:
        raise ValueError("the state names no models")
    models = []
    for each in listed:
        name = each.get("name") if isinstance(each, dict) else None
        if not isinstance(name, str) or not name:
            raise ValueError("a model in the state has no name")
        kept = each.get("keep_alive")
        keep_alive = kept if kept == _FOREVER or _count(kept) else None
        models.append(_Model(name, keep_alive, _count(each.get("context")) or None))
    return models


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _sum(values: list[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


def _name_at(url: str) -> str:
    place = place_of(url)
    return "ollama" if place == f"127.0.0.1:{_PORT}" else f"ollama at {place}"


def _url_of(url: object) -> str:
    """The address that a caller gave; without a scheme it is read as ``OLLAMA_HOST`` is."""
    if isinstance(url, str) and url and not url.startswith("/") and "://" not in url:
        with contextlib.suppress(ValueError, InvalidRequestError):
            return _url_of_host(url)
    return checked_url(url, "Ollama", _PORT)


def _url_of_variable(environ: Mapping[str, str]) -> str:
    try:
        return _url_of_host(environ.get("OLLAMA_HOST", "").strip().strip("\"'").strip())
    except (ValueError, InvalidRequestError):
        raise InvalidRequestError(
            "The address in OLLAMA_HOST cannot be used.", hint=f"Write it like 127.0.0.1:{_PORT}."
        ) from None


def _url_of_host(text: str) -> str:
    """Where ``OLLAMA_HOST`` says that it is, which takes much that is no URL: ``0.0.0.0``, ``:11500``, ``host/path``.

    As Ollama's own ``envconfig`` reads it.

    Raises:
        ValueError: That is no address.
        InvalidRequestError: Likewise.
    """
    scheme, mark, rest = text.partition("://")
    if not mark:
        scheme, rest = "http", text
    standard = {"http": 80, "https": 443}.get(scheme, _PORT) if mark else _PORT
    place, slash, path = rest.partition("/")
    bare = place.count(":") > 1 and not place.startswith("[")  # an address of IPv6 alone
    parts = urlsplit(f"//[{place}]" if bare else f"//{place}")
    host, port = parts.hostname or "127.0.0.1", parts.port or standard
    if not text.isprintable() or any(character in place for character in "@?#"):
        raise ValueError("it has more in it than a host and a port")
    return checked_url(f"{scheme}://{reachable_host(host)}:{port}{slash}{path}", "Ollama", _PORT)
