"""Graphics cards from folders in the place of sysfs."""

import os
import sys

import pytest

from sdmanager.hardware._linux import read_linux
from sdmanager.hardware._linux_gpus import nvidia_driver
from sdmanager.hardware._probe import probe
from sdmanager.hardware.snapshot import Gpu

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="sysfs is of Linux")

GIB = 1 << 30
AMD_DRIVER = "amdgpu 6.1.0-38-amd64"


def amd(files, address="0000:03:00.0", device="0x744c", **more):
    sizes = {"mem_info_vram_total": 24 * GIB, "mem_info_vram_used": GIB, "mem_info_gtt_total": 16 * GIB}
    files.card(address, "0x1002", device, "amdgpu", **(sizes | {"mem_busy_percent": 0} | more))


def apu(files, **more):
    folder = files.root / "sys/bus/pci/devices/0000:05:00.0"
    amd(files, "0000:05:00.0", "0x1681", mem_info_vram_total=GIB // 2, mem_info_vram_used=1 << 20, **more)
    (folder / "mem_busy_percent").unlink()


def nothing(files):
    pass


def virtual(files):
    files.card("0000:00:02.0", "0x1234", "0x1111", "bochs-drm")
    files.card("0000:00:03.0", "0x1af4", "0x1050", "virtio-pci")
    files.card("0000:00:04.0", "0x1b36", "0x0100", "qxl")
    files.card("0000:00:05.0", "0x15ad", "0x0405", "vmwgfx")
    files.card("0000:00:06.0", "0x1013", "0x00b8")
    files.card("0000:00:07.0", "0x1a03", "0x2000", "ast")
    files.card("0000:00:08.0", "0x102b", "0x0522", "mgag200")
    files.card("0000:00:09.0", "0x1414", "0x008e", "dxgkrnl")
    drm(files, "renderD128", "vgem", "platform")
    drm(files, "card0", "simple-framebuffer", "platform")


def other_devices(files):
    files.card("0000:00:1f.0", "0x8086", "0x7a04", "lpc_ich", kind="0x060100")
    files.card("0000:01:00.1", "0x10de", "0x22ba", "snd_hda_intel", kind="0x040300")


def drm(files, node, driver, bus, device="gpu"):
    folder = f"/sys/devices/{device}"
    for name, target in (("driver", f"../../drivers/{driver}"), ("subsystem", f"../../bus/{bus}")):
        files.link(f"{folder}/{name}", target)
    files.link(f"/sys/class/drm/{node}", f"../../devices/{device}/drm/{node}")
    files.link(f"{folder}/drm/{node}/device", f"../../../{device}")


def hybrid(files):
    files.card("0000:00:02.0", "0x8086", "0xa7a0", "i915")
    files.card("0000:01:00.0", "0x10de", "0x28e0")


def arc(files):
    files.card("0000:03:00.0", "0x8086", "0x56a0", "xe")
    for number in (0, 1):
        files.write(
            f"/sys/bus/pci/devices/0000:03:00.0/tile{number}/physical_vram_size_bytes", f"{8 * GIB}\n"
        )


def older_arc(files):
    files.card("0000:03:00.0", "0x8086", "0x56a0", "i915")
    files.write("/sys/bus/pci/devices/0000:03:00.0/drm/card0/lmem_total_bytes", f"{8 * GIB}\n")


def kept(files):
    files.card("0000:01:00.0", "0x1002", "0x744c", "vfio-pci")


def own_module(files):
    amd(files)
    files.write("/sys/module/amdgpu/version", "6.12.12\n")


def named(files):
    amd(files, product_name="AMD Instinct MI210")


def accelerator(files):
    amd(files, kind="0x120000")


def many_buses(files):
    for address in ("0001:00:00.0", "0000:41:00.0", "10000:e1:00.0", "0000:03:00.0"):
        files.card(address, "0x1ed5", "0x0222", "mtgpu")


def listed(files):
    amd(files)
    files.write(
        "/usr/share/misc/pci.ids",
        "# a comment\n1001  Kolter\n\t744c  Not this one\n1002  AMD\n\t7448  Navi 32\n"
        "\t744c  Navi 31 [Radeon RX 7900 XTX]\n\t\t1002 0e3b  A board\n1003  ULSI\n\t0201  US201\n",
    )


def listed_elsewhere(files):
    amd(files)
    files.write(
        "/usr/share/hwdata/pci.ids", b"\xff\xfe1002\n1002  AMD\n\t7448  Navi 32\n1003  ULSI\n\t744c  No\n"
    )


def soc(files):
    drm(files, "renderD128", "panfrost", "platform")
    drm(files, "card0", "panfrost", "platform")
    drm(files, "card1", "rockchip-drm", "platform", "display")


def jetson(files):
    drm(files, "renderD128", "tegra", "platform")


def garbage(files):
    amd(files, mem_info_vram_total="lots", mem_info_vram_used=b"\xff\x00\xfe", mem_info_gtt_total="-1")


def huge(files):
    digits = "9" * 100_000
    amd(files, mem_info_vram_total=digits, mem_info_vram_used=digits, product_name="n" * 100_000)


def too_much(files):
    amd(files, mem_info_vram_total=17 << 40, mem_info_vram_used=0)


def overfull(files):
    amd(files, mem_info_vram_used=25 * GIB)


def empty_files(files):
    amd(files, mem_info_vram_total="", mem_info_vram_used="")


def no_vendor(files):
    files.card("0000:01:00.0", b"\x00\xff", "", "amdgpu")


def dangling(files):
    files.link("/sys/bus/pci/devices/0000:07:00.0", "../../../devices/gone")
    files.card("0000:03:00.0", "0x1002", "0x744c")
    files.link("/sys/bus/pci/devices/0000:03:00.0/driver", "../../drivers/amdgpu")
    files.link("/sys/bus/pci/devices/0000:03:00.0/mem_info_vram_total", "mem_info_vram_total")


def folders_and_pipes(files):
    amd(files, mem_info_vram_total="", mem_info_vram_used="")
    folder = files.root / "sys/bus/pci/devices/0000:03:00.0"
    for name in ("mem_info_vram_total", "mem_info_vram_used"):
        (folder / name).unlink()
    (folder / "mem_info_vram_total").mkdir()
    os.mkfifo(folder / "mem_info_vram_used")


def odd_names(files):
    files.card("0000:01:00.0\nx", "0x1002", "0x744c", "amdgpu")
    files.card("not an address", "0x1002", "0x744c", "amdgpu")


def no_classes(files):
    files.card("0000:01:00.0", "0x1002", "0x744c", "amdgpu", kind="display")


def card(vendor, driver, total=None, free=None, unified=None, name=None, pci="0000:03:00.0"):
    return Gpu(vendor, name, total, free, driver, unified_memory=unified, pci=pci)


RADEON = card("amd", AMD_DRIVER, 24 * GIB, 23 * GIB, False)
UNKNOWN = card("amd", AMD_DRIVER, unified=False)
TREES = {
    nothing: [],
    virtual: [],
    other_devices: [],
    amd: [RADEON],
    apu: [card("amd", AMD_DRIVER, GIB // 2, GIB // 2 - (1 << 20), True, pci="0000:05:00.0")],
    hybrid: [
        card("intel", "i915 6.1.0-38-amd64", unified=True, pci="0000:00:02.0"),
        card("nvidia", None, pci="0000:01:00.0"),
    ],
    arc: [card("intel", "xe 6.1.0-38-amd64", 16 * GIB, None, False)],
    older_arc: [card("intel", "i915 6.1.0-38-amd64", 8 * GIB, None, False)],
    kept: [card("amd", None, pci="0000:01:00.0")],
    own_module: [card("amd", "amdgpu 6.12.12", 24 * GIB, 23 * GIB, False)],
    named: [card("amd", AMD_DRIVER, 24 * GIB, 23 * GIB, False, "AMD Instinct MI210")],
    accelerator: [RADEON],
    many_buses: [
        card(None, "mtgpu 6.1.0-38-amd64", pci=pci)
        for pci in ("0000:03:00.0", "0000:41:00.0", "0001:00:00.0", "10000:e1:00.0")
    ],
    listed: [card("amd", AMD_DRIVER, 24 * GIB, 23 * GIB, False, "Navi 31 [Radeon RX 7900 XTX]")],
    listed_elsewhere: [RADEON],
    soc: [card(None, "panfrost 6.1.0-38-amd64", unified=True, pci=None)],
    jetson: [card("nvidia", "tegra 6.1.0-38-amd64", unified=True, pci=None)],
    garbage: [UNKNOWN],
    huge: [card("amd", AMD_DRIVER, unified=False, name="n" * 120)],
    too_much: [UNKNOWN],
    overfull: [card("amd", AMD_DRIVER, 24 * GIB, None, False)],
    empty_files: [UNKNOWN],
    no_vendor: [card(None, AMD_DRIVER, pci="0000:01:00.0")],
    dangling: [card("amd", AMD_DRIVER)],
    folders_and_pipes: [UNKNOWN],
    odd_names: [],
    no_classes: [],
}


@pytest.mark.parametrize(("fill", "gpus"), TREES.items(), ids=[fill.__name__ for fill in TREES])
async def test_cards_are_what_sysfs_says_and_nothing_is_invented(files, machine, believe, fill, gpus):
    fill(files)
    assert list(read_linux(files.tree).gpus) == gpus
    believe(await probe(machine("cards=0", python=None), 10))


def test_carve_out_of_unknown_kind_is_neither_shared_nor_not(files):
    apu(files, mem_info_gtt_total="unknown")
    assert read_linux(files.tree).gpus[0].unified_memory is None


@pytest.mark.parametrize(
    ("text", "version"),
    [
        (
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12 19:39:15 UTC 2024\n",
            "535.183.01",
        ),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build\n", "580.65.06"),
        ("NVRM version: unknown\nGCC version:  gcc version 12.2.0 (Debian 12.2.0-14)\n", None),
        ("", None),
        (b"\xff" * 100_000, None),
    ],
)
def test_driver_version_is_read_from_the_module_s_own_file(files, text, version):
    files.write("/proc/driver/nvidia/version", text)
    assert nvidia_driver(files.tree) == version


async def test_a_card_kept_for_virtual_machines_is_said_so(files):
    kept(files)
    problem = "the graphics card at 0000:01:00.0 is kept for virtual machines by vfio-pci"
    assert read_linux(files.tree).problems == (problem,)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_unreadable_files_leave_facts_unknown(files):
    amd(files)
    (files.root / "sys/bus/pci/devices/0000:03:00.0/mem_info_vram_total").chmod(0)
    assert read_linux(files.tree).gpus == (UNKNOWN,)


def test_real_jetson_is_asked_through_its_library(files):
    jetson(files)
    reading = read_linux(files.tree)
    assert (reading.ask_nvidia, reading.expect_nvidia) == (True, False)
