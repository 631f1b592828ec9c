"""Server-Sent Events, put together from pieces of any size."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdmanager.client._sent_events import SentEvent, SentEvents

STREAM = (
    b"retry: 2000\n\n: connected\n\nid: 3\nevent: progress\ndata: {\"a\": 1}\n\n: keep-alive\n\n"
    b"event: preview\r\ndata: one\r\ndata: two\r\n\r\nid: end\revent: complete\rdata:{}\r\rdata: \xc3\xa9\n\n"
)  # fmt: skip
EVENTS = [
    SentEvent("progress", '{"a": 1}', "3"),
    SentEvent("preview", "one\ntwo", "3"),
    SentEvent("complete", "{}", "end"),
    SentEvent("message", "é", "end"),
]


def events_of(*pieces: bytes, last_id: str = "") -> list[SentEvent]:
    parser = SentEvents(last_id)
    return [event for piece in pieces for event in parser.feed(piece)]


def test_a_stream_is_read_as_the_standard_says() -> None:
    assert events_of(STREAM) == EVENTS


@given(st.lists(st.integers(0, len(STREAM)), max_size=30))
def test_where_it_is_cut_into_pieces_makes_no_difference(cuts: list[int]) -> None:
    places = [0, *sorted(cuts), len(STREAM)]
    pieces = [STREAM[start:end] for start, end in itertools.pairwise(places)]
    assert events_of(*pieces) == EVENTS


@pytest.mark.parametrize("size", range(len(STREAM)))
def test_what_is_cut_off_is_no_event(size: int) -> None:
    found = events_of(STREAM[:size])
    assert found == EVENTS[: len(found)]


def test_an_event_that_is_cut_off_does_not_count_as_seen() -> None:
    parser = SentEvents("7")
    assert list(parser.feed(b'id: 8\nevent: progress\ndata: {"a"')) == []
    (event,) = events_of(b"data: x\n\n", last_id="7")
    assert event.last_id == "7"


def test_an_event_without_data_is_none_but_its_id_counts() -> None:
    (event,) = events_of(b"id: 9\nevent: progress\n\ndata: x\n\n")
    assert event == SentEvent("message", "x", "9")


def test_bytes_that_are_no_text_do_not_end_the_stream() -> None:
    assert [event.data for event in events_of(b"data: \xff\n\ndata: x\n\n")] == ["\ufffd", "x"]
