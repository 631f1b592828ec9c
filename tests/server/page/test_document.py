"""The page as a document: what is served, and under which rules."""

from __future__ import annotations

import base64
import gzip
import hashlib
import re
from pathlib import Path

import pytest
from serving import serving

from sdmanager.server.page.document import PARTS, document, join

FOLDER = Path(__file__).parents[3] / "sdmanager" / "server" / "page"
SIZE_MAX = 100_000


def html() -> str:
    return document().html.decode()


def sources() -> str:
    return "\n".join(path.read_text(encoding="utf-8") for path in sorted((FOLDER / "js").glob("*.js")))


def test_every_part_is_in_the_page():
    assert {path.stem for path in (FOLDER / "js").glob("*.js")} == {*PARTS, "theme"}
    assert "{{" not in html()


def test_the_page_is_small():
    assert len(document().html) <= SIZE_MAX


def test_the_policy_allows_what_is_in_the_page_and_nothing_else():
    blocks = re.findall(r"<(style|script)[^>]*>(.*?)</\1>", html(), re.S)
    digests = [
        f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for _, text in blocks
    ]
    rules = dict(rule.split(" ", 1) for rule in document().policy.split("; "))
    assert [kind for kind, _ in blocks] == ["style", "script", "script"]
    assert rules == {
        "default-src": "'none'",
        "style-src": digests[0],
        "script-src": f"{digests[1]} {digests[2]}",
        "img-src": "'self' data: blob:",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }


def test_the_page_names_no_address_of_others_and_sets_no_html():
    # The names of XML are no addresses that anybody asks.
    assert set(re.findall(r"https?://[^\s'\"<]+", html())) <= {"http://www.w3.org/2000/svg"}
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function", sources()
    )
    assert not re.search(
        r"\son\w+=|style=|javascript:", re.sub(r"<(style|script).*?</\1>", "", html(), flags=re.S)
    )


def test_what_the_scripts_look_for_is_in_the_page():
    ids = re.findall(r'\bid="([\w-]+)"', html())
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'\$\("([\w-]+)"\)', sources())) <= set(ids)
    assert set(re.findall(r'(?:for|aria-labelledby|aria-describedby)="([\w-]+)"', html())) <= set(ids)


def test_another_source_makes_another_tag_and_policy():
    def read(name: str) -> str:
        return (FOLDER / name).read_text(encoding="utf-8") + ("// changed" if name == "js/main.js" else "")

    changed = join(read)
    assert changed.tag != document().tag
    assert changed.policy != document().policy
    assert join(lambda name: (FOLDER / name).read_text(encoding="utf-8")) == document()


async def test_it_is_served_to_be_kept_and_asked_for_again(quick):
    reply = await quick.get("/", headers={"Accept-Encoding": "identity"})
    assert (reply.status, reply.body) == (200, document().html)
    assert reply.headers["Content-Type"] == "text/html; charset=utf-8"
    assert reply.headers["Content-Security-Policy"] == document().policy
    assert reply.headers["Referrer-Policy"] == "no-referrer"
    assert reply.headers["X-Content-Type-Options"] == "nosniff"
    assert reply.headers["Cache-Control"] == "no-cache"
    assert reply.headers["Vary"] == "Accept-Encoding"
    again = await quick.get(
        "/", headers={"Accept-Encoding": "identity", "If-None-Match": reply.headers["ETag"]}
    )
    assert (again.status, again.body) == (304, b"")
    assert again.headers["Content-Security-Policy"] == document().policy
    other = await quick.get("/", headers={"If-None-Match": '"other"'})
    assert other.status == 200
    head = await quick.ask("HEAD", "/", headers={"Accept-Encoding": "identity"})
    assert (head.status, head.headers["Content-Length"]) == (200, str(len(document().html)))


@pytest.mark.parametrize(
    ("accepted", "zipped"),
    [
        ("gzip, deflate, br", True), ("br;q=1.0, GZIP;q=0.5", True), ("identity", False),
        ("gzip;q=0", False), ("gzip; q=0.0", False), ("br", False), ("", False),
    ],
)  # fmt: skip
async def test_it_is_compressed_for_who_takes_that(quick, accepted, zipped):
    async with quick.client.get("/", headers={"Accept-Encoding": accepted}) as response:
        assert (response.headers.get("Content-Encoding") == "gzip") is zipped
        assert response.headers["ETag"].endswith('-gz"') is zipped
        assert await response.read() == document().html
    assert gzip.decompress(document().gzipped) == document().html


async def test_the_page_needs_no_token_and_the_api_behind_it_does(scripted, home):
    async with serving(scripted, home.generations_dir, policy={"token": "s3cret"}) as served:
        assert (await served.get("/")).status == 200
        assert (await served.get("/?x=1")).status == 200
        assert (await served.get("/v1/info")).status == 401
        assert (await served.ask("POST", "/", json={})).status in {401, 405}
        assert b"s3cret" not in (await served.get("/")).body
        assert (await served.get("/", headers={"Host": "evil.example"})).status == 403
