"""Leases: who is put aside, when, and that everything comes back."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import threading
from dataclasses import replace

import pytest
from held import CHOICES, FREE, GB, HELD, SMALL, TOTAL, Held, HeldServer, footprint, snapshot, supports
from room import Program, Time, fill, until

from sdmanager.errors import InvalidRequestError, ServerError, StorageError
from sdmanager.generation import MemoryPlan
from sdmanager.process import ProcessRecord
from sdmanager.resources import Supply
from sdmanager.resources.journal import Entry, Journal, Phase
from sdmanager.resources.leases import Ask
from sdmanager.resources.limits import Limits
from sdmanager.resources.orchestrator import NoStricterPlanError, ResourceOrchestrator

LARGE = footprint()
PLAIN = MemoryPlan()


class Odd(Program):
    """One call of it awaits a task that was cancelled."""

    def __init__(self, call, **options):
        super().__init__(**options)
        self.odd = call

    async def _called(self, call):
        await super()._called(call)
        if call == self.odd:
            task = asyncio.create_task(asyncio.sleep(60))
            task.cancel()
            await task


@pytest.fixture(scope="module")
def process(tmp_path_factory):
    with HeldServer(tmp_path_factory.mktemp("held")) as server:
        yield server


@pytest.fixture
async def server(process):
    """A real server that has its model loaded."""
    await Held(process.port).set("llama")
    process.log.write_text("")
    return process


@pytest.fixture
def make(home):
    """Makes orchestrators of programs, and says when one is left with something to do."""
    made = []

    def make(*programs, look=None, **options):
        options.setdefault("linger", 0.0)
        options.setdefault("limits", Limits(patience=0.05))
        look = look or programs[0].look
        made.append(ResourceOrchestrator(home, programs, look=look, **options))
        return made[-1]

    return make


@pytest.fixture
def journal(home):
    return Journal(home.state_dir / "offloads")


def reloaded(room):
    return asyncio.wait_for(room.wait_for_reload(), 10)


class TestWithAServer:
    async def test_it_is_put_aside_for_a_large_model_and_brought_back(self, make, server, journal):
        held, told = Held(server.port), []
        room = make(held, on_change=lambda: told.append(len(room.saved_state())))
        offloading = []
        async with room.lease(LARGE, CHOICES, supports, on_offloading=lambda: offloading.append(1)) as lease:
            assert lease.plan.evictions == ("held",)
            assert lease.plan.key == "plain"
            assert any("llama" in reason for reason in lease.plan.reasons)
            assert lease.supply.ram_free == FREE
            assert lease.seconds > 0
            assert server.calls == ["unload None"]
            (state,) = room.saved_state()
            assert (state.name, state.what, state.is_ours, state.retry_at) == ("held", "llama", True, None)
            (entry,) = journal.entries()
            assert (entry.phase, entry.state) == (Phase.ASIDE, {"model": "llama"})
        await reloaded(room)
        assert server.calls == ["unload None", "load llama"]
        assert room.saved_state() == ()
        assert journal.entries() == []
        assert offloading == [1]
        assert 1 in told
        assert told[-1] == 0

    async def test_nothing_moves_and_nobody_is_asked_for_a_small_one(self, make, server, journal):
        program = Program()
        room = make(program, Held(server.port, "server"))
        offloading = []
        async with room.lease(SMALL, CHOICES, supports, on_offloading=lambda: offloading.append(1)) as lease:
            assert (lease.plan.key, lease.plan.evictions, lease.seconds) == ("plain", (), 0.0)
        assert not program.calls
        assert not server.calls
        assert not offloading
        assert not (journal._folder).exists()

    async def test_back_to_back_it_stays_aside(self, make, server):
        room = make(Held(server.port), linger=30.0)
        for _ in range(5):
            async with room.lease(LARGE, CHOICES, supports) as lease:
                assert lease.plan.evictions == ("held",)
                await asyncio.sleep(0.01)
        assert server.calls == ["unload None"]
        await reloaded(room)
        assert server.calls == ["unload None", "load llama"]

    async def test_it_comes_back_by_itself_after_the_linger(self, make, server):
        room = make(Held(server.port), linger=0.1)
        async with room.lease(LARGE, CHOICES, supports):
            pass
        assert server.calls == ["unload None"]
        await until(lambda: not room.saved_state())
        assert server.calls == ["unload None", "load llama"]

    @pytest.mark.parametrize("error", [ValueError, asyncio.CancelledError])
    async def test_a_run_that_fails_has_it_brought_back(self, make, server, error):
        room = make(Held(server.port))
        with pytest.raises(error):
            async with room.lease(LARGE, CHOICES, supports):
                raise error
        await until(lambda: not room.saved_state())
        assert server.calls == ["unload None", "load llama"]

    async def test_two_at_once_share_it(self, make, server):
        room = make(Held(server.port))
        inside, leave = [], asyncio.Event()

        async def run():
            async with room.lease(LARGE, CHOICES, supports) as lease:
                inside.append(lease)
                await leave.wait()

        async with asyncio.timeout(10), asyncio.TaskGroup() as group:
            first, _ = group.create_task(run()), group.create_task(run())
            await until(lambda: len(inside) == 2)
            first.cancel()
            await asyncio.wait([first])
            await asyncio.sleep(0.05)
            assert server.calls == ["unload None"]
            leave.set()
        await reloaded(room)
        assert server.calls == ["unload None", "load llama"]

    async def test_a_lease_during_the_return_waits_for_it(self, make, server):
        held = Held(server.port)
        room = make(held)
        await held.set("llama", load_seconds=0.3)
        async with room.lease(LARGE, CHOICES, supports):
            pass
        await until(lambda: "load llama" in server.calls)
        offloading = []
        async with room.lease(LARGE, CHOICES, supports, on_offloading=lambda: offloading.append(1)) as lease:
            assert (await held.state())["state"] == "unloaded"
            assert lease.seconds > 0.05
        await reloaded(room)
        assert offloading == [1]
        assert server.calls[1:] == ["unload None", "load llama"] * 2

    async def test_what_the_user_loads_meanwhile_stays(self, make, server):
        held = Held(server.port)
        room = make(held, linger=30.0)
        async with room.lease(LARGE, CHOICES, supports):
            await held.set("qwen")
        await reloaded(room)
        assert (await held.state())["model"] == "qwen"
        assert not any(call.startswith("load") for call in server.calls)

    async def test_what_the_user_has_loaded_since_is_what_comes_back(self, make, server, journal):
        held = Held(server.port)
        room = make(held, linger=30.0)
        async with room.lease(LARGE, CHOICES, supports):
            pass
        await held.set("qwen")
        async with room.lease(LARGE, CHOICES, supports) as lease:
            assert lease.plan.evictions == ("held",)
            assert len(journal.entries()) == 1
        await reloaded(room)
        assert (await held.state())["model"] == "qwen"
        assert journal.entries() == []

    async def test_closing_while_it_is_kept_aside_brings_it_back_at_once(self, make, server, journal):
        room = make(Held(server.port), linger=1000.0)
        async with room.lease(LARGE, CHOICES, supports):
            pass
        async with asyncio.timeout(10):
            await asyncio.gather(room.aclose(), room.aclose())
            await room.aclose()
        assert server.calls == ["unload None", "load llama"]
        assert journal.entries() == []
        assert len(asyncio.all_tasks()) == 1
        async with room.lease(LARGE, CHOICES, supports) as lease:
            assert lease.plan.evictions == ()
        assert server.calls == ["unload None", "load llama"]

    async def test_would_need_offload_moves_nothing(self, make, server):
        room = make(Held(server.port))
        assert await room.would_need_offload(LARGE, CHOICES, supports)
        assert not await room.would_need_offload(SMALL, CHOICES, supports)
        async with room.lease(LARGE, CHOICES, supports):
            assert not await room.would_need_offload(LARGE, CHOICES, supports)
        await reloaded(room)
        assert server.calls == ["unload None", "load llama"]

    async def test_nothing_leaks(self, make, server):
        room = make(Held(server.port))
        before = None
        for number in range(30):
            async with room.lease(LARGE, CHOICES, supports):
                pass
            await reloaded(room)
            if number == 4:
                before = len(os.listdir("/proc/self/fd"))
        assert len(os.listdir("/proc/self/fd")) <= before
        await room.aclose()
        gc.collect()
        assert len(asyncio.all_tasks()) == 1
        assert len(server.calls) == 60


class TestPuttingAside:
    async def test_it_is_written_down_before_it_is_asked(self, make, journal):
        seen = []

        class Careful(Program):
            async def put_aside(self, holding):
                seen.append([entry.phase for entry in journal.entries()])
                await super().put_aside(holding)

        room = make(Careful())
        async with room.lease(LARGE, CHOICES, supports, on_offloading=lambda: seen.append("told")):
            pass
        assert seen == ["told", [Phase.ABOUT_TO]]
        await reloaded(room)

    async def test_one_that_refuses_is_left_and_the_picture_drawn_without(self, make, journal):
        program = Program()
        program.failing.add("put_aside")
        room = make(program)
        async with room.lease(LARGE, CHOICES, supports) as lease:
            assert lease.plan.evictions == ()
            assert "The program refuses." in lease.plan.reasons
        await reloaded(room)
        assert program.moves == ["put_aside", "restore"]
        assert program.model == "llama"
        assert journal.entries() == []

    async def test_another_is_put_aside_in_the_place_of_one_that_refuses(self, make):
        refuses, obeys = Program("refuses"), Program("obeys")
        refuses.failing.add("put_aside")

        async def look():
            held = sum(HELD for each in (refuses, obeys) if each.model)
            return snapshot(FREE + HELD - held, 26 * GB)

        room = make(refuses, obeys, look=look)
        async with room.lease(footprint(8 * GB), CHOICES, supports) as lease:
            assert lease.plan.evictions == ("obeys",)
        await reloaded(room)
        assert (refuses.model, obeys.model) == ("llama", "llama")

    async def test_one_that_hangs_is_given_up(self, make):
        program = Program()
        program.slow.add("put_aside")
        room = make(program, limits=Limits(put_aside=0.1, patience=0.05))
        async with asyncio.timeout(5), room.lease(LARGE, CHOICES, supports) as lease:
            assert lease.plan.evictions == ()
            assert "held could not be put aside: it took too long." in lease.plan.reasons
        await reloaded(room)
        assert program.moves == ["put_aside", "restore"]

    @pytest.mark.parametrize("how", ["fails", "hangs"])
    async def test_one_that_does_not_say_what_it_holds_is_left_alone(self, make, how):
        program = Program()
        (program.failing if how == "fails" else program.slow).add("holding")
        room = make(program, limits=Limits(holding=0.1))
        async with asyncio.timeout(5), room.lease(LARGE, CHOICES, supports) as lease:
            assert lease.plan.evictions == ()
        assert program.calls == ["holding"]

    async def test_cancelled_meanwhile_it_ends_at_once_and_is_made_good(self, make, journal):
        program = Program()
        program.slow.add("put_aside")
        room = make(program)

        async def run():
            async with room.lease(LARGE, CHOICES, supports):
                raise AssertionError

        task = asyncio.create_task(run())
        await until(lambda: program.moves)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, 10)
        await reloaded(room)
        assert program.moves == ["put_aside", "restore"]
        assert journal.entries() == []

    async def test_one_that_cancels_itself_is_left_and_the_picture_drawn_without(self, make):
        program = Odd("put_aside")
        room = make(program)
        async with asyncio.timeout(5), room.lease(LARGE, CHOICES, supports) as lease:
            assert lease.plan.evictions == ()
            assert "held could not be put aside: it was cancelled." in lease.plan.reasons
        await reloaded(room)
        assert program.model == "llama"

    async def test_one_that_cancels_itself_when_asked_is_left_alone(self, make):
        program = Odd("holding")
        room = make(program)
        async with asyncio.timeout(5), room.lease(LARGE, CHOICES, supports) as lease:
            assert lease.plan.evictions == ()
        assert program.moves == []

    @pytest.mark.parametrize("restart", [False, True])
    async def test_half_brought_back_it_comes_back_whole_after_the_next_run(self, make, journal, restart):
        program = Program(model="x, y")
        room = make(program, limits=Limits(patience=0.05))
        program.failing.add("restore")
        async with room.lease(LARGE, CHOICES, supports):
            pass
        await until(lambda: room.saved_state()[0].error)
        if restart:
            await room.aclose()
            await room.recover()
        before = room.saved_state()[0].attempts
        program.model = "x"  # the attempt has loaded one of two, and failed at the other
        async with room.lease(LARGE, CHOICES, supports) as lease:
            assert lease.plan.evictions == ("held",)
            (entry,) = journal.entries()
            assert (entry.state, entry.attempts, entry.phase) == ({"model": "x, y"}, before, Phase.ASIDE)
            assert room.saved_state()[0].error == "The program is not back."
        program.failing.clear()
        await reloaded(room)
        assert program.model == "x, y"

    async def test_what_is_put_aside_in_its_place_does_not_begin_anew(self, make, journal):
        program = Program(model="llama, mistral")
        room = make(program)
        program.failing.add("restore")
        async with room.lease(LARGE, CHOICES, supports):
            pass
        await until(lambda: room.saved_state()[0].error)
        program.model = "llama"
        async with room.lease(LARGE, CHOICES, supports):
            program.model = "qwen"  # the user's doing, for all of it was aside
            async with room.lease(LARGE, CHOICES, supports):
                (entry,) = journal.entries()
                assert (entry.state, entry.attempts) == ({"model": "qwen"}, 1)
                assert room.saved_state()[0].error == "The program is not back."
        program.failing.clear()
        await reloaded(room)
        assert program.model == "qwen"

    async def test_what_the_user_loads_after_a_failed_attempt_is_what_comes_back(self, make, journal):
        program = Program()
        room = make(program)
        program.failing.add("restore")
        async with room.lease(LARGE, CHOICES, supports):
            pass
        await until(lambda: room.saved_state()[0].error)
        program.model = "qwen"
        async with room.lease(LARGE, CHOICES, supports):
            assert program.model is None
            assert [entry.state for entry in journal.entries()] == [{"model": "qwen"}]
        program.failing.clear()
        await reloaded(room)
        assert program.model == "qwen"

    async def test_a_restore_that_hangs_after_a_failure_delays_no_picture(self, make):
        program = Program()
        program.failing.add("restore")
        room = make(program)
        async with room.lease(LARGE, CHOICES, supports):
            pass
        await until(lambda: room.saved_state()[0].error)
        program.failing.clear()
        program.slow.add("restore")
        waiting = asyncio.create_task(room.wait_for_reload())
        await until(lambda: program.moves.count("restore") == 2)
        for _ in range(3):
            async with asyncio.timeout(10), room.lease(LARGE, CHOICES, supports):
                pass
        program.gate.set()
        await asyncio.wait_for(waiting, 10)
        assert program.model == "llama"

    async def test_pictures_do_not_shorten_the_back_off(self, make):
        program, time = Program(), Time()
        program.failing.add("restore")
        room = make(program, limits=Limits(patience=0.05, clock=time, sleep=time.sleep))
        async with room.lease(LARGE, CHOICES, supports):
            pass
        await until(lambda: room.saved_state()[0].error)
        for _ in range(12):
            async with room.lease(LARGE, CHOICES, supports):
                pass
            await time.pass_by(0.05)
        assert program.moves == ["put_aside", "restore"]
        program.failing.clear()
        await reloaded(room)

    async def test_half_put_aside_it_comes_back_to_what_it_was_at_first(self, make):
        program = Program(model="llama, mistral")
        program.slow.add("put_aside")
        room = make(program, linger=1000.0)
        task = asyncio.create_task(room.lease(LARGE, CHOICES, supports).__aenter__())
        await until(lambda: program.moves)
        task.cancel()
        await asyncio.wait([task])
        program.slow.clear()
        program.model = "mistral"
        async with room.lease(LARGE, CHOICES, supports):
            assert program.model is None
        await reloaded(room)
        assert program.model == "llama, mistral"

    async def test_where_nothing_can_be_written_down_nothing_is_stopped(self, make, home, caplog):
        home.state_dir.mkdir(parents=True)
        (home.state_dir / "offloads").write_text("no folder")
        program = Program()
        room = make(program)
        with caplog.at_level(logging.WARNING, "sdmanager.resources"):
            async with room.lease(LARGE, CHOICES, supports) as lease:
                assert lease.plan.evictions == ()
                assert any("written down" in reason for reason in lease.plan.reasons)
        assert program.moves == []
        assert "cannot be written down" in caplog.text
        assert room.saved_state() == ()

    async def test_a_full_disk_stops_nothing(self, make, home, small_disk):
        disk = small_disk(64 << 10)
        fill(disk)
        program = Program()
        room = ResourceOrchestrator(replace(home, state_dir=disk), [program], look=program.look)
        async with room.lease(LARGE, CHOICES, supports) as lease:
            assert lease.plan.evictions == ()
        assert program.moves == []

    async def test_a_byte_less_than_promised_is_not_worth_a_word(self, make):
        program = Program()

        async def look():
            return snapshot(FREE - HELD if program.model else FREE - GB - 1)

        room = make(program, look=look, threshold=0.5)
        async with room.lease(LARGE, CHOICES, supports) as lease:
            assert program.model is None
            assert not any("did not come back" in reason for reason in lease.plan.reasons)
        await reloaded(room)

    async def test_less_memory_than_promised_is_planned_with_and_said(self, make):
        program = Program()

        async def look():
            return snapshot(FREE - HELD if program.model else FREE - 8 * GB)

        room = make(program, look=look)
        async with room.lease(LARGE, CHOICES, supports) as lease:
            assert lease.supply.ram_free == FREE - 8 * GB
            assert lease.plan.key == "vae-tiling"
            assert any("7.0 GB of RAM did not come back" in reason for reason in lease.plan.reasons)
        await reloaded(room)

    async def test_memory_is_seen_to_be_free_before_the_run_begins(self, make):
        program, looks = Program(), []

        async def look():
            if not program.model:
                looks.append(1)
            return snapshot(FREE - HELD if len(looks) < 4 else FREE)

        room = make(program, look=look, limits=Limits())
        async with room.lease(LARGE, CHOICES, supports) as lease:
            assert lease.supply.ram_free == FREE
            assert len(looks) == 4
        await reloaded(room)


class TestFailedPlans:
    async def test_who_still_holds_memory_is_put_aside_first(self, make):
        program = Program()
        room = make(program)
        async with room.lease(LARGE, CHOICES, supports, failed=[PLAIN]) as lease:
            assert lease.plan.evictions == ("held",)
        await reloaded(room)

    async def test_a_byte_less_than_promised_makes_no_stricter_plan(self, make):
        program = Program()

        async def look():
            return snapshot(FREE - HELD if program.model else FREE - GB - 1)

        room = make(program, look=look, threshold=0.5)
        async with room.lease(LARGE, CHOICES, supports, failed=[PLAIN]) as lease:
            assert (lease.plan.key, lease.plan.evictions) == ("plain", ("held",))
        await reloaded(room)

    async def test_then_the_next_stricter_plan_is_taken(self, make):
        program = Program(model=None)
        room = make(program)
        async with room.lease(LARGE, CHOICES, supports, failed=[PLAIN]) as lease:
            assert lease.plan.key != "plain"

    async def test_where_there_is_none_that_is_said(self, make, home):
        for room in (make(Program(model=None)), ResourceOrchestrator(home)):
            with pytest.raises(NoStricterPlanError):
                async with room.lease(LARGE, PLAIN, supports, failed=[PLAIN]):
                    raise AssertionError


class TestRecovering:
    def leave(self, journal, name="held", model="llama", since=1e9):
        owner = ProcessRecord(2**22 + 1, 1.0, "/nothing")
        entry = Entry(name, model, {"model": model}, owner, since, Phase.ASIDE, 3)
        journal.write(entry)
        return entry

    async def test_what_a_dead_one_left_is_brought_back(self, make, server, journal):
        await Held(server.port).put_aside(None)
        self.leave(journal)
        room = make(Held(server.port))
        async with asyncio.timeout(5):
            await room.recover()
        assert server.calls == ["unload None", "load llama"]
        assert journal.entries() == []

    async def test_what_was_put_aside_since_is_what_comes_back(self, make, journal):
        """A command that recovers when it ends."""
        self.leave(journal, model="old")
        program = Program(model="young")
        room = make(program, linger=1000.0)
        async with room.lease(LARGE, CHOICES, supports) as lease:
            assert lease.plan.evictions == ("held",)
        async with asyncio.timeout(5):
            await room.recover()
            await room.aclose()
        assert program.model == "young"
        assert program.moves == ["put_aside", "restore"]
        assert journal.entries() == []

    async def test_two_that_start_at_once_bring_it_back_once(self, make, server, journal):
        await Held(server.port).put_aside(None)
        self.leave(journal)
        async with asyncio.timeout(5):
            await asyncio.gather(*(make(Held(server.port)).recover() for _ in range(2)))
        assert server.calls == ["unload None", "load llama"]

    async def test_one_that_does_not_come_back_is_tried_in_the_background(self, make, journal):
        program = Program(model=None)
        program.failing.add("restore")
        self.leave(journal)
        room = make(program)
        async with asyncio.timeout(5):
            await room.recover()
        (state,) = room.saved_state()
        assert (state.attempts, state.error) == (4, "The program is not back.")
        assert state.retry_at is not None
        program.failing.clear()
        await reloaded(room)
        assert room.saved_state() == ()

    async def test_what_was_put_aside_last_is_what_comes_back(self, make, journal):
        self.leave(journal, model="old", since=1e9)
        self.leave(journal, model="young", since=1e9 + 5)
        program = Program(model=None)
        await make(program).recover()
        assert (program.model, program.moves) == ("young", ["restore"])
        assert journal.entries() == []

    async def test_what_is_not_configured_any_more_stays_and_says_so_until_it_is_cleared(self, make, journal):
        entry = self.leave(journal, name="gone")
        room = make(Program())
        await room.recover()
        (state,) = room.saved_state()
        assert (state.name, state.is_ours) == ("gone", False)
        assert "add it again" in state.error
        assert journal.entries() == [entry]
        await room.clear_saved_state()
        assert room.saved_state() == ()
        assert journal.entries() == []

    async def test_what_closing_could_not_bring_back_is_left_to_the_next(self, make, journal):
        program = Program()
        program.failing.add("restore")
        room = make(program, linger=1000.0)
        async with room.lease(LARGE, CHOICES, supports):
            pass
        async with asyncio.timeout(5):
            await room.aclose()
        assert program.moves == ["put_aside", "restore"]
        (state,) = room.saved_state()
        assert state.error == "held is brought back at the next start."
        program.failing.clear()
        await make(program).recover()
        assert program.model == "llama"

    async def test_what_another_living_process_has_put_aside_is_not_asked_for_anything(self, make, journal):
        journal.write(Entry("held", "llama", {}, ProcessRecord.of(os.getppid()), 1e9))
        program = Program()
        room = make(program)
        assert not await room.would_need_offload(LARGE, CHOICES, supports)
        async with room.lease(LARGE, CHOICES, supports) as lease:
            assert lease.plan.evictions == ()
        await room.aclose()
        assert program.calls == []

    async def test_what_another_puts_aside_at_the_same_moment_is_left_to_it(self, make, journal):
        program = Program()
        room = make(program)

        def write(entry):
            Journal.write(journal, entry)
            Journal.write(journal, replace(entry, id="0" * 16, owner=ProcessRecord.of(os.getppid())))

        room._journal.write = write
        async with room.lease(LARGE, CHOICES, supports) as lease:
            assert lease.plan.evictions == ()
            assert any("another program" in reason for reason in lease.plan.reasons)
            assert [entry.id for entry in journal.entries()] == ["0" * 16]
        await room.aclose()
        assert program.moves == []

    async def test_of_two_managers_one_moves_it_and_brings_it_back(self, make, server):
        first, second = make(Held(server.port)), make(Held(server.port))
        async with first.lease(LARGE, CHOICES, supports):
            await Held(server.port).set("half")  # it is on its way back
            async with second.lease(LARGE, CHOICES, supports) as lease:
                assert lease.plan.evictions == ()
        await reloaded(second)
        await reloaded(first)
        assert server.calls == ["unload None", "set half"]

    async def test_what_a_dead_one_left_waits_while_a_living_one_has_it_aside(self, make, journal):
        entry = self.leave(journal)
        alive = Entry("held", "llama", {}, ProcessRecord.of(os.getppid()), 2e9, Phase.ASIDE)
        journal.write(alive)
        program = Program(model=None)
        await make(program).recover()
        assert program.moves == []
        assert journal.entries() == [entry, alive]

    async def test_cancelled_while_claiming_it_leaves_all_to_the_next(self, make, journal, monkeypatch):
        self.leave(journal)
        inner, begun, go_on = Journal.claim, threading.Event(), threading.Event()

        def claim(*args):
            try:
                return inner(*args)
            finally:
                begun.set()
                assert go_on.wait(10)

        program = Program(model=None)
        for method in ("recover", "clear_saved_state"):
            room = make(program)
            with monkeypatch.context() as patched:
                patched.setattr(Journal, "claim", claim)
                task = asyncio.create_task(getattr(room, method)())
                await until(begun.is_set)
                task.cancel()
                go_on.set()
                with pytest.raises(asyncio.CancelledError):
                    await asyncio.wait_for(task, 5)
            (entry,) = journal.entries()
            assert entry.is_orphan
            begun.clear()
            go_on.clear()
        await make(program).recover()
        assert program.model == "llama"

    async def test_a_program_that_cancels_itself_does_not_hold_up_the_start(self, make, journal):
        self.leave(journal)
        room = make(Odd("restore", model=None))
        async with asyncio.timeout(5):
            await room.recover()
            (state,) = room.saved_state()
            assert state.error == "held could not be brought back: it was cancelled."
            await room.aclose()

    async def test_what_nobody_here_may_bring_back_is_said_once(self, make, journal, caplog):
        caplog.set_level("DEBUG", "sdmanager.resources")
        self.leave(journal, name="gone", model="mistral")
        room = make(Program())
        for _ in range(3):
            await room.recover()
        told = [each.getMessage() for each in caplog.records if "gone" in each.getMessage()]
        assert len(told) == 1
        assert "gone (mistral)" in told[0]

    async def test_started_again_and_again_it_works_each_time(self, make, journal):
        program = Program(model=None)
        room = make(program, linger=1000.0)
        for _ in range(3):
            self.leave(journal)
            async with asyncio.timeout(5):
                await room.recover()
                assert program.model == "llama"
                async with room.lease(LARGE, CHOICES, supports) as lease:
                    assert lease.plan.evictions == ("held",)
                await room.aclose()
            assert program.model == "llama"
            assert journal.entries() == []
            program.model = None
        assert program.moves == ["restore", "put_aside", "restore"] * 3

    async def test_what_another_living_process_has_put_aside_is_shown_and_left(self, make, journal):
        alive = ProcessRecord.of(os.getppid())
        journal.write(Entry("held", "llama", {"model": "llama"}, alive, 1e9))
        program = Program(model=None)
        room = make(program)
        await room.recover()
        await room.clear_saved_state()
        (state,) = room.saved_state()
        assert (state.is_ours, state.error) == (False, None)
        assert program.moves == []

    async def test_cleared_it_does_not_come_back(self, make, server, journal):
        room = make(Held(server.port), linger=0.05)
        async with room.lease(LARGE, CHOICES, supports):
            await room.clear_saved_state()
        await asyncio.sleep(0.1)
        assert server.calls == ["unload None"]
        assert journal.entries() == []

    async def test_what_cannot_be_forgotten_is_an_error(self, home, journal, monkeypatch):
        self.leave(journal)
        monkeypatch.setattr(Journal, "remove", lambda *_: None)
        monkeypatch.setattr(Journal, "claim", lambda *_: [])
        with pytest.raises(StorageError, match="forgotten"):
            await ResourceOrchestrator(home).clear_saved_state()

    async def test_without_programs_it_is_shown_and_can_be_cleared(self, home, journal):
        self.leave(journal)
        room = ResourceOrchestrator(home)
        await room.recover()
        assert [state.name for state in room.saved_state()] == ["held"]
        await room.clear_saved_state()
        assert room.saved_state() == ()

    async def test_the_journal_holds_only_what_the_program_says(self, make, journal):
        room = make(Program())
        async with room.lease(LARGE, CHOICES, supports):
            (path,) = journal._folder.glob("*.json")
            assert set(json.loads(path.read_text())) == {
                *("format", "id", "name", "what", "phase", "attempts", "since", "owner", "state"),
            }
        await reloaded(room)


class TestLoops:
    def test_without_programs_leases_are_taken_in_any_loop(self, home):
        room = ResourceOrchestrator(home)

        async def run():
            async with asyncio.timeout(10), room.lease(SMALL, CHOICES, supports) as lease:
                await asyncio.sleep(0.05)
                return lease.plan.key

        keys = []
        threads = [threading.Thread(target=lambda: keys.append(asyncio.run(run()))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert keys == ["plain"] * 4
        asyncio.run(room.wait_for_reload())
        asyncio.run(room.aclose())

    async def test_with_programs_another_loop_is_told_so(self, make):
        room = make(Program())
        await room.wait_for_reload()
        with pytest.raises(ServerError, match="another event loop"):
            await asyncio.to_thread(asyncio.run, room.wait_for_reload())

    def test_a_loop_that_is_closed_makes_way_for_the_next(self, make):
        program = Program()
        room = make(program, linger=1000.0)

        async def draw():
            async with asyncio.timeout(10), room.lease(LARGE, CHOICES, supports) as lease:
                return lease.plan.evictions

        assert asyncio.run(draw()) == ("held",)
        assert asyncio.run(draw()) == ("held",)
        asyncio.run(room.wait_for_reload())
        assert program.moves == ["put_aside", "restore"]

    def test_what_failed_in_a_loop_that_is_closed_is_tried_at_once_in_the_next(self, make):
        program = Program()
        program.failing.add("restore")
        room = make(program)

        async def fail():
            async with room.lease(LARGE, CHOICES, supports):
                pass
            await until(lambda: room.saved_state()[0].error)

        asyncio.run(fail())
        program.failing.clear()
        asyncio.run(room.recover())
        assert program.model == "llama"
        assert room.saved_state() == ()

    @pytest.mark.parametrize("closes", [True, False])
    def test_in_one_loop_after_the_other_a_start_finds_what_is_aside(self, make, journal, closes):
        program = Program()
        room = make(program, linger=1000.0)

        async def run():
            async with asyncio.timeout(10):
                await room.recover()
                assert program.model == "llama"
                async with room.lease(LARGE, CHOICES, supports) as lease:
                    assert lease.plan.evictions == ("held",)
                if closes:
                    await room.aclose()

        for _ in range(3):
            asyncio.run(run())
        assert program.moves.count("put_aside") == 3
        assert (journal.entries() == []) is closes
        asyncio.run(room.recover())
        assert program.model == "llama"
        assert journal.entries() == []


@pytest.mark.parametrize(
    ("supply", "enough"),
    [
        (
            Supply(ram_free=GB // 2, ram_total=TOTAL),
            True,
        ),  # over the threshold, which does not count for so little
        (Supply(ram_free=GB // 8, ram_total=TOTAL), False),
        (Supply(ram_total=TOTAL), False),
        (Supply(), False),
    ],
)
def test_what_is_enough_is_what_the_planner_says(supply, enough):
    assert Ask(SMALL, CHOICES, supports, 0.75).is_enough(PLAIN, supply) is enough


@pytest.mark.parametrize(("free", "enough"), [(12 * GB, True), (10 * GB, False)])
def test_what_is_over_the_threshold_is_not_enough(free, enough):
    supply = Supply(ram_free=free, ram_total=TOTAL)
    assert Ask(LARGE, CHOICES, supports, 0.75).is_enough(PLAIN, supply) is enough


@pytest.mark.parametrize(
    "options",
    [
        {"threshold": 0},
        {"threshold": 1.1},
        {"threshold": float("nan")},
        {"linger": -1},
        {"linger": float("inf")},
    ],
)
def test_figures_out_of_range_are_refused(home, options):
    with pytest.raises(InvalidRequestError):
        ResourceOrchestrator(home, **options)


def test_names_must_differ(home):
    with pytest.raises(InvalidRequestError, match="held"):
        ResourceOrchestrator(home, [Program(), Program()])
