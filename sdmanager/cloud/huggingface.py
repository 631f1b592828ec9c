"""``HuggingFaceGenerator``: pictures from a hosted service."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from typing import TYPE_CHECKING, Any

from sdmanager.errors import SDManagerError
from sdmanager.generation import (
    Cancelled,
    Completed,
    Failed,
    GenerationResult,
    MemoryPlan,
    RunningTasks,
    Stage,
    StageChanged,
    StageTimings,
    without_pictures,
)
from sdmanager.threads import in_thread

from ._asking import Target, check_request
from ._client import Client
from ._errors import timed_out
from ._options import header_value, seconds, steps
from ._pictures import encoded
from ._worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

    from sdmanager.generation import Event, EventCallback, ImageRequest


class HuggingFaceGenerator:
    """Draws with a model on a hosted service, through huggingface_hub's client for inference.

    Also an async context manager. Requests may run at the same time, also on several event loops in threads. There are
    no steps to be told of and no previews: a request for previews is drawn without. What the caller does not say is
    left to the service, whose own defaults suit the model; the picture may have another size than was asked for.

    Args:
        model: Name on the hub (``ORG/MODEL``), or the URL of an endpoint that takes text and gives a picture.
        provider: ``"auto"`` for the first of those that serve the model, or the name of one, such as ``"fal-ai"``;
            without effect for an endpoint.
        token: Of Hugging Face, or a provider's own key; None or empty: ``HF_TOKEN``, else that of ``hf auth login``,
            which goes to Hugging Face alone, and not to an endpoint elsewhere.
        timeout: Seconds for one picture, above 0.
        bill_to: Organisation to bill, of which the token's owner is a member.
        default_steps: Steps that the model usually takes, 1 to 1000, of which a preset other than ``default`` takes
            half or twice as many; None: 20.

    Raises:
        InvalidRequestError: The model is neither a name nor a URL, or something else is not what it should be.
    """

    def __init__(
        self,
        model: str,
        *,
        provider: str = "auto",
        token: str | None = None,
        timeout: float = 120.0,
        bill_to: str | None = None,
        default_steps: int | None = None,
    ) -> None:
        self._target = Target.of(model, provider)
        self._timeout = seconds(timeout)
        self._client = Client(
            self._target, header_value(token, "The token"), self._timeout, header_value(bill_to, "bill_to")
        )
        usual = steps(default_steps)
        self._defaults = {} if usual is None else {"steps": usual}
        self._running = RunningTasks()

    def __repr__(self) -> str:
        """Without the token."""
        return f"HuggingFaceGenerator({self._target.name!r}, provider={self._target.provider!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    @property
    def model(self) -> str:
        """The model's name; of an endpoint its URL, without what may be secret in it."""
        return self._target.name

    @property
    def service(self) -> str:
        """The provider's name, or ``endpoint``: the variant of the results."""
        return self._target.variant

    def check(self, request: ImageRequest) -> None:
        """See that a service can be asked for this, without asking; takes no time.

        Raises:
            InvalidRequestError: It asks for a mask, a LoRA, a sampler or ``clip_skip``, which services do not take, or
                for another model.
        """
        check_request(request, self._target)

    async def generate(
        self, request: ImageRequest, on_event: EventCallback | None = None
    ) -> GenerationResult:
        """Draw what the request asks for.

        Several pictures are asked for one after the other, with seeds that count up.

        Args:
            request: What to draw.
            on_event: Called on the event loop with the begin and the end; must not block. What it raises ends the
                generation and is raised from here.

        Raises:
            InvalidRequestError: Services do not take what is asked for, or this one refused it.
            InputImageError: The init image cannot be used.
            CloudUnauthorizedError: There is no token, or it is not accepted.
            CloudModelNotFoundError: The provider does not draw with the model.
            CloudQuotaError: Credits or rate are used up.
            CloudUnavailableError: The service cannot be reached, or is overloaded.
            CloudTimeoutError: A picture took longer than ``timeout``.
            CloudError: The service failed, or answered with no usable picture.

        Cancelling the task closes the connection and returns at once. What the service does with a request that it
        already has cannot be recalled; one that it is polled for (fal-ai's pictures from pictures, for example) may
        be polled by a thread in the background until it ends.
        """
        telling = _Telling(on_event)
        with self._running.current():
            try:
                result = await self._draw(request, telling)
            except asyncio.CancelledError:
                with contextlib.suppress(Exception):  # nothing may stand in the place of the cancellation
                    telling.tell(Cancelled)
                raise
            except SDManagerError as exc:
                if exc is not telling.raised:
                    telling.tell(Failed, error=exc)
                raise
            telling.tell(Completed, result=result)
            return result

    async def is_available(self) -> bool:
        """Whether there is a token, and the hub names the provider as one that draws with the model.

        Asks the hub, and not the provider; of an endpoint, nothing is asked and nothing but True is known.
        """
        if self._target.is_endpoint:
            return True
        async with Worker() as worker:
            try:
                async with asyncio.timeout(self._timeout):
                    return await worker.run(self._client.is_served())
            except Exception:  # noqa: BLE001 - whatever keeps it from being asked keeps it from drawing
                return False

    async def aclose(self) -> None:
        """Cancel what runs, on whatever event loop, and wait until it has ended; idempotent."""
        await self._running.cancel_others()

    async def _draw(self, request: ImageRequest, telling: _Telling) -> GenerationResult:
        check_request(request, self._target)
        request = request.with_defaults(**self._defaults).with_seed()
        picture = None
        if request.init_image is not None:
            picture = await in_thread(encoded, request.init_image)
        telling.tell(StageChanged, stage=Stage.DIFFUSION)
        began, images = time.monotonic(), []
        async with Worker() as worker:
            for index in range(request.count):
                try:
                    async with asyncio.timeout(self._timeout):
                        images.append(await worker.run(self._client.draw(request, index, picture)))
                except TimeoutError:
                    raise timed_out(self._target, self._timeout) from None
        return GenerationResult(
            images=tuple(images),
            time_taken=telling.elapsed,
            timings=StageTimings(diffusion=time.monotonic() - began),
            model=self._target.name,
            variant=self._target.variant,
            plan=MemoryPlan(),
            request=without_pictures(request),
        )


class _Telling:
    """Makes the events of one generation."""

    def __init__(self, on_event: EventCallback | None) -> None:
        self._on_event = on_event
        self._id = secrets.token_hex(12)
        self._began = time.monotonic()
        self._sequence = 0
        self.raised: BaseException | None = None

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self._began

    def tell(self, kind: Callable[..., Event], **fields: Any) -> None:
        """Call back, unless that has raised before."""
        if self._on_event is None or self.raised is not None:
            return
        event = kind(generation_id=self._id, sequence=self._sequence, elapsed=self.elapsed, **fields)
        self._sequence += 1
        try:
            self._on_event(event)
        except BaseException as exc:
            self.raised = exc
            raise
