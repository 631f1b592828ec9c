"""The real binding loads a library that stands in for NVIDIA's, in a process of its own."""

import ctypes.util
import sys

import psutil
import pytest

from sdmanager.hardware._probe import probe

resource = pytest.importorskip("resource", reason="limits are of POSIX")

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the library is built for Linux")

GIB = 1 << 30
NO_ANSWER = "the NVIDIA driver did not answer within 1 s"
STRANGE = "the NVIDIA driver gives numbers for memory that cannot be true"
LOST = "an NVIDIA card has stopped answering: restart the machine"
RTX = ("NVIDIA GeForce RTX 4090", 24 * GIB, 23 * GIB, (8, 9))
SLICE = ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", 5 * GIB, 4 * GIB, (8, 9))

# How the library behaves, then name, total, free and capability of each card, then the problems.
CARDS = {
    "one card": ("", [RTX], []),
    "two cards": ("cards=2", [RTX, ("NVIDIA GeForce RTX 3060", 12 * GIB, 11 * GIB, (8, 6))], []),
    "full card": ("full", [(RTX[0], 24 * GIB, 0, (8, 9))], []),
    "MIG instances": ("mig", [SLICE, SLICE], []),
    "MIG instances without names of their own": ("old-mig", [SLICE, SLICE], []),
    "MIG mode without instances": (
        "empty-mig",
        [(RTX[0], None, None, (8, 9))],
        ["an NVIDIA card is in MIG mode and has no instance"],
    ),
    "memory not supported": ("no-memory", [(RTX[0], None, None, (8, 9))], []),
    "shared memory": ("gb10", [("NVIDIA GB10", None, None, (8, 9))], []),
    "card lost while asked": ("lost-memory", [(RTX[0], None, None, (8, 9))], [LOST]),
    "absurd numbers": ("absurd", [(RTX[0], None, None, (8, 9))], [STRANGE]),
    "petabytes": ("petabytes", [(RTX[0], None, None, (8, 9))], [STRANGE]),
    "more free than there is": ("more-free", [(RTX[0], None, None, (8, 9))], [STRANGE]),
    "zero memory": ("zero", [(RTX[0], None, None, (8, 9))], []),
    "name that is no UTF-8": ("latin-name", [("NVIDIA Qu\ufffddro [31m RTX", *RTX[1:])], []),
    "name without end": ("long-name", [("X" * 96, *RTX[1:])], []),
    "empty name": ("empty-name", [(None, *RTX[1:])], []),
    "name cannot be had": ("name-error", [(None, *RTX[1:])], []),
    "no capability": ("no-capability", [(*RTX[:3], None)], []),
    "negative capability": ("strange-capability", [(*RTX[:3], None)], []),
    "no address": ("no-address", [RTX], []),
    "strange address": ("strange-address", [RTX], []),
    "garbage on stdout": ("garbage", [RTX], []),
}
# What the library does instead of answering, and what is said of it.
FAILURES = {
    "hangs when loaded": ("hang-init", NO_ANSWER),
    "hangs when asked": ("hang-memory", NO_ANSWER),
    "hangs after garbage": ("garbage hang-init", NO_ANSWER),
    "segmentation fault": ("segv", "the NVIDIA driver's library crashed (signal 11)"),
    "abort": ("abort", "the NVIDIA driver's library crashed (signal 6)"),
    "exit 1": ("exit", "the NVIDIA driver's library ended its probe (exit code 1)"),
    "exit 0": ("quit", "the NVIDIA driver gave no usable answer"),
    "driver not loaded": ("init=9", "the NVIDIA driver is not loaded"),
    "driver updated": ("init=18", "the NVIDIA driver was updated: restart the machine"),
    "no permission": ("init=4", "this user may not use the NVIDIA driver"),
    "unknown error": ("init=999", "the NVIDIA driver could not be asked (error 999)"),
    "error of the future": ("init=12345", "the NVIDIA driver could not be asked (error 12345)"),
    "cannot count": ("count-error=999", "the NVIDIA driver could not be asked (error 999)"),
}


def table(rows):
    return pytest.mark.parametrize("row", rows.values(), ids=rows)


def lives(pid):
    try:
        # An orphan that was killed may wait for the system's first process to notice.
        return psutil.Process(pid).status() not in {psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD}
    except psutil.NoSuchProcess:
        return False


def facts(snapshot):
    return [(g.name, g.total_vram, g.free_vram, g.compute_capability) for g in snapshot.gpus]


@table(CARDS)
async def test_cards_are_what_the_library_says_and_nothing_is_invented(files, machine, believe, row):
    words, cards, problems = row
    files.nvidia()
    if "cards=2" in words:
        files.nvidia("0000:02:00.0")
    snapshot = await probe(machine(words), 10)
    believe(snapshot)
    assert facts(snapshot) == cards
    assert list(snapshot.problems) == problems
    assert {gpu.driver for gpu in snapshot.gpus} == {"580.65.06"}
    assert all(gpu.mig == ("mig" in words) for gpu in snapshot.gpus)
    assert snapshot.gpus[0].pci == "0000:01:00.0"


@table(FAILURES)
async def test_a_failure_costs_only_what_the_library_knew(files, machine, believe, row):
    words, problem = row
    files.nvidia()
    snapshot = await probe(machine(words), 1 if problem == NO_ANSWER else 10)
    believe(snapshot)
    assert facts(snapshot) == [(None, None, None, None)]
    assert snapshot.gpus[0].driver == "580.65.06"
    assert [text.partition(" within")[0] for text in snapshot.problems] == [problem.partition(" within")[0]]
    assert snapshot.ram_total == 32 * GIB


@pytest.mark.parametrize("words", ["hang-init", "hang-memory"])
async def test_a_library_that_ignores_signals_is_dead_afterwards(files, machine, tmp_path, words):
    files.nvidia()
    await probe(machine(words), 1)
    assert not lives(int((tmp_path / "pid").read_text()))


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ("cards=2 hang-second", "the NVIDIA driver did not answer within"),
        ("cards=2 segv-second", "the NVIDIA driver's library crashed (signal 11)"),
        ("cards=2 lost-second", LOST),
    ],
)
async def test_a_second_card_that_fails_does_not_cost_the_first(files, machine, believe, words, problem):
    files.nvidia()
    files.nvidia("0000:02:00.0")
    snapshot = await probe(machine(words), 2)
    believe(snapshot)
    assert facts(snapshot) == [RTX, (None, None, None, None)]
    assert snapshot.problems[0].startswith(problem)


async def test_strange_driver_version_is_no_version(files, machine, believe):
    files.nvidia()
    snapshot = await probe(machine("strange-driver"), 10)
    believe(snapshot)
    assert snapshot.gpus[0].driver == "\ufffd"


async def test_a_driver_without_cards_offers_none(files, machine, believe):
    files.nvidia()
    snapshot = await probe(machine("cards=0"), 10)
    believe(snapshot)
    assert facts(snapshot) == [(None, None, None, None)]
    assert snapshot.problems == ("the NVIDIA driver does not offer the card at 0000:01:00.0",)


async def test_shared_memory_is_said_of_chips_with_a_processor_beside_them(files, machine):
    files.nvidia()
    unified = [
        (await probe(machine(words), 10)).gpus[0].unified_memory for words in ("gb10", "", "no-memory")
    ]
    assert unified == [True, False, None]


async def test_wsl_has_cards_without_a_pci_device(files, machine, believe):
    files.write("/dev/dxg")
    snapshot = await probe(machine(""), 10)
    believe(snapshot)
    assert facts(snapshot) == [RTX]


@pytest.mark.parametrize("words", ["init=9", "init=12", "cards=0"])
async def test_wsl_without_an_nvidia_card_is_no_problem(files, machine, words):
    files.write("/dev/dxg")
    snapshot = await probe(machine(words), 10)
    assert (snapshot.gpus, snapshot.problems) == ((), ())


async def test_wsl_libraries_are_found_beside_those_of_the_user(files, machine):
    files.write("/dev/dxg")
    environ = machine("").library_environ
    assert environ["LD_LIBRARY_PATH"].endswith(":/usr/lib/wsl/lib")
    assert environ["LD_LIBRARY_PATH"].startswith(machine("").environ["LD_LIBRARY_PATH"])


async def test_a_module_without_a_card_on_the_bus_is_asked(files, machine):
    files.write("/dev/nvidiactl")
    assert facts(await probe(machine(""), 10)) == [RTX]


async def test_nobody_is_asked_where_no_nvidia_card_can_be(files, machine, believe):
    files.card("0000:03:00.0", "0x1002", "0x744c", "amdgpu")
    files.card("0000:01:00.0", "0x10de", "0x2684", "nouveau")
    snapshot = await probe(machine("hang-init"), 60)
    believe(snapshot)
    assert [(gpu.vendor, gpu.driver) for gpu in snapshot.gpus] == [
        ("nvidia", "nouveau 6.1.0-38-amd64"),
        ("amd", "amdgpu 6.1.0-38-amd64"),
    ]


@pytest.mark.skipif(bool(ctypes.util.find_library("nvidia-ml")), reason="the real library is here")
async def test_a_missing_library_is_said_where_a_card_is(files, machine, fake_library, believe):
    files.nvidia()
    there = machine("")
    there.environ["LD_LIBRARY_PATH"] = str(fake_library.parent)
    snapshot = await probe(there, 10)
    believe(snapshot)
    assert facts(snapshot) == [(None, None, None, None)]
    assert snapshot.problems == ("the library of the NVIDIA driver was not found",)


async def test_a_broken_binding_is_as_good_as_none(files, machine, tmp_path, believe):
    files.nvidia()
    (tmp_path / "pynvml.py").write_text("raise RuntimeError('not for you')\n")
    there = machine("")
    object.__setattr__(there, "bindings", tmp_path)
    snapshot = await probe(there, 10)
    believe(snapshot)
    assert snapshot.problems == ("the library of the NVIDIA driver was not found",)


async def test_a_guard_that_cannot_be_run_is_a_problem_and_no_error(files, machine, believe):
    files.nvidia()
    snapshot = await probe(machine("", guard=("/nowhere/guard",)), 10)
    believe(snapshot)
    assert facts(snapshot) == [(None, None, None, None)]
    assert len(snapshot.problems) == 1


async def test_the_library_s_own_end_is_not_waited_for(files, machine, tmp_path):
    files.nvidia()
    assert facts(await probe(machine("note-end"), 10)) == [RTX]
    assert not (tmp_path / "pid").exists()


async def test_a_crash_leaves_no_file(files, machine):
    before = resource.getrlimit(resource.RLIMIT_CORE)
    if before[1] == 0:
        pytest.skip("this system allows no core files anyway")
    files.nvidia()
    resource.setrlimit(resource.RLIMIT_CORE, (before[1], before[1]))
    try:
        snapshot = await probe(machine("core-limit"), 10)
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, before)
    assert snapshot.gpus[0].driver == "0"
