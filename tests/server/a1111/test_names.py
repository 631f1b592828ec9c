"""Samplers and schedulers by the names of others. Pure."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdmanager.server.a1111.names import (
    SAMPLERS,
    SCHEDULERS,
    Chosen,
    choose,
    label_of,
    sampler_rows,
    scheduler_rows,
)

ENGINE = tuple(entry.engine for entry in SAMPLERS), tuple(entry.engine for entry in SCHEDULERS)

# What one client has written into its page.
UI_SAMPLERS = [
    "euler",
    "euler_a",
    "heun",
    "dpm2",
    "dpm++2s_a",
    "dpm++2m",
    "dpm++2mv2",
    "ipndm",
    "ipndm_v",
    "lcm",
    "ddim_trailing",
    "tcd",
]
UI_SCHEDULERS = [
    "discrete",
    "karras",
    "exponential",
    "ays",
    "gits",
    "smoothstep",
    "sgm_uniform",
    "simple",
    "kl_optimal",
    "lcm",
]


@pytest.mark.parametrize(
    ("sampler", "scheduler", "expected"),
    [
        ("Euler a", "automatic", Chosen("euler_a", None)),
        ("Euler", "Automatic", Chosen("euler", None)),
        ("euler a", "", Chosen("euler_a", None)),
        ("DPM++ 2M Karras", "", Chosen("dpm++2m", "karras")),
        # The one in the name counts.
        ("DPM++ 2M Karras", "Exponential", Chosen("dpm++2m", "karras")),
        ("DPM++ 2M SDE Exponential", "", Chosen("dpm++2m_sde", "exponential")),
        ("Euler a SGM Uniform", "", Chosen("euler_a", "sgm_uniform")),
        ("DPM++ 2M", "Karras", Chosen("dpm++2m", "karras")),
        ("DDIM", "normal", Chosen("ddim_trailing", "discrete")),
        ("k_dpmpp_2m", "align_your_steps", Chosen("dpm++2m", "ays")),
        ("LMS", "Align Your Steps", Chosen("lms", "ays")),
        ("", "", Chosen(None, None)),
        ("PLMS", "karras", Chosen(None, "karras", ("PLMS",))),
        ("Euler", "Turbo", Chosen("euler", None, ("Turbo",))),
        ("DPM adaptive", "polyexponential", Chosen(None, None, ("DPM adaptive", "polyexponential"))),
    ],
)
def test_names_of_others_mean_what_the_engine_has(sampler, scheduler, expected):
    assert choose(sampler, scheduler, *ENGINE) == expected


@pytest.mark.parametrize("name", UI_SAMPLERS)
def test_samplers_of_the_engine_are_taken_by_its_own_names(name):
    assert choose(name, "", *ENGINE).sampler == name


@pytest.mark.parametrize("name", UI_SCHEDULERS)
def test_schedulers_of_the_engine_are_taken_by_its_own_names(name):
    assert choose("", name, *ENGINE).scheduler == name


def test_what_this_engine_has_not_is_left_to_it():
    assert choose("LMS", "beta", ("euler",), ("discrete",)) == Chosen(None, None, ("LMS", "beta"))


def test_names_that_are_new_to_us_are_listed_and_taken():
    rows = sampler_rows(("euler_a", "brand_new"))
    assert [row["name"] for row in rows] == ["Euler a", "brand_new"]
    assert choose("brand_new", "", ("euler_a", "brand_new"), ()).sampler == "brand_new"


def test_every_name_that_is_listed_is_taken_again():
    for row in sampler_rows(ENGINE[0]):
        found = {choose(name, "", *ENGINE).sampler for name in (row["name"], *row["aliases"])}
        assert len(found) == 1
        assert None not in found
        assert label_of(SAMPLERS, found.pop()) == row["name"]
    for row in scheduler_rows(ENGINE[1])[1:]:
        for name in (row["name"], row["label"], *row["aliases"]):
            assert choose("", name, *ENGINE) == Chosen(None, row["name"])


def test_no_two_things_have_one_name():
    for table in (SAMPLERS, SCHEDULERS):
        names = [
            name.casefold().replace(" ", "_")
            for entry in table
            for name in {entry.engine, entry.label.lower().replace(" ", "_"), *entry.aliases}
        ]
        assert len(names) == len(set(names))


def test_the_first_scheduler_leaves_the_choice_open():
    first = scheduler_rows(())[0]
    assert (first["name"], first["label"]) == ("automatic", "Automatic")
    assert choose("", first["name"], *ENGINE) == Chosen(None, None)


@given(st.text(), st.text())
def test_any_text_is_taken(sampler, scheduler):
    chosen = choose(sampler, scheduler, *ENGINE)
    assert chosen.sampler is None or chosen.sampler in ENGINE[0]
    assert chosen.scheduler is None or chosen.scheduler in ENGINE[1]
