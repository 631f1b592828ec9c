"""What goes over the wire, held against the types that ``/openapi.json`` promises."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel
from results import PNG, a_result, some_progress

from sdmanager.errors import EngineCrashedError, StorageError
from sdmanager.generation import (
    Completed,
    ImageData,
    ImageRequest,
    MemoryPlan,
    MemoryUse,
    Preview,
    PreviewOptions,
    PreviewTimings,
    Progress,
    Stage,
    without_pictures,
)
from sdmanager.jobs import Failure, Generation, Status
from sdmanager.server import schemas
from sdmanager.server.wire import (
    failure_body,
    generation_body,
    generation_summary,
    preview_body,
    progress_body,
    request_body,
    result_body,
)
from sdmanager.server.words import end_words


def fits(model: type[BaseModel], body: dict) -> bool:
    """Whether these are exactly the fields, by their names on the wire."""
    return model.model_validate(body).model_dump(mode="json", by_alias=True, exclude_none=True) == body


def generation(status: Status, **fields: object) -> Generation:
    return Generation("gen_1", status, 1000, 2000, **fields)


progresses = st.builds(
    Progress,
    generation_id=st.just("x"),
    sequence=st.integers(0),
    elapsed=st.floats(0, 1e6),
    stage=st.sampled_from(Stage),
    step=st.integers(0, 1000),
    total_steps=st.integers(0, 1000),
    percentage=st.floats(0, 100),
    image=st.integers(1, 5),
    total_images=st.integers(1, 5),
    seconds_per_step=st.none() | st.floats(0, 1e6),
    eta_seconds=st.none() | st.floats(0, 1e9),
)


@given(progresses)
def test_progress_is_what_the_schema_says(progress: Progress) -> None:
    body = progress_body(progress)
    assert fits(schemas.ProgressBody, body)
    assert ("etaSeconds" in body) == (progress.eta_seconds is not None)


@given(st.floats(0, 100), st.floats(0, 100))
def test_a_percentage_keeps_its_order_and_is_100_only_at_the_end(one: float, other: float) -> None:
    low, high = (progress_body(some_progress(value))["percentage"] for value in sorted((one, other)))
    assert low <= high
    assert (high == 100) == (max(one, other) == 100)


def test_the_names_of_progress_are_the_protocols() -> None:
    assert progress_body(some_progress(12.345)) == {
        "currentStep": 1,
        "totalSteps": 20,
        "stage": "diffusion",
        "percentage": 12.35,
        "currentImage": 1,
        "totalImages": 1,
    }


@pytest.mark.parametrize(
    ("known", "extra"),
    [
        (generation(Status.PENDING), {}),
        (generation(Status.PENDING, position=3), {"queuePosition": 3}),
        (generation(Status.IN_PROGRESS, position=3), {}),
        (
            generation(Status.IN_PROGRESS, progress=some_progress()),
            {"progress": progress_body(some_progress())},
        ),
        (generation(Status.COMPLETE, result=a_result(), progress=some_progress()), {}),
        (generation(Status.CANCELLED, progress=some_progress()), {}),
        (generation(Status.ERROR, error=Failure("C", "m", None)), {"error": {"message": "m", "code": "C"}}),
    ],
)
def test_a_generation_shows_what_belongs_to_its_state(known: Generation, extra: dict) -> None:
    body = generation_body(known)
    assert body == {"id": "gen_1", "status": known.status, "createdAt": 1000, "updatedAt": 2000, **extra}
    assert fits(schemas.GenerationBody, body)
    assert fits(schemas.GenerationSummary, generation_summary(known))
    assert body.items() >= generation_summary(known).items()


def test_errors_have_a_suggestion_only_where_there_is_one() -> None:
    bare, full = Failure("C", "m", None), EngineCrashedError("It crashed.", hint="Do this.")
    assert failure_body(bare) == {"message": "m", "code": "C"}
    assert failure_body(full) == {
        "message": "It crashed.",
        "code": "ENGINE_CRASHED",
        "suggestion": "Do this.",
    }
    for failure in (bare, full):
        assert fits(schemas.ErrorInfo, failure_body(failure))


def test_a_result_has_its_pictures_and_milliseconds(tmp_path: Path) -> None:
    file = tmp_path / "0.png"
    file.write_bytes(PNG)
    body = result_body(a_result(file, PNG))
    assert fits(schemas.ResultBody, body)
    assert body["timeTaken"] == 1500
    assert [base64.b64decode(image["image"]) for image in body["images"]] == [PNG, PNG]
    assert [(image["seed"], image["width"], image["height"]) for image in body["images"]] == [
        (7, 64, 32),
        (8, 64, 32),
    ]
    assert body["timings"] == {"loading": 100, "diffusion": 1200, "decoding": 200, "offloading": 0}
    assert body["previews"] == {"count": 3, "firstAfter": 250, "reading": 10, "encoding": 20}


@pytest.mark.parametrize("previews", [None, PreviewTimings()])
def test_a_result_without_previews(previews: PreviewTimings | None) -> None:
    body = result_body(a_result(previews=previews))
    assert fits(schemas.ResultBody, body)
    assert body.get("previews") == (previews and {"count": 0, "reading": 0, "encoding": 0})


def test_a_result_says_what_memory_it_took_and_what_was_done_for_room() -> None:
    plan = MemoryPlan(vae_tiling=True, max_vram_gib=5.5, evictions=("ollama",), reasons=("Why.",))
    result = replace(a_result(), plan=plan, memory=MemoryUse(ram=5, weights=3), out_of_memory=(MemoryPlan(),))
    body = result_body(result)
    assert fits(schemas.ResultBody, body)
    assert body["plan"] == {
        "flags": ["--vae-tiling", "--max-vram 5.5"],
        "evictions": ["ollama"],
        "reasons": ["Why."],
    }
    assert body["memory"] == {"ramBytes": 5}
    assert body["outOfMemory"] == [{"flags": [], "evictions": [], "reasons": []}]
    assert not {"memory", "outOfMemory"} & result_body(a_result()).keys()


def test_a_result_says_what_was_drawn_without_pictures() -> None:
    plain = ImageRequest(prompt="a fox", steps=3, seed=7, previews=PreviewOptions())
    started = plain.model_copy(update={"init_image": PNG, "mask_image": PNG})
    shown = json.loads(json.dumps(result_body(replace(a_result(), request=without_pictures(plain)))))
    assert fits(schemas.ResultBody, shown)
    assert shown["request"].items() >= {"prompt": "a fox", "steps": 3, "seed": 7, "cfgScale": 7.5}.items()
    assert not {"initImage", "maskImage", "previews", "strength"} & shown["request"].keys()
    for request in (started, without_pictures(started)):
        result = replace(a_result(), request=request)
        assert json.loads(json.dumps(request_body(result)["request"])) == {
            **shown["request"],
            "strength": 0.75,
        }
    end = Completed(generation_id="x", sequence=0, elapsed=0.0, result=replace(a_result(), request=plain))
    assert json.loads(json.dumps(end_words(end)[1]["request"])) == shown["request"]
    assert "request" not in {**result_body(a_result()), **request_body(a_result())}


def test_a_result_whose_files_are_gone_is_a_typed_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError):
        result_body(a_result(tmp_path / "0.png"))


@pytest.mark.parametrize("inline", [True, False])
def test_a_preview_has_its_bytes_only_when_asked(inline: bool) -> None:
    preview = Preview(
        generation_id="x", sequence=0, elapsed=0.0, step=2, total_steps=4, image_index=1,
        image=ImageData(b"JPEG", "jpeg", 32, 16),
    )  # fmt: skip
    body = preview_body(preview, inline=inline)
    assert body.pop("image", None) == ("SlBFRw==" if inline else None)
    assert body == {
        "step": 2,
        "totalSteps": 4,
        "currentImage": 1,
        "width": 32,
        "height": 16,
        "format": "jpeg",
    }
