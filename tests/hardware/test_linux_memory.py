"""Memory from folders in the place of /proc and the control groups, and from the real ones."""

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdmanager.hardware._linux_memory import read_memory
from sdmanager.hardware._tree import Tree

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="control groups are of Linux")

GIB = 1 << 30
MACHINE = (32 * GIB, 16 * GIB)
V2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n"
V1 = "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n36 31 0:33 / /x rw - cgroup cgroup rw,cpu\n"
NO_LIMIT_V1 = 9223372036854771712


def group(files, path, limit="max", used=0, version=2, **statistics):
    folder, names = (
        (f"/sys/fs/cgroup{path}", ("memory.max", "memory.current"))
        if version == 2
        else (f"/sys/fs/cgroup/memory{path}", ("memory.limit_in_bytes", "memory.usage_in_bytes"))
    )
    for name, value in zip(names, (limit, used), strict=True):
        files.write(f"{folder}/{name}", value if isinstance(value, bytes) else f"{value}\n")
    files.write(f"{folder}/memory.stat", "".join(f"{name} {value}\n" for name, value in statistics.items()))


def membership(files, path, version=2):
    line = f"0::{path}\n" if version == 2 else f"9:cpu:/else\n4:memory:{path}\n0::/\n"
    files.write("/proc/self/cgroup", line)
    files.write("/proc/self/mountinfo", V2 if version == 2 else V1)


@pytest.mark.parametrize("version", [1, 2])
def test_no_limit_leaves_what_the_machine_has(files, version):
    membership(files, "/a/b", version)
    for path in ("", "/a", "/a/b"):
        group(files, path, "max" if version == 2 else NO_LIMIT_V1, 8 * GIB, version)
    assert read_memory(files.tree) == MACHINE


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("level", ["", "/a", "/a/b"])
def test_a_limit_at_any_level_counts(files, version, level):
    membership(files, "/a/b", version)
    for path in ("", "/a", "/a/b"):
        group(files, path, 4 * GIB if path == level else NO_LIMIT_V1, GIB, version)
    assert read_memory(files.tree) == (4 * GIB, 3 * GIB)


def test_the_tightest_level_counts_for_each_number(files):
    membership(files, "/a/b")
    group(files, "/a", 8 * GIB, 8 * GIB - 5)
    group(files, "/a/b", 4 * GIB, GIB)
    assert read_memory(files.tree) == (4 * GIB, 5)


@pytest.mark.parametrize(("version", "prefix"), [(1, "total_"), (2, "")])
def test_file_cache_of_the_group_is_available(files, version, prefix):
    membership(files, "/a", version)
    cache = {f"{prefix}inactive_file": GIB, f"{prefix}active_file": GIB, f"{prefix}inactive_anon": GIB}
    group(files, "/a", 4 * GIB, 3 * GIB, version, **cache)
    assert read_memory(files.tree) == (4 * GIB, 3 * GIB)


def test_a_full_group_has_nothing(files):
    membership(files, "/a")
    group(files, "/a", 4 * GIB, 5 * GIB)
    assert read_memory(files.tree) == (4 * GIB, 0)


def test_no_more_is_available_than_the_machine_has(files):
    membership(files, "/a")
    group(files, "/a", 31 * GIB, 0)
    assert read_memory(files.tree) == (31 * GIB, 16 * GIB)


def test_more_cache_than_use_is_not_believed(files):
    membership(files, "/a")
    group(files, "/a", 4 * GIB, GIB, inactive_file=100 * GIB)
    assert read_memory(files.tree) == (4 * GIB, 4 * GIB)


def test_the_limit_that_slows_down_counts_too(files):
    membership(files, "/a")
    group(files, "/a", 4 * GIB, GIB)
    files.write("/sys/fs/cgroup/a/memory.high", f"{2 * GIB}\n")
    assert read_memory(files.tree) == (2 * GIB, GIB)


@pytest.mark.parametrize(
    "limit", ["0", "-1", "", "lots", "9" * 30, "9" * 100_000, b"\xff\xfe\x00", "0x100000", "1.5", "max max"]
)
@pytest.mark.parametrize("version", [1, 2])
def test_a_limit_that_cannot_be_is_none(files, version, limit):
    membership(files, "/a", version)
    group(files, "/a", limit, GIB, version)
    assert read_memory(files.tree) == MACHINE


def test_unknown_use_leaves_the_limit(files):
    membership(files, "/a")
    group(files, "/a", 4 * GIB, "unknown")
    assert read_memory(files.tree) == (4 * GIB, 4 * GIB)


@pytest.mark.parametrize(
    ("root", "path", "inside"),
    [
        ("/docker/abc", "/docker/abc", ""),  # the host's path, seen without a namespace
        ("/docker/abc", "/docker/abc/job", "/job"),
        ("/docker/abc", "/docker/abcdef", ""),  # another group's name begins the same
        ("/", "/../../elsewhere", ""),  # outside of the namespace
        ("/", "/a b", "/a b"),
    ],
)
def test_the_mounted_part_of_the_hierarchy_is_found(files, root, path, inside):
    files.write("/proc/self/cgroup", f"0::{path}\n")
    files.write("/proc/self/mountinfo", V2.replace("0:26 /", f"0:26 {root}", 1))
    group(files, inside, 4 * GIB, GIB)
    for decoy in ("/def", "/../../elsewhere"):
        group(files, decoy, GIB, GIB)
    assert read_memory(files.tree) == (4 * GIB, 3 * GIB)


def test_a_mount_point_with_a_space_is_found(files):
    files.write("/proc/self/cgroup", "0::/a\n")
    files.write("/proc/self/mountinfo", "30 23 0:26 / /my\\040groups rw shared:4 - cgroup2 none rw\n")
    files.write("/my groups/a/memory.max", f"{GIB}\n")
    assert read_memory(files.tree)[0] == GIB


def test_both_hierarchies_at_once_are_looked_at(files):
    membership(files, "/a", 1)
    files.write("/proc/self/mountinfo", V1 + V2.replace("/sys/fs/cgroup", "/sys/fs/cgroup/unified"))
    group(files, "/a", 4 * GIB, GIB, 1)
    assert read_memory(files.tree) == (4 * GIB, 3 * GIB)


@pytest.mark.parametrize(
    ("text", "memory"),
    [
        ("MemTotal: 33554432 kB\n", (32 * GIB, None)),
        ("MemTotal: 0 kB\nMemAvailable: 0 kB\n", (None, None)),
        ("MemAvailable: 16777216 kB\n", (None, None)),
        ("MemTotal: 1 kB\nMemAvailable: 16777216 kB\n", (1024, None)),
        ("MemTotal: many kB\n", (None, None)),
        ("MemTotal: 99999999999999999999 kB\n", (None, None)),
        ("MemTotal: 33554432 kB\nMemAvailable: 0 kB\n", (32 * GIB, 0)),
        ("", (None, None)),
        (b"\xff" * 1_000_000, (None, None)),
    ],
)
def test_what_the_kernel_does_not_tell_is_unknown(files, text, memory):
    files.write("/proc/meminfo", text)
    assert read_memory(files.tree) == memory


def test_a_group_tells_the_total_where_the_kernel_does_not(files):
    files.write("/proc/meminfo", "")
    membership(files, "/a")
    group(files, "/a", 4 * GIB, GIB)
    assert read_memory(files.tree) == (4 * GIB, None)


@given(cgroup=st.binary(max_size=200), mounts=st.binary(max_size=200), number=st.binary(max_size=40))
def test_no_text_of_the_kernel_raises(tmp_path_factory, cgroup, mounts, number):
    root = tmp_path_factory.mktemp("root", numbered=True)
    (root / "proc/self").mkdir(parents=True)
    (root / "sys/fs/cgroup").mkdir(parents=True)
    (root / "proc/meminfo").write_bytes(b"MemTotal: " + number)
    (root / "proc/self/cgroup").write_bytes(b"0::/a" + cgroup)
    (root / "proc/self/mountinfo").write_bytes(V2.encode() + mounts)
    (root / "sys/fs/cgroup/memory.max").write_bytes(number)
    total, available = read_memory(Tree(root))
    assert total is None or total > 0
    assert available is None or 0 <= available <= total


def test_the_real_machine_has_memory():
    total, available = read_memory(Tree())
    assert 0 < available <= total
