"""The client against a real server of another process that draws with the real engine."""

from __future__ import annotations

import concurrent.futures
import io
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from PIL import Image
from processes import all_gone

from sdmanager.client import Client
from sdmanager.errors import (
    AlreadyTerminalError,
    GenerationCancelledError,
    GenerationNotFoundError,
    IdempotencyKeyError,
    InputImageError,
    InvalidRequestError,
    ModelNotFoundError,
    OutputError,
    ServerBusyError,
    ServerUnreachableError,
    UnauthorizedError,
)
from sdmanager.generation import Cancelled, Completed, ImageRequest, Preview, PreviewOptions, Progress, Queued
from sdmanager.jobs import Status

SHORT = {"width": 64, "height": 64, "steps": 2}
LONG = {"width": 512, "height": 512, "steps": 1000}


class StopError(Exception):
    """What a callback raises."""


def test_a_picture_is_drawn_watched_and_saved(server, tmp_path: Path) -> None:
    steps: list[Progress] = []
    previews: list[Preview] = []
    result = server.client.generate(
        "a lighthouse", seed=7, count=2, on_progress=steps.append, on_preview=previews.append, **SHORT
    )
    assert [image.seed for image in result.images] == [7, 8]
    assert (result.model, result.variant) == ("demo", "cpu")
    assert 0 < result.timings.diffusion <= result.time_taken
    assert result.previews is not None
    assert result.previews.count >= 1
    percentages = [event.percentage for event in steps]
    assert percentages == sorted(percentages)
    assert {event.total_images for event in steps} == {2}
    for event in previews:
        with Image.open(io.BytesIO(event.image.data)) as picture:
            assert picture.size == (event.image.width, event.image.height)
    with Image.open(result.image.save(tmp_path / "lighthouse.webp")) as picture:
        assert (picture.format, picture.size) == ("WEBP", (64, 64))


def test_it_draws_the_same_picture_as_this_process_does(server, settings) -> None:
    from sdmanager import generate_image

    here = generate_image("a lighthouse", settings=settings, seed=7, **SHORT)
    assert server.client.generate("a lighthouse", seed=7, **SHORT).image.to_pil().tobytes() == (
        here.image.to_pil().tobytes()
    )


def test_a_generation_is_followed_by_its_id(server) -> None:
    client = server.client
    taken = client.submit(ImageRequest(prompt="a cat", previews=PreviewOptions(), **SHORT))
    assert (taken.status, taken.result) == (Status.PENDING, None)
    events = list(client.events(taken.id))
    assert isinstance(events[-1], Completed)
    assert {event.generation_id for event in events} == {taken.id}
    assert [event.sequence for event in events] == list(range(len(events)))
    done = client.get(taken.id)
    assert done.status is Status.COMPLETE
    assert done.created_at == taken.created_at <= done.updated_at
    assert done.result == events[-1].result
    assert [type(event) for event in client.events(taken.id)] == [Completed]
    assert client.wait(taken.id) == done.result


def test_a_picture_is_downloaded_whole(server, tmp_path: Path) -> None:
    client = server.client
    taken = client.submit("a cat", count=2, **SHORT)
    result = client.wait(taken.id)
    assert client.download(taken.id) == result.images[0].png
    target = tmp_path / "second.png"
    assert client.download(taken.id, 1, path=target) == target.read_bytes() == result.images[1].png
    with pytest.raises(GenerationNotFoundError):
        client.download(taken.id, 2)
    with pytest.raises(InvalidRequestError, match="png file"):
        client.download(taken.id, path=tmp_path / "cat.jpg")
    with pytest.raises(OutputError, match="does not exist"):
        client.download(taken.id, path=tmp_path / "nowhere" / "cat.png")
    assert sorted(path.suffix for path in tmp_path.glob("*.p*")) == [".png"]


def test_input_images_go_along(server, tmp_path: Path) -> None:
    client = server.client
    first = client.generate("a cat", seed=1, **SHORT).image
    path = first.save(tmp_path / "cat.png")
    mask = Image.new("L", (64, 64), 255)
    mask.save(tmp_path / "mask.png")
    fields = {"strength": 0.5, "seed": 2, **SHORT}
    by_path = client.generate("a dog", init_image=path, **fields).image.png
    assert client.generate("a dog", init_image=first.png, **fields).image.png == by_path
    assert client.generate("a dog", init_image=path, mask_image=tmp_path / "mask.png", **fields).image.png
    with pytest.raises(InputImageError):
        client.submit("a dog", init_image=b"no picture", **fields)


def test_what_waits_says_its_place_and_what_is_cancelled_is_gone(server) -> None:
    client = server.client
    drawing, waiting = client.submit("a cat", **LONG), client.submit("a dog", **SHORT)
    assert client.get(waiting.id).position == 1
    first = next(client.events(waiting.id))
    assert isinstance(first, Queued)
    assert first.position == 1
    family = server.wait_until_drawing()
    assert client.health().busy
    assert client.cancel(waiting.id).status is Status.CANCELLED
    assert client.cancel(drawing.id).status is Status.CANCELLED
    assert client.cancel(drawing.id).status is Status.CANCELLED  # again and again
    assert all_gone(family)
    assert not client.health().busy
    assert [type(event) for event in client.events(drawing.id)] == [Cancelled]
    with pytest.raises(GenerationCancelledError):
        client.wait(drawing.id)


def test_errors_are_those_of_the_server(server) -> None:
    client = server.client
    for call in (
        client.get,
        client.cancel,
        client.wait,
        lambda name: next(client.events(name)),
        client.download,
    ):
        for name in ("nope", "a/../../b", "ü \udcff"):
            with pytest.raises(GenerationNotFoundError):
                call(name)
        for name in ("", ".", ".."):
            with pytest.raises(InvalidRequestError):
                call(name)
    done = client.submit("a cat", **SHORT)
    client.wait(done.id)
    with pytest.raises(AlreadyTerminalError):
        client.cancel(done.id)
    with pytest.raises(InvalidRequestError, match="sampler") as caught:
        client.submit("a cat", sampler="nonsense", **SHORT)
    assert caught.value.hint
    with pytest.raises(InvalidRequestError, match="width"):
        client.submit("a cat", width=7)
    with pytest.raises(ModelNotFoundError):
        client.submit(ImageRequest(prompt="a cat", model_id="nonsense"))


def test_a_busy_server_says_when_to_come_again(serve) -> None:
    server = serve()
    client = server.client
    drawing = client.submit("a cat", **LONG)
    with pytest.raises(ServerBusyError) as caught:
        client.generate("a dog", **SHORT)
    assert 1 <= caught.value.details["retry_after"] <= 120
    noise = io.BytesIO()  # a body that the server does not even read
    Image.frombytes("RGB", (1600, 1600), os.urandom(1600 * 1600 * 3)).save(noise, "PNG")
    with pytest.raises(ServerBusyError):
        client.submit("a dog", init_image=noise.getvalue())
    assert client.get(drawing.id).status in {
        Status.PENDING,
        Status.IN_PROGRESS,
    }  # refused, and nobody's else cancelled


def test_the_same_key_is_drawn_once(server) -> None:
    client = server.client
    first = client.submit("a cat", idempotency_key="my-key", **SHORT)
    assert client.submit("a cat", idempotency_key="my-key", **SHORT).id == first.id
    with pytest.raises(IdempotencyKeyError):
        client.submit("a dog", idempotency_key="my-key", **SHORT)
    assert client.submit("a cat", **SHORT).id != first.id
    for key in ("", "two words", "ü", "x" * 256, "a\nb"):
        with pytest.raises(InvalidRequestError):
            client.submit("a cat", idempotency_key=key, **SHORT)


@pytest.mark.parametrize("moment", [Progress, Preview, Completed])
def test_a_callback_that_raises_cancels_its_generation(server, moment: type) -> None:
    def stop(event) -> None:
        if isinstance(event, moment):
            raise StopError

    fields = SHORT if moment is Completed else LONG
    with pytest.raises(StopError):
        server.client.generate("a cat", on_event=stop, previews=PreviewOptions(stride=1), **fields)
    assert not server.client.health().busy
    assert server.family() == []


def test_leaving_the_loop_over_events_leaves_the_generation_alone(server) -> None:
    client = server.client
    taken = client.submit("a cat", **SHORT)
    for _ in client.events(taken.id):
        break
    with pytest.raises(StopError):
        client.wait(taken.id, on_event=lambda _: (_ for _ in ()).throw(StopError))
    assert client.wait(taken.id).image.width == 64


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_program_that_is_interrupted_leaves_nothing_drawing(server, environment, number) -> None:
    code = (
        "import signal, sys\n"
        "from sdmanager.client import Client\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\n"
        f"Client({server.client._transport.base_url!r}).generate('a cat', width=512, height=512, steps=1000)"
    )
    with subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.PIPE) as program:
        family = server.wait_until_drawing()
        program.send_signal(number)
        _, said = program.communicate(timeout=60)
    assert all_gone(family)
    assert not server.client.health().busy
    assert (program.returncode, b"KeyboardInterrupt" in said) in {(-signal.SIGINT, True), (143, False)}


def test_a_server_that_stops_ends_what_it_draws_with_a_proper_end(server) -> None:
    with pytest.raises(GenerationCancelledError):
        server.client.generate(
            "a cat", on_progress=lambda _: server.child.send_signal(signal.SIGTERM), **LONG
        )
    assert server.child.wait(60) == 0
    with pytest.raises(ServerUnreachableError, match="No server answers"):
        server.client.health()


def test_a_server_that_is_killed_is_unreachable(server, monkeypatch) -> None:
    monkeypatch.setattr("sdmanager.client._following.DELAYS", (0.01, 0.01))
    killed = threading.Event()

    def kill(_event) -> None:
        if not killed.is_set():
            killed.set()
            server.child.kill()
            server.child.wait()

    with pytest.raises(ServerUnreachableError):
        server.client.generate("a cat", on_progress=kill, **LONG)
    assert killed.is_set()


def test_threads_share_one_client(serve) -> None:
    client = serve("--queue", "8").client

    def draw(seed: int) -> bytes:
        result = client.generate("a cat", seed=seed, **SHORT)
        assert result.image.seed == seed
        return result.image.png

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        pictures = list(pool.map(draw, range(4)))
    assert len(set(pictures)) == 4


def test_what_the_server_is_and_has(server) -> None:
    client = server.client
    info = client.info()
    assert (info["status"], info["pid"], info["queueSize"]) == ("running", server.child.pid, 2)
    assert not client.health().busy
    (model,) = client.models()
    assert (model.id, model.current) == ("demo", True)
    client.use_model("demo")
    with pytest.raises(ModelNotFoundError):
        client.use_model("nonsense")


def test_the_token_opens_and_a_wrong_one_does_not(serve, tmp_path: Path) -> None:
    server = serve(token="the-token")
    url = server.client._transport.base_url
    assert server.client.generate("a cat", **SHORT).image.width == 64
    for token in (None, "another"):
        with Client(url, token=token) as client, pytest.raises(UnauthorizedError) as caught:
            client.health()
        assert "the client" in caught.value.hint
    assert "the-token" not in server.stderr.read_text()


def test_a_closed_client_may_be_used_again(server) -> None:
    with server.client as client:
        client.health()
    assert not client.health().busy


def test_the_gallery_is_listed_downloaded_and_deleted(serve, tmp_path: Path) -> None:
    client = serve("--gallery", str(tmp_path / "gallery")).client
    assert client.info()["gallery"] is True
    pictures = {
        prompt: client.generate(prompt, seed=3, **SHORT).image.png for prompt in ("a cat", "a red dog")
    }
    found = list(client.history())
    assert [image.request["prompt"] for image in found] == ["a red dog", "a cat"]
    (dog,) = client.history(search="red do", model="demo")
    assert (dog.is_complete, dog.seed, dog.width, dog.model, dog.variant) == (True, 3, 64, "demo", "cpu")
    assert dog.time_taken is not None
    assert 0 < dog.timings["diffusion"] <= dog.time_taken < 60
    assert client.download(dog) == pictures["a red dog"]
    client.download(dog, path=tmp_path / "dog.png")
    assert (tmp_path / "dog.png").read_bytes() == pictures["a red dog"]
    client.delete_history(dog.id)
    assert [image.request["prompt"] for image in client.history()] == ["a cat"]


def test_a_ready_file_that_a_killed_server_left_is_not_believed(serve, tmp_path: Path) -> None:
    server = serve()
    (path,) = tmp_path.glob("server-*.json")
    assert json.loads(path.read_text())["pid"] == server.child.pid
    server.end(signal.SIGKILL)
    assert path.exists()
    with pytest.raises(ServerUnreachableError, match="within 0"):
        Client.from_ready_file(path, wait=0.0)
    with pytest.raises(ServerUnreachableError, match="ended before"):
        Client.from_ready_file(path, while_running=lambda: False)
