"""Pictures from services, with the client of huggingface_hub and a server on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import threading
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.utils import _http
from inference_server import HUB, ROUTER, TOKEN, WAIT, Answer, Asked, InferenceServer, as_json, drawn
from PIL import Image

from sdmanager.cloud import HuggingFaceGenerator
from sdmanager.errors import CloudError, CloudTimeoutError, CloudUnauthorizedError, InputImageError
from sdmanager.generation import (
    Cancelled,
    Completed,
    ImageGenerator,
    ImageRequest,
    PreviewOptions,
    Stage,
    StageChanged,
)

# huggingface_hub 2.4 hands bytes to its HTTP client in a way that this calls old.
STARTING = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
REQUEST = ImageRequest(prompt="灯台, a lighthouse", seed=7)


def opened(data: bytes) -> Image.Image:
    picture = Image.open(io.BytesIO(data))
    picture.load()
    return picture


def encoded(picture: Image.Image, image_format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, image_format, **options)
    return buffer.getvalue()


def cloud_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("sdmanager-cloud")]


async def gone(threads: list[threading.Thread]) -> None:
    for thread in threads:
        await asyncio.to_thread(thread.join, WAIT)
        assert not thread.is_alive()


def test_it_keeps_to_the_protocol() -> None:
    generator = HuggingFaceGenerator("org/model", token=TOKEN)
    assert isinstance(generator, ImageGenerator)
    assert (generator.model, generator.service) == ("org/model", "auto")
    assert TOKEN not in repr(generator)


# --- asking


@pytest.mark.parametrize("provider", ["hf-inference", "together", "fal-ai", "replicate", "auto"])
async def test_a_picture_from_a_provider(service: InferenceServer, model: str, provider: str) -> None:
    if provider != "auto":
        service.providers = {"nscale": "text-to-image", provider: "text-to-image"}
    result = await HuggingFaceGenerator(model, provider=provider).generate(REQUEST)
    picture = opened(result.image.png)
    assert (picture.format, picture.size) == ("PNG", (96, 64))
    assert (result.image.width, result.image.height, result.image.seed) == (96, 64, 7)
    assert (result.model, result.variant) == (model, provider)
    assert 0 < result.timings.diffusion <= result.time_taken
    (asked,) = service.drawings()
    assert asked.host == ROUTER
    assert asked.headers["authorization"] == f"Bearer {TOKEN}"
    assert "灯台, a lighthouse" in json.dumps(asked.json, ensure_ascii=False)


async def test_a_providers_own_key(service: InferenceServer, model: str) -> None:
    await HuggingFaceGenerator(model, provider="together", token="its-own-key").generate(REQUEST)
    (asked,) = service.drawings()
    assert (asked.host, asked.headers["authorization"]) == ("api.together.xyz", "Bearer its-own-key")


async def test_somebody_else_pays(service: InferenceServer, model: str) -> None:
    await HuggingFaceGenerator(model, bill_to="my-org").generate(REQUEST)
    assert service.drawings()[0].headers["x-hf-bill-to"] == "my-org"


async def test_nothing_is_asked_but_what_was_said(service: InferenceServer) -> None:
    await HuggingFaceGenerator(service.endpoint).generate(REQUEST)
    (asked,) = service.drawings()
    assert asked.json == {"inputs": "灯台, a lighthouse", "parameters": {"seed": 7}}


async def test_everything_that_was_said_is_asked(service: InferenceServer) -> None:
    request = ImageRequest(
        prompt="x",
        negative_prompt="y",
        width=128,
        height=64,
        steps=4,
        cfg_scale=2.5,
        scheduler="karras",
        seed=-1,
    )
    result = await HuggingFaceGenerator(service.endpoint).generate(request)
    assert service.drawings()[0].json["parameters"] == {
        "negative_prompt": "y", "width": 128, "height": 64, "num_inference_steps": 4, "guidance_scale": 2.5,
        "scheduler": "karras", "seed": result.image.seed,
    }  # fmt: skip
    assert 0 <= result.image.seed < 2**32
    assert (result.image.width, result.image.height) == (128, 64)


@pytest.mark.parametrize(("steps", "asked"), [(None, 40), (4, 8)])
async def test_a_preset(service: InferenceServer, steps: int | None, asked: int) -> None:
    generator = HuggingFaceGenerator(service.endpoint, default_steps=steps)
    await generator.generate(ImageRequest(prompt="x", preset="high-quality"))
    await generator.generate(ImageRequest(prompt="x"))
    first, second = (drawing.json["parameters"] for drawing in service.drawings())
    assert first["num_inference_steps"] == asked
    assert "num_inference_steps" not in second


async def test_several_pictures_have_seeds_that_count_up(service: InferenceServer, model: str) -> None:
    result = await HuggingFaceGenerator(model).generate(REQUEST.model_copy(update={"count": 3}))
    assert [image.seed for image in result.images] == [7, 8, 9]
    assert [asked.json["seed"] for asked in service.drawings()] == [7, 8, 9]
    assert len({image.png for image in result.images}) == 3


async def test_the_same_seed_is_the_same_picture(service: InferenceServer, model: str) -> None:
    async with HuggingFaceGenerator(model) as generator:
        first, second = await asyncio.gather(generator.generate(REQUEST), generator.generate(REQUEST))
    assert first.image.png == second.image.png


async def test_two_that_begin_at_once_share_the_librarys_session(
    service: InferenceServer, model: str
) -> None:
    made: list[object] = []
    genuine = _http.default_client_factory

    def factory() -> Any:
        made.append(None)
        time.sleep(0.2)
        return genuine()

    huggingface_hub.set_client_factory(factory)
    try:
        generators = [HuggingFaceGenerator(model) for _ in range(2)]
        await asyncio.gather(*(generator.generate(REQUEST) for generator in generators))
    finally:
        huggingface_hub.set_client_factory(genuine)
    assert len(made) == 1


async def test_events_invent_nothing(service: InferenceServer) -> None:
    events: list = []
    request = REQUEST.model_copy(update={"previews": PreviewOptions(), "count": 2})
    result = await HuggingFaceGenerator(service.endpoint).generate(request, events.append)
    assert [type(event) for event in events] == [StageChanged, Completed]
    assert [event.sequence for event in events] == [0, 1]
    assert events[0].stage is Stage.DIFFUSION
    assert events[0].generation_id == events[1].generation_id
    assert events[0].elapsed <= events[1].elapsed
    assert events[1].result is result


async def test_what_a_callback_raises_ends_it(service: InferenceServer) -> None:
    def on_event(event: object) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await HuggingFaceGenerator(service.endpoint).generate(REQUEST, on_event)
    assert service.drawings() == []


# --- the token


async def test_the_users_own_token_goes_to_no_endpoint_elsewhere(service: InferenceServer) -> None:
    """The client would send it to any host that is named as a model."""
    await HuggingFaceGenerator(service.endpoint).generate(REQUEST)
    await HuggingFaceGenerator(service.endpoint, token="given").generate(REQUEST)
    first, second = service.drawings()
    assert "authorization" not in first.headers
    assert second.headers["authorization"] == "Bearer given"
    assert TOKEN not in repr(first.headers)


@pytest.mark.parametrize("token", ["", " ", "\n"])
async def test_an_empty_token_is_none(service: InferenceServer, model: str, token: str) -> None:
    """The client would take the user's own in its place, for any host."""
    await HuggingFaceGenerator(service.endpoint, token=token).generate(REQUEST)
    await HuggingFaceGenerator(model, token=token).generate(REQUEST)
    elsewhere, own = service.drawings()
    assert "authorization" not in elsewhere.headers
    assert TOKEN not in repr(elsewhere.headers)
    assert own.headers["authorization"] == f"Bearer {TOKEN}"


async def test_white_space_around_a_token_is_left_out(service: InferenceServer) -> None:
    await HuggingFaceGenerator(service.endpoint, token=" hf_abc\n", bill_to=" org\n").generate(REQUEST)
    (asked,) = service.drawings()
    assert asked.headers["authorization"] == "Bearer hf_abc"
    assert asked.headers["x-hf-bill-to"] == "org"


@pytest.mark.parametrize(
    "saved", ['"hf_quoted_secret"', "api_org_secret", "sk-secret", "hf_secretä", "hf_secret x"]
)
async def test_what_is_saved_goes_to_no_provider_unless_it_is_a_token_of_the_hub(
    service: InferenceServer, model: str, monkeypatch: pytest.MonkeyPatch, saved: str
) -> None:
    """The client would take it for the provider's own key, and send it there."""
    monkeypatch.setenv("HF_TOKEN", saved)
    for provider in ("auto", "together"):
        with pytest.raises(CloudUnauthorizedError, match="none of Hugging Face's") as caught:
            await HuggingFaceGenerator(model, provider=provider).generate(REQUEST)
        assert "secret" not in f"{caught.value.message} {caught.value.hint} {caught.value.details}"
        assert not await HuggingFaceGenerator(model, provider=provider).is_available()
    assert service.requests == []
    own_key = HuggingFaceGenerator(model, provider="together", token="sk-given")
    if saved.isascii():
        await own_key.generate(REQUEST)
        assert service.drawings()[0].headers["authorization"] == "Bearer sk-given"
        return
    with pytest.raises(
        CloudUnauthorizedError, match="none of Hugging Face's"
    ):  # the library asks the hub with it
        await own_key.generate(REQUEST)


# --- pictures


def kinds_of_picture() -> list:
    found = []
    for image_format in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"):
        for mode in ("RGB", "RGBA", "L", "P", "CMYK", "I;16", "1", "LA"):
            with contextlib.suppress(OSError, ValueError):  # there is no such file
                picture = Image.new("RGB", (33, 17), (200, 30, 30)).convert(mode)
                found.append(pytest.param(encoded(picture, image_format), id=f"{image_format}-{mode}"))
    return found


@pytest.mark.parametrize("data", kinds_of_picture())
async def test_every_kind_of_picture_becomes_a_png(service: InferenceServer, data: bytes) -> None:
    service.on("/draw", Answer(data, kind="image/whatever"))
    picture = opened((await HuggingFaceGenerator(service.endpoint).generate(REQUEST)).image.png)
    assert (picture.format, picture.size) == ("PNG", (33, 17))
    assert picture.mode in {"RGB", "RGBA", "L"}


GOOD = drawn(64, 64, 1)
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"
BROKEN = {
    "nothing": b"",
    "text": b"a cat",
    "json": b'{"error": "no"}',
    "cut": GOOD[: len(GOOD) // 2],
    "head": GOOD[:40],
    "flipped": GOOD[:200] + bytes([GOOD[200] ^ 255]) + GOOD[201:],
    "cut jpeg": drawn(64, 64, 1, "JPEG")[:600],
    "program": EPS,
    "large": encoded(Image.new("1", (9000, 9000))),
    "bomb": encoded(Image.new("1", (14000, 14000))),
}


@pytest.mark.parametrize("name", BROKEN)
async def test_a_broken_picture_is_an_error(service: InferenceServer, name: str) -> None:
    service.on("/draw", Answer(BROKEN[name], kind="image/png"))
    with pytest.raises(CloudError) as caught:
        await HuggingFaceGenerator(service.endpoint).generate(REQUEST)
    assert type(caught.value) is CloudError
    assert caught.value.hint


@pytest.mark.parametrize("image_format", ["EPS", "PPM"])
async def test_a_picture_in_a_format_that_is_not_taken(service: InferenceServer, image_format: str) -> None:
    """Pillow would run Ghostscript on the first."""
    service.on("/draw", Answer(encoded(Image.new("RGB", (8, 8)), image_format)))
    with pytest.raises(CloudError, match=f"format {image_format}, which is not taken"):
        await HuggingFaceGenerator(service.endpoint).generate(REQUEST)


async def answered(
    service: InferenceServer, picture: Image.Image, image_format: str, **options: object
) -> Image.Image:
    """What becomes of a picture that a service answers with."""
    service.on("/draw", Answer(encoded(picture, image_format, **options)))
    result = await HuggingFaceGenerator(service.endpoint).generate(REQUEST)
    drawn_picture = opened(result.image.png)
    assert drawn_picture.size == (result.image.width, result.image.height)
    return drawn_picture


@pytest.mark.parametrize(("image_format", "value"), [("PNG", 0x8000), ("TIFF", 0x8000), ("PNG", 200)])
async def test_sixteen_bits_of_an_answer_are_scaled(
    service: InferenceServer, image_format: str, value: int
) -> None:
    picture = await answered(service, Image.new("I;16", (16, 16), value), image_format)
    assert (picture.mode, picture.getpixel((3, 3))) == ("L", value // 257)


async def test_an_answer_keeps_its_alpha(service: InferenceServer) -> None:
    grey = await answered(service, Image.new("LA", (8, 8), (200, 30)), "PNG")
    assert (grey.mode, grey.getpixel((3, 3))) == ("RGBA", (200, 200, 200, 30))
    clear = await answered(service, Image.new("RGB", (8, 8)).quantize(4), "PNG", transparency=0)
    assert clear.getpixel((3, 3))[3] == 0


async def test_an_answer_is_turned_upright(service: InferenceServer) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = Image.new("RGB", (40, 30))
    picture.paste((255, 0, 0), (0, 0, 20, 30))
    turned = await answered(service, picture, "JPEG", exif=exif, quality=95)
    assert turned.size == (30, 40)
    assert turned.getpixel((15, 5))[0] > 200
    assert turned.getpixel((15, 35))[0] < 50
    assert not turned.getexif()


def profile(space: bytes) -> bytes:
    """As much of an ICC profile as says what it is for."""
    return (b"\0" * 16 + space + b"\0" * 200)[:132]


@pytest.mark.parametrize(
    ("mode", "space", "kept"),
    [
        ("RGB", b"RGB ", True),
        ("CMYK", b"CMYK", False),
        ("L", b"GRAY", True),
        ("RGB", b"GRAY", False),
        ("RGB", b"", False),
    ],
)
async def test_a_profile_is_kept_where_it_is_for_these_colours(
    service: InferenceServer, mode: str, space: bytes, kept: bool
) -> None:
    picture = await answered(service, Image.new(mode, (8, 8)), "JPEG", icc_profile=profile(space))
    assert picture.info.get("icc_profile") == (profile(space) if kept else None)


async def test_metadata_of_the_service_stay_out(service: InferenceServer) -> None:
    exif = Image.Exif()
    exif[0x010E] = "secret"
    service.on("/draw", Answer(encoded(Image.new("RGB", (8, 8)), "JPEG", exif=exif, comment=b"secret")))
    result = await HuggingFaceGenerator(service.endpoint).generate(REQUEST)
    assert b"secret" not in result.image.png


@STARTING
@pytest.mark.parametrize("provider", ["hf-inference", "replicate"])
async def test_a_picture_to_start_from(
    service: InferenceServer, model: str, tmp_path: Path, provider: str
) -> None:
    service.providers = {provider: "image-to-image"}
    start = tmp_path / "start.png"
    Image.new("RGBA", (40, 30), (0, 200, 0, 255)).save(start)
    for source in (start, start.read_bytes()):
        request = ImageRequest(prompt="x", init_image=source, seed=3, strength=0.5, width=128, height=64)
        result = await HuggingFaceGenerator(model, provider=provider).generate(request)
        assert result.image.seed == 3
    first, second = service.drawings()
    assert first.json == second.json
    told = json.dumps(first.json)
    assert "/9j/" in told  # a JPEG in base64
    assert '"strength": 0.5' in told
    assert '"target_size": {"width": 128, "height": 64}' in told.replace(
        '"height": 64, "width": 128', '"width": 128, "height": 64'
    )


@STARTING
async def test_half_a_size_is_not_filled_in(service: InferenceServer) -> None:
    await HuggingFaceGenerator(service.endpoint).generate(ImageRequest(prompt="x", width=128, seed=1))
    await HuggingFaceGenerator(service.endpoint).generate(
        ImageRequest(prompt="x", width=128, init_image=GOOD, seed=1)
    )
    first, second = (asked.json["parameters"] for asked in service.drawings())
    assert first == {"width": 128, "seed": 1}
    assert "512" not in json.dumps(second)
    assert "target_size" not in second


@STARTING
@pytest.mark.parametrize("orientation", [1, 6])
async def test_a_picture_to_start_from_is_turned_upright(service: InferenceServer, orientation: int) -> None:
    import base64

    exif = Image.Exif()
    exif[0x0112] = orientation
    start = encoded(Image.new("RGB", (40, 30), (0, 200, 0)), "JPEG", exif=exif)
    await HuggingFaceGenerator(service.endpoint).generate(ImageRequest(prompt="x", init_image=start, seed=1))
    sent = opened(base64.b64decode(service.drawings()[0].json["inputs"]))
    assert sent.size == ((30, 40) if orientation == 6 else (40, 30))
    assert sent.getpixel((9, 9))[1] > 150


@STARTING
async def test_sixteen_bits_are_scaled(service: InferenceServer) -> None:
    import base64

    start = encoded(Image.new("I;16", (16, 16), 0x8000))
    await HuggingFaceGenerator(service.endpoint).generate(ImageRequest(prompt="x", init_image=start, seed=1))
    sent = opened(base64.b64decode(service.drawings()[0].json["inputs"]))
    assert abs(sent.getpixel((8, 8))[0] - 128) < 4


@pytest.mark.parametrize("name", [*BROKEN, "no file", "folder"])
async def test_a_picture_to_start_from_that_cannot_be_used(
    service: InferenceServer, tmp_path: Path, name: str
) -> None:
    source = {"no file": tmp_path / "none.png", "folder": tmp_path}.get(name, BROKEN.get(name))
    with pytest.raises(InputImageError) as caught:
        await HuggingFaceGenerator(service.endpoint).generate(ImageRequest(prompt="x", init_image=source))
    assert caught.value.hint
    assert str(tmp_path) not in caught.value.message
    assert service.drawings() == []


# --- time


class Held:
    """A service that answers when it is told to, and notices when nobody waits any more."""

    def __init__(self, answer: Answer) -> None:
        self.asked, self.release, self.left = threading.Event(), threading.Event(), threading.Event()
        self._answer = answer

    def answer(self, asked: Asked) -> Answer:
        self.asked.set()
        assert self.release.wait(WAIT)
        return self._answer

    def until_gone(self, asked: Asked) -> Answer:
        self.asked.set()
        asked.wait_until_gone()
        self.left.set()
        return self._answer


async def soon(event: threading.Event) -> None:
    assert await asyncio.to_thread(event.wait, WAIT)


async def test_the_callers_loop_runs_while_the_library_blocks(service: InferenceServer, model: str) -> None:
    """The hub answers only after the loop has gone round: one that was blocked would never let it."""
    held = Held(as_json({"id": model, "inferenceProviderMapping": {
        "together": {"status": "live", "providerId": "x", "task": "text-to-image"}}}))  # fmt: skip
    service.on(f"{HUB}/api/models", held.answer)
    drawing = asyncio.create_task(HuggingFaceGenerator(model).generate(REQUEST))
    await soon(held.asked)
    for _ in range(3):
        await asyncio.sleep(0)
    held.release.set()
    assert (await drawing).image.width == 96


@pytest.mark.parametrize("where", ["endpoint", "router"])
async def test_cancelling_closes_the_connection(service: InferenceServer, model: str, where: str) -> None:
    held, events = Held(Answer(GOOD)), []
    service.on("/draw" if where == "endpoint" else ROUTER, held.until_gone)
    generator = HuggingFaceGenerator(service.endpoint if where == "endpoint" else model)
    drawing = asyncio.create_task(generator.generate(REQUEST.model_copy(update={"count": 3}), events.append))
    await soon(held.asked)
    drawing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await drawing
    await soon(held.left)
    assert [type(event) for event in events] == [StageChanged, Cancelled]
    assert len(service.drawings()) == 1
    await gone(cloud_threads())


async def test_cancelling_does_not_wait_for_a_library_that_blocks(
    service: InferenceServer, model: str
) -> None:
    """What blocks the thread is left behind; it asks for no picture when it goes on."""
    held = Held(as_json({"id": model, "inferenceProviderMapping": {
        "together": {"status": "live", "providerId": "x", "task": "text-to-image"}}}))  # fmt: skip
    service.on(f"{HUB}/api/models", held.answer)
    drawing = asyncio.create_task(HuggingFaceGenerator(model).generate(REQUEST))
    await soon(held.asked)
    threads = cloud_threads()
    assert threads
    drawing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await drawing
    held.release.set()
    await gone(threads)
    assert service.drawings() == []


@pytest.mark.parametrize("end", ["drawn", "cancelled"])
async def test_a_provider_that_is_polled(service: InferenceServer, model: str, end: str) -> None:
    service.providers = {"fal-ai": "image-to-image"}
    polled = threading.Event()

    def status(asked: Asked) -> Answer:
        polled.set()
        return as_json({"status": "COMPLETED" if service.is_drawn.is_set() else "IN_PROGRESS"})

    service.on("/status", status)
    generator = HuggingFaceGenerator(model, provider="fal-ai")
    drawing = asyncio.create_task(generator.generate(ImageRequest(prompt="x", init_image=GOOD, seed=1)))
    await soon(polled)
    threads = cloud_threads()
    if end == "drawn":
        service.is_drawn.set()
        assert (await drawing).image.width == 96
    else:
        drawing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await drawing
        service.is_drawn.set()  # until then it is polled, as is documented
    await gone(threads)


async def test_a_service_that_takes_too_long(service: InferenceServer) -> None:
    held = Held(Answer(GOOD))
    service.on("/draw", held.until_gone)
    with pytest.raises(CloudTimeoutError) as caught:
        await HuggingFaceGenerator(service.endpoint, timeout=0.2).generate(REQUEST)
    assert "0.2 s" in caught.value.message
    await soon(held.left)


async def test_a_hub_that_takes_too_long(service: InferenceServer, model: str) -> None:
    held = Held(as_json({"error": "late"}, 503))
    service.on(f"{HUB}/api/models", held.answer)
    with pytest.raises(CloudTimeoutError):
        await HuggingFaceGenerator(model, timeout=0.2).generate(REQUEST)
    threads = cloud_threads()
    held.release.set()
    await gone(threads)


async def test_closing_ends_what_runs(service: InferenceServer) -> None:
    held = Held(Answer(GOOD))
    service.on("/draw", held.until_gone)
    generator = HuggingFaceGenerator(service.endpoint)
    drawings = [asyncio.create_task(generator.generate(REQUEST)) for _ in range(3)]
    await soon(held.asked)
    await generator.aclose()
    assert all(
        isinstance(end, asyncio.CancelledError)
        for end in await asyncio.gather(*drawings, return_exceptions=True)
    )
    await generator.aclose()
    await soon(held.left)


async def test_one_that_hangs_keeps_no_other_waiting(service: InferenceServer, model: str) -> None:
    held = Held(as_json({"error": "late"}, 503))
    service.on(f"{HUB}/api/models/{model}-slow", held.answer)
    slow = asyncio.create_task(HuggingFaceGenerator(f"{model}-slow").generate(REQUEST))
    await soon(held.asked)
    assert (await HuggingFaceGenerator(model).generate(REQUEST)).image.width == 96
    held.release.set()
    with pytest.raises(CloudError):
        await slow


async def test_no_thread_stays(service: InferenceServer, model: str) -> None:
    await HuggingFaceGenerator(model).generate(REQUEST)
    await gone(cloud_threads())


def left_behind(work: Callable[[], Coroutine], until: threading.Event) -> None:
    """Begin a drawing on a loop that is closed under it."""
    loop = asyncio.new_event_loop()
    task = loop.create_task(work())
    loop.run_until_complete(asyncio.wait_for(asyncio.to_thread(until.wait, WAIT), WAIT))
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
    task._log_destroy_pending = False  # the complaint of asyncio, which is right


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("where", ["endpoint", "router"])
def test_a_loop_that_is_closed_under_a_drawing(service: InferenceServer, model: str, where: str) -> None:
    """The thread and the connection stayed for ever, and closing the generator raised."""
    held = Held(Answer(GOOD))
    service.on("/draw" if where == "endpoint" else ROUTER, held.until_gone)
    generator = HuggingFaceGenerator(service.endpoint if where == "endpoint" else model)
    left_behind(lambda: generator.generate(REQUEST), held.asked)
    asyncio.run(generator.aclose())
    asyncio.run(soon(held.left))
    asyncio.run(gone(cloud_threads()))
    service.on("", Answer(GOOD))
    assert asyncio.run(HuggingFaceGenerator(service.endpoint).generate(REQUEST)).image.width == 64


# --- is it there


async def test_available(service: InferenceServer, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def is_available(provider: str, **options: object) -> bool:
        return await HuggingFaceGenerator(model, provider=provider, **options).is_available()

    assert await is_available("auto")
    assert await is_available("together")
    assert not await is_available("fal-ai")
    service.providers = {"together": "text-generation"}
    assert not await is_available("auto")
    service.providers = {}
    assert not await is_available("auto")
    assert await HuggingFaceGenerator(service.endpoint).is_available()
    monkeypatch.delenv("HF_TOKEN")
    service.providers = {"together": "text-to-image"}
    assert not await is_available("together")
    assert await is_available("together", token="its-own-key")
    assert "authorization" not in service.requests[-1].headers
    service.on(f"{HUB}/api/models", as_json({}, 500))
    assert not await is_available("together", token="hf_x")
    assert service.drawings() == []


async def test_asking_whether_it_is_there_takes_no_longer_than_allowed(
    service: InferenceServer, model: str
) -> None:
    held = Held(as_json({}, 500))
    service.on(f"{HUB}/api/models", held.answer)
    assert not await HuggingFaceGenerator(model, timeout=0.2).is_available()
    held.release.set()
    await gone(cloud_threads())


@pytest.mark.slow
async def test_many_at_once(service: InferenceServer, model: str) -> None:
    generator = HuggingFaceGenerator(model)
    requests = [REQUEST.model_copy(update={"seed": seed}) for seed in range(100)]
    results = await asyncio.gather(*map(generator.generate, requests))
    assert [result.image.seed for result in results] == list(range(100))
    await gone(cloud_threads())
