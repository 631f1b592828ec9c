"""The bodies of answers as types: what ``/openapi.json`` promises, and what ``wire`` makes. Absent is unknown; nothing
is ever null."""

from __future__ import annotations

import inspect
import re
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel
from pydantic.json_schema import models_json_schema

from sdmanager.generation import ImageRequest, Lora, PreviewOptions

_Json = dict[str, Any]

_CLOSED: Final = ConfigDict(frozen=True, extra="forbid", json_schema_serialization_defaults_required=True)

# What Python's str.strip() leaves nothing of is blank.
_TEXT: Final = "^[^\\x00]*$"
_NOT_BLANK: Final = "^[^\\x00]*[^\\s\\x00][^\\x00]*$"
_FIELD: Final = re.compile(r"``(\w+)``")
_ATTRIBUTE: Final = re.compile(r"^    (\w+): (.+(?:\n {5,}.+)*)", re.MULTILINE)


class _Body(BaseModel):
    model_config = ConfigDict(**_CLOSED, alias_generator=to_camel, populate_by_name=True)

    def body(self) -> dict[str, object]:
        """As it goes over the wire."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class ErrorInfo(_Body):
    """What went wrong: a sentence for people, a code for programs, and often what to do about it."""

    message: str
    code: str
    suggestion: str | None = None


class ErrorBody(_Body):
    """The body of every error."""

    error: ErrorInfo


class Accepted(_Body):
    """A generation that was taken and written down."""

    id: str
    status: Literal["pending", "in_progress", "complete", "error", "cancelled"] = Field(
        description="pending; to a repeated Idempotency-Key, how the generation stands."
    )
    created_at: int = Field(description="Milliseconds since the epoch.")


class CancelledBody(_Body):
    """A generation that was cancelled: its engine is dead and its files are gone."""

    id: str
    status: Literal["cancelled"]


class ProgressBody(_Body):
    """How far a generation is; the percentage never falls and is 100 only at the end."""

    current_step: int = Field(ge=0)
    total_steps: int = Field(ge=0, description="0 while unknown.")
    stage: Literal["offloading", "loading", "diffusion", "decoding"] = Field(
        description="offloading: others that hold memory are put aside; only where they must be."
    )
    percentage: float = Field(ge=0, le=100)
    current_image: int = Field(ge=1)
    total_images: int = Field(ge=1)
    eta_seconds: float | None = Field(None, ge=0)


class ImageBody(_Body):
    """One picture, and the seed that draws it again."""

    image: str = Field(description="The PNG, in base64.")
    seed: int
    width: int
    height: int


class StageTimingsBody(_Body):
    """Milliseconds spent in each stage."""

    loading: int
    diffusion: int
    decoding: int
    offloading: int = Field(description="Before the engine started: others were put aside.")


class PlanBody(_Body):
    """Memory flags as the command line has them, who was put aside for them, and why."""

    flags: tuple[str, ...] = Field(description="Empty: none.")
    evictions: tuple[str, ...] = Field(description="Names of what was put aside.")
    reasons: tuple[str, ...] = Field(description="One sentence each.")


class MemoryBody(_Body):
    """What the engine was seen to use at the highest; what is unknown is missing."""

    ram_bytes: int | None = Field(None, ge=0)
    vram_bytes: int | None = Field(None, ge=0)


class PreviewTimingsBody(_Body):
    """What previews took, in milliseconds; beside the engine, which is not kept waiting."""

    count: int
    first_after: int | None = None
    reading: int
    encoding: int


class ResultBody(_Body):
    """The pictures and how they came about."""

    images: tuple[ImageBody, ...]
    format: Literal["png"]
    time_taken: int = Field(description="Milliseconds.")
    timings: StageTimingsBody
    model: str
    variant: str = Field(description="Of the engine: cpu, cuda, vulkan, …")
    plan: PlanBody
    memory: MemoryBody | None = None
    out_of_memory: tuple[PlanBody, ...] | None = Field(
        None, description="Plans with which the engine ran out of memory before this one."
    )
    previews: PreviewTimingsBody | None = None


class GenerationSummary(_Body):
    """A generation in a list."""

    id: str
    status: Literal["pending", "in_progress", "complete", "error", "cancelled"]
    created_at: int = Field(description="Milliseconds since the epoch.")
    updated_at: int = Field(description="Milliseconds since the epoch.")
    queue_position: int | None = Field(None, ge=1, description="While it waits.")


class GenerationBody(GenerationSummary):
    """A generation: its progress while it is drawn, then its result or its error."""

    progress: ProgressBody | None = None
    result: ResultBody | None = None
    error: ErrorInfo | None = None


class GenerationList(_Body):
    """All that is known, finished ones for as long as they are kept."""

    generations: tuple[GenerationSummary, ...]


class JobAccepted(BaseModel):
    """A job that was taken, and where its events are."""

    model_config = _CLOSED

    job_id: str
    sse_url: str


class Health(_Body):
    """The server answers, and whether it draws."""

    status: Literal["ok"]
    busy: bool


class ModelBody(BaseModel):
    """A model, as OpenAI's clients read it."""

    model_config = _CLOSED

    id: str
    object: Literal["model"]
    created: int = Field(description="Seconds since the epoch.")
    owned_by: str


class ModelList(_Body):
    """The model that draws here."""

    object: Literal["list"]
    data: tuple[ModelBody, ...]


class EngineInfo(_Body):
    """The engine: its variant (cpu, cuda, vulkan, …), its version, and whence it came."""

    variant: str
    version: str | None = None
    source: str | None = None


class AsideInfo(_Body):
    """A program that was put aside for a picture, or is being brought back.

    Attributes:
        name: Of the program.
        what: It held.
        since: When it was put aside, in milliseconds since the epoch.
        attempts: To bring it back that failed in a row.
        retry_at: When it is tried again, in milliseconds since the epoch; None: not by itself.
        error: Why the last attempt failed; None: nothing went wrong.
    """

    name: str
    what: str
    since: int
    attempts: int
    retry_at: int | None = None
    error: str | None = None


class ServerInfo(_Body):
    """What a server is and how it stands.

    Attributes:
        version: Of sdmanager.
        status: State of the manager.
        model: Name of the model; None before one was named.
        engine: What draws; None before it was found.
        url: Where the server answers; None while it does not.
        host: Address that it is bound to.
        port: Likewise; None while it is not bound.
        pid: Of the manager's process.
        started_at: When it began to answer, in milliseconds since the epoch.
        busy: Whether a generation is being drawn.
        waiting: How many wait.
        queue_size: How many may.
        samplers: Names that the engine takes.
        schedulers: Likewise.
        preview_methods: Likewise.
        aside: Programs that were put aside for pictures, and are not back yet.
        error: Why the manager crashed.
    """

    version: str
    status: Literal["stopped", "starting", "running", "stopping", "crashed"]
    model: str | None = None
    engine: EngineInfo | None = None
    url: str | None = None
    host: str | None = None
    port: int | None = None
    pid: int
    started_at: int | None = None
    busy: bool = False
    waiting: int = 0
    queue_size: int = 0
    samplers: tuple[str, ...] = ()
    schedulers: tuple[str, ...] = ()
    preview_methods: tuple[str, ...] = ()
    aside: tuple[AsideInfo, ...] = ()
    error: ErrorInfo | None = None


_SHOWN: Final = (
    ErrorBody, Accepted, CancelledBody, GenerationBody, GenerationList, Health, JobAccepted, ModelList, ServerInfo,
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
    found = _definitions((ImageRequest,), "validation")
    for model in (ImageRequest, PreviewOptions, Lora):
        _describe(found, model, none="null")
    request = found["ImageRequest"]
    fields = request["properties"]
    fields["prompt"]["pattern"] = _NOT_BLANK
    fields["negativePrompt"]["pattern"] = found["Lora"]["properties"]["name"]["pattern"] = _TEXT
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
