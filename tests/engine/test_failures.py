"""Which error a failed run is: recorded failures of two builds, and what drivers and loaders print."""

from __future__ import annotations

import re
import signal
import subprocess
from pathlib import Path

import pytest
from recorded import BUILDS, SCENARIOS, parse, parse_recorded, run_of, stream

from sdmanager.binaries import EngineBinary
from sdmanager.engine import output as out
from sdmanager.engine.failures import Diary, check_whole, explain_failure, explain_picture, was_killed
from sdmanager.errors import (
    BinaryError,
    EngineArgumentError,
    EngineCrashedError,
    EngineNotRunnableError,
    EngineOutOfMemoryError,
    GenerationError,
    InputImageError,
    ModelComponentMissingError,
    ModelCorruptError,
    ModelNotFoundError,
    ModelUnsupportedError,
    NoDeviceError,
    NoImageError,
    StorageError,
)
from sdmanager.process import ExitStatus, StopOutcome


def ended(code: int | None = 1, *, by: int | None = None) -> ExitStatus:
    return ExitStatus(None if by else code, by, StopOutcome.EXITED)


def diary_of(events: list[object], stderr: bytes) -> Diary:
    diary = Diary(stderr_tail=stderr.decode("utf-8", "replace"))
    for event in events:
        if isinstance(event, out.LogLine):
            (diary.errors if event.level is out.LogLevel.ERROR else diary.warnings).append(event.message)
        elif isinstance(event, out.ModelFamily):
            diary.family = event.name
    return diary


def explain(stderr: str, status: ExitStatus | None = None, stdout: str = "", prompt: str = ""):
    events = parse(stdout.encode(), stderr.encode(), prompt=prompt)
    return explain_failure(status or ended(), diary_of(events, stderr.encode()))


def assert_readable(error: Exception) -> None:
    text = str(error)
    assert text == error.message
    assert text[0].isupper()
    assert text.endswith(".")
    assert "\n" not in text
    assert not re.search(r"\.\s+[A-Z]", text), "one sentence"
    assert "Traceback" not in text
    assert not re.search(r"(^|[\s'(])(~|[A-Za-z]:)?[/\\]\w+[/\\]", text), "no folders"
    assert len(text) < 450
    assert error.hint
    assert "exit_code" in error.details


FAILURES = {
    "err-missing-model": (ModelNotFoundError, "not there"),
    "err-not-a-model": (ModelCorruptError, "neither safetensors nor GGUF"),
    "err-corrupt-model": (ModelCorruptError, "neither safetensors nor GGUF"),
    "err-truncated-model": (ModelCorruptError, "damaged or cut short"),
    "err-missing-component": (ModelComponentMissingError, "Ovis Image) lacks its text encoder"),
    "err-bad-sampler": (EngineArgumentError, "invalid sample method nonsense"),
    "err-unknown-flag": (EngineArgumentError, "unknown argument: --no-such-flag"),
    "err-no-prompt-no-model": (EngineArgumentError, "arguments are required: model_path"),
}


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("scenario", FAILURES)
def test_recorded_failure(build, scenario):
    kind, words = FAILURES[scenario]
    name = f"{build}/{scenario}"
    code = run_of(name)["returncode"]
    assert code == 1
    error = explain_failure(ended(code), diary_of(parse_recorded(name), stream(name, "stderr")))
    assert type(error) is kind
    assert words in str(error)
    assert_readable(error)


def test_no_recorded_failure_is_left_out():
    failed = {name.partition("/")[2] for name in SCENARIOS if run_of(name)["returncode"] != 0}
    assert failed - set(FAILURES) <= {"help"}  # the older build knows only -h
    assert set(FAILURES) <= failed


@pytest.mark.parametrize("build", BUILDS)
def test_a_missing_component_names_the_option_that_gives_it(build):
    name = f"{build}/err-missing-component"
    error = explain_failure(ended(), diary_of(parse_recorded(name), stream(name, "stderr")))
    assert "--llm" in error.hint
    assert error.details["tensors"][0] == "text_encoders.llm.model.embed_tokens.weight"


@pytest.mark.parametrize(
    ("tensor", "part", "flag"),
    [
        ("first_stage_model.decoder.conv_in.weight", "VAE", "--vae"),
        ("vae.decoder.conv_in.weight", "VAE", "--vae"),
        ("text_encoders.t5xxl.transformer.shared.weight", "T5-XXL", "--t5xxl"),
        ("text_encoders.clip_l.transformer.text_model.x", "CLIP-L", "--clip-l"),
        ("text_encoders.clip_g.transformer.text_model.x", "CLIP-G", "--clip-g"),
        ("cond_stage_model.transformer.text_model.x", "CLIP", "--clip-l"),
        ("text_encoders.llm.model.norm.weight", "language model", "--llm"),
        ("model.diffusion_model.input_blocks.0.0.weight", "diffusion model", "--diffusion-model"),
    ],
)
@pytest.mark.parametrize(
    "line", ["tensor '{}' not in model file", "Conditioner model tensor '{}' not in model metadata"]
)
def test_a_missing_tensor_names_its_part(tensor, part, flag, line):
    error = explain(f"[ERROR] model.cpp:1 - {line.format(tensor)}\n")
    assert type(error) is ModelComponentMissingError
    assert part in str(error)
    assert flag in error.hint
    assert_readable(error)


def test_several_missing_parts_are_all_named():
    error = explain(
        "".join(
            f"[ERROR] model.cpp:1 - tensor '{prefix}.x.{n}' not in model file\n"
            for prefix in ("text_encoders.clip_l", "text_encoders.t5xxl", "first_stage_model")
            for n in range(50)
        )
    )
    assert all(word in str(error) for word in ("CLIP-L", "T5-XXL", "VAE", "150 tensors"))
    assert all(flag in error.hint for flag in ("--clip-l", "--t5xxl", "--vae"))
    assert_readable(error)


def test_an_unknown_missing_tensor_means_an_unsupported_model():
    error = explain("[ERROR] model.cpp:1 - tensor 'foo.bar' not in model file\n")
    assert type(error) is ModelUnsupportedError
    assert_readable(error)


@pytest.mark.parametrize(
    "line",
    [
        "CUDA error: out of memory",
        "ggml_backend_cuda_buffer_type_alloc_buffer: allocating 9.00 MiB on device 0: cudaMalloc failed: x",
        "ggml_vulkan: Device memory allocation of size 123 failed.\nvk::Device::allocateMemory: "
        "ErrorOutOfDeviceMemory",
        "ggml_gallocr_reserve_n_impl: failed to allocate Vulkan0 buffer of size 12345",
        "ggml_backend_cpu_buffer_type_alloc_buffer: failed to allocate buffer of size 99999",
        "terminate called after throwing an instance of 'std::bad_alloc'",
        "ROCm error: out of memory",
        "kIOGPUCommandBufferCallbackErrorOutOfMemory",
        "ggml_vulkan: Requested buffer size exceeds device buffer size limit: ErrorOutOfDeviceMemory",
        "ggml_metal_buffer_init: error: failed to allocate buffer, size = 9000.00 MiB",
        "error: Insufficient Memory (00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)",
        "ggml_metal_add_buffer: buffer 'data' size 18300780544 is larger than buffer maximum of 17179869184",
        "ggml_aligned_malloc: insufficient memory (attempted to allocate 1921.00 MB)",
        "mmap failed: Cannot allocate memory",
        "VK_ERROR_OUT_OF_HOST_MEMORY",
        "[ERROR] ggml_extend.hpp:1 - alloc compute buffer failed",
        "[ERROR] ggml_extend.hpp:1 - flux alloc params backend buffer failed, num_tensors = 49",
    ],
)
@pytest.mark.parametrize("status", [ended(1), ended(by=signal.SIGABRT), ended(by=signal.SIGSEGV)])
def test_out_of_memory(line, status):
    error = explain(f"{line}\n  current device: 0, in function f at /build/ggml/src/a.cu:512\n", status)
    assert type(error) is EngineOutOfMemoryError
    assert_readable(error)


def test_a_picture_that_metal_computed_without_memory_is_none():
    check_whole(Diary(stderr_tail="ggml_metal_init: allocating"))
    said = "error: Insufficient Memory (00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)\n"
    with pytest.raises(EngineOutOfMemoryError, match="Insufficient Memory"):
        check_whole(Diary(stderr_tail=said))


@pytest.mark.parametrize(
    ("by", "outcome", "expected"),
    [
        (signal.SIGKILL, StopOutcome.EXITED, True),
        (signal.SIGKILL, StopOutcome.KILLED, False),
        (signal.SIGSEGV, StopOutcome.EXITED, False),
        (None, StopOutcome.EXITED, False),
    ],
)
def test_who_killed_it(by, outcome, expected):
    assert was_killed(ExitStatus(None if by else 1, by, outcome)) is expected


def test_pinned_memory_is_not_the_reason():
    """Its 'out of memory' was taken for the reason although the engine goes on without it."""
    error = explain(
        "", stdout="[WARN ] a.cpp:1 - failed to allocate 9.00 MiB of pinned memory: out of memory\n"
    )
    assert type(error) is GenerationError


@pytest.mark.parametrize(
    ("stderr", "words"),
    [
        (
            "/home/me/engines/sd-cli: error while loading shared libraries: libcudart.so.12: cannot open shared "
            "object file: No such file or directory",
            "libcudart.so.12",
        ),
        (
            "/home/me/sd-cli: /lib/x86_64-linux-gnu/libc.so.6: version `GLIBC_2.38' not found "
            "(required by /home/me/My Engines/sd-cli)",
            "GLIBC_2.38' not found (required by sd-cli)",
        ),
        (
            "dyld[1]: Library not loaded: @rpath/libggml.dylib\n  Referenced from: /Users/me/sd-cli",
            "libggml.dylib",
        ),
        ("sh: 1: /x/y/sd-cli: Exec format error", "Exec format error"),
        ("bash: /x/y/sd-cli: cannot execute binary file: Exec format error", "cannot execute binary file"),
    ],
)
@pytest.mark.parametrize("status", [ended(127), ended(126), ended(1), ended(by=signal.SIGABRT)])
def test_an_engine_that_cannot_run_here(stderr, words, status):
    error = explain(stderr, status)
    assert type(error) is EngineNotRunnableError
    assert words in str(error)
    assert_readable(error)


@pytest.mark.parametrize("code", [126, 127])
def test_an_exit_code_of_the_loader_without_a_word(code):
    error = explain("", ended(code))
    assert type(error) is EngineNotRunnableError
    assert_readable(error)


@pytest.mark.parametrize(
    ("number", "kind", "name"),
    [
        (signal.SIGILL, BinaryError, "SIGILL"),
        (signal.SIGSEGV, EngineCrashedError, "SIGSEGV"),
        (signal.SIGABRT, EngineCrashedError, "SIGABRT"),
        (signal.SIGBUS, EngineCrashedError, "SIGBUS"),
        (signal.SIGKILL, EngineOutOfMemoryError, "SIGKILL"),
        (63, EngineCrashedError, "signal 63"),
    ],
)
def test_a_signal(number, kind, name):
    error = explain("[ERROR] a.cpp:1 - the last word\n", ended(by=number))
    assert type(error) is kind
    assert name in str(error)
    assert error.details["signal"] == number
    assert_readable(error)
    assert_readable(explain("", ended(by=number)))


@pytest.mark.parametrize(
    ("stderr", "kind"),
    [
        ("[ERROR] a.cpp:1 - write failed: No space left on device\n", StorageError),
        ("[ERROR] a.cpp:1 - load image from '/home/me/init.png' failed\n", InputImageError),
        ("[ERROR] a.cpp:1 - size mismatch for '/home/me/x.safetensors'\n", ModelCorruptError),
        ("[ERROR] a.cpp:1 - not a valid GGUF file '/home/me/x.gguf'\n", ModelCorruptError),
        ("[ERROR] a.cpp:1 - get sd version from file failed: '/home/me/x y/z.gguf'\n", ModelUnsupportedError),
        ("[ERROR] a.cpp:1 - something new about '/home/me/x.gguf' and /home/me/y z/w.bin\n", GenerationError),
        ("[ERROR] a.cpp:1 - C:\\Users\\me\\x.gguf and 'D:\\m\\y.gguf' are odd\n", GenerationError),
        ("said without a tag by /usr/lib/me.so\n", GenerationError),
        ("", GenerationError),
        ("\n \n", GenerationError),
    ],
)
def test_other_ends(stderr, kind):
    error = explain(stderr)
    assert type(error) is kind
    assert_readable(error)


def test_the_engines_own_reason_is_in_the_message():
    error = explain("[ERROR] a.cpp:1 - first\n[ERROR] a.cpp:1 - the 1/2 real reason at 2.5 it/s, N/A\n")
    assert "the 1/2 real reason at 2.5 it/s, N/A" in str(error)
    assert "exit code 1" in str(error)


def test_a_long_reason_is_cut():
    error = explain("[ERROR] a.cpp:1 - " + "word " * 800 + "\n")
    assert "…" in str(error)
    assert_readable(error)


def test_a_status_that_somebody_else_took_is_said_to_be_unknown():
    """It read 'ended with exit code None and gave no reason'."""
    error = explain("", ended(None))
    assert type(error) is GenerationError
    assert "None" not in str(error)
    assert_readable(error)


def test_a_cut_model_whose_reason_was_spoilt_by_a_race_in_the_engine():
    """Seven of forty real runs printed the first lines empty, and the error named no model."""
    error = explain(
        "[ERROR] \n[ERROR] \n[ERROR] model.cpp:1051 - load tensors from file failed\n"
        "[ERROR] stable-diffusion.cpp:801  - load tensors from model loader failed\n"
    )
    assert type(error) is ModelCorruptError
    assert_readable(error)


TELLING = (
    "CUDA error: out of memory",
    "cudaMalloc failed",
    "CUDA error: no kernel image is available for execution on the device",
    "ggml_cuda_init: failed to initialize CUDA: no CUDA-capable device is detected",
    "terminate called after throwing an instance of 'vk::DeviceLostError'",
    "  what():  vk::Queue::submit: ErrorDeviceLost",
    "ggml_vulkan: Device memory allocation of size 12 failed.",
    "rocBLAS error: Cannot read TensileLibrary.dat: Illegal seek for GPU arch : gfx1103",
    "sd-cli: error while loading shared libraries: libcuda.so.1: cannot open shared object file",
    "sd-cli: version `GLIBC_2.99' not found (required by sd-cli)",
    "No space left on device",
    "Exec format error",
    "code signature",
    "GPU is lost",
)


def run_engine(engine: EngineBinary, folder: Path, prompt: str):
    """A real run that fails for want of a model, verbose, and its error."""
    (folder / "loras").mkdir(exist_ok=True)
    done = subprocess.run(
        [
            engine.path,
            "-v",
            "-m",
            folder / "nothing",
            "-p",
            prompt,
            "-n",
            prompt,
            "--lora-model-dir",
            "loras",
        ],
        cwd=folder,
        capture_output=True,
        check=False,
    )
    status = ended(done.returncode) if done.returncode >= 0 else ended(by=-done.returncode)
    events = parse(done.stdout, done.stderr, prompt=f"{prompt}\n{prompt}")
    return explain_failure(status, diary_of(events, done.stderr)), done


@pytest.mark.parametrize("form", ["{}", "[ERROR] ggml_extend.hpp:69   - {}", "[WARN ] a.cpp:1   - {}"])
def test_a_prompt_cannot_name_the_error(engine: EngineBinary, tmp_path: Path, form: str) -> None:
    prompt = "\n".join(["a cat", *(form.format(text) for text in TELLING), "a dog"])
    error, done = run_engine(engine, tmp_path, prompt)
    assert b"CUDA error: out of memory" in done.stdout, "the engine echoes it"
    assert type(error) is ModelNotFoundError
    assert_readable(error)


@pytest.mark.parametrize(
    "words", ["out of memory", "failed to allocate ", "No space left on device", "GPU is lost"]
)
def test_the_name_of_a_lora_in_a_prompt_cannot_name_the_error(
    engine: EngineBinary, tmp_path: Path, words: str
) -> None:
    """The engine warns of a LoRA that it does not find, and its name was taken for the reason."""
    error, done = run_engine(engine, tmp_path, f"a cat <lora:{words}:1>")
    assert words.strip().encode() in done.stdout
    assert type(error) is ModelNotFoundError


@pytest.mark.parametrize(
    "words", ["out of memory", "No space left on device", "GPU is lost", "code signature"]
)
def test_a_name_that_ends_the_engine_cannot_name_the_error(
    engine: EngineBinary, tmp_path: Path, words: str
) -> None:
    """A name longer than a file's may be ends the engine with an exception, and stands in it, line breaks and all."""
    error, done = run_engine(engine, tmp_path, f"a cat <lora:{f'{words} ] x{chr(10)}' * 40}:1>")
    assert done.returncode == -signal.SIGABRT
    assert words.encode() in done.stderr
    assert type(error) is EngineCrashedError
    assert words not in error.message
    assert_readable(error)


@pytest.mark.parametrize("words", ["out of memory", "CUDA error", "No space left on device", "wrong shape"])
def test_the_name_of_a_model_cannot_name_the_error(words: str) -> None:
    error = explain(
        f"[ERROR] stable-diffusion.cpp:214  - init model loader from file failed: '/home/me/{words}.gguf'\n"
        f"[ERROR] stable-diffusion.cpp:299  - get sd version from file failed: '/home/me/{words}.gguf'\n",
        stdout=f"[WARN ] stable-diffusion.cpp:221  - loading diffusion model from '/home/me/{words}.gguf' failed\n",
    )
    assert type(error) is ModelUnsupportedError
    assert_readable(error)


@pytest.mark.parametrize(
    "warning",
    [
        "ggml_cuda_host_malloc: failed to allocate 9.00 MiB of pinned memory: out of memory",
        "ggml_vulkan: Failed to allocate pinned memory (vk::Device::allocateMemory: ErrorOutOfHostMemory)",
    ],
)
def test_memory_that_the_engine_does_without_explains_no_missing_picture(warning: str) -> None:
    missing = NoImageError("The engine wrote no image.")
    assert explain_picture(missing, Diary(warnings=[warning])) is missing
    closer = explain_picture(missing, Diary(warnings=[warning], errors=["x alloc compute buffer failed"]))
    assert type(closer) is EngineOutOfMemoryError


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        (0xC0000135, EngineNotRunnableError, "needs a DLL that is missing here"),
        (0xC000007B, EngineNotRunnableError, "another processor"),
        (0xC000001D, BinaryError, "instructions that this machine lacks"),
        (0xC0000005, EngineCrashedError, "an access violation, 0xC0000005"),
        (0xC0000409, EngineCrashedError, "its own abort or a damaged stack"),
        (0xC0000017, EngineOutOfMemoryError, "a lack of memory"),
    ],
)
def test_exit_codes_of_windows(code: int, kind: type, words: str) -> None:
    for given in (code, code - 2**32):
        error = explain("", ended(given))
        assert type(error) is kind
        assert words in str(error)
        assert_readable(error)


def test_a_missing_library_says_where_to_get_it() -> None:
    error = explain(
        "/home/me/sd-cli: error while loading shared libraries: libcuda.so.1: cannot open shared object file: "
        "No such file or directory\n",
        ended(127),
    )
    assert "NVIDIA's driver" in error.hint
    assert error.details["missing"] == "libcuda.so.1"


def test_exit_code_127_of_a_program_that_has_spoken_is_its_own() -> None:
    error = explain("[ERROR] a.cpp:1 - the last word\n", ended(127))
    assert type(error) is GenerationError


def test_a_truncated_model_stays_one_where_the_card_is_missing_too() -> None:
    error = explain(
        "[ERROR] ggml_extend.hpp:69   - ggml_cuda_init: failed to initialize CUDA: no CUDA-capable device is detected\n"
        "[ERROR] model.cpp:1 - read tensor data failed: '/home/me/x.safetensors'\n"
    )
    assert type(error) is ModelCorruptError
    lost = explain(
        "[ERROR] ggml_extend.hpp:69   - ggml_cuda_init: failed to initialize CUDA: unknown error\n"
    )
    assert type(lost) is NoDeviceError


@pytest.mark.parametrize(("number", "hint"), [(signal.SIGBUS, "whole"), (signal.SIGSEGV, "engine test")])
def test_a_crash_says_what_to_look_at(number: int, hint: str) -> None:
    assert hint in explain("", ended(by=number)).hint
