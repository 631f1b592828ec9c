"""``sdmanager generate --provider huggingface`` as a user runs it: a process of its own, led to loopback."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from inference_server import ROUTER, TOKEN, WAIT, Answer, Asked, InferenceServer, as_json, inference_server
from PIL import Image

from sdmanager.cli.main import build_parser

COMMAND = (sys.executable, "-m", "sdmanager", "generate", "a cat")
HOSTED = ("--provider", "huggingface", "-m", "org/model")


@pytest.fixture
def service() -> Iterator[InferenceServer]:
    with inference_server() as server:
        yield server


@pytest.fixture
def led(service: InferenceServer, tmp_path: Path) -> dict[str, str]:
    """An empty home folder, without an engine."""
    dropped = ("SDMANAGER_", "PYTHON", "HF_", "COLUMNS")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    home = tmp_path / "home"
    home.mkdir()
    return {**kept, "HOME": str(home), "SDMANAGER_HOME": str(home), **service.environment(home / "hf")}


def run(environment: dict[str, str], *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*COMMAND, *arguments],
        env=environment,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "Traceback" not in done.stderr
    assert TOKEN not in done.stdout + done.stderr
    return done


def test_a_service_draws_and_no_engine_is_looked_for(
    service: InferenceServer, led: dict[str, str], tmp_path: Path
) -> None:
    done = run(led, *HOSTED, "-o", "cat.webp", "-W", "128", "-H", "64", "--seed", "7", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"cat\.webp  128x64  seed 7  \d+\.\d s\n", done.stdout)
    assert done.stderr == "Waiting for a hosted service to draw with org/model …\n"
    with Image.open(tmp_path / "cat.webp") as picture:
        assert (picture.format, picture.size) == ("WEBP", (128, 64))
    assert service.drawings()[0].headers["authorization"] == f"Bearer {TOKEN}"
    assert not (tmp_path / "home" / "data").exists()


def test_options_reach_the_service(service: InferenceServer, led: dict[str, str], tmp_path: Path) -> None:
    arguments = (
        "--preset", "fast", "--guidance", "3.5", "-n", "dogs", "--scheduler", "karras", "--count", "2", "--seed", "3",
    )  # fmt: skip
    done = run(led, "--provider", "huggingface", "-m", service.endpoint, *arguments, "--quiet", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    first, second = (asked.json["parameters"] for asked in service.drawings())
    assert first == {
        "num_inference_steps": 10, "guidance_scale": 3.5, "negative_prompt": "dogs", "scheduler": "karras", "seed": 3,
    }  # fmt: skip
    assert second == {**first, "seed": 4}
    assert {path.name for path in tmp_path.glob("*.png")} == {"output_0.png", "output_1.png"}


def test_json_has_the_same_shape(service: InferenceServer, led: dict[str, str], tmp_path: Path) -> None:
    service.providers = {"together": "text-to-image", "fal-ai": "text-to-image"}
    done = run(
        led, "--provider", "huggingface:fal-ai", "-m", "org/model", "--seed", "5", "--json", cwd=tmp_path
    )
    assert (done.returncode, done.stderr) == (0, "")
    facts = json.loads(done.stdout)
    assert facts["images"] == [{"path": str(tmp_path / "output.png"), "seed": 5, "width": 96, "height": 64}]
    assert (facts["model"], facts["variant"]) == ("org/model", "fal-ai")
    assert facts.keys() == {"images", "timeTaken", "timings", "model", "variant"}
    assert facts["timings"].keys() == {"loading", "diffusion", "decoding", "offloading"}


def test_the_token_of_a_login(service: InferenceServer, led: dict[str, str], tmp_path: Path) -> None:
    del led["HF_TOKEN"]
    folder = Path(led["HF_HOME"])
    folder.mkdir()
    (folder / "token").write_text("hf_of_a_login\n")
    assert run(led, *HOSTED, cwd=tmp_path).returncode == 0
    assert service.drawings()[0].headers["authorization"] == "Bearer hf_of_a_login"


def test_without_a_token(service: InferenceServer, led: dict[str, str], tmp_path: Path) -> None:
    del led["HF_TOKEN"]
    done = run(led, *HOSTED, "--json", cwd=tmp_path)
    assert done.returncode == 81
    error = json.loads(done.stdout)["error"]
    assert error["code"] == "CLOUD_UNAUTHORIZED"
    assert "HF_TOKEN" in error["hint"]
    assert service.drawings() == []


def test_an_endpoint_elsewhere_that_wants_a_token(
    service: InferenceServer, led: dict[str, str], tmp_path: Path
) -> None:
    service.on("/draw", as_json({"error": "no"}, 401))
    done = run(led, "--provider", "huggingface", "-m", service.endpoint, cwd=tmp_path)
    assert done.returncode == 81
    assert done.stderr.startswith(f"Waiting for the endpoint {service.endpoint} to draw …\n")
    assert "none was given for it" in done.stderr
    assert "not sent outside of Hugging Face" in done.stderr


def test_a_provider_that_there_is_not(service: InferenceServer, led: dict[str, str], tmp_path: Path) -> None:
    done = run(led, "--provider", "huggingface:fal", "-m", "org/model", cwd=tmp_path)
    assert done.returncode == 2
    assert "no provider 'fal'" in done.stderr
    assert "Did you mean 'fal-ai'?" in done.stderr


@pytest.mark.parametrize(
    ("status", "code"),
    [(401, 81), (404, 82), (402, 83), (429, 83), (503, 84), (504, 85), (422, 2), (500, 80)],
)
def test_what_the_service_says_is_an_exit_code(
    service: InferenceServer, led: dict[str, str], tmp_path: Path, status: int, code: int
) -> None:
    service.on(ROUTER, as_json({"error": f"not like this, {TOKEN}"}, status))
    done = run(led, *HOSTED, cwd=tmp_path)
    assert done.returncode == code
    assert "not like this" in done.stderr
    assert not (tmp_path / "output.png").exists()


def test_offline_mode(service: InferenceServer, led: dict[str, str], tmp_path: Path) -> None:
    done = run({**led, "HF_HUB_OFFLINE": "1"}, *HOSTED, cwd=tmp_path)
    assert done.returncode == 84
    assert "HF_HUB_OFFLINE" in done.stderr
    assert service.requests == []


BAD = {
    "no model": (["--provider", "huggingface"], "needs the name of a model"),
    "no such provider": (["--provider", "hugging", "-m", "a/b"], "no provider 'hugging'"),
    "no name": (["--provider", "huggingface:", "-m", "a/b"], "no provider 'huggingface:'"),
    "local with a name": (["--provider", "local:x"], "no provider 'local:x'"),
    "no host": (["--provider", "huggingface", "-m", "http://"], "names no host"),
    "memory": ([*HOSTED, "--vae-tiling", "--max-vram", "3"], "no use for --vae-tiling, --max-vram."),
    "flash attention": ([*HOSTED, "--no-diffusion-fa"], "no use for --no-diffusion-fa."),
    "flash attention as well": ([*HOSTED, "--diffusion-fa"], "no use for --diffusion-fa."),
    "parts": ([*HOSTED, "--vae", "a.safetensors"], "no use for --vae."),
    "lora": ([*HOSTED, "--lora", "ink"], "no use for --lora."),
    "tag": ([*HOSTED, "-n", "x", "--cfg-scale", "2", "--guidance", "3"], "one guidance scale"),
    "mask": ([*HOSTED, "--init-image", "a.png", "--mask", "b.png"], "no use for --mask."),
    "sampler": ([*HOSTED, "--sampler", "euler"], "no use for --sampler."),
    "previews": ([*HOSTED, "--preview-dir", "p", "--timelapse", "t.gif"], "for --preview-dir, --timelapse."),
    "verbose": ([*HOSTED, "--verbose"], "no use for --verbose."),
    "preset": ([*HOSTED, "--preset", "quick"], "invalid choice"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments(service: InferenceServer, led: dict[str, str], tmp_path: Path, name: str) -> None:
    arguments, words = BAD[name]
    done = run(led, *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Waiting for" not in done.stderr
    assert service.requests == []
    assert {entry.name for entry in tmp_path.iterdir()} == {"home"}


def test_every_option_is_for_one_or_both() -> None:
    """An option that is new is for this machine alone until somebody says otherwise."""
    from sdmanager.cli.hosted import _TAKEN

    given = vars(build_parser().parse_args(["generate", "x"]))
    assert given.keys() <= _TAKEN


@pytest.mark.parametrize("where", ["drawing", "mapping", "polling"])
def test_an_interrupt_ends_it_at_once(
    service: InferenceServer, led: dict[str, str], tmp_path: Path, where: str
) -> None:
    """Also while the library blocks: its thread must not keep the program."""
    asked = threading.Event()

    def hold(request: Asked) -> Answer:
        asked.set()
        if where == "polling":
            return as_json({"status": "IN_PROGRESS"})
        request.wait_until_gone()
        return Answer()

    service.on({"drawing": ROUTER, "mapping": "/api/models", "polling": "/status"}[where], hold)
    arguments = list(HOSTED)
    if where == "polling":
        service.providers = {"fal-ai": "image-to-image"}
        Image.new("RGB", (64, 64)).save(tmp_path / "start.png")
        arguments += ["--init-image", "start.png"]
    with subprocess.Popen(
        [*COMMAND, *arguments],
        env=led,
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert asked.wait(WAIT)
        child.send_signal(signal.SIGINT)
        _, told = child.communicate(timeout=WAIT)
    assert child.returncode == 130
    assert "Traceback" not in told
    assert told.endswith("Cancelled.\n")
    assert not (tmp_path / "output.png").exists()


def test_this_machine_draws_where_it_is_named(environment: dict[str, str], tmp_path: Path) -> None:
    arguments = ("--provider", "local", "-W", "64", "-H", "64", "--preset", "fast", "--json")
    done = run(environment, *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["model"] == "demo"
