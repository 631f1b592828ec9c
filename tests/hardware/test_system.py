"""System and processor from folders, from a registry and from a kernel that are not here; and this machine."""

import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sdmanager.hardware import current_platform, ram_now, take_snapshot
from sdmanager.hardware._linux import cpu_flags, read_linux
from sdmanager.hardware._machine import this_machine
from sdmanager.hardware._macos import is_translated, read_macos, system_facts
from sdmanager.hardware._system import glibc_version, platform_name
from sdmanager.hardware._windows import DISPLAY_CLASS, driver_facts, nvidia_version, read_windows

GIB = 1 << 30
on_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the files of Linux")


@pytest.mark.parametrize(
    ("system", "machine", "narrow", "name"),
    [
        ("linux", "x86_64", False, "linux-x64"),
        ("linux", "aarch64", False, "linux-arm64"),
        ("win32", "AMD64", False, "win32-x64"),
        ("win32", "ARM64", False, "win32-arm64"),
        ("darwin", "arm64", False, "darwin-arm64"),
        ("darwin", "x86_64", False, "darwin-x64"),
        ("linux", "riscv64", False, "linux-riscv64"),
        ("freebsd14", "amd64", False, "freebsd14-x64"),
        ("linux", "", False, "linux-unknown"),
        ("linux", "x86_64", True, "linux-x86"),
        ("linux", "aarch64", True, "linux-arm"),
        ("win32", "AMD64", True, "win32-x64"),
    ],
)
def test_platforms_have_names(system, machine, narrow, name):
    assert platform_name(system, machine, narrow=narrow) == name


@pytest.mark.skipif((sys.platform, platform.machine()) != ("linux", "x86_64"), reason="another machine")
def test_this_platform_is_named():
    assert current_platform() == "linux-x64"


@on_linux
async def test_the_memory_alone_is_that_of_the_whole_look(home):
    total, available = ram_now()
    snapshot = await take_snapshot(home, max_age=0)
    assert total == snapshot.ram_total
    assert 0 < available <= total


def test_glibc_is_what_ldd_says():
    done = subprocess.run(["ldd", "--version"], capture_output=True, text=True, check=False)
    version = re.search(r"(?:GLIBC|GNU libc)[^)]*\) ([\d.]+)", done.stdout)
    assert glibc_version() == (version[1] if version else None)


@on_linux
def test_system_and_processor_are_described(files):
    reading = read_linux(files.tree)
    assert reading.system == "Debian GNU/Linux 12, Linux 6.1.0-38-amd64"
    assert (reading.cpu, reading.threads, reading.cores) == ("A CPU", 2, None)
    assert cpu_flags(files.tree) == ["avx", "avx2", "fpu"]


@on_linux
def test_cores_are_counted_by_their_threads(files):
    files.write("/sys/devices/system/cpu/online", "0-3,8\n")
    for number, siblings in {0: "0-1", 1: "0-1", 2: "2-3", 3: "2-3", 8: "8"}.items():
        files.write(f"/sys/devices/system/cpu/cpu{number}/topology/thread_siblings_list", f"{siblings}\n")
    reading = read_linux(files.tree)
    assert (reading.cores, reading.threads) == (3, 5)


@on_linux
@pytest.mark.parametrize("online", ["", "0-", "many", "3-1", "0-99999999", "\xff", "0-3," * 100_000])
def test_a_strange_list_of_processors_is_none(files, online):
    files.write("/sys/devices/system/cpu/online", online)
    reading = read_linux(files.tree)
    assert (reading.cores, reading.threads) == (None, 2)


@on_linux
def test_arm_processors_are_named_by_their_board(files):
    files.write("/proc/cpuinfo", "processor\t: 0\nFeatures\t: fp asimd\n\nprocessor\t: 1\n")
    files.write("/proc/device-tree/model", b"Raspberry Pi 5\0")
    assert read_linux(files.tree).cpu == "Raspberry Pi 5"
    assert cpu_flags(files.tree) == ["asimd", "fp"]


@on_linux
def test_an_empty_machine_is_unknown(tmp_path, files):
    object.__setattr__(files.tree, "root", tmp_path / "nowhere")
    reading = read_linux(files.tree)
    assert reading.system == "Linux"
    facts = (reading.cpu, reading.cores, reading.threads, reading.ram_total, reading.ram_available)
    assert facts == (None,) * 5
    assert (reading.gpus, reading.problems) == ((), ("the system does not tell how much memory it has",))


@on_linux
@pytest.mark.parametrize("text", ["", "NAME", 'NAME=""\nVERSION_ID=\n', "NAME=\x01\x02\n"])
def test_a_system_without_a_name_is_its_kernel(files, text):
    files.write("/etc/os-release", text)
    assert read_linux(files.tree).system == "Linux 6.1.0-38-amd64"


def test_this_machine_has_an_interpreter_and_a_binding():
    machine = this_machine()
    assert machine.python == Path(sys.executable)
    assert (machine.bindings / "pynvml.py").is_file()


class Keys:
    """A registry in memory."""

    def __init__(self, keys):
        self.keys = keys

    def names(self, key):
        below = {name[len(key) + 1 :].partition("\\")[0] for name in self.keys if name.startswith(key + "\\")}
        return sorted(below)

    def value(self, key, name):
        return self.keys.get(key, {}).get(name)


def registry(*cards, **windows):
    keys = {rf"{DISPLAY_CLASS}\{number:04}": card for number, card in enumerate(cards)}
    keys[rf"{DISPLAY_CLASS}\Properties"] = {}
    keys[r"HARDWARE\DESCRIPTION\System\CentralProcessor\0"] = {"ProcessorNameString": "A CPU   "}
    keys[r"HARDWARE\DESCRIPTION\System\CentralProcessor\1"] = {}
    keys[r"SOFTWARE\Microsoft\Windows NT\CurrentVersion"] = windows
    return Keys(keys)


def display(device, name, driver="32.0.15.8065", memory=None):
    facts = {"MatchingDeviceId": device, "DriverDesc": name, "DriverVersion": driver}
    return facts | ({"HardwareInformation.qwMemorySize": memory} if memory is not None else {})


RTX = display("PCI\\VEN_10DE&DEV_2684", "NVIDIA GeForce RTX 4090", memory=24 * GIB)


def windows(found):
    return read_windows(found, memory=(32 * GIB, 16 * GIB), cores=8, release="10.0.22631")


def test_windows_is_described():
    reading = windows(registry(RTX, ProductName="Windows 10 Pro", CurrentBuildNumber="22631"))
    assert reading.system == "Windows 11 Pro, 10.0.22631"
    assert (reading.cpu, reading.cores, reading.threads) == ("A CPU", 8, 2)
    assert (reading.ram_total, reading.ram_available) == (32 * GIB, 16 * GIB)
    assert (reading.ask_nvidia, reading.expect_nvidia) == (True, True)
    (gpu,) = reading.gpus
    assert (gpu.vendor, gpu.name, gpu.total_vram, gpu.free_vram) == (
        "nvidia",
        RTX["DriverDesc"],
        24 * GIB,
        None,
    )
    assert gpu.driver == "580.65"


@pytest.mark.parametrize(
    ("memory", "total"),
    [
        ((8 * GIB).to_bytes(8, "little"), 8 * GIB),
        (0, None),
        (b"", None),
        (b"\xff" * 8, None),
        (-1, None),
        ("8 GB", None),
        (None, None),
        (True, None),
    ],
)
def test_windows_memory_is_a_number_or_unknown(memory, total):
    reading = windows(registry(display("pci\\ven_1002&dev_744c", "AMD Radeon", memory=memory)))
    assert [(gpu.vendor, gpu.total_vram, gpu.driver) for gpu in reading.gpus] == [
        ("amd", total, "32.0.15.8065")
    ]


def test_windows_adapters_that_only_show_a_picture_are_no_cards():
    devices = (
        "ROOT\\BasicRender",
        "pci\\ven_1414&dev_5353",
        "pci\\ven_15ad&dev_0405",
        "USB\\VID_17E9",
        "",
        None,
    )
    assert windows(registry(*(display(device, "An adapter") for device in devices))).gpus == ()


def test_windows_chips_that_are_no_pci_devices_are_cards():
    (gpu,) = windows(registry(display("ACPI\\QCOM0C36", "Adreno X1-85"))).gpus
    assert (gpu.vendor, gpu.name) == (None, "Adreno X1-85")


def test_an_empty_registry_is_unknown():
    reading = windows(Keys({}))
    assert (reading.cpu, reading.threads, reading.gpus, reading.ask_nvidia) == (None, None, (), False)


@pytest.mark.parametrize(
    ("windows_version", "nvidia"),
    [
        ("32.0.15.8065", "580.65"),
        ("31.0.15.5186", "551.86"),
        ("27.21.14.5671", "456.71"),
        ("nonsense", "nonsense"),
        ("1.2.3.4", "1.2.3.4"),
    ],
)
def test_nvidia_s_own_version_is_in_that_of_windows(windows_version, nvidia):
    assert nvidia_version(windows_version) == nvidia


def test_windows_drivers_decide_the_fingerprint():
    first = driver_facts(registry(RTX))
    assert driver_facts(registry(RTX | {"HardwareInformation.qwMemorySize": 1})) == first
    assert driver_facts(registry(RTX | {"DriverVersion": "32.0.15.9999"})) != first
    assert driver_facts(registry(RTX, RTX)) != first


def number(value, size=4):
    return value.to_bytes(size, "little")


APPLE = {
    "machdep.cpu.brand_string": b"Apple M3 Max\0",
    "hw.optional.arm64": number(1),
    "hw.physicalcpu": number(14),
    "hw.logicalcpu": number(14),
    "hw.memsize": number(36 * GIB, 8),
}


def test_apple_silicon_has_one_card_that_shares_the_memory():
    reading = read_macos(APPLE.get, memory=(None, None), release="14.5")
    assert (reading.system, reading.cpu, reading.cores, reading.threads) == (
        "macOS 14.5",
        "Apple M3 Max",
        14,
        14,
    )
    assert (reading.ram_total, reading.ram_available) == (36 * GIB, None)
    (gpu,) = reading.gpus
    assert (gpu.vendor, gpu.name, gpu.total_vram, gpu.unified_memory) == ("apple", "Apple M3 Max", None, True)
    assert not reading.problems


def test_a_mac_with_an_intel_processor_has_cards_that_are_not_known():
    reading = read_macos(
        {"machdep.cpu.brand_string": b"Intel(R) Core(TM) i7\0"}.get, memory=(1, 1), release=""
    )
    assert (reading.system, reading.gpus, len(reading.problems)) == ("macOS", (), 1)


@pytest.mark.parametrize(
    ("value", "translated"),
    [(number(1), True), (number(0), False), (None, False), (b"", False), (b"1", False)],
)
def test_a_translated_process_is_told(value, translated):
    assert is_translated({"sysctl.proc_translated": value}.get) is translated


def test_the_version_of_macos_decides_the_fingerprint():
    assert system_facts((APPLE | {"kern.osversion": b"23F79\0"}).get) != system_facts(APPLE.get)
