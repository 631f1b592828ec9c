"""The fingerprint stays while nothing changes, and changes with a card, a driver or a library."""

import os
import subprocess
import sys

import pytest

from sdmanager.hardware import hardware_fingerprint
from sdmanager.hardware._fingerprint import facts_of, fingerprint_of

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the files of Linux")

SHARE = "/usr/share/vulkan/icd.d"


@pytest.fixture
def here(files):
    """A machine with two cards of different makers."""
    files.nvidia()
    files.card("0000:03:00.0", "0x1002", "0x744c", "amdgpu", mem_info_vram_used="1")
    files.write(f"{SHARE}/radeon_icd.x86_64.json", "{}")
    files.write("/etc/vulkan/icd.d/nvidia_icd.json", "{}")
    files.write("/usr/lib/x86_64-linux-gnu/libcuda.so.580.65.06")
    files.link("/usr/lib/x86_64-linux-gnu/libcuda.so.1", "libcuda.so.580.65.06")
    files.write("/opt/vulkan/libvulkan.so.1.3")
    files.link("/opt/vulkan/libvulkan.so.1", "libvulkan.so.1.3")
    files.write("/etc/ld.so.cache", b"glibc-ld.so.cache1.1\0\0/opt/vulkan/libvulkan.so.1\0/lib/libc.so.6\0")
    files.write("/dev/dri/renderD128")
    files.write("/dev/dri/card0")
    return files


def fingerprint(files, **environ):
    return fingerprint_of(facts_of(files.tree, environ, files.root / "home/me"))


def update_nvidia(files):
    files.write("/sys/module/nvidia/version", "581.00\n")


def update_kernel(files):
    files.write("/proc/sys/kernel/osrelease", "6.12.0\n")


def other_driver(files):
    files.link("/sys/bus/pci/devices/0000:01:00.0/driver", "../../drivers/nouveau")


def no_driver(files):
    (files.root / "sys/bus/pci/devices/0000:01:00.0/driver").unlink()


def other_card(files):
    files.write("/sys/bus/pci/devices/0000:01:00.0/device", "0x2b85\n")


def one_more_card(files):
    files.card("0000:02:00.0", "0x10de", "0x2684", "nvidia")


def new_vulkan_driver(files):
    files.write(f"{SHARE}/intel_icd.x86_64.json", "{}")


def own_vulkan_driver(files):
    files.write("/home/me/.local/share/vulkan/icd.d/mine.json", "{}")


def updated_vulkan_driver(files):
    os.utime(files.root / SHARE.lstrip("/") / "radeon_icd.x86_64.json", (1, 1))


def no_vulkan(files):
    (files.root / "opt/vulkan/libvulkan.so.1").unlink()


def updated_cuda(files):
    files.write("/usr/lib/x86_64-linux-gnu/libcuda.so.581.00")
    files.link("/usr/lib/x86_64-linux-gnu/libcuda.so.1", "libcuda.so.581.00")


def wsl_library(files):
    files.write("/usr/lib/wsl/lib/libcuda.so.1")


def no_device_node(files):
    (files.root / "dev/dri/renderD128").unlink()


def one_more_device_node(files):
    files.write("/dev/dri/renderD129")


def other_processor(files):
    files.write("/proc/cpuinfo", "processor: 0\nflags: fpu avx avx2 avx512f\n")


@pytest.mark.parametrize(
    "change",
    [
        update_nvidia, update_kernel, other_driver, no_driver, other_card, one_more_card, new_vulkan_driver,
        own_vulkan_driver, updated_vulkan_driver, no_vulkan, updated_cuda, wsl_library, no_device_node,
        one_more_device_node, other_processor,
    ],
)  # fmt: skip
def test_it_changes_with(here, change):
    before = fingerprint(here)
    change(here)
    assert fingerprint(here) != before


@pytest.mark.parametrize(
    "name",
    ["CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "GGML_VK_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"],
)
def test_it_changes_with_what_engines_may_see(here, name):
    digests = {fingerprint(here), fingerprint(here, **{name: ""}), fingerprint(here, **{name: "1"})}
    assert len(digests) == 3


def test_without_a_card_of_the_kernel_s_drivers_the_kernel_does_not_matter(files):
    files.nvidia()
    before = fingerprint(files)
    update_kernel(files)
    assert fingerprint(files) == before


def test_a_driver_without_a_card_on_the_bus_matters(files):
    digests = {fingerprint(files)}
    for version in ("580.65.06", "581.00"):
        files.write(
            "/proc/driver/nvidia/version", f"NVRM version: NVIDIA UNIX x86_64 Kernel Module  {version}  x"
        )
        digests.add(fingerprint(files))
    assert len(digests) == 3


def more_use(files):
    files.write("/proc/meminfo", "MemTotal: 1 kB\nMemAvailable: 1 kB\n")
    files.write("/sys/bus/pci/devices/0000:03:00.0/mem_info_vram_used", "123456789\n")
    files.write("/proc/cpuinfo", "processor: 0\ncpu MHz: 800.0\nflags: avx2 avx fpu\n")


def moved_card(files):
    bus = files.root / "sys/bus/pci/devices"
    (bus / "0000:01:00.0").rename(bus / "0000:0a:00.0")


def other_devices(files):
    files.card("0000:00:1f.0", "0x8086", "0x7a04", "lpc_ich", kind="0x060100")


def first_use_of_nvidia(files):
    for name in ("nvidia0", "nvidiactl", "nvidia-uvm", "nvidia-modeset"):
        files.write(f"/dev/{name}")


def notes_beside_drivers(files):
    files.write(f"{SHARE}/README", "x")


@pytest.mark.parametrize(
    "change", [more_use, moved_card, other_devices, first_use_of_nvidia, notes_beside_drivers]
)
def test_it_stays_with(here, change):
    before = fingerprint(here)
    change(here)
    assert fingerprint(here, SHELL="/bin/sh", container_name="x") == before


def test_in_a_container_the_given_nodes_matter(here):
    here.write("/.dockerenv")
    before = fingerprint(here)
    first_use_of_nvidia(here)
    assert fingerprint(here) != before


def test_a_machine_of_nonsense_has_one_too(files):
    files.card("0000:01:00.0", b"\xff", b"\x00" * 100_000, "amdgpu")
    files.write("/etc/ld.so.cache", os.urandom(100_000) + b"/" + b"x" * 9000 + b"/libcuda.so.1\0")
    files.write("/proc/driver/nvidia/version", b"\xff" * 100_000)
    files.write("/usr/share/vulkan", "no folder")
    files.link("/etc/vulkan/icd.d/gone.json", "nowhere")
    assert len(fingerprint(files, CUDA_VISIBLE_DEVICES="\udcff")) == 64


def test_a_machine_of_nothing_has_one_too(tmp_path, files):
    object.__setattr__(files.tree, "root", tmp_path / "nowhere")
    assert len(fingerprint(files)) == 64


def test_another_process_finds_the_same():
    code = "from sdmanager.hardware import hardware_fingerprint as f; print(f())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == hardware_fingerprint() == hardware_fingerprint()


def test_nothing_is_run_and_no_driver_is_loaded():
    code = """
import sys
sys.addaudithook(lambda event, _: event in {"subprocess.Popen", "os.posix_spawn", "os.fork", "ctypes.dlopen"}
                 and sys.exit(event))
from sdmanager.hardware import hardware_fingerprint
hardware_fingerprint()
assert not {"pynvml", "psutil"} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
