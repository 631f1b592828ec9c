"""RELIABILITY 4: which of 840 requests reach a handler, on real sockets."""

from __future__ import annotations

from itertools import product

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
}
METHODS = ("GET", "POST", "DELETE")


def expected_status(host, origin, content_type, method):
    refusals = [HOSTS[host][1], ORIGINS[origin][1]]
    if method == "POST":
        refusals.append(CONTENT_TYPES[content_type][1])
    return next((status for status in refusals if status != "in"), 200)


async def test_exactly_the_allowed_requests_reach_a_handler(door_serve):
    server = await door_serve(policy={"allow_origin": [LISTED]})
    statuses, expected = {}, {}
    for case in product(HOSTS, ORIGINS, CONTENT_TYPES, METHODS):
        host, origin, content_type, method = case
        pairs = [
            *(("Host", value) for value in HOSTS[host][0]),
            *(("Origin", value) for value in ORIGINS[origin][0]),
            *(("Content-Type", value) for value in CONTENT_TYPES[content_type][0]),
            ("X-Probe", repr(case)),
        ]
        ours = [
            (name, value.replace("P", str(server.port)).replace("Q", "1"))
            for name, value in pairs
            if name != "X-Probe"
        ]
        data = request_bytes(method, "/", [*ours, pairs[-1]], b"{}" if method == "POST" else b"")
        reply = await exchange(server.port, data)
        assert reply is not None, case
        statuses[case], expected[case] = reply.status, expected_status(*case)
        stranger = ORIGINS[origin][0] != [LISTED]
        assert stranger <= (not reply.all("Access-Control-Allow-Origin")), case
    assert len(statuses) == 840
    assert statuses == expected
    assert server.reached == [repr(case) for case, status in expected.items() if status == 200]
    assert len(server.reached) == 3 * 3 * (5 + 2 + 5)
