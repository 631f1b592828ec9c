"""One request through the real engine, and through a child that misbehaves."""

from __future__ import annotations

import asyncio
import io
import os
import random
import re
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from loras import write_lora
from PIL import Image
from processes import all_gone

from sdmanager import ImageRequest, LocalGenerator, PreviewOptions
from sdmanager.engine.png import png_texts
from sdmanager.errors import (
    BlankImageError,
    EngineCrashedError,
    EngineOutOfMemoryError,
    GenerationError,
    InputImageError,
    InvalidRequestError,
    ModelComponentMissingError,
    ModelCorruptError,
    ModelNotFoundError,
    NoImageError,
    SDManagerError,
    StorageError,
    TruncatedImageError,
)
from sdmanager.generation import (
    Cancelled,
    Completed,
    Event,
    Failed,
    Lora,
    Preview,
    Progress,
    Stage,
    StageChanged,
)
from sdmanager.models import ModelFiles, Role, demo_model
from sdmanager.settings import Settings

DEADLINE = 20.0


def request(**fields: object) -> ImageRequest:
    return ImageRequest(
        **{"prompt": "a lighthouse", "width": 64, "height": 64, "steps": 4, "seed": 7} | fields
    )


def leftovers(settings: Settings) -> list[Path]:
    return sorted(settings.jobs_dir.rglob("*")) if settings.jobs_dir.exists() else []


def children() -> list[str]:
    """Processes below this one that are still there, zombies included."""
    return [f"{p.pid} {p.name()}" for p in psutil.Process().children(recursive=True)]


async def test_prompt_becomes_a_whole_picture(settings: Settings) -> None:
    events: list[Event] = []
    result = await LocalGenerator(settings=settings).generate(request(), events.append)
    picture = result.image.to_pil()
    picture.load()
    assert (picture.size, picture.format) == ((64, 64), "PNG")
    assert (result.image.seed, result.model, result.variant) == (7, "demo", "cpu")
    assert "a lighthouse" in picture.info["parameters"]
    assert 0 < result.timings.diffusion < result.time_taken
    assert leftovers(settings) == []
    assert children() == []


async def test_events_tell_the_whole_story_in_order(settings: Settings) -> None:
    events: list[Event] = []
    result = await LocalGenerator(settings=settings).generate(request(count=2), events.append)
    assert [event.sequence for event in events] == list(range(len(events)))
    assert len({event.generation_id for event in events}) == 1
    assert [event.elapsed for event in events] == sorted(event.elapsed for event in events)
    stages = [event.stage for event in events if isinstance(event, StageChanged)]
    assert stages == [Stage.LOADING, Stage.DIFFUSION, Stage.DECODING]
    progress = [event for event in events if isinstance(event, Progress)]
    percentages = [event.percentage for event in progress]
    assert percentages == sorted(percentages)
    assert percentages[-1] == 100
    assert all(percentage < 100 for percentage in percentages[:-1])
    steps = [(e.image, e.step) for e in progress if e.stage is Stage.DIFFUSION and e.step]
    assert steps == [(image, step) for image in (1, 2) for step in (1, 2, 3, 4)]
    assert isinstance(events[-1], Completed)
    assert events[-1].result == result
    assert not [event for event in events if isinstance(event, Preview)]


async def test_seed_decides_the_picture(settings: Settings) -> None:
    generator = LocalGenerator(settings=settings)
    first, again, other = [
        (await generator.generate(request(seed=seed))).image.to_pil().tobytes() for seed in (1, 1, 2)
    ]
    assert first == again
    assert first != other


async def test_prompt_decides_the_picture(settings: Settings) -> None:
    generator = LocalGenerator(settings=settings)
    first, other = [
        (await generator.generate(request(prompt=prompt))).image.to_pil().tobytes()
        for prompt in ("a lighthouse", "-n %s 灯台 'quoted'\n\"second\" line")
    ]
    assert first != other


async def test_a_batch_is_one_process_with_consecutive_seeds(settings: Settings) -> None:
    seen = bytearray()
    generator = LocalGenerator(settings=settings, on_output=lambda _, data: seen.extend(data))
    result = await generator.generate(request(count=3, seed=5))
    assert [image.seed for image in result.images] == [5, 6, 7]
    assert len({image.png for image in result.images}) == 3
    assert bytes(seen).count(b"loading diffusion model from") == 1
    alone = await generator.generate(request(seed=6))
    assert alone.image.to_pil().tobytes() == result.images[1].to_pil().tobytes()


@pytest.mark.parametrize("seed", [None, -1])
async def test_a_seed_that_is_not_given_is_chosen_and_known(settings: Settings, seed: int | None) -> None:
    generator = LocalGenerator(settings=settings)
    result = await generator.generate(request(seed=seed))
    again = await generator.generate(request(seed=result.image.seed))
    assert again.image.to_pil().tobytes() == result.image.to_pil().tobytes()


async def test_a_size_that_the_model_cannot_do_exactly_is_still_what_was_asked_for(
    settings: Settings,
) -> None:
    result = await LocalGenerator(settings=settings).generate(request(width=72, height=104))
    assert result.image.to_pil().size == (72, 104)


@pytest.mark.parametrize("image_format", ["png", "jpeg", "webp"])
async def test_previews_are_whole_pictures_at_the_stride(settings: Settings, image_format: str) -> None:
    events: list[Event] = []
    options = PreviewOptions(method="proj", stride=10, format=image_format)
    await LocalGenerator(settings=settings).generate(
        request(width=256, height=256, steps=40, previews=options), events.append
    )
    previews = [event for event in events if isinstance(event, Preview)]
    assert 2 <= len(previews) <= 4
    for preview in previews:
        picture = Image.open(io.BytesIO(preview.image.data))
        picture.load()
        assert picture.size == (32, 32) == (preview.image.width, preview.image.height)
        assert picture.format.lower() == image_format == preview.image.format
    assert [preview.step for preview in previews] == sorted({preview.step for preview in previews})
    assert isinstance(events[-1], Completed)


async def test_tae_previews_have_the_size_of_the_picture_or_the_one_asked_for(settings: Settings) -> None:
    for max_size, expected in ((None, 128), (32, 32)):
        events: list[Event] = []
        options = PreviewOptions(method="tae", max_size=max_size, skip_first=1)
        await LocalGenerator(settings=settings).generate(
            request(width=128, height=128, previews=options), events.append
        )
        previews = [event for event in events if isinstance(event, Preview)]
        assert previews
        assert previews[0].step > 1
        assert {preview.image.width for preview in previews} == {expected}


async def test_previews_without_their_file_are_refused_before_anything_runs(settings: Settings) -> None:
    whole = ModelFiles("whole", {Role.MODEL: demo_model(settings).files[Role.DIFFUSION_MODEL]})
    with pytest.raises(InvalidRequestError, match="tiny autoencoder"):
        await LocalGenerator(whole, settings=settings).generate(
            request(previews=PreviewOptions(method="tae"))
        )


async def test_image_to_image_and_inpainting(settings: Settings, tmp_path: Path) -> None:
    start = tmp_path / "start.jpg"
    Image.effect_noise((300, 200), 90).convert("RGB").save(start)
    mask = io.BytesIO()
    Image.new("L", (50, 50), 255).save(mask, "PNG")
    generator = LocalGenerator(settings=settings)
    plain = await generator.generate(request())
    events: list[Event] = []
    changed = await generator.generate(request(init_image=start, strength=0.5), events.append)
    masked = await generator.generate(request(init_image=start, strength=0.5, mask_image=mask.getvalue()))
    assert plain.image.png != changed.image.png
    assert changed.image.to_pil().size == masked.image.to_pil().size == (64, 64)
    totals = {
        e.total_steps for e in events if isinstance(e, Progress) and e.stage is Stage.DIFFUSION and e.step
    }
    assert len(totals) == 1
    assert totals.pop() < 4


async def test_a_lora_changes_the_picture_however_it_is_given(settings: Settings, tmp_path: Path) -> None:
    own = replace(settings, loras=tmp_path / "loras")
    write_lora(own.loras_dir / "styles" / "ink.safetensors", seed=1)
    write_lora(own.loras_dir / "glow.safetensors", seed=2)
    said = bytearray()
    generator = LocalGenerator(settings=own, on_output=lambda _, data: said.extend(data))

    async def draw(prompt: str = "a lighthouse", **loras: float) -> bytes:
        wanted = [Lora(name=name.replace("_", "/"), weight=weight) for name, weight in loras.items()]
        result = await generator.generate(request(prompt=prompt, loras=wanted, steps=2))
        return result.image.to_pil().tobytes()

    plain = await draw()
    assert b"LoRA" not in said
    ink = await draw(styles_ink=1)
    assert b"(4 / 4) LoRA tensors have been applied" in said
    assert len({plain, ink, await draw(styles_ink=1, glow=1)}) == 3
    assert await draw("a lighthouse <lora:styles/ink:1>") == ink
    assert await draw("<lora:styles/ink.safetensors:0.5>a lighthouse", styles_ink=0.5) == ink
    assert await draw("a lighthouse <lora:glow:0>", styles_ink=0) == plain
    assert leftovers(own) == []
    assert (own.loras_dir / "glow.safetensors").exists()


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": "a lighthouse<lora:ink:1>"},
        {"prompt": "<lora:ink:0.5> ein Leuchtturm, 灯台", "loras": [Lora(name="glow", weight=-0.25)]},
        {"prompt": "a lighthouse", "negative_prompt": "<lora:ink:1>\nblur", "loras": [Lora(name="ink")]},
        {"prompt": "a lighthouse <lora:glow:0>", "loras": [Lora(name="ink")]},
    ],
)
async def test_what_a_picture_tells_of_itself_draws_it_again(
    settings: Settings, tmp_path: Path, fields: dict[str, object]
) -> None:
    own = replace(settings, loras=tmp_path / "loras")
    write_lora(own.loras_dir / "ink.safetensors", seed=1)
    write_lora(own.loras_dir / "glow.safetensors", seed=2)
    generator = LocalGenerator(settings=own, threads=1)
    first = (await generator.generate(request(**fields, steps=1, count=2))).images[-1]
    told = (png_texts(first.png) or {})["parameters"]
    texts, _, settings_line = told.rpartition("\nSteps: ")
    prompt, _, negative = texts.partition("\nNegative prompt: ")
    assert prompt.endswith(str(fields["prompt"]))
    assert settings_line.startswith("1, ")
    again = await generator.generate(
        request(prompt=prompt, negative_prompt=negative, steps=1, seed=first.seed)
    )
    assert again.image.to_pil().tobytes() == first.to_pil().tobytes()


async def test_a_file_outside_the_folder_of_loras_is_never_opened(settings: Settings, tmp_path: Path) -> None:
    own = replace(settings, loras=tmp_path / "loras")
    write_lora(own.loras_dir / "glow.safetensors")
    outside = write_lora(tmp_path / "outside.safetensors")
    said = bytearray()
    generator = LocalGenerator(settings=own, on_output=lambda _, data: said.extend(data))
    glow = [Lora(name="glow")]
    for prompt in (f"<lora:{outside}:1>", f"<lo<lora:glow:1>ra:{outside}:1>", "<lora:../outside:1>"):
        with pytest.raises(InvalidRequestError):
            await generator.generate(request(prompt=prompt))
    # None of these is a tag to the engine, or would be one only with what we add.
    for prompt in (f"<lora:{outside}:1", f"<lora:{outside}:", f"<lora:{outside}>", f"<lora::{outside}:1>"):
        await generator.generate(
            request(prompt=prompt, negative_prompt=f"<lora:{outside}:1>", steps=1, loras=glow)
        )
    assert re.findall(rb"loading LoRA from '(.*)'", said) == [b"loras/1-glow.safetensors"] * 4


async def test_a_sampler_comes_from_the_engines_own_list(settings: Settings) -> None:
    generator = LocalGenerator(settings=settings)
    assert (await generator.generate(request(sampler="heun", scheduler="karras"))).images
    with pytest.raises(InvalidRequestError) as caught:
        await generator.generate(request(sampler="eulr"))
    assert "euler" in (caught.value.hint or "")


@pytest.mark.parametrize("names", ["missing", "truncated", "foreign", "empty", "folder"])
async def test_a_model_that_is_none_is_told_by_kind(settings: Settings, tmp_path: Path, names: str) -> None:
    demo = dict(demo_model(settings).files)
    bad = tmp_path / "bad.safetensors"
    if names == "truncated":
        bad.write_bytes(demo[Role.DIFFUSION_MODEL].read_bytes()[:200_000])
        model: object = ModelFiles("bad", {**demo, Role.DIFFUSION_MODEL: bad})
    else:
        {"missing": lambda: None, "foreign": lambda: bad.write_text("no model at all " * 100),
         "empty": bad.touch, "folder": bad.mkdir}[names]()  # fmt: skip
        model = bad
    expected = ModelNotFoundError if names in {"missing", "folder"} else ModelCorruptError
    events: list[Event] = []
    with pytest.raises(expected) as caught:
        await LocalGenerator(model, settings=settings).generate(request(), events.append)
    assert str(tmp_path) not in caught.value.message
    assert caught.value.hint
    assert leftovers(settings) == []
    assert isinstance(events[-1], Failed)
    assert events[-1].error is caught.value


async def test_a_missing_component_is_named_with_its_option(settings: Settings) -> None:
    files = dict(demo_model(settings).files)
    del files[Role.LLM]
    with pytest.raises(ModelComponentMissingError) as caught:
        await LocalGenerator(ModelFiles("half", files), settings=settings).generate(request())
    assert "language model" in caught.value.message
    assert "--llm" in (caught.value.hint or "")


@pytest.mark.parametrize("kind", ["missing", "text"])
async def test_an_init_image_that_is_none(settings: Settings, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "init.png"
    if kind == "text":
        path.write_text("no image")
    with pytest.raises(InputImageError):
        await LocalGenerator(settings=settings).generate(request(init_image=path))
    assert leftovers(settings) == []


async def test_cancelling_ends_the_engine_and_leaves_no_file(settings: Settings) -> None:
    rng = random.Random(7)
    generator = LocalGenerator(settings=settings)
    await generator.prepare()
    for _ in range(6):
        events: list[Event] = []
        task = asyncio.create_task(generator.generate(request(steps=400), events.append))
        await asyncio.sleep(rng.uniform(0, 1.2))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert leftovers(settings) == []
        assert children() == []
        assert not events or isinstance(events[-1], Cancelled)
    assert (await generator.generate(request())).images


async def test_closing_the_generator_cancels_what_runs(settings: Settings) -> None:
    generator = LocalGenerator(settings=settings)
    await generator.prepare()
    task = asyncio.create_task(generator.generate(request(steps=400)))
    await asyncio.sleep(0.3)
    await generator.aclose()
    assert task.cancelled()
    assert leftovers(settings) == []
    await generator.aclose()


@pytest.mark.parametrize("kind", [Progress, Preview])
async def test_an_error_of_the_callback_ends_the_run_and_is_raised(settings: Settings, kind: type) -> None:
    class CallbackError(Exception):
        pass

    def on_event(event: Event) -> None:
        if isinstance(event, kind) and isinstance(event, Preview | Progress) and event.step:
            raise CallbackError

    with pytest.raises(CallbackError):
        await LocalGenerator(settings=settings).generate(
            request(steps=200, previews=PreviewOptions(method="proj")), on_event
        )
    assert leftovers(settings) == []
    assert children() == []
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_two_requests_at_once(settings: Settings) -> None:
    generator = LocalGenerator(settings=settings)
    results = await asyncio.gather(*(generator.generate(request(seed=seed)) for seed in (1, 2)))
    assert [result.image.seed for result in results] == [1, 2]
    assert leftovers(settings) == []


FULL_DISK = """
import asyncio, sys
from pathlib import Path
from sdmanager import ImageRequest, LocalGenerator, Settings, SDManagerError
data, home, full = map(Path, sys.argv[1:])
settings = Settings(data, full, home / "state")
try:
    asyncio.run(LocalGenerator(settings=settings).generate(ImageRequest(prompt="x", width=64, height=64, steps=2)))
except SDManagerError as exc:
    print(exc.code)
else:
    print("a picture")
"""


@pytest.mark.parametrize("size", ["4k", "8k"])
async def test_a_full_disk_is_an_error_and_never_a_picture(
    settings: Settings, tmp_path: Path, size: str
) -> None:
    full = tmp_path / "full"
    full.mkdir()
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    script = f'mount -t tmpfs -o size={size} tmpfs "$1" && shift && exec "$@"'
    argv = ["unshare", "--mount", *user, "sh", "-c", script, "sh", str(full), sys.executable, "-c", FULL_DISK]
    if subprocess.run([*argv[:-3], "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("this machine allows no private mounts; the next test covers the cut file")
    done = subprocess.run(
        [*argv, str(settings.data_dir), str(tmp_path), str(full)], capture_output=True, text=True, check=False
    )
    assert (done.stdout.strip(), done.stderr) == ("IO_ERROR", "")


async def test_a_file_cut_by_a_limit_is_an_error_and_never_a_picture(settings: Settings) -> None:
    # What a full disk does to the real engine: its write stops short, it says (success) and exits with 0.
    limit = ("sh", "-c", 'trap "" XFSZ; ulimit -f 4; exec "$@"', "sh")
    with pytest.raises(TruncatedImageError):
        await LocalGenerator(settings=replace(settings, guard=limit)).generate(request())
    assert leftovers(settings) == []


MISBEHAVIOUR = {
    "segv": (EngineCrashedError, "SIGSEGV"),
    "segv@loading": (EngineCrashedError, "SIGSEGV"),
    "segv@decoding": (EngineCrashedError, "SIGSEGV"),
    "abort": (EngineOutOfMemoryError, "failed to allocate"),
    "oomkill": (EngineOutOfMemoryError, "SIGKILL"),
    "exit": (GenerationError, "exit code 1"),
    "grey": (BlankImageError, "one single colour"),
    "grey-memory": (EngineOutOfMemoryError, "failed to allocate"),
    "truncated": (TruncatedImageError, "cut short"),
    "noimage": (NoImageError, "no image"),
    "savefails": (StorageError, "save"),
}


@pytest.mark.parametrize("mode", MISBEHAVIOUR)
async def test_a_misbehaving_engine_is_told_by_kind(
    settings: Settings, fake_engine: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    generator = LocalGenerator(engine=fake_engine, settings=settings)
    await generator.prepare()
    monkeypatch.setenv("FAKE_ENGINE", mode)
    expected, words = MISBEHAVIOUR[mode]
    with pytest.raises(SDManagerError) as caught:
        await generator.generate(request())
    assert type(caught.value) is expected
    assert words in caught.value.message
    assert leftovers(settings) == []
    assert children() == []


@pytest.mark.parametrize("mode", ["hang", "stubborn", "flood", "grandchild"])
async def test_cancelling_ends_an_engine_that_does_not_want_to(
    settings: Settings, fake_engine: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    quick = replace(settings, stop_grace=0.3)
    reached = asyncio.Event()

    def on_event(event: Event) -> None:
        if isinstance(event, Progress) and event.stage is Stage.DIFFUSION and event.step == 1:
            reached.set()

    generator = LocalGenerator(engine=fake_engine, settings=quick)
    await generator.prepare()
    monkeypatch.setenv("FAKE_ENGINE", mode)
    task = asyncio.create_task(generator.generate(request(), on_event))
    async with asyncio.timeout(DEADLINE):
        await reached.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert leftovers(quick) == []
    assert children() == []
    monkeypatch.setenv("FAKE_ENGINE", "draws")
    assert (await generator.generate(request())).images


ABANDON = """
import asyncio, sys
from pathlib import Path
from sdmanager import ImageRequest, LocalGenerator, Settings
data, home = map(Path, sys.argv[1:])
settings = Settings(data, home / "cache", home / "state")
def on_event(event):
    if getattr(event, "step", 0) == 3:
        print("drawing", flush=True)
request = ImageRequest(prompt="x", width=64, height=64, steps=1000)
asyncio.run(LocalGenerator(settings=settings).generate(request, on_event))
"""


async def test_a_killed_manager_leaves_no_engine_and_its_folder_is_swept(
    settings: Settings, tmp_path: Path
) -> None:
    argv = [sys.executable, "-c", textwrap.dedent(ABANDON), str(settings.data_dir), str(tmp_path)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as manager:
        assert manager.stdout is not None
        assert manager.stdout.readline() == b"drawing\n"
        family = psutil.Process(manager.pid).children(recursive=True)
        assert family
        manager.kill()
    assert all_gone(family)
    assert leftovers(settings)
    await LocalGenerator(settings=settings).prepare()
    assert leftovers(settings) == []


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["hang", "stubborn", "flood", "grandchild"])
async def test_a_hundred_cancels_at_random_points(
    settings: Settings, fake_engine: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    quick = replace(settings, stop_grace=0.2)
    generator = LocalGenerator(engine=fake_engine, settings=quick)
    await generator.prepare()
    rng = random.Random(mode)
    for _ in range(100):
        monkeypatch.setenv("FAKE_ENGINE", mode)
        task = asyncio.create_task(generator.generate(request()))
        await asyncio.sleep(rng.uniform(0, 0.25))
        task.cancel()
        async with asyncio.timeout(quick.stop_grace + 2):
            await asyncio.wait([task])
        assert task.cancelled()
        assert leftovers(quick) == []
    assert children() == []
    monkeypatch.setenv("FAKE_ENGINE", "draws")
    assert (await generator.generate(request())).images
