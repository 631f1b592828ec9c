"""binaries.json: the shipped one is whole and right, and a user's own is checked to the last field."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdmanager.binaries import VARIANTS
from sdmanager.binaries.manifest import Archive, Offer, load_manifest, mirrored
from sdmanager.binaries.pins import load_sources
from sdmanager.errors import BinaryError, InvalidRequestError

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "binaries.json"
PLATFORMS = {"linux-x64", "linux-arm64", "win32-x64", "win32-arm64", "darwin-arm64", "darwin-x64"}

Steps = tuple[str | int, ...]
LINUX = ("platforms", "linux-x64", "variants")
VULKAN = (*LINUX, 2)
ARCHIVE = (*VULKAN, "archive")
CUDA = ("platforms", "win32-x64", "variants", 0)


@pytest.fixture
def data() -> dict[str, Any]:
    return json.loads(SHIPPED.read_bytes())


@pytest.fixture
def own(tmp_path: Path) -> Callable[[object], Path]:
    """Writes a user's own file."""

    def write(content: object) -> Path:
        path = tmp_path / "own.json"
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        return path

    return write


def put(data: Any, steps: Steps, value: object) -> None:
    for step in steps[:-1]:
        data = data[step]
    data[steps[-1]] = value


def archives(offers: Iterator[Offer]) -> list[Archive]:
    return [archive for offer in offers for archive in offer.archives]


def all_offers() -> Iterator[Offer]:
    return (offer for offers in load_manifest().offers.values() for offer in offers)


class TestShipped:
    def test_every_platform_is_there(self) -> None:
        assert set(load_manifest().offers) == PLATFORMS

    def test_every_platform_ends_in_building_for_the_processor(self) -> None:
        for offers in load_manifest().offers.values():
            assert (offers[-1].variant, offers[-1].kind) == ("cpu", "source")
            assert offers[-1].requires.glibc is None

    def test_variants_are_in_the_order_of_preference(self) -> None:
        for offers in load_manifest().offers.values():
            order = [(VARIANTS.index(offer.variant), offer.kind == "source") for offer in offers]
            assert order == sorted(set(order))

    @pytest.mark.parametrize(
        ("platform", "expected"),
        [
            (
                "linux-x64",
                "cuda-source rocm-source vulkan-release vulkan-source cpu-release cpu-source",
            ),
            ("linux-arm64", "cuda-source vulkan-source cpu-source"),
            ("win32-x64", "cuda-release vulkan-release cpu-release cpu-source"),
            ("win32-arm64", "cpu-source"),
            ("darwin-arm64", "metal-release metal-source cpu-source"),
            ("darwin-x64", "cpu-source"),
        ],
    )
    def test_every_platform_has_its_variants(self, platform: str, expected: str) -> None:
        offers = load_manifest().offers[platform]
        assert " ".join(f"{offer.variant}-{offer.kind}" for offer in offers) == expected

    def test_archives_are_of_the_pinned_release(self) -> None:
        manifest = load_manifest()
        base = f"https://github.com/leejet/stable-diffusion.cpp/releases/download/{manifest.tag}/"
        for archive in archives(all_offers()):
            assert re.fullmatch(re.escape(base) + r"[\w.-]+\.zip", archive.url)

    def test_digests_and_addresses_are_there_once(self) -> None:
        found = archives(all_offers())
        assert len(found) == 7
        assert len({archive.sha256 for archive in found}) == len({archive.url for archive in found}) == 7
        assert all(re.fullmatch(r"[0-9a-f]{64}", archive.sha256) for archive in found)

    def test_sizes_are_plausible(self) -> None:
        assert all(10**7 < archive.size < 10**9 for archive in archives(all_offers()))

    def test_the_engine_is_a_file_that_must_be_there(self) -> None:
        for platform, offers in load_manifest().offers.items():
            for offer in offers:
                if offer.kind == "release":
                    ending = ".exe" if platform.startswith("win32") else ""
                    assert offer.archives[0].executables[0] == f"sd-cli{ending}"
                    assert f"sd-cli{ending}" in offer.archives[0].files

    def test_cuda_for_windows_brings_its_runtime(self) -> None:
        cuda = load_manifest().offers["win32-x64"][0]
        engine, runtime = cuda.archives
        assert runtime.size == 563_452_046
        assert cuda.size == engine.size + runtime.size
        assert runtime.executables == ()
        assert {name.partition("64")[0] for name in runtime.files} == {"cudart", "cublas", "cublasLt"}
        assert (cuda.requires.nvidia_driver, cuda.requires.compute_capability) == ("551", "6.1")

    def test_archives_for_linux_name_the_glibc_they_need(self) -> None:
        releases = [o for o in load_manifest().offers["linux-x64"] if o.kind == "release"]
        assert {offer.requires.glibc for offer in releases} == {"2.38"}

    def test_a_platform_without_archives_says_so(self) -> None:
        manifest = load_manifest()
        for platform, offers in manifest.offers.items():
            if not archives(iter(offers)):
                assert "no archive" in manifest.notes[platform]

    def test_what_was_left_out_is_said(self, data: dict[str, Any]) -> None:
        assert set(data["release"]["left_out"]) == {"win32-x64/rocm", "linux-x64/rocm"}

    def test_builds_carry_the_version_of_the_pinned_sources(self) -> None:
        manifest = load_manifest()
        assert manifest.sources == load_sources()
        versions = {offer.version for offer in all_offers() if offer.kind == "source"}
        assert versions == {manifest.sources.package.engine_version}
        assert {offer.version for offer in all_offers() if offer.kind == "release"} == {manifest.tag}

    def test_it_is_written_as_the_updater_writes_it(self, data: dict[str, Any]) -> None:
        assert SHIPPED.read_text() == json.dumps(data, indent=2) + "\n"

    def test_the_digest_is_that_of_the_file(self) -> None:
        assert load_manifest().digest == hashlib.sha256(SHIPPED.read_bytes()).hexdigest()

    def test_reading_it_needs_nothing_heavy(self) -> None:
        program = (
            "import sys; from sdmanager.binaries.manifest import *; load_manifest(); print(*sys.modules)"
        )
        run = [sys.executable, "-c", program]
        loaded = set(subprocess.run(run, capture_output=True, text=True, check=True).stdout.split())
        assert not loaded & {"pydantic", "requests", "numpy"}


def test_the_file_beside_the_modules_comes_first(tmp_path: Path, data: dict[str, Any]) -> None:
    """An installed package has the file inside; what lies two levels above it belongs to somebody else."""
    package = tmp_path / "lib" / "sdmanager"
    package.mkdir(parents=True)
    for item in (ROOT / "sdmanager").iterdir():
        if item.name not in {"binaries", "__pycache__"}:
            (package / item.name).symlink_to(item)
    (package / "binaries").mkdir()
    for item in (ROOT / "sdmanager" / "binaries").glob("*.py"):
        (package / "binaries" / item.name).write_bytes(item.read_bytes())
    data["release"]["tag"] = "of-the-package"
    (tmp_path / "lib" / "binaries.json").write_text("{}")
    (package / "binaries" / "binaries.json").write_text(json.dumps(data))
    program = "from sdmanager.binaries.manifest import load_manifest; print(load_manifest().tag)"
    env = os.environ | {"PYTHONPATH": str(tmp_path / "lib"), "PYTHONDONTWRITEBYTECODE": "1"}

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-P", "-c", program], env=env, capture_output=True, text=True, check=False
        )

    assert run().stdout == "of-the-package\n"
    (package / "binaries" / "binaries.json").unlink()
    assert "schema is not 1" in run().stderr
    (tmp_path / "lib" / "binaries.json").unlink()
    assert "there is no such file" in run().stderr


def test_a_users_own_file_is_used(own: Callable[[object], Path], data: dict[str, Any]) -> None:
    data["release"]["tag"] = "mine-1"
    put(data, (*ARCHIVE, "url"), "http://127.0.0.1:8000/a.zip")
    put(data, (*ARCHIVE, "root"), "build/bin")
    manifest = load_manifest(own(data))
    offer = manifest.offers["linux-x64"][2]
    assert (manifest.tag, offer.version) == ("mine-1", "mine-1")
    assert offer.archives[0].url == "http://127.0.0.1:8000/a.zip"
    assert offer.archives[0].root == "build/bin"
    assert manifest.digest != load_manifest().digest


@pytest.mark.parametrize(
    "url",
    [
        "https://example.org/a.zip",
        "https://example.org:8443/deep/a.zip?token=x",
        "http://localhost/a.zip",
        "http://127.9.9.9:1/a.zip",
        "http://[::1]:80/a.zip",
    ],
)
def test_addresses_with_tls_or_on_this_machine_are_taken(
    own: Callable[[object], Path], data: dict[str, Any], url: str
) -> None:
    put(data, (*ARCHIVE, "url"), url)
    assert url in {archive.url for archive in archives(iter(load_manifest(own(data)).offers["linux-x64"]))}


BAD_URLS = [
    "http://example.org/a.zip",
    "http://127.0.0.1.example.org/a.zip",
    "http://localhost.example.org/a.zip",
    "http://localhost@example.org/a.zip",
    "http://2130706433/a.zip",
    "ftp://example.org/a.zip",
    "file:///etc/passwd",
    "https:///a.zip",
    "https://example.org",
    "https://example.org/",
    "https://example.org/a.zip#part",
    "https://example.org:99999/a.zip",
    "https://example.org:port/a.zip",
    "https://[::1/a.zip",
    "https://example.org/a b.zip",
    "https://example.org/a.zip\n",
    "https://exämple.org/a.zip",
    "//example.org/a.zip",
    "a.zip",
    "",
    7,
    None,
]


@pytest.mark.parametrize("url", BAD_URLS)
def test_other_addresses_are_refused(
    own: Callable[[object], Path], data: dict[str, Any], url: object
) -> None:
    put(data, (*ARCHIVE, "url"), url)
    with pytest.raises(BinaryError, match=re.escape("platforms.linux-x64.variants[2].archive.url")):
        load_manifest(own(data))


WRONG: dict[str, tuple[Steps, object, str]] = {
    "another schema": (("schema",), 2, "schema is not 1"),
    "schema as a text": (("schema",), "1", "schema is not 1"),
    "unknown part": (("platform",), {}, "platform is no known field"),
    "platforms as a list": (("platforms",), [], "platforms is not an object"),
    "platform with a path": (("platforms", "../x"), {"variants": []}, "platforms.'../x' is not"),
    "platform without variants": (("platforms", "linux-x64"), {}, "platforms.linux-x64.variants is missing"),
    "no variants": (LINUX, [], "platforms.linux-x64.variants is empty"),
    "variants as an object": (LINUX, {}, "platforms.linux-x64.variants is not a list"),
    "note with a line break": (("platforms", "linux-x64", "note"), "a\nb", "platforms.linux-x64.note"),
    "tag with a path": (("release", "tag"), "../x", "release.tag"),
    "tag with a space": (("release", "tag"), "a b", "release.tag"),
    "repository with a path": (("release", "repository"), "a/b/c", "release.repository"),
    "unknown variant": ((*VULKAN, "variant"), "opencl", "variants[2].variant is none of cuda,"),
    "variant that is a list": ((*VULKAN, "variant"), [], "variants[2].variant is none of cuda,"),
    "misspelt requirement": ((*VULKAN, "requires"), {"glib": "2.38"}, "requires.glib is no known field"),
    "requirement as a number": ((*VULKAN, "requires"), {"glibc": 2.38}, "requires.glibc is not a version"),
    "endless version": ((*VULKAN, "requires"), {"glibc": "9" * 5000}, "requires.glibc is not a version"),
    "source that is false": ((*LINUX, 0, "source"), False, "variants[0].source is not true"),
    "source beside an archive": ((*VULKAN, "source"), True, "variants[2].source is not true"),
    "neither archive nor source": ((*LINUX, 0), {"variant": "cuda"}, "variants[0] has neither"),
    "same entry twice": (
        (*LINUX, 0),
        {"variant": "rocm", "source": True},
        "variants[1] is the second source",
    ),
    "dependencies as an object": ((*CUDA, "dependencies"), {}, "variants[0].dependencies is not a list"),
    "dependency without a digest": ((*CUDA, "dependencies", 0, "sha256"), "", "dependencies[0].sha256"),
    "short digest": ((*ARCHIVE, "sha256"), "a" * 63, "archive.sha256 is not 64 hexadecimal digits"),
    "digest in upper case": ((*ARCHIVE, "sha256"), "A" * 64, "archive.sha256"),
    "digest with its algorithm": ((*ARCHIVE, "sha256"), "sha256:" + "a" * 64, "archive.sha256"),
    "digest with a line break": ((*ARCHIVE, "sha256"), "a" * 64 + "\n", "archive.sha256"),
    "negative size": ((*ARCHIVE, "size"), -1, "archive.size is not a positive whole number"),
    "no size": ((*ARCHIVE, "size"), 0, "archive.size"),
    "size as a fraction": ((*ARCHIVE, "size"), 1.5, "archive.size"),
    "size that is true": ((*ARCHIVE, "size"), True, "archive.size"),
    "size that is endless": ((*ARCHIVE, "size"), 10**300, "archive.size"),
    "misspelt digest": ((*ARCHIVE, "sha265"), "x", "archive.sha265 is no known field"),
    "name with a slash": ((*ARCHIVE, "files"), ["bin/sd-cli"], "archive.files[0] is not the name of a file"),
    "name with a backslash": ((*ARCHIVE, "files"), ["bin\\sd-cli"], "archive.files[0]"),
    "name that is the parent": ((*ARCHIVE, "files"), [".."], "archive.files[0]"),
    "name with two dots": ((*ARCHIVE, "files"), ["sd-cli.."], "archive.files[0]"),
    "name with a drive": ((*ARCHIVE, "files"), ["C:sd-cli"], "archive.files[0]"),
    "empty name": ((*ARCHIVE, "files"), [""], "archive.files[0]"),
    "name twice": ((*ARCHIVE, "files"), ["sd-cli", "sd-cli"], "archive.files names something twice"),
    "no engine": ((*ARCHIVE, "executables"), [], "archive.executables does not begin"),
    "engine that need not be there": ((*ARCHIVE, "files"), ["x"], "archive.executables does not begin"),
    "executable with a path": ((*ARCHIVE, "executables"), ["sd-cli", "../x"], "archive.executables[1]"),
    "absolute root": ((*ARCHIVE, "root"), "/build", "archive.root"),
    "root with a parent": ((*ARCHIVE, "root"), "build/../..", "archive.root"),
    "root that ends in a slash": ((*ARCHIVE, "root"), "build/", "archive.root"),
    "two files at one address": ((*ARCHIVE, "sha256"), "a" * 64, "with different digests or sizes"),
    "source without a recipe": (("source", "variants"), {}, "source.variants has no cuda"),
    "source that is wrong": (("source", "package", "sha256"), "x", "source.package.sha256"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_told_with_its_place(
    own: Callable[[object], Path], data: dict[str, Any], name: str
) -> None:
    steps, value, message = WRONG[name]
    if name == "two files at one address":
        put(
            data,
            (*LINUX, 4),
            copy.deepcopy(data["platforms"]["linux-x64"]["variants"][2]) | {"variant": "cpu"},
        )
    put(data, steps, value)
    path = own(data)
    with pytest.raises(BinaryError, match=re.escape(message)) as caught:
        load_manifest(path)
    assert caught.value.message.count("\n") == 0
    assert caught.value.message.endswith(".")
    assert "SDMANAGER_BINARIES" in (caught.value.hint or "")
    assert caught.value.details["path"] == str(path)


NO_JSON = {
    "nothing": b"",
    "a text": b"hello",
    "cut short": SHIPPED.read_bytes()[:-100],
    "not UTF-8": b'{"schema": "\xff"}',
    "very deep": b"[" * 100_000,
    "a number of many digits": b'{"schema": ' + b"9" * 10_000 + b"}",
}


@pytest.mark.parametrize("name", NO_JSON)
def test_what_is_no_json_is_refused(own: Callable[[object], Path], name: str) -> None:
    with pytest.raises(BinaryError, match="it is not JSON"):
        load_manifest(own(NO_JSON[name]))


@pytest.mark.parametrize("content", [[], 1, None, "x"])
def test_json_that_is_no_object_is_refused(own: Callable[[object], Path], content: object) -> None:
    with pytest.raises(BinaryError, match="the file is not an object"):
        load_manifest(own(content))


def test_a_field_that_is_there_twice_is_refused(own: Callable[[object], Path]) -> None:
    with pytest.raises(BinaryError, match="the field schema is there twice"):
        load_manifest(own(b'{"schema": 1, "schema": 1}'))


def test_a_file_that_is_missing_is_told(tmp_path: Path) -> None:
    with pytest.raises(BinaryError, match=r"'none\.json' cannot be used: there is no such file") as caught:
        load_manifest(tmp_path / "none.json")
    assert "SDMANAGER_BINARIES" in (caught.value.hint or "")


@pytest.mark.parametrize("name", ["", "x\0y", "long" * 100])
def test_what_is_no_file_is_told(tmp_path: Path, name: str) -> None:
    with pytest.raises(BinaryError, match="it cannot be read"):
        load_manifest(tmp_path / name)


def test_a_huge_file_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "huge.json"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(BinaryError, match="too large"):
        load_manifest(path)


def places(value: object, steps: Steps = ()) -> Iterator[Steps]:
    """Every place in the file, inner ones too."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, inner in items:
        yield (*steps, step)
        yield from places(inner, (*steps, step))


WHOLE = json.loads(SHIPPED.read_bytes())
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


@given(steps=st.sampled_from(list(places(WHOLE))), value=JSON)
def test_any_value_in_any_place_is_taken_or_refused_by_name(
    tmp_path_factory: pytest.TempPathFactory, steps: Steps, value: object
) -> None:
    data = copy.deepcopy(WHOLE)
    put(data, steps, value)
    path = tmp_path_factory.getbasetemp() / "mutated.json"
    path.write_text(json.dumps(data))
    try:
        found = archives(offer for offers in load_manifest(path).offers.values() for offer in offers)
    except BinaryError as error:
        message = error.message
    else:
        message = ""
        assert all(len(archive.sha256) == 64 for archive in found)
    assert message == "" or message.isprintable()


URL = "https://github.com/owner/name/releases/download/tag/a.zip?x=1"


@pytest.mark.parametrize(
    ("mirror", "expected"),
    [
        (None, URL),
        ("https://mirror.example", "https://mirror.example/owner/name/releases/download/tag/a.zip?x=1"),
        ("https://mirror.example/", "https://mirror.example/owner/name/releases/download/tag/a.zip?x=1"),
        ("http://10.0.0.1:81/gh/", "http://10.0.0.1:81/gh/owner/name/releases/download/tag/a.zip?x=1"),
        ("https://u:p@m.example/a/b", "https://u:p@m.example/a/b/owner/name/releases/download/tag/a.zip?x=1"),
        ("http://[::1]:8000", "http://[::1]:8000/owner/name/releases/download/tag/a.zip?x=1"),
    ],
)
def test_a_mirror_takes_the_place_of_the_host(mirror: str | None, expected: str) -> None:
    assert mirrored(URL, mirror) == expected


@pytest.mark.parametrize(
    "mirror",
    [
        "",
        "mirror.example",
        "//mirror.example",
        "ftp://m.example",
        "file:///m",
        "https://",
        "https://m:x/",
        "https://[::1",
        "https://m.example/a?b",
        "https://m.example/#b",
        "https://m.example /",
        "https://m\n/",
    ],
)
def test_a_mirror_that_is_no_address_is_the_callers_mistake(mirror: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        mirrored(URL, mirror)
    assert "SDMANAGER_MIRROR" in (caught.value.hint or "")


def test_a_password_in_a_mirror_is_not_repeated() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        mirrored(URL, "ftp://user:secret@m.example")
    assert "secret" not in f"{caught.value}{caught.value.hint}{caught.value.details}"


@given(st.text())
def test_any_mirror_is_taken_or_refused(mirror: str) -> None:
    with contextlib.suppress(InvalidRequestError):
        assert mirrored(URL, mirror).endswith("/owner/name/releases/download/tag/a.zip?x=1")
