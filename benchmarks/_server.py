"""What the benchmarks of the server share: servers in processes of their own, engines that do as told, clients that
cost little."""

from __future__ import annotations

import json
import os
import re
import select
import selectors
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import psutil
from _common import ROOT, real_engine
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self

GENERATIONS: Final = "/v1/images/generations"
PATIENCE: Final = 120.0  # where hanging would be the failure

# Answers as sd-cli does; the test of the engine, which is smaller than what is measured, gets a recorded run.
_ENGINE: Final = """\
#!/bin/sh
case "$1" in
-h) exec cat {help} ;;
--version) exec echo 'stable-diffusion.cpp version unknown, commit unknown' ;;
esac
case "$*" in
*"-W 64 -H 64"*) cp {small} o_0.png; exec cat {output} ;;
esac
{drawing}
"""

# Draws at once what is there already.
REPLAYS: Final = "cp {picture} o_0.png; exec cat {output}"

# The same, and first of all says that it is there.
REPORTS: Final = "echo > {pipe}; " + REPLAYS

# Says that it is there, waits for a line, draws at once, and says that it has.
HELD: Final = "echo > {pipe}; read -r _ < {gate}; cp {picture} o_0.png; cat {output}; echo > {pipe}"

# Does a step for each line that it is given.
STEPS: Final = r"""
printf '[INFO ] stable-diffusion.cpp:1   - generating image: 1/1 - seed 7\n'
step=0
while read -r line; do
  step=$((step + 1))
  printf '\r  |=====================>                            | %d/1000 - 9.00it/s\033[K' $step
done < {pipe}
"""

# Notes when it writes previews: latency_child.py says how, and what else it is told.
NOTES: Final = 'exec {child} "$@"'


@dataclass(frozen=True, slots=True)
class Home:
    """Folders of the server's own, and what it finds in its environment.

    Attributes:
        folder: With everything in it; gone afterwards.
        variables: For the environment.
        model: Arguments that name the model.
    """

    folder: Path
    variables: dict[str, str]
    model: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Scripted(Home):
    """A home with an engine that does as told.

    Attributes:
        size: Width and height of what it draws.
        pipe: Descriptor of the pipe between the engine and the benchmark.
        gate: The same of another one, for what goes both ways.
    """

    size: int = 128
    pipe: int = -1
    gate: int = -1

    @property
    def program(self) -> str:
        """The engine."""
        return self.variables["SDMANAGER_ENGINE"]


@contextmanager
def scripted(drawing: str, *, size: int = 128, **more: str) -> Iterator[Scripted]:
    """A home with a scripted engine.

    Args:
        drawing: What it does, in the language of the shell; ``{picture}``, ``{output}``, ``{pipe}`` and
            ``{gate}`` are files.
        size: Width and height of its picture, of which every byte is random: 3 bytes a pixel.
        more: Further names in it.
    """
    with tempfile.TemporaryDirectory(prefix="sdmanager-bench-") as name:
        folder = Path(name)
        program, pipe, gate = folder / "sd-cli", folder / "pipe", folder / "gate"
        picture, small = noise(folder / "picture.png", size), noise(folder / "small.png", 64)
        model = folder / "model.safetensors"
        header = b'{"x": {"dtype": "F16", "shape": [1], "data_offsets": [0, 2]}}'
        # A model as far as the server looks; the scripted engine does not.
        model.write_bytes(len(header).to_bytes(8, "little") + header + b"\0\0")
        for fifo in (pipe, gate):
            os.mkfifo(fifo)
        data = ROOT / "tests" / "data"
        files = {
            "help": data / "help" / "pypi-0.4.7.txt",
            "output": data / "transcripts" / "pypi-0.4.7" / "txt2img.stdout",
            "picture": picture,
            "small": small,
            "pipe": pipe,
            "gate": gate,
        }
        quoted = {key: shlex.quote(str(path)) for key, path in files.items()} | more
        program.write_text(_ENGINE.format(drawing=drawing.format(**quoted), **quoted))
        program.chmod(0o755)
        opened = [os.open(fifo, os.O_RDWR | os.O_NONBLOCK) for fifo in (pipe, gate)]
        try:
            variables = {"SDMANAGER_ENGINE": str(program)}
            yield Scripted(folder, variables, ("-m", str(model)), size=size, pipe=opened[0], gate=opened[1])
        finally:
            for descriptor in opened:
                os.close(descriptor)


def noise(path: Path, size: int) -> Path:
    """A picture that no compression makes smaller."""
    Image.frombytes("RGB", (size, size), os.urandom(3 * size * size)).save(path, compress_level=1)
    return path


@contextmanager
def real() -> Iterator[Home]:
    """A home with the real engine and the demo model."""
    with real_engine() as settings, tempfile.TemporaryDirectory(prefix="sdmanager-bench-") as name:
        folder = Path(name)
        (folder / "data").mkdir()
        for each in (settings.engines_dir, settings.models_dir):
            each.mkdir(parents=True, exist_ok=True)
            (folder / "data" / each.name).symlink_to(each)
        given = {"SDMANAGER_ENGINE": settings.engine, "SDMANAGER_BINARIES": settings.manifest}
        yield Home(folder, {key: str(path) for key, path in given.items() if path is not None})


def environment(home: Home) -> dict[str, str]:
    """Without what is the user's own."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("SDMANAGER_", "PYTHON"))
    }
    return {**kept, "SDMANAGER_HOME": str(home.folder), **home.variables}


@dataclass(frozen=True, slots=True)
class Server:
    """One that answers, in a process of its own."""

    port: int
    process: psutil.Process

    def rss_mib(self) -> float:
        """Memory of that process alone, as the system counts it: with the pages it shares with others."""
        return float(self.process.memory_info().rss) / 2**20

    def cpu_seconds(self) -> float:
        """What it has computed so far."""
        times = self.process.cpu_times()
        return float(times.user + times.system)

    def json(self, method: str, path: str, body: object = None) -> dict[str, object]:
        """What the answer says, which is none of an error; on a connection of its own."""
        with Client(self.port) as client:
            answer = client.ask(client.request(method, path, body))
        head, _, data = answer.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 2"):
            raise SystemExit(f"The server answered {data.decode()}")
        found: dict[str, object] = json.loads(data)
        return found

    def begin(self, **fields: object) -> str:
        """Have something drawn; its id."""
        return str(self.json("POST", GENERATIONS, {"prompt": "a lighthouse at dusk", **fields})["id"])

    def wait(self, generation_id: str) -> None:
        """Until a generation is complete, told by its events: no polling."""
        with Streams(self.port, f"{GENERATIONS}/{generation_id}/events?previews=url", 1) as streams:
            for _, event, _ in streams.events():
                if b"event: complete\n" in event:
                    return
                if b"event: error\n" in event:
                    raise SystemExit(event.decode())

    def draw(self, **fields: object) -> str:
        """Have something drawn and wait for it; its id."""
        generation_id = self.begin(**fields)
        self.wait(generation_id)
        return generation_id

    def cancel(self, generation_id: str) -> None:
        """End a generation."""
        self.json("DELETE", f"{GENERATIONS}/{generation_id}")


@contextmanager
def serving(home: Home, *options: str, **variables: str) -> Iterator[Server]:
    """``sdmanager serve``, from its first answer on.

    Args:
        home: Where.
        options: Further arguments.
        variables: Further variables for its environment.
    """
    ready = home.folder / "ready.json"
    argv = [sys.executable, "-m", "sdmanager", "serve", "--port", "auto", "--ready-file", str(ready)]
    with process([*argv, *home.model, *options], environment(home) | variables) as child:
        while not ready.exists():
            if child.poll() is not None:
                raise SystemExit("The server did not start.")
            time.sleep(0.01)
        yield Server(json.loads(ready.read_bytes())["port"], psutil.Process(child.pid))


@contextmanager
def process(argv: list[str], env: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A child that SIGTERM ends; what it prints is shown only where it fails."""
    with tempfile.TemporaryFile() as said:
        child = subprocess.Popen(argv, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=said)
        try:
            yield child
        except BaseException:
            said.seek(0)
            sys.stderr.write(said.read().decode("utf-8", "replace"))
            raise
        finally:
            child.send_signal(signal.SIGTERM)
            child.communicate()


class Client:
    """One connection, and as little work per request as can be. A server closes it after 15 idle seconds.

    Args:
        port: Of a server on this machine.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self.socket = socket.create_connection(("127.0.0.1", port), PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def request(self, method: str, path: str, body: object = None) -> bytes:
        """The bytes of a request."""
        data = b"" if body is None else json.dumps(body).encode()
        kind = f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n" if data else ""
        return f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{self._port}\r\n{kind}\r\n".encode() + data

    def ask(self, request: bytes) -> bytes:
        """The whole answer to a request."""
        self.socket.sendall(request)
        return self.answer()

    def answer(self) -> bytes:
        """The whole answer to what was sent."""
        answer = bytearray()
        while not is_whole(answer):
            data = self.socket.recv(1 << 20)
            if not data:
                raise SystemExit("The server closed a connection.")
            answer += data
        return bytes(answer)


_LENGTH: Final = re.compile(rb"\r\nContent-Length: (\d+)\r\n", re.IGNORECASE)


def is_whole(answer: bytes | bytearray) -> bool:
    """Whether an answer is complete; its length stands in its header."""
    end = answer.find(b"\r\n\r\n")
    found = _LENGTH.search(answer, 0, end + 2) if end >= 0 else None
    return found is not None and len(answer) >= end + 4 + int(found[1])


class _Reader:
    """One reader of Server-Sent Events, whose buffer is made once: fresh memory costs more than what comes."""

    def __init__(self, port: int, path: str) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), PATIENCE)
        # With the older protocol what is said comes without the lengths of its pieces in between.
        request = f"GET {path} HTTP/1.0\r\nHost: 127.0.0.1:{port}\r\nAccept: text/event-stream\r\n\r\n"
        self.socket.sendall(request.encode())
        self._buffer = bytearray(1 << 16)
        self._filled = 0

    def read(self) -> list[bytes] | None:
        """The events that are whole by now; None at the end."""
        if self._filled == len(self._buffer):
            self._buffer.extend(bytes(len(self._buffer)))
        known = self._filled
        count = self.socket.recv_into(memoryview(self._buffer)[known:])
        self._filled += count
        blocks, begin, search = [], 0, max(known - 1, 0)
        while (end := self._buffer.find(b"\n\n", search, self._filled)) >= 0:
            blocks.append(bytes(memoryview(self._buffer)[begin:end]))
            begin = search = end + 2
        self._filled -= begin
        self._buffer[: self._filled] = self._buffer[begin : begin + self._filled]
        return [block for block in blocks if b"data:" in block] if count else None


class Streams:
    """Readers of Server-Sent Events, each on a connection of its own, all in this thread.

    Args:
        port: Of a server on this machine.
        path: Of the stream.
        count: Readers.
    """

    def __init__(self, port: int, path: str, count: int) -> None:
        self._selector = selectors.DefaultSelector()
        self._readers = [_Reader(port, path) for _ in range(count)]
        for number, reader in enumerate(self._readers):
            self._selector.register(reader.socket, selectors.EVENT_READ, number)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._selector.close()
        for reader in self._readers:
            reader.socket.close()

    def events(self) -> Iterator[tuple[int, bytes, int]]:
        """Each event with the number of its reader, and when its last byte was read (CLOCK_MONOTONIC, ns)."""
        while self._selector.get_map():
            if not self._selector.select(PATIENCE):
                raise SystemExit("No event came.")
            yield from self.there()

    def there(self) -> Iterator[tuple[int, bytes, int]]:
        """The same of what is there now, without waiting."""
        for key, _ in self._selector.select(0):
            blocks, now = self._readers[key.data].read(), time.monotonic_ns()
            if blocks is None:
                self._selector.unregister(key.fileobj)
            for block in blocks or ():
                yield key.data, block, now


def expect(pipe: int) -> float:
    """When the engine wrote its line into the pipe, as this process saw it (``time.perf_counter``)."""
    ready, _, _ = select.select([pipe], [], [], PATIENCE)
    now = time.perf_counter()
    if not ready:
        raise SystemExit("The engine was not started.")
    with suppress(BlockingIOError):
        while os.read(pipe, 4096):
            pass
    return now
