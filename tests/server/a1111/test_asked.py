"""What bodies mean. Pure."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdmanager.errors import InvalidRequestError
from sdmanager.server.a1111.asked import ResizeMode, read_asked

ENGINE = {"samplers": ("euler", "euler_a"), "schedulers": ("discrete", "karras"), "clip_skip": 1}


def asked(img2img=False, clip_skip=1, **body):
    return read_asked(body, img2img=img2img, **{**ENGINE, "clip_skip": clip_skip})


def test_an_empty_body_leaves_all_to_the_model():
    found = asked()
    assert found.fields == {"prompt": "", "negative_prompt": "", "count": 1}
    assert (found.inputs, found.checkpoint, found.for_good, found.send_images) == (None, None, False, True)
    assert found.notes == ()


def test_null_is_absent_and_what_is_unknown_is_ignored():
    names = ("steps", "seed", "cfg_scale", "width", "override_settings", "styles", "sampler_name")
    assert asked(**dict.fromkeys(names), hr_additional_modules=[], force_task_id="x").fields == asked().fields


def test_fields_are_called_by_our_names():
    found = asked(
        prompt="p", negative_prompt="n", steps=3, cfg_scale=4, seed=5, width=128, height=64,
        sampler_name="Euler a", scheduler="Karras", clip_skip=2,
    )  # fmt: skip
    assert found.fields == {
        "prompt": "p", "negative_prompt": "n", "steps": 3, "cfg_scale": 4.0, "seed": 5, "width": 128, "height": 64,
        "sampler": "euler_a", "scheduler": "karras", "clip_skip": 2, "count": 1,
    }  # fmt: skip


@pytest.mark.parametrize("value", ["20", 20.0, 20.7, "20.0", " 20 "])
def test_numbers_are_read_leniently(value):
    assert asked(steps=value).fields["steps"] == 20


@pytest.mark.parametrize("seed", [None, -1, "-1", -5])
def test_a_seed_that_is_none_is_left_out(seed):
    assert "seed" not in asked(seed=seed).fields


def test_a_seed_of_63_bits_is_kept_whole():
    assert asked(seed=2**62 + 1).fields["seed"] == 2**62 + 1


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"steps": "many"}, "steps"),
        ({"steps": True}, "steps"),
        ({"steps": 0}, "steps"),
        ({"steps": 1001}, "steps"),
        ({"steps": 10**400}, "steps"),
        ({"steps": "9" * 5000}, "steps"),
        ({"cfg_scale": 51}, "cfg_scale"),
        ({"cfg_scale": "nan"}, "cfg_scale"),
        ({"width": 8}, "width"),
        ({"height": 4104}, "height"),
        ({"prompt": 7}, "prompt"),
        ({"seed": 2**63}, "seed"),
        ({"override_settings": []}, "override_settings"),
        (
            {"override_settings": {"CLIP_stop_at_last_layers": 13}},
            "override_settings.CLIP_stop_at_last_layers",
        ),
        ({"send_images": "perhaps"}, "send_images"),
        ({"batch_size": 11}, "batch_size"),
        ({"batch_size": 4, "n_iter": 3}, "n_iter"),
        ({"batch_size": 0}, "batch_size"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_its_name(body, field):
    with pytest.raises(InvalidRequestError) as caught:
        asked(**body)
    assert caught.value.details == {"fields": [field]}
    assert caught.value.message.startswith(field)


def test_ten_images_may_be_asked_for_in_any_way():
    assert asked(batch_size=10).fields["count"] == 10
    assert asked(batch_size=2, n_iter=5).fields["count"] == 10


def test_sizes_are_rounded_down_and_that_is_said():
    found = asked(width=515, height=512)
    assert (found.fields["width"], found.fields["height"]) == (512, 512)
    assert found.notes == ("The width is 512: sizes are multiples of 8.",)


def test_the_index_stands_in_for_the_name_of_a_sampler():
    assert asked(sampler_index="Euler").fields["sampler"] == "euler"
    assert asked(sampler_name="Euler a", sampler_index="Euler").fields["sampler"] == "euler_a"


@pytest.mark.parametrize("index", [0, 3, "", None])
def test_an_index_that_is_a_number_chooses_nothing(index):
    assert "sampler" not in asked(sampler_index=index).fields
    assert asked(sampler_index=index).notes == ()
    assert asked(sampler_index=index, sampler_name="Euler").fields["sampler"] == "euler"


def test_an_unknown_sampler_is_left_to_the_engine_and_that_is_said():
    found = asked(sampler_name="DPM adaptive", scheduler="normal")
    assert "sampler" not in found.fields
    assert found.fields["scheduler"] == "discrete"
    assert len(found.notes) == 1


def test_what_is_not_done_is_said():
    found = asked(enable_hr=True, tiling=True, restore_faces=False, styles=[], alwayson_scripts={})
    assert found.notes == ("Ignored, because this server does not do it: enable_hr, tiling.",)
    assert asked(override_settings={"sd_vae": "Automatic"}).notes == ()
    assert asked(override_settings={"sd_vae": "other.vae"}).notes == ("The model's own VAE is used.",)


@pytest.mark.parametrize(
    ("body", "standing", "expected"),
    [
        ({}, 1, None),
        ({}, 2, 2),
        ({"clip_skip": 1}, 2, None),
        ({"clip_skip": 2}, 1, 2),
        ({"clip_skip": 1, "override_settings": {"CLIP_stop_at_last_layers": 3}}, 1, 3),
    ],
)
def test_clip_skip_of_one_is_the_models_own(body, standing, expected):
    assert asked(clip_skip=standing).fields.get("clip_skip") == (standing if standing > 1 else None)
    found = read_asked(body, img2img=False, **{**ENGINE, "clip_skip": standing})
    assert found.fields.get("clip_skip") == expected


def test_a_model_is_named_in_either_way():
    assert asked(model="red").checkpoint == "red"
    assert asked(override_settings={"sd_model_checkpoint": "red"}, model="blue").checkpoint == "red"
    assert asked(override_settings_restore_afterwards=False).for_good


def test_only_known_fields_are_shown_again():
    secret = {
        "url": "http://u:hunter2@host",
        "auth": "u:hunter2",
        "init_images": ["hunter2"],
        "mask": "hunter2",
    }
    body = {
        **secret,
        "prompt": "p",
        "steps": 3,
        "seed": ["hunter2"],
        "override_settings": {"auth": "hunter2"},
    }
    with pytest.raises(InvalidRequestError):
        asked(img2img=True, **body)
    found = asked(img2img=True, **{**body, "seed": 1})
    assert found.parameters == {"prompt": "p", "steps": 3, "seed": 1}
    assert "hunter2" not in repr(found)


def test_pictures_to_start_from_are_for_img2img_alone():
    body = {"init_images": ["A"], "mask": "B", "denoising_strength": 0.3}
    assert asked(**body).inputs is None
    assert "strength" not in asked(**body).fields
    found = asked(img2img=True, **body)
    assert (found.inputs.init, found.inputs.mask, found.inputs.resize) == ("A", "B", ResizeMode.STRETCH)
    assert found.fields["strength"] == 0.3
    assert asked(img2img=True, init_images=["A"]).fields["strength"] == 0.75
    assert asked(img2img=True).inputs is None


@pytest.mark.parametrize(
    ("body", "blur"),
    [
        ({}, 4),
        ({"mask_blur": 0}, 0),
        ({"mask_blur": 9, "mask_blur_x": 2}, 9),
        ({"mask_blur_x": 0, "mask_blur_y": 0}, 0),
        ({"mask_blur_x": 6}, 6),
    ],
)
def test_the_edge_of_a_mask_is_softened_as_much_as_elsewhere(body, blur):
    assert asked(img2img=True, init_images=["A"], mask="B", **body).inputs.blur == blur


def test_one_picture_is_drawn_from():
    with pytest.raises(InvalidRequestError):
        asked(img2img=True, init_images=["A", "B"])


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)
NAMES = st.sampled_from(
    [
        "prompt",
        "negative_prompt",
        "seed",
        "steps",
        "width",
        "height",
        "cfg_scale",
        "sampler_name",
        "sampler_index",
        "scheduler",
        "batch_size",
        "n_iter",
        "override_settings",
        "model",
        "clip_skip",
        "init_images",
        "mask",
        "mask_blur",
        "mask_blur_x",
        "resize_mode",
        "inpainting_mask_invert",
        "denoising_strength",
        "send_images",
        "styles",
        "enable_hr",
        "override_settings_restore_afterwards",
    ]
)


@given(st.dictionaries(NAMES, VALUES), st.booleans())
def test_any_body_is_taken_or_refused(body, img2img):
    try:
        found = read_asked(body, img2img=img2img, **ENGINE)
    except InvalidRequestError:
        return
    assert 1 <= found.fields["count"] <= 10
