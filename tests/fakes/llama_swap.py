"""A llama-swap on loopback, as far as swapping goes: `PORT LOG MODELS [RUNNING]`; it prints its port once it listens.

MODELS is JSON, {name: bytes}; RUNNING, a list of names. It allocates what a model takes and touches each page; each
call is a line of JSON in the file LOG. FAKE_KEY, in the environment, is its API key. FAKE_MODE is one of: hang,
garbage, error500, old (cannot stop single models, and lists only those that are ready), stays (models do not stop),
slow (starting, and stopping, takes FAKE_SECONDS), broken (models cannot be started), other (models know no /health).
"""

import http.server
import json
import mmap
import os
import sys
import threading
import time
from urllib.parse import unquote

PORT, LOG, MODELS = int(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
KEY = os.environ.get("FAKE_KEY")
MODE, SECONDS = os.environ.get("FAKE_MODE", ""), float(os.environ.get("FAKE_SECONDS", "0"))
lock = threading.Condition()
states, blocks = {}, {}


def note(**facts):
    with open(LOG, "a", encoding="utf-8") as file:
        file.write(json.dumps(facts) + "\n")


def start(name):
    """Waits, as llama-swap does, while another request has it started; False: it is being stopped."""
    with lock:
        lock.wait_for(lambda: states.get(name) != "starting")
        if states.get(name) in ("ready", "stopping"):
            return states[name] == "ready"
        note(call="start", model=name)
        states[name] = "starting"
    if MODE == "slow":
        time.sleep(SECONDS)
    block = mmap.mmap(-1, MODELS[name])
    for place in range(0, MODELS[name], mmap.PAGESIZE):
        block[place] = 1
    with lock:
        states[name], blocks[name] = "ready", block
        lock.notify_all()
    return True


def stop(name):
    if MODE == "stays":
        return
    with lock:
        if name not in blocks:
            return
        note(call="stop", model=name)
        states[name] = "stopping"
    if MODE == "slow":
        time.sleep(SECONDS)
    with lock:
        blocks.pop(name).close()
        states[name] = "stopped"


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def answer(self, status, body):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def handle_one(self):
        path = unquote(self.path)
        note(call="ask", method=self.command, path=path)
        if KEY is not None and self.headers.get("Authorization") != f"Bearer {KEY}":
            return self.answer(401, {"error": f"unauthorized: {self.headers.get('Authorization')}"})
        if MODE == "hang":
            return time.sleep(60)
        if MODE == "garbage":
            return self.answer(200, b"OK")
        if MODE == "error500":
            return self.answer(500, {"error": {"message": "out of order"}})
        if path == "/running":
            shown = {name: state for name, state in states.items() if state != "stopped"}
            if MODE == "old":
                shown = {name: state for name, state in shown.items() if state == "ready"}
            running = [
                {"model": name, "state": state, "cmd": "llama-server", "ttl": 0}
                for name, state in shown.items()
            ]
            return self.answer(200, {"running": running})
        if path == "/unload":
            for name in list(blocks):
                stop(name)
            return self.answer(200, b"OK")
        if path.startswith("/api/models/unload/") and MODE != "old":
            name = path.removeprefix("/api/models/unload/")
            if name not in MODELS:
                return self.answer(404, {"error": "Model not found"})
            stop(name)
            return self.answer(200, b"OK")
        name = path.removeprefix("/upstream/").removesuffix("/health")
        if path.startswith("/upstream/") and name in MODELS:
            if MODE == "broken":
                note(call="start", model=name)
                return self.answer(502, {"error": "upstream command exited prematurely"})
            if not start(name):
                return self.answer(502, {"error": "current state: stopping"})
            return self.answer(404 if MODE == "other" else 200, {"status": "ok"})
        is_model = path.startswith("/upstream/")
        return self.answer(400 if MODE == "old" and is_model else 404, {"error": "model not found"})

    def do_GET(self):
        self.handle_one()

    def do_POST(self):
        self.handle_one()


for each in json.loads(sys.argv[4]) if len(sys.argv) > 4 else ():
    start(each)
server = http.server.ThreadingHTTPServer(("127.0.0.1", PORT), Handler)
server.daemon_threads = True
print(server.server_address[1], flush=True)
server.serve_forever()
