"""``Client``."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Unpack

from sdmanager.errors import (
    GenerationCancelledError,
    ImageNotFoundError,
    InvalidRequestError,
    OutputError,
    SDManagerError,
    ServerError,
    ServerUnreachableError,
)
from sdmanager.files import expanded, write_whole
from sdmanager.generation import (
    Completed,
    Failed,
    callback_of,
    check_image_suffix,
    check_writable,
    request_of,
)

from ._asking import body_of, checked_key
from ._bodies import AcceptedBody, GalleryPageBody, GenerationBody, HealthBody, ModelListBody
from ._following import GENERATIONS, follow
from ._transport import Transport, never_sent, segment
from .facts import GalleryImage, Health
from .ready_file import wait_for_url

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Generator, Iterator
    from types import TracebackType
    from typing import Self

    from sdmanager.generation import (
        Event,
        EventCallback,
        GenerationResult,
        ImageRequest,
        Preview,
        Progress,
        RequestFields,
    )
    from sdmanager.jobs import Generation

    from .facts import ModelInfo

_HISTORY = "/v1/history"
_PAGE = 100


class Client:
    """A server of another process, spoken to over HTTP.

    ``submit``, ``get``, ``events`` and ``cancel`` are those of ``BlockingServerManager``, and ``generate`` is its
    ``generate_image``; requests, events, results and errors are of the same types.

    Each call waits for its answer. Any number of threads may use one client. A call whose connection breaks is made
    once more; nothing is drawn twice, because each request has a key of its own. Redirects are not followed, and for
    addresses of this machine proxies of the environment are not used.

    Also a context manager, which closes the connections; a client may be used again after that.

    Args:
        base_url: As the server prints it, such as ``http://127.0.0.1:8081``; a path in it stands before all others.
        token: What the server wants to be shown, or None.
        timeout: Seconds to connect, and of silence before an answer, at most a day; a stream of events has limits
            of its own.

    Raises:
        InvalidRequestError: The address, the token or the timeout cannot be used.

    All methods raise ``ServerUnreachableError`` where no server answers, ``ServerError`` where something else does,
    ``UnauthorizedError`` for a wrong token, and any other error as the server has it.
    """

    def __init__(self, base_url: str, *, token: str | None = None, timeout: float = 30.0) -> None:
        self._transport = Transport(base_url, token, timeout)

    @classmethod
    def from_ready_file(
        cls,
        path: str | os.PathLike[str],
        *,
        token: str | None = None,
        wait: float = 600.0,
        while_running: Callable[[], bool] = lambda: True,
        timeout: float = 30.0,
    ) -> Self:
        """A client of the server that was started with ``serve --ready-file``, once it answers.

        Args:
            path: Of that file; one that a killed server left is not believed.
            token: What the server wants to be shown, or None.
            wait: Seconds; the first start of all may build the engine, which takes minutes.
            while_running: Asked again and again; False ends the waiting, such as that of a child that has ended:
                ``lambda: child.poll() is None``.
            timeout: See ``Client``.

        Raises:
            ServerUnreachableError: No server became ready.
        """
        client = cls(wait_for_url(expanded(path), wait, while_running), token=token, timeout=timeout)
        client.health()
        return client

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections that are not in use."""
        self._transport.close()

    def health(self) -> Health:
        """That the server answers, and whether it draws."""
        return Health(self._transport.ask("GET", "/health", HealthBody.of).busy)

    def info(self) -> dict[str, Any]:
        """What ``GET /v1/info`` says of the server: ``model``, ``engine``, ``samplers``, …"""
        return self._transport.ask("GET", "/v1/info", dict)

    def models(self) -> list[ModelInfo]:
        """The models that the server can draw with."""
        return self._transport.ask("GET", "/v1/models", ModelListBody.of).to_models()

    def use_model(self, name: str) -> None:
        """Have requests that name no model drawn with this one from now on; what was accepted keeps its own.

        Raises:
            ModelError: There is none of this name that can be drawn with.
        """
        self._transport.ask("POST", "/v1/models/current", dict, value={"id": name})

    def submit(
        self,
        prompt: str | ImageRequest,
        *,
        idempotency_key: str | None = None,
        **fields: Unpack[RequestFields],
    ) -> Generation:
        """Have a picture drawn and return; ``get``, ``wait`` and ``events`` say what becomes of it.

        Args:
            prompt: What to draw, or a whole request.
            idempotency_key: A name for this request: the same again gives the same generation, once drawn. None: a
                new one.
            **fields: Fields of ``ImageRequest``, such as ``width=768``. Input images that are paths are read here.

        Returns:
            The generation as it was taken: ``id``, ``status``, ``created_at``.

        Raises:
            InvalidRequestError: The request does not fit the engine or the model, or a picture in it is unusable.
            ServerBusyError: There is no place; ``details["retry_after"]`` guesses the seconds until there is one.
            IdempotencyKeyError: The key was used with another request.
        """
        return self._submit(request_of(prompt, fields), checked_key(idempotency_key))

    def get(self, generation_id: str) -> Generation:
        """How a generation stands, with its pictures once it is complete.

        Raises:
            GenerationNotFoundError: There is none with this id, or it has expired.
        """
        path = f"{GENERATIONS}/{segment(generation_id)}"
        return self._transport.ask("GET", path, GenerationBody.of).to_generation()

    def events(self, generation_id: str) -> Generator[Event, None, None]:
        """The events of a generation, to its last; of one that has ended, the last alone.

        First comes how things stand. Times are seconds since this began; of the events of ``BlockingServerManager``
        there is no ``StageChanged``: ``Progress.stage`` says it. A connection that breaks is taken up again, where
        it broke as far as the server keeps that. Leaving the loop leaves the generation alone.

        Raises:
            GenerationNotFoundError: There is none with this id, or it has expired.
            ServerUnreachableError: The connection broke, and several attempts brought none.
            ServerBusyError: The server has too many connections, and had at every attempt.
        """
        return follow(self._transport, generation_id, lambda: self._result(generation_id))

    def wait(
        self,
        generation_id: str,
        *,
        on_progress: Callable[[Progress], None] | None = None,
        on_preview: Callable[[Preview], None] | None = None,
        on_event: EventCallback | None = None,
    ) -> GenerationResult:
        """Wait for a generation. Ctrl-C, and what a callback raises, end the waiting and leave the generation alone.

        Args:
            generation_id: Which.
            on_progress: Called in this thread with each ``Progress``.
            on_preview: Called with each ``Preview``; there are some where the request asked for them.
            on_event: Called with every event.

        Raises:
            GenerationCancelledError: It was cancelled.
            SDManagerError: As ``events``, or what the generation failed with.
        """
        return _outcome(self._last_event(generation_id, callback_of(on_progress, on_preview, on_event)))

    def generate(
        self,
        prompt: str | ImageRequest,
        *,
        on_progress: Callable[[Progress], None] | None = None,
        on_preview: Callable[[Preview], None] | None = None,
        on_event: EventCallback | None = None,
        **fields: Unpack[RequestFields],
    ) -> GenerationResult:
        """Have a picture drawn and wait for it.

        Ctrl-C, and what a callback raises, cancel the generation, and are raised from here once its engine is dead. A
        request that may have been taken, though no answer came, is cancelled, too, as far as the server can be reached:
        that takes up to two timeouts more.

        Args:
            prompt: What to draw, or a whole request.
            on_progress: Called in this thread with each ``Progress``.
            on_preview: Called with each ``Preview``; asks for previews where ``previews`` is not given.
            on_event: Called with every event.
            **fields: See ``submit``.

        Returns:
            The pictures, whose ``save`` writes them, and what was drawn (``request``), without input images; None where
            the server does not know that any more.

        Raises:
            ServerBusyError: There is no place; or as ``events``.
            GenerationCancelledError: Somebody else cancelled it.
            ServerUnreachableError: The server cannot be reached, or not any more.
            SDManagerError: As ``submit``, or what the generation failed with.
        """
        request = request_of(prompt, fields, with_previews=on_preview is not None)
        key, tell = checked_key(None), callback_of(on_progress, on_preview, on_event)
        generation_id: str | None = None
        try:
            generation_id = self._submit(request, key).id
            last = self._last_event(generation_id, tell)
        except BaseException as exc:
            self._give_up(generation_id, request, key, exc)
            raise
        return _outcome(last)

    def cancel(self, generation_id: str) -> Generation:
        """Cancel a generation; when this returns, its engine is dead. Idempotent.

        Raises:
            GenerationNotFoundError: There is none with this id.
            AlreadyTerminalError: It has ended, with its pictures or an error.
        """
        self._cancel(generation_id)
        return self.get(generation_id)

    def download(
        self, image: str | GalleryImage, n: int = 0, *, path: str | os.PathLike[str] | None = None
    ) -> bytes:
        """A picture as the server keeps it: a PNG, or the newest preview of a gallery's image that still forms.

        Args:
            image: Id of a generation, or an image of ``history``.
            n: Which picture of the generation, from 0.
            path: Where to write it, too; the file is there whole or not at all.

        Returns:
            The bytes of the file.

        Raises:
            GenerationNotFoundError: There is no such picture, or not yet, or not any more.
            ImageNotFoundError: Likewise, of the gallery.
            InvalidRequestError: The path does not end as a file of this format does; ``GeneratedImage.save`` converts.
                A gallery's image may have become whole, and so a PNG, since ``history`` told of it.
            OutputError: The file cannot be written.
        """
        target = None if path is None else expanded(path)
        wanted = None if target is None else check_image_suffix(target).lower()
        if target is not None:
            check_writable(target)
        if isinstance(image, GalleryImage):
            data, found = self._transport.fetch(f"{_HISTORY}/{segment(image.id)}/image")
        else:
            data, found = self._transport.fetch(f"{GENERATIONS}/{segment(image)}/images/{n:d}")
        if target is not None:
            if found != wanted:
                raise InvalidRequestError(f"The picture is a {found} file, and the path ends otherwise.")
            write_whole(target, data, error=OutputError)
        return data

    def history(self, *, search: str = "", model: str | None = None) -> Iterator[GalleryImage]:
        """The images of the server's gallery, newest first; asked for page by page, as the loop goes on.

        Args:
            search: Words that all stand in the prompt or the negative prompt; the last may be the start of one.
            model: Only of this model.

        Raises:
            GalleryOffError: The server keeps none.
        """
        asked: dict[str, str | bytes] = {"search": search.encode("utf-8", "replace"), "limit": str(_PAGE)}
        if model is not None:
            asked["model"] = model.encode("utf-8", "replace")
        while True:
            page = self._transport.ask("GET", _HISTORY, GalleryPageBody.of, params=asked)
            yield from page.to_images()
            if page.after is None or not page.images:
                return
            asked["after"] = page.after

    def delete_history(self, image_id: str) -> None:
        """Delete an image of the gallery, and its file.

        Raises:
            ImageNotFoundError: There is none with this id.
            GalleryOffError: The server keeps no gallery.
            SDManagerError: It still forms.
        """
        self._transport.delete(f"{_HISTORY}/{segment(image_id)}", gone=ImageNotFoundError)

    def _submit(self, request: ImageRequest, key: str) -> Generation:
        named = {"Idempotency-Key": key}
        body = self._transport.ask(
            "POST", GENERATIONS, AcceptedBody.of, value=body_of(request), headers=named
        )
        return body.to_generation()

    def _cancel(self, generation_id: str) -> None:
        self._transport.ask("DELETE", f"{GENERATIONS}/{segment(generation_id)}", dict)

    def _result(self, generation_id: str) -> GenerationResult:
        result = self.get(generation_id).result
        if result is None:
            raise self._transport.foreign("a generation that is complete without pictures")
        return result

    def _last_event(self, generation_id: str, tell: EventCallback) -> Event:
        last: Event | None = None
        with contextlib.closing(self.events(generation_id)) as events:
            for last in events:
                tell(last)
        if last is None:
            raise ServerError("The generation has no events.")
        return last

    def _give_up(
        self, generation_id: str | None, request: ImageRequest, key: str, reason: BaseException
    ) -> None:
        """Cancel what nobody waits for any more, as far as the server can be reached."""
        with contextlib.suppress(SDManagerError):
            if generation_id is None:
                lost = isinstance(reason, ServerUnreachableError) and not never_sent(reason)
                if isinstance(reason, SDManagerError) and not lost:
                    return  # it was refused, or never asked for
                # No answer was read: the same key gives the id of what the server may have taken.
                generation_id = self._submit(request, key).id
            self._cancel(generation_id)


def _outcome(last: Event) -> GenerationResult:
    match last:
        case Completed(result=result):
            return result
        case Failed(error=error):
            raise error
        case _:
            raise GenerationCancelledError("The generation was cancelled.")
