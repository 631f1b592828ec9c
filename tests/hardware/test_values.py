"""What is believed of what drivers say, whatever they say."""

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdmanager.hardware import Gpu
from sdmanager.hardware._nvidia import NvidiaAnswer, merge, parse_library, parse_smi
from sdmanager.hardware._tree import Tree
from sdmanager.hardware._values import believable_vram, clean_text, parse_number, pci_address

GIB = 1 << 30
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=5,
)
FIELDS = (
    "name",
    "total",
    "free",
    "capability",
    "pci",
    "mig",
    "profile",
    "empty",
    "memory_error",
    "version",
    "error",
)
KINDS = st.sampled_from(["gpu", "driver", "init", "lost", "end", "else"])


def believable(gpu):
    assert gpu.total_vram is None or 0 < gpu.total_vram <= 16 << 40
    assert gpu.free_vram is None or 0 <= gpu.free_vram <= gpu.total_vram
    assert all(text is None or text.isprintable() for text in (gpu.name, gpu.driver, gpu.pci))
    json.dumps(gpu.to_json())


@given(
    st.lists(
        st.builds(
            lambda kind, facts: {**facts, "kind": kind},
            KINDS,
            st.dictionaries(st.sampled_from(FIELDS), ANYTHING),
        )
    )
)
def test_no_answer_of_the_library_raises_or_invents(lines):
    answer = parse_library("\n".join(map(json.dumps, lines)).encode())
    for gpu in answer.gpus if answer else ():
        believable(gpu)
    for problem in answer.problems if answer else ():
        assert problem.isprintable()


@given(st.binary())
def test_no_bytes_raise(data):
    parse_library(data)
    assert parse_smi(data) == ()


@given(st.lists(st.text(st.characters(exclude_characters=",\r\n")), min_size=6, max_size=8))
def test_no_row_of_the_tool_raises_or_invents(cells):
    for gpu in parse_smi(", ".join(["00000000:01:00.0", *cells]).encode("utf-8", "replace")):
        believable(gpu)


@pytest.mark.parametrize(
    ("told", "believed"),
    [
        ((2, 1), (2, 1)),
        ((2, 0), (2, 0)),
        ((2, 2), (2, 2)),
        ((2, 3), (None, None)),
        ((0, 0), (None, None)),
        ((-1, -2), (None, None)),
        ((2, -1), (2, None)),
        ((16 << 40, 1), (16 << 40, 1)),
        (((16 << 40) + 1, 1), (None, None)),
        ((None, 1), (None, None)),
        ((2, None), (2, None)),
        ((True, False), (None, None)),
        (("2", "1"), (None, None)),
        ((2.0, 1.0), (None, None)),
    ],
)
def test_memory_that_cannot_be_true_is_unknown(told, believed):
    assert believable_vram(*told) == believed


@pytest.mark.parametrize(
    "text", ["[N/A]", "[Not Supported]", "[Unknown Error]", "N/A", "ERR!", "", " \n", b"\x00\x01", None, 7]
)
def test_texts_without_a_fact_are_none(text):
    assert clean_text(text) is None


@given(st.text() | st.binary())
def test_texts_can_be_shown(text):
    cleaned = clean_text(text)
    assert cleaned is None or (cleaned.isprintable() and 0 < len(cleaned) <= 120)


@given(st.text())
def test_numbers_and_addresses_never_raise(text):
    parse_number(text)
    parse_number(text, 16)
    pci_address(text)


@pytest.mark.parametrize(
    ("told", "address"),
    [
        ("00000000:01:00.0", "0000:01:00.0"),
        ("0000:C1:00.0", "0000:c1:00.0"),
        ("0000000F:01:00", "000f:01:00.0"),
        ("00010000:E1:00.0", "10000:e1:00.0"),
        ("[N/A]", None),
        (None, None),
        (5, None),
    ],
)
def test_addresses_are_written_as_sysfs_does(told, address):
    assert pci_address(told) == address


def seen(pci, vendor="nvidia", driver="580.65.06", unified=None):
    return Gpu(vendor, None, None, None, driver, unified_memory=unified, pci=pci)


def told(name, pci):
    return Gpu("nvidia", name, 2, 1, "580.65.06", pci=pci)


def names(cards, answers, complete=True):
    gpus, problems = merge(cards, NvidiaAnswer(tuple(answers), complete=complete))
    return [gpu.name or gpu.vendor for gpu in gpus], len(problems)


def test_cards_are_brought_together_by_their_addresses():
    cards = [seen("0000:01:00.0"), seen("0000:02:00.0", "amd"), seen("0000:03:00.0")]
    answers = [told("third", "0000:03:00.0"), told("first", "0000:01:00.0")]
    assert names(cards, answers) == (["first", "amd", "third"], 0)


def test_instances_stand_in_the_place_of_their_card():
    cards = [seen("0000:01:00.0"), seen("0000:02:00.0", "amd")]
    assert names(cards, [told("a", "0000:01:00.0"), told("b", "0000:01:00.0")]) == (["a", "b", "amd"], 0)


def test_cards_without_an_address_take_the_places_that_are_left():
    cards = [seen("0000:01:00.0"), seen("0000:03:00.0")]
    assert names(cards, [told("a", "0000:03:00.0"), told("b", None)]) == (["b", "a"], 0)


def test_cards_that_the_system_does_not_list_come_last():
    assert names([seen("0000:01:00.0", "amd")], [told("a", "0000:05:00.0")]) == (["amd", "a"], 0)


def test_a_card_that_the_driver_does_not_offer_is_kept_and_reported():
    cards = [seen("0000:01:00.0"), seen("0000:03:00.0")]
    assert names(cards, [told("a", "0000:01:00.0")]) == (["a", "nvidia"], 1)
    assert names(cards, [told("a", "0000:01:00.0")], complete=False) == (["a", "nvidia"], 0)


def test_a_card_without_a_driver_is_not_missed():
    assert names([seen("0000:01:00.0", driver=None)], []) == (["nvidia"], 0)


def test_what_a_registry_remembers_goes_where_the_driver_knows_better():
    cards = [seen(None), seen(None)]
    assert names(cards, [told("a", "0000:01:00.0")]) == (["a"], 0)
    assert names(cards, [], complete=False) == (["nvidia", "nvidia"], 0)
    assert names([seen(None, unified=True)], []) == (["nvidia"], 0)


def test_a_file_is_read_up_to_its_limit(tmp_path):
    (tmp_path / "file").write_bytes(b"x" * 100)
    assert Tree(tmp_path).read("/file", 10) == b"x" * 10
    assert Tree(tmp_path).read("file") == b"x" * 100


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
def test_what_is_no_file_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "folder").mkdir()
    tree = Tree(tmp_path)
    assert [tree.read(name) for name in ("pipe", "loop", "folder", "gone", "a\0b")] == [None] * 5
    assert [tree.names(name) for name in ("pipe", "loop", "gone", "a\0b")] == [[]] * 4
    assert [tree.target(name) for name in ("pipe", "folder", "gone", "loop")] == [None, None, None, "loop"]
    assert [tree.exists(name) for name in ("pipe", "loop", "gone", "a\0b")] == [True, False, False, False]
