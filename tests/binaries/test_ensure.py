"""The best engine that works: tried in order, kept, trusted, and tried anew when something changes.

The archives hold small scripts that answer -h and --version; what "drawing" does with them is the prover's affair.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from releases import ReleaseHost, pack, release_host, write_manifest

from sdmanager import binaries
from sdmanager.binaries import EngineBinary, EngineProgress, Ensured, Proof, list_installed, read_book
from sdmanager.binaries._staging import engines_lock
from sdmanager.binaries.verdicts import LATER_SECONDS, verdicts_path
from sdmanager.errors import (
    BinaryError,
    BlankImageError,
    DownloadError,
    EngineCrashedError,
    EngineNotRunnableError,
    EngineOutOfMemoryError,
    InvalidRequestError,
    NoDeviceError,
    NoEngineWorksError,
    SDManagerError,
    StorageError,
)
from sdmanager.hardware import Gpu, HardwareSnapshot, current_platform
from sdmanager.settings import Settings

HELP = Path(__file__).parents[1] / "data" / "help" / "pypi-0.4.7.txt"
NVIDIA = Gpu("nvidia", "NVIDIA GeForce RTX 3060", 12 << 30, 11 << 30, "580.65.06", (8, 6))
MACHINE = HardwareSnapshot(
    current_platform(), "Linux", "a processor", 2, 2, 16 << 30, 8 << 30, "2.40", (NVIDIA,), ()
)


def script(name: str, body: str = "") -> bytes:
    return f"""#!/bin/sh
{body}
case "$1" in -h) cat {HELP} ;; *) echo 'stable-diffusion.cpp version {name}, commit x' ;; esac
""".encode()


class Prover:
    """Draws with nothing: says of each variant what it was told to, and remembers whom it was asked about."""

    def __init__(self, **outcomes: SDManagerError | bool) -> None:
        self.outcomes = outcomes
        self.asked: list[str] = []

    async def __call__(self, engine: EngineBinary) -> Proof:
        self.asked.append(engine.variant)
        outcome = self.outcomes.get(engine.variant, True)
        if isinstance(outcome, SDManagerError):
            raise outcome
        return Proof(outcome, "demo", 64, 64, 4, 0.5, note=None if outcome else "refuses the demo model")


@pytest.fixture
def host(tmp_path: Path) -> Iterator[ReleaseHost]:
    with release_host(tmp_path / "host") as running:
        yield running


@pytest.fixture
def offers(host: ReleaseHost) -> list[dict[str, Any]]:
    return [
        {"variant": variant, "archive": pack(host, f"{variant}.zip", {"sd-cli": script(variant), "libx.so": b"x"})}
        for variant in ("cuda", "vulkan", "cpu")
    ]  # fmt: skip


@pytest.fixture
def settings(home: Settings, offers: list[dict[str, Any]], tmp_path: Path) -> Settings:
    manifest = write_manifest(tmp_path / "binaries.json", current_platform(), offers)
    return replace(home, manifest=manifest)


async def ensure(settings: Settings, prove: Prover, **options: Any) -> Ensured:
    return await binaries.ensure_binary(settings, prove=prove, **{"snapshot": MACHINE, **options})


def variants(settings: Settings) -> list[str]:
    return [engine.variant for engine in list_installed(settings)]


async def test_the_best_one_that_draws_is_fetched_and_kept(settings: Settings, host: ReleaseHost) -> None:
    prove = Prover()
    first = await ensure(settings, prove)
    assert (first.key, first.engine.variant, first.engine.source) == (
        "cuda/release/master-1-0000001", "cuda", "release"
    )  # fmt: skip
    assert first.engine.path.is_relative_to(settings.engines_dir)
    assert prove.asked == ["cuda"]
    assert host.requests == ["/cuda.zip"]
    assert not list(settings.downloads_dir.glob("*.zip"))

    again = await ensure(settings, prove)
    assert (again.engine, again.key, again.proof) == (first.engine, first.key, first.proof)
    assert (prove.asked, host.requests) == (["cuda"], ["/cuda.zip"])


async def test_what_does_not_draw_falls_through_and_leaves_nothing(
    settings: Settings, host: ReleaseHost
) -> None:
    prove = Prover(cuda=EngineCrashedError("It crashed."), vulkan=BlankImageError("It is grey."))
    seen: list[EngineProgress] = []
    ensured = await ensure(settings, prove, on_progress=seen.append)
    assert ensured.engine.variant == "cpu"
    assert prove.asked == ["cuda", "vulkan", "cpu"]
    assert variants(settings) == ["cpu"]
    assert [p.message for p in seen if p.phase == "rejected"] == [
        "cuda, release archive: It crashed.",
        "vulkan, release archive: It is grey.",
    ]  # fmt: skip
    book = read_book(settings)
    assert book is not None
    assert {key: verdict.code for key, verdict in book.verdicts.items()} == {
        "cuda/release/master-1-0000001": "ENGINE_CRASHED",
        "vulkan/release/master-1-0000001": "IMAGE_BLANK",
        "cpu/release/master-1-0000001": None,
    }


async def test_a_second_start_does_not_try_again_what_failed(settings: Settings, host: ReleaseHost) -> None:
    await ensure(settings, Prover(cuda=EngineCrashedError("x"), vulkan=EngineCrashedError("x")))
    host.requests.clear()
    settings.engines_dir.joinpath("unrelated").mkdir()  # another engine: the choice is made again
    prove = Prover()
    assert (await ensure(settings, prove)).engine.variant == "cpu"
    assert (prove.asked, host.requests) == ([], [])


async def test_where_nothing_works_the_error_names_each_and_why(settings: Settings) -> None:
    failing = {v: EngineCrashedError(f"{v} crashed.") for v in ("cuda", "vulkan", "cpu")}
    with pytest.raises(NoEngineWorksError) as caught:
        await ensure(settings, Prover(**failing))
    assert caught.value.message == (
        "No engine works on this machine: cuda: cuda crashed; vulkan: vulkan crashed; cpu: cpu crashed."
    )
    assert "doctor" in (caught.value.hint or "")
    assert variants(settings) == []
    # Nothing else would help, so the next start tries all of them again, and finds one.
    assert (await ensure(settings, Prover(cuda=EngineCrashedError("x")))).engine.variant == "vulkan"


async def test_where_only_one_could_be_tried_its_own_error_is_raised(settings: Settings) -> None:
    with pytest.raises(EngineCrashedError, match="It crashed"):
        await ensure(settings, Prover(cpu=EngineCrashedError("It crashed.")), variant="cpu")


async def test_a_variant_that_the_hardware_rules_out_says_why(settings: Settings) -> None:
    without = replace(MACHINE, gpus=())
    with pytest.raises(NoEngineWorksError, match="cuda engine is not for this machine: no NVIDIA"):
        await ensure(settings, Prover(), variant="cuda", snapshot=without)
    prove = Prover()
    assert (await ensure(settings, prove, snapshot=without)).engine.variant == "cpu"
    assert prove.asked == ["cpu"]


async def test_a_wish_for_a_variant_is_kept_apart(settings: Settings) -> None:
    prove = Prover()
    assert (await ensure(settings, prove)).engine.variant == "cuda"
    assert (await ensure(settings, prove, variant="cpu")).engine.variant == "cpu"
    assert (await ensure(replace(settings, variant="cpu"), prove)).engine.variant == "cpu"
    assert (await ensure(settings, prove)).engine.variant == "cuda"
    assert prove.asked == ["cuda", "cpu"]


async def test_an_unknown_variant_is_refused(settings: Settings) -> None:
    with pytest.raises(InvalidRequestError, match="quantum"):
        await ensure(settings, Prover(), variant="quantum")
    with pytest.raises(InvalidRequestError, match="quantum"):
        await ensure(replace(settings, variant="quantum"), Prover())


async def test_an_engine_that_refuses_the_demo_model_is_used_and_proven_later(settings: Settings) -> None:
    prove = Prover(cuda=False)
    ensured = await ensure(settings, prove)
    assert (ensured.engine.variant, ensured.proof.proven) == ("cuda", False)
    assert not (await ensure(settings, prove)).proof.proven
    assert prove.asked == ["cuda"]

    drew = Proof(True, "mine", 512, 512, 20, 9.0)
    await binaries.record_success(settings, ensured, drew)
    assert (await ensure(settings, prove)).proof == drew
    assert prove.asked == ["cuda"]


async def test_one_that_fails_at_the_first_real_picture_makes_way(settings: Settings) -> None:
    prove = Prover(cuda=False)
    ensured = await ensure(settings, prove)
    await binaries.record_failure(settings, ensured, EngineCrashedError("It crashed."))
    assert (await ensure(settings, prove)).engine.variant == "vulkan"


async def test_force_validation_draws_again_and_fetches_nothing(
    settings: Settings, host: ReleaseHost
) -> None:
    prove = Prover()
    await ensure(settings, prove)
    host.requests.clear()
    await ensure(settings, prove, force_validation=True)
    assert (prove.asked, host.requests) == (["cuda", "cuda"], [])


async def test_force_validation_tries_again_what_failed(settings: Settings) -> None:
    prove = Prover(cuda=EngineCrashedError("x"))
    assert (await ensure(settings, prove)).engine.variant == "vulkan"
    assert (await ensure(settings, Prover(), force_validation=True)).engine.variant == "cuda"


async def test_another_card_or_driver_tests_again(settings: Settings) -> None:
    prove = Prover()
    await ensure(settings, prove)
    _edit_surroundings(settings, "fingerprint")
    await ensure(settings, prove)
    assert prove.asked == ["cuda", "cuda"]


async def test_another_manifest_tests_again(settings: Settings, offers: list[dict[str, Any]]) -> None:
    prove = Prover()
    await ensure(settings, prove)
    assert settings.manifest is not None
    write_manifest(settings.manifest, current_platform(), offers[1:])
    # What was installed before is no candidate of this platform's list of releases any more, but still there.
    assert (await ensure(settings, prove)).engine.variant == "cuda"
    write_manifest(settings.manifest, current_platform(), offers, tag="master-2-0000002")
    assert (await ensure(settings, prove)).engine.version == "master-2-0000002"
    assert len(list_installed(settings)) == 2


async def test_a_newer_release_that_fails_leaves_the_one_that_worked(
    settings: Settings, offers: list[dict[str, Any]], host: ReleaseHost
) -> None:
    await ensure(settings, Prover())
    (host.folder / "cuda.zip").unlink()
    assert settings.manifest is not None
    write_manifest(settings.manifest, current_platform(), offers, tag="master-2-0000002")
    ensured = await ensure(settings, Prover())
    assert (ensured.engine.variant, ensured.engine.version) == ("cuda", "master-1-0000001")
    assert ensured.key == "cuda/installed/master-1-0000001"


@pytest.mark.parametrize("name", ["sd-cli", "libx.so"])
async def test_an_engine_that_was_altered_is_fetched_again(
    settings: Settings, host: ReleaseHost, name: str
) -> None:
    prove = Prover()
    first = await ensure(settings, prove)
    before = (first.engine.path.parent / name).read_bytes()
    (first.engine.path.parent / name).write_bytes(b"#!/bin/sh\nexit 0\n".ljust(len(before), b"\n"))
    again = await ensure(settings, prove)
    assert again.engine.path == first.engine.path
    assert (again.engine.path.parent / name).read_bytes() == before
    assert host.requests == ["/cuda.zip"] * 2
    assert prove.asked == ["cuda"] * 2


async def test_an_altered_engine_that_cannot_be_fetched_again_is_not_used(
    settings: Settings, host: ReleaseHost
) -> None:
    first = await ensure(settings, Prover())
    first.engine.path.write_bytes(b"#!/bin/sh\nexit 0\n".ljust(first.engine.path.stat().st_size, b"\n"))
    (host.folder / "cuda.zip").unlink()
    assert (await ensure(settings, Prover())).engine.variant == "vulkan"


async def test_an_engine_that_was_removed_is_fetched_again(settings: Settings, host: ReleaseHost) -> None:
    first = await ensure(settings, Prover())
    first.engine.path.unlink()
    assert (await ensure(settings, Prover())).engine.path.exists()
    assert host.requests == ["/cuda.zip"] * 2


async def test_an_engine_that_was_only_touched_is_trusted(settings: Settings) -> None:
    prove = Prover()
    first = await ensure(settings, prove)
    os.utime(first.engine.path, (1, 1))
    assert (await ensure(settings, prove)).engine == first.engine
    assert binaries.in_use(settings) is not None
    assert prove.asked == ["cuda"]


async def test_no_network_is_no_verdict_for_ever(settings: Settings, host: ReleaseHost, monkeypatch) -> None:
    archive = host.folder / "cuda.zip"
    archive.rename(host.folder / "away")
    assert (await ensure(settings, Prover())).engine.variant == "vulkan"
    (host.folder / "away").rename(archive)
    assert (await ensure(settings, Prover())).engine.variant == "vulkan"
    later = time.time() + LATER_SECONDS + 1
    monkeypatch.setattr(time, "time", lambda: later)
    assert (await ensure(settings, Prover())).engine.variant == "cuda"


async def test_memory_that_others_had_is_no_verdict_for_ever(settings: Settings, monkeypatch) -> None:
    full = Prover(cuda=EngineOutOfMemoryError("VRAM is full."))
    assert (await ensure(settings, full)).engine.variant == "vulkan"
    later = time.time() + LATER_SECONDS + 1
    monkeypatch.setattr(time, "time", lambda: later)
    assert (await ensure(settings, Prover())).engine.variant == "cuda"


async def test_nowhere_to_write_the_proof_is_an_error_and_no_verdict(settings: Settings) -> None:
    with pytest.raises(StorageError, match="disk is full"):
        await ensure(settings, Prover(cuda=StorageError("The disk is full.")))
    assert read_book(settings) is None
    assert (await ensure(settings, Prover())).engine.variant == "cuda"


async def test_an_archive_with_another_digest_is_not_opened(
    settings: Settings, offers: list[dict[str, Any]], host: ReleaseHost
) -> None:
    data = bytearray((host.folder / "cuda.zip").read_bytes())
    data[len(data) // 2] ^= 1
    (host.folder / "cuda.zip").write_bytes(data)
    assert (await ensure(settings, Prover())).engine.variant == "vulkan"
    book = read_book(settings)
    assert book is not None
    assert book.verdicts["cuda/release/master-1-0000001"].code == "DOWNLOAD_FAILED"


async def test_an_archive_without_the_promised_file(
    home: Settings, host: ReleaseHost, tmp_path: Path
) -> None:
    archive = pack(host, "cpu.zip", {"sd-cli": script("cpu")})
    archive["files"] = ["sd-cli", "libmissing.so"]
    manifest = write_manifest(
        tmp_path / "m.json", current_platform(), [{"variant": "cpu", "archive": archive}]
    )
    with pytest.raises(DownloadError, match=r"no 'libmissing.so' in it"):
        await ensure(replace(home, manifest=manifest), Prover())
    assert list(home.engines_dir.glob("cpu*")) == []


async def test_dependencies_come_along(home: Settings, host: ReleaseHost, tmp_path: Path) -> None:
    main = pack(host, "cuda.zip", {"sd-cli": script("cuda")})
    runtime = {**pack(host, "cudart.zip", {"libcudart.so": b"runtime"}), "executables": []}
    offer = {"variant": "cuda", "archive": main, "dependencies": [runtime]}
    manifest = write_manifest(tmp_path / "m.json", current_platform(), [offer])
    ensured = await ensure(replace(home, manifest=manifest), Prover())
    assert (ensured.engine.path.parent / "libcudart.so").read_bytes() == b"runtime"
    assert oct((ensured.engine.path.parent / "libcudart.so").stat().st_mode & 0o777) == "0o644"


async def test_a_mirror_stands_in_for_the_host(settings: Settings, offers: list[dict[str, Any]]) -> None:
    assert settings.manifest is not None
    for offer in offers:
        offer["archive"]["url"] = f"https://releases.invalid/a/b/{offer['variant']}.zip"
    write_manifest(settings.manifest, current_platform(), offers)
    with release_host(settings.data_dir.parent / "host" / "deep" / "..") as host:
        (host.folder / "mirror" / "a" / "b").mkdir(parents=True)
        (host.folder / "cpu.zip").rename(host.folder / "mirror" / "a" / "b" / "cpu.zip")
        ensured = await ensure(replace(settings, mirror=f"{host.url}/mirror/"), Prover(), variant="cpu")
        assert ensured.engine.variant == "cpu"
        assert host.requests == ["/mirror/a/b/cpu.zip"]


async def test_two_at_once_fetch_and_draw_once(settings: Settings, host: ReleaseHost) -> None:
    prove = Prover()
    both = await asyncio.gather(*(ensure(settings, prove) for _ in range(4)))
    assert {ensured.engine.path for ensured in both} == {both[0].engine.path}
    assert (prove.asked, host.requests) == (["cuda"], ["/cuda.zip"])


async def test_cancelling_leaves_what_worked_before(settings: Settings, offers: list[dict[str, Any]]) -> None:
    before = await ensure(settings, Prover())
    assert settings.manifest is not None
    write_manifest(settings.manifest, current_platform(), offers, tag="master-2-0000002")
    reached = asyncio.Event()

    class Waiting(Prover):
        async def __call__(self, engine: EngineBinary) -> Proof:
            reached.set()
            await asyncio.sleep(3600)
            raise AssertionError

    task = asyncio.create_task(ensure(settings, Waiting()))
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [engine.path for engine in list_installed(settings)] == [before.engine.path]
    assert not list(settings.engines_dir.glob(".staging-*"))


async def test_the_users_own_engine_passes_the_same_test(settings: Settings, tmp_path: Path) -> None:
    own = tmp_path / "own" / "sd-cli"
    own.parent.mkdir()
    own.write_bytes(script("own"))
    own.chmod(0o755)
    settings = replace(settings, engine=own)
    prove = Prover()
    ensured = await ensure(settings, prove)
    assert (ensured.engine.path, ensured.engine.variant) == (own, "custom")
    await ensure(settings, prove)
    assert prove.asked == ["custom"]

    own.write_bytes(script("own", body="# changed"))
    await ensure(settings, prove)
    assert prove.asked == ["custom", "custom"]

    with pytest.raises(EngineCrashedError):
        await ensure(settings, Prover(custom=EngineCrashedError("x")), force_validation=True)
    assert list_installed(settings) == []


async def test_an_engine_that_cannot_be_executed_falls_through(
    home: Settings, host: ReleaseHost, tmp_path: Path
) -> None:
    loader = "echo 'sd-cli: error while loading shared libraries: libcuda.so.1: cannot open' >&2; exit 127"
    broken = pack(host, "cuda.zip", {"sd-cli": script("cuda", body=loader)})
    whole = pack(host, "cpu.zip", {"sd-cli": script("cpu")})
    manifest = write_manifest(
        tmp_path / "m.json",
        current_platform(),
        [{"variant": "cuda", "archive": broken}, {"variant": "cpu", "archive": whole}],
    )
    settings = replace(home, manifest=manifest)
    prove = Prover()
    assert (await ensure(settings, prove)).engine.variant == "cpu"
    assert prove.asked == ["cpu"]
    book = read_book(settings)
    assert book is not None
    reason = book.verdicts["cuda/release/master-1-0000001"].reason or ""
    assert "libcuda.so.1" in reason
    assert str(home.data_dir) not in reason


async def test_a_data_folder_that_cannot_be_written(settings: Settings) -> None:
    settings.data_dir.parent.mkdir(parents=True, exist_ok=True)
    settings.data_dir.write_text("a file in its place")
    with pytest.raises(StorageError, match="cannot be written"):
        await ensure(settings, Prover())


async def test_a_state_folder_that_cannot_be_written_costs_only_the_memory(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    settings.state_dir.parent.mkdir(parents=True, exist_ok=True)
    settings.state_dir.write_text("a file in its place")
    prove = Prover()
    assert (await ensure(settings, prove)).engine.variant == "cuda"
    assert (await ensure(settings, prove)).engine.variant == "cuda"
    assert prove.asked == ["cuda", "cuda"]
    assert "not kept" in caplog.text


async def test_a_broken_manifest_of_the_users_own(home: Settings, tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(BinaryError, match=r"broken\.json"):
        await ensure(replace(home, manifest=tmp_path / "broken.json"), Prover())


async def test_prune_removes_the_old_and_keeps_what_is_used(
    settings: Settings, offers: list[dict[str, Any]]
) -> None:
    await ensure(settings, Prover(), variant="cpu")
    await ensure(settings, Prover())
    assert settings.manifest is not None
    write_manifest(settings.manifest, current_platform(), offers, tag="master-2-0000002")
    await ensure(settings, Prover())
    settings.downloads_dir.mkdir(parents=True, exist_ok=True)
    (settings.downloads_dir / "old.part").write_bytes(b"x" * 1000)
    done = await binaries.prune(settings)
    assert sorted((engine.variant, engine.version) for engine in done.engines) == [
        ("cpu", "master-1-0000001"), ("cuda", "master-1-0000001")
    ]  # fmt: skip
    assert done.freed_bytes > 1000
    assert not settings.downloads_dir.exists()
    assert [(engine.variant, engine.version) for engine in list_installed(settings)] == [
        ("cuda", "master-2-0000002")
    ]
    prove = Prover()
    assert (await ensure(settings, prove)).engine.version == "master-2-0000002"
    assert prove.asked == []


async def test_prune_of_one_variant_and_of_the_unused(settings: Settings) -> None:
    await ensure(settings, Prover(), variant="cpu")
    await ensure(settings, Prover(), variant="vulkan")
    await ensure(settings, Prover())
    assert (await binaries.prune(settings)).engines == ()
    # All three are somebody's choice; once the choices are void, only the best one stays.
    verdicts_path(settings).unlink()
    await ensure(settings, Prover())
    assert [e.variant for e in (await binaries.prune(settings, variant="cpu", unused=True)).engines] == [
        "cpu"
    ]
    assert [e.variant for e in (await binaries.prune(settings, unused=True)).engines] == ["vulkan"]
    assert variants(settings) == ["cuda"]


def _edit_surroundings(settings: Settings, name: str) -> None:
    data = json.loads(verdicts_path(settings).read_text())
    data["books"][0]["surroundings"][name] = "another"
    verdicts_path(settings).write_text(json.dumps(data))


async def test_an_engine_of_ones_own_that_is_none_is_told_with_what_helps(settings: Settings) -> None:
    own = replace(settings, engine=settings.data_dir.parent)
    with pytest.raises(EngineNotRunnableError, match="is a folder") as caught:
        await ensure(own, Prover())
    assert "SDMANAGER_ENGINE unset" in (caught.value.hint or "")
    failure = binaries.own_failure(own)
    assert failure is not None
    assert "is a folder" in (failure.reason or "")
    assert binaries.in_use(own) is None


async def test_a_missing_list_of_engines_does_not_concern_an_engine_of_ones_own(
    settings: Settings, tmp_path: Path
) -> None:
    own = tmp_path / "sd-cli"
    own.write_bytes(script("own"))
    own.chmod(0o755)
    ensured = await ensure(replace(settings, engine=own, manifest=tmp_path / "none.json"), Prover())
    assert ensured.engine.path == own


def at(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Set the wall clock that many seconds ahead of where it is."""
    later = time.time() + seconds
    monkeypatch.setattr(time, "time", lambda: later)


async def test_once_the_better_one_works_what_comes_after_it_is_nobodys_concern(
    settings: Settings, host: ReleaseHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("cuda", "vulkan"):
        (host.folder / f"{name}.zip").rename(host.folder / f"{name}.away")
    assert (await ensure(settings, Prover())).engine.variant == "cpu"
    (host.folder / "cuda.away").rename(host.folder / "cuda.zip")
    at(monkeypatch, LATER_SECONDS + 1)
    assert (await ensure(settings, Prover())).engine.variant == "cuda"
    at(monkeypatch, 30 * 24 * 3600)
    seen: list[EngineProgress] = []
    assert (await ensure(settings, Prover(), on_progress=seen.append)).engine.variant == "cuda"
    assert seen == []
    assert binaries.in_use(settings) is not None


async def test_what_keeps_failing_is_tried_ever_less_often(
    settings: Settings, host: ReleaseHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    (host.folder / "cuda.zip").unlink()
    waits = []
    for _ in range(8):
        assert (await ensure(settings, Prover())).engine.variant == "vulkan"
        book = read_book(settings)
        assert book is not None
        retry_at = book.chosen["auto"].retry_at
        assert retry_at is not None
        waits.append(round((retry_at - time.time()) / 3600))
        at(monkeypatch, retry_at - time.time() + 1)
    assert waits[:4] == [1, 4, 16, 64]
    assert waits[-1] == 7 * 24


async def test_an_engine_whose_driver_needs_a_restart_is_installed_and_proven_later(
    settings: Settings, host: ReleaseHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    prove = Prover(cuda=NoDeviceError("Restart the machine.", details={"passing": True}))
    assert (await ensure(settings, prove)).engine.variant == "vulkan"
    assert "cuda" in variants(settings)
    host.requests.clear()
    at(monkeypatch, LATER_SECONDS + 1)
    prove = Prover()
    assert (await ensure(settings, prove)).engine.variant == "cuda"
    assert (prove.asked, host.requests) == (["cuda"], [])


async def test_to_test_one_variant_anew_forgets_nothing_of_the_others(
    settings: Settings, host: ReleaseHost
) -> None:
    await ensure(settings, Prover(cuda=EngineCrashedError("x")))
    await ensure(settings, Prover(), variant="cpu", force_validation=True)
    host.requests.clear()
    prove = Prover()
    assert (await ensure(settings, prove)).engine.variant == "vulkan"
    assert (prove.asked, host.requests) == ([], [])


async def test_looking_writes_nothing(settings: Settings) -> None:
    first = await ensure(settings, Prover())
    os.utime(first.engine.path, (1, 1))
    before = verdicts_path(settings).stat().st_mtime_ns
    assert binaries.in_use(settings) is not None
    assert verdicts_path(settings).stat().st_mtime_ns == before


async def test_too_little_space_is_told_before_anything_is_fetched(
    home: Settings, host: ReleaseHost, tmp_path: Path
) -> None:
    archive = {**pack(host, "cpu.zip", {"sd-cli": script("cpu")}), "size": 10**15}
    manifest = write_manifest(
        tmp_path / "m.json", current_platform(), [{"variant": "cpu", "archive": archive}]
    )
    with pytest.raises(StorageError, match=r"needs 3000000\.0 GB of free space") as caught:
        await ensure(replace(home, manifest=manifest), Prover())
    assert caught.value.details["needed"] == 3 * 10**15
    assert host.requests == []


async def test_an_archive_of_an_engine_that_does_not_work_is_not_kept(settings: Settings) -> None:
    await ensure(settings, Prover(cuda=EngineCrashedError("x")))
    assert list(settings.downloads_dir.iterdir()) == []


async def test_prune_after_an_upgrade_keeps_what_works(
    settings: Settings, offers: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    passing = NoDeviceError("x", details={"passing": True})
    await ensure(settings, Prover(cuda=passing))  # installed, and not in use
    assert settings.manifest is not None
    write_manifest(settings.manifest, current_platform(), offers, tag="master-2-0000002")
    assert [e.variant for e in (await binaries.prune(settings)).engines] == ["cuda"]
    assert variants(settings) == ["vulkan"]


async def test_prune_removes_what_was_altered_and_what_killed_builds_left(settings: Settings) -> None:
    ensured = await ensure(settings, Prover())
    ensured.engine.path.write_bytes(b"x" * ensured.engine.path.stat().st_size)
    remains = settings.engines_dir / ".staging-dead" / "build"
    remains.mkdir(parents=True)
    (remains / "object.o").write_bytes(b"x" * 5_000_000)
    done = await binaries.prune(settings)
    assert [engine.variant for engine in done.engines] == ["cuda"]
    assert done.freed_bytes > 5_000_000
    assert [path.name for path in settings.engines_dir.iterdir() if path.is_dir()] == []


async def test_a_picture_that_is_drawn_does_not_wait_for_whoever_is_choosing(settings: Settings) -> None:
    ensured = await ensure(settings, Prover(cuda=False))
    async with engines_lock(settings.state_dir, lambda: None):
        await binaries.record_success(settings, ensured, Proof(True, "mine", 64, 64, 4, 1.0))
    assert not (await ensure(settings, Prover())).proof.proven


async def test_what_a_killed_installation_left_is_removed_by_whoever_chooses_next(settings: Settings) -> None:
    await ensure(settings, Prover())
    (settings.engines_dir / ".staging-dead" / "finished").mkdir(parents=True)
    await ensure(settings, Prover())
    assert not list(settings.engines_dir.glob(".staging-*"))


async def test_what_is_being_installed_is_not_swept_away(settings: Settings) -> None:
    await ensure(settings, Prover())
    async with engines_lock(settings.engines_dir, lambda: None):
        (settings.engines_dir / ".staging-alive").mkdir()
        await ensure(settings, Prover())
        assert (settings.engines_dir / ".staging-alive").exists()
