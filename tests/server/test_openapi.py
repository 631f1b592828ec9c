"""The document that describes the API, held against the routes and against the fields that are taken."""

from __future__ import annotations

import json
import re

import pytest
from scripted_generator import ScriptedGenerator
from serving import serving

from sdmanager.errors import CloudError, OffloadError, RestoreError, SDManagerError, ServerUnreachableError
from sdmanager.generation import ImageRequest, Lora, PreviewOptions
from sdmanager.server.app import build_app
from sdmanager.server.openapi import openapi_json
from sdmanager.server.origins import DoorPolicy
from sdmanager.server.schemas import ServerInfo

METHODS = {"get", "post", "delete", "put", "patch"}
# Other people's APIs, described by them, and what is for other readers than programs of this one.
OTHERS = (
    "/openai/",
    "/v1/images/edits",
    "/v1/images/variations",
    "/sdapi/",
    "/controlnet/",
    "/metrics",
)
PAGE = ("get", "/")
ASKED = {"ImageRequest", "ImageForm", "JobRequest", "JobForm", "PreviewOptions", "Lora", "ModelChoice"}


@pytest.fixture(scope="module")
def document() -> dict:
    return json.loads(openapi_json("1.2.3", ("euler", "heun"), ("karras",)))


def operations(document: dict) -> dict[tuple[str, str], dict]:
    return {
        (method, path): operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if method in METHODS
    }


def every(value: object, key: str) -> list:
    """Everything that stands under a key, at any depth."""
    if isinstance(value, list):
        return [found for inner in value for found in every(inner, key)]
    if isinstance(value, dict):
        return [*([value[key]] if key in value else []), *every(list(value.values()), key)]
    return []


async def test_it_has_every_route_and_no_other(document: dict) -> None:
    async with serving(ScriptedGenerator()) as served:
        routes = {
            (route.method.lower(), route.resource.canonical)
            for route in build_app(served.face, DoorPolicy(served.server.port)).router.routes()
            if route.method != "HEAD" and route.resource is not None
        }
    ours = {(method, path) for method, path in routes if not path.startswith(OTHERS)} - {PAGE}
    assert operations(document).keys() == ours


def test_it_says_where_the_others_are(document: dict) -> None:
    for path in ("/openai/v1", "/v1/images", "/sdapi/v1", "/metrics", "at /;"):
        assert path in document["info"]["description"]


async def test_it_is_served_with_the_names_that_the_engine_takes() -> None:
    async with serving(ScriptedGenerator(), info={"samplers": ("euler",), "version": "7"}) as served:
        reply = await served.get("/openapi.json")
    assert reply.headers["Content-Type"] == "application/json; charset=utf-8"
    assert reply.json["openapi"] == "3.1.0"
    assert reply.json["info"]["version"] == "7"
    fields = reply.json["components"]["schemas"]["ImageRequest"]["properties"]
    assert fields["sampler"]["anyOf"][0]["enum"] == ["euler"]
    assert "enum" not in fields["scheduler"]["anyOf"][0]


def test_every_reference_leads_somewhere(document: dict) -> None:
    references = set(every(document, "$ref"))
    assert references
    for reference in references:
        found = document
        for part in reference.removeprefix("#/").split("/"):
            found = found[part]


def test_every_operation_has_a_name_of_its_own_and_links_lead_to_them(document: dict) -> None:
    names = [operation["operationId"] for operation in operations(document).values()]
    assert len(names) == len(set(names))
    linked = {link["operationId"] for links in every(document, "links") for link in links.values()}
    assert linked
    assert linked <= set(names)


def test_parameters_of_paths_are_declared(document: dict) -> None:
    for (_, path), operation in operations(document).items():
        declared = {field["name"] for field in operation.get("parameters", ()) if field["in"] == "path"}
        assert declared == set(re.findall(r"{(\w+)}", path))


def test_all_statuses_of_errors_are_there_in_one_shape(document: dict) -> None:
    for operation in operations(document).values():
        assert {"400", "401", "403", "500"} <= operation["responses"].keys()
    for status, response in document["components"]["responses"].items():
        assert response["content"]["application/json"]["schema"]["$ref"].endswith("/ErrorBody")
        assert ("headers" in response) == (status == "503")
    posting = operations(document)["post", "/v1/images/generations"]["responses"]
    assert posting.keys() == {"201", "400", "401", "403", "404", "408", "413", "415", "422", "500", "503"}


def test_a_post_documents_every_status_that_taking_a_request_can_raise(document: dict) -> None:
    def kinds(kind: type[SDManagerError]) -> set[type[SDManagerError]]:
        return {kind, *(deeper for below in kind.__subclasses__() for deeper in kinds(below))}

    # A server draws on this machine, whatever other generators may say; what cannot be put aside fails no request; and
    # that a server cannot be reached is said by its client.
    others = kinds(CloudError) | {OffloadError, RestoreError, ServerUnreachableError}
    all_statuses = {str(kind.http_status) for kind in kinds(SDManagerError) - others}
    documented = {status for operation in operations(document).values() for status in operation["responses"]}
    assert all_statuses - documented <= {"405"}  # which no operation that is there answers


@pytest.mark.parametrize("model", [ImageRequest, PreviewOptions, Lora])
def test_fields_that_are_asked_are_described_and_may_be_null(document: dict, model: type) -> None:
    schema = document["components"]["schemas"][model.__name__]
    assert schema["additionalProperties"] is False
    assert schema["properties"].keys() == {field.alias for field in model.model_fields.values()}
    for name, field in schema["properties"].items():
        assert field["description"]
        assert ({"type": "null"} in field.get("anyOf", ())) == (name not in schema.get("required", ()))
    assert not re.search(r"None|[a-z]_[a-z]|path", json.dumps(schema))


def test_answers_never_promise_null_and_may_grow(document: dict) -> None:
    schemas = document["components"]["schemas"]
    info = schemas["ServerInfo"]
    assert info["properties"].keys() == {field.alias for field in ServerInfo.model_fields.values()}
    assert {"version", "pid", "busy", "samplers"} <= set(info["required"])
    assert not {"url", "model", "error"} & set(info["required"])
    for name, schema in schemas.items():
        if name not in ASKED:
            assert "null" not in every(schema, "type")
            assert "additionalProperties" not in schema


def test_pictures_are_files_in_a_form(document: dict) -> None:
    content = operations(document)["post", "/v1/images/generations"]["requestBody"]["content"]
    assert content.keys() == {"application/json", "multipart/form-data"}
    form = document["components"]["schemas"]["ImageForm"]["properties"]
    assert form["initImage"]["format"] == form["maskImage"]["format"] == "binary"


def test_it_is_made_once() -> None:
    assert openapi_json("1", (), ()) is openapi_json("1", (), ())
