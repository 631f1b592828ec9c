"""JSON schemas for ``/openapi.json``, made of the types of ``schemas`` and of ``generation``."""

from __future__ import annotations

import inspect
import re
from typing import TYPE_CHECKING, Any, Final, Literal

from pydantic.alias_generators import to_camel
from pydantic.json_schema import models_json_schema

from sdmanager.generation import ImageRequest, Lora, PreviewOptions

from .history_schemas import HistoryCleared, HistoryDeleted, HistoryImageBody, HistoryPageBody
from .schemas import (
    TEXT,
    Accepted,
    CancelledBody,
    ErrorBody,
    GenerationBody,
    GenerationList,
    Health,
    JobAccepted,
    ModelChoice,
    ModelList,
    ModelUsed,
    ServerInfo,
)

if TYPE_CHECKING:
    from pydantic import BaseModel

_Json = dict[str, Any]

# What Python's str.strip() leaves nothing of is blank.
_NOT_BLANK: Final = "^[^\\x00]*[^\\s\\x00][^\\x00]*$"
_FIELD: Final = re.compile(r"``(\w+)``")
_ATTRIBUTE: Final = re.compile(r"^    (\w+): (.+(?:\n {5,}.+)*)", re.MULTILINE)

_SHOWN: Final = (
    ErrorBody, Accepted, CancelledBody, GenerationBody, GenerationList, Health, JobAccepted, ModelList, ModelUsed,
    ServerInfo, HistoryImageBody, HistoryPageBody, HistoryDeleted, HistoryCleared,
)  # fmt: skip


def response_schemas() -> _Json:
    """JSON schemas of all answers, by name."""
    found = _definitions(_SHOWN, "serialization")
    for schema in found.values():
        del schema["additionalProperties"]  # more fields may come with later versions
        for name, field in schema["properties"].items():
            if {"type": "null"} in field.get("anyOf", ()):  # absent, never null
                (only,) = (kind for kind in field.pop("anyOf") if kind != {"type": "null"})
                field.update(only)
                field.pop("default", None)
                schema["required"].remove(name)
    _describe(found, ServerInfo, none="absent")
    return found


def request_schemas(samplers: tuple[str, ...], schedulers: tuple[str, ...]) -> _Json:
    """JSON schemas of what is asked, by name: as JSON, where null is the same as absent, and as forms.

    Args:
        samplers: Names that the engine takes; empty while they are not known.
        schedulers: Likewise.
    """
    found = _definitions((ImageRequest, ModelChoice), "validation")
    for model in (ImageRequest, PreviewOptions, Lora):
        _describe(found, model, none="null")
    request = found["ImageRequest"]
    fields = request["properties"]
    fields["prompt"]["pattern"] = _NOT_BLANK
    lora, model_id = found["Lora"]["properties"]["name"], fields["modelId"]["anyOf"][0]
    for field in (fields["negativePrompt"], model_id, lora):
        field["pattern"] = TEXT
    for name, known in (("sampler", samplers), ("scheduler", schedulers)):
        fields[name] = {"type": "string", "description": fields[name]["description"]}
        if known:
            fields[name]["enum"] = list(known)
    pictures = {
        "initImage": "Picture to start from, in base64 or as a data URL.",
        "maskImage": "White marks what is redrawn; likewise. Needs initImage.",
    }
    for name, description in pictures.items():
        fields[name] = {"type": "string", "contentEncoding": "base64", "description": description}
    for schema in (request, found["PreviewOptions"], found["Lora"]):
        optional = schema["properties"].keys() - schema.get("required", ())
        schema["properties"] |= {name: _nullable(schema["properties"][name]) for name in optional}
    file = {"type": "string", "format": "binary"}
    text = {"type": "string", "contentMediaType": "application/json"}
    parts = {"initImage": file, "maskImage": file, "loras": text, "previews": text}
    found["ImageForm"] = {
        **request,
        "description": "The same as a form.",
        "properties": fields
        | {name: {**part, "description": fields[name]["description"]} for name, part in parts.items()},
    }
    operation = {"operation": {"type": "string", "const": "ImageGeneration"}}
    for job, plain in (("JobRequest", "ImageRequest"), ("JobForm", "ImageForm")):
        found[job] = {
            **found[plain],
            "description": "An operation with its fields; previews are on unless they are null.",
            "properties": operation | found[plain]["properties"],
            "required": ["operation", *found[plain]["required"]],
        }
    return found


def _definitions(models: tuple[type[BaseModel], ...], mode: Literal["validation", "serialization"]) -> _Json:
    """The schemas of models and of all that they hold, without titles, which repeat their names."""
    _, whole = models_json_schema(
        [(model, mode) for model in models], ref_template="#/components/schemas/{model}"
    )
    found: _Json = whole["$defs"]
    for schema in found.values():
        schema.pop("title", None)
        for field in schema.get("properties", {}).values():
            field.pop("title", None)
    return found


def _describe(found: _Json, model: type[BaseModel], *, none: str) -> None:
    """Give the fields of a schema what the docstring of the model says of them, with another word for None."""
    schema, doc = found[model.__name__], inspect.cleandoc(model.__doc__ or "")
    schema["description"] = _said(doc.partition("\n\n")[0], none)
    attributes = doc.partition("Attributes:\n")[2].partition("\n\n")[0]
    for name, text in _ATTRIBUTE.findall(attributes):
        schema["properties"][to_camel(name)]["description"] = _said(text, none)


def _said(text: str, none: str) -> str:
    text = _FIELD.sub(lambda found: f"`{to_camel(found[1])}`", " ".join(text.split()))
    return text.replace("``", "`").replace("None", none)


def _nullable(schema: _Json) -> _Json:
    if {"type": "null"} in schema.get("anyOf", ()):
        return schema
    about: _Json = {name: schema[name] for name in ("description", "default") if name in schema}
    return {
        "anyOf": [{name: schema[name] for name in schema if name not in about}, {"type": "null"}],
        **about,
    }
