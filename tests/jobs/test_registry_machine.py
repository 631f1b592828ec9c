"""The registry against a plain model of it, by random walks on a clock of their own."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from results import Clock, a_result, some_progress

from sdmanager.errors import AlreadyTerminalError, GenerationNotFoundError, NoImageError
from sdmanager.jobs import GenerationRegistry, Status

TTL = 100
MAX_ENTRIES, MAX_BYTES = 6, 1000
KEYS = ("red", "green")
NEXT = {
    "pending": {"in_progress", "error", "cancelled"},
    "in_progress": {"complete", "error", "cancelled"},
}
ENDED = ("complete", "error", "cancelled")


@dataclass
class Model:
    """What is to be known of one generation."""

    status: str
    key: str | None
    ended: int | None = None
    pngs: tuple[bytes, ...] = ()
    code: str | None = None
    percentage: float | None = None

    @property
    def size(self):
        return sum(map(len, self.pngs))


class Machine(RuleBasedStateMachine):
    ids = Bundle("ids")

    def __init__(self):
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="sdmanager-registry-"))
        self.now = 0  # seconds that have passed, for all clocks alike
        self.clock, self.wall = Clock(5000), Clock(1_700_000_000)
        self.model: dict[str, Model] = {}
        self.ends: list[str] = []  # in their order
        self.seen: list[str] = []
        self.registry = self.opened()

    def opened(self):
        registry = GenerationRegistry(
            self.folder,
            ttl=TTL,
            max_entries=MAX_ENTRIES,
            max_bytes=MAX_BYTES,
            clock=self.clock,
            wall=self.wall,
        )
        registry.open()
        return registry

    def forget(self, name):
        del self.model[name]
        if name in self.ends:
            self.ends.remove(name)

    def expire(self):
        for name in [name for name in self.ends if self.now - self.model[name].ended >= TTL]:
            self.forget(name)

    def trim(self):
        def over():
            return len(self.model) > MAX_ENTRIES or sum(each.size for each in self.model.values()) > MAX_BYTES

        while len(self.ends) > 1 and over():
            self.forget(self.ends[0])

    def key_owner(self, key):
        owners = [name for name, each in self.model.items() if each.key == key and each.code != "INTERRUPTED"]
        return owners[0] if owners else None

    @rule(target=ids, key=st.sampled_from((None, *KEYS)))
    def create(self, key):
        if key is not None and self.key_owner(key) is not None:
            with pytest.raises(ValueError):
                self.registry.create(key=key)
            key = None
        name = self.registry.create(key=key).id
        self.model[name] = Model("pending", key)
        self.seen.append(name)
        return name

    @rule(
        name=ids, status=st.sampled_from(Status), sizes=st.lists(st.integers(1, 500), min_size=1, max_size=3)
    )
    def change_status(self, name, status, sizes):
        pngs = tuple(bytes([65 + n]) * size for n, size in enumerate(sizes))
        change = {"status": status}
        if status is Status.COMPLETE:
            stored = name in self.model and self.model[name].status == "in_progress"
            change["result"] = a_result(*pngs)
            if stored:
                change["result"] = self.registry.store_images(name, change["result"])
        if status is Status.ERROR:
            change["error"] = NoImageError("No image.")
        expected = self.model.get(name)
        if expected is None:
            with pytest.raises(GenerationNotFoundError):
                self.registry.update(name, **change)
        elif expected.status in ENDED:
            with pytest.raises(AlreadyTerminalError):
                self.registry.update(name, **change)
        elif status.value not in NEXT[expected.status]:
            with pytest.raises(ValueError):
                self.registry.update(name, **change)
        else:
            self.registry.update(name, **change)
            self.moved(name, status.value, pngs)

    def moved(self, name, status, pngs):
        expected = self.model[name]
        expected.status, expected.percentage = status, None
        if status in ENDED:
            expected.ended = self.now
            expected.pngs = pngs if status == "complete" else ()
            expected.code = "NO_IMAGE" if status == "error" else None
            self.ends.append(name)
            self.trim()

    @rule(name=ids, percentage=st.floats(0, 100))
    def progress(self, name, percentage):
        expected = self.model.get(name)
        if expected is not None and expected.status == "in_progress":
            self.registry.update(name, progress=some_progress(percentage))
            expected.percentage = percentage
        else:
            with pytest.raises((GenerationNotFoundError, AlreadyTerminalError, ValueError)):
                self.registry.update(name, progress=some_progress(percentage))

    @rule(name=ids)
    def delete(self, name):
        assert self.registry.delete(name) == (name in self.model)
        if name in self.model:
            self.forget(name)

    @rule(seconds=st.sampled_from((1, 30, 49, 50, 99, 100, 1000)))
    def wait(self, seconds):
        self.now += seconds
        self.clock.now += seconds
        self.wall.now += seconds
        self.expire()

    @rule()
    def clean_up(self):
        self.registry.cleanup()
        self.trim()
        self.only_what_is_known_is_on_disk()

    @rule()
    def clear(self):
        self.registry.clear()
        self.model.clear()
        self.ends.clear()
        self.only_what_is_known_is_on_disk()

    @rule(boot=st.integers(0, 10_000), off=st.sampled_from((0, 10, 100)), polite=st.booleans())
    def reopen(self, boot, off, polite):
        if polite:
            self.registry.destroy()
            assert self.registry.size() == 0
        else:
            self.registry._folder.release()  # as the end of the process does
        self.clock = Clock(boot)
        self.wall.now += off
        self.now += off
        self.registry = self.opened()
        self.expire()
        for name, expected in self.model.items():
            if expected.status not in ENDED:
                expected.status, expected.code, expected.percentage = "error", "INTERRUPTED", None
                expected.ended = self.now
                self.ends.append(name)
        self.same_order_of_ends()
        self.trim()
        self.only_what_is_known_is_on_disk()

    def same_order_of_ends(self):
        """Of those that ended in the same second, either may go first: the records do not say more."""
        real = list(self.registry._ended)
        moments = {name: self.model[name].ended for name in self.ends}
        gone = [name for name in self.ends if name not in real]
        assert all(moments[early] <= moments[late] for early in gone for late in real)
        assert [moments[name] for name in real] == sorted(moments[name] for name in real)
        self.ends = gone + real

    def only_what_is_known_is_on_disk(self):
        folders = {entry.name: entry for entry in self.folder.iterdir() if not entry.name.startswith(".")}
        assert set(folders) == set(self.model)

    @invariant()
    def everything_is_as_the_model_says(self):
        registry = self.registry
        assert set(registry.get_all_ids()) == set(self.model)
        assert registry.size() == len(self.model)
        assert [each.id for each in registry.list()] == list(registry.get_all_ids())
        assert registry._bytes == sum(each.size for each in self.model.values())
        for name in self.seen:
            self.one_is_as_the_model_says(registry.get(name), self.model.get(name))
        for key in KEYS:
            owner = registry.find_key(key)
            assert (owner.id if owner else None) == self.key_owner(key)

    def one_is_as_the_model_says(self, real, expected):
        if expected is None:
            assert real is None
            return
        assert (real.status, real.key) == (expected.status, expected.key)
        assert (real.progress.percentage if real.progress else None) == expected.percentage
        assert (real.error.code if real.error else None) == expected.code
        images = real.result.images if real.result else ()
        assert tuple(image.png for image in images) == expected.pngs

    def teardown(self):
        self.registry.destroy()
        shutil.rmtree(self.folder)


def walk(runs, steps):
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=runs, stateful_step_count=steps, suppress_health_check=list(HealthCheck)
        ),
    )


def test_short_walks():
    walk(60, 30)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_long_walks():
    walk(1000, 50)
