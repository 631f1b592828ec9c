"""The recipe for Tauri: its module as it stands in the page, compiled and run against a real server."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.clients

DRIVER = """
mod sdmanager;
use sdmanager::PictureServer;

const SHORT: &str = r#"{"prompt": "a cat", "width": 64, "height": 64, "steps": 2, "previews": {}}"#;
const LONG: &str = r#"{"prompt": "a cat", "width": 512, "height": 512, "steps": 1000}"#;

fn main() {
    let how = std::env::args().nth(1).unwrap_or_default();
    if how == "no server" {
        println!("{}", PictureServer::start(&["-m", "nonsense"]).err().unwrap());
        return;
    }
    let server = PictureServer::start(&[]).unwrap();
    println!("{}", server.health().unwrap());
    if how == "crash" {
        let _ = server.draw(LONG, |name, _| { if name == "progress" { println!("drawing"); } true });
    }
    let mut names = std::collections::BTreeSet::new();
    let png = server.draw(SHORT, |name, _| { names.insert(name.to_string()); true }).unwrap();
    println!("{:?} {:?}", names, &png[..4]);
    println!("{}", server.draw(r#"{"prompt": ""}"#, |_, _| true).unwrap_err());
    println!("{}", server.draw(LONG, |name, _| name != "progress").unwrap_err());
    println!("{}", server.health().unwrap());
    server.stop();
    println!("{}", server.health().unwrap_err());
}
"""


@pytest.fixture(scope="module")
def compiler() -> str:
    rustc = shutil.which("rustc")
    assert rustc is not None, "needs a Rust compiler: apt install rustc, or https://rustup.rs"
    return rustc


@pytest.fixture
def program(compiler: str, tmp_path: Path, blocks) -> Path:
    """The page's module with a main function of the test's."""
    module, _ = blocks("tauri.md", "rust")
    (tmp_path / "sdmanager.rs").write_text(module)
    (tmp_path / "main.rs").write_text(DRIVER)
    command = [compiler, "--edition", "2021", "-D", "warnings", "-o", "program", "main.rs"]
    subprocess.run(command, cwd=tmp_path, check=True)
    return tmp_path / "program"


def test_the_backend_starts_draws_cancels_and_stops(
    program: Path, home_with_command: dict[str, str], server_process: Callable
) -> None:
    done = subprocess.run(
        [program], env=home_with_command, capture_output=True, text=True, timeout=240, check=True
    )
    health, drawn, refused, cancelled, again, gone = done.stdout.splitlines()
    assert health == again == '{"status": "ok", "busy": false}'
    assert drawn == '{"complete", "preview", "progress"} [137, 80, 78, 71]'
    assert '"INVALID_REQUEST"' in refused
    assert cancelled.startswith('{"id":')
    assert gone.startswith("the server cannot be reached")
    with pytest.raises(psutil.NoSuchProcess):
        server_process()


def test_the_server_ends_when_the_backend_is_killed_while_it_draws(
    program: Path, home_with_command: dict[str, str], run: Callable, dies_with: Callable
) -> None:
    with run([program, "crash"], home_with_command) as backend:
        assert backend.stdout.readline().startswith("{")
        dies_with(backend)


def test_a_server_that_cannot_start_is_told(program: Path, home_with_command: dict[str, str]) -> None:
    done = subprocess.run(
        [program, "no server"], env=home_with_command, capture_output=True, text=True, check=True
    )
    assert "ended before it was ready" in done.stdout
    assert "nonsense" in done.stderr
