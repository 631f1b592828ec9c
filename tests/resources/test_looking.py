"""Which looks are taken: none at a graphics card that does not matter."""

from __future__ import annotations

import pytest
from held import GB, snapshot

from sdmanager.hardware import Gpu
from sdmanager.resources import looking
from sdmanager.resources.looking import Looker

CARD = Gpu("nvidia", "Card", 8 * GB, 5 * GB, "580")
SHARED = Gpu("intel", "Shared", None, None, None, unified_memory=True)


@pytest.fixture
def asked(monkeypatch):
    """The greatest ages of the looks that were taken at a machine with ``cards``."""

    class Asked(list):
        cards = (CARD,)

    asked = Asked()

    async def take_snapshot(settings, *, max_age=30.0):
        asked.append(max_age)
        found = snapshot(1 * GB, 2 * GB)
        return type(found)(**{name: getattr(found, name) for name in found.__slots__} | {"gpus": asked.cards})

    monkeypatch.setattr(looking, "take_snapshot", take_snapshot)
    monkeypatch.setattr(looking, "ram_now", lambda: (16 * GB, 9 * GB))
    return asked


async def test_no_card_is_asked_for_an_engine_that_computes_on_the_cpu(home, asked):
    seen = await Looker(home, None).see(False, anew=True)
    assert asked == []
    assert (seen.ram_free, seen.ram_total, seen.vram_free) == (9 * GB, 16 * GB, None)


@pytest.mark.parametrize(("anew", "age"), [(False, 1.0), (True, 0.0)])
@pytest.mark.parametrize("on_gpu", [True, None])
async def test_a_card_is_asked_anew_where_something_moves(home, asked, on_gpu, anew, age):
    seen = await Looker(home, None).see(on_gpu, anew=anew)
    assert asked[-1] == age
    assert (seen.ram_free, seen.vram_free, seen.vram_total) == (9 * GB, 5 * GB, 8 * GB)


@pytest.mark.parametrize("cards", [(), (SHARED,)])
async def test_without_memory_of_its_own_no_card_is_asked_again(home, asked, cards):
    asked.cards = cards
    seen = await Looker(home, None).see(None, anew=True)
    assert asked == [30.0]
    assert (seen.ram_free, seen.vram_free) == (9 * GB, None)


async def test_this_machine_is_seen(home):
    seen = await Looker(home, None).see(False, anew=True)
    assert 0 < seen.ram_free <= seen.ram_total
