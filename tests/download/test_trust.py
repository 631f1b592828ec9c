"""TLS, redirects, proxies: who is believed, and who is told what."""

from __future__ import annotations

import asyncio
import base64
import select
import socket
import ssl

import pytest
import trustme
from scripted_server import Reply, serving, status

from sdmanager.download import Patience
from sdmanager.errors import DownloadError

SECRET = base64.b64encode(b"tom:secret").decode()


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture(scope="module")
def tls(authority):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", "localhost").configure_cert(context)
    return context


@pytest.fixture
def trusted(authority, tmp_path, monkeypatch):
    path = tmp_path / "authorities.pem"
    authority.cert_pem.write_to_path(path)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(path))


def to(url, code=302):
    return status(code, Location=url)


async def refused(awaitable, reason):
    with pytest.raises(DownloadError) as caught:
        await awaitable
    assert caught.value.details["reason"] == reason
    assert "secret" not in f"{caught.value} {caught.value.details}"
    return caught.value


async def test_a_file_comes_over_tls_and_is_gone_on_with(fetch, file, target, tls, trusted):
    half = len(file.data) // 2
    script = file.serve(until=half), file.serve(until=half + 9), file.well
    with serving(*script, context=tls) as server:
        await fetch(server.url())
        assert server.ranges == [None, half, half + 9]
    assert target.read_bytes() == file.data


async def test_a_certificate_that_nobody_trusts_is_not_tried_again(fetch, file, target, tls):
    accepted = []
    with serving(file.well, context=tls) as server:
        error = await refused(fetch(server.url()), "certificate")
        accepted += server.requests
    assert not accepted
    assert "REQUESTS_CA_BUNDLE" in error.hint
    assert not target.exists()


async def test_a_certificate_for_another_host_is_refused(fetch, file, authority, trusted):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("example.org").configure_cert(context)
    with serving(file.well, context=context) as server:
        await refused(fetch(server.url()), "certificate")
        assert not server.requests


async def test_authorities_that_are_not_there(fetch, file, tls, monkeypatch, tmp_path):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "none.pem"))
    with serving(file.well, context=tls) as server:
        await refused(fetch(server.url()), "certificate")


async def test_a_server_that_speaks_no_tls(fetch, file):
    with serving(file.well) as server:
        url = server.url().replace("http:", "https:")
        await refused(fetch(url, patience=Patience(attempts=2, first_pause=0.001)), "interrupted")


async def test_cancelling_in_a_stall_over_tls(fetch, file, target, remains, tls, trusted):
    half = len(file.data) // 2
    seen = []
    patience = Patience(connect=600, read=600)
    with serving(file.serve(until=half, then=Reply.stall), file.well, context=tls) as server:
        task = asyncio.create_task(fetch(server.url(), patience=patience, on_progress=seen.append))
        while not seen:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, 5)
        assert remains() == ["download", "json"]
        await fetch(server.url())
        assert server.ranges[1] > 0
    assert target.read_bytes() == file.data


@pytest.mark.parametrize("rounds", [1, pytest.param(20, marks=pytest.mark.slow)])
async def test_no_redirect_from_https_to_http(fetch, file, target, tls, trusted, rounds):
    for _ in range(rounds):
        with serving(file.well) as plain, serving(to(plain.url()), context=tls) as server:
            error = await refused(fetch(server.url()), "redirect")
            assert not plain.requests
        assert "from https to http" in error.message
        assert not target.exists()


async def test_a_redirect_to_https_is_followed(fetch, file, target, tls, trusted):
    with serving(file.well, context=tls) as end, serving(to(end.url("/other?token=secret"), 307)) as server:
        await fetch(server.url())
        assert [request.target for request in end.requests] == ["/other?token=secret"]
    assert target.read_bytes() == file.data


async def test_each_attempt_begins_at_the_address_that_was_given(fetch, file, target, tls, trusted):
    half = len(file.data) // 2
    with (
        serving(file.serve(until=half), file.well, context=tls) as end,
        serving(to(end.url("/signed"))) as server,
    ):
        await fetch(server.url())
        assert len(server.requests) == 2
        assert end.ranges == [None, half]
    assert target.read_bytes() == file.data


async def test_a_local_mirror_redirects_to_itself_and_to_no_other(fetch, file, target):
    with serving(file.well) as other, serving(to("/elsewhere", 301), file.well, to(other.url())) as mirror:
        await fetch(mirror.url())
        assert [request.target for request in mirror.requests] == ["/folder/file.bin", "/elsewhere"]
        target.unlink()
        await refused(fetch(mirror.url()), "redirect")
        assert not other.requests


async def test_redirects_come_to_an_end(fetch):
    with serving(to("/again")) as server:
        error = await refused(fetch(server.url()), "redirect")
        assert len(server.requests) == 6
    assert "more than 5 times" in error.message


async def test_the_body_of_a_redirect_is_not_waited_for(fetch, file, target):
    def endless(request, reply):
        reply.head(302, Location="/file", Content_Length=10**12)
        reply.send(b"x" * 1000)
        reply.stall()

    with serving(endless, file.well) as server:
        await asyncio.wait_for(fetch(server.url(), patience=Patience(read=600)), 10)
    assert target.read_bytes() == file.data


async def test_credentials_are_sent_to_their_own_server_only(fetch, file, tls, trusted):
    with (
        serving(file.well, context=tls) as other,
        serving(to("/here"), to(other.url().replace("//", "//eve:secret@")), context=tls) as server,
    ):
        await fetch(server.url().replace("//", "//tom:secret@"))
        assert [request.headers.get("authorization") for request in server.requests] == [
            f"Basic {SECRET}"
        ] * 2
        assert [request.headers.get("authorization") for request in other.requests] == [None]


def forward(request, reply):
    """What a proxy does with an http address, or with a tunnel to an https one."""
    if request.method == "CONNECT":
        _, _, port = request.target.partition(":")
    else:
        _, _, port = request.target.removeprefix("http://").partition("/")[0].partition(":")
    with socket.create_connection(("127.0.0.1", int(port))) as upstream:
        if request.method == "CONNECT":
            reply.send(b"HTTP/1.1 200 Connected\r\n\r\n")
        else:
            path = "/" + request.target.removeprefix("http://").partition("/")[2]
            lines = [f"{name}: {value}" for name, value in request.headers.items()]
            upstream.sendall("\r\n".join([f"GET {path} HTTP/1.1", *lines, "", ""]).encode("latin-1"))
        pair = [upstream, reply.sock]
        while True:
            for ready in select.select(pair, [], [], 20)[0]:
                data = ready.recv(65_536)
                if not data:
                    return
                pair[ready is upstream].sendall(data)


async def test_a_proxy_is_used_for_http(fetch, file, target, monkeypatch):
    with serving(file.well) as server, serving(forward) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url("").replace("//", "//tom:secret@"))
        url = f"http://file-server.invalid:{server.port}/file"
        await fetch(url)
        assert [request.target for request in proxy.requests] == [url]
        assert proxy.requests[0].headers["proxy-authorization"] == f"Basic {SECRET}"
        assert server.requests[0].headers.get("authorization") is None
    assert target.read_bytes() == file.data


async def test_a_proxy_is_used_for_https(fetch, file, target, monkeypatch, tls, trusted):
    half = len(file.data) // 2
    with serving(file.serve(until=half), file.well, context=tls) as server, serving(forward) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url(""))
        await fetch(server.url(host="localhost"))
        assert [request.target for request in proxy.requests] == [f"localhost:{server.port}"] * 2
        assert server.ranges == [None, half]
    assert target.read_bytes() == file.data


async def test_no_proxy_is_used_where_the_environment_says_so(fetch, file, monkeypatch):
    with serving(file.well) as server, serving(forward) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url(""))
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        await fetch(server.url())
        assert not proxy.requests


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_proxy_that_is_not_there(fetch, monkeypatch, scheme, quick):
    with serving(status(200)) as gone:
        port = gone.port
    monkeypatch.setenv(f"{scheme.upper()}_PROXY", f"http://tom:secret@127.0.0.1:{port}")
    error = await refused(fetch(f"{scheme}://file-server.invalid/file", patience=quick), "unreachable")
    assert "proxy" in error.message


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_proxy_that_refuses(fetch, monkeypatch, scheme, quick):
    with serving(status(407)) as proxy:
        monkeypatch.setenv(f"{scheme.upper()}_PROXY", f"http://tom:secret@127.0.0.1:{proxy.port}")
        reason = {"http": "status", "https": "unreachable"}[scheme]
        error = await refused(fetch(f"{scheme}://file-server.invalid/file", patience=quick), reason)
    assert "proxy" in error.message


async def test_a_proxy_whose_address_is_none(fetch, monkeypatch, quick):
    monkeypatch.setenv("HTTP_PROXY", "http://:secret@:x/")
    error = await refused(fetch("http://file-server.invalid/file", patience=quick), "proxy")
    assert "proxy" in error.message
