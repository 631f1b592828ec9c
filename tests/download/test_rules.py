"""What answers mean, without any network."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdmanager.download import Patience
from sdmanager.download._rules import (
    RedirectRefusedError,
    SizeRefusedError,
    Verdict,
    judge,
    parse_content_range,
    parsed,
    redirected,
    retry_after,
    scrubbed,
    strong_etag,
)

NUMBERS = st.integers(0, 10**18 - 1)


@given(NUMBERS, NUMBERS, NUMBERS)
def test_a_content_range_comes_back_if_its_numbers_fit(first, last, total):
    found = parse_content_range(f"bytes {first}-{last}/{total}")
    assert found == ((first, last, total) if first <= last < total else None)


@given(st.text(st.sampled_from("bytes 0123456789-/*=,.+_\u00b2\u0663\t\nBYTES"), max_size=40) | st.text())
def test_a_content_range_is_understood_strictly_or_not_at_all(text):
    found = parse_content_range(text)
    if found is not None:
        first, last, total = found
        assert first <= last < total
        assert re.fullmatch(rf"\s*bytes +0*{first}-0*{last}/0*{total}\s*", text, re.IGNORECASE)


@pytest.mark.parametrize(
    "text",
    [None, "", "bytes", "bytes */10", "bytes 0-9/*", "bytes=0-9/10", "bytes 0-10/10", "bytes 9-0/10", "items 0-9/10",
     "bytes 0-9/10, 10-19/20", "bytes -1-9/10", "bytes \u0660-\u0669/1\u0660", "bytes 0-9/" + "9" * 5000],
    ids=ascii,
)  # fmt: skip
def test_what_is_no_content_range(text):
    assert parse_content_range(text) is None


@pytest.mark.parametrize(
    ("value", "expected"),
    [('"a"', '"a"'), (' "a" ', '"a"'), ('W/"a"', None), ("a", None), ("", None), (None, None), ('"a"b"', None),
     ('"é"', None), ('"a\r\nX: y"', None), ('""', '""')],
    ids=ascii,
)  # fmt: skip
def test_only_a_strong_etag_is_one(value, expected):
    assert strong_etag(value) == expected


@pytest.mark.parametrize(
    ("headers", "verdict"),
    [
        ({"content-range": "bytes 5-9/10"}, Verdict.GO_ON),
        ({"content-range": "bytes 5-9/10", "content-length": "5", "etag": '"a"'}, Verdict.GO_ON),
        ({"content-range": "bytes 5-9/10", "content-length": "6"}, Verdict.ASK_AGAIN),
        ({"content-range": "bytes 5-9/10", "etag": '"b"'}, Verdict.ASK_AGAIN),
        ({"content-range": "bytes 5-9/10", "content-encoding": "br"}, Verdict.ASK_AGAIN),
        ({"content-range": "bytes 5-8/10"}, Verdict.ASK_AGAIN),
        ({"content-range": "bytes 4-9/10"}, Verdict.ASK_AGAIN),
        ({"content-range": "bytes 5-10/11"}, Verdict.ASK_AGAIN),
        ({"content-type": "multipart/byteranges; boundary=x"}, Verdict.ASK_AGAIN),
    ],
)
def test_only_the_right_range_is_gone_on_with(headers, verdict):
    assert judge(206, headers, done=5, etag='"a"', size=10).verdict is verdict


@pytest.mark.parametrize(
    ("content_range", "verdict"),
    [("bytes */5", Verdict.COMPLETE), ("bytes */6", Verdict.ASK_AGAIN), (None, Verdict.ASK_AGAIN)],
)
def test_nothing_left_to_send_means_that_all_is_there(content_range, verdict):
    headers = {} if content_range is None else {"content-range": content_range}
    assert judge(416, headers, done=5, etag='"a"', size=None).verdict is verdict
    assert judge(416, headers, done=0, etag=None, size=None).verdict is Verdict.REFUSED


def test_a_length_that_cannot_be_is_refused_and_one_beside_chunks_is_not_believed():
    with pytest.raises(SizeRefusedError):
        judge(200, {"content-length": "9"}, done=0, etag=None, size=10)
    headers = {"content-length": "9", "transfer-encoding": "chunked"}
    assert judge(200, headers, done=0, etag=None, size=10).total == 10
    assert judge(200, headers, done=0, etag=None, size=None).total is None


NOW = datetime(2026, 1, 1, 12, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("value", "expected"),
    [("3", 3), ("0", 0), ("Thu, 01 Jan 2026 12:00:30 GMT", 30), ("Thu, 01 Jan 2026 11:00:00 GMT", 0), (None, None),
     ("", None), ("-1", None), ("soon", None), ("9" * 4000, None), ("Thu, 99 Jan 2026 12:00:30 GMT", None)],
    ids=lambda value: ascii(value)[:20],
)  # fmt: skip
def test_retry_after(value, expected):
    assert retry_after(value, NOW) == expected


@given(st.text())
def test_retry_after_takes_any_text(text):
    found = retry_after(text, NOW)
    assert found is None or found >= 0


@pytest.mark.parametrize(
    ("origin", "location", "expected"),
    [
        ("https://a/x", "/y", "https://a/y"),
        ("https://a/x", "https://b/y?t=1", "https://b/y?t=1"),
        ("https://u:p@a/x", "/y", "https://u:p@a/y"),
        ("https://u:p@a/x", "https://a:443/y", "https://u:p@a:443/y"),
        ("https://u:p@a/x", "https://b/y", "https://b/y"),
        ("https://u:p@a/x", "https://a:444/y", "https://a:444/y"),
        ("https://a/x", "https://u:p@b/y", "https://b/y"),
        ("http://a/x", "http://a:80/y", "http://a:80/y"),
        ("http://a:8080/x", "http://A:8080/y", "http://A:8080/y"),
        ("http://a/x", "https://b/y", "https://b/y"),
        ("http://u:p@a/x", "https://a/y", "https://a/y"),
        ("https://a/x", "//b/y", "https://b/y"),
    ],
)
def test_a_redirect_that_is_followed(origin, location, expected):
    assert redirected(origin, origin, location) == expected


@pytest.mark.parametrize(
    ("origin", "url", "location"),
    [
        ("https://a/x", "https://a/x", "http://a/y"),
        ("https://a/x", "https://b/x", "http://b/y"),
        ("http://a/x", "https://a/x", "http://a/x"),
        ("http://a/x", "http://a/x", "http://b/y"),
        ("http://a/x", "http://a/x", "http://a:81/y"),
        ("https://a/x", "https://a/x", "file:///etc/passwd"),
        ("https://a/x", "https://a/x", "https://[::1"),
        ("https://a/x", "https://a/x", "https://b:99999/"),
    ],
)
def test_a_redirect_that_is_not_followed(origin, url, location):
    with pytest.raises(RedirectRefusedError):
        redirected(origin, url, location)


@given(st.text())
def test_any_location_is_followed_to_https_or_refused(location):
    try:
        url = redirected("https://u:p@a/x", "https://u:p@a/x", location)
    except RedirectRefusedError:
        return
    assert url.startswith("https://")
    assert "u:p@" not in url or parsed(url).hostname == "a"


@given(st.text())
def test_any_address_is_scrubbed(url):
    assert "?" not in scrubbed(url)
    assert parsed(scrubbed(url)) is not None or scrubbed(url) == ""


@pytest.mark.parametrize(
    ("url", "shown"),
    [("https://u:p@h:8/a?b=c#d", "https://h:8/a"), ("https://u@p@h/a", "https://h/a"), ("HTTP://h", "http://h"),
     ("ftp://u:p@h/", ""), ("https://[::1]:8/", "https://[::1]:8/")],
)  # fmt: skip
def test_an_address_is_shown_without_credentials(url, shown):
    assert scrubbed(url) == shown


def test_pauses_double_up_to_the_longest():
    patience = Patience()
    assert [patience.pause(n) for n in (1, 2, 3, 4, 5, 6, 1000)] == [0.5, 1, 2, 4, 8, 8, 8]
