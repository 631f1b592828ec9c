"""Models by the names of others. Pure."""

from __future__ import annotations

from pathlib import Path

import pytest

from sdmanager.server import ModelEntry
from sdmanager.server.a1111.checkpoints import match, row, title

DIGEST = "0123456789abcdef" * 4


def entry(name: str, file: str, sha256: str | None = None) -> ModelEntry:
    return ModelEntry(name, "sd1", Path("/home/someone/models") / file, sha256, 0, {})


TURBO = entry("sd-turbo", "sd_turbo.fp16.safetensors", DIGEST)
DEMO = entry("demo", "diffusion_model.safetensors")
OTHER = entry("other", "diffusion_model.safetensors")
ALL = [DEMO, OTHER, TURBO]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("sd-turbo", TURBO),
        ("SD-Turbo", TURBO),
        (f"sd-turbo [{DIGEST[:10]}]", TURBO),
        ("sd-turbo [ffffffffff]", TURBO),
        (DIGEST[:10], TURBO),
        (DIGEST.upper(), TURBO),
        ("sd_turbo.fp16.safetensors", TURBO),
        ("sd_turbo.fp16", TURBO),
        (" demo ", DEMO),
        # Two have this file name.
        ("diffusion_model.safetensors", None),
        ("turbo", None),
        ("", None),
        ("None", None),
    ],
)
def test_a_model_is_found_by_its_names(wanted, found):
    assert match(wanted, ALL) == found


def test_a_name_goes_before_the_file_of_another():
    named = entry("sd_turbo.fp16", "x.safetensors")
    assert match("sd_turbo.fp16", [TURBO, named]) == named


def test_a_title_has_a_hash_where_it_is_known():
    assert title(TURBO) == "sd-turbo [0123456789]"
    assert title(DEMO) == "demo"


def test_a_row_has_no_path():
    found = row(TURBO)
    assert found == {
        "title": "sd-turbo [0123456789]", "model_name": "sd-turbo", "hash": "0123456789", "sha256": DIGEST,
        "filename": "sd_turbo.fp16.safetensors", "config": None,
    }  # fmt: skip
    assert "someone" not in str(found)
