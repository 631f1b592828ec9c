"""``/openapi.json``: every route, from the pydantic models. Made once per engine, for its names stand in it."""

from __future__ import annotations

import functools
import json
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from .history_api import HISTORY
from .json_schemas import request_schemas, response_schemas
from .wire import GENERATIONS, MODELS

if TYPE_CHECKING:
    from collections.abc import Mapping

_Json = dict[str, Any]

_ANY: Final = (400, 401, 403, 408, 500)  # what every route may answer
_KNOWN: Final = (*_ANY, 404)
_ASKS: Final = (*_KNOWN, 413, 415, 422, 503)  # what asks for something, with the name of a model in it

_ID: Final[_Json] = {
    "name": "id", "in": "path", "required": True, "description": "Of a generation.",
    "schema": {"type": "string", "minLength": 1},
}  # fmt: skip
_NUMBER: Final[_Json] = {
    "name": "n", "in": "path", "required": True, "description": "Which image, from 0.",
    "schema": {"type": "integer", "minimum": 0},
}  # fmt: skip
_KEY: Final[_Json] = {
    "name": "Idempotency-Key", "in": "header", "required": False,
    "description": "The same key with the same request gives the same generation, however often it is sent.",
    "schema": {"type": "string", "pattern": "^[!-~]{1,255}$"},
}  # fmt: skip
_LAST_EVENT: Final[list[_Json]] = [
    {
        "name": name, "in": where, "required": False,
        "description": "Id of the last event that was seen: what came after it follows.",
        "schema": {"type": "string"},
    }
    for name, where in (("Last-Event-ID", "header"), ("last_event_id", "query"))
]  # fmt: skip
_PREVIEWS: Final[_Json] = {
    "name": "previews", "in": "query", "required": False,
    "description": "With url, previews come without their bytes.",
    "schema": {"type": "string"},
}  # fmt: skip
_HEADERS: Final[_Json] = {
    "Location": {"schema": {"type": "string"}, "description": "Where the generation is."},
    "Idempotency-Replayed": {
        "schema": {"type": "string", "enum": ["true"]},
        "description": "There where the request had been taken before.",
    },
    "Retry-After": {
        "schema": {"type": "integer", "minimum": 1},
        "description": "Seconds after which a place may be free.",
    },
    "ETag": {"schema": {"type": "string"}, "description": "For If-None-Match."},
    "X-Preview-Step": {"schema": {"type": "string"}, "description": "Step of the preview, as in 3/20."},
}


_ALL: Final[_Json] = {
    "name": "all", "in": "query", "required": True, "description": "That all of them are meant.",
    "schema": {"type": "string", "enum": ["true"]},
}  # fmt: skip
_TEXT: Final[_Json] = {"type": "string"}

_ABOUT: Final = (
    "Pictures from stable-diffusion.cpp: ask, watch them form, fetch or cancel them. Described elsewhere, and served "
    "here, too: OpenAI's Images API under /openai/v1, and under /v1/images for requests in its words; AUTOMATIC1111's "
    "API under /sdapi/v1; a page for people at /; Prometheus' metrics at /metrics."
)


@functools.lru_cache(maxsize=4)
def openapi_json(version: str, samplers: tuple[str, ...], schedulers: tuple[str, ...]) -> bytes:
    """The document.

    Args:
        version: Of sdmanager.
        samplers: Names that the engine takes; empty while they are not known.
        schedulers: Likewise.
    """
    return json.dumps(
        {
            "openapi": "3.1.0",
            "info": {
                "title": "sdmanager",
                "version": version,
                "description": _ABOUT,
                "license": {"name": "MIT", "identifier": "MIT"},
            },
            "security": [{}, {"bearer": []}],
            "paths": _paths(),
            "components": {
                "schemas": {**response_schemas(), **request_schemas(samplers, schedulers)},
                "responses": {str(status): _error(status) for status in sorted({*_ASKS, 409})},
                "headers": _HEADERS,
                "securitySchemes": {
                    "bearer": {
                        "type": "http",
                        "scheme": "bearer",
                        "description": "Only where the server has a token. GET and HEAD also take ?token=.",
                    }
                },
            },
        }
    ).encode("ascii")


def _model_paths() -> _Json:
    return {
        MODELS: {
            "get": _operation(
                "models", "What can be drawn with, as OpenAI's clients ask", {200: _json("ModelList")}
            )
        },
        f"{MODELS}/current": {
            "get": _operation(
                "currentModel",
                "The one that requests are drawn with which name none",
                {200: _json("ModelBody")},
                _KNOWN,
            ),
            "post": _operation(
                "useModel",
                "Draw with this model where a request names none",
                {200: _json("ModelUsed")},
                _ASKS,
                requestBody=_body("ModelChoice"),
            ),
        },
        f"{MODELS}/{{name}}": {
            "get": _operation(
                "model",
                "One of them",
                {200: _json("ModelBody")},
                _KNOWN,
                parameters=[{**_ID, "name": "name", "description": "Of the model."}],
            )
        },
    }


def _paths() -> _Json:
    one = f"{GENERATIONS}/{{id}}"
    return {
        "/health": {"get": _operation("health", "Whether the server answers", {200: _json("Health")})},
        "/v1/info": {"get": _operation("info", "What the server is and how it stands", {200: _json("ServerInfo")})},
        **_model_paths(),
        "/openapi.json": {"get": _operation("openapi", "This document", {200: _answer("It.", "application/json")})},
        GENERATIONS: {
            "post": _operation(
                "createGeneration", "Ask for pictures", {201: _created()}, _ASKS,
                parameters=[_KEY], requestBody=_body("ImageRequest", "ImageForm"),
            ),
            "get": _operation("listGenerations", "All that is known", {200: _json("GenerationList")}),
        },
        one: {
            "get": _operation(
                "getGeneration", "How it stands, and its result", {200: _json("GenerationBody")}, _KNOWN,
                parameters=[_ID],
            ),
            "delete": _operation(
                "cancelGeneration", "Cancel it; answered when its engine is dead", {200: _json("CancelledBody")},
                (*_KNOWN, 409), parameters=[_ID],
            ),
        },
        f"{one}/images/{{n}}": {"get": _image()},
        f"{one}/preview": {"get": _preview()},
        f"{one}/events": {
            "get": _operation(
                "followGeneration", "Its progress, previews and end as they come", _STREAM, _KNOWN,
                parameters=[_ID, *_LAST_EVENT, _PREVIEWS],
            )
        },
        "/v1/jobs": {
            "post": _operation(
                "createJob", "Ask for pictures, with previews, as a job", {201: _json("JobAccepted")}, _ASKS,
                parameters=[_KEY], requestBody=_body("JobRequest", "JobForm"),
            )
        },
        "/v1/jobs/{id}/stream": {
            "get": _operation(
                "followJob", "The events of a job as they come", _STREAM, _KNOWN, parameters=[_ID, *_LAST_EVENT]
            )
        },
        "/ws": {"get": _websocket()},
        **_history(),
    }  # fmt: skip


def _history() -> _Json:
    one, found = f"{HISTORY}/{{id}}", {200: _json("HistoryImageBody")}
    named = {**_ID, "description": "Of an image of the gallery."}
    asked = [
        {"name": name, "in": "query", "required": False, "description": text, "schema": schema}
        for name, text, schema in (
            (
                "search",
                "Words of the prompt or the negative prompt; the last may be the start of one.",
                _TEXT,
            ),
            ("model", "Only what this model drew.", _TEXT),
            ("limit", "Images at most.", {"type": "integer", "minimum": 1, "maximum": 500, "default": 50}),
            ("after", "As the page before had it.", _TEXT),
        )
    ]
    return {
        HISTORY: {
            "get": _operation(
                "listHistory", "What was drawn, newest first", {200: _json("HistoryPageBody")}, _KNOWN, parameters=asked
            ),
            "delete": _operation(
                "clearHistory", "Delete all that is whole", {200: _json("HistoryCleared")}, _KNOWN, parameters=[_ALL]
            ),
        },
        one: {
            "get": _operation("getHistoryImage", "An image, and how it was made", found, _KNOWN, parameters=[named]),
            "delete": _operation(
                "deleteHistoryImage", "Delete an image and its file", {200: _json("HistoryDeleted")}, (*_KNOWN, 409),
                parameters=[named],
            ),
        },
        f"{one}/image": {"get": _history_picture(named)},
    }  # fmt: skip


def _image() -> _Json:
    return _operation("getImage", "One picture as a PNG", _FILE, _KNOWN, parameters=[_ID, _NUMBER])


def _history_picture(named: _Json) -> _Json:
    kinds = ("image/png", "image/jpeg", "image/webp")
    answers = {**_FILE, 200: _answer("The picture, or the newest preview of it.", *kinds, headers=("ETag",))}
    return _operation("getHistoryPicture", "The picture of an image", answers, _KNOWN, parameters=[named])


def _preview() -> _Json:
    answers = {
        200: _answer("It.", "image/jpeg", "image/png", "image/webp", headers=("ETag", "X-Preview-Step")),
        204: _answer("There is none yet, or no more."),
        304: _answer("It is what the client has."),
    }
    return _operation("getPreview", "The newest preview", answers, _KNOWN, parameters=[_ID])


def _websocket() -> _Json:
    answers = {101: _answer("Events as JSON texts; the bytes of a preview follow its own.")}
    only = {**_ID, "in": "query", "required": False, "description": "Of the only generation to follow."}
    return _operation("followAll", "All events over a WebSocket", answers, _KNOWN, parameters=[only])


def _created() -> _Json:
    follow = {"parameters": {"id": "$response.body#/id"}}
    names = ("getGeneration", "cancelGeneration", "followGeneration", "getPreview", "getImage")
    links = {name: {"operationId": name, **follow} for name in names}
    links["getImage"] = {"operationId": "getImage", "parameters": {**follow["parameters"], "n": 0}}
    return {**_json("Accepted", headers=("Location", "Idempotency-Replayed")), "links": links}


def _operation(
    name: str, summary: str, answers: Mapping[int, _Json], errors: tuple[int, ...] = _ANY, **more: object
) -> _Json:
    failures = {str(status): {"$ref": f"#/components/responses/{status}"} for status in errors}
    responses = {**{str(status): answer for status, answer in answers.items()}, **failures}
    return {"operationId": name, "summary": summary, **more, "responses": responses}


def _answer(description: str, *types: str, headers: tuple[str, ...] = (), schema: str = "") -> _Json:
    answer: _Json = {"description": description}
    if types:
        content = {"schema": {"$ref": f"#/components/schemas/{schema}"}} if schema else {}
        answer["content"] = dict.fromkeys(types, content)
    if headers:
        answer["headers"] = {name: {"$ref": f"#/components/headers/{name}"} for name in headers}
    return answer


def _json(schema: str, *, headers: tuple[str, ...] = ()) -> _Json:
    return _answer("Done.", "application/json", headers=headers, schema=schema)


def _error(status: int) -> _Json:
    headers = ("Retry-After",) if status == HTTPStatus.SERVICE_UNAVAILABLE else ()
    return {**_json("ErrorBody", headers=headers), "description": f"{HTTPStatus(status).phrase}."}


def _body(schema: str, form: str | None = None) -> _Json:
    kinds = {"application/json": schema, **({"multipart/form-data": form} if form else {})}
    content = {kind: {"schema": {"$ref": f"#/components/schemas/{name}"}} for kind, name in kinds.items()}
    return {"required": True, "content": content}


_FILE: Final = {
    200: _answer("The file.", "image/png", headers=("ETag",)),
    206: _answer("The range of it that was asked for.", "image/png"),
    304: _answer("It is what the client has."),
    412: _answer("It is not what the client has."),
    416: _answer("It has no such range."),
}
_STREAM: Final = {
    200: _answer("Events until the end, with ids to go on from.", "text/event-stream"),
    204: _answer("The end was seen already: a browser asks no more."),
}
