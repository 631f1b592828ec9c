"""The client against servers that do what no good server does, byte by byte."""

from __future__ import annotations

import base64
import json
import math
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest
from scripted_generator import png
from scripted_server import Handler, Reply, Request, Server, serving

from sdmanager.client import Client, GalleryImage
from sdmanager.errors import (
    EngineOutOfMemoryError,
    GalleryOffError,
    GenerationNotFoundError,
    ImageNotFoundError,
    InvalidRequestError,
    SDManagerError,
    ServerBusyError,
    ServerError,
    ServerNotRunningError,
    ServerUnreachableError,
)
from sdmanager.generation import Cancelled, Failed, Progress, Replanned

HELLO = b"retry: 2000\n\n: connected\n\n"
PROGRESS = {"currentStep": 1, "totalSteps": 4, "stage": "diffusion", "currentImage": 1, "totalImages": 1}
CANCELLED = b'id: end\nevent: cancelled\ndata: {"id": "g"}\n\n'


def frame(number: int, percentage: float) -> bytes:
    data = json.dumps({"id": "g", **PROGRESS, "percentage": percentage})
    return f"id: {number}\nevent: progress\ndata: {data}\n\n".encode()


def answer(value: object, status: int = 200, **headers: object) -> Handler:
    """A handler that answers in JSON."""

    def handler(request: Request, reply: Reply) -> None:
        body = json.dumps(value).encode()
        reply.head(status, Content_Type="application/json", Content_Length=len(body), **headers)
        reply.send(body)

    return handler


def raw(kind: str, body: bytes, status: int = 200, length: int | None = None, **headers: object) -> Handler:
    def handler(request: Request, reply: Reply) -> None:
        size = len(body) if length is None else length
        reply.head(status, Content_Type=kind, Content_Length=size, **headers)
        reply.send(body)

    return handler


def stream(*pieces: bytes, then: Callable[[Reply], None] | None = None) -> Handler:
    """A handler that sends a stream of events, and then ends it properly unless told otherwise."""

    def handler(request: Request, reply: Reply) -> None:
        reply.head(200, Content_Type="text/event-stream; charset=utf-8", Transfer_Encoding="chunked")
        for piece in pieces:
            reply.chunks(piece, end=False)
        if then is not None:
            then(reply)
        else:
            reply.send(b"0\r\n\r\n")

    return handler


def failure(code: str, status: int) -> Handler:
    """A handler that answers with an error of the server's."""
    return answer({"error": {"message": "No.", "code": code}}, status)


# What a server says to a connection that is one too many.
crowded = failure("SERVER_BUSY", 503)


def reset(request: Request, reply: Reply) -> None:
    reply.reset()


def stall(request: Request, reply: Reply) -> None:
    reply.stall()


def hang_up(reply: Reply) -> None:
    """End the connection in the midst of a chunk."""
    reply.send(b"ff\r\nid: 9\nevent: progress\ndata: {")


def client_of(server: Server, **options) -> Client:
    return Client(server.url(""), **{"timeout": 20.0, **options})


@pytest.fixture(autouse=True)
def _impatient(monkeypatch) -> None:
    monkeypatch.setattr("sdmanager.client._following.DELAYS", (0.0, 0.01, 0.01))


@pytest.mark.parametrize("cut", [None, hang_up, Reply.reset], ids=["ended", "cut", "reset"])
def test_a_broken_stream_is_taken_up_where_it_broke(cut) -> None:
    script = [
        stream(HELLO, frame(1, 10.0), frame(2, 20.0), then=cut),
        stream(HELLO, frame(3, 30.0), b"id: 4\nevent: progress\ndata: {", then=cut),
        stream(HELLO, frame(4, 40.0), CANCELLED),
    ]
    with serving(*script) as server:
        events = list(client_of(server).events("g"))
    assert [event.percentage for event in events if isinstance(event, Progress)] == [10.0, 20.0, 30.0, 40.0]
    assert [event.sequence for event in events] == list(range(len(events)))
    assert isinstance(events[-1], Cancelled)
    assert [request.headers.get("last-event-id") for request in server.requests] == [None, "2", "3"]
    assert {request.target for request in server.requests} == {"/v1/images/generations/g/events"}


def test_attempts_begin_anew_with_each_event() -> None:
    broken = [stream(HELLO, frame(number, float(number))) for number in range(1, 20)]
    with serving(*broken, stream(CANCELLED)) as server:
        assert len(list(client_of(server).events("g"))) == 20


def test_a_stream_that_never_brings_anything_is_given_up() -> None:
    with serving(stream(HELLO)) as server, pytest.raises(ServerUnreachableError, match="ended the stream"):
        list(client_of(server).events("g"))
    assert len(server.requests) == 4


def test_a_stream_is_taken_up_again_at_a_server_with_too_many_connections() -> None:
    script = [stream(HELLO, frame(1, 10.0), then=hang_up), crowded, crowded, stream(HELLO, CANCELLED)]
    with serving(*script) as server:
        first, last = client_of(server).events("g")
    assert (first.percentage, type(last)) == (10.0, Cancelled)
    assert [request.headers.get("last-event-id") for request in server.requests] == [None, "1", "1", "1"]


def test_a_server_that_always_has_too_many_connections_is_given_up() -> None:
    with serving(crowded) as server, pytest.raises(ServerBusyError):
        list(client_of(server).events("g"))
    assert len(server.requests) == 4


def test_connections_that_lasted_are_no_failed_attempts(monkeypatch) -> None:
    monkeypatch.setattr("sdmanager.client._following._HELD_SECONDS", 0.1)

    def beat(reply: Reply) -> None:
        time.sleep(0.2)
        reply.chunks(b": keep-alive\n\n", end=False)

    silent = [stream(HELLO, then=beat) for _ in range(8)]
    with serving(*silent, stream(CANCELLED)) as server:
        assert len(list(client_of(server).events("g"))) == 1
    assert len(server.requests) == 9


def test_a_silent_stream_is_broken(monkeypatch) -> None:
    monkeypatch.setattr("sdmanager.client._transport._SILENCE_SECONDS", 2.0)
    with serving(stream(HELLO, frame(1, 10.0), then=Reply.stall), stream(CANCELLED)) as server:
        first, last = client_of(server).events("g")
    assert (first.percentage, type(last)) == (10.0, Cancelled)


def test_a_restarted_server_that_knows_nothing_ends_it() -> None:
    unknown = answer({"error": {"message": "None.", "code": "NOT_FOUND"}}, 404)
    with serving(stream(frame(1, 10.0)), unknown) as server, pytest.raises(GenerationNotFoundError):
        list(client_of(server).events("g"))


COMPLETE = b'id: end\nevent: complete\ndata: {"id": "g"}\n\n'


def drawn() -> Handler:
    """A handler that answers with the pictures."""
    picture = {"image": base64.b64encode(png()).decode(), "seed": 1, "width": 64, "height": 64}
    result = {"images": [picture], "timeTaken": 1500, "timings": {}, "model": "demo", "variant": "cpu"}
    return answer({"id": "g", "status": "complete", "createdAt": 1, "updatedAt": 2, "result": result})


def test_a_picture_that_is_drawn_is_not_given_up_because_of_too_many_connections() -> None:
    taken = answer({"id": "g", "status": "pending", "createdAt": 1}, 201)
    ends = [stream(frame(5, 90.0), COMPLETE), crowded, stream(COMPLETE), crowded, crowded, stream(COMPLETE)]
    with serving(taken, *ends, drawn()) as server:
        assert client_of(server).generate("a cat").image.png == png()
    assert [request.method for request in server.requests] == ["POST"] + ["GET"] * 7


def test_an_end_whose_pictures_do_not_come_is_read_once_more() -> None:
    script = [stream(frame(5, 90.0), COMPLETE), reset, reset, stream(COMPLETE), drawn()]
    with serving(*script) as server:
        assert client_of(server).wait("g").image.png == png()
    assert [request.headers.get("last-event-id") for request in server.requests][3] == "5"


def test_a_failure_is_the_error_that_it_is_in_process() -> None:
    failure = b'id: end\nevent: error\ndata: {"id":"g","message":"None left.","code":"OUT_OF_MEMORY"}\n\n'
    replanned = b'event: replanned\ndata: {"id":"g","plan":{"flags":["--vae-tiling"]},"reason":"Little."}\n\n'
    unknown = b'event: of-a-newer-server\ndata: {"id":"g"}\n\n'
    with serving(stream(replanned, unknown, failure)) as server:
        first, last = client_of(server).events("g")
        assert isinstance(first, Replanned)
        assert first.plan.vae_tiling
        assert isinstance(last, Failed)
        with pytest.raises(EngineOutOfMemoryError, match="None left"):
            client_of(server).wait("g")


@pytest.mark.parametrize(
    "data", [b"{", b"[]", b'{"percentage": "much"}', b"null", b"1" * 5000, b'{"image": "!"}']
)
@pytest.mark.parametrize("name", [b"progress", b"preview"])
def test_an_event_of_garbage_is_no_server_of_ours(name: bytes, data: bytes) -> None:
    with (
        serving(stream(b"event: " + name + b"\ndata: " + data + b"\n\n")) as server,
        pytest.raises(ServerError, match="no sdmanager server"),
    ):
        list(client_of(server).events("g"))
    assert len(server.requests) == 1


FOREIGN = {
    "html": raw("text/html", b"<h1>It works!</h1>"),
    "html error": raw("text/html", b"<h1>404</h1>", 404),
    "proxy": raw("text/plain", b"Bad Gateway", 502),
    "no json": raw("application/json", b"{"),
    "deep json": raw("application/json", b"[" * 100_000),
    "no utf-8": raw("application/json", b'"\xff"'),
    "other json": answer({"detail": "Not Found"}, 404),
    "no code": answer({"error": "Not Found"}, 404),
    "openai": answer({"error": {"message": "None.", "type": "x", "param": None, "code": None}}, 404),
    "a list": answer([1, 2]),
    "a number": answer(3),
    "other fields": answer({"hello": "world"}),
    "redirect": answer({}, 302, Location="http://127.0.0.1:1/"),
    "no type": raw("", b"{}"),
}


@pytest.mark.parametrize("handler", FOREIGN.values(), ids=FOREIGN)
@pytest.mark.parametrize(
    "call",
    [
        Client.health,
        Client.models,
        lambda client: client.get("g"),
        lambda client: client.submit("a cat"),
        lambda client: client.download("g"),
        lambda client: list(client.events("g")),
        lambda client: list(client.history()),
        lambda client: client.generate("a cat"),
    ],
    ids=["health", "models", "get", "submit", "download", "events", "history", "generate"],
)
def test_what_is_no_server_of_ours_is_told(handler: Handler, call) -> None:
    with serving(handler) as server, client_of(server, token="secret") as client:
        with pytest.raises(ServerError, match="no sdmanager server") as caught:
            call(client)
        assert "secret" not in caught.value.message
        assert len(server.requests) == 1


def test_a_redirect_is_not_followed_and_the_token_goes_nowhere() -> None:
    with serving(answer({"busy": False})) as other:
        elsewhere = answer({}, 307, Location=other.url("/health", host="localhost"))
        with serving(elsewhere) as server, pytest.raises(ServerError):
            client_of(server, token="secret").health()
        assert server.requests[0].headers["authorization"] == "Bearer secret"
        assert other.requests == []


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_proxy_of_the_environment_is_not_asked_for_this_machine(monkeypatch, host) -> None:
    with serving(answer({"busy": True})) as proxy, serving(answer({"busy": False})) as server:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url(""))
        monkeypatch.setenv("no_proxy", "")
        assert not Client(server.url("", host=host), token="secret").health().busy
        assert proxy.requests == []


def test_a_proxy_of_the_environment_is_asked_for_other_machines(monkeypatch) -> None:
    with serving(answer({"busy": True})) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url(""))
        monkeypatch.delenv("no_proxy", raising=False)
        assert Client("http://pictures.invalid").health().busy


def test_a_password_of_a_netrc_file_is_not_sent(monkeypatch, tmp_path) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("default login me password hunter2\n")
    monkeypatch.setenv("NETRC", str(netrc))
    with serving(answer({"busy": True})) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url(""))  # where the environment counts
        Client("http://pictures.invalid", token="secret").health()
        Client("http://pictures.invalid").health()
        assert [request.headers.get("authorization") for request in proxy.requests] == ["Bearer secret", None]


@pytest.mark.parametrize("retry_after", ["7", "soon", None])
def test_busy_says_when_to_come_again_where_that_is_known(retry_after) -> None:
    busy = {"error": {"message": "Full.", "code": "SERVER_BUSY", "suggestion": "Wait."}}
    with serving(answer(busy, 503, Retry_After=retry_after)) as server:
        with pytest.raises(ServerBusyError) as caught:
            client_of(server).generate("a cat")
        assert caught.value.details == ({"retry_after": 7} if retry_after == "7" else {})
        assert [request.method for request in server.requests] == ["POST"]  # refused: nothing to cancel


def test_an_error_that_is_not_known_keeps_its_sentence() -> None:
    new = {"error": {"message": "Too green.", "code": "OF_A_NEWER_SERVER", "suggestion": "Mix it."}}
    with serving(answer(new, 418)) as server, pytest.raises(SDManagerError, match="Too green") as caught:
        client_of(server).health()
    assert (type(caught.value), caught.value.hint) == (SDManagerError, "Mix it.")


def test_a_request_whose_connection_breaks_is_sent_once_more_under_the_same_name() -> None:
    taken = answer({"id": "g", "status": "pending", "createdAt": 1}, 201)
    with serving(reset, taken) as server:
        assert client_of(server).submit("a cat").id == "g"
    first, second = (request.headers["idempotency-key"] for request in server.requests)
    assert first == second


def test_a_connection_that_breaks_twice_is_told() -> None:
    with serving(reset) as server, pytest.raises(ServerUnreachableError, match="broke"):
        client_of(server).submit("a cat")
    assert len(server.requests) == 2


def test_a_kept_connection_that_the_server_closed_meanwhile_is_no_error() -> None:
    body = b'{"busy":false}'
    good = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (
        len(body),
        body,
    )

    def twice(request: Request, reply: Reply) -> None:
        reply.send(good)
        reply.sock.recv(65536)  # the next request on this connection is read, and never answered

    with serving(twice, answer({"busy": False})) as server, client_of(server) as client:
        assert not client.health().busy
        assert not client.health().busy
        assert len(server.requests) == 2  # connections: the second call began on the first of them


@pytest.mark.parametrize("end", [hang_up, Reply.reset], ids=["short", "reset"])
def test_a_picture_that_is_cut_short_is_no_picture(end, tmp_path) -> None:
    def cut(request: Request, reply: Reply) -> None:
        reply.head(200, Content_Type="image/png", Content_Length=100_000)
        reply.send(png())
        end(reply)

    with serving(cut) as server, pytest.raises(ServerUnreachableError, match="broke"):
        client_of(server).download("g", path=tmp_path / "cat.png")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "stall",
    [
        lambda _request, reply: reply.stall(),
        lambda _request, reply: (
            reply.head(200, Content_Type="application/json", Content_Length=9),
            reply.stall(),
        ),
    ],
    ids=["no answer", "no body"],
)
def test_a_server_that_says_nothing_is_given_up(stall) -> None:
    with serving(stall) as server, pytest.raises(ServerUnreachableError, match="does not answer"):
        client_of(server, timeout=2.0).health()
    assert len(server.requests) == 1  # a server that is busy is not asked twice


def test_nobody_there_is_told_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    with pytest.raises(ServerUnreachableError, match="No server answers") as caught:
        Client(f"http://127.0.0.1:{port}").generate("a cat")
    assert "sdmanager serve" in caught.value.hint
    with pytest.raises(ServerUnreachableError):
        Client("http://nowhere.invalid").health()


def test_a_server_that_stops_says_so() -> None:
    stopping = {"error": {"message": "Stopping.", "code": "SERVER_NOT_RUNNING"}}
    with serving(answer(stopping, 503)) as server, pytest.raises(ServerNotRunningError):
        client_of(server).generate("a cat")


def test_what_was_broken_off_before_its_id_was_read_is_cancelled_all_the_same() -> None:
    asked = threading.Event()

    def never(request: Request, reply: Reply) -> None:
        asked.set()
        reply.stall()

    taken = answer({"id": "g", "status": "in_progress", "createdAt": 1}, 201)
    with serving(never, taken, answer({"id": "g", "status": "cancelled"})) as server:
        code = (
            "import signal\nfrom sdmanager.client import Client\n"
            "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
            f"Client({server.url('')!r}).generate('a cat')"
        )
        with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL) as program:
            assert asked.wait(60)
            program.send_signal(2)
            program.wait(60)
    assert [request.method for request in server.requests] == ["POST", "POST", "DELETE"]
    first, second = (request.headers["idempotency-key"] for request in server.requests[:2])
    assert first == second
    assert server.requests[2].target == "/v1/images/generations/g"


@pytest.mark.parametrize("lost", [[stall], [reset, reset]], ids=["no answer", "two resets"])
def test_what_was_taken_without_an_answer_is_cancelled(lost: list[Handler]) -> None:
    taken = answer({"id": "g", "status": "in_progress", "createdAt": 1}, 201)
    cancelled = answer({"id": "g", "status": "cancelled"})
    with (
        serving(*lost, taken, cancelled) as server,
        pytest.raises(ServerUnreachableError),
    ):
        client_of(server, timeout=2.0).generate("a cat")
    *posts, last = server.requests
    assert [request.method for request in posts] == ["POST"] * (len(lost) + 1)
    assert len({request.headers["idempotency-key"] for request in posts}) == 1
    assert (last.method, last.target) == ("DELETE", "/v1/images/generations/g")


@pytest.mark.parametrize(("lost", "asked"), [(stall, 2), (reset, 4)], ids=["no answer", "resets"])
def test_a_server_that_never_answers_is_given_up_for_good(lost: Handler, asked: int) -> None:
    with serving(lost) as server, pytest.raises(ServerUnreachableError):
        client_of(server, timeout=1.0).generate("a cat")
    assert [request.method for request in server.requests] == ["POST"] * asked


def test_where_nobody_was_reached_nobody_is_asked_to_cancel(monkeypatch) -> None:
    asked: list[str] = []
    resolve = socket.getaddrinfo

    def counted(host: str, *rest, **options) -> list:
        asked.append(host)
        return resolve(host, *rest, **options)

    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    monkeypatch.setattr("socket.getaddrinfo", counted)
    with pytest.raises(ServerUnreachableError):
        Client(f"http://127.0.0.1:{port}").generate("a cat")
    assert asked == ["127.0.0.1"]


def image(name: str) -> dict:
    return {
        "id": name, "generationId": "g", "index": 0, "status": "forming", "createdAt": 1, "url": "/",
        "format": "jpeg", "width": 64, "height": 64, "request": {"prompt": "x"},
    }  # fmt: skip


@pytest.mark.parametrize("name", ["cat.jpeg", "cat.png"])
def test_a_picture_that_became_whole_is_not_written_as_a_preview(name: str, tmp_path) -> None:
    with serving(answer({"images": [image("a")], "total": 1}), raw("image/png", png())) as server:
        client = client_of(server)
        (forming,) = client.history()
        assert isinstance(forming, GalleryImage)
        assert forming.format == "jpeg"
        if name.endswith("png"):
            assert client.download(forming, path=tmp_path / name) == (tmp_path / name).read_bytes()
        else:
            with pytest.raises(InvalidRequestError, match="a png file"):
                client.download(forming, path=tmp_path / name)
            assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["cat.jpg", "cat.jpeg"])
def test_a_preview_is_written_as_what_it_is(name: str, tmp_path) -> None:
    preview = raw("image/jpeg; charset=binary", b"\xff\xd8\xff")
    with serving(answer({"images": [image("a")], "total": 1}), preview) as server:
        client = client_of(server)
        (forming,) = client.history()
        client.download(forming, path=tmp_path / name)
    assert (tmp_path / name).read_bytes() == b"\xff\xd8\xff"


def test_what_was_deleted_though_the_answer_was_lost_is_deleted() -> None:
    with serving(reset, failure("IMAGE_NOT_FOUND", 404)) as server:
        client_of(server).delete_history("a")
    assert [request.method for request in server.requests] == ["DELETE", "DELETE"]


@pytest.mark.parametrize(
    ("script", "error"),
    [
        ([failure("IMAGE_NOT_FOUND", 404)], ImageNotFoundError),
        ([reset, failure("GALLERY_OFF", 404)], GalleryOffError),
        ([reset, reset], ServerUnreachableError),
        ([stall], ServerUnreachableError),
    ],
    ids=["unknown", "no gallery", "two resets", "no answer"],
)
def test_what_cannot_be_deleted_is_told(script: list[Handler], error: type[SDManagerError]) -> None:
    with serving(*script) as server, pytest.raises(error):
        client_of(server, timeout=2.0).delete_history("a")
    assert len(server.requests) == len(script)


def test_the_gallery_is_asked_for_page_by_page() -> None:
    pages = [
        answer({"images": [image("a"), image("b")], "total": 3, "after": "b/+ü"}),
        answer({"images": [image("c")], "total": 3}),
    ]
    with serving(*pages) as server:
        found = client_of(server).history(search="ein Hügel & \udcff", model="m")
        assert [next(found).id, next(found).id] == ["a", "b"]
        assert len(server.requests) == 1
        assert [each.id for each in found] == ["c"]
    assert server.requests[0].target == "/v1/history?search=ein+H%C3%BCgel+%26+%3F&limit=100&model=m"
    assert server.requests[1].target.endswith("&after=b%2F%2B%C3%BC")


def test_an_id_is_one_part_of_a_path() -> None:
    with serving(answer({"id": "x", "deleted": True})) as server:
        client = client_of(server)
        client.delete_history("../../v1/models?x=1#y")
        assert server.requests[0].target == "/v1/history/..%2F..%2Fv1%2Fmodels%3Fx%3D1%23y"
        for name in ("", ".", ".."):  # the last of which would delete everything
            with pytest.raises(InvalidRequestError):
                client.delete_history(name)
        assert len(server.requests) == 1


def test_a_path_in_the_address_stands_before_all_others() -> None:
    with serving(answer({"busy": False})) as server:
        Client(server.url("/pictures/")).health()
    assert server.requests[0].target == "/pictures/health"


@pytest.mark.parametrize(
    "url",
    ["", "127.0.0.1:8081", "ftp://host", "http://", "http://host:0", "http://host:70000", "http://host:x",
     "http://me:pw@host", "http://host/?token=x", "http://host/#x", "http://[::1", "file:///etc/passwd"],
)  # fmt: skip
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        Client(url)
    assert "pw" not in caught.value.message


@pytest.mark.parametrize(
    "options",
    [{"token": ""}, {"token": "a b"}, {"token": "a\nb"}, {"token": "ü"}]
    + [{"timeout": seconds} for seconds in (0, -1.0, math.nan, math.inf, 1e12, 86_401)],
)
def test_what_cannot_be_used_is_refused(options: dict) -> None:
    with pytest.raises(InvalidRequestError):
        Client("http://127.0.0.1:1", **options)


def test_the_longest_timeout_is_one_that_a_connection_takes() -> None:
    with serving(answer({"busy": False})) as server:
        assert not client_of(server, timeout=86_400).health().busy


@pytest.mark.parametrize(
    ("statement", "never"),
    [
        ("import sdmanager.client", ["requests", "pydantic", "asyncio", "aiohttp", "PIL"]),
        ("from sdmanager.client import Client", ["aiohttp", "PIL", "numpy", "psutil", "sdmanager.engine"]),
    ],
)
def test_importing_is_cheap(statement: str, never: list[str]) -> None:
    code = f"import sys\n{statement}\nprint([name for name in {never} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
