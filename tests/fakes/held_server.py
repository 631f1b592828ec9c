"""A language-model server in little: `PORT LOG MODEL BYTES` (0: any port); it says the port, then serves.

It holds so many bytes of memory while it is loaded, and appends each call that changes something to the log.
GET /state; POST /load and /unload {"model", "seconds"?: how long that takes}; POST /set: loaded with a model, at once,
and how long the others take from here on.
"""

import asyncio
import json
import mmap
import sys

PAGE = 4096


class Server:
    def __init__(self, log, model, size):
        self.log = open(log, "a", buffering=1)  # noqa: SIM115
        self.size = size
        self.load_seconds = self.unload_seconds = 0.0
        self.state, self.model, self.memory = "unloaded", None, None
        self.claim(model)

    def claim(self, model):
        self.give_back()
        self.memory = mmap.mmap(-1, self.size)
        for place in range(0, self.size, PAGE):
            self.memory[place] = 1
        self.state, self.model = "loaded", model

    def give_back(self):
        if self.memory is not None:
            self.memory.close()
        self.state, self.model, self.memory = "unloaded", None, None

    async def answer(self, path, body):
        if path != "/state":
            self.log.write(f"{path[1:]} {body.get('model')}\n")
        if path == "/set":
            self.load_seconds = body.get("load_seconds", 0.0)
            self.unload_seconds = body.get("unload_seconds", 0.0)
            self.claim(body["model"])
        elif path == "/load":
            self.state = "loading"
            await asyncio.sleep(self.load_seconds)
            self.claim(body["model"])
        elif path == "/unload":
            self.state = "unloading"
            await asyncio.sleep(self.unload_seconds)
            self.give_back()
        return {"state": self.state, "model": self.model, "bytes": self.size if self.memory else 0}

    async def serve(self, reader, writer):
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            length = 0
            for line in head.split("\r\n"):
                name, _, value = line.partition(":")
                if name.lower() == "content-length":
                    length = int(value)
            body = json.loads(await reader.readexactly(length) or b"{}")
            # What was asked for is done even if whoever asked is gone.
            answer = json.dumps(await self.answer(head.split(" ")[1], body)).encode()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(answer), answer))
            await writer.drain()
        except (OSError, EOFError):
            pass
        finally:
            writer.close()


async def main():
    port, log, model, size = sys.argv[1:]
    server = Server(log, model, int(size))
    listening = await asyncio.start_server(server.serve, "127.0.0.1", int(port))
    print(listening.sockets[0].getsockname()[1], flush=True)
    await listening.serve_forever()


asyncio.run(main())
