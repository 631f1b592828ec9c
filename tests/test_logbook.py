"""The log of a server: what is kept, what goes to the file, and what never does."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdmanager.errors import InvalidRequestError
from sdmanager.logbook import LogBook, LogEntry, message_of

TRANSCRIPTS = Path(__file__).parent / "data" / "transcripts"
LOGGER = logging.getLogger("sdmanager.logbook-test")


@pytest.fixture
def book(tmp_path: Path) -> LogBook:
    return LogBook(tmp_path / "logs", clock=lambda: 1_700_000_000.5)


@pytest.fixture(autouse=True)
def _all_levels() -> Iterator[None]:
    logger = logging.getLogger("sdmanager")
    before = logger.level
    logger.setLevel(logging.DEBUG)
    yield
    logger.setLevel(before)
    assert not [handler for handler in logger.handlers if type(handler).__module__ == "sdmanager.logbook"]


def messages(book: LogBook) -> list[str]:
    return [entry.message for entry in book.entries(1000)]


def written(book_or_path: LogBook | Path) -> str:
    path = book_or_path.path if isinstance(book_or_path, LogBook) else book_or_path
    assert path is not None
    return path.read_text(encoding="utf-8")


def test_an_entry_is_a_line_with_time_level_source_and_message(book: LogBook) -> None:
    book.write("warning", "manager", "it is late")
    assert book.entries() == [LogEntry(1_700_000_000.5, "warning", "manager", "it is late")]
    assert book.lines() == ["2023-11-14T22:13:20.500Z WARNING manager: it is late"]


def test_the_last_ones_are_given_oldest_first(book: LogBook) -> None:
    for number in range(1005):
        book.write("info", "x", str(number))
    assert messages(book) == [str(number) for number in range(5, 1005)]
    assert [entry.message for entry in book.entries(2)] == ["1003", "1004"]
    assert book.entries(0) == book.entries(-3) == []
    assert len(book.lines()) == 100


def test_there_is_a_file_only_while_capturing(book: LogBook, tmp_path: Path) -> None:
    book.write("info", "manager", "before")
    assert book.path is None
    assert not (tmp_path / "logs").exists()
    with book.capture():
        book.write("info", "manager", "during")
        assert written(book).endswith("INFO    manager: during\n")
    book.write("info", "manager", "after")
    text = written(tmp_path / "logs" / "server.log")
    assert "before" not in text
    assert "after" not in text
    assert messages(book) == ["before", "during", "after"]
    with book.capture():  # goes on in the same file
        book.write("info", "manager", "again")
        assert [line.rpartition(" ")[2] for line in written(book).splitlines()] == ["during", "again"]


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_the_file_is_its_owners_alone(book: LogBook) -> None:
    with book.capture():
        assert book.path is not None
        assert book.path.stat().st_mode & 0o077 == 0


LEVELS = {"debug": "abcd", "info": "bcd", "warning": "cd", "error": "d"}


@pytest.mark.parametrize("level", LEVELS)
def test_the_file_has_its_level_and_memory_has_all(book: LogBook, level: str) -> None:
    with book.capture(level):
        for name, message in (("debug", "a"), ("info", "b"), ("warning", "c"), ("error", "d")):
            LOGGER.log(getattr(logging, name.upper()), message)
        assert "".join(line[-1] for line in written(book).splitlines()) == LEVELS[level]
    assert messages(book) == list("abcd")
    assert {entry.source for entry in book.entries()} == {"logbook-test"}


def test_an_unknown_level_is_refused(book: LogBook) -> None:
    with pytest.raises(InvalidRequestError) as caught, book.capture("loud"):
        pass
    assert "debug, info, warning, error" in caught.value.hint


def test_what_the_engine_prints_is_in_the_file_at_debug_alone(book: LogBook) -> None:
    line = b"[INFO ] x.cpp:1 - prompt is 'my secret'\n[ERROR] x.cpp:2 - my secret file\n"
    with book.capture("info"):
        book.write_output("stdout", line)
        assert "secret" not in written(book)
    assert [entry.level for entry in book.entries()] == ["info", "error"]
    assert {entry.source for entry in book.entries()} == {"engine"}
    with book.capture("debug"):
        book.write_output("stdout", line)
        assert written(book).count("secret") == 2


def test_of_a_bar_only_the_latest_state_stays(book: LogBook) -> None:
    with book.capture("debug"):
        book.write_output("stdout", b"[INFO ] a - start\n")
        for step in range(1, 501):
            book.write_output("stdout", f"\r  |==>   | {step}/500 - 2.00it/s\x1b[K".encode())
        assert messages(book) == ["[INFO ] a - start", "  |==>   | 500/500 - 2.00it/s"]
        book.write_output("stdout", b"\n[INFO ] a - end\n")
        assert len(written(book).splitlines()) == 3
    assert messages(book)[-1] == "[INFO ] a - end"
    book.write_output("stdout", b"\r  |==>   | 1/2 - 2.00it/s\x1b[K")  # another one stands beside it
    book.write("info", "manager", "between")
    book.write_output("stdout", b"\r  |====| 2/2 - 2.00it/s\x1b[K")
    assert messages(book)[-3:] == ["  |==>   | 1/2 - 2.00it/s", "between", "  |====| 2/2 - 2.00it/s"]


@pytest.mark.parametrize("name", ["txt2img-verbose", "batch3-preview-tae", "color", "unicode-prompt"])
@pytest.mark.parametrize("build", ["master-97d2990", "pypi-0.4.7"])
def test_where_output_is_cut_does_not_matter(tmp_path: Path, build: str, name: str) -> None:
    data = (TRANSCRIPTS / build / f"{name}.stdout").read_bytes()
    whole, cut = LogBook(tmp_path), LogBook(tmp_path)
    whole.write_output("stdout", data + b"\n")
    for place in range(0, len(data), 7):
        cut.write_output("stdout", data[place : place + 7])
    cut.write_output("stdout", b"\n")
    assert messages(cut) == messages(whole)
    assert len(messages(whole)) > 20
    assert not [message for message in messages(whole) if re.search(r"[\x00-\x08\x0a-\x1f]", message)]


@given(st.lists(st.tuples(st.sampled_from(["stdout", "stderr"]), st.binary(max_size=300)), max_size=20))
def test_no_bytes_can_harm_it(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[tuple[str, bytes]]
) -> None:
    book = LogBook(tmp_path_factory.getbasetemp())
    for stream, data in pieces:
        book.write_output(stream, data)
    for line in book.lines(1000):
        assert len(line.splitlines()) == 1
        assert "\x1b" not in line


def test_a_line_without_end_is_cut_and_memory_is_bounded(book: LogBook) -> None:
    for _ in range(200):
        book.write_output("stdout", b"x" * 65536)
    assert max(len(message) for message in messages(book)) <= 2000
    assert sum(len(rest) for rest in book._carry.values()) <= 4096


def test_text_cannot_act_on_a_terminal_or_forge_a_line(book: LogBook) -> None:
    book.write(
        "info", "manager", "a\n2023-11-14T22:13:20.500Z ERROR   manager: forged\x1b]0;title\x07\x9b2J\u2028b"
    )
    (line,) = book.lines()
    assert line.splitlines()[1].startswith("    2023")
    assert len(line.splitlines()) == 2
    assert not re.search(r"[\x1b\x07\x9b\u2028]", line)


def raise_nested(secret: str) -> None:
    try:
        raise KeyError(secret)
    except KeyError as exc:
        raise ValueError(secret) from exc


def test_a_traceback_shows_the_way_and_not_the_words(book: LogBook) -> None:
    for level in ("info", "debug"):
        with book.capture(level):
            try:
                raise_nested("my secret")
            except ValueError:
                LOGGER.exception("it failed")
            text = written(book)
        if level == "info":
            assert "secret" not in text
            first, second, third = text.splitlines()
            assert first.endswith("it failed")
            assert re.fullmatch(r"    ValueError: \S+:\d+ test_\w+ > \S+:\d+ raise_nested", second)
            assert re.fullmatch(r"    KeyError: \S+:\d+ raise_nested", third)
        else:
            assert "KeyError: 'my secret'" in text
            assert "Traceback (most recent call last)" in text


def test_an_exception_that_caused_itself_ends() -> None:
    error = ValueError("x")
    error.__context__ = KeyError("y")
    error.__context__.__context__ = error
    record = LOGGER.makeRecord("n", logging.ERROR, "f", 1, "m", (), (type(error), error, None))
    assert len(message_of(record).splitlines()) <= 6


def test_a_record_that_cannot_be_put_together_stops_nobody(
    book: LogBook, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        logging.getLogger("sdmanager"), "propagate", False
    )  # pytest's own handler would raise
    with book.capture():
        LOGGER.error("%d", "no number")
        LOGGER.error("on")
    assert messages(book) == ["on"]
    assert "no number" in capsys.readouterr().err


def test_the_file_is_rotated_and_stays_small(book: LogBook, tmp_path: Path) -> None:
    with book.capture():
        for number in range(3500):
            book.write("info", "x", f"{number} {'y' * 1000}")
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "logs").glob("server.log*")}
    assert set(sizes) == {"server.log", "server.log.1", "server.log.2"}
    assert max(sizes.values()) <= 1 << 20
    assert min(sizes["server.log.1"], sizes["server.log.2"]) > 1 << 19
    assert "3499 " in written(tmp_path / "logs" / "server.log")


@pytest.mark.parametrize("is_capturing", [True, False])
def test_clearing_empties_memory_and_files(book: LogBook, tmp_path: Path, is_capturing: bool) -> None:
    folder = tmp_path / "logs"
    book.clear()
    assert not folder.exists()
    with book.capture():
        for _ in range(1500):
            book.write("info", "x", "y" * 1000)
        assert (folder / "server.log.1").exists()
        if is_capturing:
            book.clear()
            book.write("info", "x", "fresh")
    if not is_capturing:
        book.clear()
    assert messages(book) == (["fresh"] if is_capturing else [])
    assert sorted(path.name for path in folder.glob("server*")) == ["server.log"]
    assert len(written(folder / "server.log").splitlines()) == len(messages(book))


def test_books_at_once_have_files_of_their_own_and_hear_the_same(tmp_path: Path) -> None:
    first, second = LogBook(tmp_path), LogBook(tmp_path)
    with first.capture():
        with second.capture():
            LOGGER.info("both")
            first.write("info", "x", "one")
            second.write("info", "x", "two")
        LOGGER.info("alone")
    assert [messages(first), messages(second)] == [["both", "one", "alone"], ["both", "two"]]
    assert [len(written(tmp_path / name).splitlines()) for name in ("server.log", "server-2.log")] == [3, 2]
    with second.capture():
        assert second.path == tmp_path / "server.log"


WRITER = """
import sys
from pathlib import Path
from sdmanager.logbook import LogBook
book = LogBook(Path(sys.argv[1]))
with book.capture():
    print(book.path.name, flush=True)
    for number in range(2000):
        book.write("info", sys.argv[2], f"{number} {'y' * 700}")
    sys.stdin.read()
"""


def test_processes_at_once_do_not_write_into_one_file(tmp_path: Path) -> None:
    children = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), f"writer{number}"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for number in range(3)
    ]  # fmt: skip
    names = [child.stdout.readline().strip() for child in children]
    for child in children:
        child.communicate("")
        assert child.returncode == 0
    assert sorted(names) == ["server-2.log", "server-3.log", "server.log"]
    for number, name in enumerate(names):
        kept = [tmp_path / f"{name}.1", tmp_path / name]
        lines = "".join(path.read_text() for path in kept).splitlines()
        assert {line.split()[2] for line in lines} == {f"writer{number}:"}
        assert lines[-1].split()[3] == "1999"


def test_a_folder_that_cannot_be_written_costs_one_warning(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    book = LogBook(tmp_path / "file" / "logs")
    with book.capture():
        assert book.path is None
        LOGGER.info("on")
    assert [entry.level for entry in book.entries()] == ["warning", "info"]
    assert "goes on without it" in book.entries()[0].message
    assert str(tmp_path) not in book.entries()[0].message


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_costs_one_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "server.log").symlink_to("/dev/full")
    book = LogBook(tmp_path)
    with book.capture():
        assert book.path is not None
        for _ in range(3):
            LOGGER.info("on")
        assert book.path is None
    assert [entry.level for entry in book.entries()] == ["info", "warning", "info", "info"]
    assert "No space left" in book.entries()[1].message
    assert capsys.readouterr().err == ""


def test_threads_lose_nothing(book: LogBook) -> None:
    def work(name: str) -> None:
        for number in range(100):
            book.write("info", name, str(number))
            book.write_output(name, b"engine\n")
            LOGGER.info("log")

    with book.capture():
        threads = [threading.Thread(target=work, args=(str(number),)) for number in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(written(book).splitlines()) == 600
    assert len(book.entries(1000)) == 900
