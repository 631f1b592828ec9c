"""What the server writes is what the client reads, field by field."""

from __future__ import annotations

import dataclasses
import json

import pytest
from scripted_generator import png, preview, progress

from sdmanager.client._asking import body_of
from sdmanager.client._bodies import FailureBody, GenerationBody, PreviewBody, ProgressBody
from sdmanager.errors import InvalidRequestError, SDManagerError, ServerBusyError
from sdmanager.generation import (
    EMPTY_PROMPT,
    GeneratedImage,
    GenerationResult,
    ImageRequest,
    Lora,
    MemoryPlan,
    MemoryUse,
    PreviewOptions,
    PreviewTimings,
    StageTimings,
)
from sdmanager.jobs import Failure, Generation, Status
from sdmanager.server.requests import image_request
from sdmanager.server.wire import failure_body, generation_body, preview_body, progress_body, result_body

STAMP = {"generation_id": "g", "sequence": 4, "elapsed": 1.0}
PLAN = MemoryPlan(
    vae_tiling=True,
    max_vram_gib=4.5,
    diffusion_flash_attention=False,
    evictions=("llm",),
    reasons=("Little.",),
)
RESULT = GenerationResult(
    images=(GeneratedImage(png(1), 7, 64, 64), GeneratedImage(png(2), 8, 64, 64)),
    time_taken=1.5,
    timings=StageTimings(0.25, 1.0, 0.125, 0.5),
    model="demo",
    variant="cpu",
    plan=PLAN,
    previews=PreviewTimings(3, 0.5, 0.01, 0.02),
    memory=MemoryUse(ram=1 << 30),
    out_of_memory=(MemoryPlan(), PLAN),
)


def sent(value: object) -> object:
    return json.loads(json.dumps(value))


@pytest.mark.parametrize(
    "result", [RESULT, dataclasses.replace(RESULT, previews=None, memory=None, out_of_memory=())]
)
def test_a_result_arrives_whole(result: GenerationResult) -> None:
    generation = Generation("g", Status.COMPLETE, 1000, 2500, result=result)
    body = {**generation_body(generation), "result": result_body(result)}
    read = GenerationBody.of(sent(body)).to_generation()
    assert read == generation
    assert read.result is not None
    for there, here in zip(
        (result.plan, *result.out_of_memory), (read.result.plan, *read.result.out_of_memory), strict=False
    ):
        assert (there.evictions, there.reasons) == (
            here.evictions,
            here.reasons,
        )  # not part of their equality


@pytest.mark.parametrize("prompt", ["a lighthouse", ""])
def test_what_was_drawn_arrives(prompt: str) -> None:
    drawn = ImageRequest.model_validate(
        {"prompt": prompt, "steps": 3, "preset": "fast", "loras": [{"name": "ink"}], "modelId": "demo"},
        context=EMPTY_PROMPT,
    ).with_seed()
    generation = Generation("g", Status.COMPLETE, 1, 2, result=dataclasses.replace(RESULT, request=drawn))
    body = {**generation_body(generation), "result": result_body(generation.result)}
    read = GenerationBody.of(sent(body)).to_generation().result
    assert read is not None
    assert read.request is not None
    assert read.request.model_dump(exclude={"strength", "previews"}) == drawn.model_dump(
        exclude={"strength", "previews"}
    )
    body["result"]["request"]["mood"] = "of a newer server"
    assert GenerationBody.of(sent(body)).to_generation().result.request is None


@pytest.mark.parametrize(
    "generation",
    [
        Generation("g", Status.PENDING, 1, 1, position=2),
        Generation(
            "g", Status.ERROR, 1, 2, error=Failure("OUT_OF_MEMORY", "There is none left.", "Use less.")
        ),
        Generation("g", Status.CANCELLED, 1, 2),
    ],
)
def test_how_a_generation_stands_arrives(generation: Generation) -> None:
    assert GenerationBody.of(sent(generation_body(generation))).to_generation() == generation


@pytest.mark.parametrize("eta", [None, 2.5])
def test_progress_arrives(eta: float | None) -> None:
    event = dataclasses.replace(progress(2, 8, eta), seconds_per_step=None, percentage=22.22, **STAMP)
    assert ProgressBody.of(sent(progress_body(event))).to_progress(STAMP) == event


def test_a_preview_arrives_with_its_bytes() -> None:
    event = dataclasses.replace(preview(2), **STAMP)
    assert PreviewBody.of(sent(preview_body(event, inline=True))).to_preview(STAMP) == event


@pytest.mark.parametrize("hint", [None, "Wait."])
def test_an_error_is_of_the_same_class(hint: str | None) -> None:
    error = FailureBody.of(sent(failure_body(ServerBusyError("Full.", hint=hint)))).to_error()
    assert type(error) is ServerBusyError
    assert error.message == "Full."
    assert error.hint == (hint or ServerBusyError.default_hint)
    assert type(FailureBody(message="New.", code="OF_A_NEWER_SERVER").to_error()) is SDManagerError


def test_what_a_newer_server_says_besides_is_passed_over() -> None:
    body = {**generation_body(Generation("g", Status.CANCELLED, 1, 2)), "mood": "good"}
    assert GenerationBody.of(body).to_generation().status is Status.CANCELLED


EVERYTHING = ImageRequest(
    prompt="a lighthouse", negative_prompt="fog", width=128, height=64, steps=3, preset="fast", cfg_scale=2.0,
    guidance=3.0, seed=5, sampler="euler", scheduler="karras", count=2, init_image=png(1), mask_image=png(2),
    strength=0.5, clip_skip=2, loras=[Lora(name="a/b", weight=0.5)], previews=PreviewOptions(stride=2, max_size=64),
    model_id="demo",
)  # fmt: skip


def test_every_field_of_a_request_arrives() -> None:
    assert EVERYTHING.model_fields_set == set(ImageRequest.model_fields)
    assert image_request(sent(body_of(EVERYTHING))) == EVERYTHING


def test_what_was_left_out_stays_out() -> None:
    assert body_of(ImageRequest(prompt="x", seed=None)) == {"prompt": "x"}
    assert body_of(ImageRequest(prompt="x", steps=20)) == {"prompt": "x", "steps": 20}


def test_pictures_that_are_paths_are_read_here(tmp_path) -> None:
    path = tmp_path / "cat.png"
    path.write_bytes(png(3))
    named, given = (ImageRequest(prompt="x", init_image=source) for source in (path, png(3)))
    assert body_of(named) == body_of(given)


@pytest.mark.parametrize("name", ["missing.png", ".", "nul\0.png"])
def test_a_picture_that_cannot_be_read_is_an_error_without_its_path(tmp_path, name) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        body_of(ImageRequest(prompt="x", init_image=tmp_path / name))
    assert caught.value.code == "INPUT_IMAGE_INVALID"
    assert str(tmp_path) not in caught.value.message


def test_pictures_larger_than_a_server_takes_are_refused_before_they_are_sent(tmp_path) -> None:
    path = tmp_path / "huge.png"
    with path.open("wb") as file:
        file.truncate(48 << 20)
    with pytest.raises(SDManagerError) as caught:
        body_of(ImageRequest(prompt="x", init_image=path))
    assert caught.value.code == "PAYLOAD_TOO_LARGE"
