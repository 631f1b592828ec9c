"""What graphics drivers say when they fail, as the engine prints it, and what it means. A pure table.

CUDA, ROCm and MUSA share their code, so that ``CUDA error: …`` and ``ROCm error: …`` are followed by nearly the same
texts; Vulkan's come from exceptions, Metal's from log lines. Every text is searched at the start of a message, where
nothing of the caller's can stand.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sdmanager.errors import (
    EngineCrashedError,
    EngineNotRunnableError,
    EngineOutOfMemoryError,
    NoDeviceError,
)

if TYPE_CHECKING:
    from sdmanager.errors import SDManagerError

_ANOTHER: Final = "or use another variant of the engine"
BUILD: Final = f"Run 'sdmanager engine build --variant {{variant}}' on this machine, {_ANOTHER}."
_UPDATE: Final = f"Update the driver of the graphics card, {_ANOTHER}, such as vulkan."
_RESTART: Final = f"Restart the machine; if that does not help, install the driver again, {_ANOTHER}."
_REPORT: Final = (
    f"Try again; if it stays, update the driver of the graphics card, {_ANOTHER} or of its version."
)
_RIGHTS: Final = (
    "Check the driver with vulkaninfo, and that you may use the card (the groups render and video on Linux), "
    f"{_ANOTHER}."
)
_FASTER: Final = f"Use a smaller size or --vae-tiling, let another card drive the display, {_ANOTHER}."
_LESS: Final = "Use a smaller size or model, or close other programs that use the graphics card."
OVERRIDE: Final = (
    "Set HSA_OVERRIDE_GFX_VERSION to a card of the same family that ROCm supports, such as 10.3.0 or 11.0.0, "
    "or use the vulkan variant."
)


@dataclass(frozen=True, slots=True)
class DriverFailure:
    """One thing that a driver says.

    Attributes:
        said: What the engine prints.
        error: What it means for the engine.
        clause: What happened, to stand in a sentence; ``{driver}`` is the driver's name.
        hint: What to do.
        survived: Whether the engine goes on without the card, so that it explains nothing but a missing card.
        passing: Whether it may well be over at another time.
        shown: Whether the engine's own words follow the clause.
    """

    said: re.Pattern[str]
    error: type[SDManagerError]
    clause: str
    hint: str
    survived: bool = False
    passing: bool = False
    shown: bool = True


def _compute(texts: str) -> re.Pattern[str]:
    """What follows ``CUDA error: `` and its like, in builds of all ages."""
    return re.compile(
        r"^(?:(?P<survived>ggml_\w+: failed to initialize )(?P<lost>CUDA|ROCm|MUSA)"
        rf"|(?P<api>CUDA|ROCm|MUSA) error(?: \d+ at \S+)?): [^\n]{{0,40}}?(?:{texts})",
        re.MULTILINE,
    )


def _line(texts: str) -> re.Pattern[str]:
    return re.compile(rf"^(?:{texts})", re.MULTILINE)


def _vulkan(*results: str) -> re.Pattern[str]:
    """The name of a Vulkan result, where the engine or the C++ runtime of any system prints an exception."""
    names = "|".join(results)
    return re.compile(
        rf"^(?:ggml_vulkan: | *what\(\): |libc\+\+abi: |terminate called )[^\n]{{0,300}}?"
        rf"(?:Error(?:{names})\b|vk::(?:{names})Error\b)",
        re.MULTILINE,
    )


_CUDA: Final = (
    DriverFailure(
        _compute(
            "no kernel image is available|invalid device function|device kernel image is invalid|named symbol not found"
            "|CUBLAS_STATUS_ARCH_MISMATCH|[^\n]{0,40}architectur"
        ),
        EngineNotRunnableError,
        "the engine was built without code for this graphics card, which is too old or too new for it",
        BUILD,
    ),
    DriverFailure(
        _compute(
            "[^\n]{0,20}driver version is insufficient|API call is not supported in the installed|"
            "Loader version is insufficient|the provided PTX was compiled with an unsupported"
            "|the provided PTX contains unsupported|a PTX JIT compilation failed"
        ),
        NoDeviceError,
        "{driver} is older than the engine needs",
        _UPDATE,
    ),
    DriverFailure(
        _compute("PTX JIT compil"),
        NoDeviceError,
        "{driver} is not whole: its compiler is missing or turned off",
        f"Install the whole driver, with libnvidia-ptxjitcompiler, and unset CUDA_DISABLE_PTX_JIT, {_ANOTHER}.",
    ),
    DriverFailure(
        _compute(
            "forward compatibility was attempted|system has unsupported display driver|CUDA driver is a stub"
            "|incompatible driver context|shared object |unsupported interaction|integrity checks failed"
        ),
        NoDeviceError,
        "the parts of {driver} do not fit together",
        "Restart the machine if the driver was just updated, and keep CUDA's stubs and compatibility libraries "
        "(cuda-compat) out of LD_LIBRARY_PATH.",
    ),
    DriverFailure(
        _compute("no (?:CUDA|ROCm|MUSA)-capable device|invalid device ordinal"),
        NoDeviceError,
        "{driver} finds no graphics card",
        "Check the driver with nvidia-smi or rocminfo, that CUDA_VISIBLE_DEVICES or HIP_VISIBLE_DEVICES hides no card, "
        "that a container was started with the card, and on Linux the groups render and video.",
    ),
    DriverFailure(
        _compute("system not yet initialized|GPU fabric is not ready"),
        NoDeviceError,
        "the system around the graphics card is not ready yet",
        "Start NVIDIA's fabric manager (nvidia-fabricmanager) in the version of the driver, then try again.",
        passing=True,
    ),
    DriverFailure(
        _compute(r"[^\n]{0,30}busy or unavailable|exclusive-thread device|device already in use|[^\n]{0,60}\bMPS\b"),
        NoDeviceError,
        "the graphics card is in use by another program that does not share it",
        "Close that program, or set the card's compute mode to DEFAULT (nvidia-smi -c 0).",
        passing=True,
    ),
    DriverFailure(
        _compute(
            "CUBLAS_STATUS_(?:NOT_INITIALIZED|ALLOC_FAILED)|the library was not initialized"
            "|the resource allocation failed"
        ),
        EngineOutOfMemoryError,
        "there was too little memory for the library that computes on the graphics card",
        _LESS,
    ),
    DriverFailure(
        _compute("[^\n]{0,20}ECC error|[^\n]{0,20}NVLink error|Invalid access of peer GPU memory|hardware stack error"),
        EngineCrashedError,
        "the graphics card reports a fault of its hardware",
        f"Restart the machine; if it comes back, have the card examined, {_ANOTHER}.",
        passing=True,
    ),
    DriverFailure(
        _compute("the launch timed out"),
        EngineCrashedError,
        "the system broke off a computation on the graphics card that took too long",
        _FASTER,
        passing=True,
    ),
    DriverFailure(
        re.compile(
            r"^(?:[^\n:]{0,40}\b(?:CUDA|ROCm|MUSA) error[^\n]{0,200}?: |NVRM: "
            r"|Unable to determine the device handle[^\n]{0,80}: )?"
            r"(?:GPU is lost|GPU has fallen off the bus|GPU \d+ is no longer accessible)", re.MULTILINE
        ),
        NoDeviceError,
        "the graphics card has dropped out of the system",
        "Restart the machine; if it comes back, check the card's power, cooling and seat.",
        passing=True,
    ),
    DriverFailure(
        _compute(
            r"initialization error|operation not permitted\s*$|OS call failed|startup failure|unknown error"
            "|driver shutting down|context is destroyed|invalid device context|device not ready"
        ),
        NoDeviceError,
        "{driver} could not be started or has stopped working",
        _RESTART,
        passing=True,
    ),
    DriverFailure(
        _line(r"(?P<survived>ggml_\w+: failed to initialize )(?P<lost>CUDA|ROCm|MUSA): "),
        NoDeviceError,
        "{driver} could not be started",
        _RESTART,
        passing=True,
    ),
    DriverFailure(
        _compute(""),
        EngineCrashedError,
        "a computation on the graphics card failed, by a fault of the engine or of {driver}",
        _REPORT,
    ),
    DriverFailure(
        _line(r"\S*ggml-cuda[\w./\\-]*:\d+: (?P<api>CUDA|ROCm|MUSA) error\s*$"),
        EngineCrashedError,
        "a computation on the graphics card failed, by a fault of the engine or of {driver}",
        _REPORT,
        shown=False,
    ),
)  # fmt: skip

_ROCM: Final = (
    DriverFailure(
        _line(r"\"?hipErrorNoBinaryForGpu|rocBLAS error: Cannot read [^\n]*Tensile"),
        EngineNotRunnableError,
        "the engine or ROCm was built without code for this graphics card",
        OVERRIDE,
    ),
    DriverFailure(
        _line(r"\"?hipErrorNoDevice|rocBLAS error: Could not initialize Tensile host"),
        NoDeviceError,
        "ROCm finds no graphics card that it supports",
        "Check with rocminfo, that HIP_VISIBLE_DEVICES and ROCR_VISIBLE_DEVICES hide no card, and that you are in the "
        "groups render and video.",
    ),
    DriverFailure(
        _line(r"[^\n]{0,80}Unable to open /dev/kfd|[^\n]{0,80}open_drm_render_device|Failed to get user name to check"),
        NoDeviceError,
        "ROCm may not open the graphics card",
        "Add yourself to the groups render and video, or start the container with --device=/dev/kfd --device=/dev/dri.",
        survived=True,
    ),
    DriverFailure(
        _line(r"Memory access fault by GPU|HW Exception by GPU|[^\n]{0,80}HSA_STATUS_ERROR|:0:rocdevice"),
        EngineCrashedError,
        "a computation on the graphics card failed, by a fault of the engine or of ROCm",
        _REPORT,
    ),
)  # fmt: skip

_VULKAN: Final = (
    DriverFailure(
        _vulkan("DeviceLost"),
        EngineCrashedError,
        "the Vulkan driver lost the graphics card in the middle of the work",
        f"Update the driver of the graphics card, use a smaller size or --vae-tiling, {_ANOTHER}.",
        passing=True,
    ),
    DriverFailure(
        _vulkan("IncompatibleDriver"),
        NoDeviceError,
        "there is no Vulkan driver for the graphics card",
        "Install one: mesa-vulkan-drivers (Debian, Ubuntu, Fedora) for AMD and Intel, NVIDIA's own for theirs.",
    ),
    DriverFailure(
        _vulkan("ExtensionNotPresent", "FeatureNotPresent", "LayerNotPresent", "FormatNotSupported"),
        NoDeviceError,
        "the Vulkan driver lacks something that the engine needs",
        f"Update the driver of the graphics card, unset VK_INSTANCE_LAYERS, {_ANOTHER}.",
    ),
    DriverFailure(
        _line(r"ggml_vulkan: Error: Vulkan 1\.\d required"),
        NoDeviceError,
        "the Vulkan driver is older than the engine needs",
        f"Update the Vulkan loader and the driver of the graphics card, {_ANOTHER}.",
        survived=True,
    ),
    DriverFailure(
        _line(r"ggml_vulkan: device \w+ does not support 16-bit storage"),
        NoDeviceError,
        "the graphics card or its Vulkan driver cannot store 16-bit numbers, which the engine needs",
        f"Update the driver of the graphics card, name another card with GGML_VK_VISIBLE_DEVICES, {_ANOTHER}.",
    ),
    DriverFailure(
        _line(r"ggml_vulkan: Invalid device index \d+ in GGML_VK_VISIBLE_DEVICES"),
        NoDeviceError,
        "the variable GGML_VK_VISIBLE_DEVICES names a graphics card that is not there",
        "Unset it, or give it numbers from 0 on, as vulkaninfo --summary counts them.",
        survived=True,
    ),
    DriverFailure(
        _line(r"ggml_vulkan: (?:Device with index \d+ does not exist|No suitable queue family)"),
        NoDeviceError,
        "Vulkan finds no graphics card that can compute",
        _RIGHTS,
    ),
    DriverFailure(
        _line(r"ggml_vulkan: No devices found"), NoDeviceError, "Vulkan finds no graphics card", _RIGHTS, survived=True
    ),
    DriverFailure(
        _vulkan("InitializationFailed"), NoDeviceError, "the Vulkan driver could not be started", _RIGHTS
    ),
    DriverFailure(
        re.compile(
            r"^(?:ggml_vulkan: (?:Compute pipeline creation failed|Error: (?!Vulkan))"
            r"|(?:ggml_vulkan: | *what\(\): |libc\+\+abi: )[^\n]{0,100}?vk::|terminate called [^\n]{0,60}'vk::)",
            re.MULTILINE,
        ),
        EngineCrashedError,
        "a computation on the graphics card failed, by a fault of the engine or of the Vulkan driver",
        _REPORT,
    ),
)  # fmt: skip

_METAL: Final = (
    DriverFailure(
        _line(r"error: [^\n]{0,100}(?:ErrorTimeout|ErrorHang|ErrorImpactingInteractivity|GPU (?:Timeout|Hang) Error)"),
        EngineCrashedError,
        "macOS broke off a computation on the graphics processor that took too long",
        _FASTER,
    ),
    DriverFailure(
        _line(
            r"error: [^\n]{0,100}kIO(?:GPU|Accel)CommandBuffer|ggml_metal_\w+: (?:error: )?command buffer \d+ failed"
            r"|ggml_metal_\w+: backend is in error state"
        ),
        EngineCrashedError,
        "a computation on the graphics processor failed, by a fault of the engine or of Metal",
        f"Try again; if it stays, update macOS, {_ANOTHER} or of its version.",
    ),
    DriverFailure(
        _line(
            r"ggml_metal_\w+: (?:error: )?(?:failed to (?:create|initialize) (?:the Metal |Metal )?library"
            r"|error compiling|failed to (?:compile|create) pipeline|incompatible pipeline|Error Domain=MTLLibrary)"
        ),
        NoDeviceError,
        "Metal cannot compile the engine's code for this graphics processor",
        f"Update macOS, run 'sdmanager engine build --variant metal', {_ANOTHER}.",
        survived=True,
    ),
    DriverFailure(
        _line(
            r"ggml_metal_(?:device_|library_|backend_)?init\w*: error:"
            r"|ggml_metal_\w+: error: failed to create command"
            r"|ggml_backend_metal\w*: error: failed to allocate context"
        ),
        NoDeviceError,
        "Metal could not be started on this graphics processor",
        f"Restart the machine and update macOS, {_ANOTHER}: a virtual machine often has no Metal.",
        survived=True,
    ),
)  # fmt: skip

_ANY: Final = (
    DriverFailure(
        _line(
            r"\w+: (?:error: )?(?:unsupported op '|op not supported |error: node +\d+, op =)"
            r"|ggml_vulkan: Error: Missing op|Missing \w+ (?:op|pipeline) for type"
        ),
        EngineCrashedError,
        "the engine cannot do one of this model's computations on this graphics card",
        "Use another variant of the engine, such as cpu, or another version of it.",
    ),
)  # fmt: skip

DRIVER_FAILURES: Final[tuple[DriverFailure, ...]] = (*_CUDA, *_ROCM, *_VULKAN, *_METAL, *_ANY)
