"""Readers who come, lag behind and go."""

from __future__ import annotations

import asyncio

from scripted_generator import preview, progress

from sdmanager.generation import Cancelled, Preview
from sdmanager.jobs import Feed


def cancelled() -> Cancelled:
    return Cancelled(generation_id="inner", sequence=9, elapsed=1.0)


def numbers(feed: Feed, after: int = 0) -> list[int]:
    return [item.number for item in feed.since(after)]


def test_a_reader_gets_what_came_after_its_number():
    feed = Feed()
    for step in range(1, 5):
        feed.publish(progress(step))
    assert numbers(feed) == [1, 2, 3, 4]
    assert numbers(feed, 3) == [4]
    assert numbers(feed, 4) == []
    assert numbers(feed, 99) == []
    assert feed.last_number == 4


def test_of_previews_only_the_newest_is_kept():
    feed = Feed()
    for step in range(1, 4):
        feed.publish(progress(step))
        feed.publish(preview(step))
    assert [type(item.event).__name__ for item in feed.since(0)] == ["Progress"] * 3 + ["Preview"]
    assert isinstance(feed.preview.event, Preview)
    assert feed.preview.event.step == 3


def test_a_superseded_preview_loses_its_bytes_in_the_hands_of_a_slow_reader():
    feed = Feed()
    feed.publish(preview(1))
    [held] = feed.since(0)
    held.rendered["sse"] = b"x" * 1000
    feed.publish(preview(2))
    assert held.event is None
    assert held.rendered == {}


def test_the_end_takes_the_last_preview_away():
    feed = Feed()
    feed.publish(preview(1))
    feed.publish(cancelled())
    assert feed.preview is None
    assert numbers(feed) == [2]


def test_the_end_of_another_generation_leaves_the_preview_alone():
    feed = Feed()
    feed.publish(preview(1))
    feed.publish(Cancelled(generation_id="another", sequence=9, elapsed=1.0))
    assert feed.preview is not None
    assert numbers(feed) == [1, 2]


def test_closing_takes_the_last_preview_away():
    feed = Feed()
    feed.publish(preview(1))
    feed.close()
    assert feed.preview is None
    assert numbers(feed) == []


def test_only_so_much_is_kept():
    feed = Feed(capacity=10)
    for step in range(100):
        feed.publish(progress(step))
    assert numbers(feed) == list(range(91, 101))


async def test_waiting_ends_with_the_next_event_for_all_readers():
    feed = Feed()
    readers = [asyncio.create_task(feed.wait(0)) for _ in range(50)]
    await asyncio.sleep(0)
    feed.publish(progress(1))
    assert await asyncio.gather(*readers) == [True] * 50
    assert await feed.wait(0)


async def test_waiting_ends_when_the_time_is_over():
    assert not await Feed().wait(0, 0.01)


async def test_waiting_ends_when_the_feed_is_closed():
    feed = Feed()
    reader = asyncio.create_task(feed.wait(0))
    await asyncio.sleep(0)
    feed.close()
    assert await reader


async def test_one_who_stops_waiting_does_not_disturb_the_others():
    feed = Feed()
    gone, stays = (asyncio.create_task(feed.wait(0)) for _ in range(2))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.sleep(0)
    feed.publish(progress(1))
    assert await stays


async def test_following_gives_everything_to_a_reader_that_keeps_up():
    feed, seen = Feed(), []

    async def read() -> None:
        seen.extend([event async for event in feed.follow()])

    reader = asyncio.create_task(read())
    for step in range(1, 4):
        feed.publish(preview(step))
        for _ in range(5):
            await asyncio.sleep(0)
    feed.publish(cancelled())
    feed.close()
    await reader
    assert [type(event).__name__ for event in seen] == ["Preview"] * 3 + ["Cancelled"]


async def test_following_from_a_number_and_after_the_end():
    feed = Feed()
    for step in range(1, 4):
        feed.publish(progress(step))
    feed.publish(cancelled())
    feed.close()
    assert [type(event).__name__ async for event in feed.follow(2)] == ["Progress", "Cancelled"]
    assert [event async for event in feed.follow(4)] == []
