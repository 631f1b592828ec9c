"""Calibration: real pictures with one combination of memory flags after the other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from processes import all_gone

from sdmanager import ImageRequest, LocalGenerator, PreviewOptions
from sdmanager.binaries import EngineBinary
from sdmanager.engine.calibration import RUNS_MAX, calibrate
from sdmanager.engine.measurements import CalibrationProgress, CalibrationReport
from sdmanager.errors import (
    EngineArgumentError,
    EngineCrashedError,
    EngineOutOfMemoryError,
    InsufficientResourcesError,
    InvalidRequestError,
    ModelNotFoundError,
    SDManagerError,
)
from sdmanager.generation import Event, GenerationResult, MemoryPlan
from sdmanager.models import demo_model
from sdmanager.resources.peaks import PeakStore
from sdmanager.settings import Settings

PLAIN = MemoryPlan()
TILED = MemoryPlan(vae_tiling=True)
FLASH = MemoryPlan(diffusion_flash_attention=True)
ON_CPU = MemoryPlan(clip_on_cpu=True)

OUT_OF_MEMORY = (
    "echo '[ERROR] ggml_extend.hpp:1    - ggml_backend_cuda_buffer_type_alloc_buffer: allocating 12288.00 MiB on"
    " device 0: cudaMalloc failed: out of memory' >&2; exit 1"
)
REFUSED = "echo '[ERROR] main.cpp:1    - error: unknown argument' >&2; exit 1"
CRASH = "kill -SEGV $$"


class Workbench:
    """An engine behind a script that writes down what it is asked, and fails for some flags."""

    def __init__(self, folder: Path, engine: Path, settings: Settings) -> None:
        self.path, self._log, self._rules = folder / "sd-cli-asked", folder / "asked", folder / "rules"
        self.settings = replace(settings, engine=self.path)
        # The rules are a file of their own: another script would be another engine, which is proven again.
        self.path.write_text(
            f'#!/bin/sh\ncase " $* " in *" --seed "*) echo "$*" >> {self._log}; . {self._rules};; esac\n'
            f'exec {engine} "$@"\n'
        )
        self.path.chmod(0o755)
        self.rules()

    def rules(self, **actions: str) -> None:
        """What is done in the place of drawing: by a word of the arguments, or ``always``."""
        cases = ""
        for word, action in actions.items():
            pattern = "*" if word == "always" else f"*' --{word.replace('_', '-')} '*"
            cases += f'case " $* " in {pattern}) {action};; esac\n'
        self._rules.write_text(cases)

    @property
    def asked(self) -> list[str]:
        """Keys of what was drawn, with the number of steps, in order."""
        lines = self._log.read_text().splitlines() if self._log.exists() else []
        return [_asked(line.split()) for line in lines]

    def generator(self, plan: MemoryPlan) -> LocalGenerator:
        return LocalGenerator(settings=self.settings, plan=plan)

    async def calibrate(self, *plans: MemoryPlan, **options: object) -> CalibrationReport:
        """Of an engine that is known to draw."""
        return await calibrate(self.generator, request(), plans=plans or None, **options)  # type: ignore[arg-type]

    async def prove(self) -> None:
        await self.generator(PLAIN).prepare()
        self._log.unlink(missing_ok=True)


def _asked(arguments: list[str]) -> str:
    flags = [flag for flag in ("--vae-tiling", "--diffusion-fa", "--clip-on-cpu") if flag in arguments]
    steps = arguments[arguments.index("--steps") + 1]
    return f"{'+'.join(flag.strip('-') for flag in flags) or 'plain'} {steps}"


@pytest.fixture
async def bench(tmp_path: Path, fake_engine: Path, settings: Settings) -> Workbench:
    """With an engine that draws at once, where the order of things is what matters."""
    made = Workbench(tmp_path, fake_engine, settings)
    await made.prove()
    return made


@pytest.fixture
async def real_bench(tmp_path: Path, engine: EngineBinary, settings: Settings) -> Workbench:
    """With the real engine."""
    made = Workbench(tmp_path, engine.path, settings)
    await made.prove()
    return made


def request(**fields: object) -> ImageRequest:
    return ImageRequest(
        **{"prompt": "a lighthouse", "width": 64, "height": 64, "steps": 3, "seed": 7, **fields}
    )


def store_of(settings: Settings) -> PeakStore:
    return PeakStore(settings.state_dir / "memory.json")


def recommended(settings: Settings, variant: str) -> dict[tuple[int, int], MemoryPlan]:
    return dict(store_of(settings).learned(demo_model(settings).key, variant).recommended)


# --- what is measured


async def test_all_that_suit_the_engine_are_measured_and_the_best_is_kept(settings: Settings) -> None:
    def make(plan: MemoryPlan) -> LocalGenerator:
        return LocalGenerator(settings=settings, plan=plan)

    report = await calibrate(make, request(), store=store_of(settings))
    assert [each.plan.key for each in report.measurements] == [
        "plain",
        "diffusion-fa",
        "vae-tiling",
        "vae-tiling,diffusion-fa",
    ]
    for each in report.measurements:
        assert each.works
        assert each.total is not None
        stages = each.timings
        # The stages are counted from a moment earlier.
        assert 0 < stages.loading + stages.diffusion + stages.decoding < each.total + 0.5
        assert (each.memory.ram or 0) > 50e6
        assert stages.diffusion > 0
    assert (report.model, report.variant, report.runs) == ("demo", "cpu", 1)
    assert (report.width, report.height, report.steps, report.seed) == (64, 64, 3, 7)
    assert report.stored
    assert recommended(settings, "cpu") == {(64, 64): report.recommended}
    assert not list(settings.jobs_dir.glob("*"))


async def test_later_pictures_start_with_what_was_found(bench: Workbench) -> None:
    bench.rules(diffusion_fa=OUT_OF_MEMORY)
    report = await bench.calibrate(FLASH, TILED, store=store_of(bench.settings))
    assert report.stored
    async with LocalGenerator(settings=bench.settings) as generator:
        assert (await generator.generate(request())).plan == TILED
        assert (await generator.generate(request(width=128))).plan == PLAIN


async def test_nothing_is_kept_unasked(bench: Workbench) -> None:
    report = await bench.calibrate(PLAIN)
    assert report.recommended == PLAIN
    assert not report.stored
    assert recommended(bench.settings, "custom") == {}


async def test_what_cannot_be_kept_is_not_said_to_be(bench: Workbench, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    report = await bench.calibrate(PLAIN, store=PeakStore(tmp_path / "file" / "memory.json"))
    assert report.recommended == PLAIN
    assert not report.stored


async def test_the_first_is_warmed_up_and_they_take_turns(bench: Workbench) -> None:
    report = await bench.calibrate(PLAIN, TILED, FLASH, runs=2)
    there = ["plain 3", "vae-tiling 3", "diffusion-fa 3"]
    assert bench.asked == ["plain 2", *there, *reversed(there)]
    assert [len(each.seconds) for each in report.measurements] == [2, 2, 2]


async def test_the_same_combination_twice_is_tried_once(bench: Workbench) -> None:
    report = await bench.calibrate(TILED, MemoryPlan(vae_tiling=True, reasons=("Why not.",)))
    assert [each.plan for each in report.measurements] == [TILED]
    assert bench.asked == ["vae-tiling 2", "vae-tiling 3"]


async def test_all_draw_the_same_picture_and_no_previews(real_bench: Workbench) -> None:
    wanted = request(seed=None, previews=PreviewOptions(stride=1))
    drawn: list[GenerationResult] = []

    class Watched(LocalGenerator):
        async def generate(self, *arguments: object, **options: object) -> GenerationResult:
            result = await super().generate(*arguments, **options)  # type: ignore[arg-type]
            drawn.append(result)
            return result

    report = await calibrate(
        lambda plan: Watched(settings=real_bench.settings, plan=plan), wanted, plans=[PLAIN, ON_CPU]
    )
    assert {result.image.seed for result in drawn} == {report.seed}
    assert all(result.previews is None for result in drawn)
    assert len(drawn) == 3


# --- what fails


async def test_running_out_of_memory_is_a_result_and_not_an_end(real_bench: Workbench) -> None:
    bench = real_bench
    bench.rules(vae_tiling=OUT_OF_MEMORY)
    report = await bench.calibrate(PLAIN, TILED, FLASH, store=store_of(bench.settings))
    plain, tiled, flash = report.measurements
    assert isinstance(tiled.error, EngineOutOfMemoryError)
    assert tiled.seconds == ()
    assert plain.works
    assert flash.works
    assert report.recommended in {PLAIN, FLASH}
    assert report.error is None
    assert recommended(bench.settings, "custom") == {(64, 64): report.recommended}


FAILURES = {
    "out of memory": (OUT_OF_MEMORY, EngineOutOfMemoryError),
    "refused": (REFUSED, EngineArgumentError),
    "crash": (CRASH, EngineCrashedError),
}


@pytest.mark.parametrize("kind", FAILURES)
async def test_what_failed_is_not_tried_again(bench: Workbench, kind: str) -> None:
    action, error = FAILURES[kind]
    bench.rules(vae_tiling=action)
    report = await bench.calibrate(PLAIN, TILED, runs=3)
    assert isinstance(report.measurements[1].error, error)
    assert report.recommended == PLAIN
    assert bench.asked == ["plain 2", "plain 3", "vae-tiling 3", "plain 3", "plain 3"]


async def test_the_warm_up_goes_to_the_first_that_draws(bench: Workbench) -> None:
    bench.rules(diffusion_fa=OUT_OF_MEMORY)
    report = await bench.calibrate(FLASH, TILED)
    assert bench.asked == ["diffusion-fa 2", "vae-tiling 2", "vae-tiling 3"]
    assert isinstance(report.measurements[0].error, EngineOutOfMemoryError)
    assert report.recommended == TILED


async def test_a_warm_up_that_fails_otherwise_is_no_verdict(bench: Workbench, tmp_path: Path) -> None:
    once = tmp_path / "once"
    bench.rules(always=f"if [ ! -e {once} ]; then touch {once}; {CRASH}; fi")
    report = await bench.calibrate(PLAIN)
    assert bench.asked == ["plain 2", "plain 3"]
    assert report.recommended == PLAIN


async def test_one_that_fails_at_its_second_run_is_not_relied_on(bench: Workbench, tmp_path: Path) -> None:
    once = tmp_path / "once"
    bench.rules(diffusion_fa=f"if [ -e {once} ]; then {CRASH}; fi; touch {once}")
    report = await bench.calibrate(PLAIN, FLASH, runs=3)
    flash = report.measurements[1]
    assert (len(flash.seconds), flash.works) == (1, False)
    assert report.recommended == PLAIN
    assert bench.asked.count("diffusion-fa 3") == 2


async def test_where_nothing_works_the_report_says_so(bench: Workbench) -> None:
    bench.rules(vae_tiling=CRASH, always=OUT_OF_MEMORY)
    report = await bench.calibrate(TILED, PLAIN, store=store_of(bench.settings))
    assert report.recommended is None
    assert not report.stored
    assert isinstance(report.error, EngineOutOfMemoryError)
    assert [type(each.error) for each in report.measurements] == [EngineCrashedError, EngineOutOfMemoryError]
    assert recommended(bench.settings, "custom") == {}


class TooLarge(LocalGenerator):
    """One whose plain plan does not fit the memory that is free."""

    def __init__(self, settings: Settings, plan: MemoryPlan) -> None:
        super().__init__(settings=settings, plan=plan)
        self._is_plain = plan == PLAIN

    async def prepare(self, *, force_validation: bool = False) -> EngineBinary:
        engine = await super().prepare(force_validation=force_validation)
        if self._is_plain:
            raise InsufficientResourcesError("It does not fit.")
        return engine


@pytest.mark.parametrize("order", [(PLAIN, TILED), (TILED, PLAIN)])
async def test_what_does_not_fit_is_a_result_too(bench: Workbench, order: tuple[MemoryPlan, ...]) -> None:
    report = await calibrate(lambda plan: TooLarge(bench.settings, plan), request(), plans=order)
    plain = report.measurement_of(PLAIN)
    assert plain is not None
    assert isinstance(plain.error, InsufficientResourcesError)
    assert report.recommended == TILED
    assert bench.asked == ["vae-tiling 2", "vae-tiling 3"]


async def test_a_picture_drawn_with_stricter_flags_does_not_count_for_these(bench: Workbench) -> None:
    class Stricter(LocalGenerator):
        async def generate(self, *arguments: object, **options: object) -> GenerationResult:
            result = await super().generate(*arguments, **options)  # type: ignore[arg-type]
            return replace(result, plan=TILED, out_of_memory=(PLAIN,))

    report = await calibrate(
        lambda plan: Stricter(settings=bench.settings, plan=plan), request(), plans=[PLAIN, TILED]
    )
    assert isinstance(report.measurements[0].error, EngineOutOfMemoryError)
    assert report.recommended == TILED


async def test_what_happens_before_the_engine_starts_is_not_counted(bench: Workbench) -> None:
    class Late(LocalGenerator):
        """One that has to put others aside first, which takes 1000 s."""

        async def generate(
            self, request: ImageRequest, on_event: Callable[[Event], None] | None = None
        ) -> GenerationResult:
            assert on_event is not None
            result = await super().generate(
                request, lambda event: on_event(replace(event, elapsed=event.elapsed + 1000))
            )
            return replace(result, time_taken=result.time_taken + 1000)

    report = await calibrate(lambda plan: Late(settings=bench.settings, plan=plan), request(), plans=[PLAIN])
    assert 0 < report.measurements[0].seconds[0] < 60


# --- what ends it before it begins

IMPOSSIBLE: dict[str, tuple[dict[str, object], dict[str, object], type[SDManagerError], str]] = {
    "no runs": ({}, {"runs": 0}, InvalidRequestError, "1 to 20, not 0"),
    "too many runs": ({}, {"runs": RUNS_MAX + 1}, InvalidRequestError, "not 21"),
    "no combination": ({}, {"plans": []}, InvalidRequestError, "no combination"),
    "sampler": ({"sampler": "eulr"}, {}, InvalidRequestError, "knows no sampler"),
}


@pytest.mark.parametrize("what", IMPOSSIBLE)
async def test_what_cannot_be_is_said_before_anything_is_drawn(bench: Workbench, what: str) -> None:
    fields, options, error, words = IMPOSSIBLE[what]
    with pytest.raises(error, match=words):
        await calibrate(bench.generator, request(**fields), **options)  # type: ignore[arg-type]
    assert bench.asked == []


async def test_a_model_that_is_not_there(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError):
        await calibrate(
            lambda plan: LocalGenerator(tmp_path / "none.gguf", settings=settings, plan=plan), request()
        )


async def test_an_error_that_is_not_the_flags_doing_ends_it(bench: Workbench, tmp_path: Path) -> None:
    class Unreadable(LocalGenerator):
        async def generate(
            self, request: ImageRequest, on_event: Callable[[Event], None] | None = None
        ) -> GenerationResult:
            raise ModelNotFoundError("It is gone.")

    with pytest.raises(ModelNotFoundError):
        await calibrate(
            lambda plan: Unreadable(settings=bench.settings, plan=plan), request(), plans=[PLAIN, TILED]
        )


# --- progress and cancelling


async def test_progress_never_falls_and_is_whole_only_at_the_end(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_ENGINE", "segvtiling@decoding")  # late, so that what it had done is lost
    seen: list[CalibrationProgress] = []
    report = await bench.calibrate(PLAIN, TILED, FLASH, runs=2, on_progress=seen.append)
    percentages = [each.percentage for each in seen]
    assert percentages == sorted(percentages)
    assert percentages[0] == 0
    assert percentages[-1] == 100
    assert max(percentages[:-1]) < 100
    assert len(set(percentages)) > 10
    assert (seen[0].run, seen[0].plan, seen[0].measured) == (0, PLAIN, ())
    assert {(each.index, each.plan) for each in seen} == {(1, PLAIN), (2, TILED), (3, FLASH)}
    assert {each.run for each in seen} == {0, 1, 2}
    assert {(each.count, each.runs) for each in seen} == {(3, 2)}
    known = [len(each.measured) for each in seen]
    assert known == sorted(known)
    assert seen[-1].measured == report.measurements


async def test_cancelling_leaves_nothing(real_bench: Workbench) -> None:
    seen: list[CalibrationProgress] = []
    drawing = asyncio.Event()

    def on_progress(progress: CalibrationProgress) -> None:
        seen.append(progress)
        if progress.index == 2 and progress.percentage > 60:
            drawing.set()

    task = asyncio.ensure_future(
        calibrate(
            real_bench.generator, request(steps=20), plans=[PLAIN, TILED], store=store_of(real_bench.settings),
            on_progress=on_progress,
        )
    )  # fmt: skip
    await asyncio.wait_for(drawing.wait(), 120)
    family = psutil.Process().children(recursive=True)
    assert family
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 10)
    assert all_gone(family)
    assert recommended(real_bench.settings, "custom") == {}
    assert not list(real_bench.settings.jobs_dir.glob("*"))
    assert [each.plan for each in seen[-1].measured] == [PLAIN]


async def test_what_a_callback_raises_ends_it(bench: Workbench) -> None:
    def on_progress(progress: CalibrationProgress) -> None:
        if progress.run == 1:
            raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        await bench.calibrate(PLAIN, TILED, on_progress=on_progress)
    assert bench.asked == ["plain 2"]
    assert not psutil.Process().children(recursive=True)
