"""What ``txt2img`` and ``img2img`` answer with."""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sdmanager.server.wire import base64_text

from .names import SAMPLERS, label_of
from .pictures import as_it_stands, latent_size, texts_in

if TYPE_CHECKING:
    from sdmanager.generation import GenerationResult, ImageRequest, Preview

    from .asked import Asked

_SAMPLER: Final = re.compile(r"\bSampler: ([^\s,]+)")


@dataclass(frozen=True, slots=True)
class Drawing:
    """A request that was accepted.

    Attributes:
        asked: What the client asked for.
        wanted: What was accepted of it.
        model: Name of the model that it is drawn with.
        began: Seconds since the epoch.
        version: Of the server.
    """

    asked: Asked
    wanted: ImageRequest
    model: str
    began: float
    version: str


def timestamp(seconds: float) -> str:
    """A time as this API writes it, in this machine's own zone.

    Args:
        seconds: Since the epoch.
    """
    return time.strftime("%Y%m%d%H%M%S", time.localtime(seconds))


def whole(drawing: Drawing, result: GenerationResult) -> bytes:
    """The answer with the pictures, as JSON; reads them, and takes time.

    Raises:
        StorageError: They are not there any more.
    """
    files = [image.png for image in result.images]
    infotexts = [texts_in(data).get("parameters", "") for data in files]
    info = _info(
        drawing,
        result.request or drawing.wanted,
        seeds=[image.seed for image in result.images],
        size=(result.image.width, result.image.height),
        infotexts=infotexts,
    )
    info["sd_model_name"] = result.model
    return _body(drawing, files if drawing.asked.send_images else [], info)


def interrupted(drawing: Drawing, preview: Preview | None) -> bytes:
    """The answer of one that was stopped: the picture as it stood, or none where nothing was to be seen yet.

    Args:
        drawing: What was accepted.
        preview: The last one.
    """
    wanted, files, seeds = drawing.wanted, list[bytes](), list[int]()
    size = wanted.width, wanted.height
    if preview is not None:
        # Where no size was asked for, the model chose it, or the picture that it starts from.
        if not {"width", "height"} <= wanted.model_fields_set:
            size = latent_size(preview.image)
        picture = as_it_stands(preview.image, size)
        if picture is not None:
            files.append(picture)
            seeds.append(wanted.seed + preview.image_index - 1 if wanted.seed is not None else -1)
    info = _info(drawing, wanted, seeds=seeds, size=size, infotexts=[""] * len(files))
    info["interrupted"] = True
    return _body(drawing, files if drawing.asked.send_images else [], info)


def _body(drawing: Drawing, files: list[bytes], info: dict[str, object]) -> bytes:
    body = {
        "images": [base64_text(data) for data in files],
        "parameters": drawing.asked.parameters,
        "info": json.dumps(info),
    }
    return json.dumps(body).encode("ascii")


def _info(
    drawing: Drawing, drawn: ImageRequest, *, seeds: list[int], size: tuple[int, int], infotexts: list[str]
) -> dict[str, object]:
    asked, count = drawing.asked, len(seeds)
    seed = seeds[0] if seeds else (drawing.wanted.seed if drawing.wanted.seed is not None else -1)
    return {
        "prompt": drawn.prompt,
        "all_prompts": [drawn.prompt] * count,
        "negative_prompt": drawn.negative_prompt,
        "all_negative_prompts": [drawn.negative_prompt] * count,
        "seed": seed,
        "all_seeds": seeds,
        "subseed": -1,
        "all_subseeds": [-1] * count,
        "subseed_strength": 0,
        "width": size[0],
        "height": size[1],
        "sampler_name": _sampler(drawn, infotexts),
        "cfg_scale": drawn.cfg_scale,
        "steps": drawn.steps,
        "batch_size": drawn.count // asked.iterations,
        "restore_faces": False,
        "face_restoration_model": None,
        "sd_model_name": drawing.model,
        "sd_model_hash": None,
        "sd_vae_name": None,
        "sd_vae_hash": None,
        "seed_resize_from_w": -1,
        "seed_resize_from_h": -1,
        "denoising_strength": drawn.strength if asked.inputs is not None else None,
        "extra_generation_params": {},
        "index_of_first_image": 0,
        "infotexts": infotexts,
        "styles": [],
        "job_timestamp": timestamp(drawing.began),
        "clip_skip": drawn.clip_skip or 1,
        "is_using_inpainting_conditioning": False,
        "version": f"sdmanager {drawing.version}",
        "interrupted": False,
        "notes": list(asked.notes),
    }


def _sampler(drawn: ImageRequest, infotexts: list[str]) -> str | None:
    """The one that was chosen: by the engine, as it wrote into the picture, where nobody else did."""
    name = drawn.sampler
    if name is None and infotexts:
        found = _SAMPLER.search(infotexts[0].rpartition("\nSteps: ")[2])
        name = found[1] if found is not None else None
    return label_of(SAMPLERS, name) if name is not None else None
