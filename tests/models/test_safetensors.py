"""Safetensors headers: what they say, how they are cut short, and those that were made to do harm."""

from __future__ import annotations

import io
import json
import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors.numpy import save
from weights import safetensors_header

from sdmanager.models._header import MAX_TENSORS, DamagedError
from sdmanager.models._safetensors import MAX_HEADER, read_safetensors

MIB = 2**20


def read(data: bytes):
    return read_safetensors(io.BytesIO(data), len(data))


def framed(header: str | bytes, more: int = 0) -> bytes:
    data = header.encode() if isinstance(header, str) else header
    return struct.pack("<Q", len(data)) + data + bytes(more)


def one(**fields: object) -> str:
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | fields
    return json.dumps({"x": entry})


def two(first: tuple[int, int], second: tuple[int, int]) -> str:
    entries = {
        name: {"dtype": "U8", "shape": [end - begin], "data_offsets": [begin, end]}
        for name, (begin, end) in (("a", first), ("b", second))
    }
    return json.dumps(entries)


def test_what_the_real_library_writes():
    tensors = {
        "a.weight": np.zeros((4, 8), np.float16),
        "a.bias": np.zeros(4, np.float32),
        "scalar": np.zeros((), np.float32),
        "nothing": np.zeros((0, 3), np.float32),
        "count": np.zeros(2, np.int64),
        'quoted "name" \\ \u00e9 \n': np.zeros(1, np.uint8),
    }
    header = read(save(tensors, {"format": "pt", "note": 'braces } { and "quotes"'}))
    assert header.shapes == {name: array.shape for name, array in tensors.items()}
    assert header.bytes_by_type == {"F16": 64, "F32": 20, "I64": 16, "U8": 1}
    assert (header.parameters, header.quantisation) == (32 + 4 + 1 + 2 + 1, "F16")


@pytest.mark.parametrize("metadata", [None, {}, {"a": "b"}, {"a": "}{", "c": 'quotes " and \\'}])
def test_metadata_is_passed_by(metadata):
    header, size = safetensors_header({"x": ("F32", (2, 3))}, metadata)
    assert read(header + bytes(size - len(header))).shapes == {"x": (2, 3)}


@pytest.mark.parametrize(
    "header",
    [
        '{"x":{"data_offsets":[0,8],"shape":[2],"dtype":"F32"}}',
        ' {  "x" : { "dtype" : "F32" ,\n"shape" : [ 2 ] , "data_offsets" : [ 0 , 8 ] }\t}   '[1:],
        '{"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"__metadata__":{"a":"b"}}',
        '{"\\u0078":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
        '{"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"note":null}}',
    ],
)
def test_json_in_any_order_and_with_any_spaces(header):
    assert read(framed(header, 8)).shapes == {"x": (2,)}


@pytest.mark.parametrize(
    "name", ["", " ", "f16", "F16 ", "\x1b[31mF16", "F16\n", "F-16", "A" * 17, "É", "1F", 7, None]
)
def test_a_type_that_could_be_any_text(name):
    """It is shown as the quantisation, and written down."""
    with pytest.raises(DamagedError, match="does not describe the tensor 'x'"):
        read(framed(one(dtype=name), 8))


def test_a_type_that_nobody_knows_yet():
    assert read(framed(one(dtype="F9_E9M9_NEW_TYPE"), 8)).quantisation == "F9_E9M9_NEW_TYPE"


def test_a_file_without_tensors():
    for header in ("{}", "{ }   ", '{"__metadata__":{}}'):
        assert read(framed(header)).shapes == {}


def test_a_type_that_nobody_knows_is_taken_at_its_word():
    header = read(framed(one(dtype="Q3_X", data_offsets=[0, 3]), 3))
    assert header.quantisation == "Q3_X"


@pytest.mark.parametrize(("dtype", "size"), [("F4", 1), ("F6_E2M3", 3), ("F8_E4M3", 4), ("C64", 32)])
def test_types_of_all_widths(dtype, size):
    shape = [2] if dtype == "F4" else [4]
    assert read(framed(one(dtype=dtype, shape=shape, data_offsets=[0, size]), size)).quantisation == dtype


def test_gaps_and_more_at_the_end_do_no_harm():
    assert len(read(framed(two((0, 4), (6, 8)), 100)).shapes) == 2


def test_cut_short_anywhere():
    tensors = {"a": np.ones((3, 2), np.float16), "b": np.ones(3, np.float32)}
    whole = save(tensors, {"format": "pt"})
    for end in range(8, len(whole)):
        with pytest.raises(DamagedError):
            read(whole[:end])
    assert len(read(whole).shapes) == 2


def test_a_header_longer_than_the_file_says_so():
    with pytest.raises(DamagedError, match="should have 1,000 bytes, of 10 in all"):
        read(struct.pack("<Q", 1000) + b"{}")


DEEP = "[" * 900 + "]" * 900
HOSTILE = {
    "a length of 2^64-1": b"\xff" * 8 + b"{}",
    "a length of 2^63": struct.pack("<Q", 2**63) + b"{}",
    "a length of one more than there is": struct.pack("<Q", 3) + b"{}",
    "no JSON": framed("{hello}"),
    "no object": framed("[{}]"),
    "only a brace": framed("{"),
    "an open string": framed('{"x'),
    "no colon": framed('{"x" {}}'),
    "no value": framed('{"x":'),
    "no end": framed('{"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}', 8),
    "a comma at the end": framed('{"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},}', 8),
    "something after the end": framed(one() + "{}", 8),
    "an empty header": framed(""),
    "a number for a tensor": framed('{"x":1}'),
    "a list for a tensor": framed('{"x":[]}'),
    "a tensor of nothing": framed('{"x":{}}'),
    "a tensor with a tensor in it": framed('{"x":{"y":{}}}'),
    "a deep shape": framed(
        '{"x":{"dtype":"F32","shape":' + DEEP[:450] + DEEP[-450:] + ',"data_offsets":[0,8]}}', 8
    ),
    "a bomb of brackets": framed('{"x":' + "[" * 100_000),
    "a bomb of braces": framed('{"x":' * 100_000),
    "metadata with braces": framed('{"__metadata__":' + '{"a":' * 100_000),
    "metadata that does not end": framed('{"__metadata__":{"' + '\\"' * 100_000 + "}"),
    "metadata of a number": framed('{"__metadata__":1}'),
    "the same name twice": framed('{"x":' + one()[6:-1] + ',"x":' + one()[6:-1] + "}", 8),
    "the same name spelt otherwise": framed('{"x":' + one()[6:-1] + ',"\\u0078":' + one()[6:-1] + "}", 8),
    "a name of 600 bytes": framed(one().replace('"x"', f'"{"x" * 600}"'), 8),
    "no type": framed(one(dtype=None), 8),
    "a number for a type": framed(one(dtype=3), 8),
    "no shape": framed(one(shape=None), 8),
    "a negative dimension": framed(one(shape=[-2]), 8),
    "two negative dimensions": framed(one(shape=[-2, -1]), 8),
    "a dimension that is true": framed(one(shape=[2, True]), 8),
    "a dimension that is 2.0": framed(one(shape=[2.0]), 8),
    "a dimension of 1e999": framed('{"x":{"dtype":"F32","shape":[1e999],"data_offsets":[0,8]}}', 8),
    "NaN dimensions": framed('{"x":{"dtype":"F32","shape":[NaN],"data_offsets":[0,8]}}', 8),
    "a dimension of a hundred digits": framed(one(shape=[10**100]), 8),
    "dimensions that wrap": framed(one(shape=[2**32, 2**32, 2]), 8),
    "dimensions of 900 digits": framed(
        '{"x":{"dtype":"F32","shape":[' + "9" * 900 + '],"data_offsets":[0,8]}}', 8
    ),
    "no offsets": framed(one(data_offsets=None), 8),
    "one offset": framed(one(data_offsets=[8]), 8),
    "three offsets": framed(one(data_offsets=[0, 8, 8]), 8),
    "a negative offset": framed(one(data_offsets=[-8, 0]), 8),
    "offsets the wrong way round": framed(one(data_offsets=[8, 0]), 8),
    "offsets of an unknown type the wrong way round": framed(one(dtype="Q3_X", data_offsets=[8, 0]), 8),
    "offsets of another size": framed(one(data_offsets=[0, 4]), 8),
    "offsets past the end": framed(one(data_offsets=[1, 9]), 8),
    "an offset of 2^64": framed(one(data_offsets=[2**64 - 8, 2**64]), 8),
    "tensors that overlap": framed(two((0, 6), (5, 8)), 8),
    "a tensor within another": framed(two((0, 8), (2, 4)), 8),
    "two tensors in one place": framed(two((0, 4), (0, 4)), 8),
    "bytes that are no UTF-8": framed(one().encode().replace(b"F32", b"F\xff2"), 8),
    "an escape that is none": framed(one().replace('"x"', '"\\q"'), 8),
    "more tensors than any model": framed(
        "{"
        + ",".join(f'"{n}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}' for n in range(MAX_TENSORS + 1))
        + "}"
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_header_that_lies_is_refused(name):
    tracemalloc.start()
    with pytest.raises(DamagedError) as caught:
        read(HOSTILE[name])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(str(caught.value)) < 200
    assert peak < 20 * MIB


def test_there_are_enough_of_them():
    assert len(HOSTILE) > 40


@pytest.mark.parametrize(
    "filling",
    [
        b'{"__metadata__":{' + b'""' * (8 * MIB - 20),
        b'{"x":{' + b"[" * 15 * MIB,
        b'{"x":{"shape":[' + b"1," * 7 * MIB + b"1]}}",
        b" " * 15 * MIB,
    ],
    ids=["metadata", "brackets", "a shape", "spaces"],
)
def test_a_header_as_large_as_we_read_takes_no_more_than_itself(filling):
    data = framed(filling[: MAX_HEADER - 1])
    tracemalloc.start()
    with pytest.raises(DamagedError):
        read(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < MAX_HEADER + 2 * MIB


def test_a_larger_header_is_not_read(tmp_path):
    path = tmp_path / "x"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", 90_000_000) + b"{")
        file.truncate(24 * 10**9)
    tracemalloc.start()
    with path.open("rb") as file, pytest.raises(DamagedError, match="90,000,000 bytes, and 16 MiB"):
        read_safetensors(file, 24 * 10**9)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < MIB


WHOLE = save({"a": np.ones((3, 2), np.float16), "b": np.ones(3, np.float32)}, {"format": "pt"})


@given(st.binary(max_size=300))
@example(WHOLE[9:])
def test_any_bytes_after_the_brace(data):
    read_harmlessly(framed(b"{" + data))
    read_harmlessly(framed(b"{" + data + b"}", 300))


@given(st.integers(0, len(WHOLE) - 1), st.binary(min_size=1, max_size=9))
def test_a_good_file_with_some_bytes_changed(at, data):
    read_harmlessly(WHOLE[:at] + data + WHOLE[at + len(data) :])


_KEYS = st.sampled_from(["dtype", "shape", "data_offsets", "x", "__metadata__"])
_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["F32", "U8"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_KEYS, inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(_KEYS, _JSON, max_size=4))
def test_any_json(data):
    read_harmlessly(framed(json.dumps(data), 64))


def read_harmlessly(data: bytes) -> None:
    tracemalloc.start()
    try:
        read(data)
    except DamagedError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < MIB
