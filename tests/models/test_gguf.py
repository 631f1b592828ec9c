"""GGUF headers: what they say, how they are cut short, and those that were made to do harm."""

from __future__ import annotations

import io
import struct
import tracemalloc

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from weights import GGML, gguf_head, gguf_header, pair, qwen3, tensor, text, typed, vocabulary

from sdmanager.models._gguf import MAX_HEADER, read_gguf
from sdmanager.models._header import MAX_TENSORS, DamagedError, UnreadableError

MIB = 2**20
BIG = 2**63


def u32(number: int) -> bytes:
    return struct.pack("<I", number)


def u64(number: int) -> bytes:
    return struct.pack("<Q", number)


class Zeros(io.RawIOBase):
    """A file with a header and zeros after it, as large as we like."""

    def __init__(self, header: bytes, size: int) -> None:
        self.header, self.size, self.at, self.bytes_read = header, size, 0, 0

    def seek(self, offset: int, whence: int = 0) -> int:
        assert whence == 0
        self.at = offset
        return offset

    def read(self, count: int = -1) -> bytes:
        assert count >= 0
        count = max(min(count, self.size - self.at), 0)
        data = self.header[self.at : self.at + count]
        self.at += count
        self.bytes_read += count
        return data + bytes(count - len(data))


def read(header: bytes, size: int | None = None):
    size = len(header) if size is None else size
    return read_gguf(Zeros(header, size), size)


SMALL = {"a.weight": ("Q8_0", (4, 64)), "a.bias": ("F32", (4,)), "scalar": ("F16", ())}


@pytest.mark.parametrize("version", [2, 3])
def test_names_shapes_types_and_metadata(version):
    metadata = {
        "general.architecture": "flux",
        "general.quantization_version": 2,
        "x": ["a", "bc"],
        "y": [1, 2],
        "z": 0.5,
    }
    header = read(*gguf_header(SMALL, metadata, version=version))
    assert header.shapes == {"a.weight": (4, 64), "a.bias": (4,), "scalar": ()}
    assert header.bytes_by_type == {"Q8_0": 4 * 2 * 34, "F32": 16, "F16": 2}
    assert (header.parameters, header.quantisation, header.architecture) == (4 * 64 + 4 + 1, "Q8_0", "flux")


def test_a_vocabulary_is_passed_by_whole():
    """It spans many windows, and what comes after it must be read right."""
    header = read(*gguf_header(typed("Q4_K", qwen3(2)), vocabulary()))
    assert header.shapes == qwen3(2)
    assert (header.architecture, header.quantisation) == ("qwen3", "Q4_K")


def test_words_that_are_longer_than_a_window():
    header = read(
        *gguf_header(SMALL, {"words": ["x" * MIB, "", "y" * 300_000, "z"], "general.architecture": "a"})
    )
    assert header.architecture == "a"
    assert len(header.shapes) == 3


@pytest.mark.parametrize("kind", [0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12])
def test_every_kind_of_number_is_passed_by(kind):
    size = {0: 1, 1: 1, 2: 2, 3: 2, 7: 1, 10: 8, 11: 8, 12: 8}.get(kind, 4)
    numbers = (
        text("one")
        + u32(kind)
        + bytes(size)
        + text("many")
        + u32(9)
        + u32(kind)
        + u64(1000)
        + bytes(1000 * size)
    )
    data = gguf_head(0, 3) + numbers + pair("general.architecture", "still right")
    assert read(data).architecture == "still right"


def test_the_alignment_is_heeded():
    header, size = gguf_header(SMALL, {"general.alignment": 4096}, alignment=4096)
    assert size == 4096 + 3 * 4096
    last = 4096 + 2 * 4096 + 2
    read(header, last)
    with pytest.raises(DamagedError, match="cut short"):
        read(header, last - 1)


def test_a_type_that_nobody_knows_is_taken_at_its_word():
    """Its size cannot be judged; where it begins can."""
    data = gguf_head(1, 0) + tensor("x", 250, (64, 64), 4096)
    assert read(data, 8192).bytes_by_type == {"TYPE_250": 0}
    assert read(data, 8192).quantisation is None
    with pytest.raises(DamagedError, match="cut short"):
        read(data, 4000)


@pytest.mark.parametrize("kind", GGML)
def test_sizes_of_types(kind):
    _, block, block_bytes = GGML[kind]
    assert read(*gguf_header({"x": (kind, (3, 512))})).bytes_by_type == {kind: 3 * 512 // block * block_bytes}


def test_absurd_counts_are_refused_at_once():
    for header in (gguf_head(BIG, 0), gguf_head(0, BIG)):
        file = Zeros(header, 24 * 10**9)
        with pytest.raises(DamagedError, match="claims 9,223,372,036,854,775,808"):
            read_gguf(file, file.size)
        assert file.bytes_read <= MIB


def test_a_piece_of_a_split_model_says_so():
    assert read(*gguf_header(SMALL, {"split.count": 3})).pieces == 3


def test_cut_short_anywhere():
    header, size = gguf_header(
        SMALL, {"general.architecture": "flux", "words": ["a", "bc"], "numbers": [1, 2, 3]}
    )
    whole = header + bytes(size - len(header))
    needed = size - 30  # what aligns the last tensor's end is not needed
    for end in range(4, needed):
        with pytest.raises(DamagedError):
            read(whole[:end])
    read(whole[:needed])


HOSTILE = {
    "2^63 tensors": gguf_head(BIG, 0),
    "2^64-1 pairs": gguf_head(0, 2 * BIG - 1),
    "more tensors than any model": gguf_head(MAX_TENSORS + 1, 0),
    "more pairs than any model": gguf_head(0, 65_537),
    "a key of 2^64-1 bytes": gguf_head(0, 1) + u64(2 * BIG - 1),
    "a key of 5000 bytes": gguf_head(0, 1) + text("x" * 5000) + u32(4) + u32(1),
    "a string of 2^63 bytes": gguf_head(0, 1) + text("k") + u32(8) + u64(BIG),
    "a string longer than the file": gguf_head(0, 1) + text("k") + u32(8) + u64(100_000),
    "an unknown kind of value": gguf_head(0, 1) + text("k") + u32(13),
    "an unknown kind of item": gguf_head(0, 1) + text("k") + u32(9) + u32(99) + u64(1),
    "2^63 numbers": gguf_head(0, 1) + text("k") + u32(9) + u32(0) + u64(BIG),
    "2^61 long numbers, which wrap to few": gguf_head(0, 1) + text("k") + u32(9) + u32(10) + u64(BIG // 4),
    "2^63 strings": gguf_head(0, 1) + text("k") + u32(9) + u32(8) + u64(BIG),
    "a list with a string of 2^64-1 bytes": gguf_head(0, 1)
    + text("k")
    + u32(9)
    + u32(8)
    + u64(1)
    + u64(2 * BIG - 1),
    "a list with a string of 2^63-1 bytes": gguf_head(0, 1)
    + text("k")
    + u32(9)
    + u32(8)
    + u64(2)
    + u64(BIG - 1)
    + bytes(9),
    "strings that go back by wrapping": gguf_head(0, 1)
    + text("k")
    + u32(9)
    + u32(8)
    + u64(2)
    + u64(2 * BIG - 8)
    + bytes(20),
    "more strings than there are": gguf_head(0, 1)
    + text("k")
    + u32(9)
    + u32(8)
    + u64(3)
    + text("a")
    + text("b"),
    "an alignment of nothing": gguf_head(0, 1) + pair("general.alignment", 0),
    "an alignment that is odd": gguf_head(0, 1) + pair("general.alignment", 33),
    "a tensor's name of 2^63 bytes": gguf_head(1, 0) + u64(BIG),
    "a tensor's name of 513 bytes": gguf_head(1, 0) + tensor("x" * 513, 0, (1,), 0) + bytes(64),
    "2^32-1 dimensions": gguf_head(1, 0) + text("x") + u32(2**32 - 1) + bytes(100),
    "nine dimensions": gguf_head(1, 0) + tensor("x", 0, (1,) * 9, 0) + bytes(64),
    "a dimension of 2^63": gguf_head(1, 0) + tensor("x", 0, (BIG,), 0) + bytes(64),
    "dimensions that wrap to few": gguf_head(1, 0) + tensor("x", 0, (2**32, 2**32), 0) + bytes(64),
    "dimensions that wrap to nothing": gguf_head(1, 0) + tensor("x", 0, (2**62, 2**62, 16), 0) + bytes(64),
    "dimensions of an unknown type that are absurd": gguf_head(1, 0)
    + tensor("x", 250, (BIG, BIG), 0)
    + bytes(64),
    "an offset of 2^64-1": gguf_head(1, 0) + tensor("x", 0, (1,), 2 * BIG - 1) + bytes(64),
    "an offset that wraps": gguf_head(1, 0) + tensor("x", 0, (16,), 2 * BIG - 64) + bytes(256),
    "rows that are no blocks": gguf_head(1, 0) + tensor("x", 2, (33,), 0) + bytes(64),
    "the same name twice": gguf_head(2, 0) + 2 * tensor("x", 0, (1,), 0) + bytes(64),
    "tensors that are not there": gguf_head(1, 0) + tensor("x", 0, (1024,), 0) + bytes(64),
    "only the magic": b"GGUF",
    "half a version": b"GGUF\x03\x00",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_header_that_lies_is_refused(name):
    file = Zeros(HOSTILE[name], len(HOSTILE[name]))
    with pytest.raises(DamagedError) as caught:
        read_gguf(file, file.size)
    assert len(str(caught.value)) < 200
    assert file.bytes_read <= 2 * MIB


@pytest.mark.parametrize("name", HOSTILE)
def test_a_header_that_lies_in_a_large_file_is_refused(name):
    """Where there is room for what it claims, bounds of our own must hold."""
    read_harmlessly(HOSTILE[name], 24 * 10**9)


UNREADABLE = {
    "version 0": (gguf_head(0, 0, 0), "version 0"),
    "version 1": (gguf_head(0, 0, 1), "version 1"),
    "version 4": (gguf_head(0, 0, 4), "version 4"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
    "an array of arrays": (gguf_head(0, 1) + text("k") + u32(9) + u32(9) + u64(1), "array of arrays"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_no_engine_reads(name):
    header, words = UNREADABLE[name]
    with pytest.raises(UnreadableError, match=words):
        read(header)


def test_memory_is_bounded_however_many_tensors_there_are():
    """As many tensors, with names as long, as are let through."""
    header = gguf_head(MAX_TENSORS, 0)
    header += b"".join(
        tensor(f"{number:0100d}", 0, (1, 1, 1, 1), 32 * number) for number in range(MAX_TENSORS)
    )
    file = Zeros(header, len(header) + 32 * MAX_TENSORS + 32)
    tracemalloc.start()
    assert len(read_gguf(file, file.size).shapes) == MAX_TENSORS
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 * MIB


def test_endless_empty_strings_end_at_the_limit():
    header = gguf_head(0, 1) + text("k") + u32(9) + u32(8) + u64((MAX_HEADER - MIB) // 8)
    assert read(header, 24 * 10**9).shapes == {}
    header = gguf_head(0, 1) + text("k") + u32(9) + u32(8) + u64(MAX_HEADER // 8)
    with pytest.raises(DamagedError, match="64 MiB"):
        read(header, 24 * 10**9)


def test_messages_show_names_safely():
    with pytest.raises(DamagedError) as caught:
        read(gguf_head(1, 0) + tensor("\x1b[31m\n" + "x" * 400, 2, (33,), 0) + bytes(64))
    assert "\x1b" not in str(caught.value)
    assert "\n" not in str(caught.value)


WHOLE = b"".join((gguf_header(SMALL, {"general.architecture": "flux", "words": ["a", "bc"]})[0], bytes(400)))


@given(st.binary(max_size=400), st.sampled_from([0, 4, 400, 24 * 10**9]))
@example(WHOLE[4:], 0)
def test_any_bytes_after_the_magic(data, more):
    read_harmlessly(b"GGUF" + data, more)


@given(st.integers(4, len(WHOLE) - 1), st.binary(min_size=1, max_size=9), st.sampled_from([0, 24 * 10**9]))
def test_a_good_header_with_some_bytes_changed(at, data, more):
    read_harmlessly(WHOLE[:at] + data + WHOLE[at + len(data) :], more)


def read_harmlessly(data: bytes, more: int) -> None:
    file = Zeros(data, len(data) + more)
    tracemalloc.start()
    try:
        read_gguf(file, file.size)
    except (DamagedError, UnreadableError):
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 8 * MIB
    assert file.bytes_read <= MAX_HEADER + MIB
