"""An engine that notes when it writes: what `latency.py` runs. Standard library only.

It answers `-h` and `--version` like `sd-cli`; for a drawing it prints recorded log lines and one bar a step. What
it is to do stands in the variable LATENCY_CHILD as JSON:

    help: file that `-h` prints
    seconds: pause before each step
    pictures: files to show as previews, in order; none: no previews
    bar_first: seconds from the bar to the preview file; null: the file first, as the engine does
    result: file that becomes the picture
    notes: file for one line a step: step, time of the bar, time of the whole preview file (CLOCK_MONOTONIC, ns)
"""

import json
import os
import shutil
import sys
import time
from pathlib import Path


def main() -> None:
    """Answer, or draw."""
    task = json.loads(os.environ["LATENCY_CHILD"])
    if "-h" in sys.argv:
        print(Path(task["help"]).read_text(), end="")
    elif "--version" in sys.argv:
        print("stable-diffusion.cpp version unknown, commit unknown")
    else:
        draw(task)


def draw(task: dict[str, object]) -> None:
    """All steps of one image."""
    steps = int(value("--steps"))
    notes = []
    info("generating image: 1/1 - seed 7")
    for step in range(1, steps + 1):
        time.sleep(float(str(task["seconds"])))
        bar_first = task["bar_first"]
        if bar_first is None:
            written = write_preview(task, step)
            printed = print_bar(step, steps)
        else:
            printed = print_bar(step, steps)
            time.sleep(float(str(bar_first)))
            written = write_preview(task, step)
        notes.append(f"{step} {printed} {written}\n")
    say("\n")
    info("sampling completed, taking 0.10s")
    info("decoding 1 latents")
    time.sleep(float(str(task["seconds"])))  # the last preview has its time too
    info("latent 1 decoded, taking 0.10s")
    shutil.copyfile(str(task["result"]), value("--output") % 0)
    info("save result image 0 to 'o_0.png' (success)")
    info("1/1 images saved")
    Path(str(task["notes"])).write_text("".join(notes))


def write_preview(task: dict[str, object], step: int) -> int:
    """Rewrite the preview in place, and return when it is whole."""
    pictures = task["pictures"]
    assert isinstance(pictures, list)
    if not pictures:
        return 0
    data = Path(pictures[step - 1]).read_bytes()
    with open(value("--preview-path"), "wb") as file:  # noqa: PTH123
        file.write(data)
    return time.monotonic_ns()


def print_bar(step: int, steps: int) -> int:
    """Print the bar of a step, and return when its writing began."""
    filled = 50 * step // steps
    began = time.monotonic_ns()
    say(f"\r  |{'=' * filled}{' ' * (50 - filled)}| {step}/{steps} - 9.00it/s\033[K")
    return began


def info(message: str) -> None:
    """One line of the log."""
    say(f"[INFO ] stable-diffusion.cpp:1   - {message}\n")


def say(text: str) -> None:
    """Write at once."""
    os.write(1, text.encode())


def value(flag: str) -> str:
    """What follows a flag."""
    return sys.argv[sys.argv.index(flag) + 1]


if __name__ == "__main__":
    main()
