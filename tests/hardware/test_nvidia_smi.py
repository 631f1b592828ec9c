"""Where the library cannot be asked, its tool is: a script in its place."""

import sys

import pytest

from sdmanager.hardware._nvidia import parse_smi
from sdmanager.hardware._probe import probe

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the tool is a shell script")

MIB = 1 << 20
GOOD = "00000000:01:00.0, 24564, 24000, 580.65.06, [N/A], 8.9, NVIDIA GeForce RTX 4090"
RTX = ("NVIDIA GeForce RTX 4090", 24564 * MIB, 24000 * MIB, "580.65.06", (8, 9))
SEEN = (None, None, None, "580.65.06", None)
GONE = "the NVIDIA driver did not answer within"

# What the tool does, then the card, then the beginning of the problem.
ANSWERS = {
    "a card": (f"echo '{GOOD}'", RTX, None),
    "name with a comma": (f"echo '{GOOD}, Rev. B'", (RTX[0] + ", Rev. B", *RTX[1:]), None),
    "nothing applies": (
        "echo '00000000:01:00.0, [N/A], [Not Supported], [Unknown Error], [N/A], [N/A], [Unknown Error]'",
        (None,) * 5,
        None,
    ),
    "MIG": (
        "echo '00000000:01:00.0, 40960, 40000, 580.65.06, Enabled, 8.0, NVIDIA A100'",
        ("NVIDIA A100", None, None, "580.65.06", (8, 0)),
        None,
    ),
    "more free than there is": (
        f"echo '{GOOD}' | sed 's/24000/99999/'",
        (RTX[0], None, None, *RTX[3:]),
        None,
    ),
    "huge number": (
        f"echo '{GOOD}' | sed 's/24564/99999999999999999999999/'",
        (RTX[0], None, None, *RTX[3:]),
        None,
    ),
    "negative number": (f"echo '{GOOD}' | sed 's/24000/-24000/'", (RTX[0], RTX[1], None, *RTX[3:]), None),
    "zero": (f"echo '{GOOD}' | sed 's/24564/0/'", (RTX[0], None, None, *RTX[3:]), None),
    "no UTF-8": (
        f"printf '%s\\n' '{GOOD}' | sed 's/GeForce/\\xe4\\xff/'",
        ("NVIDIA \ufffd\ufffd RTX 4090", *RTX[1:]),
        None,
    ),
    "older tool": (
        'case "$1" in *compute_cap*) echo \'Field "compute_cap" is not a valid field to query.\'; exit 2;; esac\n'
        "echo '00000000:01:00.0, 24564, 24000, 470.82, NVIDIA GeForce RTX 4090'",
        (*RTX[:3], "470.82", None),
        None,
    ),
    "error after the card": (f"echo '{GOOD}'; exit 15", RTX, "the NVIDIA driver's library ended its probe"),
    "hang after the card": (f"echo '{GOOD}'; trap '' TERM; sleep 1000", RTX, GONE),
    "hang": ("trap '' TERM; sleep 1000; sleep 1000", SEEN, GONE),
    "crash": ("kill -SEGV $$", SEEN, "the NVIDIA driver's library crashed (signal 11)"),
    "endless output": ("while :; do echo garbage garbage garbage; done", SEEN, GONE),
    "one endless line": ("exec cat /dev/zero", SEEN, GONE),
    "garbage": ("head -c 100000 /dev/urandom", SEEN, "the NVIDIA driver gave no usable answer"),
    "exit 1": ("exit 1", SEEN, "the NVIDIA driver's library ended its probe (exit code 1)"),
    "driver updated": (
        "echo 'Failed to initialize NVML: Driver/library version mismatch'; exit 18",
        SEEN,
        "the NVIDIA driver was updated: restart the machine",
    ),
    "driver not loaded": ("exit 9", SEEN, "the NVIDIA driver is not loaded"),
    "no devices": (
        "echo 'No devices were found'; exit 6",
        SEEN,
        "the NVIDIA driver does not offer the card at 0000:01:00.0",
    ),
    "silence": ("exit 0", SEEN, "the NVIDIA driver does not offer the card at 0000:01:00.0"),
    "no program": ("", SEEN, "the library of the NVIDIA driver was not found"),
    "program of another machine": (None, SEEN, "the library of the NVIDIA driver was not found"),
}


CASES = [(name, "interpreter") for name in ANSWERS] + [("a card", "binding"), ("no program", "binding")]


@pytest.mark.parametrize(("name", "lacking"), CASES)
async def test_the_tool_answers_where_the_library_cannot_be_asked(
    files, machine, nvidia_smi, tmp_path, believe, name, lacking
):
    script, card, problem = ANSWERS[name]
    files.nvidia()
    if script is None:
        nvidia_smi("")
        (tmp_path / "bin" / "nvidia-smi").write_bytes(b"\x7fELF" + bytes(60))
    elif script:
        nvidia_smi(script)
    without = {"python": None} if lacking == "interpreter" else {"with_bindings": False}
    there = machine("hang-init", **without)
    snapshot = await probe(there, 1 if problem == GONE else 10)
    believe(snapshot)
    (gpu,) = snapshot.gpus
    assert (gpu.name, gpu.total_vram, gpu.free_vram, gpu.driver, gpu.compute_capability) == card
    assert [text[: len(problem or "")] for text in snapshot.problems] == ([problem] if problem else [])
    assert gpu.pci == "0000:01:00.0"
    assert gpu.mig == ("Enabled" in (script or ""))


async def test_the_library_is_preferred(files, machine, nvidia_smi, tmp_path):
    files.nvidia()
    nvidia_smi(f"touch {tmp_path}/asked")
    await probe(machine(""), 10)
    assert not (tmp_path / "asked").exists()


@pytest.mark.parametrize("words", ["segv", "init=999", "exit"])
async def test_the_tool_is_not_asked_what_its_own_library_failed_at(
    files, machine, nvidia_smi, tmp_path, words
):
    files.nvidia()
    nvidia_smi(f"touch {tmp_path}/asked")
    await probe(machine(words), 10)
    assert not (tmp_path / "asked").exists()


def test_lines_that_are_no_cards_are_left_out():
    text = f"a warning\n,,,,,,\n{GOOD}\n00000000:02:00.0, 1, 2\n"
    assert [gpu.pci for gpu in parse_smi(text.encode())] == ["0000:01:00.0"]
