"""The bodies of answers as types: what ``/openapi.json`` promises, and what ``wire`` makes. Absent is unknown; nothing
is ever null."""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

_CLOSED: Final = ConfigDict(frozen=True, extra="forbid", json_schema_serialization_defaults_required=True)

# No text that is passed on to the engine, or looked up, may hold a NUL.
TEXT: Final = "^[^\\x00]*$"


class Body(BaseModel):
    """What all bodies have in common."""

    model_config = ConfigDict(**_CLOSED, alias_generator=to_camel, populate_by_name=True)

    def body(self) -> dict[str, object]:
        """As it goes over the wire."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class ErrorInfo(Body):
    """What went wrong: a sentence for people, a code for programs, and often what to do about it."""

    message: str
    code: str
    suggestion: str | None = None


class ErrorBody(Body):
    """The body of every error."""

    error: ErrorInfo


class Accepted(Body):
    """A generation that was taken and written down."""

    id: str
    status: Literal["pending", "in_progress", "complete", "error", "cancelled"] = Field(
        description="pending; to a repeated Idempotency-Key, how the generation stands."
    )
    created_at: int = Field(description="Milliseconds since the epoch.")


class CancelledBody(Body):
    """A generation that was cancelled: its engine is dead and its files are gone."""

    id: str
    status: Literal["cancelled"]


class ProgressBody(Body):
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


class ImageBody(Body):
    """One picture, and the seed that draws it again."""

    image: str = Field(description="The PNG, in base64.")
    seed: int
    width: int
    height: int


class StageTimingsBody(Body):
    """Milliseconds spent in each stage."""

    loading: int
    diffusion: int
    decoding: int
    offloading: int = Field(description="Before the engine started: others were put aside.")


class PlanBody(Body):
    """Memory flags as the command line has them, who was put aside for them, and why."""

    flags: tuple[str, ...] = Field(description="Empty: none.")
    evictions: tuple[str, ...] = Field(description="Names of what was put aside.")
    reasons: tuple[str, ...] = Field(description="One sentence each.")


class MemoryBody(Body):
    """What the engine was seen to use at the highest; what is unknown is missing."""

    ram_bytes: int | None = Field(None, ge=0)
    vram_bytes: int | None = Field(None, ge=0)


class PreviewTimingsBody(Body):
    """What previews took, in milliseconds; beside the engine, which is not kept waiting."""

    count: int
    first_after: int | None = None
    reading: int
    encoding: int


class ResultBody(Body):
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
    request: dict[str, Any] | None = Field(
        None,
        description="What was drawn, with the model's defaults and the seed, as fields of a request; without input "
        "images. Missing where it is not known any more, as after a restart of the server.",
    )


class GenerationSummary(Body):
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


class GenerationList(Body):
    """All that is known, finished ones for as long as they are kept."""

    generations: tuple[GenerationSummary, ...]


class JobAccepted(BaseModel):
    """A job that was taken, and where its events are."""

    model_config = _CLOSED

    job_id: str
    sse_url: str


class Health(Body):
    """The server answers, and whether it draws."""

    status: Literal["ok"]
    busy: bool


class DefaultsBody(Body):
    """What suits a model, and applies to fields that a request leaves out; what is unknown is missing."""

    steps: int | None = None
    cfg_scale: float | None = None
    width: int | None = None
    height: int | None = None
    guidance: float | None = None
    sampler: str | None = None
    scheduler: str | None = None


class ModelBody(BaseModel):
    """A model, as OpenAI's clients read it, and what else there is to know of it."""

    model_config = _CLOSED

    id: str = Field(description="For modelId.")
    object: Literal["model"]
    created: int = Field(description="When it was installed, in seconds since the epoch; 0 where unknown.")
    owned_by: str
    name: str
    current: bool = Field(description="Whether requests that name no model are drawn with it.")
    family: str | None = None
    defaults: DefaultsBody


class ModelList(Body):
    """The models that can be drawn with, by name."""

    object: Literal["list"]
    data: tuple[ModelBody, ...]


class ModelUsed(Body):
    """The model that requests are drawn with from now on where they name none."""

    id: str
    current: Literal[True]


class ModelChoice(BaseModel):
    """Which model to draw with from now on where a request names none."""

    model_config = _CLOSED

    id: str = Field(min_length=1, max_length=200, pattern=TEXT, description="As /v1/models has it.")


class EngineInfo(Body):
    """The engine: its variant (cpu, cuda, vulkan, …), its version, and whence it came."""

    variant: str
    version: str | None = None
    source: str | None = None


class AsideInfo(Body):
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


class ServerInfo(Body):
    """What a server is and how it stands.

    Attributes:
        version: Of sdmanager.
        status: State of the manager.
        model: Name of the current model; None before one was named.
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
        gallery: Whether what is drawn is kept, and found again under ``/v1/history``.
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
    gallery: bool = False
    aside: tuple[AsideInfo, ...] = ()
    error: ErrorInfo | None = None
