"""``progress``: how far that is which is being drawn, whoever asked for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sdmanager.generation import Preview, Progress, Replanned, Stage, StageChanged
from sdmanager.server.face import FACE
from sdmanager.server.responses import json_response
from sdmanager.server.wire import base64_text
from sdmanager.threads import in_thread

from .answers import timestamp
from .fields import as_flag
from .images import STOPS, Stop
from .pictures import preview_png

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aiohttp import web

    from sdmanager.generation import Event
    from sdmanager.jobs import FeedItem, Generation

_BEGUN: Final = 0.01
_STAGES: Final = {Stage.OFFLOADING: "Making room…", Stage.LOADING: "Loading the model…"}
_NAME: Final = "a1111"  # under which encoded previews are kept with their event


async def progress(request: web.Request) -> web.StreamResponse:
    """The state; with the newest preview unless ``skip_current_image`` says otherwise."""
    service = request.app[FACE].service
    drawn = service.current
    if drawn is None:
        # What waits, or holds the place, is drawn or gone soon.
        return json_response(progress_body(None, (), Stop(), jobs=service.waiting or int(service.busy)))
    generation, feed = service.get(drawn), service.feed(drawn)
    events = [item.event for item in feed.since(0)] if feed is not None else []
    stop = request.app[STOPS].get(drawn, Stop())
    body = progress_body(generation, events, stop)
    shown = feed.preview if feed is not None else None
    if shown is not None and not as_flag(request.query.get("skip_current_image", "")):
        body["current_image"] = await _shown(shown)
    return json_response(body)


async def _shown(item: FeedItem) -> str | None:
    """A preview as base64 of a PNG, encoded once for all who ask; None where it is gone, or cannot be read."""
    known = item.rendered.get(_NAME)
    if known is not None:
        return known.decode()
    if not isinstance(item.event, Preview):
        return None
    data = await in_thread(preview_png, item.event.image)
    if data is None:
        return None
    found = base64_text(data)
    item.rendered[_NAME] = found.encode()
    return found


def progress_body(
    generation: Generation | None, events: Sequence[Event | None], stop: Stop, *, jobs: int = 0
) -> dict[str, object]:
    """The answer, without a picture.

    Args:
        generation: What is being drawn, or None.
        events: What is known to have happened to it, in order.
        stop: Whether it is being stopped.
        jobs: How many are to be drawn where none is.
    """
    step = steps = done = 0
    told = generation.progress if generation is not None else None
    # Loading and decoding count other things; and loading may come back, when this has not gone back.
    sampled = next(
        (
            event
            for event in reversed(events)
            if isinstance(event, Progress) and event.stage is Stage.DIFFUSION
        ),
        None,
    )
    count = told.total_images if told is not None else jobs
    if sampled is not None:
        step, steps, done = sampled.step, sampled.total_steps, sampled.image - 1
        count = sampled.total_images
    fraction = share(done, count, step, steps)
    state = {
        "skipped": stop.skipped,
        "interrupted": stop.interrupted,
        "stopping_generation": False,
        "job": "scripts_txt2img" if count else "",
        "job_count": count,
        "job_timestamp": timestamp(generation.created_at / 1000) if generation is not None else "0",
        "job_no": done,
        "sampling_step": step,
        "sampling_steps": steps,
    }
    return {
        "progress": fraction,
        "eta_relative": _left(told, fraction, events),
        "state": state,
        "current_image": None,
        "textinfo": _what(told, events),
    }


def share(done: int, count: int, step: int, steps: int) -> float:
    """How far, from 0 to 1; is 0 only where there is nothing to do.

    Args:
        done: Pictures that are done.
        count: Pictures in all.
        step: Steps that are done of the next one.
        steps: Of how many; 0 while unknown.
    """
    if count <= 0:
        return 0.0
    part = step / steps if steps > 0 else 0.0
    return min(_BEGUN + done / count + part / count, 1.0)


def _left(told: Progress | None, fraction: float, events: Sequence[Event | None]) -> float:
    """Seconds: what is known of earlier pictures, or a guess from how long this one took so far."""
    if told is None or not fraction:
        return 0.0
    if told.eta_seconds is not None:
        return round(told.eta_seconds, 2)
    # Events count from when it was accepted: how long it waited says nothing about how long it takes.
    waited = next((event.elapsed for event in events if isinstance(event, StageChanged)), 0.0)
    took = max(told.elapsed - waited, 0.0)
    return round(took / fraction - took, 2)


def _what(told: Progress | None, events: Sequence[Event | None]) -> str | None:
    """What else is going on than drawing."""
    if told is None or told.stage not in _STAGES:
        return None
    for event in reversed(events):
        if isinstance(event, Replanned):
            return event.reason
        if isinstance(event, Progress) and event.stage is Stage.DIFFUSION:
            break
    return _STAGES[told.stage]
