"""What is printed cannot drive the terminal that shows it."""

from __future__ import annotations

import pytest

from sdmanager.cli.output import counted, note, printable, report_error, say
from sdmanager.errors import SDManagerError


def test_control_characters_are_shown_and_not_obeyed(capsys: pytest.CaptureFixture[str]) -> None:
    say("one\x1b[2J\ttwo\nthree\r")
    note("four\x9b\u202e")
    report_error(SDManagerError("Five\x07.", hint="Six\b."), as_json=False)
    said = capsys.readouterr()
    assert said.out == "one\\x1b[2J\ttwo\nthree\\r\n"
    assert said.err == "four\\x9b\\u202e\nsdmanager: Five\\x07.\n  Six\\x08.\n"


@pytest.mark.parametrize("text", ["", "ascii name", "日本　語", "naïve\N{NO-BREAK SPACE}é"])
def test_what_can_be_shown_is_left_alone(text: str) -> None:
    assert printable(text) == text


def test_a_name_stays_in_one_line() -> None:
    assert printable("a\nb\udcff") == "a\\nb\\udcff"


def test_one_is_no_plural() -> None:
    assert (counted(1, "file"), counted(2, "file")) == ("1 file", "2 files")
