"""The blocking face, with the real engine."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest
from processes import all_gone

from sdmanager import ImageRequest, generate_image
from sdmanager.errors import InvalidRequestError, ModelNotFoundError
from sdmanager.generation import Event, Preview, Progress
from sdmanager.models import ModelDefaults, ModelFiles, demo_model
from sdmanager.settings import Settings

SMALL = {"width": 64, "height": 64, "steps": 3}


def test_a_prompt_becomes_a_picture_and_a_file(settings: Settings, tmp_path: Path) -> None:
    result = generate_image("a lighthouse", settings=settings, seed=7, **SMALL)
    saved = result.image.save(tmp_path / "lighthouse.png")
    assert saved.read_bytes() == result.image.png
    assert (result.image.width, result.image.seed) == (64, 7)


def test_the_models_own_defaults_apply_where_the_caller_says_nothing(settings: Settings) -> None:
    result = generate_image("a lighthouse", settings=settings, steps=2)
    assert (result.image.width, result.image.height) == (256, 256)


def test_two_models_that_differ_in_their_defaults_alone(settings: Settings) -> None:
    files = demo_model(settings).files
    steps: list[int] = []
    for wanted in (2, 3):
        model = ModelFiles("mine", files, ModelDefaults(steps=wanted, width=64, height=64))
        generate_image(
            "x",
            model=model,
            settings=settings,
            on_progress=lambda e: e.stage == "diffusion" and steps.append(e.total_steps),
        )
        assert max(steps) == wanted


def test_a_whole_request_and_fields_over_it(settings: Settings) -> None:
    request = ImageRequest(prompt="a lighthouse", seed=7, **SMALL)
    assert generate_image(request, settings=settings, seed=8).image.seed == 8


def test_callbacks_come_in_the_callers_thread(settings: Settings) -> None:
    threads: set[int] = set()
    progress: list[Progress] = []
    previews: list[Preview] = []
    events: list[Event] = []

    def on_progress(event: Progress) -> None:
        threads.add(threading.get_ident())
        progress.append(event)

    generate_image(
        "a lighthouse", settings=settings, width=128, height=128, steps=8,
        on_progress=on_progress, on_preview=previews.append, on_event=events.append,
    )  # fmt: skip
    assert threads == {threading.get_ident()}
    assert progress[-1].percentage == 100
    assert previews
    assert [e for e in events if isinstance(e, Progress | Preview)] == sorted(
        [*progress, *previews], key=lambda event: event.sequence
    )


def test_an_error_of_a_callback_ends_the_engine_and_comes_out(settings: Settings) -> None:
    def on_progress(event: Progress) -> None:
        if event.step:
            raise ZeroDivisionError

    before = psutil.Process().children(recursive=True)
    with pytest.raises(ZeroDivisionError):
        generate_image("x", settings=settings, width=64, height=64, steps=500, on_progress=on_progress)
    assert psutil.Process().children(recursive=True) == before
    assert list(settings.jobs_dir.iterdir()) == []


def test_bad_fields_are_refused_before_anything_starts(settings: Settings) -> None:
    with pytest.raises(InvalidRequestError, match="width"):
        generate_image("x", settings=settings, width=65)


def test_a_model_is_named_once(settings: Settings) -> None:
    """By ``model``, or in the request by ``model_id``; two names are refused, and not one of them dropped."""
    small = {"width": 64, "height": 64, "steps": 1, "settings": settings}
    assert generate_image("x", model_id="demo", **small).model == "demo"
    assert generate_image("x", model="demo", model_id="demo", **small).model == "demo"
    with pytest.raises(InvalidRequestError, match="Two models"):
        generate_image("x", model="demo", model_id="other", **small)
    with pytest.raises(InvalidRequestError, match="Two models"):
        generate_image(ImageRequest(prompt="x", model_id="other"), model="demo", **small)
    with pytest.raises(InvalidRequestError, match="Two models"):
        generate_image("x", model=demo_model(settings), model_id="other", **small)
    with pytest.raises(ModelNotFoundError):
        generate_image("x", model_id="other", **small)


async def test_it_can_be_called_in_a_thread_of_an_application_with_its_own_loop(settings: Settings) -> None:
    results = await asyncio.gather(
        *(asyncio.to_thread(generate_image, "x", settings=settings, seed=seed, **SMALL) for seed in (1, 2))
    )
    assert [result.image.seed for result in results] == [1, 2]


INTERRUPTED = """
import sys
from pathlib import Path
from sdmanager import Settings, generate_image
data, home = map(Path, sys.argv[1:])
settings = Settings(data, home / "cache", home / "state")
def on_progress(event):
    if event.step == 3:
        print("drawing", flush=True)
try:
    generate_image("x", settings=settings, width=64, height=64, steps=1000, on_progress=on_progress)
except KeyboardInterrupt:
    print("interrupted", *(settings.jobs_dir.iterdir()))
"""


def test_ctrl_c_ends_the_engine_before_it_comes_out(settings: Settings, tmp_path: Path) -> None:
    argv = [sys.executable, "-c", INTERRUPTED, str(settings.data_dir), str(tmp_path)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "drawing\n"
        family = psutil.Process(child.pid).children(recursive=True)
        child.send_signal(signal.SIGINT)
        assert child.stdout.readline() == "interrupted\n"
        assert child.wait(10) == 0
    assert all_gone(family)


LEFT = """
import asyncio, contextlib, sys, threading
from pathlib import Path
from sdmanager import Settings, generate_image
data, home = map(Path, sys.argv[1:])
settings = Settings(data, home / "cache", home / "state")
drawing = threading.Event()
def draw():
    with contextlib.suppress(asyncio.CancelledError):
        generate_image("x", settings=settings, width=64, height=64, steps=1000, on_progress=lambda e: drawing.set())
threading.Thread(target=draw, daemon=True).start()
drawing.wait()
"""


def test_a_program_that_ends_while_drawing_leaves_nothing(settings: Settings, tmp_path: Path) -> None:
    argv = [sys.executable, "-c", LEFT, str(settings.data_dir), str(tmp_path)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert list((tmp_path / "cache" / "jobs").iterdir()) == []
    ours = [p for p in psutil.process_iter() if str(tmp_path) in _command_line(p)]
    assert ours == []


def _command_line(process: psutil.Process) -> str:
    try:
        return " ".join([*process.cmdline(), process.cwd()])
    except psutil.Error:
        return ""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a forked child exists only where fork does")
def test_a_forked_child_draws_for_itself(settings: Settings) -> None:
    generate_image("x", settings=settings, **SMALL)
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(0 if generate_image("x", settings=settings, **SMALL).images else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
