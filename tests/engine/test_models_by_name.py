"""One generator, several installed models: drawn with by name, looked up once, and put in each other's place."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path

import pytest
from named_models import install, own_models

from sdmanager import ImageRequest, LocalGenerator
from sdmanager.engine import local, model_lookup
from sdmanager.errors import (
    InsufficientResourcesError,
    InvalidRequestError,
    ModelChangedError,
    ModelCorruptError,
    ModelError,
    ModelNotFoundError,
    ModelNotInstalledError,
)
from sdmanager.models import ModelFiles, ModelStore, Role, demo_model, import_model, resolve_model
from sdmanager.settings import Settings

NO_NAMES = {
    "absolute": "/etc/passwd",
    "above": "../secret.safetensors",
    "below": "sub/model.safetensors",
    "backslash": "..\\secret.safetensors",
    "drive": "C:\\model.safetensors",
    "here": "./red",
    "home": "~/red",
    "dots": "..",
    "hidden": ".installed",
    "nul": "red\0",
    "nul and path": "/etc/passwd\0red",
    "line": "red\n",
    "blank": " ",
    "record": "installed",
}


def asked(model_id: str | None = None, **fields: object) -> ImageRequest:
    given = {"prompt": "a lighthouse", "width": 64, "height": 64, "steps": 2, "seed": 7, **fields}
    return ImageRequest(**given) if model_id is None else ImageRequest(**given, model_id=model_id)


@pytest.fixture
async def own(settings: Settings, tmp_path: Path) -> Settings:
    """With two models, ``red`` and ``blue``."""
    own = own_models(settings, tmp_path / "own")
    await install(own, tmp_path, "red", "blue")
    return own


@pytest.fixture
async def generator(own: Settings):
    async with LocalGenerator(settings=own) as generator:
        await generator.prepare()
        yield generator


@pytest.fixture
def headers_read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of models whose headers were read."""
    read: list[str] = []
    check = ModelFiles.check_formats

    def counted(self: ModelFiles, **options: bool) -> None:
        read.append(self.name)
        check(self, **options)

    monkeypatch.setattr(ModelFiles, "check_formats", counted)
    return read


async def test_each_request_is_drawn_with_the_model_that_it_names(
    own: Settings, generator: LocalGenerator
) -> None:
    drawn = {name: await generator.generate(asked(name)) for name in (None, "demo", "red", "blue")}
    assert [result.model for result in drawn.values()] == ["demo", "demo", "red", "blue"]
    pictures = {name: result.image.png for name, result in drawn.items()}
    assert pictures[None] == pictures["demo"]
    assert len(set(pictures.values())) == 3
    for name in ("red", "blue"):
        alone = await LocalGenerator(name, settings=own).generate(asked())
        assert alone.image.png == pictures[name]


async def test_a_name_means_the_model_in_any_case_and_results_have_its_own(
    generator: LocalGenerator,
) -> None:
    assert (await generator.generate(asked("RED"))).model == "red"
    assert (await generator.generate(asked("Demo:local"))).model == "demo"


async def test_the_first_model_need_not_be_there_for_another_to_draw(own: Settings, tmp_path: Path) -> None:
    for first in (tmp_path / "none.gguf", "no-such-model"):
        generator = LocalGenerator(first, settings=own)
        assert (await generator.generate(asked("red"))).model == "red"
        with pytest.raises(ModelNotFoundError):
            await generator.generate(asked())


async def test_the_generators_own_name_means_its_own_files(own: Settings, tmp_path: Path) -> None:
    """Also where a model of that name is installed, and where it is no name that a model could have."""
    for name in ("red", "my model/1"):
        generator = LocalGenerator(ModelFiles(name, demo_model(own).files), settings=own)
        result = await generator.generate(asked(name))
        assert (result.model, result.image.png) == (name, (await generator.generate(asked())).image.png)
        await generator.use("blue")
        assert (await generator.generate(asked(name))).image.png == result.image.png


async def test_the_headers_of_a_model_are_read_once(
    generator: LocalGenerator, headers_read: list[str]
) -> None:
    for _ in range(2):
        generator.check(asked("red"))
        await generator.generate(asked("red"))
        await generator.use("red")
    await generator.generate(asked("blue"))
    assert headers_read == ["red", "blue"]


async def test_the_engine_is_proven_once_for_all_models(
    own: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    ensured = []
    ensure = local.ensure_binary

    async def counted(*args, **options):
        ensured.append(options["model"])
        return await ensure(*args, **options)

    monkeypatch.setattr(local, "ensure_binary", counted)
    async with LocalGenerator(settings=own) as generator:
        for name in ("red", None, "blue", "demo"):
            await generator.generate(asked(name))
    assert [model.name for model in ensured] == ["red"]


@pytest.mark.parametrize("name", NO_NAMES.values(), ids=NO_NAMES)
async def test_what_is_no_name_opens_no_file(
    generator: LocalGenerator, own: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Whether there is such a file makes no difference to the answer."""
    model = resolve_model("red", own).files[Role.DIFFUSION_MODEL]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    for place in ("secret.safetensors", "sub/model.safetensors", "installed"):
        shutil.copy(model, tmp_path / place)
    for call in (generator.use, lambda name: asyncio.to_thread(generator._models.find, name)):
        with pytest.raises(ModelNotFoundError) as caught:
            await call(name)
        assert caught.value.http_status == 404
        assert not any(mark in caught.value.message for mark in ("/", "secret", "passwd"))
    assert generator.model is not None
    assert generator.model.name == "demo"


async def test_an_absolute_path_of_a_real_model_is_no_name(generator: LocalGenerator, own: Settings) -> None:
    path = str(resolve_model("red", own).files[Role.DIFFUSION_MODEL])
    with pytest.raises(ModelNotFoundError, match="may be a path"):
        await generator.generate(asked(path))
    with pytest.raises(ModelNotFoundError, match="may be a path"):
        generator.check(asked(path))


async def test_names_that_are_unknown_say_what_was_meant(generator: LocalGenerator) -> None:
    with pytest.raises(ModelNotFoundError, match="no model named 'blu'") as caught:
        generator.check(asked("blu"))
    assert caught.value.hint == "Did you mean 'blue'?"
    assert "file" not in caught.value.message
    with pytest.raises(ModelNotInstalledError):
        generator.check(asked("sd-turbo"))
    with pytest.raises(InvalidRequestError, match="empty"):
        await generator.use("")


async def test_another_model_is_checked_before_it_draws(own: Settings, generator: LocalGenerator) -> None:
    """Its record says that it was whole; its header says that it is not any more, and nothing starts."""
    files = resolve_model("red", own).files
    path = files[Role.DIFFUSION_MODEL]
    content = path.read_bytes()
    damaged = b"\xff" * 64 + content[64:]
    status = path.stat()
    path.write_bytes(damaged)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    for ask in (
        lambda: asyncio.to_thread(generator.check, asked("red")),
        lambda: generator.generate(asked("red")),
        lambda: generator.use("red"),
    ):
        with pytest.raises(ModelCorruptError):
            await ask()
    assert (await generator.generate(asked())).model == "demo"


async def test_a_model_whose_files_change_or_go_is_refused_and_taken_again(
    own: Settings, generator: LocalGenerator
) -> None:
    await generator.use("red")
    path = resolve_model("red", own).files[Role.DIFFUSION_MODEL]
    aside = path.with_suffix(".aside")
    path.rename(aside)
    for request in (asked("red"), asked()):
        with pytest.raises(ModelNotFoundError, match="not there any more"):
            generator.check(request)
        with pytest.raises(ModelNotFoundError, match="not there any more"):
            await generator.generate(request)
    path.write_bytes(aside.read_bytes() + b"x")
    with pytest.raises(ModelChangedError):
        await generator.generate(asked())
    assert generator.model is not None
    assert generator.model.name == "red"  # still: nobody has chosen another one
    assert (await generator.generate(asked("blue"))).model == "blue"
    path.unlink()
    aside.rename(path)
    assert (await generator.generate(asked())).model == "red"


async def test_a_model_that_is_removed_from_the_list_is_not_drawn_with(
    own: Settings, generator: LocalGenerator
) -> None:
    await generator.generate(asked("red"))
    ModelStore(own).remove("red")  # its files are the user's, and stay
    for call in (lambda: generator.generate(asked("red")), lambda: generator.use("red")):
        with pytest.raises(ModelNotFoundError):
            await call()


async def test_a_name_that_is_given_to_other_files_means_those(
    own: Settings, generator: LocalGenerator, tmp_path: Path
) -> None:
    before = await generator.generate(asked("red"))
    blue = await generator.generate(asked("blue"))
    await import_model(list(resolve_model("blue", own).files.values()), own, name="red", replace=True)
    after = await generator.generate(asked("red"))
    assert after.model == "red"
    assert before.image.png != after.image.png == blue.image.png


async def test_flags_and_previews_are_judged_for_the_model_that_is_named(
    own: Settings, tmp_path: Path
) -> None:
    """The generator's own has no tiny autoencoder; the one that is named has."""
    whole = ModelFiles("whole", {Role.MODEL: demo_model(own).files[Role.DIFFUSION_MODEL]})
    generator = LocalGenerator(whole, settings=own)
    await generator.prepare()
    with pytest.raises(InvalidRequestError, match="tiny autoencoder"):
        generator.check(asked(previews={"method": "tae"}))
    generator.check(asked("red", previews={"method": "tae"}))


async def test_whether_it_fits_is_judged_once_for_each_model(
    own: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged: list[str] = []

    async def little(model: ModelFiles, *args: object, **options: object) -> None:
        judged.append(model.name)
        if model.name == "blue":
            raise InsufficientResourcesError("The model 'blue' needs more.")

    monkeypatch.setattr(local, "check_fits", little)
    generator = LocalGenerator(settings=own)
    await generator.prepare()
    for _ in range(2):
        await generator.generate(asked("red"))
        with pytest.raises(InsufficientResourcesError):
            await generator.generate(asked("blue"))
    with pytest.raises(InsufficientResourcesError):
        await generator.use("blue")
    assert judged == ["demo", "red", "blue", "blue", "blue"]
    assert generator.model is not None
    assert generator.model.name == "demo"


# --- use


async def test_another_model_is_used_until_the_next_one(generator: LocalGenerator) -> None:
    for name, whole in (("RED", "red"), ("blue", "blue"), ("demo", "demo")):
        assert (await generator.use(name)).name == whole
        assert generator.model is not None
        assert generator.model.name == whole
        assert (await generator.generate(asked())).model == whole
    assert generator.first_model == generator.model


async def test_what_was_bound_keeps_its_model(generator: LocalGenerator) -> None:
    before = generator.bound(asked())
    named = generator.bound(asked("blue"))
    explicit = generator.bound(ImageRequest(**{**asked().model_dump(exclude_unset=True), "model_id": None}))
    await generator.use("red")
    after = generator.bound(asked())
    results = [await generator.generate(request) for request in (before, named, explicit, after)]
    assert [result.model for result in results] == ["demo", "blue", "demo", "red"]


async def test_before_it_is_prepared_nothing_is_bound(own: Settings) -> None:
    generator = LocalGenerator(settings=own)
    assert generator.bound(asked()).model_id is None
    generator.check(asked("no-such-model"))  # nothing is known yet


async def test_what_is_being_drawn_is_drawn_on_with_its_own_model(generator: LocalGenerator) -> None:
    began = asyncio.Event()
    drawing = asyncio.create_task(generator.generate(asked(steps=200), lambda _: began.set()))
    await began.wait()
    await generator.use("red")
    assert not drawing.done()
    assert (await drawing).model == "demo"
    assert (await generator.generate(asked())).model == "red"


async def test_of_many_at_once_the_last_one_asked_for_counts(generator: LocalGenerator) -> None:
    for order in (["red", "blue", "demo", "blue", "red"], ["red", "demo", "blue"]):
        used = await asyncio.gather(*(generator.use(name) for name in order))
        assert [model.name for model in used] == order
        assert generator.model == used[-1]


async def test_a_use_that_is_cancelled_changes_nothing(
    generator: LocalGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached = asyncio.Event()
    loop = asyncio.get_running_loop()
    look = model_lookup.weights_of

    def noticed(model: ModelFiles):
        loop.call_soon_threadsafe(reached.set)
        return look(model)

    monkeypatch.setattr(model_lookup, "weights_of", noticed)
    using = asyncio.create_task(generator.use("red"))
    await reached.wait()
    using.cancel()
    with pytest.raises(asyncio.CancelledError):
        await using
    assert generator.model is not None
    assert generator.model.name == "demo"
    with pytest.raises(ModelError):
        await generator.use("none")
    assert generator.model.name == "demo"


async def test_availability_is_that_of_the_model_in_use(own: Settings, generator: LocalGenerator) -> None:
    await generator.use("red")
    assert await generator.is_available()
    resolve_model("red", own).files[Role.TAE].unlink()
    assert not await generator.is_available()
    await generator.use("demo")
    assert await generator.is_available()
