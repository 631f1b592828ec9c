"""From a request to the engine's arguments, against what two builds say in their own help."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from sdmanager.binaries import Capabilities, parse_help
from sdmanager.engine.arguments import (
    ARGUMENT_BYTES_MAX,
    LORA_FOLDER,
    OUTPUT_PATTERN,
    build_invocation,
    choose_preview_method,
    output_name,
)
from sdmanager.errors import EngineArgumentError, InvalidRequestError
from sdmanager.generation import ImageRequest, MemoryPlan, PreviewMethod, PreviewOptions
from sdmanager.models import ModelFiles, Role

HELP = Path(__file__).parents[1] / "data" / "help"
BUILDS = ("pypi-0.4.7", "master-97d2990")
SHORT = {"-W", "-H"}


def files(*roles: Role) -> ModelFiles:
    return ModelFiles("test", {role: Path(f"/m/{role}.gguf") for role in roles})


WHOLE = files(Role.MODEL)
WHOLE_TAE = files(Role.MODEL, Role.TAE)
DEMO = files(Role.DIFFUSION_MODEL, Role.LLM, Role.TAE)
FLUX = files(Role.DIFFUSION_MODEL, Role.CLIP_L, Role.T5XXL, Role.VAE)
FLUX_TAE = files(Role.DIFFUSION_MODEL, Role.CLIP_L, Role.T5XXL, Role.VAE, Role.TAE)
SDXL_PARTS = files(Role.DIFFUSION_MODEL, Role.CLIP_L, Role.CLIP_G, Role.VAE)
MODELS = [WHOLE, WHOLE_TAE, DEMO, FLUX, FLUX_TAE, SDXL_PARTS]


@cache
def build(name: str) -> Capabilities:
    return parse_help((HELP / f"{name}.txt").read_text(encoding="utf-8"))


@pytest.fixture(params=BUILDS)
def capabilities(request: pytest.FixtureRequest) -> Capabilities:
    return build(request.param)


def arguments(capabilities, *, model=WHOLE, plan=None, threads=None, on_gpu=False, **fields):
    request = ImageRequest(**{"prompt": "a cat", "seed": 7, **fields})
    return build_invocation(
        request, model, plan or MemoryPlan(), capabilities, threads=threads, on_gpu=on_gpu
    ).arguments


def value(args, flag):
    assert args.count(flag) == 1, (flag, args)
    return args[args.index(flag) + 1]


def without(capabilities, *flags):
    return Capabilities.from_json(
        {**capabilities.to_json(), "flags": sorted(capabilities.flags - set(flags))}
    )


# --- the model

FLAG = {
    Role.MODEL: "--model",
    Role.DIFFUSION_MODEL: "--diffusion-model",
    Role.CLIP_L: "--clip_l",
    Role.CLIP_G: "--clip_g",
    Role.T5XXL: "--t5xxl",
    Role.LLM: "--llm",
    Role.VAE: "--vae",
    Role.TAE: "--tae",
}


@pytest.mark.parametrize(
    ("model", "preview", "on_gpu", "roles", "preview_only"),
    [
        (WHOLE, None, False, "model", False),
        (WHOLE, "auto", True, "model", False),
        (WHOLE_TAE, None, False, "model", False),
        (WHOLE_TAE, "proj", False, "model", False),
        (WHOLE_TAE, "auto", False, "model", False),
        (WHOLE_TAE, "auto", True, "model tae", True),
        (WHOLE_TAE, "tae", False, "model tae", True),
        (DEMO, None, False, "diffusion_model llm tae", False),
        (DEMO, "tae", False, "diffusion_model llm tae", False),
        (DEMO, "auto", True, "diffusion_model llm tae", False),
        (FLUX, None, False, "diffusion_model clip_l t5xxl vae", False),
        (FLUX_TAE, "vae", False, "diffusion_model clip_l t5xxl vae", False),
        (FLUX_TAE, "tae", False, "diffusion_model clip_l t5xxl vae tae", True),
        (SDXL_PARTS, None, False, "diffusion_model clip_l clip_g vae", False),
    ],
)
def test_files_of_a_model(capabilities, model, preview, on_gpu, roles, preview_only):
    previews = PreviewOptions(method=preview) if preview else None
    args = arguments(capabilities, model=model, previews=previews, on_gpu=on_gpu)
    wanted = {Role(role) for role in roles.split()}
    for role, flag in FLAG.items():
        if role in wanted:
            assert value(args, flag) == f"/m/{role}.gguf"
        else:
            assert flag not in args
    assert ("--taesd-preview-only" in args) == preview_only


@pytest.mark.parametrize("plan", [MemoryPlan(), MemoryPlan(True, True, True, True, True, 5.5)])
@pytest.mark.parametrize("model", MODELS, ids=lambda model: "+".join(model.files))
@pytest.mark.parametrize("method", ["auto", "proj", "tae", "vae", None])
def test_each_flag_is_one_that_the_build_has(capabilities, model, method, plan):
    if method == "tae" and Role.TAE not in model.files:
        method = "vae"
    args = arguments(
        capabilities,
        model=model,
        plan=plan,
        threads=3,
        on_gpu=True,
        negative_prompt="a dog",
        sampler="euler_a",
        scheduler="karras",
        clip_skip=2,
        init_image=b"x",
        mask_image=b"y",
        previews=PreviewOptions(method=method) if method else None,
    )
    flags = [arg for arg in args if arg.startswith("-")]
    assert len(flags) == len(set(flags))
    assert capabilities.flags.issuperset(flags)


# --- numbers


def test_numbers_of_a_request(capabilities):
    args = arguments(
        capabilities,
        width=640,
        height=384,
        steps=9,
        cfg_scale=1.25,
        seed=2**40,
        count=3,
        clip_skip=2,
        threads=5,
        sampler="dpm++2m",
        scheduler="karras",
    )
    expected = {
        "-W": "640",
        "-H": "384",
        "--steps": "9",
        "--cfg-scale": "1.25",
        "--seed": str(2**40),
        "--batch-count": "3",
        "--clip-skip": "2",
        "--threads": "5",
        "--sampling-method": "dpm++2m",
        "--scheduler": "karras",
        "--output": OUTPUT_PATTERN,
        "--lora-model-dir": LORA_FOLDER,
    }
    assert {flag: value(args, flag) for flag in expected} == expected


def test_what_is_left_out_is_not_passed(capabilities):
    args = arguments(capabilities)
    left_out = ("--clip-skip", "--threads", "--sampling-method", "--scheduler", "--preview", "--init-img")
    left_out += ("--mask", "--strength", "--negative-prompt", "--negative-prompt-file", "--max-vram")
    assert not set(left_out) & set(args)


@pytest.mark.parametrize("seed", [0, 1, 2**31, 2**32, 2**63 - 11])
def test_seeds_are_passed_in_full(capabilities, seed):
    assert value(arguments(capabilities, seed=seed), "--seed") == str(seed)


@pytest.mark.parametrize("number", [0, 1, 7.5, 0.1, 49.999, 1e-7])
def test_a_scale_comes_back_as_the_same_number(capabilities, number):
    assert float(value(arguments(capabilities, cfg_scale=number), "--cfg-scale")) == pytest.approx(number)


def test_an_output_name_counts_from_zero():
    assert [output_name(index) for index in range(2)] == ["o_0.png", "o_1.png"]


def test_input_images_by_their_names_in_the_jobs_folder(capabilities):
    args = arguments(capabilities, init_image="/x/secret.png", strength=0.4)
    assert value(args, "--init-img") == "init.png"
    assert value(args, "--strength") == "0.4"
    assert "--mask" not in args
    assert "/x/secret.png" not in args
    args = arguments(capabilities, init_image=b"x", mask_image=b"y")
    assert value(args, "--mask") == "mask.png"


# --- prompts

PROMPTS = [
    "a cat",
    "-",
    "--steps",
    "--no-such-flag",
    "-p",
    "--prompt",
    "--negative-prompt",
    "100 % %d %s %n",
    "two\nlines\r\nand\ttabs",
    "灯台 🗼 café",
    "\"quoted\" 'twice' $HOME `x` \\n",
    "<lora:x>",
    "x" * ARGUMENT_BYTES_MAX,
    "bytes \udcff that are no UTF-8",
]


@pytest.mark.parametrize("prompt", PROMPTS, ids=lambda text: ascii(text[:20]))
@pytest.mark.parametrize("negative", ["", "--steps", "--prompt", "-"])
def test_a_prompt_arrives_as_it_is(prompt, negative):
    args = arguments(build("pypi-0.4.7"), prompt=prompt, negative_prompt=negative)
    place = args.index("--prompt")
    assert args[place + 1] == prompt
    rest = args[place + 2 :]
    if negative:
        assert rest[:2] == ("--negative-prompt", negative)
    else:
        assert "--negative-prompt" not in rest
    assert "-W" in rest


@pytest.mark.parametrize("prompt", [*PROMPTS, "x" * (ARGUMENT_BYTES_MAX + 1), "é" * 10**6])
def test_a_prompt_goes_into_a_file_where_the_build_reads_one(prompt):
    request = ImageRequest(prompt=prompt, negative_prompt=f"no {prompt}", seed=1)
    made = build_invocation(request, WHOLE, MemoryPlan(), build("master-97d2990"))
    assert made.texts == {"prompt.txt": prompt, "negative.txt": f"no {prompt}"}
    assert value(made.arguments, "--prompt-file") == "prompt.txt"
    assert value(made.arguments, "--negative-prompt-file") == "negative.txt"
    assert len("".join(made.arguments)) < 400


def test_an_empty_negative_prompt_is_left_out(capabilities):
    request = ImageRequest(prompt="x", negative_prompt="", seed=1)
    made = build_invocation(request, WHOLE, MemoryPlan(), capabilities)
    assert not any("negative" in argument for argument in made.arguments)
    assert "negative.txt" not in made.texts


@pytest.mark.parametrize("text", ["x" * (ARGUMENT_BYTES_MAX + 1), "é" * (ARGUMENT_BYTES_MAX // 2 + 1)])
@pytest.mark.parametrize("field", ["prompt", "negative_prompt"])
def test_a_prompt_too_long_for_an_argument_is_refused(text, field):
    with pytest.raises(InvalidRequestError, match=f"The {field.replace('_', ' ')} is longer") as caught:
        arguments(build("pypi-0.4.7"), **{field: text})
    assert caught.value.hint
    assert len(str(caught.value)) < 200


# --- names from the engine's own list


@pytest.mark.parametrize(
    ("field", "name", "meant"),
    [
        ("sampler", "euler-a", "euler_a"),
        ("sampler", "Euler", "euler"),
        ("sampler", "dpm++2n", "dpm++2m"),
        ("scheduler", "karas", "karras"),
        ("scheduler", "exponental", "exponential"),
    ],
)
def test_a_misspelt_name_gets_a_suggestion(capabilities, field, name, meant):
    with pytest.raises(InvalidRequestError, match=f"knows no {field}") as caught:
        arguments(capabilities, **{field: name})
    assert f"Did you mean {meant!r}?" in (caught.value.hint or "")
    assert meant in caught.value.details["known"]


@pytest.mark.parametrize("name", ["zzzz", "", " ", "--steps", "x" * 10_000])
def test_a_foreign_name_gets_the_list(capabilities, name):
    with pytest.raises(InvalidRequestError) as caught:
        arguments(capabilities, sampler=name)
    assert "It knows: euler, euler_a" in (caught.value.hint or "")
    assert len(str(caught.value)) < 120


def test_a_sampler_of_the_newer_build_only():
    assert value(arguments(build("master-97d2990"), sampler="lms"), "--sampling-method") == "lms"
    with pytest.raises(InvalidRequestError):
        arguments(build("pypi-0.4.7"), sampler="lms")


def test_every_name_that_the_engine_lists_is_taken(capabilities):
    for name in capabilities.samplers:
        assert value(arguments(capabilities, sampler=name), "--sampling-method") == name
    for name in capabilities.schedulers:
        assert value(arguments(capabilities, scheduler=name), "--scheduler") == name


# --- memory


@pytest.mark.parametrize(
    ("plan", "old", "new"),
    [
        (MemoryPlan(), [], []),
        (MemoryPlan(clip_on_cpu=True), ["--clip-on-cpu"], ["--backend", "te=cpu"]),
        (MemoryPlan(vae_on_cpu=True), ["--vae-on-cpu"], ["--backend", "vae=cpu"]),
        (
            MemoryPlan(clip_on_cpu=True, vae_on_cpu=True),
            ["--clip-on-cpu", "--vae-on-cpu"],
            ["--backend", "te=cpu,vae=cpu"],
        ),
        (MemoryPlan(offload_to_cpu=True), ["--offload-to-cpu"], ["--offload-to-cpu"]),
        (MemoryPlan(vae_tiling=True), ["--vae-tiling"], ["--vae-tiling"]),
        (MemoryPlan(diffusion_flash_attention=True), ["--diffusion-fa"], ["--diffusion-fa"]),
        (MemoryPlan(max_vram_gib=5.5), ["--max-vram", "5.5"], ["--max-vram", "5.5"]),
        (MemoryPlan(max_vram_gib=8), ["--max-vram", "8"], ["--max-vram", "8"]),
    ],
)
def test_a_memory_plan(plan, old, new):
    for name, expected in (("pypi-0.4.7", old), ("master-97d2990", new)):
        plain = arguments(build(name))
        planned = list(arguments(build(name), plan=plan))
        for argument in plain:
            planned.remove(argument)
        assert planned == expected


@pytest.mark.parametrize(
    ("plan", "expected"),
    [
        (
            MemoryPlan(offload_to_cpu=True, max_vram_gib=4, stream_layers=True),
            ["--offload-to-cpu", "--max-vram", "4", "--stream-layers"],
        ),
        (MemoryPlan(stream_layers=True), ["--offload-to-cpu", "--max-vram", "-1", "--stream-layers"]),
    ],
)
def test_layers_are_streamed_with_what_that_needs(plan, expected):
    args = list(arguments(build("master-97d2990"), plan=plan))
    for argument in arguments(build("master-97d2990")):
        args.remove(argument)
    assert args == expected
    with pytest.raises(EngineArgumentError, match="--stream-layers"):
        arguments(build("pypi-0.4.7"), plan=plan)


# --- previews


def test_previews(capabilities):
    args = arguments(capabilities, steps=20, previews=PreviewOptions(method="vae"))
    assert value(args, "--preview") == "vae"
    assert value(args, "--preview-path") == "preview.png"
    assert value(args, "--preview-interval") == "2"
    args = arguments(capabilities, steps=20, previews=PreviewOptions(stride=7))
    assert value(args, "--preview-interval") == "7"


@pytest.mark.parametrize(
    ("model", "on_gpu", "method"),
    [(WHOLE, False, "proj"), (WHOLE, True, "proj"), (DEMO, False, "proj"), (DEMO, True, "tae")],
)
def test_what_auto_means(capabilities, model, on_gpu, method):
    chosen = choose_preview_method(PreviewMethod.AUTO, model, capabilities, on_gpu=on_gpu)
    assert chosen == method
    previews = PreviewOptions()
    assert (
        value(arguments(capabilities, model=model, on_gpu=on_gpu, previews=previews), "--preview") == method
    )


def test_a_preview_method_without_its_file_is_refused(capabilities):
    with pytest.raises(InvalidRequestError, match="tiny autoencoder"):
        arguments(capabilities, previews=PreviewOptions(method="tae"))


@pytest.mark.parametrize("method", ["auto", "proj", "vae"])
def test_an_engine_without_previews_is_named(capabilities, method):
    """With 'auto' this was an error about flags instead."""
    blind = Capabilities.from_json({**capabilities.to_json(), "preview_methods": []})
    with pytest.raises(InvalidRequestError, match="knows no preview method"):
        arguments(blind, previews=PreviewOptions(method=method))


# --- engines that lack a flag


@pytest.mark.parametrize(
    ("flag", "fields"),
    [
        ("--model", {}),
        ("--seed", {}),
        ("--output", {}),
        ("--lora-model-dir", {}),
        ("--init-img", {"init_image": b"x"}),
        ("--mask", {"init_image": b"x", "mask_image": b"y"}),
        ("--vae-tiling", {"plan": MemoryPlan(vae_tiling=True)}),
        ("--max-vram", {"plan": MemoryPlan(max_vram_gib=4)}),
        ("--llm", {"model": DEMO}),
        ("--clip-skip", {"clip_skip": 1}),
        ("--preview-interval", {"previews": PreviewOptions()}),
        ("--taesd-preview-only", {"model": FLUX_TAE, "previews": PreviewOptions(method="tae")}),
    ],
)
def test_a_flag_that_the_engine_lacks_is_named(capabilities, flag, fields):
    with pytest.raises(EngineArgumentError, match=flag) as caught:
        arguments(without(capabilities, flag), **fields)
    assert caught.value.details["flags"] == [flag]


def test_a_flag_that_is_not_needed_is_not_missed(capabilities):
    arguments(without(capabilities, "--mask", "--init-img", "--vae-tiling", "--preview", "--clip_l"))


def test_an_engine_that_told_nothing_is_refused():
    with pytest.raises(EngineArgumentError):
        arguments(Capabilities())
