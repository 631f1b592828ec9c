"""``sdmanager calibrate`` as a user runs it: a process of its own, in an empty home folder."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from processes import all_gone

from sdmanager.cli.calibrate import DEMO_NOTICE, plan_named
from sdmanager.errors import InvalidRequestError
from sdmanager.generation import MemoryPlan

COMMAND = (sys.executable, "-m", "sdmanager", "calibrate")
TWO = ("-m", "demo", "--size", "64x64", "--steps", "2", "--combinations", "plain", "vae-tiling")
OUT_OF_MEMORY = (
    "ggml_backend_cuda_buffer_type_alloc_buffer: allocating 12288.00 MiB on device 0: out of memory"
)


def run(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments], env=environment, capture_output=True, text=True, timeout=180, check=False
    )


def kept(environment: dict[str, str]) -> list[dict[str, object]]:
    path = Path(environment["SDMANAGER_HOME"]) / "state" / "memory.json"
    return json.loads(path.read_text())["recommended"] if path.exists() else []


def leftovers(environment: dict[str, str]) -> list[Path]:
    jobs = Path(environment["SDMANAGER_HOME"]) / "cache" / "jobs"
    return list(jobs.iterdir()) if jobs.exists() else []


@pytest.fixture
def failing(environment: dict[str, str], fake_engine: Path, tmp_path: Path) -> dict[str, str]:
    """With an engine that is proven already, and then runs out of memory: always, or for the flags in a file."""
    script, flags = tmp_path / "own-engine", tmp_path / "flags"
    script.write_text(
        f'#!/bin/sh\ncase " $* " in *" --seed "*) for flag in $(cat {flags}); do case " $* " in *" $flag "*)\n'
        f"echo '[ERROR] ggml.cpp:1   - {OUT_OF_MEMORY}' >&2; exit 1;; esac; done;; esac\n"
        f'exec {fake_engine} "$@"\n'
    )
    script.chmod(0o755)
    flags.write_text("")
    own = {**environment, "SDMANAGER_ENGINE": str(script)}
    done = run(own, "-m", "demo", "--size", "64x64", "--combinations", "plain", "--no-store", "--quiet")
    assert done.returncode == 0, done.stderr
    return own


# --- what is shown


def test_a_table_a_recommendation_and_what_is_kept(environment: dict[str, str]) -> None:
    done = run(environment, *TWO)
    assert (done.returncode, done.stderr) == (0, "")
    header, plain, tiled, sentence, command = done.stdout.splitlines()
    assert header.split() == ["flags", "loading", "diffusion", "decoding", "total", "RAM", "VRAM"]
    assert plain.startswith("plain ")
    assert tiled.startswith("--vae-tiling ")
    for line in (plain, tiled):
        # Right below their titles.
        for title in ("loading", "diffusion", "decoding", "total"):
            end = header.index(title) + len(title)
            assert re.fullmatch(r".*\d\.\d+ s", line[:end])
            assert line[end : end + 1] == " "
    verdicts = {line.split("  ")[0].strip(): line.split("  ")[-1].strip() for line in (plain, tiled)}
    assert sorted(verdicts.values()) == ["recommended", "works"]
    best = next(name for name, verdict in verdicts.items() if verdict == "recommended")
    shown = "no flags at all" if best == "plain" else best
    assert sentence.startswith(f"Recommended for 64x64 with the cpu engine: {shown}, ")
    assert sentence.endswith("; later pictures of this model and size start with this.")
    flags = "" if best == "plain" else f" {best}"
    assert command == f"  sdmanager generate PROMPT -m demo -W 64 -H 64 --steps 2{flags}"
    (entry,) = kept(environment)
    assert (entry["width"], entry["height"], entry["backend"]) == (64, 64, "cpu")
    assert entry["flags"]["vae_tiling"] is (best != "plain")  # type: ignore[index]
    assert leftovers(environment) == []


def test_json_is_one_object_and_nothing_else(environment: dict[str, str]) -> None:
    done = run(environment, *TWO, "--json", "--no-store", "--runs", "2", "--seed", "3")
    assert (done.returncode, done.stderr) == (0, "")
    facts = json.loads(done.stdout)
    assert (facts["model"], facts["variant"], facts["stored"]) == ("demo", "cpu", False)
    assert (facts["width"], facts["height"], facts["steps"], facts["seed"], facts["runs"]) == (
        64,
        64,
        2,
        3,
        2,
    )
    assert [each["key"] for each in facts["measurements"]] == ["plain", "vae-tiling"]
    assert [each["flags"] for each in facts["measurements"]] == [[], ["--vae-tiling"]]
    for each in facts["measurements"]:
        assert (each["works"], each["error"], len(each["runs"])) == (True, None, 2)
        assert min(each["runs"]) <= each["total"] <= max(each["runs"])
        assert 0 < each["timings"]["diffusion"] < each["total"]
        assert set(each["memory"]) == {"ramBytes", "vramBytes"}
    assert facts["recommended"]["key"] in {"plain", "vae-tiling"}
    assert "error" not in facts
    assert kept(environment) == []


def test_without_a_model_it_says_what_is_measured(failing: dict[str, str]) -> None:
    done = run(failing, "--size", "64x64", "--combinations", "plain")
    assert (done.returncode, done.stderr.splitlines()) == (0, [DEMO_NOTICE])
    assert done.stdout.splitlines()[-1].startswith("  sdmanager generate PROMPT -W 64")


def test_a_failure_is_a_line_of_the_table(failing: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "flags").write_text("--vae-tiling")
    done = run(failing, *TWO)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert re.fullmatch(r"plain .* recommended", lines[1])
    assert re.fullmatch(r"--vae-tiling( +-){6}  out of memory", lines[2])
    assert lines[3].startswith("--vae-tiling: The engine ran out of memory")


def test_where_nothing_works_it_ends_with_the_error_of_the_plain_one(
    failing: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "flags").write_text("--seed")
    done = run(failing, *TWO)
    assert done.returncode == 42
    assert [line.split()[0] for line in done.stdout.splitlines()[1:3]] == ["plain", "--vae-tiling"]
    assert done.stdout.count("  out of memory\n") == 2
    assert "Recommended" not in done.stdout
    told = done.stderr.splitlines()
    assert told[0].startswith("sdmanager: ")
    assert told[1].startswith("  ")
    assert len(told) == 2
    assert kept(failing) == []

    done = run(failing, *TWO, "--json")
    assert done.returncode == 42
    facts = json.loads(done.stdout)
    assert facts["error"]["code"] == "OUT_OF_MEMORY"
    assert [each["error"]["code"] for each in facts["measurements"]] == ["OUT_OF_MEMORY"] * 2
    assert [each["timings"] for each in facts["measurements"]] == [None, None]
    assert facts["recommended"] is None


# --- what is refused

BAD = {
    "no size": (["--size", "big"], 2, "'big' is not a width and a height"),
    "one number": (["--size", "512"], 2, "is not a width and a height"),
    "signs": (["--size=-64x64"], 2, "is not a width and a height"),
    "width by 8": (["--size", "65x64"], 2, "width must be a multiple of 8, not 65"),
    "height too large": (["--size", "64x8192"], 2, "height must be less than or equal to 4096"),
    "no steps": (["--steps", "0"], 2, "steps must be greater than or equal to 1"),
    "no runs": (["--runs", "0"], 2, "runs must be 1 to 20, not 0"),
    "empty prompt": (["--prompt", " "], 2, "prompt must not be empty"),
    "unknown flag": (["--combinations", "plain", "vae-tilling"], 2, "no memory flag 'vae-tilling'"),
    "plain and more": (["--combinations", "plain+vae-tiling"], 2, "no memory flag 'plain'"),
    "no budget": (["--combinations", "max-vram"], 2, "'' is no number of GiB"),
    "no model": (["-m", "nope.gguf"], 21, "'nope.gguf' does not exist"),
    "unknown model": (["-m", "no-such-model"], 21, "no-such-model"),
    "parts of demo": (["-m", "demo", "--tae", "x.gguf"], 2, "takes no parts"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence_a_hint_and_an_exit_code(environment: dict[str, str], case: str) -> None:
    arguments, code, words = BAD[case]
    done = run(environment, *([] if "-m" in arguments else ["-m", "demo"]), *arguments)
    assert done.returncode == code
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    told = done.stderr.splitlines()
    assert told[0].startswith("sdmanager: ")
    assert told[1].startswith("  ")
    assert len(told) == 2
    assert done.stdout == ""
    assert kept(environment) == []


def test_an_error_in_json(environment: dict[str, str]) -> None:
    done = run(environment, "-m", "nope.gguf", "--json")
    assert done.returncode == 21
    assert json.loads(done.stdout)["error"]["code"] == "MODEL_NOT_FOUND"


# --- names of combinations


@pytest.mark.parametrize(
    "plan",
    [
        MemoryPlan(),
        MemoryPlan(vae_tiling=True),
        MemoryPlan(offload_to_cpu=True, vae_tiling=True, stream_layers=True),
        MemoryPlan(clip_on_cpu=True, vae_on_cpu=True),
        MemoryPlan(diffusion_flash_attention=True),
        MemoryPlan(diffusion_flash_attention=False, max_vram_gib=5.5),
    ],
)
def test_a_combination_is_named_by_its_key(plan: MemoryPlan) -> None:
    assert plan_named(plan.key) == plan
    assert plan_named(plan.key.replace(",", "+")) == plan
    assert plan_named("+".join(plan.flags).replace(" ", "=") or "plain") == plan


@pytest.mark.parametrize(
    "name",
    [
        "",
        "+",
        "vae-tiling+",
        "vae-tiling=1",
        "max-vram=0",
        "max-vram=nan",
        "max-vram=inf",
        "max-vram=x",
        "PLAIN",
    ],
)
def test_what_names_no_combination(name: str) -> None:
    with pytest.raises(InvalidRequestError):
        plan_named(name)


# --- waiting and interrupting


def read_all(descriptor: int) -> str:
    seen = b""
    while True:
        try:
            chunk = os.read(descriptor, 4096)
        except OSError:  # what Linux gives for the end of a terminal
            return seen.decode()
        if not chunk:
            return seen.decode()
        seen += chunk


def test_a_terminal_sees_one_bar_for_the_whole(failing: dict[str, str]) -> None:
    parent, child_end = pty.openpty()
    with subprocess.Popen(
        [*COMMAND, *TWO, "--runs", "2"],
        env={**failing, "TERM": "xterm"}, stdout=child_end, stderr=child_end,
    ) as child:  # fmt: skip
        os.close(child_end)
        text = read_all(parent)
    os.close(parent)
    assert child.returncode == 0
    assert "warming up" in text
    assert "1/2 plain (1 of 2)" in text
    assert "2/2 --vae-tiling (2 of 2)" in text
    percentages = [int(number) for number in re.findall(r"Calibrating *(\d+)%", text)]
    assert percentages == sorted(percentages)
    assert percentages[-1] == 100
    assert "Traceback" not in text


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_calibration_ends_cleanly_and_shows_what_it_knows(
    environment: dict[str, str], number: int, code: int
) -> None:
    parent, child_end = pty.openpty()
    with subprocess.Popen(
        [*COMMAND, "-m", "demo", "--size", "64x64", "--steps", "100", "--combinations", "plain", "vae-tiling"],
        env={**environment, "TERM": "xterm"}, stdout=subprocess.PIPE, stderr=child_end,
    ) as child:  # fmt: skip
        os.close(child_end)
        seen = b""
        while b"2/2" not in seen:
            seen += os.read(parent, 4096)
        deadline = time.monotonic() + 60
        while not (family := psutil.Process(child.pid).children(recursive=True)):
            assert time.monotonic() < deadline, "waited in vain"
            time.sleep(0.005)
        child.send_signal(number)
        rest = read_all(parent)
        assert child.wait(20) == code
        assert child.stdout is not None
        assert child.stdout.read() == b""
    os.close(parent)
    assert all_gone(family)
    assert re.search(r"\nplain .* works", rest)
    assert "recommended" not in rest
    assert "Traceback" not in rest
    assert kept(environment) == []
    assert leftovers(environment) == []


def test_help() -> None:
    done = run(dict(os.environ), "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "usage: sdmanager calibrate" in done.stdout
