"""The script that pins another release, run as a child against a real server that answers like the releases API."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from sdmanager.binaries.manifest import Offer, load_manifest

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "binaries.json"
SCRIPT = ROOT / ".ci" / "update-binaries"
REPOSITORY = "leejet/stable-diffusion.cpp"
TAG, COMMIT = "master-951-abcdef0", "abcdef0"
RUNTIME = "cudart-sd-bin-win-cu12-x64.zip"

pytestmark = pytest.mark.skipif(not SCRIPT.exists(), reason="only a checkout has the script")


def asset(name: str, tag: str = TAG) -> dict[str, Any]:
    """A file as the API describes it."""
    return {
        "id": len(name),
        "name": name,
        "state": "uploaded",
        "content_type": "application/zip",
        "size": 20_000_000 + len(name),
        "digest": f"sha256:{hashlib.sha256(name.encode()).hexdigest()}",
        "browser_download_url": f"https://github.com/{REPOSITORY}/releases/download/{tag}/{name}",
    }


ENDINGS = [
    "Darwin-macOS-27.1-arm64",
    "Linux-Ubuntu-24.04-x86_64-rocm-7.15.1",
    "Linux-Ubuntu-24.04-x86_64-vulkan",
    "Linux-Ubuntu-24.04-x86_64",
    "win-cpu-x64",
    "win-cuda12-x64",
    "win-rocm-7.15.1-x64",
    "win-vulkan-x64",
]


def name_of(ending: str) -> str:
    return f"sd-master-{COMMIT}-bin-{ending}.zip"


class Api:
    """What the server answers, and what it was asked."""

    def __init__(self) -> None:
        self.status = 200
        self.body: bytes | None = None
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.release: dict[str, Any] = {
            "url": "https://api.github.com/repos/x/releases/1",
            "tag_name": TAG,
            "draft": False,
            "assets": [
                asset(RUNTIME),
                *(asset(name_of(ending)) for ending in ENDINGS),
                asset("sd-master-abcdef0-bin-win-avx2-x64.zip"),
                asset("checksums.txt"),
            ],
        }
        self.port = 0

    @property
    def assets(self) -> list[dict[str, Any]]:
        return self.release["assets"]

    def find(self, ending: str) -> dict[str, Any]:
        name = ending if ending == RUNTIME else name_of(ending)
        return next(item for item in self.assets if item["name"] == name)

    def drop(self, ending: str) -> None:
        self.assets.remove(self.find(ending))


@pytest.fixture
def api() -> Iterator[Api]:
    state = Api()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.asked.append((self.path, dict(self.headers)))
            base = f"/repos/{REPOSITORY}/releases/"
            known = self.path in {f"{base}latest", f"{base}tags/{state.release['tag_name']}"}
            body = state.body if state.body is not None else json.dumps(state.release).encode()
            if not known:
                body = b'{"message": "Not Found", "status": "404"}'
            self.send_response(state.status if known else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        state.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield state
        server.shutdown()
        thread.join()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A copy of the shipped file."""
    path = tmp_path / "binaries.json"
    path.write_bytes(SHIPPED.read_bytes())
    return path


Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def update(api: Api, file: Path, tmp_path: Path) -> Run:
    """Runs the script."""
    kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}

    def run(*arguments: str, port: int | None = None, **env: str) -> subprocess.CompletedProcess[str]:
        base = f"http://127.0.0.1:{port or api.port}"
        command = [sys.executable, str(SCRIPT), "--file", str(file), "--api", base, *(arguments or (TAG,))]
        return subprocess.run(
            command, env=kept | {"HOME": str(tmp_path)} | env, capture_output=True, text=True, check=False
        )

    return run


def kinds(path: Path, platform: str) -> list[str]:
    return [f"{offer.variant}-{offer.kind}" for offer in load_manifest(path).offers[platform]]


def release_of(path: Path, platform: str, variant: str) -> Offer:
    return next(
        offer
        for offer in load_manifest(path).offers[platform]
        if (offer.variant, offer.kind) == (variant, "release")
    )


def assert_refused(
    done: subprocess.CompletedProcess[str], status: int, message: str, file: Path | None = None
) -> None:
    assert (done.returncode, done.stdout) == (status, "")
    assert done.stderr.startswith("update-binaries: ")
    assert message in done.stderr
    assert done.stderr.endswith(".\n")
    assert done.stderr.count("\n") == 1
    if file is not None:
        assert file.read_bytes() == SHIPPED.read_bytes()
        assert list(file.parent.iterdir()) == [file]


def test_every_archive_is_pinned_to_the_new_release(api: Api, update: Run, file: Path) -> None:
    done = update()
    assert (done.returncode, done.stderr) == (0, "")
    manifest = load_manifest(file)
    assert manifest.tag == TAG
    for platform, variant, ending in [
        ("linux-x64", "rocm", "Linux-Ubuntu-24.04-x86_64-rocm-7.15.1"),
        ("linux-x64", "vulkan", "Linux-Ubuntu-24.04-x86_64-vulkan"),
        ("linux-x64", "cpu", "Linux-Ubuntu-24.04-x86_64"),
        ("win32-x64", "cuda", "win-cuda12-x64"),
        ("win32-x64", "rocm", "win-rocm-7.15.1-x64"),
        ("win32-x64", "vulkan", "win-vulkan-x64"),
        ("win32-x64", "cpu", "win-cpu-x64"),
        ("darwin-arm64", "metal", "Darwin-macOS-27.1-arm64"),
    ]:
        main, found = release_of(file, platform, variant).archives[0], api.find(ending)
        assert main.url == found["browser_download_url"]
        assert f"sha256:{main.sha256}" == found["digest"]
        assert main.size == found["size"]
    runtime = release_of(file, "win32-x64", "cuda").archives[1]
    assert runtime.url.endswith(f"/{TAG}/{RUNTIME}")
    assert f"sha256:{runtime.sha256}" == api.find(RUNTIME)["digest"]
    assert "master-929" not in file.read_text()
    assert "pinned_by" not in file.read_text()


def test_rocm_is_added_in_its_place(update: Run, file: Path) -> None:
    update()
    assert kinds(file, "linux-x64") == (
        [
            "cuda-source",
            "rocm-release",
            "rocm-source",
            "vulkan-release",
            "vulkan-source",
            "cpu-release",
            "cpu-source",
        ]
    )
    assert kinds(file, "win32-x64") == [
        "cuda-release",
        "rocm-release",
        "vulkan-release",
        "cpu-release",
        "cpu-source",
    ]
    linux, windows = (release_of(file, platform, "rocm") for platform in ("linux-x64", "win32-x64"))
    assert (linux.archives[0].root, linux.requires.glibc) == ("build/bin", "2.38")
    assert (windows.archives[0].root, windows.archives[0].executables[0]) == ("", "sd-cli.exe")


def test_what_is_no_pin_stays(update: Run, file: Path) -> None:
    before = json.loads(file.read_bytes())
    update()
    after = json.loads(file.read_bytes())
    assert after["source"] == before["source"]
    for platform, entry in before["platforms"].items():
        assert after["platforms"][platform].get("note") == entry.get("note")
        for old in entry["variants"]:
            (new,) = (
                e
                for e in after["platforms"][platform]["variants"]
                if (e["variant"], "source" in e) == (old["variant"], "source" in old)
            )
            assert new.get("requires") == old.get("requires")
            if "archive" in old:
                assert new["archive"]["files"] == old["archive"]["files"]
    assert after["release"]["left_out"] == {}


def test_it_says_what_changed_and_what_is_not_used(update: Run) -> None:
    lines = update().stdout.splitlines()
    assert lines[0] == f"master-929-3f8527a -> {TAG}"
    assert any(line.startswith("linux-x64 rocm: new, ") for line in lines)
    assert any(line.startswith("win32-x64 vulkan: sd-master-abcdef0-") for line in lines)
    assert "darwin-arm64 metal: built on 27.1, formerly on 26.6.2: check what it requires" in lines
    assert [line for line in lines if line.startswith("not used")] == [
        "not used: checksums.txt",
        "not used: sd-master-abcdef0-bin-win-avx2-x64.zip",
    ]


def test_the_same_release_once_more_changes_nothing(update: Run, file: Path) -> None:
    update()
    before = file.stat()
    done = update()
    assert done.stdout.startswith(f"{TAG}: nothing to change\n")
    assert (file.stat().st_ino, file.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_the_latest_release_is_found(api: Api, update: Run, file: Path) -> None:
    assert update("latest").returncode == 0
    assert load_manifest(file).tag == TAG
    assert [path for path, _ in api.asked] == [f"/repos/{REPOSITORY}/releases/latest"]


def test_a_token_goes_to_no_other_api(api: Api, update: Run, tmp_path: Path) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password secret\n")
    (tmp_path / ".netrc").chmod(0o600)
    assert update(GITHUB_TOKEN="secret").returncode == 0
    assert [headers for _, headers in api.asked if "Authorization" in headers] == []
    assert "secret" not in str(api.asked)


@pytest.mark.parametrize("ending", ["win-vulkan-x64", "Darwin-macOS-27.1-arm64"])
def test_an_archive_that_is_gone_is_an_error(api: Api, update: Run, file: Path, ending: str) -> None:
    api.drop(ending)
    assert_refused(update(), 4, "with --allow-missing it is left out", file)


def test_an_archive_that_is_gone_can_be_left_out(api: Api, update: Run, file: Path) -> None:
    api.drop("win-vulkan-x64")
    done = update("--allow-missing", TAG)
    assert done.returncode == 0
    assert "win32-x64 vulkan: gone" in done.stdout.splitlines()
    assert kinds(file, "win32-x64") == ["cuda-release", "rocm-release", "cpu-release", "cpu-source"]
    left_out = json.loads(file.read_bytes())["release"]["left_out"]
    assert list(left_out) == ["win32-x64/vulkan"]


def test_cuda_goes_with_its_runtime_and_comes_back_with_it(api: Api, update: Run, file: Path) -> None:
    before = json.loads(file.read_bytes())["platforms"]["win32-x64"]["variants"][0]
    runtime = api.find(RUNTIME)
    api.assets.remove(runtime)
    assert_refused(update(), 4, "the CUDA runtime", file)
    assert update("--allow-missing", TAG).returncode == 0
    assert kinds(file, "win32-x64")[0] == "rocm-release"
    api.assets.append(runtime)
    assert update().returncode == 0
    after = json.loads(file.read_bytes())["platforms"]["win32-x64"]["variants"][0]
    for entry in (before, after):
        for archive in (entry["archive"], *entry["dependencies"]):
            for pinned in ("url", "sha256", "size", "pinned_by"):
                archive.pop(pinned, None)
    assert after == before


def test_rocm_that_was_never_there_is_not_missed(api: Api, update: Run, file: Path) -> None:
    api.drop("Linux-Ubuntu-24.04-x86_64-rocm-7.15.1")
    api.drop("win-rocm-7.15.1-x64")
    assert update().returncode == 0
    assert "rocm-release" not in kinds(file, "linux-x64") + kinds(file, "win32-x64")


def test_an_unknown_tag_is_told(update: Run, file: Path) -> None:
    assert_refused(update("master-1-none"), 3, "There is no release master-1-none of leejet/", file)


@pytest.mark.parametrize("tag", ["../x", "a b", "", "-x/y", "a?b"])
def test_what_is_no_tag_is_refused_unasked(api: Api, update: Run, tag: str) -> None:
    done = update("--", tag)
    assert done.returncode == 2
    assert "is not the name of a tag." in done.stderr
    assert api.asked == []


@pytest.mark.parametrize("digest", [None, "", 0])
def test_an_archive_without_a_digest_is_not_pinned(api: Api, update: Run, file: Path, digest: object) -> None:
    api.find("win-cpu-x64")["digest"] = digest
    assert_refused(update(), 4, "gives no digest for sd-master-abcdef0-bin-win-cpu-x64.zip", file)


@pytest.mark.parametrize(
    "digest",
    ["md5:" + "0" * 32, "0" * 64, "sha256:" + "0" * 63, "sha256:" + "A" * 64, "sha512:" + "0" * 128, 5],
)
def test_a_digest_of_another_form_is_not_pinned(api: Api, update: Run, file: Path, digest: object) -> None:
    api.find(RUNTIME)["digest"] = digest
    assert_refused(update(), 4, f"the API gives for {RUNTIME} is no SHA-256", file)


@pytest.mark.parametrize(("field", "value"), [("size", 0), ("size", "5"), ("size", None)])
def test_an_archive_without_a_size_is_not_pinned(
    api: Api, update: Run, file: Path, field: str, value: object
) -> None:
    api.find("win-cpu-x64")[field] = value
    assert_refused(update(), 4, "gives no size", file)


@pytest.mark.parametrize(
    "url", [None, "http://github.com/x/sd.zip", "https://github.com/x/other.zip", "https://a b/"]
)
def test_an_archive_without_a_safe_address_is_not_pinned(
    api: Api, update: Run, file: Path, url: object
) -> None:
    api.find("win-cpu-x64")["browser_download_url"] = url
    assert_refused(update(), 4, "gives no https address", file)


def test_a_file_that_is_not_used_needs_no_digest(api: Api, update: Run) -> None:
    api.assets[-1]["digest"] = None
    assert update().returncode == 0


def test_two_archives_for_the_same_are_refused(api: Api, update: Run, file: Path) -> None:
    api.assets.append(asset(name_of("Darwin-macOS-15.7-arm64")))
    assert_refused(update(), 4, "two files for the same", file)


def test_a_release_without_archives_is_refused(api: Api, update: Run, file: Path) -> None:
    api.release["assets"] = []
    assert_refused(update("--allow-missing", TAG), 4, "no archive that is known here", file)


@pytest.mark.parametrize(
    ("status", "message"), [(403, "set GITHUB_TOKEN"), (429, "set GITHUB_TOKEN"), (500, "status 500")]
)
def test_an_api_that_refuses_is_told(api: Api, update: Run, file: Path, status: int, message: str) -> None:
    api.status = status
    assert_refused(update(), 3, message, file)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"<html>", "not JSON"),
        (b"[]", "describes no release"),
        (b"{}", "describes no release"),
        (b'{"assets": {}}', "describes no release"),
        (b'{"assets": []}', "another release"),
        (b'{"tag_name": "other-1", "assets": []}', "another release"),
        (b'{"tag_name": "%s", "assets": [1]}' % TAG.encode(), "a file without a name"),
    ],
)
def test_an_answer_that_makes_no_sense_is_told(
    api: Api, update: Run, file: Path, body: bytes, message: str
) -> None:
    api.body = body
    assert_refused(update(), 3, message, file)


def test_an_api_that_is_not_there_is_told(update: Run, file: Path) -> None:
    with socket.socket() as taken:  # bound and not listening: nobody else gets the port, and nobody answers
        taken.bind(("127.0.0.1", 0))
        assert_refused(update(port=taken.getsockname()[1]), 3, "127.0.0.1 cannot be reached", file)


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b'{"schema": 2}', b'{"schema": 1, "release": 5}'])
def test_a_file_of_another_kind_is_refused(update: Run, file: Path, content: bytes) -> None:
    file.write_bytes(content)
    assert_refused(update(), 1, "is no binaries.json of schema 1")
    assert file.read_bytes() == content


def test_a_missing_file_is_told(update: Run, file: Path) -> None:
    file.unlink()
    assert_refused(update(), 1, "cannot be read: No such file or directory")


def test_a_full_disk_leaves_the_file_as_it_was(api: Api, update: Run, tmp_path: Path) -> None:
    folder = tmp_path / "full"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("no file system can be mounted here")
    try:
        path = folder / "binaries.json"
        path.write_bytes(SHIPPED.read_bytes())
        rest = folder / "rest"
        with rest.open("wb", buffering=0) as filler:
            try:
                while True:
                    filler.write(bytes(4096))
            except OSError:
                pass
        done = update("--file", str(path), TAG)
        assert_refused(done, 1, "cannot be written: No space left on device")
        assert path.read_bytes() == SHIPPED.read_bytes()
        assert sorted(folder.iterdir()) == [path, rest]
    finally:
        subprocess.run(["umount", str(folder)], check=True)
