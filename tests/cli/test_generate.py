"""``sdmanager generate`` as a user runs it: a process of its own, in an empty home folder."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from loras import write_lora
from PIL import Image
from processes import all_gone

from sdmanager.cli.generate import DEMO_NOTICE

COMMAND = (sys.executable, "-m", "sdmanager")
SMALL = ("-W", "64", "-H", "64", "--steps", "4")


def run(
    environment: dict[str, str], *arguments: str, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments],
        env=environment,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def opened(path: Path) -> Image.Image:
    with Image.open(path) as picture:
        picture.load()
        return picture


def leftovers(environment: dict[str, str]) -> list[Path]:
    jobs = Path(environment["SDMANAGER_HOME"]) / "cache" / "jobs"
    return list(jobs.iterdir()) if jobs.exists() else []


def test_a_prompt_becomes_a_file(environment: dict[str, str], tmp_path: Path) -> None:
    done = run(environment, "generate", "a lighthouse at dusk", *SMALL, "--seed", "7", cwd=tmp_path)
    assert done.returncode == 0
    assert re.fullmatch(r"output\.png  64x64  seed 7  \d+\.\d s\n", done.stdout)
    assert done.stderr.splitlines() == [DEMO_NOTICE]
    assert opened(tmp_path / "output.png").size == (64, 64)
    assert leftovers(environment) == []


def test_a_batch_is_numbered(environment: dict[str, str], tmp_path: Path) -> None:
    done = run(environment, "generate", "x", *SMALL, "--count", "2", "-o", str(tmp_path / "cat.webp"))
    assert done.returncode == 0
    assert [path.name for path in sorted(tmp_path.glob("cat*"))] == ["cat_0.webp", "cat_1.webp"]
    assert opened(tmp_path / "cat_1.webp").format == "WEBP"


def test_json_is_one_object_and_nothing_else(environment: dict[str, str], tmp_path: Path) -> None:
    done = run(
        environment, "generate", "x", "-W", "64", "-H", "64", "--steps", "40", "--seed", "3", "--json",
        "-o", str(tmp_path / "a.png"), "--preview-dir", str(tmp_path / "p"), "--timelapse", str(tmp_path / "t.gif"),
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    facts = json.loads(done.stdout)
    assert facts["images"] == [{"path": str(tmp_path / "a.png"), "seed": 3, "width": 64, "height": 64}]
    assert facts["model"] == "demo"
    assert 0 < facts["timings"]["diffusion"] < facts["timeTaken"]
    assert facts["previews"] == [str(path) for path in sorted((tmp_path / "p").iterdir())]
    assert facts["timelapse"] == [str(tmp_path / "t.gif")]


@pytest.mark.parametrize("suffix", ["webp", "gif"])
def test_previews_are_kept_and_make_a_timelapse(
    environment: dict[str, str], tmp_path: Path, suffix: str
) -> None:
    done = run(
        environment, "generate", "x", "-W", "128", "-H", "128", "--steps", "30", "--preview", "proj",
        "--preview-stride", "10", "--preview-dir", str(tmp_path / "p"), "-o", str(tmp_path / "a.png"),
        "--timelapse", str(tmp_path / f"t.{suffix}"),
    )  # fmt: skip
    assert done.returncode == 0
    kept = sorted(path.name for path in (tmp_path / "p").iterdir())
    assert kept
    assert set(kept) <= {f"image1-step{step}.png" for step in range(10, 31)}
    with Image.open(tmp_path / f"t.{suffix}") as film:
        assert film.size == (128, 128)
        assert film.n_frames == len(kept) + 1


def test_loras_come_from_the_folder_that_is_named(environment: dict[str, str], tmp_path: Path) -> None:
    write_lora(tmp_path / "mine" / "sub" / "glow.safetensors", seed=1)
    write_lora(Path(environment["SDMANAGER_HOME"]) / "data" / "loras" / "ink.safetensors", seed=2)
    pictures = set()
    for name, arguments in {
        "plain": [],
        "ink": ["--lora", "ink"],
        "glow": ["--lora", "sub/glow:0.5", "--lora-dir", "mine"],
    }.items():
        done = run(
            environment, "generate", "x", *SMALL, "--seed", "7", "-o", f"{name}.png", *arguments, cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr
        pictures.add(opened(tmp_path / f"{name}.png").tobytes())
    assert len(pictures) == 3


def test_an_init_image_gives_the_size(environment: dict[str, str], tmp_path: Path) -> None:
    Image.effect_noise((100, 140), 90).convert("RGB").save(tmp_path / "start.png")
    done = run(
        environment,
        "generate",
        "x",
        "--steps",
        "4",
        "--init-image",
        "start.png",
        "--strength",
        "0.5",
        cwd=tmp_path,
    )
    assert done.returncode == 0
    assert opened(tmp_path / "output.png").size == (96, 136)


BAD = {
    "empty prompt": ([""], 2, "prompt must not be empty"),
    "blank prompt": (["  "], 2, "prompt must not be empty"),
    "width by 8": (["x", "-W", "65"], 2, "width must be a multiple of 8, not 65"),
    "width too large": (["x", "-W", "8192"], 2, "width must be less than or equal to 4096"),
    "height too small": (["x", "-H", "8"], 2, "height must be greater than or equal to 64"),
    "no steps": (["x", "--steps", "0"], 2, "steps must be greater than or equal to 1"),
    "too many": (["x", "--count", "11"], 2, "count must be less than or equal to 10"),
    "nan": (["x", "--cfg-scale", "nan"], 2, "cfg_scale must be a finite number"),
    "mask alone": (["x", "--mask", "m.png"], 2, "mask_image needs init_image"),
    "unknown sampler": (["x", "--sampler", "eulr"], 2, "knows no sampler 'eulr'"),
    "unknown scheduler": (["x", "--scheduler", "?"], 2, "knows no scheduler '?'"),
    "unknown ending": (["x", "-o", "a.tiff"], 2, "ending '.tiff'"),
    "unknown film": (["x", "--timelapse", "a.mp4"], 2, "ending '.mp4'"),
    "previews to nowhere": (["x", "--preview", "proj"], 2, "not where to put them"),
    "no previews for the film": (["x", "--preview", "none", "--timelapse", "a.gif"], 2, "nothing for"),
    "no init image": (["x", "--init-image", "nope.png"], 10, "does not exist"),
    "no model": (["x", "-m", "nope.gguf"], 21, "'nope.gguf' does not exist"),
    "foreign model": (["x", "-m", "foreign.gguf"], 22, "neither safetensors nor GGUF"),
    "no such folder": (["x", "-o", "nowhere/a.png"], 51, "'nowhere' does not exist"),
    "folder as file": (["x", "-o", "folder.png"], 51, "it is a folder"),
    "film over the picture": (["x", "-o", "a.webp", "--timelapse", "a.webp"], 2, "the same file"),
    "no folder for a film": (["x", "--count", "2", "--timelapse", "nowhere/a.gif"], 51, "'nowhere' does not exist"),
    "previews of nothing": (["", "--preview-dir", "a/b"], 2, "prompt must not be empty"),
    "parts of demo": (["x", "-m", "demo", "--tae", "foreign.gguf"], 2, "takes no parts"),
    "unknown user": (["x", "--vae", "~nobody-here/v", "-m", "foreign.gguf"], 21, "'v' does not exist"),
    "lora by path": (["x <lora:/etc/passwd:1>"], 2, "not by a path"),
    "lora above": (["x", "--lora", "../../secret:0.5"], 2, "not by a path"),
    "unknown lora": (["x", "--lora", "none", "--lora-dir", "."], 2, "is not in the folder of LoRAs"),
    "weight of a lora": (["x", "--lora", "a:b"], 2, "is not a number"),
    "too much lora": (["x", "--lora", "a:11"], 2, "weight must be less than or equal to 10, not 11"),
    "lone component": (["x", "--vae", "foreign.gguf"], 2, "neither is given"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence_a_hint_and_an_exit_code(
    environment: dict[str, str], tmp_path: Path, case: str
) -> None:
    arguments, code, words = BAD[case]
    folder = tmp_path / "cwd"
    folder.mkdir()
    (folder / "folder.png").mkdir()
    (folder / "foreign.gguf").write_text("no model " * 50)
    (folder / "output.png").write_text("precious")
    before = sorted(folder.iterdir())
    done = run(environment, "generate", *arguments, cwd=folder)
    assert done.returncode == code
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    told = [line for line in done.stderr.splitlines() if line != DEMO_NOTICE]
    assert told[0].startswith("sdmanager: ")
    assert told[1].startswith("  ")
    assert len(told) == 2
    assert done.stdout == ""
    assert sorted(folder.iterdir()) == before
    assert (folder / "output.png").read_text() == "precious"
    assert leftovers(environment) == []


def test_an_error_in_json(environment: dict[str, str]) -> None:
    done = run(environment, "generate", "x", "-m", "nope.gguf", "--json")
    assert done.returncode == 21
    assert json.loads(done.stdout)["error"]["code"] == "MODEL_NOT_FOUND"


ENGINES = {
    "missing": (31, "no engine"),
    "folder": (32, "folder"),
    "not executable": (32, "not executable"),
    "text": (32, ""),
    "another program": (30, "not stable-diffusion.cpp"),
    "crashing": (32, "SIGSEGV"),
}


@pytest.mark.parametrize("kind", ENGINES)
def test_an_engine_that_is_none(environment: dict[str, str], tmp_path: Path, kind: str) -> None:
    path = tmp_path / "my-sd-cli"
    scripts = {"text": "hello\n", "another program": "#!/bin/sh\necho hello\n",
               "crashing": "#!/bin/sh\nkill -SEGV $$\n", "not executable": "#!/bin/sh\n"}  # fmt: skip
    if kind == "folder":
        path.mkdir()
    elif kind != "missing":
        path.write_text(scripts[kind])
        path.chmod(0o644 if kind == "not executable" else 0o755)
    done = run({**environment, "SDMANAGER_ENGINE": str(path)}, "generate", "x", cwd=tmp_path)
    code, words = ENGINES[kind]
    assert (done.returncode, "Traceback" in done.stderr) == (code, False)
    assert words in done.stderr
    assert not (tmp_path / "output.png").exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_ends_cleanly(
    environment: dict[str, str], tmp_path: Path, number: int, code: int
) -> None:
    (tmp_path / "output.png").write_text("precious")
    command = [*COMMAND, "generate", "x", "-W", "64", "-H", "64", "--steps", "1000", "--verbose"]
    with subprocess.Popen(
        command, env=environment, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as child:
        assert child.stderr is not None
        seen = b""
        while b"generating image" not in seen:
            seen += os.read(child.stderr.fileno(), 4096)
        family = psutil.Process(child.pid).children(recursive=True)
        assert family
        child.send_signal(number)
        rest = child.stderr.read()
        assert child.wait(10) == code
    assert all_gone(family)
    assert b"Traceback" not in rest
    assert (tmp_path / "output.png").read_text() == "precious"
    assert leftovers(environment) == []


def test_a_terminal_sees_a_bar_for_each_stage(environment: dict[str, str], tmp_path: Path) -> None:
    parent, child_end = pty.openpty()
    with subprocess.Popen(
        [*COMMAND, "generate", "x", "-W", "64", "-H", "64", "--steps", "30"],
        env={**environment, "TERM": "xterm", "COLUMNS": "120"}, cwd=tmp_path, stdout=child_end, stderr=child_end,
    ) as child:  # fmt: skip
        os.close(child_end)
        seen = b""
        while True:
            try:
                chunk = os.read(parent, 4096)
            except OSError:  # what Linux gives for the end of a terminal
                break
            if not chunk:
                break
            seen += chunk
    os.close(parent)
    text = seen.decode()
    assert child.returncode == 0
    for title in ("Loading", "Drawing", "Decoding"):
        assert title in text
    assert "30/30" in text
    assert "step/s" in text
    assert "s remaining" in text
    assert "Traceback" not in text


def test_help_and_version() -> None:
    done = run(dict(os.environ), "--version")
    assert re.fullmatch(r"sdmanager \d+\.\d+\.\d+\n", done.stdout)
    for command in ((), ("generate",), ("engine",), ("engine", "build"), ("engine", "test")):
        done = run(dict(os.environ), *command, "--help")
        assert (done.returncode, done.stderr) == (0, "")
        assert "usage: sdmanager" in done.stdout


def test_a_closed_stderr_changes_nothing(environment: dict[str, str], tmp_path: Path) -> None:
    script = f'exec "{sys.executable}" -m sdmanager generate x --json -W 64 -H 64 --steps 2 2>&-'
    done = subprocess.run(
        ["sh", "-c", script], env=environment, cwd=tmp_path, stdout=subprocess.PIPE, check=False
    )
    assert done.returncode == 0
    assert json.loads(done.stdout)["images"]


def test_a_reader_that_has_gone_is_no_error(environment: dict[str, str]) -> None:
    script = f'"{sys.executable}" -m sdmanager engine list --json; echo "exit $?" >&2'
    done = subprocess.run(
        ["bash", "-c", f"({script}) | true"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stderr == "exit 0\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is always full")
def test_an_output_that_cannot_be_written_is_told(environment: dict[str, str]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*COMMAND, "engine", "list"],
            env=environment,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 50
    assert done.stderr.startswith("sdmanager: The output cannot be written")
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
