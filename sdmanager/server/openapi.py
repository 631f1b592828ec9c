"""``/openapi.json``: every route, from the pydantic models. Made once per engine, for its names stand in it."""

from __future__ import annotations

import functools
import json
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from .schemas import request_schemas, response_schemas
from .wire import GENERATIONS

if TYPE_CHECKING:
    from collections.abc import Mapping

_Json = dict[str, Any]

_ANY: Final = (400, 401, 403, 408, 500)  # what every route may answer
_KNOWN: Final = (*_ANY, 404)
_TAKES: Final = (*_ANY, 413, 415, 422, 503)

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
                "description": "Pictures from stable-diffusion.cpp: ask, watch them form, fetch or cancel them.",
                "license": {"name": "MIT", "identifier": "MIT"},
            },
            "security": [{}, {"bearer": []}],
            "paths": _paths(),
            "components": {
                "schemas": {**response_schemas(), **request_schemas(samplers, schedulers)},
                "responses": {str(status): _error(status) for status in sorted({*_KNOWN, *_TAKES, 409})},
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


def _paths() -> _Json:
    one = f"{GENERATIONS}/{{id}}"
    document = _answer("It.", "application/json")
    return {
        "/health": {"get": _operation("health", "Whether the server answers", {200: _json("Health")})},
        "/v1/info": {"get": _operation("info", "What the server is and how it stands", {200: _json("ServerInfo")})},
        "/v1/models": {"get": _operation("models", "The model, as OpenAI's clients ask", {200: _json("ModelList")})},
        "/openapi.json": {"get": _operation("openapi", "This document", {200: document})},
        GENERATIONS: {
            "post": _operation(
                "createGeneration", "Ask for pictures", {201: _created()}, _TAKES,
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
                "createJob", "Ask for pictures, with previews, as a job", {201: _json("JobAccepted")}, _TAKES,
                parameters=[_KEY], requestBody=_body("JobRequest", "JobForm"),
            )
        },
        "/v1/jobs/{id}/stream": {
            "get": _operation(
                "followJob", "The events of a job as they come", _STREAM, _KNOWN, parameters=[_ID, *_LAST_EVENT]
            )
        },
        "/ws": {"get": _websocket()},
    }  # fmt: skip


def _image() -> _Json:
    answers = {
        200: _answer("The file.", "image/png", headers=("ETag",)),
        206: _answer("The range of it that was asked for.", "image/png"),
        304: _answer("It is what the client has."),
        412: _answer("It is not what the client has."),
        416: _answer("It has no such range."),
    }
    return _operation("getImage", "One picture as a PNG", answers, _KNOWN, parameters=[_ID, _NUMBER])


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


def _body(schema: str, form: str) -> _Json:
    kinds = {"application/json": schema, "multipart/form-data": form}
    content = {kind: {"schema": {"$ref": f"#/components/schemas/{name}"}} for kind, name in kinds.items()}
    return {"required": True, "content": content}


_STREAM: Final = {
    200: _answer("Events until the end, with ids to go on from.", "text/event-stream"),
    204: _answer("The end was seen already: a browser asks no more."),
}
