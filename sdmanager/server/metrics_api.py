"""``GET /metrics``: what was counted, and how things stand, in the format of Prometheus."""

from __future__ import annotations

from math import isinf
from typing import TYPE_CHECKING, Final

from aiohttp import hdrs, web

from .door import route_of
from .face import FACE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from prometheus_client import Metric

    from .face import Face
    from .metrics import Histogram, Metrics

_OPENMETRICS: Final = "application/openmetrics-text; version=1.0.0"


def add_metrics_route(app: web.Application) -> None:
    """Add ``GET /metrics``, and count every answer; the application holds a ``Face`` under ``FACE``."""
    metrics = app[FACE].metrics

    async def count(request: web.Request, response: web.StreamResponse) -> None:
        metrics.answer(request.method, route_of(request), response.status)

    app.on_response_prepare.append(count)
    app.router.add_get("/metrics", _metrics)


async def _metrics(request: web.Request) -> web.StreamResponse:
    # Here, because most servers are never asked, and all are waited for when they start.
    from prometheus_client import CollectorRegistry
    from prometheus_client.exposition import choose_encoder

    # A registry of this answer's own: the default one belongs to the process, which may be an application.
    registry = CollectorRegistry()
    registry.register(_Collected(request.app[FACE]))
    asked = ",".join(request.headers.getall(hdrs.ACCEPT, ())).lower()
    # Not all that was asked: the library fails at versions that are no numbers.
    encode, content_type = choose_encoder(_OPENMETRICS if _OPENMETRICS.partition(";")[0] in asked else "")
    return web.Response(body=encode(registry), headers={hdrs.CONTENT_TYPE: content_type})


class _Collected:
    def __init__(self, face: Face) -> None:
        self._face = face

    def collect(self) -> Iterator[Metric]:
        """All families. Those with labels are there without samples, too, until there is something to say."""
        yield from _of_generations(self._face.metrics)
        yield from _of_requests(self._face.metrics)
        yield from _of_now(self._face)


def _of_generations(metrics: Metrics) -> Iterator[Metric]:
    yield _counter("generations", "Generations that ended.", _by("outcome", metrics.generations))
    yield _counter("generation_errors", "Generations that failed, by code.", _by("code", metrics.errors))
    yield _counter("images", "Pictures that were finished.", [({}, metrics.images)])
    yield _counter("previews", "Previews that were published.", [({}, metrics.previews)])
    replans = "Starts of the engine with stricter memory flags, after it ran out of memory."
    yield _counter("replans", replans, [({}, metrics.replans)])
    offloads = "Times that other programs began to be put aside."
    yield _counter("offloads", offloads, [({}, metrics.offloads)])
    offloaded = "Generations that were drawn while a program was aside."
    yield _counter("offloaded_generations", offloaded, _by("program", metrics.offloaded))
    drawing = "Seconds from a request's turn to its last picture, of complete generations."
    yield _histogram("generation_seconds", drawing, "model", metrics.drawing)
    stages = "Seconds in each stage that there was, of complete generations."
    yield _histogram("stage_seconds", stages, "stage", metrics.stages)
    queue = "Seconds from being accepted to the first stage."
    yield _histogram("queue_seconds", queue, None, {"": metrics.queue})


def _of_requests(metrics: Metrics) -> Iterator[Metric]:
    answers = [
        ({"method": method, "route": route, "status": str(status)}, count)
        for (method, route, status), count in metrics.requests.items()
    ]
    yield _counter("http_requests", "Requests that were answered, by the template of their path.", answers)
    yield _counter("http_errors", "Errors that were answered, by code.", _by("code", metrics.refusals))


def _of_now(face: Face) -> Iterator[Metric]:
    from prometheus_client.core import InfoMetricFamily

    info, service = face.info(), face.service
    yield _gauge("busy", "Whether a generation is being drawn, or the place is reserved.", service.busy)
    yield _gauge("queue_waiting", "Generations that wait.", service.waiting)
    yield _gauge("queue_capacity", "Generations that may wait.", service.queue_size)
    yield _gauge("programs_aside", "Programs that were put aside and are not back.", len(info.aside))
    if info.started_at is not None:
        started = "When the server started, in seconds since the epoch."
        yield _gauge("start_time_seconds", started, info.started_at / 1000)
    about = {"version": info.version}
    if info.engine is not None:
        about |= {"variant": info.engine.variant, "engine": info.engine.version or ""}
    yield InfoMetricFamily("sdmanager_build", "What is running.", value=about)


def _by(label: str, counts: Mapping[str, int]) -> list[tuple[dict[str, str], int]]:
    return [({label: name}, count) for name, count in counts.items()]


def _counter(name: str, about: str, samples: Iterable[tuple[Mapping[str, str], int]]) -> Metric:
    from prometheus_client.core import CounterMetricFamily

    family = CounterMetricFamily(f"sdmanager_{name}", about)
    for labels, value in samples:
        family.add_sample(f"sdmanager_{name}_total", dict(labels), value)
    return family


def _gauge(name: str, about: str, value: float) -> Metric:
    from prometheus_client.core import GaugeMetricFamily

    return GaugeMetricFamily(f"sdmanager_{name}", about, value=value)


def _histogram(name: str, about: str, label: str | None, found: Mapping[str, Histogram]) -> Metric:
    from prometheus_client.core import HistogramMetricFamily

    labels = [label] if label is not None else []
    family = HistogramMetricFamily(f"sdmanager_{name}", about, labels=labels, unit="seconds")
    for value, histogram in found.items():
        buckets = [
            ("+Inf" if isinf(bound) else str(bound), float(count)) for bound, count in histogram.buckets()
        ]
        family.add_metric([value] if label is not None else [], buckets, histogram.sum)
    return family
