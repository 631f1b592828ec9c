"""The door before a real server: refusals, origins, tokens, paths, faults, and what every answer has."""

from __future__ import annotations

import asyncio
import logging

import aiohttp
import pytest
from aiohttp import web
from raw_http import connected, exchange, request_bytes

from sdmanager.errors import ServerBusyError

LISTED = "http://app.example:3000"
SECRET = "s3cret-t0ken"


def protected(reply):
    return (
        reply.get("Server") == "sdmanager"
        and reply.get("X-Content-Type-Options") == "nosniff"
        and reply.get("Cross-Origin-Resource-Policy") == "same-origin"
    )


class TestAnswers:
    async def test_what_comes_in_is_answered_with_the_headers_that_all_have(self, door_serve):
        server = await door_serve()
        reply = await server.ask("GET")
        assert (reply.status, reply.json) == (200, {"ok": True})
        assert protected(reply)
        assert reply.get("Cache-Control") == "no-store"
        assert reply.get("Access-Control-Allow-Origin") is None
        assert reply.get("Vary") is None

    async def test_an_unknown_path_and_a_method_that_is_not_taken(self, door_serve):
        server = await door_serve()
        missing = await server.ask("GET", "/nothing?here")
        assert (missing.status, missing.code) == (404, "ROUTE_NOT_FOUND")
        wrong = await server.ask("GET", "/json")
        assert (wrong.status, wrong.code) == (405, "METHOD_NOT_ALLOWED")
        assert {part.strip() for part in wrong.get("Allow").split(",")} == {"POST", "OPTIONS"}
        assert protected(missing)
        assert protected(wrong)

    async def test_refusals_come_before_routing(self, door_serve):
        server = await door_serve()
        for target in ("/nothing", "/json", "//json/"):
            reply = await server.ask("GET", target, ("Origin", "http://evil.example"))
            assert (reply.status, reply.code) == (403, "FORBIDDEN")
            assert protected(reply)

    async def test_faults_of_handlers_are_answered_in_one_shape(self, door_serve, caplog):
        async def busy(request):
            raise ServerBusyError("A generation is in hand.", details={"retry_after": 3})

        async def broken(request):
            raise RuntimeError("no client may read this")

        async def too_large(request):
            raise web.HTTPRequestEntityTooLarge(1, 2)

        async def odd(request):
            raise web.HTTPUnprocessableEntity

        async def unavailable(request):
            raise web.HTTPServiceUnavailable

        async def moved(request):
            raise web.HTTPFound("/")

        def routes(app):
            for handler in (busy, broken, too_large, odd, unavailable, moved):
                app.router.add_get(f"/faults/{handler.__name__}", handler)

        server = await door_serve(routes)
        replies = {
            name: await server.ask("GET", f"/faults/{name}?token={SECRET}")
            for name in ("busy", "broken", "too_large", "odd", "unavailable")
        }
        assert {name: (reply.status, reply.code) for name, reply in replies.items()} == {
            "busy": (503, "SERVER_BUSY"),
            "broken": (500, "SERVER_ERROR"),
            "too_large": (413, "PAYLOAD_TOO_LARGE"),
            "odd": (422, "INVALID_REQUEST"),
            "unavailable": (503, "SERVER_ERROR"),
        }
        assert replies["busy"].get("Retry-After") == "3"
        assert all(map(protected, replies.values()))
        assert b"no client" not in replies["broken"].body
        logged = [record for record in caplog.records if record.levelno >= logging.WARNING]
        assert [record.getMessage() for record in logged] == ["The handler of GET /faults/broken failed."]
        assert logged[0].exc_info is not None
        assert SECRET not in caplog.text
        assert (await server.ask("GET", "/faults/moved")).status == 302

    async def test_a_stream_whose_handler_fails_is_cut_and_not_answered_twice(self, door_serve, caplog):
        async def stream(request):
            response = web.StreamResponse()
            await response.prepare(request)
            await response.write(b"begun")
            raise ServerBusyError("too late")

        server = await door_serve(lambda app: app.router.add_get("/stream", stream))
        async with connected(server.port) as connection:
            connection.send(request_bytes("GET", "/stream", [("Host", f"127.0.0.1:{server.port}")]))
            got = await connection.ended()
        assert got.count(b"HTTP/1.1") == 1
        assert got.endswith(b"begun\r\n")  # and no last chunk, which would say that this was all
        assert b"nosniff" in got

    async def test_a_client_that_leaves_ends_the_handler_without_a_word(self, door_serve, caplog):
        ended = asyncio.Event()

        async def forever(request):
            response = web.StreamResponse()
            await response.prepare(request)
            try:
                while True:
                    await response.write(b"x" * 1000)
                    await asyncio.sleep(0.01)
            finally:
                ended.set()

        server = await door_serve(lambda app: app.router.add_get("/forever", forever))
        async with connected(server.port) as connection:
            connection.send(request_bytes("GET", "/forever", [("Host", f"127.0.0.1:{server.port}")]))
            await connection.reader.readuntil(b"xxx")
        async with asyncio.timeout(60):
            await ended.wait()
        assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


class TestOrigins:
    async def test_a_listed_origin_may_read(self, door_serve):
        server = await door_serve(policy={"allow_origin": [LISTED]})
        reply = await server.ask("GET", "/", ("Origin", LISTED))
        assert reply.get("Access-Control-Allow-Origin") == LISTED
        assert reply.get("Vary") == "Origin"
        assert reply.get("Cross-Origin-Resource-Policy") == "cross-origin"
        assert reply.get("Access-Control-Allow-Credentials") is None

    async def test_errors_can_be_read_by_it_too(self, door_serve):
        server = await door_serve(policy={"allow_origin": [LISTED], "token": SECRET})
        for target, *headers in (("/things/1",), ("/nothing", ("Authorization", f"Bearer {SECRET}"))):
            reply = await server.ask("GET", target, ("Origin", LISTED), *headers)
            assert reply.status in (401, 404)
            assert reply.get("Access-Control-Allow-Origin") == LISTED

    async def test_its_preflight_is_answered_without_a_token(self, door_serve):
        server = await door_serve(policy={"allow_origin": [LISTED], "token": SECRET})
        for target in ("/json", "//json/", "/things/1"):
            reply = await server.ask(
                "OPTIONS",
                target,
                ("Origin", LISTED),
                ("Sec-Fetch-Site", "cross-site"),
                ("Access-Control-Request-Method", "POST"),
                ("Access-Control-Request-Headers", "content-type"),
            )
            assert reply.status == 204
            assert reply.get("Access-Control-Allow-Origin") == LISTED
            assert {"GET", "POST", "DELETE"} <= set(reply.get("Access-Control-Allow-Methods").split(", "))
            allowed = set(reply.get("Access-Control-Allow-Headers").split(", "))
            assert allowed == {
                "Authorization", "Content-Type", "Idempotency-Key", "If-None-Match", "Last-Event-ID",
            }  # fmt: skip

    async def test_a_strangers_preflight_is_refused_without_a_word_about_origins(self, door_serve):
        server = await door_serve(policy={"allow_origin": [LISTED]})
        reply = await server.ask("OPTIONS", "/json", ("Origin", "http://evil.example"))
        assert reply.status == 403
        assert not [name for name, _ in reply.headers if name.startswith("access-control")]

    async def test_plain_options_is_answered_and_says_nothing_of_origins(self, door_serve):
        server = await door_serve()
        for headers in ([], [("Origin", f"http://127.0.0.1:{server.port}")]):
            reply = await server.ask("OPTIONS", "/json", *headers)
            assert reply.status == 204
            assert reply.body == b""
            assert not [name for name, _ in reply.headers if name.startswith("access-control")]

    @pytest.mark.parametrize(
        ("target", "methods"),
        [
            ("/json", "OPTIONS, POST"),
            ("/things/1", "DELETE, GET, OPTIONS, POST, PUT"),
            ("/nothing", "OPTIONS"),
            ("*", "OPTIONS"),
        ],
    )
    async def test_options_names_the_methods_that_the_path_takes(self, door_serve, target, methods):
        server = await door_serve()
        assert (await server.ask("OPTIONS", target)).get("Allow") == methods


class TestExpectations:
    """aiohttp itself answers ``Expect`` before any middleware runs."""

    async def test_an_unknown_one_is_refused_in_our_shape(self, door_serve):
        server = await door_serve(policy={"allow_origin": [LISTED]})
        for method, target in (("GET", "/"), ("GET", "/nothing"), ("DELETE", "/json"), ("OPTIONS", "*")):
            for expected in (["s3cret"], ["100-continue", "s3cret"]):
                headers = [("Expect", value) for value in expected]
                reply = await server.ask(method, target, ("Origin", LISTED), *headers)
                assert (reply.status, reply.code) == (417, "INVALID_REQUEST")
                assert reply.get("Content-Type") == "application/json; charset=utf-8"
                assert reply.get("Access-Control-Allow-Origin") == LISTED
                assert (reply.get("Server"), reply.get("X-Content-Type-Options")) == ("sdmanager", "nosniff")
                assert b"s3cret" not in reply.body
        assert not server.reached

    async def test_a_stranger_learns_nothing_from_one(self, door_serve):
        server = await door_serve(policy={"token": SECRET})
        own = ("Host", f"127.0.0.1:{server.port}")
        for target in ("/json", "/nothing"):
            for expected in ("100-continue", "s3cret"):
                for headers, status in (
                    ([("Host", "evil.example")], 403),
                    ([own, ("Origin", "http://evil.example")], 403),
                    ([own, ("Content-Type", "application/json")], 401),
                ):
                    data = request_bytes("POST", target, [*headers, ("Expect", expected)], b"{}")
                    reply = await exchange(server.port, data)
                    assert (reply.status, protected(reply)) == (status, True)
                    assert b"s3cret" not in reply.body
        assert not server.reached

    async def test_who_may_ask_is_told_to_go_on(self, door_serve):
        server = await door_serve()
        headers = [
            ("Host", f"127.0.0.1:{server.port}"),
            ("Content-Type", "application/json"),
            ("Content-Length", "8"),
            ("Expect", "100-Continue"),
        ]
        async with connected(server.port) as connection:
            connection.send(request_bytes("POST", "/json", headers))
            assert (await connection.reply()).status == 100
            connection.send(b'{"a": 1}')
            assert (await connection.reply()).json == {"got": {"a": 1}}


class TestTokens:
    async def test_the_token_opens_by_header_and_for_get_by_query(self, door_serve):
        server = await door_serve(policy={"token": SECRET})
        bearer = ("Authorization", f"Bearer {SECRET}")
        assert (await server.ask("GET", "/things/1", bearer)).status == 200
        assert (await server.ask("GET", f"/things/1?token={SECRET}")).status == 200
        assert (await server.ask("GET", f"/things/1?token={SECRET}", bearer)).status == 200
        assert (await server.ask("DELETE", "/things/1", bearer)).status == 200
        assert (await server.ask("DELETE", f"/things/1?token={SECRET}")).status == 401

    async def test_without_it_nothing_is_told_and_nothing_logged(self, door_serve, caplog):
        caplog.set_level(logging.DEBUG)
        server = await door_serve(policy={"token": SECRET})
        replies = [
            await server.ask("GET", "/things/1"),
            await server.ask("GET", "/nothing"),
            await server.ask("GET", f"/things/1?token={SECRET}x"),
            await server.ask("POST", "/", ("Authorization", f"Basic {SECRET}")),
        ]
        for reply in replies:
            assert (reply.status, reply.code) == (401, "UNAUTHORIZED")
            assert reply.get("WWW-Authenticate") == "Bearer"
            assert SECRET.encode() not in reply.body
        assert SECRET not in caplog.text
        assert not server.reached

    async def test_any_authorization_is_ignored_where_there_is_none(self, door_serve):
        server = await door_serve()
        for value in ("", "Basic Og==", "Bearer x", "\udcff"):
            assert (await server.ask("GET", "/things/1", ("Authorization", value))).status == 200


class TestWebSockets:
    @pytest.mark.parametrize(
        ("origin", "status"), [(None, 101), (LISTED, 101), ("http://evil.example", 403), ("null", 403)]
    )
    async def test_an_upgrade_is_judged_like_any_request(self, door_serve, origin, status):
        async def socket(request):
            ws = web.WebSocketResponse()
            await ws.prepare(request)
            await ws.send_str("hello")
            await ws.close()
            return ws

        server = await door_serve(
            lambda app: app.router.add_get("/ws", socket), policy={"allow_origin": [LISTED]}
        )
        headers = {} if origin is None else {"Origin": origin}
        async with aiohttp.ClientSession() as session:
            try:
                async with session.ws_connect(f"http://127.0.0.1:{server.port}/ws", headers=headers) as ws:
                    assert status == 101
                    assert await ws.receive_str() == "hello"
            except aiohttp.WSServerHandshakeError as exc:
                assert exc.status == status  # noqa: PT017

    async def test_an_upgrade_that_is_none_is_a_bad_request(self, door_serve, caplog):
        async def socket(request):
            ws = web.WebSocketResponse()
            await ws.prepare(request)
            return ws

        server = await door_serve(lambda app: app.router.add_get("/ws", socket))
        assert (await server.ask("GET", "/ws")).code == "INVALID_REQUEST"
        pairs = [("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Version", "1")]
        reply = await server.ask("GET", "/ws", *pairs)
        assert (reply.status, reply.code) == (400, "INVALID_REQUEST")
        assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


PATHS = """
    /../secret.txt  /../../secret.txt  /things/../../secret.txt  /things/../secret.txt  /./secret.txt
    /..;/secret.txt  /%2e%2e/secret.txt  /%2e%2e%2fsecret.txt  /..%2fsecret.txt  /..%5csecret.txt
    /%2e%2e%5csecret.txt  /..\\secret.txt  /things/..%2f..%2fsecret.txt  /things/%2e%2e/%2e%2e/secret.txt
    /%252e%252e%252fsecret.txt  /%c0%afsecret.txt  /%c0%ae%c0%ae/secret.txt  /%uff0e%uff0e/secret.txt
    /\uff0e\uff0e/secret.txt  /..\uff0fsecret.txt  /\udcff/secret.txt  /%ff%fe  /%00  /things/%00secret.txt
    /secret.txt%00.png  /things/secret.txt%00  //  ///  //evil.example  //evil.example/..  ///evil.example
    //evil.example/json/  //evil.example//things/a/  /\\evil.example  /%5cevil.example  /%2f%2fevil.example
    /%2f%2fevil.example/things/a/  /json//evil.example  /things//evil.example/  /;@evil.example
    /@evil.example  /things/x/  /things/%0d%0aSet-Cookie:%20a=b  /things/%0d%0aSet-Cookie:%20a=b/
    /things/%0a/  /%0d%0aLocation:%20http://evil.example/  /things/a%2f  /things/{name}  /{  /%  /%%  /%2
    /%zz  /?../../secret.txt  /#../secret.txt  /things/~/.ssh/id_rsa  /C:/secret.txt  /file:///secret.txt
    /things/$(id)  /things/'%20OR%20'1'='1
"""
HOSTILE_PATHS = [
    *PATHS.split(),
    "/things/" + "a" * 4000,
    "/" + "a/" * 2000,
    "/" + "../" * 500 + "secret.txt",
]


async def test_no_path_leads_outside_or_elsewhere(door_serve, tmp_path, monkeypatch):
    (tmp_path / "secret.txt").write_text("the-secret-itself")
    (tmp_path / "inside").mkdir()
    monkeypatch.chdir(tmp_path / "inside")
    server = await door_serve()
    assert len(HOSTILE_PATHS) == len(set(HOSTILE_PATHS)) >= 60
    for path in HOSTILE_PATHS:
        reply = await server.ask("GET", path)
        assert reply is not None, path
        assert reply.status < 500, path
        assert b"the-secret-itself" not in reply.body
        location = reply.get("Location")
        assert location is None or (location[0] == "/" and location[1:2] not in ("/", "\\")), path
        assert reply.get("Set-Cookie") is None, path


async def test_needless_slashes_lead_to_the_path_without_them(door_serve):
    server = await door_serve()
    for method, target, location in [
        ("GET", "//things//a", "/things/a"),
        ("GET", "/things/a/?x=1&y=//", "/things/a?x=1&y=//"),
        ("POST", "/json/", "/json"),
        ("POST", "//json", "/json"),
    ]:
        reply = await server.ask(method, target, ("Content-Type", "application/json"), body=b"{}")
        assert (reply.status, reply.get("Location")) == (308, location)
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"http://127.0.0.1:{server.port}//json/", json={"a": 1}) as response,
    ):
        assert await response.json() == {"got": {"a": 1}}


OWN = b"Host: HOST\r\n"
GET = b"GET / HTTP/1.1\r\n" + OWN
POST = b"POST / HTTP/1.1\r\n" + OWN
JSON = b"POST /json HTTP/1.1\r\nContent-Type: application/json\r\n" + OWN
MALFORMED = [
    b"\r\n\r\n\r\nGARBAGE\r\n\r\n",
    b"GARBAGE\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"\x00" * 100,
    b"GET / HTTP/9.9\r\n" + OWN + b"\r\n",
    b"GET / / HTTP/1.1\r\n" + OWN + b"\r\n",
    b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\n" + OWN + b"\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"CONNECT evil.example:443 HTTP/1.1\r\n" + OWN + b"\r\n",
    b"GET http://evil.example/ HTTP/1.1\r\n" + OWN + b"\r\n",
    b"GET / HTTP/1.1\r\nHost : HOST\r\n\r\n",
    GET + b"Bad Header: s3cret\r\n\r\n",
    GET + b": s3cret\r\n\r\n",
    GET + b"X: s3\x00cret\r\n\r\n",
    GET + b"X: " + b"a" * 40_000 + b"\r\n\r\n",
    GET + b"Expect: s3cret\r\n\r\n",
    POST + b"Content-Length: -1\r\n\r\n",
    POST + b"Content-Length: 1x\r\n\r\n",
    POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    POST + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n\r\n",
    JSON + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n",
    JSON + b"Content-Type: text/plain\r\nContent-Length: 2\r\n\r\n{}",
]


@pytest.mark.parametrize("data", MALFORMED, ids=range(len(MALFORMED)))
async def test_what_is_no_http_is_refused_without_noise(door_serve, caplog, data):
    server = await door_serve(connections={"header_seconds": 1.0, "keepalive_seconds": 1.0})
    async with connected(server.port) as connection:
        connection.send(data.replace(b"HOST", b"127.0.0.1:%d" % server.port))
        got = await connection.ended()
    assert got == b"" or 400 <= int(got.split(b" ", 2)[1]) < 500
    assert b"s3cret" not in got
    assert got == b"" or b"nosniff" in got
    assert "GET" not in server.reached
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_a_doubled_content_type_is_not_taken(door_serve):
    server = await door_serve()
    twice = [("Content-Type", "application/json"), ("content-type", "application/json")]
    reply = await server.ask("POST", "/json", *twice, body=b"{}")
    assert (reply.status, reply.code) == (415, "UNSUPPORTED_MEDIA_TYPE")
    assert not server.reached


async def test_a_missing_or_doubled_host_is_forbidden_in_our_shape(door_serve):
    server = await door_serve()
    own = ("Host", f"127.0.0.1:{server.port}")
    for headers in ([], [own, own], [own, ("host", "evil.example")], [("Host", "")]):
        for version in ("1.1", "1.0"):
            reply = await exchange(server.port, request_bytes("GET", "/", headers, version=version))
            assert (reply.status, reply.code) == (403, "FORBIDDEN")
            assert protected(reply)
    assert not server.reached
