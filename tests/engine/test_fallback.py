"""Download, verify, unpack, prove, draw: end to end with the real engine, and with variants that are really broken."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from broken_engines import Workshop
from releases import ReleaseHost, pack, release_host, write_manifest

from sdmanager import ImageRequest, LocalGenerator, binaries
from sdmanager.binaries import EngineBinary, Ensured, Proof, list_installed, read_book
from sdmanager.engine import prove_engine
from sdmanager.engine.patience import Patience
from sdmanager.errors import NoEngineWorksError
from sdmanager.hardware import Gpu, HardwareSnapshot, current_platform
from sdmanager.settings import Settings

SHORT = Patience(quiet=1.5, work=60.0)
GPUS = (
    Gpu("nvidia", "NVIDIA GeForce RTX 3060", 12 << 30, 11 << 30, "580.65.06", (8, 6)),
    Gpu("amd", "AMD Radeon RX 7600", 8 << 30, 8 << 30, "amdgpu 6.1.0"),
)
MACHINE = HardwareSnapshot(current_platform(), "Linux", None, 2, 2, 16 << 30, 8 << 30, "2.40", GPUS, ())
TAG = "master-1-0000001"

# By what is wrong with an engine: the code of the error, and words that its reason must have.
BROKEN = {
    "missing library": ("ENGINE_NOT_RUNNABLE", "libgone.so"),
    "newer glibc": ("ENGINE_NOT_RUNNABLE", "GLIBC_2.99"),
    "illegal instruction": ("BINARY_ERROR", "instruction"),
    "crash": ("ENGINE_CRASHED", "SIGSEGV"),
    "cuda error": ("ENGINE_NOT_RUNNABLE", "graphics card"),
    "grey": ("IMAGE_BLANK", "single colour"),
    "truncated": ("IMAGE_TRUNCATED", ""),
    "hang": ("ENGINE_HUNG", "no sign of life"),
    "fine": ("ENGINE_NO_DEVICE", "drew on the CPU"),  # a real CPU engine under the name of another variant
}


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReleaseHost]:
    with release_host(tmp_path_factory.mktemp("host")) as running:
        yield running


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory, engine_data: Path) -> Workshop:
    real = next(engine_data.glob("engines/cpu-*/sd-cli"))
    return Workshop(tmp_path_factory.mktemp("workshop"), real)


@pytest.fixture(scope="module")
def good(host: ReleaseHost, workshop: Workshop) -> dict[str, Any]:
    """The archive of the real engine."""
    return pack(host, "sd-good.zip", {"sd-cli": workshop.make("fine")})


def manifest_of(
    path: Path, host: ReleaseHost, workshop: Workshop, good: dict[str, Any], **kinds: str
) -> Path:
    """A list of these broken variants, and after them the real CPU engine."""
    offers = [
        {"variant": variant, "archive": pack(host, f"sd-{variant}.zip", {"sd-cli": workshop.make(kind)})}
        for variant, kind in kinds.items()
    ]
    return write_manifest(path, current_platform(), [*offers, {"variant": "cpu", "archive": good}])


@pytest.fixture
def empty(home: Settings, settings: Settings) -> Settings:
    """Folders with the demo model and no engine."""
    home.models_dir.mkdir(parents=True)
    for folder in settings.models_dir.iterdir():
        (home.models_dir / folder.name).symlink_to(folder)
    (home.state_dir / "verdicts.json").unlink()
    return home


async def ensure(settings: Settings, **options: Any) -> Ensured:
    async def prove(engine: EngineBinary) -> Proof:
        return await prove_engine(engine, settings, patience=SHORT)

    return await binaries.ensure_binary(settings, prove=prove, snapshot=MACHINE, **options)


async def test_a_release_archive_becomes_a_picture(
    empty: Settings, host: ReleaseHost, workshop: Workshop, good: dict[str, Any], tmp_path: Path
) -> None:
    settings = replace(empty, manifest=manifest_of(tmp_path / "m.json", host, workshop, good))
    seen: list[str] = []
    ensured = await ensure(settings, on_progress=lambda progress: seen.append(progress.phase))
    assert (ensured.key, ensured.proof.proven) == (f"cpu/release/{TAG}", True)
    assert list(dict.fromkeys(seen)) == ["choosing", "downloading", "unpacking", "proving", "installing"]
    assert oct(ensured.engine.path.stat().st_mode & 0o777) == "0o755"
    host.requests.clear()
    request = ImageRequest(prompt="a lighthouse", width=64, height=64, steps=2)
    result = await LocalGenerator(settings=settings).generate(request)
    assert result.variant == "cpu"
    assert host.requests == []


@pytest.mark.parametrize("kind", BROKEN)
async def test_a_broken_variant_is_told_by_kind_and_the_next_one_draws(
    empty: Settings, host: ReleaseHost, workshop: Workshop, good: dict[str, Any], tmp_path: Path, kind: str
) -> None:
    manifest = manifest_of(tmp_path / "m.json", host, workshop, good, cuda=kind)
    settings = replace(empty, manifest=manifest)
    ensured = await ensure(settings)
    assert ensured.engine.variant == "cpu"
    book = read_book(settings)
    assert book is not None
    verdict = book.verdicts[f"cuda/release/{TAG}"]
    code, words = BROKEN[kind]
    assert verdict.code == code
    assert words in (verdict.reason or "")
    assert str(settings.data_dir.parent) not in (verdict.reason or "")
    assert [engine.variant for engine in list_installed(settings)] == ["cpu"]
    assert not list(settings.engines_dir.glob(".staging*"))


async def test_three_broken_variants_in_a_row(
    empty: Settings, host: ReleaseHost, workshop: Workshop, good: dict[str, Any], tmp_path: Path
) -> None:
    broken = {"cuda": "missing library", "rocm": "illegal instruction", "vulkan": "fine"}
    settings = replace(empty, manifest=manifest_of(tmp_path / "m.json", host, workshop, good, **broken))
    rejected: list[str] = []
    ensured = await ensure(
        settings, on_progress=lambda p: rejected.append(p.message) if p.phase == "rejected" else None
    )
    assert ensured.engine.variant == "cpu"
    assert [message.partition(",")[0] for message in rejected] == ["cuda", "rocm", "vulkan"]


async def test_where_all_are_broken_nothing_is_installed_and_each_is_named(
    empty: Settings, host: ReleaseHost, workshop: Workshop, tmp_path: Path
) -> None:
    offers = [
        {"variant": variant, "archive": pack(host, f"bad-{variant}.zip", {"sd-cli": workshop.make(kind)})}
        for variant, kind in {"cuda": "crash", "cpu": "grey"}.items()
    ]
    settings = replace(empty, manifest=write_manifest(tmp_path / "m.json", current_platform(), offers))
    with pytest.raises(NoEngineWorksError, match=r"cuda: .*; cpu: "):
        await ensure(settings)
    assert list_installed(settings) == []


async def test_the_old_engine_still_draws_where_the_new_one_is_broken(
    empty: Settings, host: ReleaseHost, workshop: Workshop, good: dict[str, Any], tmp_path: Path
) -> None:
    settings = replace(empty, manifest=manifest_of(tmp_path / "m.json", host, workshop, good))
    first = await ensure(settings)
    bad = pack(host, "newer.zip", {"sd-cli": workshop.make("truncated")})
    assert settings.manifest is not None
    write_manifest(
        settings.manifest, current_platform(), [{"variant": "cpu", "archive": bad}], tag="master-2-2"
    )
    ensured = await ensure(settings)
    assert (ensured.engine.path, ensured.key) == (first.engine.path, f"cpu/installed/{TAG}")
