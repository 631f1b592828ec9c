"""``sdmanager engine`` as a user runs it."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

from releases import pack, release_host, write_manifest

from sdmanager.hardware import current_platform
from sdmanager.settings import Settings


def run(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sdmanager", "engine", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


def test_path_list_and_test(environment: dict[str, str]) -> None:
    path = run(environment, "path")
    assert path.returncode == 0
    assert Path(path.stdout.strip()).name == "sd-cli"
    listed = run(environment, "list")
    assert path.stdout.strip() in listed.stdout
    assert listed.stdout.startswith("cpu")
    tested = run(environment, "test")
    assert tested.returncode == 0
    assert "64x64" in tested.stdout
    assert "whole" in tested.stdout


def test_json(environment: dict[str, str]) -> None:
    path = json.loads(run(environment, "path", "--json").stdout)
    assert path["variant"] == "cpu"
    assert len(path["sha256"]) == 64
    (listed,) = json.loads(run(environment, "list", "--json").stdout)["engines"]
    assert listed == path | {"size": listed["size"], "inUse": True}
    assert listed["size"] > 1_000_000
    tested = json.loads(run(environment, "test", "--json").stdout)
    assert tested["ok"] is True
    assert tested["engine"] == path
    assert tested["proof"]["seconds"] > 0


def test_what_is_there_already_is_not_built_again(environment: dict[str, str]) -> None:
    built = run(environment, "build")
    assert built.returncode == 0
    assert built.stdout == run(environment, "path").stdout


def test_an_empty_home(environment: dict[str, str], tmp_path: Path) -> None:
    empty = {**environment, "SDMANAGER_HOME": str(tmp_path / "empty")}
    listed = run(empty, "list")
    assert listed.returncode == 0
    assert "engine install" in listed.stdout
    path = run(empty, "path")
    assert path.returncode == 31
    assert "engine install" in path.stderr
    assert path.stdout == ""


def test_missing_tools_are_named_before_anything_is_fetched(
    environment: dict[str, str], tmp_path: Path
) -> None:
    bare = {**environment, "SDMANAGER_HOME": str(tmp_path / "empty"), "PATH": str(tmp_path)}
    for variant, tool in (("cpu", "compiler"), ("cuda", "nvcc"), ("vulkan", "glslc")):
        built = run(bare, "build", "--variant", variant)
        assert built.returncode == 33
        assert tool in built.stderr
        assert "Traceback" not in built.stderr


def test_install_says_what_is_used_and_is_quick_the_second_time(environment: dict[str, str]) -> None:
    installed = run(environment, "install")
    assert (installed.returncode, installed.stderr) == (0, "")
    assert installed.stdout == run(environment, "path").stdout
    facts = json.loads(run(environment, "install", "--json").stdout)
    assert facts["candidate"] == "cpu/source/pypi-0.4.7"
    assert facts["proof"]["proven"] is True


def test_install_by_force_draws_again(environment: dict[str, str]) -> None:
    before = json.loads(run(environment, "install", "--json").stdout)
    forced = run(environment, "install", "--force")
    assert forced.returncode == 0
    assert "Proving" in forced.stderr
    after = json.loads(run(environment, "install", "--json").stdout)
    assert after["proof"]["seconds"] != before["proof"]["seconds"]
    tested = run(environment, "test", "--force", "--json")
    assert json.loads(tested.stdout)["ok"] is True


def test_a_variant_that_is_not_for_this_machine(environment: dict[str, str]) -> None:
    wanted = run(environment, "install", "--variant", "metal")
    assert wanted.returncode == 37
    assert "metal engine is not for this machine" in wanted.stderr
    assert "doctor" in wanted.stderr
    for action in ("path", "test"):
        assert run(environment, action, "--variant", "metal").returncode == 31
    assert "No metal engine is installed" in run(environment, "list", "--variant", "metal").stdout


def test_a_wish_in_the_environment(environment: dict[str, str]) -> None:
    wish = {**environment, "SDMANAGER_VARIANT": "quantum"}
    refused = run(wish, "install")
    assert refused.returncode == 2
    assert "quantum" in refused.stderr
    assert run({**environment, "SDMANAGER_VARIANT": "cpu"}, "install").returncode == 0


def test_an_engine_of_ones_own_is_tested_and_nothing_replaces_it(
    environment: dict[str, str], fake_engine: Path
) -> None:
    own = {**environment, "SDMANAGER_ENGINE": str(fake_engine)}
    assert run(own, "install").stdout.strip() == str(fake_engine)
    grey = run({**own, "FAKE_ENGINE": "grey"}, "install", "--force")
    assert grey.returncode == 46


def test_a_model_to_test_with_is_not_replaced_by_the_demo(
    environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "bad.gguf").write_bytes(b"GGUF" + bytes(100))
    tested = run(environment, "test", "-m", str(tmp_path / "bad.gguf"))
    assert 20 <= tested.returncode < 30


def test_prune_leaves_what_is_used(environment: dict[str, str]) -> None:
    pruned = run(environment, "prune", "--force")
    assert (pruned.returncode, pruned.stdout) == (0, "0 MB freed.\n")
    assert json.loads(run(environment, "prune", "--json").stdout) == {"removed": [], "freedBytes": 0}
    assert run(environment, "path").returncode == 0


def test_a_manifest_of_ones_own_that_is_broken(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text('{"schema": 7}')
    for action in ("install", "prune"):
        broken = run({**environment, "SDMANAGER_BINARIES": str(tmp_path / "mine.json")}, action)
        assert broken.returncode == 30
        assert "mine.json" in broken.stderr
        assert "SDMANAGER_BINARIES" in broken.stderr


def test_a_mirror_that_is_no_url(environment: dict[str, str], tmp_path: Path) -> None:
    archive = {
        "url": "https://releases.invalid/sd.zip", "sha256": "0" * 64, "size": 1000,
        "files": ["sd-cli"], "executables": ["sd-cli"],
    }  # fmt: skip
    manifest = write_manifest(
        tmp_path / "m.json", current_platform(), [{"variant": "cpu", "archive": archive}]
    )
    empty = {**environment, "SDMANAGER_HOME": str(tmp_path / "empty"), "SDMANAGER_BINARIES": str(manifest)}
    refused = run({**empty, "SDMANAGER_MIRROR": "ftp://user:secret@mirror/"}, "install")
    assert refused.returncode == 2
    assert "SDMANAGER_MIRROR" in refused.stderr
    assert "secret" not in refused.stderr + refused.stdout


def test_an_archive_becomes_a_picture(environment: dict[str, str], built: Settings, tmp_path: Path) -> None:
    real = next(built.engines_dir.glob("cpu-*/sd-cli"))
    home = tmp_path / "fresh"
    with release_host(tmp_path / "host" / "mirror" / "who" / "what") as host:
        archive = pack(host, "sd.zip", {"sd-cli": real})
        archive["url"] = "https://releases.invalid/sd.zip"
        manifest = write_manifest(
            tmp_path / "m.json", current_platform(), [{"variant": "cpu", "archive": archive}]
        )
        fresh = {
            **environment,
            "SDMANAGER_HOME": str(home),
            "SDMANAGER_BINARIES": str(manifest),
            "SDMANAGER_MIRROR": host.url,
        }
        picture = tmp_path / "cat.png"
        drawn = subprocess.run(
            [sys.executable, "-m", "sdmanager", "generate", "a cat", "--steps", "2", "-o", str(picture)],
            env=fresh, capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert drawn.returncode == 0, drawn.stderr
    assert picture.exists()
    for line in ("Downloading: sd.zip (11 MB)", "Unpacking: sd.zip", "Proving: does the cpu engine draw?"):
        assert line in drawn.stderr
    assert run(fresh, "path").stdout.strip() == str(home / "data/engines/cpu-master-1-0000001/sd-cli")
    assert not list((home / "cache" / "downloads").iterdir())


def test_a_terminal_shows_bars(environment: dict[str, str], built: Settings, tmp_path: Path) -> None:
    real = next(built.engines_dir.glob("cpu-*/sd-cli"))
    with release_host(tmp_path / "host") as host:
        offer = {"variant": "cpu", "archive": pack(host, "sd.zip", {"sd-cli": real})}
        manifest = write_manifest(tmp_path / "m.json", current_platform(), [offer])
        own = {"SDMANAGER_HOME": str(tmp_path / "fresh"), "SDMANAGER_BINARIES": str(manifest)}
        parent, child_end = pty.openpty()
        with subprocess.Popen(
            [sys.executable, "-m", "sdmanager", "engine", "install"],
            env={**environment, **own, "TERM": "xterm", "COLUMNS": "120"}, stdout=child_end, stderr=child_end,
        ) as child:  # fmt: skip
            os.close(child_end)
            seen = b""
            with contextlib.suppress(OSError):  # what Linux gives for the end of a terminal
                while chunk := os.read(parent, 4096):
                    seen += chunk
        os.close(parent)
    assert child.returncode == 0
    for title in (b"Downloading", b"Unpacking"):
        assert re.search(title + rb" *: +\d+%\|.*\d[.\d]*M/\d", seen)
    assert b"100%" in seen


def test_no_network_says_what_to_do(environment: dict[str, str], tmp_path: Path) -> None:
    archive = {
        "url": "https://127.0.0.1:9/sd.zip", "sha256": "0" * 64, "size": 1000,
        "files": ["sd-cli"], "executables": ["sd-cli"],
    }  # fmt: skip
    manifest = write_manifest(
        tmp_path / "m.json", current_platform(), [{"variant": "cpu", "archive": archive}]
    )
    offline = {**environment, "SDMANAGER_HOME": str(tmp_path / "empty"), "SDMANAGER_BINARIES": str(manifest)}
    refused = run(offline, "install", "--quiet")
    assert refused.returncode == 35
    assert "127.0.0.1" in refused.stderr
    assert "SDMANAGER_MIRROR" in refused.stderr
    assert len(refused.stderr.splitlines()) == 2
