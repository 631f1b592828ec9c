"""An Ollama on loopback, as far as loading goes: `PORT LOG MODELS [LOADED]`; it prints its port once it listens.

MODELS is JSON, {name: {"size": bytes, "vram": bytes, "embeds": bool, "image": bool}}; LOADED, {name: keep_alive}. It
allocates what a model takes and touches each page. Each call is a line of JSON in the file LOG. FAKE_MODE, in the
environment, is one of: hang, error500, garbage, huge, redirect, gzip, stays (models do not go), busy (they go when
told to, FAKE_SECONDS later, unless they are loaded meanwhile), empty (says that it loads, and does not), slow (loading
takes FAKE_SECONDS), refuses (loading is answered with 500).
"""

import gzip
import http.server
import json
import mmap
import os
import sys
import threading
import time
from datetime import datetime, timedelta, timezone

PORT, LOG, MODELS = int(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
MODE, SECONDS = os.environ.get("FAKE_MODE", ""), float(os.environ.get("FAKE_SECONDS", "0"))
DEFAULT_SECONDS = 300
FOREVER_SECONDS = (1 << 63) / 1e9
lock = threading.Lock()
loaded = {}


def note(**facts):
    with lock, open(LOG, "a", encoding="utf-8") as file:
        file.write(json.dumps(facts) + "\n")


def pages(size):
    """Memory that is really taken."""
    block = mmap.mmap(-1, size)
    for place in range(0, size, mmap.PAGESIZE):
        block[place] = 1
    return block


def keep(name, seconds):
    entry = loaded[name]
    entry["seconds"] = FOREVER_SECONDS if seconds < 0 else seconds
    entry["until"] = datetime.now(timezone(timedelta(hours=2))) + timedelta(seconds=entry["seconds"])


def load(name, seconds, context):
    with lock:
        is_there = name in loaded
        if not is_there and MODE != "empty":
            loaded[name] = {"block": pages(MODELS[name]["size"]), "context": context or 4096}
        if name in loaded:
            keep(name, seconds)
    if MODE == "slow" and not is_there:
        time.sleep(SECONDS)


def unload(name):
    with lock:
        entry = loaded.get(name)
        if entry is None or MODE == "stays":
            return
        if MODE == "busy":
            keep(name, 0)
            threading.Timer(SECONDS, go, [name]).start()
            return
        loaded.pop(name)["block"].close()


def go(name):
    note(call="due", model=name)
    with lock:
        if name in loaded and loaded[name]["seconds"] == 0:
            loaded.pop(name)["block"].close()


def listed():
    with lock:
        return [
            {
                "name": name,
                "model": name,
                "size": MODELS[name]["size"],
                "size_vram": MODELS[name]["vram"],
                # Go prints more digits than Python does.
                "expires_at": entry["until"].isoformat(timespec="microseconds").replace("+02", "123+02"),
                "context_length": entry["context"],
            }
            for name, entry in loaded.items()
        ]


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def answer(self, status, body, **headers):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        note(call="get", path=self.path)
        if MODE == "hang":
            time.sleep(60)
        elif MODE == "error500":
            self.answer(500, {"error": "out of order\nfor ever."})
        elif MODE == "garbage":
            self.answer(200, b"<html>not JSON")
        elif MODE == "huge":
            self.answer(200, b'{"models": [' + b" " * (2 << 20) + b"]}")
        elif MODE == "gzip":
            self.answer(200, gzip.compress(json.dumps({"models": []}).encode()), Content_Encoding="gzip")
        elif MODE == "redirect":
            self.answer(302, b"", Location="http://127.0.0.1:1/api/ps")
        else:
            self.answer(200, {"models": listed()})

    def do_DELETE(self):
        name = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["model"]
        with lock:
            MODELS.pop(name)
            if name in loaded:
                loaded.pop(name)["block"].close()
        self.answer(200, {})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name, keep_alive = body["model"], body.get("keep_alive", DEFAULT_SECONDS)
        context = body.get("options", {}).get("num_ctx")
        if name not in MODELS:
            note(call="unknown", model=name)
            self.answer(404, {"error": f"model '{name}' not found"})
        elif keep_alive == 0 and not body.get("prompt"):
            note(call="unload", model=name)
            unload(name)
            self.answer(200, {"done": True, "done_reason": "unload"})
        elif self.path == "/api/generate" and MODELS[name].get("embeds"):
            note(call="refused", model=name)
            self.answer(400, {"error": f'"{name}" does not support generate'})
        else:
            note(call="load", model=name, path=self.path, keep_alive=body.get("keep_alive"), context=context)
            if MODE == "refuses":
                self.answer(500, {"error": "model requires more system memory"})
                return
            load(name, keep_alive, context)
            self.answer(200, {"done": True, "done_reason": "load"})


for model, seconds in json.loads(sys.argv[4]).items() if len(sys.argv) > 4 else ():
    load(model, seconds, 8192)
server = http.server.ThreadingHTTPServer(("127.0.0.1", PORT), Handler)
server.daemon_threads = True
print(server.server_address[1], flush=True)
server.serve_forever()
