"""What goes wrong is said in the shape of the API that was asked, whether the door noticed it or a handler."""

from __future__ import annotations

import base64
import json

import pytest
from aiohttp import web
from raw_http import connected, exchange, request_bytes

from sdmanager.errors import ServerBusyError
from sdmanager.server.shapes import SPOKEN_AT, error_answer

TOKEN = "s3cret-t0ken"
LISTED = "http://app.example:3000"
JSON = ("Content-Type", "application/json")


def shape(body) -> str:
    """Which API's clients understand an error."""
    error = body["error"]
    if isinstance(error, dict):
        if error.keys() == {"message", "type", "param", "code"}:
            return "openai"
        assert error.keys() - {"suggestion"} == {"message", "code"}, error
        return "native"
    assert {"error", "detail", "body", "errors"} <= body.keys(), body
    assert isinstance(error, str)
    assert isinstance(body["detail"], str | list)
    return "a1111"


BASES = {
    "/v1/x": "native",
    "/openai/v1/x": "openai",
    "/v1/images/edits": "openai",
    "/v1/images/variations": "openai",
    "/sdapi/v1/x": "a1111",
}


def faulty(app):
    async def busy(request):
        raise ServerBusyError("Busy.", details={"retry_after": 3})

    async def broken(request):
        raise RuntimeError("no client may read this")

    async def too_large(request):
        raise web.HTTPRequestEntityTooLarge(1, 2)

    async def too_slow(request):
        raise web.HTTPRequestTimeout

    async def other(request):
        request[SPOKEN_AT] = request.query["at"]
        raise ServerBusyError("Busy.")

    for base in BASES:
        for handler in (busy, broken, too_large, too_slow, other):
            app.router.add_post(f"{base}/{handler.__name__}", handler)
        app.router.add_post(base, busy)


@pytest.mark.parametrize("base", BASES)
async def test_every_refusal_has_the_shape_of_its_path(door_serve, base):
    server = await door_serve(faulty, policy={"token": TOKEN})
    own = ("Authorization", f"Bearer {TOKEN}")
    replies = {
        400: await server.ask("POST", base, own, ("Upgrade", "x"), ("Content-Length", "1x")),
        401: await server.ask("POST", base, JSON, body=b"{}"),
        403: await server.ask("GET", base, own, ("Origin", "http://evil.example")),
        404: await server.ask("GET", f"{base}/nothing/here", own),
        405: await server.ask("DELETE", base, own),
        408: await server.ask("POST", f"{base}/too_slow", own, JSON, body=b"{}"),
        413: await server.ask("POST", f"{base}/too_large", own, JSON, body=b"{}"),
        415: await server.ask("POST", base, own, ("Content-Type", "text/plain"), body=b"{}"),
        417: await server.ask("GET", base, own, ("Expect", "tea")),
        500: await server.ask("POST", f"{base}/broken", own, JSON, body=b"{}"),
    }
    for status, reply in replies.items():
        assert shape(reply.json) == BASES[base], (status, reply.body)
        assert reply.get("Content-Type") == "application/json; charset=utf-8"
        assert reply.get("X-Content-Type-Options") == "nosniff"
        assert b"no client may" not in reply.body
        assert status in (reply.status, 400), reply.body
    busy = await server.ask("POST", f"{base}/busy", own, JSON, body=b"{}")
    assert shape(busy.json) == BASES[base]
    assert busy.get("Retry-After") == "3"
    assert "OPTIONS" in replies[405].get("Allow")


@pytest.mark.parametrize(
    ("path", "challenge"),
    [
        ("/sdapi/v1/x", 'Basic realm="sdmanager"'),
        ("/openai/v1/x", "Bearer"),
        ("/v1/x", "Bearer"),
        ("/x", "Bearer"),
    ],
)
async def test_a_missing_token_is_asked_for_in_the_way_of_the_path(door_serve, path, challenge):
    server = await door_serve(faulty, policy={"token": TOKEN})
    for target in (path, f"/{path}", f"{path}/"):
        reply = await server.ask("GET", target)
        assert (reply.status, reply.all("WWW-Authenticate")) == (401, [challenge])


async def test_basic_opens_every_path_with_any_user_name(door_serve):
    server = await door_serve(faulty, policy={"token": TOKEN})

    for user in ("", "somebody"):
        credentials = base64.b64encode(f"{user}:{TOKEN}".encode()).decode()
        for base in (*BASES, "/things/1"):
            reply = await server.ask("GET", f"{base}/nothing", ("Authorization", f"Basic {credentials}"))
            assert reply.status == 404


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/openai", "openai"),
        ("/openai/", "openai"),
        ("//openai//v1/", "openai"),
        ("/openai/v1/images/generations", "openai"),
        ("/v1/images/edits/", "openai"),
        ("/sdapi", "a1111"),
        ("//sdapi/v1/txt2img", "a1111"),
        ("/", "native"),
        ("", "native"),
        ("*", "native"),
        ("/openaiv1", "native"),
        ("/sdapi2/v1", "native"),
        ("/v1/images/editsx", "native"),
        ("/v1/images/generations", "native"),
        ("/x/openai/", "native"),
    ],
)
def test_a_path_belongs_to_one_api(path, expected):

    assert shape(json.loads(error_answer(path, ServerBusyError("Busy.")).body)) == expected


@pytest.mark.parametrize(("at", "expected"), [("/openai", "openai"), ("/sdapi", "a1111"), ("/v1", "native")])
async def test_a_handler_may_say_that_a_request_speaks_another_api(door_serve, at, expected):
    server = await door_serve(faulty)
    reply = await server.ask("POST", f"/v1/x/other?at={at}", JSON, body=b"{}")
    assert shape(reply.json) == expected


@pytest.mark.parametrize("base", BASES)
async def test_what_the_parser_refuses_has_the_shape_of_its_path_where_that_can_be_read(door_serve, base):
    server = await door_serve(faulty)
    own = ("Host", f"127.0.0.1:{server.port}")
    for headers, status in (
        ([own, own], 403),
        ([("X", "1")], 403),
        ([own, ("Content-Length", "-1")], 400),
        ([own, ("Content-Length", "1"), ("Transfer-Encoding", "chunked")], 400),
    ):
        reply = await exchange(server.port, request_bytes("POST", f"{base}?x=1", [*headers, JSON]))
        assert shape(reply.json) == BASES[base]
        assert reply.status in (status, 422), reply.body
    async with connected(server.port) as connection:
        connection.send(b"GARBAGE\r\n\r\n")
        assert shape((await connection.reply()).json) == "native"


class TestPreflights:
    """What OpenAI's SDK sends from a page of an allowed origin."""

    ASKED = (
        "authorization,content-type,openai-organization,openai-project,x-stainless-arch,x-stainless-lang,"
        "x-stainless-os,x-stainless-package-version,x-stainless-retry-count,x-stainless-runtime,"
        "x-stainless-runtime-version,x-stainless-timeout"
    )

    async def preflight(self, server, asked, origin=LISTED):
        return await server.ask(
            "OPTIONS",
            "/openai/v1/images/generations",
            ("Origin", origin),
            ("Access-Control-Request-Method", "POST"),
            *(("Access-Control-Request-Headers", value) for value in asked),
        )

    async def test_the_headers_that_it_asks_for_are_allowed(self, door_serve):
        server = await door_serve(policy={"allow_origin": [LISTED], "token": TOKEN})
        reply = await self.preflight(server, [self.ASKED])
        assert (reply.status, reply.get("Access-Control-Allow-Origin")) == (204, LISTED)
        (allowed,) = reply.all("Access-Control-Allow-Headers")
        assert set(self.ASKED.split(",")) <= {name.strip().lower() for name in allowed.split(",")}
        assert reply.get("Access-Control-Allow-Credentials") is None
        assert "POST" in reply.get("Access-Control-Allow-Methods")

    async def test_what_is_no_name_of_a_header_is_not_repeated(self, door_serve):
        server = await door_serve(policy={"allow_origin": [LISTED]})
        reply = await self.preflight(server, ['x-fine, x bad, "x", <x>, *ok*, \xe4, , ' + "a" * 65, "x-more"])
        allowed = {name.strip() for name in reply.get("Access-Control-Allow-Headers").split(",")}
        assert allowed == {
            "Authorization", "Content-Type", "Idempotency-Key", "If-None-Match", "Last-Event-ID",
            "x-fine", "x-more", "*ok*",
        }  # fmt: skip

    async def test_however_many_are_asked_for_the_answer_stays_short(self, door_serve):
        server = await door_serve(policy={"allow_origin": [LISTED]})
        reply = await self.preflight(server, [",".join(f"x-{number}" for number in range(2000))])
        assert len(reply.get("Access-Control-Allow-Headers").split(",")) <= 55

    async def test_nothing_is_repeated_to_strangers_and_to_our_own_page(self, door_serve):
        server = await door_serve(policy={"allow_origin": [LISTED]})
        for origin, status in (("http://evil.example", 403), (f"http://127.0.0.1:{server.port}", 204)):
            reply = await self.preflight(server, ["x-fine"], origin)
            assert reply.status == status
            assert not [name for name, _ in reply.headers if name.startswith("access-control")]

    async def test_what_tells_an_sdk_whether_to_try_again_can_be_read(self, door_serve):
        server = await door_serve(faulty, policy={"allow_origin": [LISTED]})
        reply = await server.ask("POST", "/openai/v1/x", JSON, ("Origin", LISTED), body=b"{}")
        exposed = {name.strip().lower() for name in reply.get("Access-Control-Expose-Headers").split(",")}
        assert {"x-request-id", "x-should-retry", "retry-after"} <= exposed
