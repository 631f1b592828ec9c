"""A small process that behaves like llama-server: it holds memory, loads, and answers over HTTP.

Arguments: those of llama-server that matter (-m, --alias, --host, --port, --api-key,
--api-prefix); others are let pass. Environment, beside LLAMA_API_KEY and LLAMA_ARG_API_PREFIX:

FAKE_LLAMA_LOG    file to which each start is written, a line of JSON with its arguments
FAKE_LLAMA_CLAIM  bytes of RAM that it takes, each page touched
FAKE_LLAMA_LOAD   seconds that loading takes
FAKE_LLAMA        misbehaviour, parted by spaces: never-healthy, dies-while-loading, ignores-term, hangs (answers
                  nothing once the file FAKE_LLAMA_LOG + ".hang" is there), other-model (serves another one from the
                  second start on), says-key, silent-models (has no /v1/models), child (another process listens),
                  shared-memory (claims that kind), maps-model (maps the file of the model)

Standard library only; it runs with -I -S.
"""

import argparse
import json
import mmap
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

FAULTS = set(os.environ.get("FAKE_LLAMA", "").split())
LOG = Path(os.environ["FAKE_LLAMA_LOG"]) if "FAKE_LLAMA_LOG" in os.environ else None
PAGE = 4096


def say(text):
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def claim(size):
    flags = mmap.MAP_ANONYMOUS | (mmap.MAP_SHARED if "shared-memory" in FAULTS else mmap.MAP_PRIVATE)
    held = mmap.mmap(-1, max(size, PAGE), flags=flags)
    for at in range(0, size, PAGE):
        held[at] = 1
    return held


def map_file(path):
    with open(path, "rb") as file:
        held = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return held, sum(held[at] for at in range(0, len(held), PAGE))


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def answer(self, status, body):
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json; charset=utf-8")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def refuse(self, status, message):
        self.answer(status, {"error": {"code": status, "message": message, "type": "error"}})

    def may_pass(self):
        if "hangs" in FAULTS and Path(f"{LOG}.hang").exists():
            time.sleep(60)
        if not self.server.ready.is_set():
            self.refuse(503, "Loading model")
            return False
        if self.path in {"/health", "/v1/health"} or not self.server.keys:
            return True
        if self.headers.get("Authorization", "").removeprefix("Bearer ") in self.server.keys:
            return True
        self.refuse(401, "Invalid API Key")
        return False

    def do_GET(self):
        if not self.path.startswith(self.server.prefix):
            self.refuse(404, "File Not Found")
            return
        self.path = self.path.removeprefix(self.server.prefix)
        if not self.may_pass():
            return
        if self.path in {"/health", "/v1/health"}:
            self.answer(200, {"status": "ok"})
        elif self.path == "/v1/models" and "silent-models" not in FAULTS:
            entry = {"id": self.server.model, "object": "model", "owned_by": "llamacpp"}
            self.answer(200, {"object": "list", "data": [entry]})
        elif self.path == "/props":
            self.answer(200, {"model_path": self.server.model, "total_slots": 1})
        else:
            self.refuse(404, "File Not Found")

    def do_POST(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.may_pass():
            self.answer(200, {"content": "once upon a time", "model": self.server.model})


def arguments():
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("-m", "--model", default="")
    parser.add_argument("-a", "--alias")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--api-key", default=os.environ.get("LLAMA_API_KEY", ""))
    parser.add_argument("--api-prefix", default=os.environ.get("LLAMA_ARG_API_PREFIX", ""))
    return parser.parse_known_args()[0]


def note_start():
    """Write the start down, and tell how many there were before."""
    if LOG is None:
        return 0
    line = json.dumps({"pid": os.getpid(), "argv": sys.argv[1:]}) + "\n"
    with LOG.open("a") as log:
        log.write(line)
    return len(LOG.read_text().splitlines()) - 1


def load(server, seconds):
    time.sleep(seconds)
    if "dies-while-loading" in FAULTS:
        say("llama_model_load: error loading model: /home/someone/models/broken.gguf is not a GGUF file")
        say("srv llama_server: exiting due to model loading error")
        os._exit(1)
    server.mapped = map_file(server.model) if "maps-model" in FAULTS else None
    server.held = claim(int(os.environ.get("FAKE_LLAMA_CLAIM", "0")))
    if "never-healthy" not in FAULTS:
        say("main: model loaded")
        server.ready.set()


def main():
    given = arguments()
    if "ignores-term" in FAULTS:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if "child" in FAULTS:
        os.environ["FAKE_LLAMA"] = ""
        sys.exit(
            subprocess.run([sys.executable, "-I", "-S", __file__, *sys.argv[1:]], check=False).returncode
        )
    before = note_start()
    say(f"\x1b[32mllama server\x1b[0m on port {given.port}")
    if "says-key" in FAULTS:
        say(f"the key is {given.api_key}, really")
    try:
        server = ThreadingHTTPServer((given.host, given.port), Handler)
    except OSError:
        say(f"couldn't bind HTTP server socket, hostname: {given.host}, port: {given.port}")
        sys.exit(1)
    server.daemon_threads = True
    server.ready = threading.Event()
    server.keys = [key for key in given.api_key.split(",") if key]
    server.prefix = given.api_prefix
    server.model = given.alias or given.model
    if "other-model" in FAULTS and before:
        server.model = "another"
    seconds = float(os.environ.get("FAKE_LLAMA_LOAD", "0.05"))
    threading.Thread(target=load, args=(server, seconds), daemon=True).start()
    if "ignores-term" not in FAULTS:
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    server.serve_forever(poll_interval=0.05)


main()
