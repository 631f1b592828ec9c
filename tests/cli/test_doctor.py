"""``sdmanager doctor``: complete, on one screen, and nothing private in it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sdmanager.cli.model_facts import hub_cache
from sdmanager.resources.journal import Entry, Journal


def run(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sdmanager", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


def test_one_screen_with_everything(environment: dict[str, str]) -> None:
    shown = run(environment, "doctor")
    assert (shown.returncode, shown.stderr) == (0, "")
    lines = shown.stdout.splitlines()
    assert len(lines) < 40
    assert lines[0].startswith("sdmanager 0.")
    for word in ("Processor", "Memory", "Graphics", "Disk", "Models", "demo", "works: drew 64x64", "in  cpu"):
        assert word in shown.stdout


def test_json_has_the_same_facts(environment: dict[str, str]) -> None:
    facts = json.loads(run(environment, "doctor", "--json").stdout)
    assert facts["hardware"]["ramTotal"] > 1 << 30
    assert facts["engine"]["proof"]["proven"] is True
    assert facts["models"][0]["name"] == "demo"
    (candidate,) = [c for c in facts["candidates"] if c["usable"]]
    assert (candidate["key"], candidate["tested"]["outcome"]) == ("cpu/source/pypi-0.4.7", "proven")
    assert facts["disk"]["engines"] > 1_000_000


def test_the_list_of_this_package_is_shown_with_reasons(environment: dict[str, str]) -> None:
    del environment["SDMANAGER_BINARIES"]
    facts = json.loads(run(environment, "doctor", "--json").stdout)
    assert facts["release"].startswith("master-")
    assert facts["candidates"]
    assert all(candidate["reason"] for candidate in facts["candidates"])


def test_an_empty_home_is_no_error_and_stays_empty(environment: dict[str, str], tmp_path: Path) -> None:
    empty = {**environment, "SDMANAGER_HOME": str(tmp_path / "empty")}
    shown = run(empty, "doctor")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "not chosen yet" in shown.stdout
    assert not (tmp_path / "empty").exists()


def test_nothing_private_is_shown(environment: dict[str, str], fake_engine: Path, tmp_path: Path) -> None:
    private = {
        **environment,
        "SDMANAGER_ENGINE": str(fake_engine),
        "SDMANAGER_MIRROR": "https://user:secret-token@mirror.example/",
        "HTTPS_PROXY": "http://user:secret-token@proxy.example",
        "FAKE_ENGINE": "segv",
    }
    assert run(private, "generate", "a secret prompt", "-o", str(tmp_path / "x.png")).returncode != 0
    for options in ((), ("--json",)):
        shown = run(private, "doctor", *options)
        assert shown.returncode == 0
        for secret in (str(tmp_path), "secret", environment["HOME"], str(Path.home())):
            assert secret not in shown.stdout
    assert "SDMANAGER_MIRROR" in shown.stdout


def test_what_failed_is_shown_with_its_reason(environment: dict[str, str]) -> None:
    verdicts = Path(environment["HOME"], "state", "verdicts.json")
    data = json.loads(verdicts.read_text())
    failed = {
        "tested_at": "2026-11-21T12:00:00+00:00", "proof": None, "engine": None, "marks": {}, "meaning": "failed",
        "code": "ENGINE_CRASHED", "reason": f"It crashed in {environment['HOME']}/data/x.", "retry_at": None,
    }  # fmt: skip
    for book in data["books"]:
        book["verdicts"]["cpu/source/pypi-0.4.7"] = failed
    verdicts.write_text(json.dumps(data))
    shown = run(environment, "doctor").stdout
    assert "does not work: It crashed in <data>/x." in shown


def remember_runs(environment: dict[str, str], *runs: dict[str, object]) -> None:
    kept = {
        "model": "m:1",
        "name": "sd-turbo",
        "backend": "cuda",
        "width": 512,
        "height": 768,
        "flags": "plain",
    }
    file = Path(environment["HOME"], "state", "memory.json")
    file.write_text(json.dumps({"runs": [{**kept, **run} for run in runs]}))


def test_what_runs_used_is_shown(environment: dict[str, str]) -> None:
    assert "Memory that runs used" not in run(environment, "doctor").stdout
    remember_runs(
        environment,
        {"too_small_vram": 2_500_000_000, "short_at": int(time.time()), "ram": 900_000_000, "runs": 1},
        {"flags": "vae-tiling,max-vram=3.5", "ram": 1_200_000_000, "vram": 3_400_000_000, "runs": 4},
    )
    lines = run(environment, "doctor").stdout.splitlines()
    at = lines.index("Memory that runs used, the newest first:")
    assert lines[at - 1] == lines[at + 3] == ""
    assert lines[at + 1 : at + 3] == [
        "  sd-turbo 512x768, cuda --vae-tiling --max-vram 3.5: 1.2 GB RAM, 3.4 GB VRAM, 4 runs",
        "  sd-turbo 512x768, cuda: 900 MB RAM, 1 run, ran out of memory with 2.5 GB VRAM free",
    ]
    newest, oldest = json.loads(run(environment, "doctor", "--json").stdout)["memory"]
    assert newest == {
        "model": "sd-turbo", "backend": "cuda", "width": 512, "height": 768, "flags": "vae-tiling,max-vram=3.5",
        "ram": 1_200_000_000, "vram": 3_400_000_000, "runs": 4, "tooSmallRam": None, "tooSmallVram": None,
        "recommended": False,
    }  # fmt: skip
    assert oldest["tooSmallVram"] == 2_500_000_000


def test_of_many_runs_the_newest_are_on_the_screen(environment: dict[str, str]) -> None:
    remember_runs(environment, *({"width": 64 * n, "ram": 1_000_000, "runs": 1} for n in range(1, 21)))
    shown = run(environment, "doctor").stdout
    assert len(shown.splitlines()) < 40
    assert "sd-turbo 1280x768" in shown
    assert "sd-turbo 512x768" not in shown
    assert "and 8 more: --json has them" in shown
    assert len(json.loads(run(environment, "doctor", "--json").stdout)["memory"]) == 20


def test_what_runs_used_has_nothing_private_and_drives_no_terminal(
    environment: dict[str, str], tmp_path: Path
) -> None:
    named = f"{environment['HOME']}/data/x \x1b[31m of /home/anna/y"
    remember_runs(environment, {"model": f"{tmp_path}/secret:1", "name": named, "ram": 1_000_000, "runs": 1})
    for options in ((), ("--json",)):
        shown = run(environment, "doctor", *options).stdout
        for secret in (str(tmp_path), "anna", "secret", "\x1b"):
            assert secret not in shown
    assert "<data>/x" in run(environment, "doctor").stdout


def test_what_is_put_aside_is_shown(environment: dict[str, str]) -> None:
    assert "Put aside" not in run(environment, "doctor").stdout
    journal = Journal(Path(environment["HOME"]) / "state" / "offloads")
    private = f"{environment['HOME']}/data/chat.gguf of /home/anna/y"
    journal.write(Entry("ollama", private, {"models": ["secret"]}, None, 1_790_000_000))
    shown = run(environment, "doctor")
    assert (shown.returncode, shown.stderr) == (0, "")
    (line,) = [line for line in shown.stdout.splitlines() if line.startswith("Put aside")]
    assert line == (
        "Put aside  ollama (<data>/chat.gguf of ~/y): since 2026-09-21 14:13 UTC, by an earlier run, which is gone"
    )
    (facts,) = json.loads(run(environment, "doctor", "--json").stdout)["aside"]
    assert (facts["name"], facts["leftOver"]) == ("ollama", True)


def test_a_broken_list_of_engines_is_told(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text("{")
    shown = run({**environment, "SDMANAGER_BINARIES": str(tmp_path / "mine.json")}, "doctor")
    assert shown.returncode == 0
    assert "cannot be used" in shown.stdout


def test_models_and_what_is_wrong_with_them(hub_environment: dict[str, str], tmp_path: Path) -> None:
    for name in ("sd-turbo", "sdxl-turbo"):
        assert run(hub_environment, "models", "pull", name, "--quiet").returncode == 0
    (installed,) = Path(hub_environment["SDMANAGER_HOME"]).rglob("models/installed")
    (installed / "other.json").write_text("{")
    named = {**hub_environment, "SDMANAGER_LORAS": str(tmp_path), "NO_PROXY": "localhost,127.0.0.1"}
    facts = json.loads(run(named, "doctor", "--json").stdout)
    pulled = [model for model in facts["models"] if model["name"] == "sd-turbo"]
    assert pulled[0]["state"] == "ok"
    assert facts["disk"]["pulled"] == pulled[0]["size"]  # the files are the same, and count once
    assert facts["disk"]["hubCacheFree"] > 0
    assert facts["unreadableModels"] == ["other"]
    assert {"SDMANAGER_LORAS", "NO_PROXY"} <= set(facts["environment"])
    for blob in tmp_path.glob("hf/**/blobs/*"):
        blob.unlink()
    shown = run(named, "doctor").stdout
    assert "sd-turbo (" in shown
    assert ", files missing" in shown
    assert "other, its record cannot be read" in shown
    assert str(tmp_path) not in shown


@pytest.mark.parametrize(
    "own",
    [
        {},
        {"XDG_CACHE_HOME": "/x/cache"},
        {"HF_HOME": "~/hf"},
        {"HF_HOME": "/x/hf", "HUGGINGFACE_HUB_CACHE": "/x/old"},
        {"HF_HOME": "/x/hf", "HF_HUB_CACHE": "$HOME/hub"},
    ],
)
def test_the_cache_is_where_the_library_has_it(
    own: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("XDG_CACHE_HOME", "HF_HOME", "HUGGINGFACE_HUB_CACHE", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    code = "from huggingface_hub import constants; print(constants.HF_HUB_CACHE)"
    told = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert str(hub_cache(os.environ)) == told.stdout.strip()
