"""Room for a run: flags that are chosen, one more try where memory ran out, and what is learned of it."""

from __future__ import annotations

import asyncio
import io
import json
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from loras import write_lora
from PIL import Image

from sdmanager import ImageRequest, LocalGenerator, PreviewOptions
from sdmanager.engine import runner
from sdmanager.engine.emitting import Emitter
from sdmanager.engine.estimates import EstimateStore
from sdmanager.engine.kills import Killed
from sdmanager.engine.room import RoomMaker
from sdmanager.engine.run import Run
from sdmanager.errors import EngineArgumentError, EngineCrashedError, EngineOutOfMemoryError
from sdmanager.generation import (
    Completed,
    Event,
    Failed,
    MemoryChoices,
    MemoryPlan,
    Progress,
    Replanned,
    Stage,
    StageChanged,
)
from sdmanager.models import ModelFiles
from sdmanager.resources.leases import Lease
from sdmanager.resources.orchestrator import ResourceOrchestrator
from sdmanager.resources.peaks import PeakStore
from sdmanager.resources.supply import Supply
from sdmanager.settings import Settings

TILED = MemoryPlan(vae_tiling=True)

# One thread in the larger pictures: with more, tiles wait for each other for minutes on a machine that is busy.
# Address space in KiB: of this picture by the demo model, decoding takes more at once, and less in tiles.
SIDE = 576
ENOUGH_IN_TILES = 900_000
TOO_LITTLE = 700_000


def request(side: int = 64, **fields: object) -> ImageRequest:
    usual = {"prompt": "a lighthouse", "width": side, "height": side, "steps": 2, "seed": 7, "cfg_scale": 1.0}
    return ImageRequest(**usual | fields)


def limited(settings: Settings, kibibytes: int) -> Settings:
    """The same, with an engine that really cannot have more memory."""
    limit = ("sh", "-c", f'ulimit -v {kibibytes}; exec "$@"', "sh")
    return replace(settings, guard=limit)


def store_of(settings: Settings) -> PeakStore:
    return PeakStore(settings.state_dir / "memory.json")


def peaks_of(settings: Settings, model: ModelFiles | None, backend: str = "cpu"):
    assert model is not None
    return store_of(settings).learned(model.key, backend)


def assert_sound(events: list[Event]) -> None:
    """One generation, however often the engine started for it."""
    assert [event.sequence for event in events] == list(range(len(events)))
    assert len({event.generation_id for event in events}) == 1
    elapsed = [event.elapsed for event in events]
    assert elapsed == sorted(elapsed)
    percentages = [event.percentage for event in events if isinstance(event, Progress)]
    assert percentages == sorted(percentages)
    assert not [event for event in events[:-1] if isinstance(event, Completed | Failed)]


# --- memory that really runs out


async def test_the_engine_starts_once_more_where_memory_ran_out_and_the_next_request_starts_there(
    settings: Settings,
) -> None:
    own = limited(settings, ENOUGH_IN_TILES)
    generator = LocalGenerator(settings=own, threads=1)
    events: list[Event] = []
    result = await generator.generate(request(SIDE, steps=1), events.append)

    assert result.image.to_pil().size == (SIDE, SIDE)
    assert result.plan.vae_tiling
    assert result.out_of_memory == (MemoryPlan(),)
    assert_sound(events)
    assert isinstance(events[-1], Completed)
    assert events[-1].result == result
    (again,) = [event for event in events if isinstance(event, Replanned)]
    assert again.plan == result.plan
    assert again.reason == (
        f"The engine ran out of memory without memory flags and starts once more with {' '.join(again.plan.flags)}."
    )
    stages = [event.stage for event in events if isinstance(event, StageChanged)]
    assert stages.count(Stage.LOADING) == 2

    learned = peaks_of(own, generator.model)
    failed, worked = learned.peaks[SIDE, SIDE, "plain"], learned.peaks[SIDE, SIDE, result.plan.key]
    assert failed.too_small_ram
    assert (failed.runs, worked.runs) == (0, 1)
    assert 20_000_000 < (learned.weights or 0) < 30_000_000

    # Another one, which knows only what stands on the disk, and finds no more memory free than the first.
    room = ResourceOrchestrator(own, look=ram_of(failed.too_small_ram))
    events.clear()
    second = await LocalGenerator(settings=own, room=room, threads=1).generate(
        request(SIDE, steps=1), events.append
    )
    assert second.plan.vae_tiling
    assert second.plan.reasons
    assert second.out_of_memory == ()
    assert not [event for event in events if isinstance(event, Replanned)]


def ram_of(free: int):
    from sdmanager.hardware import HardwareSnapshot

    async def look() -> HardwareSnapshot:
        return HardwareSnapshot("linux-x64", "", None, 8, 16, free, free, None, (), ())

    return look


async def test_where_less_does_not_help_either_the_hint_says_what_was_tried(settings: Settings) -> None:
    own = limited(settings, TOO_LITTLE)
    events: list[Event] = []
    generator = LocalGenerator(settings=own, threads=1)
    with pytest.raises(EngineOutOfMemoryError) as caught:
        await generator.generate(request(SIDE, steps=1), events.append)
    hint = caught.value.hint or ""
    assert f"smaller picture than {SIDE}x{SIDE}" in hint
    plain, stricter = caught.value.details["tried"]
    assert plain == []
    assert f"without memory flags, then with {' '.join(stricter)}" in hint
    assert_sound(events)
    assert [type(event) for event in events if isinstance(event, Replanned | Failed)] == [Replanned, Failed]
    peaks = peaks_of(own, generator.model).peaks
    assert [bool(peak.too_small_ram) for peak in peaks.values()] == [True, True]


@pytest.mark.parametrize("decided", [MemoryPlan(), MemoryChoices(vae_tiling=False)])
async def test_what_the_user_decided_stays_also_when_memory_runs_out(
    settings: Settings, decided: MemoryPlan | MemoryChoices
) -> None:
    own = limited(settings, ENOUGH_IN_TILES)
    events: list[Event] = []
    with pytest.raises(EngineOutOfMemoryError) as caught:
        await LocalGenerator(settings=own, plan=decided, threads=1).generate(
            request(SIDE, steps=1), events.append
        )
    tried = caught.value.details["tried"]
    assert isinstance(tried, list)
    assert all("--vae-tiling" not in flags for flags in tried)
    assert "leave the choice of memory flags to sdmanager" in (caught.value.hint or "")
    assert isinstance(events[-1], Failed)


# --- an engine that says so, or does not


@pytest.fixture
def second_try(tmp_path: Path, fake_engine: Path) -> Path:
    """An engine that runs out of memory when it is started without memory flags."""
    script = tmp_path / "second-try"
    script.write_text(
        "#!/bin/sh\n"
        'case " $* " in *" --vae-tiling "*|*" --diffusion-fa "*|*" -h "*|*" --version "*) FAKE_ENGINE=draws;; esac\n'
        f"export FAKE_ENGINE; exec '{fake_engine}' \"$@\"\n"
    )
    script.chmod(0o755)
    return script


@pytest.mark.parametrize("mode", ["abort", "abort@loading", "abort@decoding", "grey-memory"])
async def test_whenever_memory_ran_out_there_is_one_more_try(
    settings: Settings, second_try: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    generator = LocalGenerator(engine=second_try, settings=settings)
    await generator.prepare()
    monkeypatch.setenv("FAKE_ENGINE", mode)
    events: list[Event] = []
    result = await generator.generate(request(1024, count=2), events.append)
    assert result.plan.vae_tiling if mode == "abort@decoding" else result.plan != MemoryPlan()
    assert result.out_of_memory == (MemoryPlan(),)
    assert [image.seed for image in result.images] == [7, 8]
    assert_sound(events)


async def test_a_seed_that_was_chosen_is_that_of_both_tries(
    settings: Settings, second_try: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = bytearray()
    generator = LocalGenerator(
        engine=second_try, settings=settings, on_output=lambda _, data: said.extend(data)
    )
    await generator.prepare()
    monkeypatch.setenv("FAKE_ENGINE", "abort@decoding")
    seeds: list[str] = []

    def on_event(event: Event) -> None:
        if isinstance(event, Progress) and event.stage is Stage.DIFFUSION:
            seeds.extend(_seeds())

    result = await generator.generate(request(1024, seed=None, steps=5), on_event)
    assert result.image.seed
    assert set(seeds) <= {str(result.image.seed)}
    assert seeds


def _seeds() -> list[str]:
    found = []
    for child in psutil.Process().children(recursive=True):
        try:
            line = child.cmdline()
        except psutil.Error:
            continue
        if "--seed" in line:
            found.append(line[line.index("--seed") + 1])
    return found


async def test_an_engine_that_anybody_may_have_killed_is_not_started_again(
    settings: Settings, second_try: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = LocalGenerator(engine=second_try, settings=settings)
    await generator.prepare()
    monkeypatch.setenv("FAKE_ENGINE", "oomkill")
    events: list[Event] = []
    with pytest.raises(EngineOutOfMemoryError, match="SIGKILL") as caught:
        await generator.generate(request(1024), events.append)
    assert not [event for event in events if isinstance(event, Replanned)]
    assert caught.value.details["oom_killer"] in {Killed.NOTHING, Killed.MACHINE, None}
    assert peaks_of(settings, generator.model, "custom").peaks == {}


async def test_what_fails_for_another_reason_is_not_tried_again(
    settings: Settings, second_try: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = LocalGenerator(engine=second_try, settings=settings)
    await generator.prepare()
    monkeypatch.setenv("FAKE_ENGINE", "segv")
    events: list[Event] = []
    with pytest.raises(EngineCrashedError, match="SIGSEGV"):
        await generator.generate(request(1024), events.append)
    assert not [event for event in events if isinstance(event, Replanned)]


async def test_cancelling_the_second_try_ends_it(
    settings: Settings, tmp_path: Path, fake_engine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "hangs-in-tiles"
    script.write_text(
        "#!/bin/sh\n"
        'case " $* " in *" -h "*|*" --version "*) FAKE_ENGINE=draws;;\n'
        '*" --vae-tiling "*|*" --diffusion-fa "*) FAKE_ENGINE=hang;; esac\n'
        f"export FAKE_ENGINE; exec '{fake_engine}' \"$@\"\n"
    )
    script.chmod(0o755)
    generator = LocalGenerator(engine=script, settings=settings)
    await generator.prepare()
    monkeypatch.setenv("FAKE_ENGINE", "abort")
    begun = asyncio.Event()

    def on_event(event: Event) -> None:
        if isinstance(event, Replanned):
            begun.set()

    task = asyncio.create_task(generator.generate(request(1024), on_event))
    async with asyncio.timeout(30):
        await begun.wait()
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert psutil.Process().children(recursive=True) == []
    assert not list(settings.jobs_dir.iterdir())


class Asked(ResourceOrchestrator):
    """Writes down what it is asked for; may give more than is free, for others that it says it has put aside."""

    evictions: tuple[str, ...] = ()

    def __init__(self, *args, **fields):
        super().__init__(*args, **fields)
        self.failed, self.helps = [], None

    @asynccontextmanager
    async def lease(self, *args, failed=(), helps=None, **fields):
        self.failed.append(tuple(failed))
        self.helps = helps
        async with super().lease(*args, failed=failed, helps=helps, **fields) as lease:
            yield replace(lease, plan=replace(lease.plan, evictions=self.evictions if failed else ()))


@pytest.mark.parametrize("mode", ["abort@loading", "abort@decoding"])
async def test_only_what_was_run_counts_as_failed(
    settings: Settings, second_try: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    asked = Asked(settings)
    generator = LocalGenerator(engine=second_try, settings=settings, room=asked)
    await generator.prepare()
    monkeypatch.setenv("FAKE_ENGINE", mode)
    result = await generator.generate(request(1024))
    if mode == "abort@decoding":
        assert asked.helps(TILED)
        assert not asked.helps(MemoryPlan(diffusion_flash_attention=True))
    assert {plan for failed in asked.failed for plan in failed} == {MemoryPlan()}
    reasons = [reason for reason in result.plan.reasons if "ran out of memory" in reason]
    assert reasons == ["The last run ran out of memory with no memory flags."]


@pytest.mark.parametrize(("evictions", "learned"), [((), 64 * 10**9), (("ollama",), None)])
async def test_what_was_free_once_others_were_aside_is_not_what_was_too_little(
    settings: Settings,
    second_try: Path,
    monkeypatch: pytest.MonkeyPatch,
    evictions: tuple[str, ...],
    learned: int | None,
) -> None:
    asked = Asked(settings, look=ram_of(64 * 10**9))
    asked.evictions = evictions
    generator = LocalGenerator(engine=second_try, settings=settings, room=asked)
    await generator.prepare()
    monkeypatch.setenv("FAKE_ENGINE", "abort")
    result = await generator.generate(request(512))
    assert result.out_of_memory == (MemoryPlan(),)
    failed = peaks_of(settings, generator.model, "custom").peaks.get((512, 512, "plain"))
    assert (failed.too_small_ram if failed else None) == learned


async def test_of_an_engine_that_was_killed_only_what_it_had_was_too_little(
    settings: Settings, second_try: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Asked(settings, look=ram_of(64 * 10**9))
    generator = LocalGenerator(engine=second_try, settings=settings, room=asked)
    await generator.prepare()
    monkeypatch.setenv("FAKE_ENGINE", "oomkill")
    monkeypatch.setattr(runner, "kills_since", lambda before: Killed.GROUP)
    result = await generator.generate(request(1024))
    assert result.out_of_memory == (MemoryPlan(),)
    failed = peaks_of(settings, generator.model, "custom").peaks[1024, 1024, "plain"]
    assert 10**6 < (failed.too_small_ram or 0) < 10**9


EXTRAS = [
    {"init_image": b""},
    {"prompt": "<lora:ink:1> a lighthouse"},
    {"previews": PreviewOptions(method="tae")},
]


@pytest.mark.parametrize("extra", EXTRAS)
async def test_what_a_request_with_extras_needs_says_nothing_of_others(
    settings: Settings,
    second_try: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    extra: dict[str, object],
) -> None:
    own = replace(settings, loras=tmp_path / "loras")
    write_lora(own.loras_dir / "ink.safetensors")
    if "init_image" in extra:
        picture = io.BytesIO()
        Image.new("RGB", (64, 64), "teal").save(picture, "PNG")
        extra = {"init_image": picture.getvalue()}
    generator = LocalGenerator(engine=second_try, settings=own)
    await generator.prepare()

    async def too_small(**fields: object) -> bool:
        await generator.generate(request(520, **fields))
        failed = peaks_of(own, generator.model, "custom").peaks.get((520, 520, "plain"))
        return failed is not None and bool(failed.too_small_ram)

    monkeypatch.setenv("FAKE_ENGINE", "abort")
    assert not await too_small(**extra)
    assert await too_small()
    monkeypatch.setenv("FAKE_ENGINE", "draws")
    exactly = LocalGenerator(engine=second_try, settings=own, plan=MemoryPlan())
    await exactly.generate(request(520, **extra))
    learned = peaks_of(own, generator.model, "custom").peaks[520, 520, "plain"]
    assert learned.too_small_ram
    await exactly.generate(request(520))
    learned = peaks_of(own, generator.model, "custom").peaks[520, 520, "plain"]
    assert not learned.too_small_ram


# --- what is chosen, and learned


async def test_each_run_teaches_what_it_used(settings: Settings) -> None:
    generator = LocalGenerator(settings=settings)
    result = await generator.generate(request())
    assert result.memory is not None
    assert 60_000_000 < (result.memory.ram or 0) < 500_000_000
    learned = peaks_of(settings, generator.model)
    peak = learned.peaks[64, 64, "plain"]
    assert (peak.ram, peak.runs) == (result.memory.ram, 1)
    assert learned.weights == result.memory.weights


async def test_a_proof_of_an_engine_teaches_nothing(settings: Settings) -> None:
    await LocalGenerator(settings=settings).prepare(force_validation=True)
    assert store_of(settings).entries() == []


async def test_flags_are_chosen_by_what_is_free(settings: Settings, fake_engine: Path) -> None:
    for free, plain in ((400_000_000, False), (64 * 10**9, True)):
        room = ResourceOrchestrator(settings, look=ram_of(free))
        generator = LocalGenerator(engine=fake_engine, settings=settings, room=room)
        result = await generator.generate(request(1024))
        assert (result.plan == MemoryPlan()) is plain
        assert bool(result.plan.reasons) is not plain


async def test_a_flag_that_is_asked_for_and_unknown_to_the_engine_is_refused(settings: Settings) -> None:
    generator = LocalGenerator(settings=settings, plan=MemoryChoices(stream_layers=True))
    await generator.prepare()
    with pytest.raises(EngineArgumentError, match="--stream-layers"):
        generator.check(request())


class Slow(ResourceOrchestrator):
    """Makes room for a moment before each run."""

    leased: int = 0

    @asynccontextmanager
    async def lease(
        self, footprint, choices, supports, *, failed=(), short=None, helps=None, on_offloading=None
    ):
        self.leased += 1
        assert on_offloading is not None
        on_offloading()
        yield Lease(TILED, Supply(ram_free=1, ram_total=1), 0.25)
        self.leased -= 1


async def test_making_room_is_told_and_counted(settings: Settings) -> None:
    room = Slow(settings)
    events: list[Event] = []
    async with LocalGenerator(settings=settings, room=room) as generator:
        result = await generator.generate(request(520, steps=1), events.append)
    stages = [event.stage for event in events if isinstance(event, StageChanged)]
    assert stages == [Stage.OFFLOADING, Stage.LOADING, Stage.DIFFUSION, Stage.DECODING]
    (made,) = [e for e in events if isinstance(e, Progress) and e.stage is Stage.OFFLOADING]
    assert (made.step, made.percentage, made.total_images) == (0, 0, 1)
    assert result.timings.offloading == 0.25
    assert result.time_taken > result.timings.loading + result.timings.diffusion
    assert room.leased == 0
    assert_sound(events)


async def test_room_is_given_back_when_a_callback_breaks_the_run(settings: Settings) -> None:
    class CallbackError(Exception):
        pass

    def on_event(event: Event) -> None:
        if isinstance(event, Progress) and event.stage is Stage.DIFFUSION:
            raise CallbackError

    room = Slow(settings)
    with pytest.raises(CallbackError):
        await LocalGenerator(settings=settings, room=room).generate(request(520), on_event)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_small_pictures_of_small_models_are_not_worth_a_look(settings: Settings) -> None:
    room = Slow(settings)
    result = await LocalGenerator(settings=settings, room=room).generate(request())
    assert result.plan == MemoryPlan()
    assert result.timings.offloading == 0


class Crowded(Slow):
    makes_room = True


async def test_where_others_can_be_put_aside_small_pictures_are_looked_at_as_well(settings: Settings) -> None:
    result = await LocalGenerator(settings=settings, room=Crowded(settings)).generate(request())
    assert result.plan == TILED
    assert result.timings.offloading == 0.25


@pytest.mark.parametrize(
    ("decided", "variant", "expected"),
    [(MemoryPlan(), "cuda", True), (MemoryChoices(), "cuda", False), (MemoryPlan(), "cpu", False)],
)
async def test_graphics_memory_of_a_small_run_is_measured_where_flags_are_compared(
    settings: Settings,
    fake_engine: Path,
    monkeypatch: pytest.MonkeyPatch,
    decided: MemoryPlan | MemoryChoices,
    variant: str,
    expected: bool,
) -> None:
    watched: list[bool] = []

    def watch(pid: int, settings: Settings, *, vram: bool):
        watched.append(vram)
        return real(pid, settings, vram=False)

    real = runner.watch_memory
    monkeypatch.setattr(runner, "watch_memory", watch)
    generator = LocalGenerator(engine=fake_engine, settings=settings)
    engine = replace(await generator.prepare(), variant=variant)
    assert generator.model is not None
    wanted = decided if isinstance(decided, MemoryPlan) else decided.plan
    estimates = EstimateStore(settings.state_dir / "estimates.json")
    run = Run("abc", request(), engine, generator.model, wanted, settings, estimates)
    maker = RoomMaker(settings, decided, ResourceOrchestrator(settings), store_of(settings))
    await maker.draw(run, {}, Emitter(None, "abc"))
    assert watched == [expected]


async def test_would_need_offload_asks_the_room(settings: Settings) -> None:
    class Wide(ResourceOrchestrator):
        async def would_need_offload(self, footprint, choices, supports):
            return (footprint.width, footprint.backend, supports("--vae-tiling")) == (1024, "cpu", True)

    generator = LocalGenerator(settings=settings, room=Wide(settings))
    assert await generator.would_need_offload(request(1024))
    assert not await generator.would_need_offload(request(520))


async def test_a_small_picture_may_need_offload(settings: Settings) -> None:
    class Always(ResourceOrchestrator):
        async def would_need_offload(self, footprint, choices, supports):
            return True

    assert await LocalGenerator(settings=settings, room=Always(settings)).would_need_offload(request())


def test_the_file_of_lessons_holds_no_paths(settings: Settings) -> None:
    asyncio.run(LocalGenerator(settings=settings).generate(request()))
    text = (settings.state_dir / "memory.json").read_text()
    assert json.loads(text)
    assert str(settings.data_dir) not in text
