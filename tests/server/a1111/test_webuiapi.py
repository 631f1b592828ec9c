"""The library ``webuiapi`` against the real engine: every method that works without extensions."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
import webuiapi
from PIL import Image, ImageChops
from serving import Served, serving

SMALL = {"width": 64, "height": 64, "steps": 2, "seed": 7}


def pixels(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture.convert("RGB"), dtype=float)


def gradient(size=(64, 64)) -> Image.Image:
    return Image.linear_gradient("L").resize(size).convert("RGB")


async def test_txt2img_gives_pictures_their_seeds_and_their_settings(client):
    result = await client.txt2img(
        prompt="a lighthouse", negative_prompt="fog", batch_size=2, n_iter=1, **SMALL
    )
    assert [image.size for image in result.images] == [(64, 64)] * 2
    assert result.info["all_seeds"] == [7, 8]
    assert result.info["seed"] == 7
    assert result.info["all_prompts"] == ["a lighthouse"] * 2
    assert result.info["negative_prompt"] == "fog"
    assert (result.info["width"], result.info["height"], result.info["steps"]) == (64, 64, 2)
    assert result.info["sampler_name"] == "Euler a"
    assert result.info["batch_size"] == 2
    assert result.info["sd_model_name"] == "demo"
    assert result.parameters["prompt"] == "a lighthouse"
    # What the engine itself wrote into the files.
    assert [image.info["parameters"] for image in result.images] == result.info["infotexts"]
    assert "Steps: 2" in result.info["infotexts"][0]


async def test_the_same_seed_draws_the_same_as_in_our_own_api(client, real: Served):
    ours = await real.drawn(seed=7, negativePrompt="", cfgScale=7.0, sampler="euler_a", prompt="a lighthouse")
    theirs = await client.txt2img(prompt="a lighthouse", **SMALL)
    assert theirs.json["images"] == [ours["result"]["images"][0]["image"]]


async def test_an_empty_prompt_is_drawn(client):
    # The default of the library.
    result = await client.txt2img(**SMALL)
    assert result.image.size == (64, 64)
    assert result.info["prompt"] == ""


async def test_the_scheduler_and_a_lora_in_the_prompt_change_the_picture(client):
    plain, karras, ink = [
        pixels((await client.txt2img(prompt=prompt, scheduler=scheduler, **SMALL)).image)
        for prompt, scheduler in (("a", "simple"), ("a", "Karras"), ("a<lora:ink:1>", "simple"))
    ]
    assert np.abs(plain - karras).mean() > 1
    assert np.abs(plain - ink).mean() > 1


async def test_img2img_starts_from_the_picture(client):
    near, far = [
        await client.img2img(
            images=[gradient()], prompt="a lighthouse", denoising_strength=strength, **SMALL | {"steps": 5}
        )
        for strength in (0.2, 1.0)
    ]
    start = pixels(gradient())
    assert np.abs(pixels(near.image) - start).mean() < np.abs(pixels(far.image) - start).mean()
    assert near.info["denoising_strength"] == 0.2


async def test_white_in_a_mask_is_drawn_anew_and_black_where_it_is_inverted(client):
    mask = Image.new("L", (64, 64), 0)
    mask.paste(255, (32, 0, 64, 64))
    left, right = slice(0, 24), slice(40, 64)
    for invert, kept, changed in ((0, left, right), (1, right, left)):
        one, other = [
            await client.img2img(
                images=[gradient()], mask_image=mask, mask_blur=0, inpainting_mask_invert=invert, prompt="a lighthouse",
                denoising_strength=1.0, **SMALL | {"seed": seed},
            )
            for seed in (1, 2)
        ]  # fmt: skip
        change = np.abs(pixels(one.image) - pixels(other.image)).mean(axis=(0, 2))
        assert change[kept].mean() < change[changed].mean() / 2


async def test_models_are_listed_and_changed(client):
    models = await client.get_sd_models()
    assert [model["model_name"] for model in models] == ["demo", "red"]
    assert await client.util_get_current_model() == "demo"
    before = await client.txt2img(prompt="a", **SMALL)
    title = models[1]["title"]
    assert title.startswith("red")
    await client.util_set_model(title)
    assert await client.util_get_current_model() == title
    after = await client.txt2img(prompt="a", **SMALL)
    assert after.info["sd_model_name"] == "red"
    assert ImageChops.difference(before.image, after.image).getbbox() is not None
    await client.util_wait_for_ready()


async def test_the_whole_of_the_options_goes_there_and_back(client):
    options = await client.get_options()
    assert options["samples_format"] == "png"
    assert "forge_preset" not in options
    assert await client.set_options(options) is None
    assert await client.get_options() == options
    changed = {**options, "CLIP_stop_at_last_layers": 2}
    assert await client.set_options(changed) is None
    assert await client.get_options() == changed
    assert (await client.txt2img(prompt="a", **SMALL)).info["clip_skip"] == 2


async def test_another_model_for_one_picture_and_for_good(client):
    red = {"override_settings": {"sd_model_checkpoint": "red"}}
    once = await client.txt2img(prompt="a", **red, **SMALL)
    assert once.info["sd_model_name"] == "red"
    assert await client.util_get_current_model() == "demo"
    await client.txt2img(prompt="a", override_settings_restore_afterwards=False, **red, **SMALL)
    assert (await client.util_get_current_model()).startswith("red")


async def test_lists_are_those_of_the_engine(client, real: Served):
    info = real.face.info()
    assert len(await client.util_get_sampler_names()) == len(info.samplers)
    assert {"Euler a", "DPM++ 2M", "DDIM"} <= set(await client.util_get_sampler_names())
    schedulers = await client.util_get_scheduler_names()
    assert set(schedulers) == {"automatic", *info.schedulers}
    assert [row["name"] for row in await client.get_loras()] == ["ink"]
    assert (await client.get_upscalers())[0]["name"] == "None"
    assert await client.get_latent_upscale_modes() == []
    assert await client.get_sd_vae() == []


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("get_hypernetworks", []),
        ("get_face_restorers", []),
        ("get_realesrgan_models", []),
        ("get_prompt_styles", []),
        ("get_scripts", {"txt2img": [], "img2img": []}),
        ("get_embeddings", {"loaded": {}, "skipped": {}}),
        ("refresh_checkpoints", None),
        ("interrupt", {}),
        ("skip", None),
        ("controlnet_model_list", []),
    ],
)
async def test_what_there_is_none_of_is_answered(client, method, expected):
    assert await getattr(client, method)() == expected


async def test_flags_and_memory_are_told(client):
    assert (await client.get_cmd_flags())["api"] is True
    ram = (await client.get_memory())["ram"]
    assert 0 < ram["free"] < ram["total"]


async def test_png_info_reads_what_was_drawn(client):
    drawn = await client.txt2img(prompt="a lighthouse", **SMALL)
    found = await client.png_info(drawn.image)
    assert found.info == drawn.info["infotexts"][0]
    assert found.parameters["Prompt"] == "a lighthouse"
    assert found.parameters["Seed"] == "7"


async def test_pictures_are_made_larger(client):
    picture = gradient((16, 8))
    single = await client.extra_single_image(picture, upscaler_1="Nearest", upscaling_resize=3)
    assert single.image.size == (48, 24)
    assert set(np.unique(pixels(single.image))) == set(np.unique(pixels(picture)))
    batch = await client.extra_batch_images([picture, picture], upscaler_1="Lanczos", upscaling_resize=2)
    assert [image.size for image in batch.images] == [(32, 16)] * 2
    named = await client.extra_single_image(
        picture, resize_mode=1, upscaling_resize_w=20, upscaling_resize_h=20, upscaling_crop=False
    )
    assert named.image.size == (20, 10)


@pytest.mark.parametrize(
    ("method", "arguments", "status"),
    [
        ("interrogate", {}, 501),
        ("extra_single_image", {"upscaler_1": "R-ESRGAN 4x+"}, 422),
        ("extra_single_image", {"gfpgan_visibility": 1}, 422),
        ("extra_single_image", {"resize_mode": 0, "upscaling_resize": 99}, 422),
    ],
)
async def test_what_cannot_be_done_is_said(client, method, arguments, status):
    with pytest.raises(RuntimeError) as caught:
        await getattr(client, method)(gradient((8, 8)), **arguments)
    assert caught.value.args[0] == status


async def test_progress_is_none_while_nothing_is_drawn(client):
    assert await client.get_progress() == {
        "progress": 0.0,
        "eta_relative": 0.0,
        "state": {
            "skipped": False, "interrupted": False, "stopping_generation": False, "job": "", "job_count": 0,
            "job_timestamp": "0", "job_no": 0, "sampling_step": 0, "sampling_steps": 0,
        },
        "current_image": None,
        "textinfo": None,
    }  # fmt: skip


async def test_the_other_way_of_waiting_works_too(client):
    # The library's own ``use_async``, on an event loop of its own.
    def draw():
        async def wait():
            return await client.api.txt2img(prompt="a", use_async=True, **SMALL)

        return asyncio.run(wait())

    assert (await asyncio.to_thread(draw)).image.size == (64, 64)


async def test_a_password_is_the_token(scripted, home):
    async with serving(scripted, home.generations_dir, policy={"token": "hunter2hunter2"}) as served:
        where = {"host": "127.0.0.1", "port": served.server.port}
        right, wrong = [
            await asyncio.to_thread(webuiapi.WebUIApi, username="me", password=password, **where)
            for password in ("hunter2hunter2", "wrong")
        ]
        assert (await asyncio.to_thread(right.get_sd_models))[0]["model_name"] == "demo"
        assert "detail" in await asyncio.to_thread(wrong.get_sd_models)
        for api in (right, wrong):
            api.session.close()
        refused = await served.get("/sdapi/v1/sd-models")
        assert refused.status == 401
        assert refused.headers["WWW-Authenticate"].startswith("Basic ")
        assert isinstance(refused.json["detail"], str)
