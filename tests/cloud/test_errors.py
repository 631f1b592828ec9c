"""Whatever goes wrong at a service becomes one of our errors, which says what to do and holds no token."""

from __future__ import annotations

import logging
import socket
import traceback

import pytest
from inference_server import HUB, ROUTER, TOKEN, Answer, InferenceServer, as_json, drawn

from sdmanager import errors
from sdmanager.cloud import HuggingFaceGenerator
from sdmanager.errors import SDManagerError
from sdmanager.generation import Failed, ImageRequest, StageChanged

REQUEST = ImageRequest(prompt="a very secret prompt", seed=1)


async def failed(model: str, **options: object) -> SDManagerError:
    events: list = []
    with pytest.raises(SDManagerError) as caught:
        await HuggingFaceGenerator(model, **options).generate(REQUEST, events.append)
    error = caught.value
    assert [type(event) for event in events] == [StageChanged, Failed]
    assert events[1].error is error
    assert error.message.endswith(".")
    assert "\n" not in error.message
    assert error.hint
    assert len(error.message) < 500
    shown = f"{error.message} {error.hint} {error.details!r} {''.join(traceback.format_exception(error))}"
    assert TOKEN not in shown
    assert "very secret prompt" not in shown
    for link in chain_of(error):  # the library's own errors hold the request, with the token in its headers
        assert not hasattr(link, "request"), link
        assert not hasattr(link, "response"), link
        assert TOKEN not in repr(vars(link)), link
    return error


def chain_of(error: BaseException | None) -> list[BaseException]:
    """The error and all that can be reached from it as what it was raised from."""
    seen: list[BaseException] = []
    todo = [error]
    while todo:
        link = todo.pop()
        if link is not None and link not in seen:
            seen.append(link)
            todo += [link.__cause__, link.__context__]
    return seen


STATUSES = {
    400: errors.InvalidRequestError,
    401: errors.CloudUnauthorizedError,
    402: errors.CloudQuotaError,
    403: errors.CloudUnauthorizedError,
    404: errors.CloudModelNotFoundError,
    408: errors.CloudTimeoutError,
    410: errors.CloudModelNotFoundError,
    413: errors.InvalidRequestError,
    422: errors.InvalidRequestError,
    429: errors.CloudQuotaError,
    500: errors.CloudError,
    502: errors.CloudUnavailableError,
    503: errors.CloudUnavailableError,
    504: errors.CloudTimeoutError,
}
WORDS = f"Please do so {TOKEN} and\nso " + "x" * 500


@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("kind", ["hub", "detail", "text", "html", "nothing", "list"])
async def test_a_status_has_its_meaning(service: InferenceServer, status: int, kind: str) -> None:
    bodies = {
        "hub": as_json({"error": WORDS}, status),
        "detail": as_json({"detail": WORDS}, status),
        "text": Answer(WORDS.encode(), status, "text/plain"),
        "html": Answer(f"<html>{WORDS}</html>".encode(), status, "text/html"),
        "nothing": Answer(b"", status),
        "list": as_json({"error": [WORDS, "more"]}, status),
    }
    service.on("/draw", bodies[kind])
    error = await failed(service.endpoint, token=TOKEN)
    assert type(error) is STATUSES[status]
    assert error.details["status"] == status
    assert ("Please do so *** and so xx" in error.message) is (kind not in {"html", "nothing"})


@pytest.mark.parametrize("body", [b"[]", b"[1]", b'"words"', b"null", b"7", b"{", b"\xff\xfe"])
async def test_an_answer_with_odd_json(service: InferenceServer, body: bytes) -> None:
    service.on("/draw", Answer(body, 422))
    error = await failed(service.endpoint)
    assert isinstance(error, errors.InvalidRequestError | errors.CloudError)


@pytest.mark.parametrize(
    ("header", "seconds"), [("30", 30), ("0", 0), ("soon", None), ("9" * 50, None), ("²", None)]
)
async def test_when_to_ask_again(service: InferenceServer, header: str, seconds: int | None) -> None:
    service.on("/draw", as_json({"error": "slow down"}, 429, Retry_After=header.encode().decode("latin-1")))
    error = await failed(service.endpoint)
    assert error.details.get("retry_after") == seconds
    assert ("30 s" in error.hint) is (seconds == 30)


@pytest.mark.parametrize("status", [401, 402, 404, 429, 503])
@pytest.mark.parametrize("provider", ["auto", "together", "hf-inference"])
async def test_the_router_says_no(service: InferenceServer, model: str, status: int, provider: str) -> None:
    service.providers["hf-inference"] = "text-to-image"
    service.on(ROUTER, as_json({"error": "no"}, status))
    assert type(await failed(model, provider=provider)) is STATUSES[status]


@pytest.mark.parametrize("provider", ["auto", "together", "hf-inference"])
@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (as_json({"error": "no"}, 401, X_Error_Code="RepoNotFound"), errors.CloudModelNotFoundError),
        (as_json({"error": "no"}, 404), errors.CloudModelNotFoundError),
        (as_json({"error": "no"}, 403, X_Error_Code="GatedRepo"), errors.CloudUnauthorizedError),
        (
            as_json({}, 401, X_Error_Message="Invalid credentials in Authorization header"),
            errors.CloudUnauthorizedError,
        ),
        (as_json({"error": "no"}, 503), errors.CloudUnavailableError),
        (Answer(b"<html>", kind="text/html"), errors.CloudError),
    ],
    ids=["unknown", "missing", "gated", "bad token", "down", "no JSON"],
)
async def test_the_hub_says_no(
    service: InferenceServer, model: str, provider: str, answer: Answer, kind: type
) -> None:
    service.on(f"{HUB}/api/models", answer)
    assert type(await failed(model, provider=provider)) is kind
    assert service.drawings() == []


@pytest.mark.parametrize(
    ("providers", "provider"),
    [
        ({}, "auto"),
        ({}, "together"),
        ({"together": "text-to-image"}, "fal-ai"),
        ({"together": "text-generation"}, "together"),
        ({"hf-inference": "text-generation"}, "hf-inference"),
        ({"novita": "text-to-video"}, "auto"),
        ({"brand-new": "text-to-image"}, "auto"),
        ({"together": "text-to-image"}, "cerebras"),
    ],
    ids=str,
)
async def test_nobody_draws_with_the_model(
    service: InferenceServer, model: str, providers: dict[str, str], provider: str
) -> None:
    service.providers = providers
    error = await failed(model, provider=provider)
    assert type(error) is errors.CloudModelNotFoundError
    assert model in error.message
    assert service.drawings() == []


@pytest.mark.parametrize(
    ("provider", "words"),
    [
        ("fal", "Did you mean 'fal-ai'?"),
        ("Together", "Did you mean 'together'?"),
        ("no-such-provider", "It knows: auto, "),
        ("x" * 300, "It knows: auto, "),
    ],
    ids=lambda value: value[:20],
)
async def test_a_provider_that_there_is_not(
    service: InferenceServer, model: str, provider: str, words: str
) -> None:
    """Not the model is to blame."""
    error = await failed(model, provider=provider)
    assert type(error) is errors.InvalidRequestError
    assert f"no provider {provider[:40]!r}" in error.message
    assert words in error.hint
    assert service.drawings() == []


@pytest.mark.parametrize("name", ["a/b/c", "../x", "a b", "org/" + "x" * 200, "-"])
async def test_no_name_of_a_model(service: InferenceServer, name: str) -> None:
    assert type(await failed(name)) is errors.InvalidRequestError


async def test_no_token(service: InferenceServer, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    error = await failed(model)
    assert type(error) is errors.CloudUnauthorizedError
    assert "HF_TOKEN" in error.hint
    assert error.exit_code == 81
    assert service.drawings() == []


@pytest.mark.parametrize("status", [401, 403])
async def test_an_endpoint_elsewhere_that_wants_a_token(service: InferenceServer, status: int) -> None:
    """HF_TOKEN is set, and the user must know why it was not sent."""
    service.on("/draw", as_json({"error": "who are you"}, status))
    error = await failed(service.endpoint)
    assert type(error) is errors.CloudUnauthorizedError
    assert "wants a token, and none was given for it: who are you" in error.message
    assert "token= in Python" in error.hint
    assert "not sent outside of Hugging Face" in error.hint
    error = await failed(service.endpoint, token="given")
    assert "does not accept the token" in error.message


async def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/draw"
    assert type(await failed(url)) is errors.CloudUnavailableError


async def test_the_connection_is_cut(service: InferenceServer) -> None:
    def cut(asked):
        asked.handler.connection.shutdown(socket.SHUT_RDWR)
        return Answer()

    service.on("/draw", cut)
    assert type(await failed(service.endpoint)) is errors.CloudUnavailableError


async def test_a_certificate_that_is_not_trusted(
    service: InferenceServer, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    assert type(await failed(model)) is errors.CloudUnavailableError


@pytest.mark.parametrize(
    ("provider", "body"),
    [
        ("together", {}),
        ("together", {"data": []}),
        ("together", {"data": [{"b64_json": "###"}]}),
        ("together", []),
        ("fal-ai", {"images": [{"url": "no url"}]}),
        ("fal-ai", {"images": [{"url": 3}]}),
        ("replicate", {"output": []}),
    ],
    ids=str,
)
async def test_an_answer_that_is_not_understood(
    service: InferenceServer, model: str, provider: str, body: object
) -> None:
    service.providers = {provider: "text-to-image"}
    service.on(ROUTER, as_json(body))
    error = await failed(model, provider=provider)
    assert isinstance(error, errors.CloudError | errors.InvalidRequestError)
    assert not isinstance(error, errors.CloudModelNotFoundError | errors.CloudTimeoutError)


async def test_an_answer_that_the_library_refuses(service: InferenceServer, model: str) -> None:
    """A ValueError, as where no provider draws with the model."""
    service.providers = {"fal-ai": "image-to-image"}
    service.on(ROUTER, as_json({"status": "IN_QUEUE"}))
    request = ImageRequest(prompt="x", init_image=drawn(64, 64, 1))
    with pytest.raises(errors.CloudError) as caught:
        await HuggingFaceGenerator(model, provider="fal-ai").generate(request)
    assert type(caught.value) is errors.CloudError
    assert caught.value.details["error"] == "ValueError"


async def test_a_provider_that_gave_up_waiting(service: InferenceServer, model: str) -> None:
    service.providers = {"replicate": "text-to-image"}
    service.on(ROUTER, as_json({"output": None}))
    assert type(await failed(model, provider="replicate")) is errors.CloudTimeoutError


async def test_the_token_is_in_no_log(
    service: InferenceServer, model: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    await HuggingFaceGenerator(model).generate(REQUEST)
    service.on(ROUTER, as_json({"error": TOKEN}, 500))
    await failed(model)
    assert TOKEN not in "".join(record.getMessage() for record in caplog.records)
    assert service.drawings()[0].headers["authorization"] == f"Bearer {TOKEN}"
