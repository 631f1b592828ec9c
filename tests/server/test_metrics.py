"""``/metrics``: parsed as Prometheus does it, after real generations and after scripted ones."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import timeit
from dataclasses import replace

import aiohttp
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse
from scripted_generator import ScriptedGenerator, preview, progress, replanned, result_of, stage
from serving import GENERATIONS, Served, serving

from sdmanager import DiffusionServerManager
from sdmanager.errors import EngineOutOfMemoryError
from sdmanager.generation import Cancelled, Completed, MemoryPlan, Stage, StageTimings
from sdmanager.server.metrics import OTHER, Histogram, Metrics


class Scrape:
    """What a server said."""

    def __init__(self, text: str, parser=parse) -> None:
        self.families = {family.name: family for family in parser(text)}
        self.samples = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in self.families.values()
            for sample in family.samples
        }

    def value(self, sample: str, /, **labels: str) -> float:
        return self.samples[f"sdmanager_{sample}", frozenset(labels.items())]

    def labelled(self, sample: str, label: str) -> dict[str, float]:
        """Values by one label, of samples that have no other."""
        found = {}
        for (name, labels), value in self.samples.items():
            if name == f"sdmanager_{sample}":
                ((only, which),) = labels
                assert only == label
                found[which] = value
        return found


async def scrape(served: Served, **options) -> Scrape:
    reply = await served.get("/metrics", **options)
    assert reply.status == 200, reply.body
    return Scrape(reply.body.decode())


async def settled(served: Served, generation_id: str) -> None:
    async with asyncio.timeout(60):
        await served.service.wait(generation_id)


async def test_real_generations_are_counted_with_their_stages(real: Served) -> None:
    before = await scrape(real)
    assert before.labelled("generations_total", "outcome") == {"complete": 0, "error": 0, "cancelled": 0}
    assert before.value("images_total") == 0
    first = await real.drawn(previews={})
    second = await real.drawn(count=2, steps=3)
    after = await scrape(real)
    assert after.labelled("generations_total", "outcome") == {"complete": 2, "error": 0, "cancelled": 0}
    assert after.value("images_total") == 3
    assert after.value("previews_total") == first["result"]["previews"]["count"] > 0
    model = first["result"]["model"]
    assert after.value("generation_seconds_count", model=model) == 2
    taken = (first["result"]["timeTaken"] + second["result"]["timeTaken"]) / 1000
    assert after.value("generation_seconds_sum", model=model) == pytest.approx(taken, abs=0.002)
    sampling = sum(body["result"]["timings"]["diffusion"] for body in (first, second)) / 1000
    assert after.value("stage_seconds_count", stage="diffusion") == 2
    assert after.value("stage_seconds_sum", stage="diffusion") == pytest.approx(sampling, abs=0.002)
    assert after.value("stage_seconds_count", stage="offloading") == 0
    assert after.value("queue_seconds_count") == 2


async def test_the_buckets_of_a_histogram_count_what_took_at_most_so_long(real: Served) -> None:
    await real.drawn()
    family = (await scrape(real)).families["sdmanager_generation_seconds"]
    assert family.type == "histogram"
    buckets = [sample for sample in family.samples if sample.name.endswith("_bucket")]
    bounds = [float(sample.labels["le"]) for sample in buckets]
    counts = [sample.value for sample in buckets]
    assert bounds == sorted(bounds)
    assert (bounds[0], bounds[-2], bounds[-1]) == (0.1, 1800.0, float("inf"))
    assert counts == sorted(counts)
    assert counts[-1] == 1


async def test_a_failure_and_a_cancel_are_counted_apart(quick: Served, scripted: ScriptedGenerator) -> None:
    failing = await quick.begin()
    scripted.finish(EngineOutOfMemoryError("The memory is full."))
    await settled(quick, failing)
    broken = await quick.begin()
    scripted.finish(RuntimeError("nobody thought of this"))
    await settled(quick, broken)
    cancelled = await quick.begin()
    await quick.ask("DELETE", f"{GENERATIONS}/{cancelled}")
    seen = await scrape(quick)
    assert seen.labelled("generations_total", "outcome") == {"complete": 0, "error": 2, "cancelled": 1}
    assert seen.labelled("generation_errors_total", "code") == {"OUT_OF_MEMORY": 1, "UNKNOWN_ERROR": 1}
    assert seen.value("images_total") == 0
    assert not seen.labelled("generation_seconds_count", "model")


async def test_previews_replans_and_programs_put_aside_are_counted(
    quick: Served, scripted: ScriptedGenerator
) -> None:
    generation = await quick.begin()
    plan = MemoryPlan(evictions=("ollama", "llama-server"))
    scripted.tell(
        stage(Stage.OFFLOADING), stage(Stage.LOADING), replanned("No room."), stage(Stage.OFFLOADING)
    )
    scripted.tell(progress(1), preview(1), preview(2), preview(3))
    timings = StageTimings(loading=0.2, diffusion=40.0, decoding=0.0, offloading=3.0)
    scripted.finish(replace(result_of(2), plan=plan, timings=timings, time_taken=45.0))
    await settled(quick, generation)
    seen = await scrape(quick)
    assert seen.value("previews_total") == 3
    assert seen.value("replans_total") == 1
    assert seen.value("offloads_total") == 2
    assert seen.labelled("offloaded_generations_total", "program") == {"ollama": 1, "llama-server": 1}
    assert seen.labelled("stage_seconds_sum", "stage") == {
        "loading": 0.2, "diffusion": 40.0, "decoding": 0.0, "offloading": 3.0,
    }  # fmt: skip
    assert seen.labelled("stage_seconds_count", "stage")["decoding"] == 0
    assert seen.value("generation_seconds_bucket", model="demo", le="30.0") == 0
    assert seen.value("generation_seconds_bucket", model="demo", le="60.0") == 1


async def test_the_queue_is_shown_as_it_stands_and_refusals_are_counted(
    queue: Served, scripted: ScriptedGenerator
) -> None:
    idle = await scrape(queue)
    assert (idle.value("busy"), idle.value("queue_waiting"), idle.value("queue_capacity")) == (0, 0, 2)
    generations = [await queue.begin() for _ in range(3)]
    refused = await queue.post({"prompt": "a cat"})
    assert refused.code == "SERVER_BUSY"
    full = await scrape(queue)
    assert (full.value("busy"), full.value("queue_waiting")) == (1, 2)
    assert full.labelled("http_errors_total", "code") == {"SERVER_BUSY": 1}
    for generation in generations:
        scripted.finish()
        await settled(queue, generation)
    assert (await scrape(queue)).value("queue_seconds_count") == 3


async def test_requests_are_counted_by_the_template_of_their_path(quick: Served) -> None:
    await quick.get(f"{GENERATIONS}/{'x' * 20}")
    await quick.get(f"{GENERATIONS}/another")
    await quick.get("/a/path/of/nobody")
    await quick.ask("PROPFIND", "/health")
    await quick.ask("OPTIONS", "/health")
    async with quick.client.ws_connect("/ws"):
        pass
    text = (await quick.get("/metrics")).body.decode()
    seen = Scrape(text)
    assert seen.value("http_requests_total", method="GET", route=f"{GENERATIONS}/{{id}}", status="404") == 2
    assert seen.value("http_requests_total", method="GET", route="-", status="404") == 1
    assert seen.value("http_requests_total", method="other", route="-", status="405") == 1
    assert seen.value("http_requests_total", method="GET", route="/ws", status="101") == 1
    assert seen.labelled("http_errors_total", "code") == {
        "NOT_FOUND": 2, "ROUTE_NOT_FOUND": 1, "METHOD_NOT_ALLOWED": 1,
    }  # fmt: skip
    for word in ("another", "nobody", "PROPFIND"):
        assert word not in text


async def test_what_expects_the_impossible_and_what_is_refused_is_counted_too(quick: Served) -> None:
    await quick.get("/health", headers={"Expect": "tea"})
    await quick.get("/health", headers={"Origin": "http://evil.example"})
    seen = await scrape(quick)
    assert seen.labelled("http_errors_total", "code") == {"INVALID_REQUEST": 1, "FORBIDDEN": 1}
    assert seen.value("http_requests_total", method="GET", route="/health", status="403") == 1


async def test_the_token_is_asked_for_in_every_way_that_a_scraper_has(scripted, home) -> None:
    async with serving(scripted, home.generations_dir, policy={"token": "s3cret"}) as served:
        assert (await served.get("/metrics")).status == 401
        for options in (
            {"headers": {"Authorization": "Bearer s3cret"}},
            {"headers": {"Authorization": "Basic cHJvbWV0aGV1czpzM2NyZXQ="}},
            {"params": {"token": "s3cret"}},
        ):
            seen = await scrape(served, **options)
        assert seen.labelled("http_errors_total", "code") == {"UNAUTHORIZED": 1}
        assert (await served.get("/metrics", headers={"Authorization": "Bearer x"})).status == 401


async def test_the_format_is_negotiated(quick: Served, scripted: ScriptedGenerator) -> None:
    generation = await quick.begin()
    scripted.finish()
    await settled(quick, generation)
    plain = await quick.get("/metrics")
    assert plain.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    accept = "application/openmetrics-text;version=1.0.0;q=0.7,text/plain;version=0.0.4;q=0.3,*/*;q=0.1"
    modern = await quick.get("/metrics", headers={"Accept": accept})
    assert modern.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    assert modern.body.endswith(b"# EOF\n")
    seen = Scrape(modern.body.decode(), parse_openmetrics)
    assert seen.value("generations_total", outcome="complete") == 1
    assert seen.families["sdmanager_stage_seconds"].unit == "seconds"
    head = await quick.ask("HEAD", "/metrics")
    assert (head.status, head.body) == (200, b"")
    for odd in (
        "application/openmetrics-text;version=x",
        "text/plain;version=9;escaping=",
        ";;;",
        "\xff",
        ",,",
    ):
        assert (await quick.get("/metrics", headers={"Accept": odd})).status == 200, odd


async def test_every_name_is_ours_and_has_its_help_and_unit(quick: Served) -> None:
    seen = await scrape(quick)
    assert {name for name in seen.families if not name.startswith("sdmanager_")} == set()
    for family in seen.families.values():
        assert family.documentation.endswith("."), family.name
        assert family.type in ("counter", "gauge", "histogram"), family.name
        if family.type == "histogram":
            assert family.name.endswith("_seconds")
    assert "sdmanager_build_info" in {name for name, _ in seen.samples}


async def test_two_managers_in_one_process_count_apart(settings, tmp_path) -> None:
    other = replace(settings, state_dir=tmp_path / "other")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "verdicts.json").write_bytes((settings.state_dir / "verdicts.json").read_bytes())
    async with (
        DiffusionServerManager(settings=settings) as one,
        DiffusionServerManager(settings=other) as two,
    ):
        for manager in (one, two):
            await manager.start(port="auto")
        await one.generate_image("a cat", width=64, height=64, steps=1)
        counts = []
        for manager in (one, two):
            seen = await _fetched(f"{manager.info().url}/metrics")
            counts.append(seen.value("generations_total", outcome="complete"))
            about = dict(next(labels for name, labels in seen.samples if name == "sdmanager_build_info"))
            assert about["variant"] == "cpu"
            assert about["version"] == manager.info().version
            assert seen.value("start_time_seconds") == manager.info().started_at / 1000
        assert counts == [1, 0]


async def _fetched(url: str) -> Scrape:
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        return Scrape(await response.text())


def test_starting_a_server_does_not_wait_for_the_library() -> None:
    code = "import sys, sdmanager.server, sdmanager.manager.manager; sys.exit('prometheus_client' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_event_is_counted_at_next_to_no_cost() -> None:
    metrics = Metrics()
    stamp = {"generation_id": "a", "sequence": 0, "elapsed": 0.0}
    events = [
        stage(Stage.DIFFUSION), progress(1), preview(1, data=b"x"), Completed(result=result_of(), **stamp),
    ]  # fmt: skip

    def count() -> None:
        for event in events:
            metrics.take(event)

    # A hundred times what it takes: this is about its order of magnitude, on however busy a machine.
    assert min(timeit.repeat(count, number=100, repeat=5)) / 100 / len(events) < 200e-6
    assert metrics.previews == 500


def test_nothing_is_kept_of_a_generation_that_has_ended() -> None:
    metrics = Metrics()
    for number in range(100):
        stamp = {"generation_id": str(number), "sequence": 0, "elapsed": 1.0}
        metrics.take(replace(stage(Stage.LOADING), **stamp))
        metrics.take(Cancelled(**stamp) if number % 2 else Completed(result=result_of(), **stamp))
    assert metrics.queue.count == 100
    assert not metrics._begun


def test_names_without_end_become_one() -> None:
    metrics = Metrics()
    stamp = {"generation_id": "a", "sequence": 0, "elapsed": 0.0}
    for number in range(200):
        metrics.take(Completed(result=replace(result_of(), model=f"model-{number}"), **stamp))
        metrics.answer(f"METHOD{number}", "-", 405)
    assert len(metrics.drawing) == 51
    assert metrics.drawing[OTHER].count == 150
    metrics.take(Completed(result=replace(result_of(), model="model-3"), **stamp))
    assert metrics.drawing["model-3"].count == 2
    assert metrics.requests == {(OTHER, "-", 405): 200}


def test_a_bound_is_within_its_bucket() -> None:
    histogram = Histogram()
    for seconds in (0.0, 0.1, 0.11, 1800.0, 1800.1):
        histogram.observe(seconds)
    buckets = dict(histogram.buckets())
    assert (buckets[0.1], buckets[0.25], buckets[1800.0], buckets[float("inf")]) == (2, 3, 4, 5)
    assert histogram.sum == pytest.approx(3600.31)
