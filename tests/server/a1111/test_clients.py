"""What Open WebUI, SillyTavern and the plug-in for GIMP send, as they send it."""

from __future__ import annotations

import logging

import pytest
from a1111 import SMALL, encoded, get, info_of, opened, post
from PIL import Image
from scripted_generator import ScriptedGenerator, result_of
from serving import Served

CREDENTIAL = "someone:hunter2hunter2"

# Keys of one of its requests to a server of this API; it sends the address and the password along.
SILLY_TAVERN = {
    "url": "http://someone:hunter2hunter2@127.0.0.1:7860", "auth": CREDENTIAL, "prompt": "a lighthouse",
    "negative_prompt": "fog", "sampler_name": "DDIM", "scheduler": "normal", "steps": 2, "cfg_scale": 7, "width": 64,
    "height": 64, "restore_faces": False, "enable_hr": False, "hr_upscaler": "Latent", "hr_scale": 2,
    "hr_additional_modules": [], "denoising_strength": 0.7, "hr_second_pass_steps": 0,
    "override_settings": {"CLIP_stop_at_last_layers": 1, "sd_vae": "Automatic", "forge_additional_modules": []},
    "override_settings_restore_afterwards": True, "clip_skip": 1, "save_images": True, "send_images": True,
    "do_not_save_grid": False, "do_not_save_samples": False,
}  # fmt: skip


class TestOpenWebUI:
    async def test_a_picture(self, real: Served):
        body = {
            "prompt": "a lighthouse",
            "batch_size": 1,
            "width": 64,
            "height": 64,
            "steps": 2,
            "negative_prompt": "x",
        }
        # It sends this header also where no password is set.
        reply = await post(
            real, "txt2img", body, headers={"authorization": "", "Content-Type": "application/json"}
        )
        assert opened(reply.json["images"][0]).size == (64, 64)
        assert info_of(reply)["prompt"] == "a lighthouse"

    async def test_choosing_a_model(self, real: Served):
        models = await real.get("/sdapi/v1/sd-models")
        assert models.headers["Content-Type"].startswith("application/json")
        options = await get(real, "options")
        options["sd_model_checkpoint"] = models.json[1]["title"]
        reply = await post(real, "options", options)
        assert (reply.status, reply.json) == (200, None)
        assert reply.headers["Content-Type"].startswith("application/json")
        assert await get(real, "options") == options | {"sd_checkpoint_hash": models.json[1]["sha256"]}


class TestSillyTavern:
    async def test_a_picture(self, real: Served, caplog):
        with caplog.at_level(logging.DEBUG):
            assert "forge_preset" not in await get(real, "options", headers={"Authorization": "Basic Og=="})
            reply = await post(real, "txt2img", SILLY_TAVERN)
        assert opened(reply.json["images"][0]).size == (64, 64)
        assert info_of(reply)["sampler_name"] == "DDIM"
        assert reply.json["parameters"]["sampler_name"] == "DDIM"
        assert "hunter2" not in reply.body.decode()
        assert "url" not in reply.json["parameters"]
        assert "hunter2" not in caplog.text

    async def test_credentials_are_not_echoed_in_errors(self, quick: Served, caplog):
        with caplog.at_level(logging.DEBUG):
            reply = await post(quick, "txt2img", {**SILLY_TAVERN, "steps": CREDENTIAL, "seed": CREDENTIAL})
        assert reply.status == 422
        assert "hunter2" not in reply.body.decode() + caplog.text

    async def test_its_lists(self, real: Served):
        assert {row["name"] for row in await get(real, "samplers")} > {"Euler a"}
        assert {row["name"] for row in await get(real, "schedulers")} > {"karras"}
        upscalers, latent = await get(real, "upscalers"), await get(real, "latent-upscale-modes")
        assert next(row["name"] for row in upscalers + latent) == "None"
        assert await get(real, "sd-vae") == []

    async def test_choosing_a_model_and_waiting_for_it(self, real: Served):
        title = (await get(real, "sd-models"))[1]["title"]
        assert (await post(real, "options", {"sd_model_checkpoint": title})).status == 200
        progress = await get(real, "progress")
        assert progress["progress"] == 0
        assert progress["state"]["job_count"] == 0
        assert (await get(real, "options"))["sd_model_checkpoint"] == title


class TestSillyTavernOfTheEngine:
    """Its other source, made for the engine's own server."""

    async def test_it_asks_whether_the_server_is_there(self, real: Served):
        reply = await real.ask("OPTIONS", "/v1/images/generations")
        assert reply.status in (200, 204)

    async def test_a_picture_by_a_model_of_its_list(self, real: Served):
        models = (await real.get("/v1/models")).json["data"]
        assert [model["id"] for model in models] == ["demo", "red"]
        body = {
            "model": "red", "prompt": "a lighthouse", "negative_prompt": "fog", "width": 64, "height": 64, "steps": 2,
            "cfg_scale": 1.5, "seed": 3, "batch_size": 1, "sampler_name": "ddim_trailing", "scheduler": "discrete",
            "clip_skip": 2,
        }  # fmt: skip
        reply = await post(real, "txt2img", body)
        assert opened(reply.json["images"][0]).size == (64, 64)
        found = info_of(reply)
        assert (found["sd_model_name"], found["seed"], found["clip_skip"]) == ("red", 3, 2)
        assert found["sampler_name"] == "DDIM"


class TestGimp:
    @pytest.mark.parametrize("prefix", ["", "data:image/png;base64,"])
    async def test_a_picture_from_a_picture(self, real: Served, prefix):
        picture = prefix + encoded(Image.linear_gradient("L").resize((100, 80)).convert("RGBA"))
        mask = prefix + encoded(Image.new("L", (100, 80), 255))
        body = {
            "sampler_index": "Euler a", "init_images": [picture], "mask": mask, "prompt": "a lighthouse",
            "negative_prompt": "", "seed": -1, "steps": 2, "cfg_scale": 7.5, "width": 64, "height": 64, "mask_blur": 4,
            "denoising_strength": 0.8, "resize_mode": 2, "inpainting_fill": 1, "inpaint_full_res": False,
            "alwayson_scripts": {},
        }  # fmt: skip
        reply = await post(real, "img2img", body)
        assert opened(reply.json["images"][0]).size == (64, 64)
        assert info_of(reply)["sampler_name"] == "Euler a"
        assert info_of(reply)["seed"] >= 0

    async def test_control_nets_are_none(self, quick: Served):
        assert (await quick.get("/controlnet/model_list")).json == {"model_list": []}


async def test_a_picture_takes_the_shape_of_the_one_that_it_starts_from(real: Served):
    picture = encoded(Image.linear_gradient("L").resize((96, 64)))
    reply = await post(real, "img2img", {"init_images": [picture], "prompt": "a", "steps": 2})
    assert opened(reply.json["images"][0]).size == (96, 64)
    assert (info_of(reply)["width"], info_of(reply)["height"]) == (96, 64)


async def test_pictures_may_be_kept_from_the_answer(real: Served):
    reply = await post(real, "txt2img", {**SMALL, "send_images": False})
    assert reply.json["images"] == []
    assert info_of(reply)["all_seeds"] == [7]


async def test_large_pictures_come_in(quick: Served, scripted: ScriptedGenerator):
    noise = Image.effect_noise((1200, 1200), 90)
    picture = encoded(noise)
    assert len(picture) > 1 << 20
    scripted.finish(result_of())
    body = {**SMALL, "init_images": [picture], "mask": picture}
    assert (await post(quick, "img2img", body)).status == 200
    assert scripted.requests[0].init_image is not None
