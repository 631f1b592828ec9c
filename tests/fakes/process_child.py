"""A child that behaves as its first argument says; see MODES. Further arguments only mark it."""

import os
import signal
import subprocess
import sys

HERE = [sys.executable, "-I", "-S", __file__]


def say(text):
    os.write(1, text.encode() + b"\n")


def pause():
    while True:
        signal.pause()


def obey():
    say("ready")
    pause()


def ignore():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    say("ready")
    pause()


def clean_up():
    signal.signal(signal.SIGTERM, lambda *_: (say("cleaned"), os._exit(7)))
    say("ready")
    pause()


def flood():
    say("ready")
    block = b"x" * 65536
    while True:
        os.write(1, block)
        os.write(2, block)


def grandchild():
    """The leader obeys; a grandchild that does not holds the pipes."""
    subprocess.Popen([*HERE, "ignore", *sys.argv[2:]])
    pause()


def tree():
    """Three generations, two in each, that all ignore SIGTERM. Ready when the last one is."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    depth = int(sys.argv[2])
    if depth:
        for _ in range(2):
            subprocess.Popen([*HERE, "tree", str(depth - 1), *sys.argv[3:]])
    else:
        say("leaf")
    pause()


def leave():
    """Exit at once; a grandchild keeps the pipes."""
    subprocess.Popen([*HERE, "ignore", *sys.argv[2:]])
    say("left")


def escape():
    """Exit at once; a grandchild in a session of its own keeps the pipes."""
    escaped = subprocess.Popen([*HERE, "ignore", *sys.argv[2:]], start_new_session=True)
    say(f"escaped {escaped.pid}")


MODES = {f.__name__: f for f in (obey, ignore, clean_up, flood, grandchild, tree, leave, escape)}

if __name__ == "__main__":
    MODES[sys.argv[1]]()
