"""Fetches files of a model with huggingface_hub and checks them, and writes what happens as lines of JSON.

Run in a process of its own, because a transfer that hangs can only be ended with its process. A token comes in the
environment, where it is in no list of processes.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import json
import os
import re
import signal
import tempfile
import threading
import time
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeAlias

from sdmanager.files import free_bytes

from ._hub_faults import SetUpError, WrongFileError, facts_of, library_fault
from ._hub_parts import ROOM_TO_SPARE, STALE_SECONDS, clear_parts, own_parts
from ._hub_transfer import PIECE_BYTES, StoppedError, Transfer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

Facts: TypeAlias = "dict[str, Any]"

AT_ONCE: Final = 4
_TELL_SECONDS: Final = 0.1
_PAUSES: Final = (1.0, 3.0)
_GET_PAUSES: Final = (1.0, 3.0, 9.0)
_ATTEMPTS_MAX: Final = 5
_TRY_AGAIN: Final = frozenset({429, 500, 502, 503, 504})
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_BLOB: Final = re.compile(r"[\w-]{1,128}")


class Job:
    """Looks up some files, and fetches them when it may.

    Args:
        files: What to fetch: ``repo``, ``path``, ``revision``, ``size``, ``sha256``, ``force``.
        say: Called with facts, from any thread.
        may_go: Waits for leave to fetch.
        stopped: Whether to stop; looked at with each piece.
        token: For the hub; True: there must be one in the environment; None: if there is one.
    """

    def __init__(
        self,
        files: Sequence[Mapping[str, Any]],
        say: Callable[[Facts], None],
        may_go: Callable[[], None],
        *,
        stopped: Callable[[], bool] = lambda: False,
        token: str | bool | None = None,
    ) -> None:
        self._files = files
        self._say = say
        self._may_go = may_go
        self._stopped = stopped
        self._token = token
        self._plans: list[Facts] = []
        self._done = [0] * len(files)
        self._came = [0] * len(files)
        self._told_at = 0.0
        self._lock = threading.Lock()
        self._failed = False

    def run(self, *, leave: bool) -> bool:
        """Do all of it and say how it ended; whether it went well.

        Args:
            leave: Do not wait for the other transfers when one has failed: the process ends.
        """
        try:
            constants = _library()
            if not isinstance(self._token, str):
                _check_token_file()
            constants.DOWNLOAD_CHUNK_SIZE = PIECE_BYTES
            self._plans = self._for_all(self._look_up, leave=leave)
            cache = str(Path(constants.HF_HUB_CACHE).absolute())
            self._say({"event": "planned", "cache": cache, "plans": self._plans})
            self._may_go()
            self._say({"event": "fetched", "files": self._for_all(self._fetch, leave=leave)})
        except StoppedError:
            return False
        except Exception as exc:  # noqa: BLE001 - told in words of ours, without traces and addresses
            index = exc.__dict__.get("file_index")
            self._say(
                {"event": "error", **facts_of(exc), "file": index, "has_token": _has_token(self._token)}
            )
            return False
        return True

    def halt(self) -> None:
        """Break off where the transfer is to stop."""
        if self._failed or self._stopped():
            raise StoppedError

    def advance(self, index: int, count: int, *, whole: bool = False) -> None:
        """Note that so many bytes of a file have come; fewer than none where it begins anew."""
        self.halt()
        with self._lock:
            self._done[index] += count
            self._came[index] += max(count, 0)
            if whole or time.monotonic() - self._told_at >= _TELL_SECONDS:
                self._told_at = time.monotonic()
                self._say({"event": "bytes", "done": self._done[:]})

    def _for_all(self, function: Callable[[int], Facts], *, leave: bool) -> list[Facts]:
        def tied(index: int) -> Facts:
            try:
                return function(index)
            except Exception as exc:
                exc.__dict__["file_index"] = index
                raise

        pool = ThreadPoolExecutor(AT_ONCE)
        futures = [pool.submit(tied, index) for index in range(len(self._files))]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
            failed = [future for future in futures if future.done() and future.exception() is not None]
            self._failed = bool(failed)
            return [future.result() for future in failed or futures]
        finally:
            pool.shutdown(wait=not leave, cancel_futures=True)

    def _look_up(self, index: int) -> Facts:
        from huggingface_hub import constants, try_to_load_from_cache

        file = self._files[index]
        repo, name, revision = file["repo"], file["path"], file["revision"] or "main"
        held = None if file["force"] else try_to_load_from_cache(repo, name, revision=revision)
        if isinstance(held, str) and _COMMIT.fullmatch(revision):
            return _held(held)
        try:
            found = self._ask_hub(repo, name, revision, pauses=() if isinstance(held, str) else _PAUSES)
        except Exception as exc:
            if not isinstance(held, str) or facts_of(exc)["kind"] in {"revision", "entry"}:
                raise
            return _held(held)
        storage = Path(constants.HF_HUB_CACHE, "--".join(("models", *repo.split("/")))).absolute()
        pointer = storage / "snapshots" / found.commit_hash / name
        blob = storage / "blobs" / found.etag if _BLOB.fullmatch(found.etag) else None
        cached = pointer.exists() or (blob is not None and blob.exists())
        return {
            "size": found.size,
            "etag": found.etag,
            "cached": cached,
            "fetch": bool(file["force"]) or not cached,
            "asked": True,
            "pointer": str(pointer),
            "blob": None if blob is None else str(blob),
            "in_order": getattr(found, "xet_file_data", None) is None,
        }

    def _ask_hub(self, repo: str, name: str, revision: str, *, pauses: Sequence[float]) -> Any:
        """What the hub says of a file; asked again where it may have been a passing fault."""
        from huggingface_hub import get_hf_file_metadata, hf_hub_url
        from huggingface_hub.errors import FileMetadataError

        address = hf_hub_url(repo, name, revision=revision)
        left = list(pauses)
        while True:
            self.halt()
            try:
                found = get_hf_file_metadata(address, token=self._token)
            except Exception as exc:
                facts = facts_of(exc)
                if not left or (facts["kind"] != "stalled" and facts.get("status") not in _TRY_AGAIN):
                    raise
                self._pause(left.pop(0))
                continue
            if not found.etag or not _COMMIT.fullmatch(found.commit_hash or ""):
                raise FileMetadataError
            return found

    def _fetch(self, index: int) -> Facts:
        file, plan = self._files[index], self._plans[index]
        if plan["blob"] is not None:
            clear_parts(Path(plan["blob"]), older=STALE_SECONDS)
        fetch = bool(plan["fetch"])
        held = not fetch and Path(plan["pointer"]).exists()
        if not (fetch or held) and not (plan["blob"] and Path(plan["blob"]).exists()):  # deleted meanwhile
            self._announce_again(index)
        path, taken = (plan["pointer"], None) if held else self._get(index, force=bool(file["force"]))
        digest = taken or self._read(path)
        if not fetch and self._fault_of(index, path, digest) is not None:  # a copy that was there is damaged
            fetch = True
            self._announce_again(index)
            path, taken = self._get(index, force=True)
            digest = taken or self._read(path)
        fault = self._fault_of(index, path, digest)
        if fault is not None:
            _delete(path)
            raise WrongFileError(fault)
        size = Path(path).stat().st_size
        self.advance(index, size - self._done[index], whole=True)
        return {"path": path, "sha256": digest, "size": size, "fetched": fetch, "commit": _commit_of(path)}

    def _fault_of(self, index: int, path: str, digest: str) -> str | None:
        file, plan = self._files[index], self._plans[index]
        size = Path(path).stat().st_size
        if size != ((plan["size"] if plan["asked"] else None) or file["size"] or size):
            return "size"
        named = plan["etag"] if _DIGEST.fullmatch(plan["etag"] or "") else None
        return None if digest == (file["sha256"] or named or digest) else "digest"

    def _announce_again(self, index: int) -> None:
        """Say that a file must be fetched that was thought to be there, if there is room for it."""
        plan = self._plans[index]
        free = free_bytes(Path(plan["pointer"]).parent)
        if free is not None and (plan["size"] or self._files[index]["size"] or 0) + ROOM_TO_SPARE > free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._say({"event": "again", "file": index})

    def _get(self, index: int, *, force: bool) -> tuple[str, str | None]:
        """Fetch a file; again after a passing fault, which not all releases of the library do."""
        left = list(_GET_PAUSES)
        for attempt in itertools.count():
            before = self._came[index]
            try:
                return self._download(index, force=force)
            except Exception as exc:
                facts, came = facts_of(exc), self._came[index] != before
                if attempt >= _ATTEMPTS_MAX or not _may_pass(facts, came=came, first=attempt == 0):
                    raise
                if facts.get("status") in _TRY_AGAIN:
                    left = list(_GET_PAUSES) if came else left
                    if not left:
                        raise
                    self._pause(left.pop(0))
        raise AssertionError  # it counts for ever

    def _pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (rest := until - time.monotonic()) > 0:
            self.halt()
            time.sleep(min(rest, _TELL_SECONDS))

    def _download(self, index: int, *, force: bool) -> tuple[str, str | None]:
        """Let the library fetch a file; its path, and its digest where that was taken on the way."""
        from huggingface_hub import hf_hub_download

        file, plan = self._files[index], self._plans[index]
        self.halt()
        self._done[index] = 0
        blob = Path(plan["blob"]) if plan["in_order"] and plan["blob"] is not None else None
        transfer = Transfer(lambda count: self.advance(index, count), blob)
        try:
            path = hf_hub_download(
                file["repo"],
                file["path"],
                revision=file["revision"],
                token=self._token,
                force_download=force,
                tqdm_class=transfer.bar_class(),
            )
            return path, transfer.digest_of(path)
        finally:
            transfer.close()

    def _read(self, path: str) -> str:
        digest, buffer = hashlib.sha256(), memoryview(bytearray(PIECE_BYTES))
        with Path(path).open("rb", buffering=0) as file:
            while count := file.readinto(buffer):
                self.halt()
                digest.update(buffer[:count])
        return digest.hexdigest()


def _may_pass(facts: Facts, *, came: bool, first: bool) -> bool:
    """Whether a fault of a transfer is worth another try.

    Args:
        facts: Of the fault.
        came: Whether anything came before it.
        first: Whether it is the first of this file.
    """
    if facts["kind"] == "cut":
        return came or first
    if facts["kind"] == "stalled":  # the library has waited for long already
        return came
    # The last: a folder was deleted that another one had just emptied.
    return facts.get("status") in _TRY_AGAIN or (first and facts.get("errno") == errno.ENOENT)


def _library() -> Any:
    try:
        from huggingface_hub import constants
    except Exception as exc:
        raise library_fault(exc) from exc
    return constants


def _check_token_file() -> None:
    from huggingface_hub import get_token

    try:
        get_token()
    except (OSError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is no text"
        raise SetUpError({"kind": "token_file", "reason": reason}) from exc


def _held(path: str) -> Facts:
    """The plan for a file that is in the cache, where the hub was not asked or does not answer."""
    blob = Path(path).resolve().name
    return {
        "size": Path(path).stat().st_size,
        "etag": blob if _DIGEST.fullmatch(blob) else None,
        "cached": True,
        "fetch": False,
        "asked": False,
        "pointer": path,
        "blob": None,
        "in_order": True,
    }


def _commit_of(path: str) -> str | None:
    parts = Path(path).parts
    commits = [part for before, part in itertools.pairwise(parts) if before == "snapshots"]
    return commits[-1] if commits and _COMMIT.fullmatch(commits[-1]) else None


def _delete(path: str) -> None:
    with contextlib.suppress(OSError):
        content = Path(path).resolve()
        Path(path).unlink()
        content.unlink(missing_ok=True)


def _has_token(token: str | bool | None) -> bool:
    if isinstance(token, str):
        return True
    with contextlib.suppress(Exception):
        from huggingface_hub import get_token

        return bool(get_token())
    return False


def main(request: Mapping[str, Any]) -> NoReturn:
    """Carry out a request as the only thing that this process does.

    Args:
        request: ``files`` and ``token`` as of a ``Job``; ``gate``: a file whose appearance is the leave to fetch;
            ``trials``: how the names of temporary folders begin, so that they are known when this process is killed.
    """
    tempfile.template = request["trials"]
    gate = Path(request["gate"])
    lock = threading.Lock()
    blobs: list[Path] = []

    def say(facts: Facts) -> None:
        if facts["event"] == "planned":
            blobs.extend(Path(plan["blob"]) for plan in facts["plans"] if plan["blob"])
        data = json.dumps(facts).encode("ascii") + b"\n"
        with lock:
            while data:
                data = data[os.write(1, data) :]

    def may_go() -> None:
        while not gate.exists():
            time.sleep(0.005)

    def end(code: int) -> NoReturn:
        for part in own_parts(
            part for blob in blobs for part in blob.parent.glob(f"{blob.name}*.incomplete")
        ):
            with contextlib.suppress(OSError):
                part.unlink()
        os._exit(code)  # a transfer may hang

    signal.signal(signal.SIGTERM, lambda *_: end(143))
    end(0 if Job(request["files"], say, may_go, token=request["token"]).run(leave=True) else 1)
