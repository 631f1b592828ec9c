"""The same application code, whether this machine draws or a service does."""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from inference_server import WAIT, Answer, Asked, InferenceServer, inference_server
from PIL import Image

from sdmanager.cloud import HuggingFaceGenerator
from sdmanager.engine import LocalGenerator
from sdmanager.errors import InvalidRequestError, SDManagerError
from sdmanager.generation import Cancelled, Completed, Event, Failed, ImageGenerator, ImageRequest
from sdmanager.settings import Settings

Make = Callable[[], ImageGenerator]


@pytest.fixture
def endpoint() -> Iterator[InferenceServer]:
    with inference_server() as server:
        yield server


@pytest.fixture(params=["local", "hosted"])
def make(request: pytest.FixtureRequest, settings: Settings, endpoint: InferenceServer) -> Make:
    if request.param == "local":
        return lambda: LocalGenerator("demo", settings=settings)
    return lambda: HuggingFaceGenerator(endpoint.endpoint)


async def application(generator: ImageGenerator, **fields: object) -> tuple[list[Event], list[Image.Image]]:
    """What an application does that does not know who draws."""
    events: list[Event] = []
    try:
        assert await generator.is_available()
        request = ImageRequest(prompt="a lighthouse", width=64, height=64, **fields)
        result = await generator.generate(request, events.append)
    finally:
        await generator.aclose()
    assert [image.seed for image in result.images] == [7 + index for index in range(request.count)]
    assert result.time_taken > 0
    assert result.model
    assert result.variant
    return events, [Image.open(io.BytesIO(image.png)) for image in result.images]


@pytest.mark.parametrize("fields", [{"steps": 2}, {"preset": "fast"}, {"steps": 1, "count": 2}], ids=str)
async def test_an_application_needs_not_know_who_draws(make: Make, fields: dict) -> None:
    events, pictures = await application(make(), seed=7, **fields)
    assert [picture.size for picture in pictures] == [(64, 64)] * fields.get("count", 1)
    assert [event.sequence for event in events] == list(range(len(events)))
    assert isinstance(events[-1], Completed)
    assert len({event.generation_id for event in events}) == 1
    assert not any(isinstance(event, Completed | Failed | Cancelled) for event in events[:-1])


async def test_a_bad_request_fails_the_same_way(make: Make) -> None:
    events: list[Event] = []
    with pytest.raises(InvalidRequestError):
        await make().generate(ImageRequest(prompt="x", sampler="no such sampler"), events.append)
    assert isinstance(events[-1], Failed)
    assert isinstance(events[-1].error, SDManagerError)


def test_one_generator_on_one_loop_after_the_other(make: Make) -> None:
    """As a script does that calls asyncio.run for each picture."""
    generator = make()

    async def two() -> list[bytes]:
        request = ImageRequest(prompt="x", width=64, height=64, steps=1, seed=7)
        results = await asyncio.gather(generator.generate(request), generator.generate(request))
        return [result.image.png for result in results]

    first, second = asyncio.run(two()), asyncio.run(two())
    assert first == second
    asyncio.run(generator.aclose())


def test_one_generator_on_several_loops_at_once(make: Make) -> None:
    """As threads do that each call asyncio.run."""
    generator = make()
    ready = threading.Barrier(3)

    async def draw() -> bytes:
        request = ImageRequest(prompt="x", width=64, height=64, steps=1, seed=7)
        results = await asyncio.gather(*(generator.generate(request) for _ in range(2)))
        return results[1].image.png

    def work() -> bytes:
        ready.wait(WAIT)
        return asyncio.run(draw())

    with ThreadPoolExecutor(3) as threads:
        drawn = [thread.result(WAIT) for thread in [threads.submit(work) for _ in range(3)]]
    assert len(set(drawn)) == 1


def until_gone(asked: Asked) -> Answer:
    asked.wait_until_gone()
    return Answer()


def test_closing_ends_what_runs_on_another_loop(make: Make, endpoint: InferenceServer) -> None:
    generator, begun, ends = make(), threading.Event(), []
    endpoint.on("/draw", until_gone)

    def work() -> None:
        request = ImageRequest(prompt="x", steps=1000)
        try:
            asyncio.run(generator.generate(request, lambda _: begun.set()))
        except asyncio.CancelledError:
            ends.append("cancelled")

    thread = threading.Thread(target=work)
    thread.start()
    assert begun.wait(WAIT)
    asyncio.run(generator.aclose())
    thread.join(WAIT)
    assert ends == ["cancelled"]


async def test_cancelling_works_the_same_way(make: Make) -> None:
    events: list[Event] = []
    begun = asyncio.Event()

    def on_event(event: Event) -> None:
        events.append(event)
        begun.set()

    drawing = asyncio.create_task(make().generate(ImageRequest(prompt="x", steps=1000), on_event))
    await begun.wait()
    drawing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await drawing
    assert isinstance(events[-1], Cancelled)
