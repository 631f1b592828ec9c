"""RELIABILITY 4: which of 1008 requests reach a handler, on real sockets, wherever they go and with or without body."""

from __future__ import annotations

from itertools import product

import pytest
from aiohttp import web
from raw_http import exchange, request_bytes

LISTED = "http://app.example:3000"

# Each with what it should come to: in, or the status of the refusal. P is our port, Q another.
HOSTS = {
    "address": (["127.0.0.1:P"], "in"),
    "name": (["localhost:P"], "in"),
    "address six": (["[::1]:P"], "in"),
    "missing": ([], 403),
    "empty": ([""], 403),
    "doubled": (["127.0.0.1:P", "127.0.0.1:P"], 403),
    "foreign": (["evil.example:P"], 403),
    "other port": (["127.0.0.1:Q"], 403),
}
ORIGINS = {
    "none": ([], "in"),
    "own": (["http://127.0.0.1:P"], "in"),
    "listed": ([LISTED], "in"),
    "null": (["null"], 403),
    "foreign": (["http://evil.example"], 403),
    "other port": (["http://127.0.0.1:Q"], 403),
    "doubled": (["http://127.0.0.1:P", "http://127.0.0.1:P"], 403),
}
CONTENT_TYPES = {
    "none": ([], 415),
    "json": (["application/json"], "in"),
    "multipart": (["multipart/form-data; boundary=x"], "in"),
    "text": (["text/plain"], 415),
    "form": (["application/x-www-form-urlencoded"], 415),
    "bytes": (["application/octet-stream"], 415),
}
METHODS = ("GET", "POST", "DELETE")


# Where a request goes, the body of a POST, and whether it may then come without a content type, or as bytes.
TARGETS = {
    "the page": ("/", b"{}", False),
    "elsewhere without a body": ("/things/1", b"", False),
    "AUTOMATIC1111's with a body": ("/sdapi/v1/interrupt", b"{}", False),
    "AUTOMATIC1111's without": ("/sdapi/v1/interrupt", b"", True),
}


def expected_status(host, origin, content_type, method, *, bare):
    refusals = [HOSTS[host][1], ORIGINS[origin][1]]
    if method == "POST" and not (bare and content_type in ("none", "bytes")):
        refusals.append(CONTENT_TYPES[content_type][1])
    return next((status for status in refusals if status != "in"), 200)


def interrupt(app, reached):
    async def handler(request):
        reached.append(request.headers["X-Probe"])
        return web.json_response({})

    for method in METHODS:
        app.router.add_route(method, "/sdapi/v1/interrupt", handler)


@pytest.mark.parametrize("to", TARGETS)
async def test_exactly_the_allowed_requests_reach_a_handler(door_serve, to):
    target, body, bare = TARGETS[to]
    reached = []
    server = await door_serve(lambda app: interrupt(app, reached), policy={"allow_origin": [LISTED]})
    statuses, expected = {}, {}
    for case in product(HOSTS, ORIGINS, CONTENT_TYPES, METHODS):
        host, origin, content_type, method = case
        pairs = [
            *(("Host", value) for value in HOSTS[host][0]),
            *(("Origin", value) for value in ORIGINS[origin][0]),
            *(("Content-Type", value) for value in CONTENT_TYPES[content_type][0]),
        ]
        if method == "POST" and not body:  # as most clients send it; some leave it out
            pairs += [("Content-Length", "0")] * (host != "name")
        ours = [(name, value.replace("P", str(server.port)).replace("Q", "1")) for name, value in pairs]
        data = request_bytes(
            method, target, [*ours, ("X-Probe", repr(case))], body if method == "POST" else b""
        )
        reply = await exchange(server.port, data)
        assert reply is not None, case
        statuses[case], expected[case] = reply.status, expected_status(*case, bare=bare)
        stranger = ORIGINS[origin][0] != [LISTED]
        assert stranger <= (not reply.all("Access-Control-Allow-Origin")), case
    assert len(statuses) == 1008
    assert statuses == expected
    assert server.reached + reached == [repr(case) for case, status in expected.items() if status == 200]
    assert len(server.reached + reached) == 3 * 3 * (6 + 2 + 2 * bare + 6)


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ([("Content-Length", "2")], b"{}"),
        ([("Transfer-Encoding", "chunked")], b"2\r\n{}\r\n0\r\n\r\n"),
        ([("Transfer-Encoding", "chunked")], b"0\r\n\r\n"),
    ],
)
async def test_a_body_needs_its_content_type_however_it_is_sent(door_serve, headers, body):
    reached = []
    server = await door_serve(lambda app: interrupt(app, reached))
    own = ("Host", f"127.0.0.1:{server.port}")
    head = request_bytes("POST", "/sdapi/v1/interrupt", [own, *headers])
    assert (await exchange(server.port, head + body)).status == 415
    assert not reached
