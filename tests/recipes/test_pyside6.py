"""The recipe for PySide6: the page's code in a real application of Qt, which draws without a screen."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import filelock
import psutil
import pytest

import sdmanager

pytestmark = pytest.mark.clients

VERSION = "6.12.*"
DRIVER = """
import json, sys
from PySide6.QtCore import QTimer
from PySide6.QtWidgets import QApplication
import app as recipe

LONG = dict(width=512, height=512, steps=1000)
how = sys.argv[1]
qt = QApplication([])
if how == "no server":
    server = recipe.PictureServer("-m", "nonsense")
else:
    server = recipe.PictureServer()
window = recipe.Window(server)
window.show()
pictures, percents, messages = [], [], []

def say(value):
    print(json.dumps(value), flush=True)

def draw(**fields):
    generate = recipe.Client.generate
    recipe.Client.generate = lambda client, prompt, **given: generate(client, prompt, **{**given, **fields})
    window.button.click()
    recipe_drawing = window._drawing
    recipe_drawing.picture.connect(lambda data: pictures.append((window.picture.pixmap().width(), len(data))))
    recipe_drawing.progress.connect(lambda percent, _: percents.append(percent))
    recipe_drawing.failed.connect(lambda text: messages.append(text))
    return recipe_drawing

drawing = draw(**(LONG if how in ("cancel", "crash", "close") else dict(width=64, height=64, steps=2)))

def on_progress(percent, _):
    if how == "cancel":
        window.button.click()
    if how == "close":
        window.close()
        qt.quit()

drawing.progress.connect(on_progress)
if how in ("draw", "cancel", "cancel early", "no server"):
    drawing.finished.connect(lambda: (window.close(), qt.quit()))
if how == "cancel early":
    window.button.click()
qt.exec()
say({"pictures": pictures, "percents": percents, "messages": messages, "button": window.button.text()})
"""


@pytest.fixture(scope="session")
def qt_python() -> Path:
    """An interpreter with PySide6, in an environment that is kept in the user's cache folder."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sdmanager-tests"
    folder = cache / f"pyside-{VERSION.rstrip('.*')}-{sys.version_info[0]}.{sys.version_info[1]}"
    cache.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(folder.with_suffix(".lock")):
        if not (folder / "whole").exists():
            subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
            pip = [folder / "bin" / "python", "-m", "pip", "install", "-q", f"PySide6-Essentials=={VERSION}"]
            subprocess.run(pip, check=True)
            (folder / "whole").touch()
    python = folder / "bin" / "python"
    missing = subprocess.run(
        [python, "-c", "import PySide6.QtWidgets"], capture_output=True, text=True, check=False
    )
    needs = "apt install libegl1 libgl1 libxkbcommon0 libdbus-1-3 libfontconfig1"
    assert missing.returncode == 0, f"Qt lacks a library ({needs}): {missing.stderr}"
    return python


@pytest.fixture
def start(
    qt_python: Path, home_with_command: dict[str, str], tmp_path: Path, blocks, run: Callable
) -> Callable:
    """Runs the application so."""
    (code,) = blocks("pyside6.md", "py")
    (tmp_path / "app.py").write_text(code)
    (tmp_path / "driver.py").write_text(DRIVER)
    paths = (Path(sdmanager.__file__).parents[1], sysconfig.get_path("purelib"))
    environment = {
        **home_with_command,
        "QT_QPA_PLATFORM": "offscreen",
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
        "TMPDIR": str(tmp_path),
    }

    return lambda how: run([qt_python, "driver.py", how], environment)


def said(running) -> dict:
    with running as program:
        output, _ = program.communicate(timeout=120)
    assert program.returncode == 0
    return json.loads(output.splitlines()[-1])


def test_the_window_shows_the_picture_while_it_forms(start: Callable) -> None:
    shown = said(start("draw"))
    assert len(shown["pictures"]) >= 2  # a preview at least, and the picture
    assert shown["pictures"][-1][0] == 64
    assert shown["percents"] == sorted(shown["percents"])
    assert (shown["messages"], shown["button"]) == ([], "Draw")


def test_the_button_cancels(start: Callable) -> None:
    shown = said(start("cancel"))
    assert shown["messages"] == ["Cancelled."]
    assert shown["button"] == "Draw"


def test_the_button_cancels_while_the_server_starts(start: Callable, tmp_path: Path) -> None:
    (tmp_path / "bin" / "sdmanager").write_text("#!/bin/sh\nexec cat\n")  # one that never gets ready
    shown = said(start("cancel early"))
    assert (shown["messages"], shown["button"]) == (["Cancelled."], "Draw")


def test_closing_the_window_ends_what_is_drawn_and_the_server(
    start: Callable, server_process: Callable
) -> None:
    said(start("close"))
    with pytest.raises(psutil.NoSuchProcess):
        server_process()


def test_a_server_that_cannot_start_is_told_in_the_window(start: Callable) -> None:
    (message,) = said(start("no server"))["messages"]
    assert message.startswith("The server ended before it was ready.")


def test_the_server_ends_when_the_application_is_killed_while_it_draws(
    start: Callable, dies_with: Callable
) -> None:
    with start("crash") as program:
        assert "is ready" in program.stdout.readline()  # the server's own: it says it there, too
        dies_with(program)
