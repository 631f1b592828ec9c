"""``sdmanager models`` as a user runs it, with the real library against a hub on this machine."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from demo_hub import REPO
from hub_server import HubFile, HubServer
from weights import safetensors_header, typed, write

from sdmanager.models import demo_model
from sdmanager.settings import Settings

Environment = dict[str, str]


def run(environment: Environment, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sdmanager", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


def models(environment: Environment, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run(environment, "models", *arguments)


def failed(done: subprocess.CompletedProcess[str], exit_code: int, *words: str) -> None:
    assert done.returncode == exit_code, done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr


def test_an_empty_home(hub_environment: Environment) -> None:
    listed = models(hub_environment, "list")
    assert (listed.returncode, listed.stderr) == (0, "")
    assert "models list --all" in listed.stdout
    empty = {"models": [], "sizeBytes": 0, "unreadable": []}
    assert json.loads(models(hub_environment, "list", "--json").stdout) == empty
    failed(models(hub_environment, "remove", "sd-turbo"), 21, "No model is installed")
    assert models(hub_environment, "verify").returncode == 0


def test_the_built_in_catalogue(environment: Environment) -> None:
    listed = models(environment, "list", "--all")
    names = ("sd-1.5", "sd-turbo", "sdxl-base", "sdxl-turbo", "flux1-schnell", "flux1-dev", "flux2-klein")
    for name in (*names, "z-image-turbo", "qwen-image", "demo"):
        assert re.search(rf"^{re.escape(name)} ", listed.stdout, re.M), name
    facts = json.loads(models(environment, "list", "--all", "--json").stdout)
    turbo = next(model for model in facts["catalogue"] if model["name"] == "sd-turbo")
    assert turbo["defaults"]["cfgScale"] == 1
    assert turbo["options"][0]["files"][0]["role"] == "model"


def test_from_pull_to_picture_to_removal(
    hub_environment: Environment, demo_hub: HubServer, tmp_path: Path
) -> None:
    missing = run(hub_environment, "generate", "a cat", "-m", "sd-turbo", "-o", str(tmp_path / "cat.png"))
    failed(missing, 25, "sdmanager models pull sd-turbo")
    pulled = models(hub_environment, "pull", "sd-t")
    assert pulled.returncode == 0, pulled.stderr
    assert pulled.stdout.startswith("sd-turbo is installed")
    assert "Downloading 3 files" in pulled.stderr
    again = models(hub_environment, "pull", "sd-turbo", "--json")
    assert json.loads(again.stdout)["name"] == "sd-turbo"
    assert len(demo_hub.transfers()) == 3
    drawn = run(
        hub_environment, "generate", "a cat", "-m", "sd-turbo", "-o", str(tmp_path / "cat.png"), "--json"
    )
    result = json.loads(drawn.stdout)
    assert (result["model"], result["images"][0]["width"]) == ("sd-turbo", 128)
    listed = models(hub_environment, "list").stdout
    assert re.search(r"^sd-turbo  ovis-image .* pulled$", listed, re.M), listed
    info = models(hub_environment, "info", "sd-turbo").stdout
    assert REPO.partition("/")[0] in info
    assert "steps 4" in info
    assert re.search(r"^diffusion_model +\d+ MB", info, re.M), info
    verified = models(hub_environment, "verify")
    assert (verified.returncode, "as it was installed" in verified.stdout) == (0, True)
    removed = json.loads(models(hub_environment, "remove", "sd-turbo", "--json").stdout)["removed"][0]
    assert removed["freedBytes"] > 20_000_000
    assert not list((tmp_path / "hf").rglob("*.safetensors"))
    assert "No model" in models(hub_environment, "list").stdout


def test_what_cannot_be_pulled(hub_environment: Environment, demo_hub: HubServer) -> None:
    failed(models(hub_environment, "pull", "sd-trubo"), 21, "sd-turbo")
    failed(models(hub_environment, "pull", "sd"), 21, "sd-1.5", "sd-turbo")
    failed(models(hub_environment, "pull", "flux1-dev"), 28, "HF_TOKEN")
    failed(models(hub_environment, "pull", "example/small/no-such.gguf"), 21)
    failed(models(hub_environment, "pull", "example/small"), 21, "ORG/REPO/FILE.gguf")
    huge = models(hub_environment, "pull", "qwen-image", "--json")
    failed(huge, 55)
    assert json.loads(huge.stdout)["error"]["code"] == "INSUFFICIENT_RESOURCES"
    demo_hub.repos[REPO].files["tae.safetensors"].served = b"<html>Please log in</html>"
    failed(models(hub_environment, "pull", "sd-turbo"), 29)
    assert "No model" in models(hub_environment, "list").stdout
    offline = {**hub_environment, "HF_HUB_OFFLINE": "1"}
    failed(models(offline, "pull", "sd-1.5"), 29, "HF_HUB_OFFLINE")


def test_a_token_opens_what_is_gated(hub_environment: Environment) -> None:
    done = models({**hub_environment, "HF_TOKEN": "hf_good"}, "pull", "flux1-dev", "--quiet")
    assert done.returncode == 0, done.stderr
    assert "hf_good" not in done.stdout + done.stderr


def test_ctrl_c_leaves_nothing(hub_environment: Environment, demo_hub: HubServer, tmp_path: Path) -> None:
    largest = demo_hub.repos[REPO].files["llm.safetensors"]
    largest.stall_after = 1_000_000
    command = [sys.executable, "-m", "sdmanager", "models", "pull", "sd-turbo"]
    child = subprocess.Popen(command, env=hub_environment, stderr=subprocess.PIPE, text=True)
    assert largest.reached.wait(60)
    until = time.monotonic() + 60
    while not list(tmp_path.glob("hf/**/snapshots/*/tae.safetensors")):  # another file is whole by then
        assert time.monotonic() < until
        time.sleep(0.01)
    child.send_signal(signal.SIGINT)
    _, said = child.communicate(timeout=60)
    assert (child.returncode, "Cancelled." in said, "Traceback" in said) == (130, True, False)
    for left in ("blobs/*", "snapshots/*/*", "*.incomplete"):
        assert not list(tmp_path.glob(f"hf/**/{left}")), left
    assert "No model" in models(hub_environment, "list").stdout


def on_a_terminal(environment: Environment, *arguments: str) -> str:
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "sdmanager", "models", *arguments]
    child = subprocess.Popen(command, env=environment, stdout=follower, stderr=follower)
    os.close(follower)
    shown = b""
    with contextlib.suppress(OSError):  # the terminal goes when its last user has
        while piece := os.read(leader, 65536):
            shown += piece
    os.close(leader)
    assert child.wait(60) == 0
    return shown.decode()


def test_a_terminal_shows_one_bar(hub_environment: Environment) -> None:
    lines = re.split(r"[\r\n]+", on_a_terminal(hub_environment, "pull", "sd-turbo"))
    bars = [line for line in lines if re.match(r"Downloading *:", line)]
    assert any(re.search(r"100%\|.*[\d.]+M/[\d.]+M .*B/s\]", bar) for bar in bars), lines
    (headline,) = [line for line in lines if line.startswith("Downloading 3 files (")]
    assert lines.index(headline) < lines.index(bars[0])
    verified = re.split(r"[\r\n]+", on_a_terminal(hub_environment, "verify"))
    assert any(re.match(r"Reading *: +100%", line) for line in verified), verified
    assert "sd-turbo: every file is as it was installed." in verified  # a line of its own


def test_importing_by_reference_and_by_copy(
    hub_environment: Environment, settings: Settings, tmp_path: Path
) -> None:
    files = demo_model(settings).files
    paths = [str(path) for path in files.values()]
    imported = models(hub_environment, "import", *paths, "--name", "mine", "--json")
    assert imported.returncode == 0, imported.stderr
    facts = json.loads(imported.stdout)
    assert (facts["family"], facts["origin"]) == ("ovis-image", "imported")
    assert {file["path"] for file in facts["files"]} == set(paths)
    copied = models(hub_environment, "import", *paths, "--name", "copied", "--copy")
    assert copied.returncode == 0, copied.stderr
    for name in ("mine", "copied"):
        drawn = run(
            hub_environment, "generate", "x", "-m", name, "--steps", "1", "-W", "64", "-H", "64",
            "-o", str(tmp_path / f"{name}.png"),
        )  # fmt: skip
        assert drawn.returncode == 0, drawn.stderr
    removed = models(hub_environment, "remove", "mine", "copied")
    assert "mine: 0 MB freed; 3 files stay where they are (your own)." in removed.stdout
    assert all(path.exists() for path in files.values())


def test_parts_may_be_named(hub_environment: Environment, settings: Settings) -> None:
    files = demo_model(settings).files
    options = [word for role, path in files.items() for word in (f"--{role.replace('_', '-')}", str(path))]
    done = models(hub_environment, "import", *options, "--name", "mine")
    assert done.returncode == 0, done.stderr


def test_what_cannot_be_imported(hub_environment: Environment, tmp_path: Path) -> None:
    failed(models(hub_environment, "import"), 2)
    failed(models(hub_environment, "import", str(tmp_path / "none.gguf")), 21)
    lora = tmp_path / "style.safetensors"
    shapes = {f"lora_unet_mid_block.lora_{end}.weight": (4, 4) for end in ("up", "down")}
    write(lora, safetensors_header(typed("F16", shapes)))
    failed(models(hub_environment, "import", str(lora)), 24, "LoRA")
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(b"GGUF\x03\0\0\0")
    failed(models(hub_environment, "import", str(cut)), 22)
    pickled = tmp_path / "old.ckpt"
    pickled.write_bytes(b"\x80\x02}q\x00.")
    failed(models(hub_environment, "import", str(pickled)), 26, "--allow-pickle")
    allowed = models(hub_environment, "import", str(pickled), "--allow-pickle")
    assert allowed.returncode == 0, allowed.stderr


def test_a_file_that_is_gone_or_changed_is_told(
    hub_environment: Environment, settings: Settings, tmp_path: Path
) -> None:
    paths = {role: tmp_path / f"{role}.safetensors" for role in demo_model(settings).files}
    for role, path in paths.items():
        path.write_bytes(demo_model(settings).files[role].read_bytes())
    assert models(hub_environment, "import", *map(str, paths.values()), "--name", "mine").returncode == 0
    assert models(hub_environment, "verify", "mine").returncode == 0
    first = next(iter(paths.values()))
    data = bytearray(first.read_bytes())
    data[-1] ^= 1
    first.write_bytes(data)
    assert "files changed" in models(hub_environment, "list").stdout
    verified = models(hub_environment, "verify", "mine", "--json")
    assert verified.returncode == 27
    (report,) = json.loads(verified.stdout)["models"]
    assert (report["ok"], report["error"]["code"]) == (False, "MODEL_CHANGED")
    drawn = run(hub_environment, "generate", "x", "-m", "mine", "-o", str(tmp_path / "x.png"))
    failed(drawn, 27, "mine")
    first.unlink()
    assert "files missing" in models(hub_environment, "list").stdout
    failed(run(hub_environment, "generate", "x", "-m", "mine", "-o", str(tmp_path / "x.png")), 21)


@pytest.mark.parametrize("as_json", [False, True])
def test_info_of_any_file(hub_environment: Environment, settings: Settings, as_json: bool) -> None:
    path = demo_model(settings).files
    done = models(hub_environment, "info", str(next(iter(path.values()))), *(["--json"] if as_json else []))
    assert done.returncode == 0, done.stderr
    if as_json:
        assert json.loads(done.stdout)["family"] == "ovis-image"
    else:
        assert "ovis-image" in done.stdout


def test_info_of_what_is_not_installed(environment: Environment) -> None:
    done = models(environment, "info", "flux1-schnell")
    assert done.returncode == 0
    assert "models pull flux1-schnell" in done.stdout
    assert "Apache-2.0" in done.stdout
    failed(models(environment, "info", "no-such-model"), 21)


def test_a_catalogue_that_is_none(hub_environment: Environment, tmp_path: Path) -> None:
    (tmp_path / "catalogue.json").write_text('{"models": {}}')
    failed(models(hub_environment, "pull", "sd-turbo"), 2, "catalogue")
    assert models(hub_environment, "list").returncode == 0


def test_a_record_that_is_damaged_is_told_and_can_be_removed(
    hub_environment: Environment, tmp_path: Path
) -> None:
    assert models(hub_environment, "pull", "sd-turbo", "--quiet").returncode == 0
    (record,) = (tmp_path / "home" / "data" / "models" / "installed").glob("*.json")
    record.write_text("{")
    listed = models(hub_environment, "list")
    assert (listed.returncode, "'sd-turbo' cannot be read" in listed.stderr) == (0, True)
    assert models(hub_environment, "remove", "sd-turbo").returncode == 0
    assert not record.exists()


def test_only_the_model_of_exactly_that_name_is_removed(hub_environment: Environment) -> None:
    for name in ("sd-turbo", "sd-turbo:f16"):
        assert models(hub_environment, "pull", name, "--quiet").returncode == 0
    removed = models(hub_environment, "remove", "SD-Turbo", "sd-turbo")
    assert "3 files stay where they are (shared with another model)" in removed.stdout
    failed(
        models(hub_environment, "remove", "sd-turbo"), 21, "is not installed", "Did you mean 'sd-turbo:f16'?"
    )
    failed(models(hub_environment, "remove", "sd"), 21, "is not installed", "'sd-turbo:f16'")
    for action in ("remove", "verify"):
        failed(models(hub_environment, action, "sd-1.5"), 21, "'sd-1.5' is not installed")
    assert models(hub_environment, "verify", "sd-t").returncode == 0
    assert re.findall(r"^sd\S*", models(hub_environment, "list").stdout, re.M) == ["sd-turbo:f16"]
    assert models(hub_environment, "remove", "sd-turbo:F16").returncode == 0


def test_one_file_of_a_repository_by_a_name_of_the_users(
    hub_environment: Environment, demo_hub: HubServer
) -> None:
    demo_hub.repos[REPO].files["old.ckpt"] = HubFile(b"\x80\x02}q\x00.")
    failed(models(hub_environment, "pull", f"{REPO}/old.ckpt"), 26)
    done = models(hub_environment, "pull", f"{REPO}/old.ckpt", "--allow-pickle", "--name", "mine")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("mine is installed")
    assert "Downloading 1 file (" in done.stderr


def test_the_demo_model_needs_no_catalogue(hub_environment: Environment, tmp_path: Path) -> None:
    empty = {**hub_environment, "SDMANAGER_HOME": str(tmp_path / "empty")}
    before = models(empty, "info", "Demo")
    assert (before.returncode, "not yet; it is made here" in before.stdout) == (0, True)
    assert not (tmp_path / "empty").exists()
    assert json.loads(models(empty, "pull", "DEMO", "--json").stdout)["name"] == "demo"
    assert models(empty, "pull", "demo").returncode == 0
    after = json.loads(models(empty, "info", "demo", "--json").stdout)
    assert (after["made"], after["catalogue"]["licence"]) == (True, "MIT")


def test_a_model_of_ones_own_has_no_licence_from_the_catalogue(
    hub_environment: Environment, settings: Settings
) -> None:
    paths = [str(path) for path in demo_model(settings).files.values()]
    assert models(hub_environment, "import", *paths, "--name", "sd-turbo").returncode == 0
    assert models(hub_environment, "pull", "sdxl-turbo", "--quiet").returncode == 0
    info = models(hub_environment, "info", "sd-turbo").stdout
    assert ("Licence" in info, "imported" in info) == (False, True)
    assert json.loads(models(hub_environment, "info", "sd-turbo", "--json").stdout)["catalogue"] is None
    assert "Licence" in models(hub_environment, "info", "sdxl-turbo:q8_0").stdout
    listed = models(hub_environment, "list", "--all").stdout
    assert listed.count("installed") == 1
    assert re.search(r"^sdxl-turbo .*\n  :q8_0 .* installed$", listed, re.M), listed


@pytest.mark.parametrize("name", ["", " ", "x" * 5000, "x/" * 4000, "\x1b[2J"])
def test_info_of_what_cannot_be_a_name(environment: Environment, name: str) -> None:
    done = models(environment, "info", name)
    failed(done, 21 if name.strip() else 2)
    assert "\x1b" not in done.stderr


def test_a_file_whose_name_would_drive_the_terminal(
    hub_environment: Environment, settings: Settings, tmp_path: Path
) -> None:
    paths = []
    for role, path in demo_model(settings).files.items():
        paths.append(tmp_path / f"\x1b[2J\n{role}.safetensors")
        paths[-1].symlink_to(path)
    imported = models(hub_environment, "import", *map(str, paths), "--name", "mine")
    assert imported.returncode == 0, imported.stderr
    for shown in (models(hub_environment, "info", "mine"), models(hub_environment, "info", str(paths[0]))):
        assert (shown.returncode, "\x1b" in shown.stdout) == (0, False)
        assert r"\x1b[2J\n" in shown.stdout
