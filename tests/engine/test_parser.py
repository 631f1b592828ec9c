"""Parsing what the engine prints: recorded runs, any cut of them, and text that only looks like them."""

from __future__ import annotations

import itertools
import os
import random
import tracemalloc
from dataclasses import fields

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded import SCENARIOS, expected_events, parse, parse_recorded, run_of, stream

from sdmanager.engine import output as out
from sdmanager.engine.parser import LINE_LIMIT, OutputParser

DRAWING = [name for name in SCENARIOS if b"generating image:" in stream(name, "stdout")]
VERBOSE = [name for name in SCENARIOS if name.endswith("unicode-prompt")]
RECORDED_PROMPT = "灯台 🗼 café\nsecond line"


def same(ours: object, expected: object) -> bool:
    if type(ours) is not type(expected):
        return False
    pairs = [(getattr(ours, field.name), getattr(expected, field.name)) for field in fields(expected)]
    return all(a == (pytest.approx(b, rel=1e-3) if isinstance(b, float) else b) for a, b in pairs)


def steps_of(events: list[object]) -> list[tuple[int, int]]:
    return [(event.step, event.total) for event in events if isinstance(event, out.Step)]


def fed_in_pieces(pieces: list[tuple[str, bytes]], **how: object) -> list[object]:
    parser = OutputParser(**how)
    events = [event for name, data in pieces for event in parser.feed(name, data)]
    return [*events, *parser.close()]


def cut(data: bytes, places: list[int]) -> list[bytes]:
    ends = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(ends)]


def test_there_are_transcripts_of_both_builds():
    assert len(SCENARIOS) >= 36
    assert len(DRAWING) >= 12


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_recorded_run_means_what_was_read_by_eye(scenario):
    ours, expected = parse_recorded(scenario), expected_events(scenario)
    differences = [
        (a, b) for a, b in itertools.zip_longest(ours, expected) if a is None or b is None or not same(a, b)
    ]
    assert not differences


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_single_bytes_give_the_same_events(scenario):
    pieces = [
        (name, data[i : i + 1])
        for name in ("stdout", "stderr")
        for data in [stream(scenario, name)]
        for i in range(len(data))
    ]
    assert fed_in_pieces(pieces) == parse_recorded(scenario)


@given(st.sampled_from(SCENARIOS), st.lists(st.integers(0, 100_000), max_size=40))
@settings(max_examples=80, deadline=None)
def test_any_cut_gives_the_same_events(scenario, places):
    pieces = [("stdout", piece) for piece in cut(stream(scenario, "stdout"), places)]
    pieces += [("stderr", piece) for piece in cut(stream(scenario, "stderr"), places)]
    assert fed_in_pieces(pieces) == parse_recorded(scenario)


@pytest.mark.slow
@given(st.sampled_from(SCENARIOS), st.lists(st.integers(0, 100_000), max_size=300))
@settings(max_examples=3000, deadline=None)
def test_any_cut_gives_the_same_events_thoroughly(scenario, places):
    pieces = [("stdout", piece) for piece in cut(stream(scenario, "stdout"), places)]
    assert fed_in_pieces(pieces) == parse(stream(scenario, "stdout"))


@given(
    st.sampled_from(SCENARIOS),
    st.lists(st.integers(0, 100_000), max_size=15),
    st.lists(st.integers(0, 100_000), max_size=15),
    st.randoms(use_true_random=False),
)
@settings(max_examples=80, deadline=None)
def test_streams_that_interleave_do_not_disturb_each_other(scenario, out_places, err_places, rng):
    queues = {
        "stdout": cut(stream(scenario, "stdout"), out_places),
        "stderr": cut(stream(scenario, "stderr"), err_places),
    }
    parser = OutputParser()
    seen: dict[str, list[object]] = {"stdout": [], "stderr": []}
    while any(queues.values()):
        name = rng.choice([name for name, pieces in queues.items() if pieces])
        seen[name] += parser.feed(name, queues[name].pop(0))
    assert not parser.close()  # every recorded stream ends with a line break
    for name, events in seen.items():
        assert events == parse(stream(scenario, name))


LINES = st.sampled_from(
    [
        "[INFO ] a.cpp:1 - generating image: 1/1 - seed 7",
        "[INFO ] a.cpp:1",
        " - decoding 2 latents",
        "[INFO ] a.cpp:1  - decoding 2 latents",
        "[INFO ] a.cpp:1  - decoding 2 latents   ",
        "[ERROR] a.cpp:1  - x",
        "[WARN ] a.cpp:1  - ",
        "[INFO ] a.cpp:1  - Version: SDXL ",
        "  |==>  | 1/2 - 2.00it/s",
        "  |=====| 2/2 - 2.00s/it",
        "  |##   | 1/2 - 2.00MB/s",
        "",
        " ",
        "\x1b[32m",
        "\x1b",
        "[K",
        "é\u2028\u0085",
        "\0",
    ]
)
ENDS = st.sampled_from(["\n", "\r", "\r\n", "\x1b[K", "\x1b[K\n", "\n\n", ""])


@given(
    st.lists(st.tuples(LINES, ENDS), max_size=12),
    st.lists(st.integers(0, 400), max_size=12),
    st.lists(LINES, max_size=3),
)
@settings(max_examples=250, deadline=None)
def test_any_cut_of_odd_lines_gives_the_same_events(lines, places, prompt):
    data = "".join(text + end for text, end in lines).encode()
    how = {"steps": 5, "prompt": "\n".join(prompt)}
    whole = fed_in_pieces([("stdout", data)], **how)
    assert fed_in_pieces([("stdout", piece) for piece in cut(data, places)], **how) == whole
    assert fed_in_pieces([("stdout", data[i : i + 1]) for i in range(len(data))], **how) == whole


def test_a_header_and_a_message_on_two_lines_are_no_milestone():
    """`\\s` matched line breaks, so that the answer depended on where the stream was cut."""
    assert parse(b"[INFO ] a.cpp:1\n - decoding 2 latents\n") == []


def test_a_million_random_bytes_raise_nothing():
    rng = random.Random(20260)
    parser = OutputParser(20, "a prompt")
    left = 1_000_000
    while left > 0:
        piece = rng.randbytes(rng.randrange(1, 5000))
        parser.feed(rng.choice(["stdout", "stderr"]), piece)
        left -= len(piece)
    parser.close()


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_damaged_transcripts_raise_nothing(scenario):
    rng = random.Random(scenario)
    original = stream(scenario, "stdout")[-6000:] + stream(scenario, "stderr")
    for _ in range(8):
        data = bytearray(original)
        for _ in range(rng.choice([1, 10, 200])):
            place = rng.randrange(len(data) or 1)
            data[place : place + rng.randrange(3)] = rng.choice(
                [b"", b"9" * 40, b"\n", b"\r", rng.randbytes(3)]
            )
        events = parse(bytes(data), steps=20)
        seen = steps_of(events)
        assert all(1 <= step <= total <= 20 for step, total in seen)


@given(st.text(alphabet="0123456789/.- |=>#[]INFOWARN ERR:its/MBG\x1bK\r\n٣", max_size=300))
@settings(max_examples=150, deadline=None)
def test_text_from_the_engines_alphabet_raises_nothing(text):
    parse(text.encode())


@pytest.mark.parametrize(
    "number", ["9" * 400, "٣", "0", "1" * 12], ids=["endless", "arabic", "zero", "twelve digits"]
)
def test_odd_numbers_raise_nothing(number):
    text = (
        f"[INFO ] a.cpp:1 - generating image: {number}/{number} - seed {number}\n"
        f"[INFO ] a.cpp:1 - total params memory size = {number}.00MB (VRAM {number}.0MB, RAM {number}.0MB)\n"
        f"  |=>| {number}/{number} - {number}.00it/s\n  |=>| {number}/{number} - 0.00it/s\n"
        f"  |=>| {number}/{number} - {number}.00GB/s\n"
    )
    parse(text.encode())


# --- lines that are too long


def test_an_endless_line_is_kept_in_bounded_memory():
    parser = OutputParser()
    tracemalloc.start()
    try:
        for _ in range(200):
            assert parser.feed("stdout", b"x" * 65536) == []
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2 * 1024 * 1024
    assert len(parser._lines["stdout"]._rest) <= LINE_LIMIT + 4


def test_the_end_of_an_endless_line_is_no_start_of_a_line():
    parser = OutputParser()
    parser.feed("stdout", b"x" * (LINE_LIMIT + 100))
    assert parser.feed("stdout", b"[ERROR] a.cpp:1 - not a line of its own\n") == []
    assert parser.feed("stdout", b"[ERROR] a.cpp:1 - a line\n") == [out.LogLine(out.LogLevel.ERROR, "a line")]


@pytest.mark.parametrize("surplus", range(-4, 5))
@pytest.mark.parametrize("end", [b"\n", b"\r", b"\x1b[K"])
def test_lines_about_the_limit_do_not_depend_on_the_cut(surplus, end):
    """A line over the limit was an event when it came in one piece, and none when it came in two."""
    head = b"[ERROR] a.cpp:1 - "
    line = head + b"x" * (LINE_LIMIT + surplus - len(head)) + end
    data = line + b"[ERROR] a.cpp:2 - next" + end
    near = len(line) - len(end) - 3
    for places in ([], [near], range(near, near + 12), range(near, near + 12, 2), range(0, len(data), 65536)):
        pieces = [("stdout", piece) for piece in cut(data, list(places))]
        messages = [event.message for event in fed_in_pieces(pieces)]
        assert messages[-1] == "next"
        assert len(messages) == (2 if surplus <= 0 else 1)


def test_a_bar_behind_an_endless_one_is_seen():
    """The escape code that ends the endless line may itself be cut."""
    bar = b"\x1b[K  |==| 1/2 - 1.00MB/s\x1b[K"
    for place in range(4):
        parser = OutputParser()
        parser.feed("stdout", b"x" * (LINE_LIMIT + 100) + bar[:place])
        assert len(parser.feed("stdout", bar[place:])) == 1


# --- bytes


def test_a_character_in_two_pieces_is_whole():
    data = "[ERROR] a.cpp:1 - café 灯台\n".encode()
    for place in range(len(data)):
        events = fed_in_pieces([("stdout", data[:place]), ("stdout", data[place:])])
        assert events == [out.LogLine(out.LogLevel.ERROR, "café 灯台")]


def test_a_line_cut_inside_a_character_keeps_the_next_line():
    data = b"[ERROR] a.cpp:1 - caf\xc3\n[ERROR] a.cpp:2 - next\n"
    assert [event.message for event in parse(data)] == ["caf\ufffd", "next"]


@pytest.mark.parametrize("char", ["\u2028", "\u0085", "\u2029", "\x0b", "\x0c", "\x1c"])
def test_only_the_engines_own_line_breaks_end_a_line(char):
    text = f"[ERROR] a.cpp:1 - before{char}[ERROR] a.cpp:2 - after\n"
    assert [event.message for event in parse(text.encode())] == [
        f"before{char}[ERROR] a.cpp:2 - after".rstrip()
    ]
    assert parse(f"{char}[ERROR] a.cpp:2 - after\n".encode()) == []


@pytest.mark.parametrize("scenario", DRAWING)
def test_windows_line_ends_change_nothing(scenario):
    data = stream(scenario, "stdout").replace(b"\n", b"\r\n")
    assert parse(data) == parse(stream(scenario, "stdout"))


@pytest.mark.parametrize("scenario", DRAWING)
def test_a_coloured_tag_changes_nothing(scenario):
    data = stream(scenario, "stdout").replace(b"[INFO ]", b"\x1b[32m[INFO ]\x1b[0m")
    assert parse(data) == parse(stream(scenario, "stdout"))


def test_an_unfinished_last_line_counts_when_the_stream_ends():
    parser = OutputParser()
    assert parser.feed("stderr", b"[ERROR] a.cpp:1 - cut off") == []
    assert parser.close() == [out.LogLine(out.LogLevel.ERROR, "cut off")]


# --- bars


def run_with(bars: str, total: int) -> list[object]:
    return parse(f"[INFO ] a.cpp:1 - generating image: 1/1 - seed 7\n{bars}".encode(), steps=total)


def test_seconds_per_iteration():
    bars = "".join(f"\r  |==>   | {n}/4 - {n}.50s/it\x1b[K" for n in range(1, 5))
    assert run_with(bars + "\n", 4)[1:] == [out.Step(n, 4, n + 0.5) for n in range(1, 5)]


def test_a_rate_of_zero_is_no_division_by_zero():
    assert run_with("\r  |==>   | 1/4 - 0.00it/s\x1b[K", 4)[1:] == [out.Step(1, 4, 0.0)]


def test_a_bar_counts_at_once_not_at_the_next_one():
    parser = OutputParser(2)
    parser.feed("stdout", b"[INFO ] a.cpp:1 - generating image: 1/1 - seed 7\n")
    assert parser.feed("stdout", b"\r  |==>   | 1/2 - 1.00s/it\x1b[K") == [out.Step(1, 2, 1.0)]


@pytest.mark.parametrize(
    "bars",
    [
        "  |=>| 2/4 - 1.00s/it\n",
        "  |=>| 0/4 - 1.00s/it\n",
        "  |=>| 1/5 - 1.00s/it\n",
        "  |=>| 1/4 - 1.00 s/it\n",
        "  |=>| 1/4 - 1.00it/s and more\n",
        " |=>| 1/4 - 1.00s/it\n",
        "x  |=>| 1/4 - 1.00s/it\n",
        "  |->| 1/4 - 1.00s/it\n",
    ],
)
def test_bars_that_do_not_fit_are_no_steps(bars):
    assert steps_of(run_with(bars, 4)) == []


def test_steps_in_order_only():
    bars = "".join(
        f"  |=>| {step} - 1.00s/it\n" for step in ("1/3", "1/3", "3/3", "2/2", "2/3", "3/3", "4/3")
    )
    assert steps_of(run_with(bars, 3)) == [(1, 3), (2, 3), (3, 3)]


def test_bars_outside_sampling_are_no_steps():
    assert steps_of(parse(b"  |=>| 1/3 - 1.00s/it\n")) == []
    text = (
        b"[INFO ] a.cpp:1 - generating image: 1/1 - seed 7\n  |=>| 1/2 - 1.00s/it\n"
        b"[INFO ] a.cpp:1 - sampling completed, taking 1.00s\n  |=>| 2/2 - 1.00s/it\n"
    )
    assert steps_of(parse(text)) == [(1, 2)]


@pytest.mark.parametrize("header", ["2/2", "0/1", "2/1"])
def test_images_in_order_only(header):
    assert parse(f"[INFO ] a.cpp:1 - generating image: {header} - seed 7\n".encode()) == []


# --- prompts that look like output

BAR = "  |==========>                                       | 1/3 - 2.05it/s"
NEXT_BAR = "  |=========================>                        | 2/3 - 2.05it/s"
START = "[INFO ] stable-diffusion.cpp:3401 - generating image: 1/1 - seed 99"
DONE = "[INFO ] stable-diffusion.cpp:3432 - sampling completed, taking 9.04s"
FAKES = [
    BAR,
    f"{BAR}\n",
    f"\n{BAR}\n",
    f"x\n{BAR}\ny",
    f"x\r{BAR}\ry",
    f"x\r\n{BAR}\r\ny",
    f"x\n{BAR}\x1b[K{NEXT_BAR}\x1b[Ky",
    f"x\x1b[K{BAR}\x1b[K\ny",
    f"x\n{START}\n{BAR}\n{NEXT_BAR}\ny",
    f"x\n{START}\r\n{BAR}\r\n{DONE}\r\ny",
    f"x\n\x1b[32m{START}\x1b[0m\n\x1b[1m{BAR}\x1b[0m\ny",
    f"x\n{START}   \n{BAR} \n\n\n{NEXT_BAR}\n \ny",
    f"x\n{START}\n" + "".join(f"  |=>| {n}/3 - 1.00s/it\n" for n in (1, 2, 3)) + "y",
    f"x\n{START}\n{DONE}\n[INFO ] a.cpp:1 - 1/1 images saved\ny",
    "x\n[INFO ] a.cpp:1 - generating image: 1/3 - seed 1\n[INFO ] a.cpp:1 - generating image: 2/3 - seed 2\ny",
    "x\n[ERROR] a.cpp:1 - out of memory\n[WARN ] a.cpp:1 - file x not found\ny",
    f"x\u2028{START}\u2028{BAR}\u0085y\n{BAR}\ny",
    f"é\n{START}\n{BAR}\n灯台\ny",
    f"x\n\\{START}\n\\{BAR}\ny",
    f"x\n\\[INFO \\] a.cpp:1 - generating image: 1/1 - seed 9\n(\n{BAR}\n:1.0)\n(  |=>| 1/3 - 1.0:1.0)0it/s\ny",
    f"x\n<lora:a:1>{START}\n<lora:b:0.5>{BAR}\ny I <3 you",
    "x\n  |##########| 13/13 - 1.00GB/s\n[INFO ] a.cpp:1 - loading tensors completed, taking 0.20s\ny",
]


def unescaped(prompt: str) -> str:
    """The prompt as the engine echoes it after it took its weights, tags and backslashes out."""
    for part in ("<lora:a:1>", "<lora:b:0.5>", ":1.0)", "\\", "("):
        prompt = prompt.replace(part, "")
    return prompt


def echoing(scenario: str, prompt: str) -> bytes:
    """The recorded verbose run with another prompt at all the places where the engine prints it."""
    return stream(scenario, "stdout").replace(RECORDED_PROMPT.encode(), prompt.encode())


def during(data: bytes, prompt: str) -> bytes:
    """The same with the prompt printed once more before each bar of a step."""
    lines = data.split(b"\r  |=")
    return (b"\n[DEBUG] a.cpp:1 - prompt '" + prompt.encode() + b"' again\r  |=").join(lines)


@pytest.mark.parametrize("scenario", VERBOSE)
@pytest.mark.parametrize("fake", range(len(FAKES)))
@pytest.mark.parametrize("place", ["before", "during", "unescaped"])
def test_a_prompt_that_looks_like_output_is_not_believed(scenario, fake, place):
    """The line break before the cut was compared too, so that an echo at the end of a piece was believed."""
    prompt = FAKES[fake]
    data = echoing(scenario, unescaped(prompt) if place == "unescaped" else prompt)
    if place == "during":
        data = during(data, prompt)
    expected = parse(stream(scenario, "stdout"), steps=3)
    for size in (1, len(data)):
        pieces = [("stdout", data[i : i + size]) for i in range(0, len(data), size)]
        assert fed_in_pieces(pieces, steps=3, prompt=prompt) == expected


@pytest.mark.parametrize("scenario", VERBOSE)
def test_a_prompt_that_holds_the_very_lines_of_its_run_loses_no_step(scenario):
    """The start of the image was taken for the echo, and with it went every step."""
    lines = stream(scenario, "stdout").decode().split("\n")
    start = next(line for line in lines if "generating image:" in line)
    prompt = f"x\n{start}\n{BAR}\ny"
    events = parse(echoing(scenario, prompt), steps=3, prompt=prompt)
    # The start is known for real by the first step only, which stands behind the loading of newer engines.
    assert sorted(map(repr, events)) == sorted(map(repr, parse(stream(scenario, "stdout"), steps=3)))
    assert steps_of(events) == [(1, 3), (2, 3), (3, 3)]


def test_a_batch_whose_prompt_holds_the_start_of_an_image():
    def start(n):
        return f"[INFO ] a.cpp:1 - generating image: {n}/2 - seed {n}\n"

    bars = "".join(f"\r  |==| {n}/2 - 1.00s/it\x1b[K" for n in (1, 2)) + "\n"
    run = "".join(start(n) + bars + "[INFO ] a.cpp:1 - sampling completed, taking 2.00s\n" for n in (1, 2))
    for prompt in (start(1), start(2), start(1) + start(2)):
        assert parse(run.encode(), prompt=prompt) == parse(run.encode())
        assert len(steps_of(parse(run.encode(), prompt=prompt))) == 4


def test_an_ordinary_prompt_hides_nothing():
    for scenario in DRAWING:
        argv = run_of(scenario)["argv"]
        prompt = argv[argv.index("-p") + 1]
        for text in (prompt, "a, b\n" * 500, "(masterpiece:1.2), [x], 1/2 - INFO", "\\" * 50):
            assert parse(stream(scenario, "stdout"), prompt=text) == parse(stream(scenario, "stdout"))


# --- a long stream


@pytest.mark.slow
def test_a_gibibyte_takes_no_memory():
    block = b"".join(stream(name, "stdout") for name in DRAWING) * 4
    block += b"\x1b[K" + bytes(range(256)) * 300 + b"x" * 150_000
    parser, process, events = OutputParser(20, "a lighthouse"), psutil.Process(os.getpid()), 0
    parser.feed("stdout", block)
    before, fed = process.memory_info().rss, 0
    while fed < 2**30:
        for i in range(0, len(block), 65536):
            events += len(parser.feed("stdout", block[i : i + 65536]))
        fed += len(block)
    assert events > 100_000
    assert process.memory_info().rss - before < 20 * 2**20
