"""What drivers print when they fail, in the engine's own formats, and what is made of it.

The texts of CUDA are those of its runtime 12.9 and 13.5 (``cudaGetErrorString``), the others' those of the engine's
source and of logs of real machines.
"""

from __future__ import annotations

import re
import signal

import pytest
from recorded import parse

from sdmanager.engine import output as out
from sdmanager.engine.driver_failures import explain_no_device
from sdmanager.engine.driver_table import DRIVER_FAILURES
from sdmanager.engine.failures import Diary, explain_failure
from sdmanager.errors import (
    EngineArgumentError,
    EngineCrashedError,
    EngineNotRunnableError,
    EngineOutOfMemoryError,
    GenerationError,
    ModelCorruptError,
    NoDeviceError,
    SDManagerError,
)
from sdmanager.process import ExitStatus, StopOutcome

ABORTED = ExitStatus(None, signal.SIGABRT, StopOutcome.EXITED)
FAILED = ExitStatus(1, None, StopOutcome.EXITED)
FAST_FAIL = ExitStatus(0xC0000409, None, StopOutcome.EXITED)


def explain(stderr: str, status: ExitStatus = ABORTED, stdout: str = "", prompt: str = "") -> SDManagerError:
    diary = Diary(stderr_tail=stderr)
    for event in parse(stdout.encode(), stderr.encode(), prompt=prompt):
        if isinstance(event, out.LogLine):
            (diary.errors if event.level is out.LogLevel.ERROR else diary.warnings).append(event.message)
    return explain_failure(status, diary)


def tagged(*messages: str) -> str:
    return "".join(f"[ERROR] ggml_extend.hpp:69   - {message}\n" for message in messages)


def cuda(reason: str, api: str = "CUDA", source: str = "/home/me/sd/ggml/src/ggml-cuda/ggml-cuda.cu") -> str:
    """All that the engine prints on a failed call: log lines, then the abort with its backtrace."""
    return (
        tagged(
            "ggml_cuda_compute_forward: GET_ROWS failed",
            f"{api} error: {reason}",
            f"  current device: 0, in function ggml_cuda_compute_forward at {source}:2522",
            "  err",
        )
        + f"{source}:98: {api} error\n"
        + "/home/me/sd/build/bin/sd-cli(+0x8c2b1)[0x5581d02c62b1]\n"
    )


def vulkan(result: str, call: str = "vk::Queue::submit", kind: str | None = None) -> str:
    return (
        f"terminate called after throwing an instance of 'vk::{kind or result.removeprefix('Error') + 'Error'}'\n"
        f"  what():  {call}: {result}\n"
    )


def assert_readable(error: SDManagerError) -> None:
    assert re.fullmatch(r"[A-Z][^\n]{10,440}\.", error.message)
    assert not re.search(r"\.\s+[A-Z]", error.message), "one sentence"
    assert not re.search(r"(^|[\s'(])(~|[A-Za-z]:)?[/\\]\w+[/\\]", error.message), "no folders"
    assert not re.search(r"\w\.(cu|cpp|hpp|m|c|cuh)\b", error.message), "no files of the engine's source"
    assert "{" not in error.message
    assert error.hint
    assert re.fullmatch(r"[A-Z][^\n]{10,330}[.]", error.hint)
    assert "{" not in error.hint


# What is said: type, words of the message, words of the hint.
CUDA = {
    "no kernel image is available for execution on the device": (
        EngineNotRunnableError, "without code for this graphics card", "engine build --variant cuda",
    ),
    "device kernel image is invalid": (EngineNotRunnableError, "without code for this", "engine build --variant cuda"),
    "invalid device function": (EngineNotRunnableError, "without code for this", "engine build --variant cuda"),
    "CUBLAS_STATUS_ARCH_MISMATCH": (EngineNotRunnableError, "without code for this", "engine build --variant cuda"),
    "CUDA driver version is insufficient for CUDA runtime version": (
        NoDeviceError, "NVIDIA's driver is older than the engine needs", "Update the driver",
    ),
    "API call is not supported in the installed CUDA driver": (NoDeviceError, "is older", "Update the driver"),
    "Loader version is insufficient for fatbin": (NoDeviceError, "is older", "Update the driver"),
    "the provided PTX was compiled with an unsupported toolchain.": (NoDeviceError, "is older", "Update the driver"),
    "the provided PTX contains unsupported call to cudaDeviceSynchronize": (NoDeviceError, "is older", "Update"),
    "a PTX JIT compilation failed": (NoDeviceError, "is older", "Update the driver"),
    "PTX JIT compiler library not found": (NoDeviceError, "is not whole", "libnvidia-ptxjitcompiler"),
    "PTX JIT compilation was disabled": (NoDeviceError, "turned off", "CUDA_DISABLE_PTX_JIT"),
    "forward compatibility was attempted on non supported HW": (NoDeviceError, "do not fit together", "cuda-compat"),
    "system has unsupported display driver / cuda driver combination": (NoDeviceError, "do not fit", "Restart"),
    "CUDA driver is a stub library": (NoDeviceError, "do not fit together", "stubs"),
    "no CUDA-capable device is detected": (NoDeviceError, "finds no graphics card", "CUDA_VISIBLE_DEVICES"),
    "invalid device ordinal": (NoDeviceError, "finds no graphics card", "CUDA_VISIBLE_DEVICES"),
    "system not yet initialized": (NoDeviceError, "not ready yet", "fabric manager"),
    "GPU fabric is not ready within the probe wait budget; application may retry "
    "(see CUDA_FABRIC_INIT_TIMEOUT_MS)": (NoDeviceError, "not ready yet", "fabric manager"),
    "CUDA-capable device(s) is/are busy or unavailable": (NoDeviceError, "in use by another", "nvidia-smi -c 0"),
    "exclusive-thread device already in use by a different thread": (NoDeviceError, "in use by another", "Close"),
    "MPS client failed to connect to the MPS control daemon or the MPS server": (NoDeviceError, "in use by", "Close"),
    "the MPS client has been terminated by the server": (NoDeviceError, "in use by another", "Close"),
    "initialization error": (NoDeviceError, "could not be started", "Restart"),
    "OS call failed or operation not supported on this OS": (NoDeviceError, "could not be started", "Restart"),
    "operation not permitted": (NoDeviceError, "could not be started", "Restart"),
    "unknown error": (NoDeviceError, "has stopped working", "Restart"),
    "out of memory": (EngineOutOfMemoryError, "ran out of memory", "smaller"),
    "CUBLAS_STATUS_NOT_INITIALIZED": (EngineOutOfMemoryError, "too little memory", "close other programs"),
    "the library was not initialized": (EngineOutOfMemoryError, "too little memory", "close other programs"),
    "CUBLAS_STATUS_ALLOC_FAILED": (EngineOutOfMemoryError, "out of memory", "smaller"),
    "the resource allocation failed": (EngineOutOfMemoryError, "too little memory", "close other programs"),
    "an illegal memory access was encountered": (EngineCrashedError, "a fault of the engine or of NVIDIA's", "update"),
    "unspecified launch failure": (EngineCrashedError, "or of NVIDIA's driver", "another variant"),
    "misaligned address": (EngineCrashedError, "a fault of the engine", "another variant"),
    "an illegal instruction was encountered": (EngineCrashedError, "a fault of the engine", "another variant"),
    "CUBLAS_STATUS_EXECUTION_FAILED": (EngineCrashedError, "a fault of the engine", "another variant"),
    "an internal operation failed": (EngineCrashedError, "a fault of the engine", "another variant"),
    "operation not permitted when stream is capturing": (EngineCrashedError, "a fault of the engine", "variant"),
    "invalid argument": (EngineCrashedError, "a fault of the engine", "another variant"),
    "something that no version has said so far": (EngineCrashedError, "a fault of the engine", "another variant"),
    "the launch timed out and was terminated": (EngineCrashedError, "took too long", "smaller size"),
    "uncorrectable ECC error encountered": (EngineCrashedError, "a fault of its hardware", "examined"),
    "uncorrectable NVLink error detected during the execution": (EngineCrashedError, "of its hardware", "examined"),
    "hardware stack error": (EngineCrashedError, "a fault of its hardware", "examined"),
    "Invalid access of peer GPU memory over nvlink or a hardware error": (EngineCrashedError, "hardware", "examined"),
    "named symbol not found": (EngineNotRunnableError, "without code for this", "engine build --variant cuda"),
    "incompatible driver context": (NoDeviceError, "do not fit together", "Restart"),
    "shared object initialization failed": (NoDeviceError, "do not fit together", "Restart"),
    "unsupported interaction between different versions of CUDA Dynamic Parallelism": (
        NoDeviceError, "do not fit together", "Restart",
    ),
    "startup failure in cuda runtime": (NoDeviceError, "could not be started", "Restart"),
    "driver shutting down": (NoDeviceError, "could not be started", "Restart"),
    "context is destroyed": (NoDeviceError, "could not be started", "Restart"),
    "invalid device context": (NoDeviceError, "could not be started", "Restart"),
    "device not ready": (NoDeviceError, "could not be started", "Restart"),
    "GPU has fallen off the bus": (NoDeviceError, "dropped out of the system", "power"),
    "GPU is lost": (NoDeviceError, "dropped out of the system", "power"),
}  # fmt: skip


@pytest.mark.parametrize("reason", CUDA)
@pytest.mark.parametrize("status", [ABORTED, FAILED, FAST_FAIL], ids=["abort", "exit", "windows"])
def test_a_failed_call_of_cuda(reason: str, status: ExitStatus) -> None:
    kind, words, hint = CUDA[reason]
    error = explain(cuda(reason), status)
    assert type(error) is kind
    assert words in error.message
    assert reason.rstrip(".") in error.message, "the text to search the web for"
    assert hint in (error.hint or "")
    assert_readable(error)


@pytest.mark.parametrize("reason", CUDA)
@pytest.mark.parametrize(
    "form",
    [
        "CUDA error: {}\n  current device: 0, in function f at D:\\a\\sd\\ggml-cuda.cu:2174\n  err\n",
        "CUDA error 209 at /home/me/ggml-cuda.cu:7188: {}\ncurrent device: 0\n",
        "\x1b[31;1m[ERROR]\x1b[0m ggml_extend.hpp:69   - CUDA error: {}\n",
        "D:\\a\\sd\\ggml\\src\\ggml-cuda\\ggml-cuda.cu:97: CUDA error\nCUDA error: {}\n",
    ],
    ids=["untagged", "old", "coloured", "abort first"],
)
def test_forms_of_other_builds_mean_the_same(reason: str, form: str) -> None:
    error = explain(form.format(reason))
    assert type(error) is CUDA[reason][0]
    assert CUDA[reason][1] in error.message
    assert_readable(error)


def test_an_abort_of_which_only_the_end_is_left() -> None:
    error = explain("/home/me/sd/ggml/src/ggml-cuda/ggml-cuda.cu:98: CUDA error\nsd-cli(+0x8c)[0x55]\n")
    assert type(error) is EngineCrashedError
    assert "NVIDIA's driver" in error.message
    assert_readable(error)


@pytest.mark.parametrize(
    ("stderr", "kind", "words", "hint"),
    [
        (cuda("invalid device function", "ROCm"), EngineNotRunnableError, "without code", "HSA_OVERRIDE_GFX_VERSION"),
        (cuda("device kernel image is invalid", "ROCm"), EngineNotRunnableError, "without code", "HSA_OVERRIDE_GFX"),
        (cuda("out of memory", "ROCm"), EngineOutOfMemoryError, "out of memory", "smaller"),
        (cuda("CUBLAS_STATUS_NOT_INITIALIZED", "ROCm"), EngineOutOfMemoryError, "too little memory", "close other"),
        (cuda("no ROCm-capable device is detected", "ROCm"), NoDeviceError, "ROCm finds no", "groups render"),
        (cuda("unspecified launch failure", "ROCm"), EngineCrashedError, "of the engine or of ROCm", "variant"),
        (
            '"hipErrorNoBinaryForGpu: Unable to find code object for all current devices!"\n',
            EngineNotRunnableError, "built without code for this graphics card", "HSA_OVERRIDE_GFX_VERSION",
        ),
        (
            "\nrocBLAS error: Cannot read /opt/rocm-5.7.0/lib/rocblas/library/TensileLibrary.dat: Illegal seek for "
            'GPU arch : gfx1103\n List of available TensileLibrary Files : \n"/opt/rocm-5.7.0/lib/rocblas/library/'
            'TensileLibrary_lazy_gfx941.dat"\n',
            EngineNotRunnableError, "gfx1103", "HSA_OVERRIDE_GFX_VERSION",
        ),
        (
            "rocBLAS error: Cannot read C:\\Program Files\\AMD\\ROCm\\6.1\\bin\\/rocblas/library/TensileLibrary.dat: "
            "No such file or directory for GPU arch : gfx1036\n",
            EngineNotRunnableError, "gfx1036", "HSA_OVERRIDE_GFX_VERSION",
        ),
        (
            "rocBLAS error: Could not initialize Tensile host: No devices found\n",
            NoDeviceError, "ROCm finds no graphics card", "rocminfo",
        ),
        ("hipErrorNoDevice: no ROCm-capable device is detected\n", NoDeviceError, "ROCm finds no", "render"),
        (
            "Memory access fault by GPU node-1 (Agent handle: 0x55cd) on address 0x7f2000. Reason: Page not present or "
            "supervisor privilege.\n",
            EngineCrashedError, "the engine or of ROCm", "update",
        ),
        ("HW Exception by GPU node-1 (Agent handle: 0x5d) reason :GPU Hang\n", EngineCrashedError, "GPU Hang", "Try"),
    ],
)  # fmt: skip
def test_rocm(stderr: str, kind: type, words: str, hint: str) -> None:
    error = explain(stderr)
    assert type(error) is kind
    assert words in error.message
    assert hint in (error.hint or "")
    assert_readable(error)


@pytest.mark.parametrize(
    ("stderr", "kind", "words", "hint"),
    [
        (vulkan("ErrorDeviceLost"), EngineCrashedError, "lost the graphics card", "vae-tiling"),
        (
            "libc++abi: terminating due to uncaught exception of type vk::DeviceLostError: vk::Queue::submit: "
            "ErrorDeviceLost\n",
            EngineCrashedError, "lost the graphics card", "vae-tiling",
        ),
        (vulkan("ErrorOutOfDeviceMemory"), EngineOutOfMemoryError, "out of memory", "smaller"),
        (vulkan("ErrorOutOfHostMemory"), EngineOutOfMemoryError, "out of memory", "smaller"),
        ("terminate called after throwing an instance of 'vk::OutOfDeviceMemoryError'\n", EngineOutOfMemoryError,
         "out of memory", "smaller"),
        (
            "ggml_vulkan: Device memory allocation of size 1073741824 failed.\n"
            "ggml_vulkan: Requested buffer size exceeds device buffer size limit: ErrorOutOfDeviceMemory\n"
            + tagged("ggml_gallocr_reserve_n_impl: failed to allocate Vulkan0 buffer of size 1073741824"),
            EngineOutOfMemoryError, "out of memory", "smaller",
        ),
        ("ggml_vulkan: Device memory allocation of size 1073741824 failed.\n", EngineOutOfMemoryError,
         "1073741824", "smaller"),
        (vulkan("ErrorIncompatibleDriver", "vk::createInstance"), NoDeviceError, "no Vulkan driver", "mesa-vulkan"),
        (vulkan("ErrorInitializationFailed", "vk::PhysicalDevice::createDevice"), NoDeviceError,
         "could not be started", "vulkaninfo"),
        (vulkan("ErrorExtensionNotPresent", "vk::PhysicalDevice::createDevice"), NoDeviceError, "lacks", "Update"),
        (vulkan("ErrorFeatureNotPresent", "vk::PhysicalDevice::createDevice"), NoDeviceError, "lacks", "Update"),
        (vulkan("ErrorLayerNotPresent", "vk::createInstance"), NoDeviceError, "lacks", "VK_INSTANCE_LAYERS"),
        (
            "ggml_vulkan: device Vulkan0 does not support 16-bit storage.\n"
            "terminate called after throwing an instance of 'std::runtime_error'\n  what():  Unsupported device\n",
            NoDeviceError, "16-bit", "GGML_VK_VISIBLE_DEVICES",
        ),
        (
            "ggml_vulkan: Device with index 3 does not exist.\n"
            "terminate called after throwing an instance of 'std::runtime_error'\n  what():  Device not found\n",
            NoDeviceError, "no graphics card", "vulkaninfo",
        ),
        (
            "ggml_vulkan: Compute pipeline creation failed for matmul_f32_f32_aligned_l\n"
            "ggml_vulkan: vk::Device::createComputePipeline: ErrorUnknown\n" + vulkan("ErrorUnknown"),
            EngineCrashedError, "fault of the engine or of the Vulkan driver", "update",
        ),
        (vulkan("ErrorMemoryMapFailed", "vk::Device::mapMemory"), EngineCrashedError, "Vulkan driver", "update"),
        ("ggml_vulkan: Error: Missing op: CONV_2D for f16 to f32\n", EngineCrashedError, "Missing op", "variant"),
    ],
)  # fmt: skip
def test_vulkan(stderr: str, kind: type, words: str, hint: str) -> None:
    error = explain(stderr)
    assert type(error) is kind
    assert words in error.message
    assert hint in (error.hint or "")
    assert_readable(error)


def metal(reason: str) -> str:
    return tagged(
        "ggml_metal_synchronize: error: command buffer 0 failed with status 5",
        f"error: {reason}",
        "ggml_metal_graph_compute: backend is in error state from a previous command buffer failure - recreate the "
        "backend to recover",
        "ovis_image compute failed: GGML status: error (operation failed)",
    )


@pytest.mark.parametrize(
    ("stderr", "kind", "words", "hint"),
    [
        (metal("Insufficient Memory (00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)"),
         EngineOutOfMemoryError, "Insufficient Memory", "smaller"),
        (metal("Caused GPU Timeout Error (00000002:kIOGPUCommandBufferCallbackErrorTimeout)"),
         EngineCrashedError, "took too long", "smaller size"),
        (metal("Caused GPU Hang Error (00000003:kIOGPUCommandBufferCallbackErrorHang)"),
         EngineCrashedError, "took too long", "smaller size"),
        (metal("Impacting Interactivity (0000000e:kIOGPUCommandBufferCallbackErrorImpactingInteractivity)"),
         EngineCrashedError, "took too long", "smaller size"),
        (metal("Caused GPU Address Fault Error (0000000b:kIOGPUCommandBufferCallbackErrorPageFault)"),
         EngineCrashedError, "or of Metal", "update macOS"),
        (metal("Ignored (for causing prior/excessive GPU errors) "
               "(00000004:kIOAccelCommandBufferCallbackErrorSubmissionsIgnored)"),
         EngineCrashedError, "or of Metal", "update macOS"),
        (tagged("ggml_metal_synchronize: error: command buffer 0 failed with status 5"),
         EngineCrashedError, "or of Metal", "update macOS"),
        (tagged("ggml_metal_op_encode_impl: error: unsupported op 'CONV_2D'"),
         EngineCrashedError, "cannot do one of this model's computations", "cpu"),
        (tagged("ggml_metal_buffer_init: error: failed to allocate buffer, size =  9000.00 MiB"),
         EngineOutOfMemoryError, "9000.00 MiB", "smaller"),
        (tagged("ggml_metal_init: error: failed to create command queue",
                "ggml_backend_metal_device_init_backend: error: failed to allocate context"),
         NoDeviceError, "Metal could not be started", "virtual machine"),
        (tagged("ggml_metal_device_init: error: failed to create command queue"),
         NoDeviceError, "Metal could not be started", "update macOS"),
        (tagged('ggml_metal_library_init: error: Error Domain=MTLLibraryErrorDomain Code=3 "program_source"'),
         NoDeviceError, "cannot compile the engine's code", "update macOS"),
        (tagged("ggml_metal_init: error: failed to initialize the Metal library"),
         NoDeviceError, "cannot compile the engine's code", "Update macOS"),
    ],
)  # fmt: skip
def test_metal(stderr: str, kind: type, words: str, hint: str) -> None:
    """Its 'error: …' was taken for an argument that the engine refuses, its context for memory that ran out."""
    error = explain(stderr, FAILED)
    assert type(error) is kind
    assert words in error.message
    assert hint.lower() in (error.hint or "").lower()
    assert_readable(error)


SURVIVED = {
    "ggml_cuda_init: failed to initialize CUDA: no CUDA-capable device is detected": "finds no graphics card",
    "ggml_cuda_init: failed to initialize CUDA: CUDA driver version is insufficient for CUDA runtime version": "older",
    "ggml_cuda_init: failed to initialize ROCm: no ROCm-capable device is detected": "ROCm finds no graphics card",
    "ggml_cuda_init: failed to initialize CUDA: out of memory": "NVIDIA's driver could not be started",
    "ggml_cuda_init: failed to initialize CUDA: unknown error": "NVIDIA's driver could not be started",
    "ggml_vulkan: Error: Vulkan 1.2 required.": "older than the engine needs",
    "ggml_vulkan: Invalid device index 7 in GGML_VK_VISIBLE_DEVICES.": "names a graphics card that is not there",
    "ggml_metal_init: error: failed to create command queue": "Metal could not be started",
    "ggml_metal_init: error: failed to initialize the Metal library": "Metal cannot compile",
    "Unable to open /dev/kfd read-write: Permission denied": "ROCm may not open the graphics card",
    "load_backend: failed to load /home/me/sd/libggml-vulkan.so: libvulkan.so.1: cannot open shared object file: "
    "No such file or directory": "libvulkan.so.1",
}


@pytest.mark.parametrize("message", SURVIVED)
@pytest.mark.parametrize("tag", ["[ERROR] ggml_extend.hpp:69   - ", ""], ids=["tagged", "raw"])
def test_an_engine_that_drew_on_the_cpu_says_why(message: str, tag: str) -> None:
    error = explain_no_device("cuda", f"[DEBUG] util.cpp:713  - Found 1 backend devices:\n{tag}{message}\n")
    assert type(error) is NoDeviceError
    assert "The cuda engine found no device that it can use and drew on the CPU: " in error.message
    assert SURVIVED[message] in error.message
    assert error.details["variant"] == "cuda"
    assert_readable(error)


def test_without_a_reason_it_still_says_that_it_drew_on_the_cpu() -> None:
    error = explain_no_device("vulkan", "[INFO ] x.cpp:1   - nothing\n")
    assert "drew on the CPU" in error.message
    assert_readable(error)
    none = explain_no_device("vulkan", "[INFO ] ggml_extend.hpp:63   - ggml_vulkan: No devices found.\n")
    assert "Vulkan finds no graphics card" in none.message
    assert_readable(none)


@pytest.mark.parametrize("message", SURVIVED)
def test_what_the_engine_goes_on_without_is_no_reason_for_another_failure(message: str) -> None:
    """A missing card was blamed for a model that is cut short, or for an argument."""
    stderr = tagged(message)
    cut = explain(stderr + tagged("read tensor data failed: 'x'", "load tensors from file failed"), FAILED)
    assert type(cut) is ModelCorruptError
    refused = explain(stderr + tagged("error: invalid sample method nonsense"), FAILED)
    assert type(refused) is EngineArgumentError
    other = explain(stderr + tagged("generate failed"), FAILED)
    assert type(other) is GenerationError
    assert "generate failed" in other.message


@pytest.mark.parametrize("message", SURVIVED)
@pytest.mark.parametrize("status", [FAILED, ABORTED])
def test_where_nothing_else_is_said_the_missing_card_is_the_reason(message: str, status: ExitStatus) -> None:
    error = explain(tagged(message), status)
    assert type(error) is NoDeviceError
    assert SURVIVED[message] in error.message
    assert_readable(error)


def test_a_card_that_another_program_holds_may_be_free_later() -> None:
    busy = explain(cuda("CUDA-capable device(s) is/are busy or unavailable"))
    lost = explain(cuda("no CUDA-capable device is detected"))
    assert busy.details.get("passing") is True
    assert "passing" not in lost.details


def test_the_variant_to_build_is_that_of_the_driver() -> None:
    assert "--variant cuda" in (explain(cuda("no kernel image is available")).hint or "")
    assert "--variant musa" in (explain(cuda("no kernel image is available", "MUSA")).hint or "")


def test_a_failed_check_inside_the_engine_is_in_the_message() -> None:
    error = explain("/home/me/sd/ggml/src/ggml-cuda/ggml-cuda.cu:1760: GGML_ASSERT(ok) failed\n[New LWP 3]\n")
    assert type(error) is EngineCrashedError
    assert "GGML_ASSERT(ok) failed" in error.message
    assert_readable(error)


def test_memory_comes_before_what_it_led_to() -> None:
    stderr = tagged(
        "ggml_backend_cuda_buffer_type_alloc_buffer: allocating 9.00 MiB on device 0: cudaMalloc failed: out of memory"
    )
    assert type(explain(stderr + cuda("invalid argument"))) is EngineOutOfMemoryError


def test_proc_meminfo_is_no_model() -> None:
    error = explain(
        tagged("ggml_backend_cuda_get_available_uma_memory: failed to open /proc/meminfo"), FAILED
    )
    assert type(error) is GenerationError


@pytest.mark.parametrize("failure", DRIVER_FAILURES, ids=lambda failure: failure.clause[:30])
def test_every_entry_reads_well(failure: object) -> None:
    clause, hint = failure.clause, failure.hint
    assert re.fullmatch(r"(?:[a-z{]|ROCm|Metal|Vulkan)[^\n.]{10,130}", clause)
    assert re.fullmatch(r"[A-Z][^\n]{10,330}\.", hint)
    assert not re.search(r"\.\s+[A-Z]", hint)
    assert not re.search(r"[A-Z]{4,}OVERRIDE", hint)


def test_a_long_log_is_searched_quickly() -> None:
    """64 KiB of anything: what is kept of stderr."""
    for line in (
        "x" * 65536,
        "CUDA error" * 6000,
        "[ERROR] a.cpp:1 - " + " " * 60000,
        "\n" * 65536,
        "'/" * 32768,
    ):
        error = explain(line, FAILED)
        assert type(error) in {GenerationError, EngineCrashedError}
