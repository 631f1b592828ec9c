"""Search: what is found, and that nothing that is typed can do harm."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import tempfile
from pathlib import Path

import pytest
from gallery import kept
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted_generator import result_of

from sdmanager.errors import InvalidRequestError
from sdmanager.history import History
from sdmanager.history._listing import cursor_of, number_of
from sdmanager.history._words import PHRASE_MAX, TERMS_MAX, query, words_of

PROMPTS = {
    "cat": "A black-and-white cat, sitting on the Moon's edge",
    "cafe": "un café à Paris, 4k",
    "zh": "海边的灯塔，日落",  # noqa: RUF001
    "ja": "桜の木の下の猫、アニメ風",
    "ko": "바닷가의 등대",
    "th": "ประภาคารริมทะเล",
    "hi": "समुद्र के किनारे प्रकाशस्तंभ",
    "ru": "Маяк на берегу МОРЯ",  # noqa: RUF001
    "emoji": "🐱 in space 👩🏽‍🚀",
    "quotes": 'a sign that says "NEAR OR NOT" (really)',
}


@pytest.fixture
async def filled(history: History) -> History:
    for name, prompt in PROMPTS.items():
        await kept(
            history, name, prompt=prompt, negative_prompt="blurry, low quality" if name == "cat" else ""
        )
    return history


@pytest.mark.parametrize(
    ("search", "found"),
    [
        ("cat", {"cat"}),
        ("CAT moon", {"cat"}),
        ("ca", {"cat", "cafe"}),  # the last may be the start of a word
        ("ca moon", set()),  # others may not
        ("black-and-white", {"cat"}),
        ("black-white", set()),  # what is written together stands together
        ("moon's", {"cat"}),
        ("cat blurry", {"cat"}),  # in either prompt
        ("edge blurry", {"cat"}),
        ("edge-blurry", set()),  # but not from the one into the other
        ("cafe", {"cafe"}),
        ("CAFÉ", {"cafe"}),
        ("paris 4k", {"cafe"}),
        ("灯塔", {"zh"}),
        ("日落 海边", {"zh"}),
        ("塔灯", set()),
        ("の猫", {"ja"}),
        ("ｱﾆﾒ", {"ja"}),  # of half the width
        ("등대", {"ko"}),
        ("바닷", {"ko"}),
        ("ริมทะเล", {"th"}),
        ("समुद्र", {"hi"}),
        ("маяк моря", {"ru"}),
        ("🐱", {"emoji"}),
        ("🐱 space", {"emoji"}),
        ("👩🏽‍🚀", {"emoji"}),
        ("🐶", set()),
        ('"near or not"', {"quotes"}),
        ("NOT", {"quotes"}),
        ("says NEAR sign", {"quotes"}),
        ("cat OR sign", set()),
        ("prompt:cat", set()),
        ("model", set()),
    ],
)
async def test_what_is_found(filled: History, search: str, found: set[str]) -> None:
    page = await filled.list(search=search)
    assert {image.generation_id for image in page.images} == found
    assert page.total == len(found)


@pytest.mark.parametrize("search", ["", "   ", "!!!", '"', "*", "\0", "( ) -", "\udc80"])
async def test_without_a_word_everything_is_found(filled: History, search: str) -> None:
    assert (await filled.list(search=search)).total == len(PROMPTS)


async def test_a_model_may_be_asked_for_with_and_without_words(history: History) -> None:
    for number, model in enumerate(("demo", "DEMO", "sd turbo", "demo")):
        await kept(history, f"gen_{number}", result=dataclasses.replace(result_of(), model=model))
    for search in ("", "light"):
        for model, count in {"demo": 2, "DEMO": 1, "sd turbo": 1, "sd": 0, "' OR 1": 0}.items():
            page = await history.list(search=search, model=model)
            assert (page.total, len(page.images)) == (count, count)


async def test_a_search_may_be_very_long(filled: History) -> None:
    words = " ".join(f"w{number}" for number in range(20_000))
    assert (await filled.list(search=words)).total == 0
    assert (await filled.list(search="cat " * 20_000)).total == 1


@given(st.text())
def test_words_of_words_are_the_same_words(text: str) -> None:
    words = words_of(text)
    assert words_of(" ".join(words)) == words
    assert not any(set(word) & set('"*:(){}^+- ') for word in words)


@contextlib.contextmanager
def running(folder: str):
    """Runs coroutines of a gallery on a loop of its own: Hypothesis knows no coroutines."""
    with asyncio.Runner() as runner:
        history = History(Path(folder))
        runner.run(history.open())
        try:
            yield history, runner.run
        finally:
            runner.run(history.aclose())


def test_whatever_is_typed_is_no_error_and_finds_what_was_written() -> None:
    with tempfile.TemporaryDirectory() as folder, running(folder) as (history, run):
        numbers = iter(range(10_000))

        @settings(max_examples=150)
        @given(
            st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=60), st.text()
        )
        def check(prompt: str, search: str) -> None:
            (image,) = run(kept(history, f"gen_{next(numbers)}", prompt=f"x {prompt}"))
            run(history.list(search=search))
            again = run(history.list(search=prompt, limit=1))
            assert again.images[0].id == image.id
            half = prompt[: len(prompt) // 2].rstrip()
            if half and not half[-1].isspace() and prompt.isascii():
                assert run(history.list(search=half, limit=1)).images[0].id == image.id

        check()


def test_pages_have_everything_once_while_new_images_come() -> None:
    with tempfile.TemporaryDirectory() as folder, running(folder) as (history, run):
        for number in range(23):
            run(kept(history, f"old_{number}", prompt="a tree" if number % 3 else "a house"))
        numbers = iter(range(10_000))

        @settings(max_examples=60)
        @given(
            st.integers(1, 30), st.sampled_from(["", "tree", "tr"]), st.lists(st.integers(0, 3), max_size=30)
        )
        def check(limit: int, search: str, news: list[int]) -> None:
            before = run(history.list(search=search, limit=500))
            expected = [image.id for image in before.images]
            seen, after, arrivals = [], None, iter(news)
            while True:
                page = run(history.list(search=search, limit=limit, after=after))
                assert len(page.images) <= limit
                seen += [image.id for image in page.images]
                for _ in range(next(arrivals, 0)):
                    run(kept(history, f"new_{next(numbers)}", prompt="a tree"))
                if page.after is None:
                    break
                after = page.after
            assert seen == expected
            for image in run(history.list(search="tree", limit=500)).images:
                if image.generation_id.startswith("new_"):
                    run(history.delete(image.id))

        check()


async def test_a_page_goes_on_where_the_image_it_ended_with_was_deleted(history: History) -> None:
    for number in range(5):
        await kept(history, f"gen_{number}")
    page = await history.list(limit=2)
    await history.delete(page.images[-1].id)
    rest = await history.list(limit=10, after=page.after)
    assert [image.generation_id for image in rest.images] == ["gen_2", "gen_1", "gen_0"]
    assert rest.after is None


@given(st.integers(0, 2**63 - 1))
def test_cursors_come_back(number: int) -> None:
    assert number_of(cursor_of(number)) == number


@given(st.text())
def test_other_cursors_are_refused(text: str) -> None:
    with contextlib.suppress(InvalidRequestError):
        assert cursor_of(number_of(text)) == text


@pytest.mark.parametrize("search", ["a " * 5000, "a-" * 5000, "a b " * 5000, "灯" * 5000])
def test_what_is_typed_again_is_looked_for_once(search: str) -> None:
    assert query(search, None).count('"') <= 2 * 3


def test_a_search_has_so_many_terms_at_most_and_each_so_many_words() -> None:
    words = [f"w{number}" for number in range(5000)]
    for between in (" ", "-", "- "):
        terms = query(between.join(words), None).split(" AND ")
        assert len(terms) <= TERMS_MAX
        assert all(len(term.split('"')[1].split()) <= PHRASE_MAX for term in terms)
    assert query(" ".join(words[:TERMS_MAX]), None).count(" AND ") == TERMS_MAX - 1


async def test_of_a_long_phrase_all_parts_are_found(history: History) -> None:
    long = "-".join(f"w{number}" for number in range(40))
    await kept(history, "whole", prompt=f"a {long} b")
    await kept(history, "half", prompt=f"a {long[:80]} b")
    assert [image.generation_id for image in (await history.list(search=long)).images] == ["whole"]


async def test_a_search_that_takes_too_long_is_broken_off(history: History, monkeypatch) -> None:
    for number in range(3):
        await kept(history, f"gen_{number}")
    with monkeypatch.context() as patched:
        patched.setattr("sdmanager.history._database._STEPS_UNSEEN", 1)
        patched.setattr("sdmanager.history._listing._PAGE_SECONDS", -1.0)
        for search in ("", "light"):
            with pytest.raises(InvalidRequestError, match="too long"):
                await history.list(search=search)
    assert (await history.list(search="light")).total == 3


def test_nothing_but_words_is_asked_of_the_index() -> None:
    assert query(' "; DROP', None) == '{prompt negative} : ("drop"*)'
    assert query("(", "x") is None
