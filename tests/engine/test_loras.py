"""LoRAs by name: what a prompt's tags mean to the engine, and that it gets none but ours."""

from __future__ import annotations

import contextlib
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdmanager.engine.loras import (
    WantedLora,
    as_asked,
    file_names,
    link_name,
    tagged,
    wanted_loras,
    without_suffix,
)
from sdmanager.errors import InvalidRequestError
from sdmanager.generation import ImageRequest, Lora

# As the engine's source has it (examples/common/common.cpp); older builds let a name hold '>'.
ENGINE_TAGS = (re.compile(r"<lora:([^:>]+):([^>]+)>"), re.compile(r"<lora:([^:]+):([^>]+)>"))

SECRET = "a very secret prompt"


def asked(prompt: str, **fields: object) -> list[tuple[str, float, bool]]:
    return [
        (w.lora.name, w.lora.weight, w.high_noise)
        for w in wanted_loras(ImageRequest(prompt=prompt, **fields))[1]
    ]


def rest(prompt: str) -> str:
    return wanted_loras(ImageRequest(prompt=prompt))[0]


def engine_reads(prompt: str) -> list[str]:
    """The names that the engine would look up, as it walks through a prompt."""
    return [match[1] for match in ENGINE_TAGS[0].finditer(prompt)]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a cat <lora:detail:0.5>", [("detail", 0.5, False)]),
        ("<lora:a:1><lora:b:-2>", [("a", 1, False), ("b", -2, False)]),
        ("<lora:sub/a b.v1:1>", [("sub/a b.v1", 1, False)]),
        ("<lora:|high_noise|a:.5>", [("a", 0.5, True)]),
        ("<lora:a: 1 >", [("a", 1, False)]),
        ("<lora:a:1e-1>", [("a", 0.1, False)]),
        ("<lora:a:1:0.5:lbw=x>", [("a", 1, False)]),
        ("<lora:灯台:1>", [("灯台", 1, False)]),
        ("<lora:a\nb:1>", [("a\nb", 1, False)]),
        ("twice <lora:a:1> and <lora:a:1>", [("a", 1, False)] * 2),
    ],
)
def test_tags_are_read_as_the_engine_reads_them(prompt, expected):
    assert asked(prompt) == expected
    assert len(engine_reads(prompt)) == len(expected)
    assert "lora" not in rest(prompt)


@pytest.mark.parametrize(
    "prompt",
    [
        "<lora:a>",
        "<lora::1>",
        "<lora:a:>",
        "<LORA:a:1>",
        "< lora:a:1>",
        "<lora:a:1",
        "lora:a:1>",
        "<lyco:a:1>",
        " x ",
    ],
)
def test_what_the_engine_takes_for_no_tag_stays_text(prompt):
    assert engine_reads(prompt) == []
    assert asked(prompt) == []
    assert rest(prompt) == prompt


@pytest.mark.parametrize(
    ("prompt", "left"),
    [
        ("a cat <lora:a:1>", "a cat"),
        ("<lora:a:1> a cat", "a cat"),
        ("a <lora:a:1> cat", "a cat"),
        ("a cat,<lora:a:1><lora:b:1> lit", "a cat, lit"),
        ("<lora:a:1>", ""),
    ],
)
def test_a_tag_leaves_the_prompt_that_one_would_write_without_it(prompt, left):
    assert rest(prompt) == left


def test_tags_of_the_negative_prompt_are_text_as_for_the_engine():
    assert asked("x", negative_prompt="<lora:a:1>") == []


def test_structured_loras_come_first_and_leave_the_prompt_alone():
    loras = [Lora(name="b", weight=0.5)]
    assert asked(" x <lora:a:1>", loras=loras) == [("b", 0.5, False), ("a", 1, False)]
    assert wanted_loras(ImageRequest(prompt=" x ", loras=loras))[0] == " x "


@pytest.mark.parametrize(
    "tag",
    [
        "<lora:a:x>",
        "<lora:a: >",
        "<lora:a:nan>",
        "<lora:a:inf>",
        "<lora:a:11>",
        "<lora:a:-10.1>",
        "<lora:a:0x1>",
        f"<lora:{'a' * 201}:1>",
        "<lora:|high_noise|:1>",
        "<lora:a::1>",
    ],
)
def test_a_tag_that_the_engine_would_drop_silently_is_refused(tag):
    with pytest.raises(InvalidRequestError, match="LoRA tag 2 in the prompt") as caught:
        wanted_loras(ImageRequest(prompt=f"{SECRET} <lora:a:1> {tag}"))
    told = f"{caught.value} {caught.value.hint} {caught.value.details}"
    assert SECRET not in told
    assert "aaa" not in told
    assert "<lora:NAME:WEIGHT>" in (caught.value.hint or "")


@pytest.mark.parametrize(
    "prompt", ["<lo<lora:a:1>ra:/etc/x:1>", "<<lora:a:1>lora:b:1>", "<lora<lora:a:1>:../x:1>"]
)
def test_a_tag_inside_a_tag_is_refused(prompt):
    """Taking the inner one out would make the outer one whole."""
    with pytest.raises(InvalidRequestError, match="inside another"):
        wanted_loras(ImageRequest(prompt=prompt))


def test_the_number_of_loras_is_limited():
    loras = [Lora(name="a")] * 10
    assert len(asked("<lora:a:1>" * 6, loras=loras)) == 16
    with pytest.raises(InvalidRequestError, match="17 LoRAs"):
        wanted_loras(ImageRequest(prompt="<lora:a:1>" * 7, loras=loras))


@pytest.mark.parametrize("piece", ["<lora:", "<lora:a:", "<lora:a", "<lora:a:1", "<", " ", ">"])
def test_a_huge_prompt_takes_no_time(piece):
    """Searching for the end of each open tag took minutes."""
    prompt = piece * (1_000_000 // len(piece)) + "x"
    began = time.process_time()
    with contextlib.suppress(InvalidRequestError):
        assert asked(prompt) == []
    assert time.process_time() - began < 5


@pytest.mark.parametrize("start", ["<lora:", "<lora:a:", "x <lora:a:1> <lora:"])
@pytest.mark.parametrize("end", ["", ">"])
def test_a_tag_that_does_not_end_is_refused(start, end):
    """The engine searched for its end until its stack was full, and crashed."""
    with pytest.raises(InvalidRequestError, match="does not end"):
        wanted_loras(ImageRequest(prompt=f"{start}{'x' * 5000}{end}"))
    assert wanted_loras(ImageRequest(prompt=f"{'x' * 5000} <lora:x"))[0].endswith("x <lora:x")


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("a", ("a.safetensors", "a.gguf")),
        ("a.gguf", ("a.gguf",)),
        ("sub/A.SafeTensors", ("sub/A.SafeTensors",)),
        ("a.pt", ("a.pt.safetensors", "a.pt.gguf")),
        ("v1.5", ("v1.5.safetensors", "v1.5.gguf")),
        ("..a", ("..a.safetensors", "..a.gguf")),
        ("a b", ("a b.safetensors", "a b.gguf")),
    ],
)
def test_the_ending_may_be_left_out(name, files):
    assert file_names(WantedLora(Lora(name=name), "x")) == files


BAD_NAMES = [
    "/etc/passwd",
    "/",
    "..",
    "../a",
    "a/../b",
    "a/..",
    "./a",
    "a//b",
    "a/",
    "C:/a",
    "C:a",
    "\\\\host\\a",
    "..\\a",
]
BAD_NAMES += ["a\\b", "a.safetensors:stream", " ", ".. /a", "... ", "a/. ./b", "//host/a", "..\n"]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_path_is_refused(name):
    with pytest.raises(InvalidRequestError, match="not by a path") as caught:
        file_names(WantedLora(Lora(name=name), "x"))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("number", "file", "link"),
    [
        (1, "a.safetensors", "1-a.safetensors"),
        (2, "sub/my lora (v1.5)>.GGUF", "2-my_lora_v1_5_.gguf"),
        (3, "灯台.gguf", "3-_.gguf"),
        (4, f"{'a' * 190}.gguf", f"4-{'a' * 40}.gguf"),
        (5, "x.gguf.safetensors", "5-x_gguf.safetensors"),
    ],
)
def test_a_link_has_a_safe_name_that_may_be_recognised(number, file, link):
    assert link_name(number, file) == link


@pytest.mark.parametrize(
    ("names", "prompt", "told"),
    [
        ([], "a <lora:ink:1> cat", "a <lora:ink:1> cat"),
        (["ink", "sub/a b.gguf"], "a cat", "<lora:ink:0.5><lora:sub/a b.gguf:0.5>a cat"),
        (["ink"], "a <lora:glow:1> cat", "<lora:ink:0.5>a <lora:glow:1> cat"),
        (["ink"], "a cat <lora:open", "<lora:ink:0.5>a cat <lora:open"),
        (["a>b", "|high_noise|x", "ink"], "a cat", "<lora:ink:0.5>a cat"),
    ],
)
def test_a_prompt_that_tells_all_loras_asks_for_the_same_ones(names, prompt, told):
    loras = [Lora(name=name, weight=0.5) for name in names]
    assert as_asked(ImageRequest(prompt=prompt, loras=loras)) == told
    tellable = [lora for lora in loras if "|" not in lora.name and ">" not in lora.name]
    assert asked(told) == asked(prompt, loras=tellable)


ALPHABET = st.sampled_from(
    ["<lora:", ":", ">", "a", "/", "..", " ", "1", "|high_noise|", "\n", "<", "lora", "0.5"]
)


@given(st.lists(ALPHABET, max_size=30).map("".join), st.integers(0, 3))
def test_the_engine_finds_our_tags_and_no_other(text, count):
    """Whatever the caller writes, each tag that is read is one of ours: what remains open cannot swallow it."""
    request = ImageRequest(prompt=f"x{text}", loras=[Lora(name=f"n{i}") for i in range(count)])
    try:
        prompt, wanted = wanted_loras(request)
    except InvalidRequestError:
        return
    used = [(one, link_name(i, "n.gguf")) for i, one in enumerate(wanted)]
    made = tagged(prompt, used)
    names = [("|high_noise|" if one.high_noise else "") + without_suffix(link) for one, link in used]
    assert engine_reads(made) == names
    found = list(ENGINE_TAGS[1].finditer(made))[: len(used)]
    assert [match[1] for match in found] == names
    assert made.endswith(prompt)


@pytest.mark.parametrize("weight", [1, 0.8, -0.123456, 1e-7, 10, -10])
def test_a_weight_reaches_the_engine(weight):
    made = tagged("x", [(WantedLora(Lora(name="a", weight=weight), "x"), "1-a.gguf")])
    match = ENGINE_TAGS[0].match(made)
    assert match
    assert float(match[2]) == pytest.approx(weight, rel=1e-5)
