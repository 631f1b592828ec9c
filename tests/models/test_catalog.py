"""The catalogue: what is in ours holds together, and one of the user's own is read with care."""

from __future__ import annotations

import copy
import json
import re
from importlib import resources

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdmanager.errors import InvalidRequestError, ModelNotFoundError
from sdmanager.generation import ImageRequest
from sdmanager.models import Family, Role, resolve_model, traits_of
from sdmanager.models.catalog import Catalog, CatalogFile, load_catalog
from sdmanager.models.names import check_name

TEXT = resources.files("sdmanager.models").joinpath("catalog.json").read_text(encoding="utf-8")
CATALOG = load_catalog()
MODELS = list(CATALOG.models.values())
OPTIONS = [(model, option) for model in MODELS for option in model.options]
FILES = [(model, file) for model, option in OPTIONS for file in option.files]
FILES += [(model, model.preview) for model in MODELS if model.preview]

every_model = pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
every_option = pytest.mark.parametrize(
    ("model", "option"), OPTIONS, ids=[f"{model.name}:{option.name}" for model, option in OPTIONS]
)

# What has to be there, with what its makers say of it.
EXPECTED = {
    "sd-1.5": (Family.SD1, 20, (512, 512), False),
    "sd-turbo": (Family.SD2, 4, (512, 512), True),
    "sdxl-base": (Family.SDXL, 20, (1024, 1024), False),
    "sdxl-turbo": (Family.SDXL, 4, (512, 512), True),
    "flux1-schnell": (Family.FLUX, 4, (1024, 1024), False),
    "flux1-dev": (Family.FLUX, 20, (1024, 1024), True),
    "flux2-klein": (Family.FLUX2, 4, (1024, 1024), False),
    "z-image-turbo": (Family.Z_IMAGE, 8, (1024, 1024), False),
    "qwen-image": (Family.QWEN_IMAGE, 20, (1024, 1024), False),
    "demo": (Family.OVIS_IMAGE, 12, (256, 256), False),
}


def test_the_models_that_are_promised_are_there():
    assert set(EXPECTED) <= set(CATALOG.models)
    for name, (family, steps, size, non_commercial) in EXPECTED.items():
        model = CATALOG.models[name]
        assert (model.family, model.default_steps, model.default_size) == (family, steps, size), name
        assert model.non_commercial is non_commercial, name


@every_option
def test_every_option_has_all_that_its_family_needs(model, option):
    roles = [file.role for file in option.files]
    assert len(set(roles)) == len(roles)
    if model.name == "demo":
        assert not roles
    elif Role.MODEL in roles:
        assert roles == [Role.MODEL]
    else:
        assert set(roles) == {Role.DIFFUSION_MODEL, *traits_of(model.family).parts}


@every_model
def test_options_have_names_that_can_be_typed_and_the_first_is_the_smallest(model):
    names = [option.name for option in model.options]
    assert len({name.lower() for name in names}) == len(names)
    for name in names:
        assert re.fullmatch(r"[a-z0-9][a-z0-9_-]{1,15}", name)
    sizes = [option.size_bytes for option in model.options]
    assert sizes[0] <= min(sizes) * 1.01  # sizes that are not known exactly differ by so much
    if model.name != "demo":
        assert check_name(f"{model.name}:{names[0]}")


def test_every_file_can_be_named_to_the_hub():
    for model, file in FILES:
        assert re.fullmatch(r"[\w.-]+/[\w.-]+", file.repo), model.name
        assert not file.path.startswith("/")
        assert ".." not in file.path
        assert file.path.endswith((".gguf", ".safetensors")), file.path
        assert file.revision is None or re.fullmatch(r"[0-9a-f]{40}", file.revision)
        assert file.sha256 is None or re.fullmatch(r"[0-9a-f]{64}", file.sha256)
        assert (file.size is None) != (file.approx_size is None), file.path
        assert 1e6 < file.bytes < 30e9
    assert "://" not in TEXT


def test_one_file_has_one_digest_and_one_size():
    facts: dict[tuple[str, str], CatalogFile] = {}
    for _, file in FILES:
        known = facts.setdefault((file.repo, file.path), file)
        assert (known.sha256, known.bytes, known.revision) == (file.sha256, file.bytes, file.revision), (
            file.path
        )


def test_quantisations_agree_with_the_names_of_files():
    for _, file in FILES:
        named = re.search(r"[-_](q\d_(?:k|0|1))", file.path.lower())
        if named:
            assert file.quantisation == named[1].upper(), file.path


def test_previews_are_of_the_tiny_autoencoder_of_the_family():
    for model in MODELS:
        tae = traits_of(model.family).tae
        if model.preview is not None:
            assert model.preview.role is Role.TAE
            assert model.preview.repo == f"madebyollin/{tae}"
            # The engine loads no other file of these repositories.
            assert model.preview.path == "diffusion_pytorch_model.safetensors"
    without = {model.family for model in MODELS if model.preview is None}
    # taew2_1 is not on the hub, and the demo model has its own.
    assert without == {Family.FLUX2, Family.QWEN_IMAGE, Family.OVIS_IMAGE}


@every_model
def test_defaults_make_a_request(model):
    fields = model.defaults.as_fields()
    request = ImageRequest.model_validate({"prompt": "a cat", **fields})
    assert {name: getattr(request, name) for name in fields} == fields
    assert {"steps", "cfg_scale", "width", "height"} <= set(fields)
    assert "guidance" not in fields or traits_of(model.family).takes_guidance


def test_the_demo_model_draws_with_what_the_catalogue_says(home):
    demo, _ = CATALOG.get("demo")
    made = resolve_model("demo", home)
    assert (made.defaults, made.family) == (demo.defaults, demo.family)


def test_names_lead_to_model_and_option():
    model, option = CATALOG.get("sd-1.5")
    assert (model.name, option.name) == ("sd-1.5", "q4_0")
    assert CATALOG.get("sd-1.5:q4_0") == (model, option)
    assert model.name_of(option) == "sd-1.5"
    full = CATALOG.get("sd-1.5:f32")[1]
    assert full.files[0].size == 4265146304
    assert model.name_of(full) == "sd-1.5:f32"
    assert (model.size_gb, model.option("f32"), model.option("no")) == (1.6, full, None)
    for name in CATALOG.names:
        assert CATALOG.find(name) == CATALOG.get(name)


@pytest.mark.parametrize(
    "name", ["sd-trubo", "sd-1.5:q5", "sd-1.5:", "sd-", "", ":", "SD-1.5", "sd-1.5:q4_0:x"]
)
def test_names_that_are_not_there_are_not_found(name):
    assert CATALOG.find(name) is None
    with pytest.raises(ModelNotFoundError) as caught:
        CATALOG.get(name)
    assert caught.value.hint.startswith(("Did you mean", "There is"))


@pytest.mark.parametrize("name", [name for name in CATALOG.names if "demo" not in name])
def test_smaller_ones_are_others_and_its_own_come_first(name):
    model, option = CATALOG.get(name)
    # A file beside it, such as that of previews, makes the whole larger than the catalogue says.
    found = CATALOG.smaller_than(option.size_bytes + 10_000_000, like=name)
    names = [found_name for found_name, _ in found]
    assert model.name_of(option) not in names
    own = [each for each in names if each.partition(":")[0] == model.name]
    smaller = [each for each in model.options if each.size_bytes < option.size_bytes]
    assert len(own) == len(smaller)
    assert names[: len(own)] == own
    for group in (found[: len(own)], found[len(own) :]):
        assert [size for _, size in group] == sorted((size for _, size in group), reverse=True)
    assert ("sd-1.5" in names) == (option.size_bytes > 1.7e9 and name not in {"sd-1.5", "sd-1.5:q4_0"})


def test_smaller_ones_of_a_model_that_is_not_in_the_catalogue():
    found = CATALOG.smaller_than(3_000_000_000, like="my-own")
    assert found
    assert all(0 < size < 3_000_000_000 for _, size in found)


def test_facts_for_programs_are_plain_and_whole():
    for model in MODELS:
        data = json.loads(json.dumps(model.to_json()))
        assert data["options"][0]["size_bytes"] == model.options[0].size_bytes
        assert len(data["options"][0]["files"]) == len(model.options[0].files)
        assert (data["preview"] is None) == (model.preview is None)


def test_sizes_and_quantisations_are_by_role():
    option = CATALOG.get("flux1-schnell")[1]
    assert set(option.sizes) == set(option.quantisations) == {file.role for file in option.files}
    assert sum(option.sizes.values()) == option.size_bytes


def test_the_catalogue_is_read_once_and_cannot_change():
    assert load_catalog() is CATALOG
    with pytest.raises(TypeError):
        CATALOG.models["x"] = MODELS[0]


# One of the user's own.

DIGEST = "ab" * 32
FILE = {"role": "model", "repo": "me/mine", "path": "a/b.gguf", "size": 10, "sha256": DIGEST}
MODEL = {
    "title": "Mine",
    "family": "sdxl",
    "licence": "MIT",
    "defaults": {"steps": 8, "sampler": "lcm"},
    "options": [{"name": "f16", "files": [FILE], "gated": True}],
}


def written(folder, document) -> Catalog:
    path = folder / "mine.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return load_catalog(path)


def test_a_catalogue_of_ones_own(tmp_path):
    catalog = written(tmp_path, {"models": {"mine": MODEL}})
    model, option = catalog.get("mine:f16")
    assert (model.family, model.defaults.sampler, model.default_size) == (Family.SDXL, "lcm", None)
    assert (option.gated, option.files) == (
        True,
        (CatalogFile(Role.MODEL, "me/mine", "a/b.gguf", None, 10, None, DIGEST),),
    )
    assert catalog.names == ("mine", "mine:f16")


def test_our_own_catalogue_passes_as_a_users(tmp_path):
    assert written(tmp_path, TEXT) == CATALOG


def changed(place: str, value: object) -> dict[str, object]:
    """The good document with one place changed; ``None`` takes it away."""
    document: dict[str, object] = {"models": {"mine": copy.deepcopy(MODEL)}}
    *way, last = [int(step) if step.isdigit() else step for step in place.split("/")]
    inside = document
    for step in way:
        inside = inside[step]
    if value is None:
        del inside[last]
    else:
        inside[last] = value
    return document


OPTION = "models/mine/options/0"
FIRST = f"{OPTION}/files/0"


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        ("models", None, "has no models"),
        ("models", {}, "models is no object"),
        ("models", [], "models is no object"),
        ("extra", 1, "'extra', which is not known"),
        ("models/mine", [], "models.mine is not an object"),
        ("models/a b", MODEL, "models.a b is no name"),
        ("models/a:b", MODEL, "is no name"),
        ("models/mine/title", None, "has no title"),
        ("models/mine/title", " ", "title is no text"),
        ("models/mine/licence", 7, "licence is no text"),
        ("models/mine/family", "sd9", "family is none of sd1"),
        ("models/mine/family", [], "family is none of"),
        ("models/mine/non_commercial", "yes", "neither true nor false"),
        ("models/mine/defaults", [], "defaults is not an object"),
        ("models/mine/defaults/steps", 0, "defaults: "),
        ("models/mine/defaults/steps", "8", "defaults: "),
        ("models/mine/defaults/width", 100, "defaults: "),
        ("models/mine/defaults/prompt", "x", "'prompt', which is not known"),
        ("models/mine/options", [], "no list with an option"),
        ("models/mine/options", {}, "no list with an option"),
        (f"{OPTION}/name", "a/b", "name is not what it should be"),
        (f"{OPTION}/name", None, "has no name"),
        (f"{OPTION}/gated", 1, "neither true nor false"),
        (f"{OPTION}/files", {}, "files is not a list"),
        (f"{OPTION}/files", [FILE, FILE], "two of the same role"),
        (f"{OPTION}/files", [{**FILE, "role": "vae"}], "neither a model nor a diffusion_model"),
        ("models/mine/options", [MODEL["options"][0]] * 2, "two of the same name"),
        (f"{FIRST}/role", "unet", "role is none of model"),
        (f"{FIRST}/repo", "mine", "repo is not what it should be"),
        (f"{FIRST}/repo", "../x", "repo is not what it should be"),
        (f"{FIRST}/repo", "a/b/c", "repo is not what it should be"),
        (f"{FIRST}/path", "../../etc/passwd", "path is not what it should be"),
        (f"{FIRST}/path", "/etc/passwd", "path is not what it should be"),
        (f"{FIRST}/path", "a\\b", "path is not what it should be"),
        (f"{FIRST}/path", "a/./b", "path is not what it should be"),
        (f"{FIRST}/path", "https://x/y", "path is not what it should be"),
        (f"{FIRST}/path", "a\nb", "path is not what it should be"),
        (f"{FIRST}/sha256", "ab", "sha256 is not what it should be"),
        (f"{FIRST}/revision", "main", "revision is not what it should be"),
        (f"{FIRST}/size", -1, "size is no number of bytes"),
        (f"{FIRST}/size", True, "size is no number of bytes"),
        (f"{FIRST}/size", 1.5, "size is no number of bytes"),
        (f"{FIRST}/size", 10**400, "size is no number of bytes"),
        (f"{FIRST}/size", None, "neither size nor approx_size"),
        (f"{FIRST}/url", "x", "'url', which is not known"),
        ("models/mine/preview", "taesd", "preview is not an object"),
    ],
)
def test_a_fault_in_it_is_named_with_its_place(tmp_path, place, value, said):
    with pytest.raises(InvalidRequestError) as caught:
        written(tmp_path, changed(place, value))
    message = caught.value.message
    assert message.startswith("The catalogue 'mine.json' cannot be used: ")
    assert said in message
    assert message.endswith(".")
    assert len(message) < 400
    assert "SDMANAGER_CATALOG" in caught.value.hint


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "\0",
        "[" * 100_000,
        '{"models": NaN}',
        '{"models": 1}',
    ],
)
def test_what_is_no_catalogue_at_all_is_refused(tmp_path, text):
    with pytest.raises(InvalidRequestError, match="cannot be used"):
        written(tmp_path, text)


def test_one_that_never_ends_is_not_read_to_its_end(tmp_path):
    with (tmp_path / "huge.json").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(InvalidRequestError, match="it is too large"):
        load_catalog(tmp_path / "huge.json")


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    for path in (tmp_path / "none.json", tmp_path, tmp_path / "a\0b"):
        with pytest.raises(InvalidRequestError, match="cannot be read"):
            load_catalog(path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
PLACES = ["models", "models/mine", OPTION, FIRST] + [
    f"{place}/{name}"
    for place, names in (("models/mine", MODEL), (OPTION, MODEL["options"][0]), (FIRST, FILE))
    for name in names
]


@given(st.sampled_from(PLACES), JSON.filter(lambda value: value is not None))
def test_any_value_at_any_place_is_taken_or_refused(tmp_path_factory, place, value):
    folder = tmp_path_factory.getbasetemp()
    try:
        catalog = written(folder, changed(place, value))
    except InvalidRequestError as exc:
        refusal = exc
    else:
        assert all(catalog.find(name) for name in catalog.names)
        return
    assert "cannot be used" in refusal.message
