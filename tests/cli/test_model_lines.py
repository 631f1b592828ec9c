"""What is said about models, line by line: nothing in it can move the cursor of a terminal."""

from __future__ import annotations

import datetime
from pathlib import Path

from sdmanager.cli.model_lines import facts_lines, installed_lines, model_lines
from sdmanager.cli.output import printable
from sdmanager.models import (
    FileFacts,
    FileFormat,
    FileKind,
    InstalledFile,
    InstalledModel,
    ModelDefaults,
    Origin,
    Role,
)

WHEN = datetime.datetime(2026, 11, 21, tzinfo=datetime.UTC)
EVIL = Path("/models/\x1b[2Ja\r\n\u202eb\udce9.gguf")
SHOWN = r"/models/\x1b[2Ja\r\n\u202eb\udce9.gguf"


def model_at(path: Path) -> InstalledModel:
    file = InstalledFile(Role.MODEL, path, 10, 1, quantisation="F16")
    return InstalledModel("mine", (file,), ModelDefaults(), None, Origin.IMPORTED, WHEN)


def test_a_path_that_would_write_elsewhere_is_shown_as_python_writes_it():
    lines = list(model_lines("mine", model_at(EVIL), "ok", None))
    assert any(line.endswith(SHOWN) for line in lines)
    facts = FileFacts(
        FileFormat.GGUF, 10, Role.MODEL, FileKind.MODEL, None, frozenset({Role.MODEL}), "F16", 1, 5, False
    )
    lines += facts_lines(EVIL, facts)
    assert lines[-6].endswith(SHOWN)
    assert all(line.isprintable() for line in lines)


def test_what_can_be_printed_stays_as_it_is():
    assert printable("Über 模型 é.gguf") == "Über 模型 é.gguf"


def test_a_family_that_nobody_knows_is_called_unknown():
    [line] = installed_lines([model_at(Path("/x.gguf"))], {"mine": "ok"})
    assert " unknown " in line


def test_the_quantisation_is_that_of_the_part_that_draws():
    parts = (
        InstalledFile(Role.T5XXL, Path("/t5.gguf"), 100, 1, quantisation="F16"),
        InstalledFile(Role.DIFFUSION_MODEL, Path("/main.gguf"), 10, 1, quantisation="Q4_0"),
    )
    model = InstalledModel("mine", parts, ModelDefaults(), None, Origin.IMPORTED, WHEN)
    [line] = installed_lines([model], {"mine": "ok"})
    assert (" Q4_0 " in line, " F16 " in line) == (True, False)
