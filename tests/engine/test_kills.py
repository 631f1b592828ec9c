"""What the kernel says about processes that it ended for want of RAM."""

from __future__ import annotations

from pathlib import Path

import pytest

from sdmanager.engine.kills import Killed, Kills, count_kills, kills_since

ONE_MORE = "oom_kill 9\n"


class Kernel:
    """Files as the kernel has them: of the machine, and of a group in another one."""

    def __init__(self, folder: Path) -> None:
        self.machine, self.groups, self.own = folder / "vmstat", folder / "cgroup", folder / "own"
        self.slice = self.groups / "user.slice"
        self.group = self.slice / "app.scope"
        self.group.mkdir(parents=True)
        self.machine.write_text("pgfault 12\noom_kill 3\nswap_ra 0\n")
        self.own.write_text("1:name=systemd:/x\n0::/user.slice/app.scope\n")
        self.events = self.group / "memory.events"
        self.events.write_text("low 0\nhigh 0\nmax 7\noom 2\noom_kill 1\noom_group_kill 0\n")

    def count(self) -> Kills:
        return count_kills(self.machine, self.groups, self.own)


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    return Kernel(tmp_path)


def test_a_kill_in_the_own_group_is_told_from_one_on_the_machine(kernel: Kernel) -> None:
    (kernel.group / "memory.max").write_text("max\n")
    before = kernel.count()
    assert kills_since(before) is Killed.NOTHING
    kernel.machine.write_text(ONE_MORE)
    assert kills_since(before) is Killed.MACHINE
    kernel.events.write_text(ONE_MORE)
    assert kills_since(before) is Killed.GROUP


@pytest.mark.parametrize("limited", ["group", "slice", "groups"])
def test_where_the_own_group_or_one_above_it_has_a_limit_the_machine_is_not_asked(
    kernel: Kernel, limited: str
) -> None:
    (getattr(kernel, limited) / "memory.max").write_text("4294967296\n")
    before = kernel.count()
    kernel.machine.write_text(ONE_MORE)
    assert kills_since(before) is Killed.NOTHING
    kernel.events.write_text(ONE_MORE)
    assert kills_since(before) is Killed.GROUP


def test_a_container_sees_its_own_group_at_the_mount_point(kernel: Kernel) -> None:
    kernel.own.write_text("0::/docker/1234\n")
    (kernel.groups / "memory.events").write_text("oom_kill 0\n")
    (kernel.groups / "memory.max").write_text("1073741824\n")
    before = kernel.count()
    kernel.machine.write_text(ONE_MORE)
    assert kills_since(before) is Killed.NOTHING
    (kernel.groups / "memory.events").write_text("oom_kill 1\n")
    assert kills_since(before) is Killed.GROUP


def test_where_no_group_says_the_machine_is_asked(kernel: Kernel) -> None:
    kernel.events.unlink()
    before = kernel.count()
    assert kills_since(before) is Killed.NOTHING
    kernel.machine.write_text(ONE_MORE)
    assert kills_since(before) is Killed.MACHINE


def test_where_nothing_says_it_is_not_known(tmp_path: Path) -> None:
    for text in (None, "", "oom_kill many\n", "\xff\x00"):
        if text is not None:
            (tmp_path / "vmstat").write_text(text)
        counts = count_kills(tmp_path / "vmstat", tmp_path / "none", tmp_path / "none")
        assert counts == Kills(None, None)
        assert kills_since(counts) is None


def test_what_cannot_be_read_a_second_time_says_nothing(kernel: Kernel) -> None:
    before = kernel.count()
    kernel.events.unlink()
    kernel.machine.unlink()
    assert kills_since(before) is None


def test_a_group_that_points_elsewhere_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "memory.events").write_text("oom_kill 5\n")
    (tmp_path / "groups").mkdir()
    (tmp_path / "own").write_text("0::/../\n")
    assert count_kills(tmp_path / "vmstat", tmp_path / "groups", tmp_path / "own") == Kills(None, None)
