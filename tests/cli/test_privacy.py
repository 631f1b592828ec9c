"""What is the user's own business does not stand in a bug report."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sdmanager.cli.privacy import names_of, without_private
from sdmanager.settings import Settings

HOME = Settings(
    Path("/home/jo/.local/share/sdmanager"),
    Path("/home/jo/.cache/sdmanager"),
    Path("/home/jo/.local/state/sdmanager"),
)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("at /home/jo/.local/share/sdmanager/engines/x", "at <data>/engines/x"),
        ("at /home/jo/.cache/sdmanager", "at <cache>"),
        ("in /home/jo/pictures.", "in ~/pictures."),
        ("in /home/john/x", "in ~/x"),
        ("in '/home/someone else/x'", "in '~/x'"),
        ("C:\\Users\\Bob Smith\\x", "~\\x"),
        ("in /Users/eve/Library", "in ~/Library"),
        ("Debian GNU/Linux 12", "Debian GNU/Linux 12"),
        ("cuda/source/pypi-0.4.7", "cuda/source/pypi-0.4.7"),
        ("from mirror.example:8443", "from <mirror>:8443"),
        ("from notmirror.example", "from notmirror.example"),
    ],
)
def test_texts(monkeypatch: pytest.MonkeyPatch, text: str, shown: str) -> None:
    monkeypatch.setenv("HOME", "/home/jo")
    names = names_of(replace(HOME, mirror="https://user:secret@mirror.example:8443/x"))
    assert without_private({"key": [text]}, names) == {"key": [shown]}


@pytest.mark.parametrize("home", ["/", ""])
def test_a_home_at_the_root_is_nobodys(monkeypatch: pytest.MonkeyPatch, home: str) -> None:
    monkeypatch.setenv("HOME", home)
    assert without_private("GNU/Linux", names_of(HOME)) == "GNU/Linux"


def test_the_users_own_engine_and_list_have_names() -> None:
    own = replace(HOME, engine=Path("/opt/mine/sd-cli"), manifest=Path("/opt/mine/list.json"))
    said = "the engine at /opt/mine/sd-cli and the list 'list.json'"
    assert (
        without_private(said, names_of(own))
        == "the engine at <own engine> and the list '<own binaries.json>'"
    )
