"""The recipe for Electron, under Node: the module of the main process as it stands in the page, on a real server."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.clients

# Says each line as JSON; what the test waits for.
DRIVER = """
const { PictureServer } = require("./sdmanager");
const say = (value) => console.log(JSON.stringify(value));
const SHORT = { prompt: "a cat", width: 64, height: 64, steps: 2 };
const LONG = { prompt: "a cat", width: 512, height: 512, steps: 1000 };
(async () => {
  if (process.argv[2] === "no server") {
    await PictureServer.start("-m", "nonsense").catch((error) => say(error.message));
    process.env.PATH = "/nowhere";
    await PictureServer.start().catch((error) => say(error.code));
    return;
  }
  if (process.argv[2] === "another token") {
    await PictureServer.start().catch((error) => say(error.code));
    process.exit(); // or else a server that lived on would hold it
  }
  const server = await PictureServer.start();
  say(await server.health());
  if (process.argv[2] === "crash") {
    await server.draw(LONG, (name) => { if (name === "progress") say("drawing"); });
  }
  const names = new Set();
  const pictures = await server.draw({ ...SHORT, count: 2 }, (name) => names.add(name));
  say([[...names].sort(), pictures.map((png) => png.toString("base64"))]);
  await server.draw({ prompt: "a cat", width: 7 }).catch((error) => say(error.code));
  const abort = new AbortController();
  const drawing = server.draw(LONG, (name) => { if (name === "progress") abort.abort(); }, abort.signal);
  await drawing.catch((error) => say(error.name));
  const told = server.draw(LONG, (name) => { if (name === "progress") throw new Error("mine"); });
  await told.catch((error) => say(error.message));
  say(await server.health());
  await server.stop();
  await server.stop();
  say("stopped");
})();
"""

# Stands in for Electron's own module: calls what the recipe hands to it, as Electron does.
ELECTRON = """
const handlers = {}, listeners = {};
const say = (value) => console.log(JSON.stringify(value));
const sender = {
  isDestroyed: () => false,
  send: (channel, name, data) => listeners[channel].forEach((tell) => tell({}, name, data)),
};
exports.ipcRenderer = {
  invoke: (channel, ...values) => handlers[channel]({ sender }, ...values),
  on: (channel, tell) => (listeners[channel] ??= []).push(tell),
};
exports.ipcMain = { handle: (channel, handler) => { handlers[channel] = handler; } };
const world = {};
exports.contextBridge = { exposeInMainWorld: (name, value) => { world[name] = value; } };
exports.app = {
  on: (name, tell) => (listeners[name] ??= []).push(tell),
  whenReady: () => Promise.resolve(),
  quit: () => {
    let stays = false;
    listeners["will-quit"].forEach((tell) => tell({ preventDefault: () => { stays = true; } }));
    if (!stays) { say("quit"); process.exit(0); }
  },
};
exports.BrowserWindow = class {
  constructor({ webPreferences }) { require(webPreferences.preload); }
  async loadFile(name) {
    const seen = new Set();
    world.pictures.onDrawing((event, data) => {
      seen.add(event);
      if (data.currentStep > 0 && data.totalSteps === 1000) world.pictures.cancel();
    });
    const png = await world.pictures.draw({ prompt: "a cat", width: 64, height: 64, steps: 2 });
    say([name, [...seen].sort(), png.toString("base64")]);
    const long = { prompt: "a cat", width: 512, height: 512, steps: 1000 };
    await world.pictures.draw(long).catch((error) => say(error.name));
    listeners["window-all-closed"].forEach((tell) => tell());
  }
};
"""


@pytest.fixture
def application(tmp_path: Path, blocks) -> Path:
    """A folder with the files of the page."""
    folder = tmp_path / "application"
    (folder / "node_modules" / "electron").mkdir(parents=True)
    (folder / "node_modules" / "electron" / "index.js").write_text(ELECTRON)
    server, main, preload, _ = blocks("electron.md", "js")
    for name, text in (("sdmanager", server), ("main", main), ("preload", preload), ("driver", DRIVER)):
        (folder / f"{name}.js").write_text(text)
    return folder


@pytest.fixture
def said(application: Path, home_with_command: dict[str, str], run: Callable) -> Callable[..., list]:
    """What a program says, once it has ended well."""

    def of(*arguments: str) -> list:
        with run(["node", *arguments], home_with_command, application) as program:
            output, _ = program.communicate(timeout=120)
        assert program.returncode == 0
        return [json.loads(line) for line in output.splitlines()]

    return of


def is_png(text: str) -> bool:
    return text.startswith("iVBORw0KGgo")


def test_the_main_process_starts_draws_cancels_and_stops(said: Callable, server_process: Callable) -> None:
    health, (names, pictures), *rest = said("driver.js")
    assert health == {"status": "ok", "busy": False}
    assert names == ["complete", "preview", "progress"]
    assert [is_png(picture) for picture in pictures] == [True, True]
    assert rest == ["INVALID_REQUEST", "AbortError", "mine", {"status": "ok", "busy": False}, "stopped"]
    with pytest.raises(psutil.NoSuchProcess):
        server_process()


def test_the_server_ends_when_the_main_process_is_killed_while_it_draws(
    application: Path, home_with_command: dict[str, str], run: Callable, dies_with: Callable
) -> None:
    with run(["node", "driver.js", "crash"], home_with_command, application) as program:
        assert json.loads(program.stdout.readline()) == {"status": "ok", "busy": False}
        dies_with(program)


def test_a_server_that_cannot_start_is_told(said: Callable) -> None:
    ended, missing = said("driver.js", "no server")
    assert ended.startswith("The server ended:")
    assert "nonsense" in ended
    assert missing == "ENOENT"


def test_a_server_that_does_not_let_it_in_is_stopped(
    said: Callable, home_with_command: dict[str, str], server_process: Callable, tmp_path: Path
) -> None:
    command = tmp_path / "bin" / "sdmanager"
    command.write_text(command.read_text().replace("exec ", "export SDMANAGER_TOKEN=another\nexec "))
    assert said("driver.js", "another token") == ["UNAUTHORIZED"]
    with pytest.raises(psutil.NoSuchProcess):
        server_process()


def test_the_token_is_in_the_environment_alone_and_no_file_is_left(
    said: Callable, home_with_command: dict[str, str], tmp_path: Path
) -> None:
    home_with_command["TMPDIR"] = str(tmp_path)
    said("driver.js")
    lines = (tmp_path / "bin" / "environment").read_text().splitlines()
    (token,) = (line.partition("=")[2] for line in lines if line.startswith("SDMANAGER_TOKEN="))
    assert len(token) == 48
    assert not list(tmp_path.glob("pictures-*"))


def test_the_hooks_of_the_application_draw_cancel_and_quit(said: Callable, server_process: Callable) -> None:
    (page, names, picture), cancelled, quitting = said("main.js")
    assert (page, cancelled, quitting) == ("index.html", "AbortError", "quit")
    assert names == ["complete", "preview", "progress"]
    assert is_png(picture)
    with pytest.raises(psutil.NoSuchProcess):
        server_process()
