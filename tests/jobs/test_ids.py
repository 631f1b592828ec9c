"""Names of generations."""

from __future__ import annotations

import pytest

from sdmanager.jobs import generate_id
from sdmanager.jobs.ids import is_id


def test_ids_differ_and_fit_into_urls_and_file_names():
    ids = {generate_id() for _ in range(10_000)}
    assert len(ids) == 10_000
    assert all(len(name) == 36 and name.startswith("gen_") and is_id(name) for name in ids)


def test_all_of_the_random_bits_vary():
    bits = [f"{int(generate_id().removeprefix('gen_'), 16):0128b}" for _ in range(200)]
    assert all({each[n] for each in bits} == {"0", "1"} for n in range(128))


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "..",
        "../x",
        "a/b",
        "a\\b",
        "/a",
        "A",
        "a\n",
        "a\0",
        "-a",
        "_a",
        "é",
        "a" * 65,
        "a.b",
        "C:",
        "٣",
    ],
)
def test_what_is_no_id(text):
    assert not is_id(text)


@pytest.mark.parametrize("text", ["a", "0", "a-b_c", "a" * 64])
def test_what_may_be_an_id(text):
    assert is_id(text)
