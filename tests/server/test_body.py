"""Bodies: what is read, what is refused, and that nothing is guessed."""

from __future__ import annotations

import asyncio
import json

import pytest
from aiohttp.base_protocol import BaseProtocol
from aiohttp.streams import StreamReader
from aiohttp.test_utils import make_mocked_request
from hypothesis import given, settings
from hypothesis import strategies as st
from raw_http import connected, request_bytes

from sdmanager.errors import SDManagerError
from sdmanager.server.body import BODY_MAX, JSON_MAX, parsed, read_form, read_json
from sdmanager.server.responses import json_response

BOUNDARY = "frontier"
FORM = f"multipart/form-data; boundary={BOUNDARY}"
SMALL = {"limit": 1000, "image_limit": 10_000}
FORM_SMALL = {"limit": 10_000, "text_limit": 1000}


def part(name, data, filename=None, extra=""):
    shown = f'; filename="{filename}"' if filename is not None else ""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{shown}\r\n{extra}\r\n'
    return head.encode() + data + b"\r\n"


def form(*parts):
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


class TestJson:
    async def test_an_object_is_read(self, door_serve):
        server = await door_serve()
        value = {"prompt": "ä 🐱 \u2028", "n": [1, -2.5e3, None, True], "o": {"p": {}}}
        for body in (json.dumps(value), json.dumps(value, ensure_ascii=False), json.dumps(value, indent=9)):
            reply = await server.post(body.encode())
            assert (reply.status, reply.json) == (200, {"got": value})

    @pytest.mark.parametrize(
        "body",
        [b"", b" ", b"{", b"{}x", b"[]", b'"a"', b"1", b"null", b"{'a': 1}", b'{"a": 1,}', b'{"a": 1, "a": 1}',
         b'{"o": {"a": 1, "a": 2}}', b'{"a": NaN}', b'{"a": Infinity}', b'{"a": -Infinity}', b'{"a": 1e999}',
         b'{"a": ' + b"9" * 5000 + b"}", b'{"a": "\xff"}', b'{"\xc0\xaf": 1}', b'\xef\xbb\xbf{"a": 1}',
         '{"a": 1}'.encode("utf-16"), b'{"a": "\\ud800"}', b'{"\\uDC00": 1}', b'{"a": "\\uD83Dx"}', b'{"a": "\x00"}',
         b'{"a": ' + b"[" * 100_000, b'{"a": ' * 100_000, b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"],
        ids=range(28),
    )  # fmt: skip
    async def test_what_is_no_json_object_is_refused(self, door_serve, body):
        server = await door_serve()
        reply = await server.post(body)
        assert (reply.status, reply.code) == (400, "INVALID_REQUEST")

    async def test_pairs_of_surrogates_are_characters(self, door_serve):
        server = await door_serve()
        assert (await server.post(b'{"a": "\\ud83d\\udc31"}')).json == {"got": {"a": "🐱"}}

    async def test_the_limit_counts_all_but_images(self, door_serve):
        server = await door_serve(body=SMALL)
        image = "A" * 9000
        assert (await server.post(json.dumps({"a": "x" * 900}).encode())).status == 200
        assert (await server.post(json.dumps({"initImage": image, "a": "x" * 900}).encode())).status == 200
        # As some writers do it, each + and / of an image takes six characters or two.
        escaped = b'{"maskImage": "' + b"\\u002B\\/" * 1000 + b'"}'
        assert (await server.post(escaped)).status == 200
        for value in (
            {"a": "x" * 1100},
            {"initImage": image, "a": "x" * 1100},
            {"other": image},
            {"o": {"initImage": image}},
            {"initImage": ["x" * 1100]},
            {"initImage": "A" * 11_000},
            {"a": [[]] * 1100},
        ):
            reply = await server.post(json.dumps(value).encode())
            assert (reply.status, reply.code) == (413, "PAYLOAD_TOO_LARGE"), str(value)[:50]

    async def test_many_small_values_are_refused_before_they_are_made(self, door_serve):
        server = await door_serve()
        # Without an end: what is parsed before it is counted would be no JSON.
        reply = await server.post(b'{"a": [' + b"[]," * JSON_MAX)
        assert reply.status == 413

    async def test_large_images_come_in(self, door_serve):
        server = await door_serve()
        image = "A" * (20 << 20)
        reply = await server.post(json.dumps({"initImage": image}).encode())
        assert reply.status == 200
        assert len(reply.json["got"]["initImage"]) == len(image)

    async def test_what_is_announced_as_too_large_is_refused_before_it_is_sent(self, door_serve):
        server = await door_serve()
        headers = [("Host", f"127.0.0.1:{server.port}"), ("Content-Type", "application/json")]
        async with connected(server.port) as connection:
            connection.send(request_bytes("POST", "/json", [*headers, ("Content-Length", str(BODY_MAX + 1))]))
            assert (await connection.reply()).status == 413

    async def test_chunks_without_end_are_refused(self, door_serve):
        server = await door_serve(body=SMALL)
        headers = [("Host", f"127.0.0.1:{server.port}"), ("Content-Type", "application/json")]
        async with connected(server.port) as connection:
            connection.send(request_bytes("POST", "/json", [*headers, ("Transfer-Encoding", "chunked")]))
            for _ in range(100):
                connection.send(b"100\r\n" + b" " * 256 + b"\r\n")
            assert (await connection.reply()).status == 413

    async def test_a_compressed_body_is_not_taken(self, door_serve):
        server = await door_serve()
        headers = [("Content-Type", "application/json"), ("Content-Encoding", "gzip")]
        reply = await server.ask("POST", "/json", *headers, body=b"\x1f\x8b\x08\x00")
        assert (reply.status, reply.code) == (415, "UNSUPPORTED_MEDIA_TYPE")

    async def test_a_client_that_leaves_midway_harms_nothing(self, door_serve, caplog):
        server = await door_serve()
        headers = [("Host", f"127.0.0.1:{server.port}"), ("Content-Type", "application/json")]
        for _ in range(20):
            async with connected(server.port) as connection:
                connection.send(request_bytes("POST", "/json", [*headers, ("Content-Length", "100")]) + b"{")
                await connection.writer.drain()
        assert (await server.post(b"{}")).status == 200
        assert not [record for record in caplog.records if record.levelno >= 30]


class TestForms:
    async def test_files_are_bytes_and_texts_are_text(self, door_serve):
        server = await door_serve()
        body = form(
            part("prompt", "ä 🐱".encode()),
            part("initImage", b"\x89PNG\r\n\x00--frontie" * 50_000, "a.png", "Content-Type: image/png\r\n"),
            part("empty", b""),
            part("maskImage", b"", ""),
        )
        reply = await server.post(body, FORM, "/form")
        assert reply.json == {
            "prompt": ["str", 3],
            "initImage": ["bytes", 16 * 50_000],
            "empty": ["str", 0],
            "maskImage": ["bytes", 0],
        }

    @pytest.mark.parametrize(
        "body",
        [b"", b"x", form(part("a", b"1"), part("a", b"2")), form(part("a", b"1"), part("a", b"2", "f")),
         form(part("", b"1")), form(b"--frontier\r\n\r\nnameless\r\n"), form(part("a", b"\xff")),
         form(part("a", b"YQ==", None, "Content-Transfer-Encoding: base64\r\n")),
         form(part("a", b"x", None, "Content-Type: multipart/mixed; boundary=y\r\n")),
         part("a", b"cut"), part("a", b"cut")[:-10], form(part("a", b"1"))[:-6], b"--frontier\r\nBad Header\r\n\r\n",
         form(*(part(f"p{number}", b"") for number in range(101))), b"--frontier\r\n" + b"X: y\r\n" * 1000,
         form(part("a" * 20_000, b"1")), form(part("_charset_", b"x" * 40), part("a", b"1"))],
        ids=range(17),
    )  # fmt: skip
    async def test_what_is_no_form_is_refused(self, door_serve, body):
        server = await door_serve()
        reply = await server.post(body, FORM, "/form")
        assert (reply.status, reply.code) == (400, "INVALID_REQUEST")

    @pytest.mark.parametrize(
        "content_type", ["multipart/form-data", f"multipart/form-data; boundary={'x' * 71}"]
    )
    async def test_a_form_without_a_boundary_is_refused(self, door_serve, content_type):
        server = await door_serve()
        assert (await server.post(form(part("a", b"1")), content_type, "/form")).code == "INVALID_REQUEST"

    async def test_json_is_no_form(self, door_serve):
        server = await door_serve()
        assert (await server.post(b"{}", target="/form")).code == "UNSUPPORTED_MEDIA_TYPE"

    async def test_the_limits(self, door_serve):
        async def small(request):
            return json_response(sorted(await read_form(request, **FORM_SMALL)))

        server = await door_serve(lambda app: app.router.add_post("/small", small))
        fits = form(part("file", b"x" * 8500, "f"), part("text", b"x" * 900))
        assert (await server.post(fits, FORM, "/small")).json == ["file", "text"]
        for body in (
            form(part("file", b"x" * 11_000, "f")),
            form(part("a", b"x" * 600), part("b", b"x" * 600)),
            form(part("a", b"x" * 1100)),
        ):
            assert (await server.post(body, FORM, "/small")).status == 413
            chunked = [("Content-Type", FORM), ("Transfer-Encoding", "chunked")]
            data = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
            raw = request_bytes("POST", "/small", [("Host", f"127.0.0.1:{server.port}"), *chunked]) + data
            async with connected(server.port) as connection:
                connection.send(raw)
                assert (await connection.reply()).status == 413

    async def test_pictures_in_base64_do_not_count_as_texts(self, door_serve):
        async def small(request):
            form = await read_form(request, **FORM_SMALL)
            return json_response({name: len(value) for name, value in form.items()})

        server = await door_serve(lambda app: app.router.add_post("/small", small))
        pictures = [part("initImage", b"A" * 4000), part("maskImage", b"A" * 4000)]
        fits = form(part("a", b"x" * 900), *pictures)
        assert (await server.post(fits, FORM, "/small")).json == {
            "a": 900,
            "initImage": 4000,
            "maskImage": 4000,
        }
        for body in (form(part("a", b"x" * 1100), *pictures), form(*pictures, part("other", b"A" * 4000))):
            assert (await server.post(body, FORM, "/small")).status == 413

    async def test_what_stands_before_the_first_part_has_a_limit_too(self, door_serve):
        async def small(request):
            return json_response(sorted(await read_form(request, **FORM_SMALL)))

        server = await door_serve(lambda app: app.router.add_post("/small", small))
        own = ("Host", f"127.0.0.1:{server.port}")
        async with connected(server.port) as connection:
            headers = [own, ("Content-Type", FORM), ("Transfer-Encoding", "chunked")]
            connection.send(request_bytes("POST", "/small", headers))
            for _ in range(1000):
                connection.send(b"100\r\n" + b"nobody\r\n" * 32 + b"\r\n")
            assert (await connection.reply()).status == 413


def test_text_is_parsed_without_guessing():
    assert parsed('[{"a": 1.5, "b": "\\ud83d\\udc31"}, null]') == [{"a": 1.5, "b": "🐱"}, None]
    for text in ("", "x", '{"a": 1, "a": 1}', "[NaN]", "-Infinity", "1e999", '"\\ud800"', "9" * 5000):
        with pytest.raises(ValueError):
            parsed(text)


@settings(max_examples=60)
@given(data=st.data())
def test_no_damaged_body_makes_a_fault(data):
    """Any cut, doubled or changed piece of a body is a request that is answered, and never with 5xx."""
    whole = (
        form(part("a", b"1"), part("f", b"\r\n--front\r\n" * 3, "f"))
        if data.draw(st.booleans())
        else b'{"a": [1]}'
    )
    start = data.draw(st.integers(0, len(whole)))
    end = data.draw(st.integers(start, len(whole)))
    body = (
        whole[:start]
        + data.draw(st.sampled_from([b"", whole[start:end] * 2, b"\xff\x00", b"\r\n"]))
        + whole[end:]
    )

    async def read():
        loop = asyncio.get_running_loop()
        stream = StreamReader(BaseProtocol(loop), 2**16, loop=loop)
        stream.feed_data(body)
        stream.feed_eof()
        request = make_mocked_request("POST", "/", {"Content-Type": FORM}, payload=stream)
        reader = read_json if whole.startswith(b"{") else read_form
        try:
            assert isinstance(await reader(request, seconds=60, stall_seconds=60), dict)
        except SDManagerError as exc:
            return exc.http_status
        return 200

    assert asyncio.run(read()) in (200, 400)
