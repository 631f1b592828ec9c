"""Progress as people read it."""

from __future__ import annotations

import dataclasses
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdmanager.generation import ImageGenerationProgress, Progress, Stage

EVENT = Progress(
    generation_id="a", sequence=3, elapsed=12.5, stage=Stage.DIFFUSION, step=3, total_steps=8, percentage=37.5,
    image=1, total_images=1, seconds_per_step=2.0, eta_seconds=80.0,
)  # fmt: skip


def after(**changes: object) -> ImageGenerationProgress:
    return ImageGenerationProgress.of(dataclasses.replace(EVENT, **changes))


def test_an_event_in_other_words():
    progress = ImageGenerationProgress.of(EVENT)
    assert progress == ImageGenerationProgress(3, 8, 12.5, 80.0, 0.375)
    assert (progress.percent, progress.remaining_text) == (37, "~1m 20s remaining")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "~0s"),
        (0.4, "~0s"),
        (0.5, "~1s"),
        (45, "~45s"),
        (59.4, "~59s"),
        (59.6, "~1m 00s"),
        (60, "~1m 00s"),
        (80, "~1m 20s"),
        (119.5, "~2m 00s"),
        (3599.4, "~59m 59s"),
        (3599.9, "~1h 00m"),
        (3600, "~1h 00m"),
        (7185, "~2h 00m"),
        (7500, "~2h 05m"),
        (1e9, "~277777h 47m"),
        (-1, "~0s"),
        (-1e300, "~0s"),
    ],
)
def test_the_time_left(seconds, text):
    assert after(eta_seconds=seconds).remaining_text == f"{text} remaining"
    assert ImageGenerationProgress(0, 0, 0.0, seconds, 0.0).remaining_text == f"{text} remaining"


@pytest.mark.parametrize("seconds", [None, math.nan, math.inf, -math.inf])
def test_nothing_is_said_of_what_is_not_known(seconds):
    assert after(eta_seconds=seconds).estimated_remaining is None
    assert after(eta_seconds=seconds).remaining_text == ""
    assert ImageGenerationProgress(0, 0, 0.0, seconds, 0.0).remaining_text == ""


@pytest.mark.parametrize(
    ("percentage", "fraction", "percent"),
    [
        (0, 0, 0),
        (29, 0.29, 29),
        (57, 0.57, 57),
        (99.99, 0.9999, 99),
        (100, 1, 100),
        (-3, 0, 0),
        (130, 1, 100),
    ],
)
def test_percent(percentage, fraction, percent):
    progress = after(percentage=percentage)
    assert progress.fraction == pytest.approx(fraction)
    assert progress.percent == percent


def test_a_percentage_that_is_no_number():
    assert after(percentage=math.nan).percent == 0


@given(st.integers(0, 100))
def test_whole_percents_stay_what_they_are(percent):
    assert after(percentage=float(percent)).percent == percent


@given(st.floats(0, 1e12))
def test_no_unit_is_ever_sixty(seconds):
    text = after(eta_seconds=seconds).remaining_text
    assert re.fullmatch(r"~(\d+h [0-5]\dm|[1-5]?\dm [0-5]\ds|[1-5]?\ds) remaining", text)
