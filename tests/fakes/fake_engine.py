"""A child that speaks like sd-cli and misbehaves as the variable FAKE_ENGINE says. Standard library only."""

import os
import signal
import struct
import sys
import time
import zlib
from pathlib import Path

HELP = Path(__file__).parent.parent / "data" / "help" / "pypi-0.4.7.txt"
STAGES = {"loading": 0, "diffusion": 1, "decoding": 2}


def say(text: str, stream=None) -> None:
    stream = stream or sys.stdout
    stream.write(text)
    stream.flush()


def info(message: str) -> None:
    say(f"[INFO ] stable-diffusion.cpp:1   - {message}\n")


def error(message: str) -> None:
    say(f"[ERROR] stable-diffusion.cpp:1   - {message}\n", sys.stderr)


def bar(step: int, total: int, rate: str) -> None:
    filled = 50 * step // total
    say(f"\r  |{'=' * filled}{' ' * (50 - filled)}| {step}/{total} - {rate}\033[K")


def png(width: int, height: int, *, grey: bool) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    row = b"\x80" * (3 * width) if grey else bytes((7 * i) % 256 for i in range(3 * width))
    body = zlib.compress(b"".join(b"\0" + row for _ in range(height)))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def value(flag: str, default: str) -> str:
    return sys.argv[sys.argv.index(flag) + 1] if flag in sys.argv else default


def misbehave(mode: str, moment: str) -> None:
    kind, _, when = mode.partition("@")
    if (when or "diffusion") != moment:
        return
    if kind == "segv":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif kind == "abort":
        error("ggml_backend_cpu_buffer_type_alloc_buffer: failed to allocate buffer of size 12884901888")
        os.kill(os.getpid(), signal.SIGABRT)
    elif kind == "oomkill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif kind == "exit":
        sys.exit(1)
    elif kind == "hang":
        time.sleep(3600)
    elif kind == "spin":
        while True:
            pass
    elif kind == "crawl":  # a slow disk: a little is read now and then, and nothing is said
        with open(__file__, "rb", buffering=0) as file:
            for _ in range(16):
                time.sleep(0.2)
                file.read(64)
    elif kind == "refuses":
        error("tensor 'model.diffusion_model.x' not in model file")
        error("load tensors from file failed")
        sys.exit(1)
    elif (kind == "segvmine" and "--model" in sys.argv) or (
        kind == "segvtiling" and "--vae-tiling" in sys.argv
    ):
        os.kill(os.getpid(), signal.SIGSEGV)
    elif kind == "toolarge" and "--model" in sys.argv:
        error(
            "ggml_backend_cuda_buffer_type_alloc_buffer: allocating 12288.00 MiB on device 0: out of memory"
        )
        sys.exit(1)
    elif kind == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(3600)
    elif kind == "flood":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True:
            say("x" * 65536)
    elif kind == "grandchild":
        if os.fork() == 0:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            time.sleep(3600)
        time.sleep(3600)


def main() -> int:
    mode = os.environ.get("FAKE_ENGINE", "draws")
    if "--version" in sys.argv:
        say("stable-diffusion.cpp version unknown, commit unknown\n")
        return 0
    if "-h" in sys.argv:
        say(HELP.read_text())
        return 0
    steps, count = int(value("--steps", "20")), int(value("--batch-count", "1"))
    width, height = int(value("-W", "512")), int(value("-H", "512"))
    info("loading model from 'fake'")
    misbehave(mode, "loading")
    for done in (50, 100):
        bar(done, 100, "1.00GB/s")
    say("\n")
    info(f"generate_image {width}x{height}")
    for image in range(1, count + 1):
        info(f"generating image: {image}/{count} - seed 7")
        for step in range(1, steps + 1):
            if step == 2:
                misbehave(mode, "diffusion")
            bar(step, steps, "9.00it/s")
        say("\n")
        info("sampling completed, taking 0.01s")
    info(f"decoding {count} latents")
    misbehave(mode, "decoding")
    for image in range(1, count + 1):
        info(f"latent {image} decoded, taking 0.01s")
    if mode == "grey-memory":
        error("ggml_gallocr_reserve_n: failed to allocate Vulkan0 buffer of size 4831838208")
    if mode == "greymine":
        mode = "grey" if "--model" in sys.argv else "draws"
    for image in range(count):
        data = png(width, height, grey=mode.startswith("grey"))
        if mode == "truncated":
            data = data[: len(data) // 2]
        if mode != "noimage":
            Path(value("--output", "o.png") % image).write_bytes(data)
        info(f"save result image {image} to 'o.png' ({'failure' if mode == 'savefails' else 'success'})")
    info(f"{count}/{count} images saved")
    return 0


if __name__ == "__main__":
    sys.exit(main())
