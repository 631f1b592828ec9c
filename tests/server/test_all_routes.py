"""What holds for every route of the application, of whichever API: nothing here names one that could be forgotten."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import json
import logging
from urllib.parse import quote

import aiohttp
import pytest
from all_routes import InstantGenerator, Route, routes_of, shape_of_error
from hypothesis import given, settings
from hypothesis import strategies as st
from raw_http import exchange, request_bytes
from serving import GENERATIONS, Reply, Served, serving
from yarl import URL

from sdmanager.history import History
from sdmanager.logbook import LogBook

LISTED = "http://app.example:3000"
INFO = {"samplers": ("euler", "euler_a"), "schedulers": ("discrete", "karras"), "preview_methods": ("proj",)}
PREFIXES = (
    "/openai/v1/",
    "/sdapi/v1/",
    "/v1/history",
    "/v1/models",
    "/v1/jobs",
    GENERATIONS,
    "/ws",
    "/metrics",
)


@contextlib.asynccontextmanager
async def everything(home, **options):
    """A server with all that it can show, which draws in no time."""
    folder = home.state_dir.parent / "gallery"
    history = History(folder)
    await history.open()
    try:
        async with serving(
            InstantGenerator(), home.generations_dir, queue_size=100, info=INFO, history=history, **options
        ) as served:
            yield served
    finally:
        await history.aclose()


@pytest.fixture
async def whole(home):
    async with everything(home, policy={"allow_origin": [LISTED]}) as served:
        yield served


def own_shapes(path: str) -> set[str]:
    """In which shapes errors under a path may be."""
    if path.startswith("/sdapi/"):
        return {"a1111"}
    if path.startswith(("/openai/", "/v1/images/edits", "/v1/images/variations")):
        return {"openai"}
    return {"native", "openai"} if path == GENERATIONS else {"native"}


async def test_no_api_is_missing_here(whole: Served) -> None:
    templates = {route.template for route in routes_of(whole)}
    assert {prefix for prefix in PREFIXES if not any(path.startswith(prefix) for path in templates)} == set()
    assert "/" in templates


async def test_options_is_answered_everywhere_for_allowed_origins_and_for_none(whole: Served) -> None:
    for route in routes_of(whole):
        for origin in ({}, {"Origin": LISTED}, {"Origin": whole.url}):
            headers = {**origin, "Access-Control-Request-Method": route.method}
            reply = await whole.ask("OPTIONS", route.path(), headers=headers)
            assert reply.status == 204, route
            assert route.method in reply.headers["Allow"], route
        refused = await whole.ask("OPTIONS", route.path(), headers={"Origin": "http://evil.example"})
        assert refused.status == 403, route


async def test_needless_slashes_lead_to_every_path(whole: Served) -> None:
    port = whole.server.port
    for route in routes_of(whole):
        path = route.path()
        # A name may end with a slash; and HEAD is GET.
        if path == "/" or route.template.endswith("/{name}") or route.method == "HEAD":
            continue
        headers = [("Host", f"127.0.0.1:{port}"), ("Content-Type", "application/json")]
        for needless in (f"/{path}", f"{path}/", path.replace("/", "//"), f"{path}/?x=1"):
            reply = await exchange(port, request_bytes(route.method, needless, headers, b"{}"))
            assert reply is not None
            expected = f"{path}?x=1" if "?" in needless else path
            assert (reply.status, reply.get("Location")) == (308, expected), (route, needless)


async def test_an_unknown_path_and_a_method_that_is_not_taken_have_the_shape_of_the_api(
    whole: Served,
) -> None:
    for route in routes_of(whole):
        if route.template == "/":
            continue
        missing = await whole.get(f"{route.path()}/no/such/thing/here")
        wrong = await whole.ask("PUT", route.path(), json={})
        assert (wrong.status, missing.status in (404, 200)) == (405, True), route
        for reply in (missing, wrong):
            if reply.status >= 400:
                assert shape_of_error(reply.json) in own_shapes(route.path()), route


async def test_without_the_token_only_the_page_is_shown(home) -> None:
    async with everything(home, policy={"token": "s3cret"}) as served:
        opened = set()
        for route in routes_of(served):
            reply = await served.ask(
                route.method, route.path(), data=b"{}", headers={"Content-Type": "application/json"}
            )
            if reply.status != 401:
                opened.add((route.method, route.template))
            else:
                challenge = 'Basic realm="sdmanager"' if route.template.startswith("/sdapi/") else "Bearer"
                assert reply.headers.getall("WWW-Authenticate") == [challenge]
        assert opened <= {("GET", "/"), ("HEAD", "/")}
        assert ("GET", "/") in opened


# Where clients put what nobody else may read.
SECRETS = {
    name: f"SECRET-{name}-0123456789"
    for name in (
        "bearer",
        "key",
        "cookie",
        "auth",
        "password",
        "query",
        "proxy",
        "organisation",
        "url",
        "user",
    )
}
BODY = {
    "prompt": "a cat", "width": 64, "height": 64, "steps": 2, "operation": "ImageGeneration", "id": "demo",
    "sd_model_checkpoint": "demo",
}  # fmt: skip
CREDENTIALS = {
    "auth": f"somebody:{SECRETS['auth']}",
    "url": f"http://somebody:{SECRETS['url']}@127.0.0.1:7860",
    "api_key": SECRETS["key"],
    "apiKey": SECRETS["key"],
    "password": SECRETS["password"],
    "user": SECRETS["user"],
    "override_settings": {"auth": SECRETS["auth"]},
}
HEADERS = {
    "X-Api-Key": SECRETS["key"],
    "Cookie": f"session={SECRETS['cookie']}",
    "Proxy-Authorization": f"Bearer {SECRETS['proxy']}",
    "OpenAI-Organization": SECRETS["organisation"],
}
BASIC = base64.b64encode(f"somebody:{SECRETS['bearer']}".encode()).decode()


@pytest.mark.parametrize("token", [None, SECRETS["bearer"], "another-t0ken"], ids=["open", "right", "wrong"])
async def test_no_credential_comes_back_or_is_logged_from_anywhere(
    home, tmp_path, caplog, capfd, token
) -> None:
    caplog.set_level(logging.DEBUG)
    book = LogBook(tmp_path / "logs")
    said = io.StringIO()
    with book.capture("debug"):
        async with everything(home, policy={"token": token} if token else None) as served:
            for route in routes_of(served):
                for authorization in (f"Bearer {SECRETS['bearer']}", f"Basic {BASIC}"):
                    for reply in await _with_credentials(served, route, authorization):
                        said.write(f"{route} {reply.status} {dict(reply.headers)} {reply.body!r}\n")
            drawn = served.service._generator.requests
        for entry in book.entries():
            said.write(f"{entry}\n")
    said.write("".join(path.read_text() for path in (tmp_path / "logs").iterdir()))
    said.write(caplog.text)
    said.write("".join(capfd.readouterr()))
    text = said.getvalue()
    assert {name: secret for name, secret in SECRETS.items() if secret in text} == {}
    assert BASIC not in text
    assert bool(drawn) is (token != "another-t0ken")  # or else nobody has looked into the bodies
    assert "another-t0ken" not in text


async def _with_credentials(served: Served, route, authorization: str) -> list[Reply]:
    """The answers to a request with secrets in every place, as JSON and as a form, that is good but for those."""
    headers = {**HEADERS, "Authorization": authorization}
    options = {"params": {"token": SECRETS["query"] if "Basic" in authorization else SECRETS["bearer"]}}
    if route.method not in ("POST", "PUT"):
        return [await served.ask(route.method, route.path(), headers=headers, **options)]
    replies = [
        await served.ask(route.method, route.path(), headers=headers, json=body, **options)
        for body in (
            {**BODY, **CREDENTIALS},
            CREDENTIALS,
            {name: [value] for name, value in CREDENTIALS.items()},
        )
    ]
    form = aiohttp.FormData(default_to_multipart=True)
    for name, value in {**BODY, **CREDENTIALS}.items():
        form.add_field(name, json.dumps(value) if isinstance(value, dict) else str(value))
    replies.append(await served.ask(route.method, route.path(), headers=headers, data=form, **options))
    return replies


# Of all three APIs, so that a random body is one that is nearly right.
FIELDS = [
    "prompt", "negativePrompt", "negative_prompt", "width", "height", "steps", "cfgScale", "cfg_scale", "seed", "count",
    "n", "size", "model", "modelId", "quality", "style", "response_format", "output_format", "output_compression",
    "stream", "partial_images", "background", "user", "sampler", "sampler_name", "sampler_index", "scheduler",
    "batch_size", "n_iter", "init_images", "initImage", "mask", "maskImage", "denoising_strength", "strength",
    "override_settings", "sd_model_checkpoint", "alwayson_scripts", "image", "id", "loras", "lora", "previews",
    "operation", "preset", "clipSkip", "clip_skip", "send_images", "styles", "script_name", "hr_scale", "enable_hr",
]  # fmt: skip
KEYS = st.sampled_from(FIELDS)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["", "demo", "512x512", "64x64", "euler", "png", "b64_json", "auto", "\x00", "../x", "-1", "1"])
    | st.sampled_from([1, 2, 64, 128])
    | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | KEYS, inner, max_size=3),
    max_leaves=5,
)  # fmt: skip
GOOD = {"prompt": "a cat", "width": 64, "height": 64, "steps": 1}
OBJECTS = st.dictionaries(KEYS, VALUES, max_size=6)
BODIES = (
    OBJECTS.map(lambda fields: json.dumps({**GOOD, **fields}).encode())
    | (OBJECTS | VALUES).map(lambda value: json.dumps(value).encode())
    | st.binary(max_size=40)
)
QUERIES = st.dictionaries(
    st.sampled_from(["limit", "after", "search", "model", "n", "id", "previews", "last_event_id", "skip_current_image"])
    | st.text(max_size=3),
    st.sampled_from(["", "0", "-1", "1", "true", "9" * 30, "\x00", "x" * 300]) | st.text(max_size=8),
    max_size=3,
)  # fmt: skip
NAMES = st.sampled_from(["demo", "..", "%2e%2e", "0", "-1", "9" * 40]) | st.text(min_size=1, max_size=10)


@pytest.mark.parametrize(("method", "examples"), [("POST", 40), ("GET", 15), ("HEAD", 5), ("DELETE", 15)])
def test_no_request_to_any_route_makes_the_server_fail(
    home, caplog: pytest.LogCaptureFixture, method: str, examples: int
) -> None:
    caplog.set_level(logging.WARNING)
    with asyncio.Runner() as runner:
        stack = contextlib.AsyncExitStack()
        served = runner.run(stack.enter_async_context(everything(home)))
        routes = [route for route in routes_of(served) if route.method == method and route.template != "/ws"]
        statuses = set()

        @settings(max_examples=examples)
        @given(names=st.lists(NAMES, min_size=2, max_size=2), query=QUERIES, body=BODIES)
        def ask_all(names, query, body) -> None:
            for route in routes:
                path = route.path(*(quote(name.encode("utf-8", "surrogatepass"), safe="%") for name in names))
                reply = runner.run(_asked(served, method, path, query, body))
                statuses.add(reply.status)
                # 501: what no version of this server can do.
                assert reply.status < 500 or reply.status == 501, (route, reply.body)
                if method != "HEAD" and reply.status not in (204, 304, 308):
                    _judge(route, reply, own_shapes(route.template) if path == route.path() else set())

        try:
            ask_all()
        finally:
            runner.run(stack.aclose())
    assert len(routes) >= 2
    expected = {"POST": {200, 201, 400, 422}, "GET": {200, 404}, "HEAD": {200, 404}, "DELETE": {404}}
    assert expected[method] <= statuses
    assert not [record.getMessage() for record in caplog.records]


def _judge(route: Route, reply: Reply, shapes: set[str]) -> None:
    """An answer is JSON, or what it says it is; an error is of the API whose path was asked."""
    kind = reply.headers["Content-Type"]
    if kind.startswith("application/json"):
        if reply.status >= 400:
            assert shape_of_error(reply.json) in (shapes or {"native", "openai", "a1111"}), (
                route,
                reply.body,
            )
    else:
        assert reply.status == 200, (route, reply.body)
        assert kind.startswith(("text/html", "text/plain; version=", "text/event-stream", "image/")), (
            route,
            kind,
        )


async def _asked(served: Served, method: str, path: str, query: dict[str, str], body: bytes) -> Reply:
    url = URL(path, encoded=True).with_query(query)
    options = {"data": body, "headers": {"Content-Type": "application/json"}} if method == "POST" else {}
    async with (
        asyncio.timeout(60),
        served.client.request(method, url, allow_redirects=False, **options) as response,
    ):
        return Reply(response.status, response.headers, await response.read())
