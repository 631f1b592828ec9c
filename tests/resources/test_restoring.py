"""Bringing back: again and again, less and less often, and never while pictures are drawn."""

from __future__ import annotations

import asyncio

import pytest
from room import Program, Time, settled, until

from sdmanager.resources.journal import Entry, Journal, Phase
from sdmanager.resources.limits import Limits
from sdmanager.resources.restoring import Restorer


class Setting:
    def __init__(self, folder, *programs, **limits):
        self.time, self.told = Time(), 0
        self.journal = Journal(folder / "offloads")
        self.limits = Limits(clock=self.time, sleep=self.time.sleep, **limits)
        self.programs = programs or (Program(model=None),)
        self.restorer = Restorer(
            self.journal, {each.name: each for each in self.programs}, self.limits, self.tell
        )
        self.restorer.pause()

    def tell(self):
        self.told += 1

    def put_aside(self, program=None):
        program = program or self.programs[0]
        entry = Entry(program.name, "llama", {"model": "llama"}, self.journal.owner, 1e9, Phase.ASIDE)
        self.journal.write(entry)
        return self.restorer.keep(entry)

    @property
    def program(self):
        return self.programs[0]


@pytest.fixture
def setting(tmp_path):
    return Setting(tmp_path)


async def test_it_comes_back_after_the_delay_and_the_entry_goes(setting):
    setting.put_aside()
    setting.restorer.resume(5.0)
    await setting.time.pass_by(4.9)
    assert setting.program.calls == []
    await setting.time.pass_by(0.2)
    assert setting.program.calls == ["restore"]
    assert setting.restorer.aside == ()
    assert setting.journal.entries() == []
    assert setting.told > 1


async def test_the_entry_stays_until_it_is_back_and_counts_attempts(setting):
    setting.program.slow.add("restore")
    setting.put_aside()
    setting.restorer.resume(0.0)
    await until(lambda: setting.program.calls)
    (entry,) = setting.journal.entries()
    assert (entry.phase, entry.attempts) == (Phase.RESTORING, 1)
    setting.program.gate.set()
    await setting.restorer.until(lambda: not setting.restorer.is_trying)
    assert setting.journal.entries() == []


async def test_it_is_tried_again_after_1_2_4_and_8_seconds_and_then_given_up_for_ten_minutes(setting):
    setting.program.failing.add("restore")
    each = setting.put_aside()
    setting.restorer.resume(0.0)
    await settled()
    waits = []
    for count in range(1, 6):
        assert len(setting.program.calls) == count
        waits.append(setting.time.next_due)
        await setting.time.pass_by(waits[-1])
    assert waits == [1, 2, 4, 8, 600]
    assert setting.program.calls == ["restore"] * 6
    assert each.error == "The program is not back."
    setting.program.failing.clear()
    await setting.time.pass_by(599)
    assert setting.restorer.aside == (each,)
    await setting.time.pass_by(1)
    assert setting.restorer.aside == ()
    assert setting.journal.entries() == []


async def test_who_waits_has_it_tried_at_once_although_it_was_given_up(setting):
    setting.program.failing.add("restore")
    each = setting.put_aside()
    setting.restorer.resume(0.0)
    await setting.time.pass_by(100)
    assert each.given_up
    assert len(setting.program.calls) == 5
    async with asyncio.timeout(5):
        await setting.restorer.wait()  # once more, in vain
    assert len(setting.program.calls) == 6
    setting.program.failing.clear()
    async with asyncio.timeout(5):
        await setting.restorer.wait()
    assert setting.restorer.aside == ()


async def test_nothing_is_tried_while_paused(setting):
    setting.program.failing.add("restore")
    setting.put_aside()
    setting.restorer.resume(0.0)
    await settled()
    assert setting.time.next_due == 1
    setting.restorer.pause()
    await setting.time.pass_by(1000)
    assert setting.program.calls == ["restore"]
    setting.restorer.resume(3.0)
    await setting.time.pass_by(3)
    assert setting.program.calls == ["restore"] * 2


async def test_a_pause_shortens_no_back_off(setting):
    setting.program.failing.add("restore")
    each = setting.put_aside()
    setting.restorer.resume(0.0)
    await settled()
    for _ in range(12):
        setting.restorer.pause()
        setting.restorer.resume(0.01)
        await setting.time.pass_by(0.05)
    assert setting.program.calls == ["restore"]
    await setting.time.pass_by(0.5)
    assert setting.program.calls == ["restore"] * 2
    await setting.time.pass_by(14)
    assert each.given_up
    setting.restorer.pause()
    setting.restorer.resume(0.0)
    await setting.time.pass_by(580)
    assert each.given_up
    assert len(setting.program.calls) == 5
    await setting.time.pass_by(20)
    assert len(setting.program.calls) == 6


async def test_what_has_failed_before_makes_way_for_a_picture_at_once(setting):
    setting.program.failing.add("restore")
    each = setting.put_aside()
    setting.restorer.resume(0.0)
    await until(lambda: each.error)
    setting.program.failing.clear()
    setting.program.slow.add("restore")
    await setting.time.pass_by(1)
    assert each.trying
    for _ in range(6):
        setting.restorer.pause()
        async with asyncio.timeout(5):
            await setting.restorer.make_way()
        assert not each.trying
        setting.restorer.resume(1.0)
        await setting.time.pass_by(1)
        assert each.trying
    assert each.error == "The program is not back."
    assert not each.given_up
    setting.program.gate.set()
    await until(lambda: not setting.restorer.aside)


async def test_what_made_way_is_tried_again_although_the_pause_is_over_by_then(setting):
    setting.program.failing.add("restore")
    each = setting.put_aside()
    setting.restorer.resume(0.0)
    await until(lambda: each.error)
    setting.program.failing.clear()
    setting.program.slow.add("restore")
    await setting.time.pass_by(1)
    setting.restorer.pause()
    way = asyncio.create_task(setting.restorer.make_way())
    await asyncio.sleep(0)
    setting.restorer.resume(0.0)
    await way
    setting.program.gate.set()
    await setting.time.pass_by(1)
    assert setting.restorer.aside == ()


async def test_what_has_not_failed_is_waited_for_by_a_picture(setting):
    setting.program.slow.add("restore")
    setting.put_aside()
    setting.restorer.resume(0.0)
    await until(lambda: setting.program.calls)
    setting.restorer.pause()
    way = asyncio.create_task(setting.restorer.make_way())
    await settled()
    assert not way.done()
    setting.program.gate.set()
    await asyncio.wait_for(way, 5)
    assert setting.restorer.aside == ()


async def test_a_program_that_cancels_itself_has_failed(setting):
    class Odd(Program):
        async def restore(self, state):
            await super().restore(state)
            task = asyncio.create_task(asyncio.sleep(60))
            task.cancel()
            await task

    odd = setting.restorer._offloadables["held"] = Odd(model=None)
    each = setting.put_aside(odd)
    setting.restorer.resume(0.0)
    await until(lambda: each.error)
    assert each.error == "held could not be brought back: it was cancelled."
    await setting.time.pass_by(1)
    assert odd.calls == ["restore"] * 2
    await setting.restorer.forget()
    assert len(asyncio.all_tasks()) == 1


async def test_an_attempt_that_fails_while_paused_is_not_repeated(setting):
    setting.program.slow.add("restore")
    setting.program.failing.add("restore")
    setting.put_aside()
    setting.restorer.resume(0.0)
    await until(lambda: setting.program.calls)
    setting.restorer.pause()
    setting.program.gate.set()
    await setting.restorer.until(lambda: not setting.restorer.is_trying)
    await setting.time.pass_by(1000)
    assert setting.program.calls == ["restore"]


async def test_one_that_hangs_does_not_keep_another_away(tmp_path):
    hangs, answers = Program("hangs", None), Program("answers", None)
    hangs.slow.add("restore")
    setting = Setting(tmp_path, hangs, answers, restore=0.2)
    setting.put_aside(hangs)
    setting.put_aside(answers)
    setting.restorer.resume(0.0)
    await until(lambda: len(setting.restorer.aside) == 1)
    (left,) = setting.restorer.aside
    assert left.entry.name == "hangs"
    await until(lambda: left.error)
    assert left.error == "hangs could not be brought back: it took too long."
    await setting.restorer.forget()


async def test_closing_tries_once_more_and_leaves_the_rest_to_the_next_start(setting):
    setting.program.failing.add("restore")
    setting.put_aside()
    setting.restorer.resume(0.0)
    await settled()
    async with asyncio.timeout(5):
        await setting.restorer.close()
        await setting.restorer.close()
    assert setting.program.calls == ["restore"] * 2
    (entry,) = setting.journal.entries()
    assert (entry.owner, entry.attempts) == (None, 2)
    await setting.time.pass_by(1000)
    assert setting.program.calls == ["restore"] * 2
    assert len(asyncio.all_tasks()) == 1


async def test_closing_waits_for_an_attempt_that_goes_on(setting):
    setting.program.slow.add("restore")
    setting.put_aside()
    setting.restorer.resume(0.0)
    await until(lambda: setting.program.calls)
    closing = asyncio.create_task(setting.restorer.close())
    await settled()
    assert not closing.done()
    setting.program.gate.set()
    async with asyncio.timeout(5):
        await closing
    assert setting.program.calls == ["restore"]
    assert setting.journal.entries() == []


async def test_what_fails_while_closing_is_not_tried_twice(setting, caplog):
    setting.program.slow.add("restore")
    setting.program.failing.add("restore")
    setting.put_aside()
    setting.restorer.resume(0.0)
    await until(lambda: setting.program.calls)
    closing = asyncio.create_task(setting.restorer.close())
    await settled()
    setting.program.gate.set()
    await asyncio.wait_for(closing, 5)
    assert setting.program.calls == ["restore"]
    assert setting.journal.entries()[0].owner is None
    assert "held is not back, and is left to the next start: The program is not back." in caplog.text
    assert "tried again" not in caplog.text


@pytest.mark.parametrize("begun", [True, False])
async def test_closing_ends_an_attempt_that_takes_too_long(tmp_path, caplog, begun):
    setting = Setting(tmp_path, close=0.1)
    setting.program.slow.add("restore")
    setting.put_aside()
    if begun:
        setting.restorer.resume(0.0)
        await until(lambda: setting.program.calls)
    async with asyncio.timeout(5):
        await setting.restorer.close()
    assert setting.program.calls == ["restore"]
    assert setting.journal.entries()[0].owner is None
    assert "held is not back, and is left to the next start" in caplog.text
    assert "tried again" not in caplog.text
    assert len(asyncio.all_tasks()) == 1


async def test_closing_that_is_cancelled_ends_the_attempts_and_leaves_the_entry(setting):
    setting.program.slow.add("restore")
    setting.put_aside()
    closing = asyncio.create_task(setting.restorer.close())
    await until(lambda: setting.program.calls)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        async with asyncio.timeout(5):
            await closing
    assert len(asyncio.all_tasks()) == 1
    assert setting.journal.entries()[0].owner is None


async def test_what_is_forgotten_is_not_brought_back(setting):
    setting.program.slow.add("restore")
    setting.put_aside()
    setting.restorer.resume(0.0)
    await until(lambda: setting.program.calls)
    async with asyncio.timeout(5):
        await setting.restorer.forget()
    assert (setting.restorer.aside, setting.journal.entries()) == ((), [])
    assert len(asyncio.all_tasks()) == 1


async def test_an_unknown_error_is_not_shown_in_its_own_words(setting):
    class Odd(Program):
        async def restore(self, state):
            raise ValueError("token hf_secret")

    odd = setting.restorer._offloadables["held"] = Odd()
    each = setting.put_aside(odd)
    setting.restorer.resume(0.0)
    await until(lambda: each.error)
    assert each.error == "held could not be brought back (ValueError)."
    await setting.restorer.forget()


async def test_a_callback_that_fails_is_the_callers_affair(setting, caplog):
    def tell():
        raise ValueError

    setting.restorer._changed = tell
    setting.put_aside()
    setting.restorer.resume(0.0)
    await until(lambda: not setting.restorer.aside)
    assert setting.program.calls == ["restore"]
