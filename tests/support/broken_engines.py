"""Executables that fail as real ones do: compiled, and like the real engine in all but the drawing."""

from __future__ import annotations

import io
import shutil
import subprocess
from pathlib import Path

from PIL import Image

PROGRAM = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include "grey.h"

#ifdef CALL_LIBRARY
int library_function(void);
#endif

/* What the request is drawn with by the real engine, and where the picture is then. */
static void draw(char **argv, char *picture, size_t size) {
    for (int i = 0; argv[i]; i++)
        if (!strcmp(argv[i], "--output")) snprintf(picture, size, argv[i + 1], 0);
    pid_t child = fork();
    if (child == 0) { execv(REAL, argv); _exit(127); }
    waitpid(child, NULL, 0);
}

int main(int argc, char **argv) {
    char picture[4096] = "";
    for (int i = 1; i < argc; i++)
        if (!strcmp(argv[i], "-h") || !strcmp(argv[i], "--version")) {
#ifdef CALL_LIBRARY
            if (library_function() == 7) return 7;
#endif
            execv(REAL, argv);
        }
#if defined(ILLEGAL_INSTRUCTION) && defined(__x86_64__)
    __asm__ volatile("ud2");
#elif defined(ILLEGAL_INSTRUCTION)
    __asm__ volatile(".word 0");
#elif defined(HANG)
    pause();
#elif defined(CRASH)
    *(volatile int *)8 = 1;
#elif defined(CUDA_ERROR)
    fputs("[ERROR] ggml_extend.hpp:84   - CUDA error: no kernel image is available"
          " for execution on the device\n", stderr);
    fputs("[ERROR] ggml_extend.hpp:84   -   current device: 0, in function ggml_cuda_mul_mat"
          " at ggml-cuda.cu:2310\n", stderr);
    fputs("ggml-cuda.cu:96: CUDA error\n", stderr);
    abort();
#elif defined(GREY)
    draw(argv, picture, sizeof picture);
    FILE *file = fopen(picture, "wb");
    fwrite(grey, 1, sizeof grey, file);
    fclose(file);
#elif defined(TRUNCATED)
    draw(argv, picture, sizeof picture);
    return truncate(picture, 2000);
#endif
    return 0;
}
"""

LIBRARY = "int library_function(void) { return 1; }\n"
VERSIONS = "GLIBC_2.99 { global: library_function; local: *; };\n"

FLAGS = {
    "illegal instruction": "ILLEGAL_INSTRUCTION",
    "hang": "HANG",
    "crash": "CRASH",
    "cuda error": "CUDA_ERROR",
    "grey": "GREY",
    "truncated": "TRUNCATED",
}


class Workshop:
    """Compiles broken engines into a folder.

    Args:
        folder: Where.
        real: The real engine, which answers -h and --version for them, and draws where a picture is needed.
    """

    def __init__(self, folder: Path, real: Path) -> None:
        self.folder = folder
        self.real = real
        folder.mkdir(parents=True, exist_ok=True)
        picture = io.BytesIO()
        Image.new("RGB", (64, 64), (127, 127, 127)).save(picture, "PNG")
        numbers = ",".join(map(str, picture.getvalue()))
        (folder / "grey.h").write_text(f"static const unsigned char grey[] = {{{numbers}}};\n")
        (folder / "broken.c").write_text(PROGRAM)
        (folder / "library.c").write_text(LIBRARY)
        (folder / "versions.map").write_text(VERSIONS)

    def make(self, kind: str) -> Path:
        """An executable that is broken in this way; ``fine`` is the real one."""
        if kind == "fine":
            return self.real
        target = self.folder / kind.replace(" ", "-")
        if target.exists():
            return target
        if kind == "missing library":
            self._compile("-shared", "-fPIC", "library.c", "-o", "libgone.so")
            self._compile("-DCALL_LIBRARY", "broken.c", "-L.", "-lgone", "-o", target.name)
            (self.folder / "libgone.so").unlink()
        elif kind == "newer glibc":
            # A stand-in for a C library of the future. No linker takes two libraries of one name, so the name is
            # written into the finished program.
            soname = ["-Wl,-soname,libq.so.6", "-Wl,--version-script=versions.map"]
            self._compile("-shared", "-fPIC", "-nostdlib", *soname, "library.c", "-o", "libq.so")
            self._compile("-DCALL_LIBRARY", "broken.c", "-L.", "-lq", "-o", target.name)
            target.write_bytes(target.read_bytes().replace(b"libq.so.6\0", b"libc.so.6\0"))
        else:
            self._compile(f"-D{FLAGS[kind]}", "broken.c", "-o", target.name)
        return target

    def _compile(self, *arguments: str) -> None:
        compiler = shutil.which("cc") or "cc"
        define = f'-DREAL="{self.real}"'
        subprocess.run([compiler, "-w", define, *arguments], cwd=self.folder, check=True)
