"""Jobs: an operation with its fields, and the stream of one."""

from __future__ import annotations

import base64
import io
import threading

import pytest
from PIL import Image
from scripted_generator import png, preview, progress, result_of
from serving import GENERATIONS, Reply, Served
from sse_client import events_of, names, set_times, soon, sse

from sdmanager.errors import EngineOutOfMemoryError
from sdmanager.server import jobs_api, streams

JOBS = "/v1/jobs"
JOB = {"operation": "ImageGeneration", "prompt": "a lighthouse", "width": 64, "height": 64, "steps": 4}


async def post(served: Served, fields: object, **options) -> Reply:
    return await served.ask("POST", JOBS, json=fields, **options)


async def job(served: Served, **fields) -> dict[str, str]:
    """A job that was taken."""
    reply = await post(served, JOB | fields)
    assert reply.status == 201, reply.body
    return reply.json


async def test_a_job_is_followed_to_its_pictures(real: Served) -> None:
    taken = await job(real, seed=5, count=2)
    assert taken == {"job_id": taken["job_id"], "sse_url": f"{JOBS}/{taken['job_id']}/stream"}
    async with sse(real.client, taken["sse_url"]) as reader:
        told = await reader.rest()
    assert all(event.data["type"] == event.name for event in told)
    assert set(names(told)) == {"progress", "preview", "complete"}  # previews without asking for them
    percents = [event.data["percent"] for event in told[:-1]]
    assert percents == sorted(percents)
    for event in told[:-1]:
        own = {"stage"} if event.name == "progress" else {"image", "format"}
        assert set(event.data) - {"eta_seconds"} == {"type", "step", "total", "percent", *own}
    assert any("eta_seconds" in event.data for event in told)
    end = told[-1]
    assert end.id == "end"
    assert set(end.data) == {"type", "images", "format", "seeds", "time_taken"}
    assert (end.data["format"], end.data["seeds"]) == ("png", [5, 6])
    for number, text in enumerate(end.data["images"]):
        data = base64.b64decode(text, validate=True)
        assert Image.open(io.BytesIO(data)).size == (64, 64)
        assert data == (await real.get(f"{GENERATIONS}/{taken['job_id']}/images/{number}")).body


async def test_a_job_is_a_generation_like_any_other(real: Served) -> None:
    taken = await job(real)
    assert (await real.until(taken["job_id"]))["status"] == "complete"
    async with sse(real.client, events_of(taken["job_id"])) as reader:
        assert names(await reader.rest()) == ["complete"]


async def test_null_turns_previews_off(quick: Served, scripted) -> None:
    for fields, wanted in (
        ({"previews": None}, None),
        ({}, "auto"),
        ({"previews": {"method": "proj"}}, "proj"),
    ):
        taken = await job(quick, **fields)
        previews = scripted.requests[-1].previews
        assert (previews and previews.method) == wanted
        await quick.ask("DELETE", f"{GENERATIONS}/{taken['job_id']}")


@pytest.mark.parametrize(
    "fields",
    [
        {k: v for k, v in JOB.items() if k != "operation"},
        JOB | {"operation": "VideoGeneration"},
        JOB | {"operation": None},
        JOB | {"operation": ["ImageGeneration"]},
        JOB | {"unknown": 1},
        JOB | {"prompt": 1},
        JOB | {"previews": "yes"},
    ],
)
async def test_what_is_no_such_job_is_refused(quick: Served, scripted, fields) -> None:
    reply = await post(quick, fields)
    assert (reply.status, reply.code) == (400, "INVALID_REQUEST")
    assert scripted.requests == []


async def test_the_same_key_gives_the_same_job(quick: Served, scripted) -> None:
    headers = {"Idempotency-Key": "k1"}
    replies = [await post(quick, JOB, headers=headers) for _ in range(2)]
    assert replies[0].json == replies[1].json
    assert ["Idempotency-Replayed" in reply.headers for reply in replies] == [False, True]
    assert len(scripted.requests) == 1


async def test_a_busy_server_says_when_to_come_back(quick: Served) -> None:
    await job(quick)
    reply = await post(quick, JOB)
    assert (reply.status, reply.code) == (503, "SERVER_BUSY")
    assert int(reply.headers["Retry-After"]) > 0


async def test_the_stream_of_a_job_goes_on_where_it_was_cut(quick: Served, scripted) -> None:
    taken = await job(quick)
    async with sse(quick.client, taken["sse_url"]) as reader:
        await reader.next()
        scripted.tell(progress(1), preview(1))
        assert names(await reader.until("preview")) == ["progress", "preview"]
        seen = reader.last_id
        reader.cut()
    scripted.tell(progress(2), preview(2), progress(3))
    await soon(lambda: quick.service.feed(taken["job_id"]).last_number == 6)
    async with sse(quick.client, taken["sse_url"], seen) as reader:
        missed = [await reader.next() for _ in range(3)]
        assert names(missed) == ["progress", "preview", "progress"]
        assert [event.data["step"] for event in missed] == [2, 2, 3]
        # As far as the job was when the preview came, not when it was fetched.
        assert [event.data["percent"] for event in missed] == [40, 40, 60]
        scripted.finish(result_of(1))
        (end,) = await reader.rest()
    assert base64.b64decode(end.data["images"][0]) == png(1)
    reply = await quick.get(taken["sse_url"], headers={"Last-Event-ID": "end"})
    assert (reply.status, reply.body) == (204, b"")


async def test_a_new_reader_of_a_job_gets_how_it_stands(quick: Served, scripted) -> None:
    set_times(quick, heartbeat=0.05)
    taken = await job(quick)
    scripted.tell(progress(1), preview(1), progress(2))
    await soon(lambda: quick.service.feed(taken["job_id"]).last_number == 4)
    async with sse(quick.client, taken["sse_url"]) as reader:
        standing = [await reader.next(), await reader.next()]
        assert [(event.name, event.data["step"], event.id) for event in standing] == [
            ("progress", 2, ""),
            ("preview", 1, "4"),
        ]
        assert await reader.heartbeat() == "keep-alive"


async def test_a_job_that_is_cancelled_ends_in_an_error_of_that_name(quick: Served, scripted) -> None:
    taken = await job(quick)
    await quick.ask("DELETE", f"{GENERATIONS}/{taken['job_id']}")
    async with sse(quick.client, taken["sse_url"]) as reader:
        (end,) = await reader.rest()
    assert (end.name, end.id) == ("error", "end")
    assert (end.data["type"], end.data["code"]) == ("error", "CANCELLED")


async def test_a_job_that_fails_says_what_to_do(quick: Served, scripted) -> None:
    taken = await job(quick)
    async with sse(quick.client, taken["sse_url"]) as reader:
        scripted.finish(EngineOutOfMemoryError("The memory ran out."))
        live = (await reader.rest())[-1]
    async with sse(quick.client, taken["sse_url"]) as reader:
        (late,) = await reader.rest()
    assert live == late
    assert live.data == {
        "type": "error",
        "message": "The memory ran out.",
        "code": "OUT_OF_MEMORY",
        "suggestion": EngineOutOfMemoryError.default_hint,
    }


async def test_the_pictures_of_a_job_are_encoded_beside_the_loop(
    quick: Served, scripted, monkeypatch
) -> None:
    threads = []

    def watched(name, data):
        threads.append((name, threading.current_thread() is threading.main_thread()))
        return streams.encode(name, data)

    monkeypatch.setattr(jobs_api, "encode", watched)
    taken = await job(quick)
    scripted.finish(result_of(2))
    await quick.until(taken["job_id"])
    async with sse(quick.client, taken["sse_url"]) as reader:
        (end,) = await reader.rest()
    assert len(end.data["images"]) == 2
    assert threads == [("complete", False)]


async def test_pictures_that_are_gone_are_an_error(quick: Served, scripted) -> None:
    taken = await job(quick)
    scripted.finish()
    await quick.until(taken["job_id"])
    result = quick.service.get(taken["job_id"]).result
    result.image.source.unlink()
    async with sse(quick.client, taken["sse_url"]) as reader:
        (end,) = await reader.rest()
    assert (end.name, end.data["code"]) == ("error", "IO_ERROR")


async def test_an_unknown_job_is_not_found(quick: Served) -> None:
    reply = await quick.get(f"{JOBS}/gen_0123/stream")
    assert (reply.status, reply.code) == (404, "NOT_FOUND")
