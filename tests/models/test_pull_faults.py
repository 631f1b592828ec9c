"""What goes wrong with a hub, its answers, the network and the disk."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest
from hub_server import SIGNATURE, HubFile, Repo
from pulling import PARTS, SIZE, WHOLE, weights_of
from weights import gguf_header, typed

from sdmanager.errors import (
    InsufficientResourcesError,
    ModelCorruptError,
    ModelDownloadError,
    ModelGatedError,
    ModelNotFoundError,
    ModelUnsupportedError,
    SDManagerError,
    StorageError,
)
from sdmanager.models import Family, Role, pull_model


def check_words(error: SDManagerError) -> None:
    """One sentence, and one that says what to do; no address with a signature, no token."""
    assert error.message.endswith(".")
    assert error.hint
    assert error.hint.endswith((".", "?"))
    said = f"{error.message} {error.hint} {error.details}"
    assert SIGNATURE not in said
    assert "hf_" not in said.replace("hf_hub", "")
    assert "://" not in said


@pytest.fixture
def fails(pulling):
    """Pulls, and gives the error; nothing is installed, and nothing is in the cache."""

    async def fails(error: type[SDManagerError], *files, kept: bool = False, **options) -> SDManagerError:
        with pytest.raises(error) as caught:
            await pulling.pull(*files, **options)
        assert type(caught.value) is error
        check_words(caught.value)
        assert pulling.records() == []
        assert kept or pulling.left() == []
        return caught.value

    return fails


@pytest.mark.parametrize(
    ("repo", "path", "revision", "words"),
    [
        ("no/such", "model.safetensors", None, "no repository no/such"),
        (WHOLE, "other.safetensors", None, "no file 'other.safetensors'"),
        (WHOLE, "model.safetensors", "f" * 40, "no revision 'ffff"),
        ("no--such..repo/x", "model.safetensors", None, "cannot be the name"),
    ],
)
async def test_what_is_not_there(pulling, fails, repo, path, revision, words):
    error = await fails(
        ModelNotFoundError, pulling.file(Role.MODEL, repo, path, revision=revision), kept=True
    )
    assert words in error.message
    assert not [name for name in pulling.left() if name != path]  # the library notes what does not exist


@pytest.mark.parametrize(
    ("token", "private", "words"),
    [(None, False, "no token to show"), ("hf_unagreed", False, "has not"), (None, True, "no token to show")],
)
async def test_a_gated_repository(pulling, fails, token, private, words):
    pulling.hub.repos[WHOLE].gated = not private
    pulling.hub.repos[WHOLE].private = private
    error = await fails(ModelGatedError, gated=True, token=token)
    assert words in error.message
    assert WHOLE in error.hint
    assert "HF_TOKEN" in error.hint


async def test_a_gated_repository_that_the_catalogue_does_not_know_to_be_so(pulling, fails):
    pulling.hub.repos[WHOLE].gated = True
    await fails(ModelGatedError)


async def test_a_bad_token(pulling, fails, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_bad")
    error = await fails(ModelGatedError)
    assert "does not accept the token" in error.message
    assert "HF_TOKEN" in error.hint


async def test_a_token_that_no_header_can_hold(pulling, fails):
    await fails(ModelGatedError, token="hf_bad\nx")


async def test_offline_mode_with_an_empty_cache(pulling, fails, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    error = await fails(ModelDownloadError)
    assert "HF_HUB_OFFLINE" in error.hint
    assert not pulling.hub.asked


async def test_the_publisher_replaced_the_file(pulling, fails):
    error = await fails(ModelDownloadError, pulling.file(sha256="0" * 64))
    assert error.details["kind"] == "replaced"
    error = await fails(ModelDownloadError, pulling.file(size=SIZE + 1))
    assert error.details["kind"] == "replaced"
    assert not pulling.hub.transfers()


async def test_a_wrong_file_is_not_kept(pulling, fails):
    knobs = pulling.knobs()
    knobs.served = bytes(len(knobs.data))
    error = await fails(ModelDownloadError)
    assert error.details["kind"] == "digest"
    assert "SHA-256" in error.message


async def test_a_digest_that_only_the_catalogue_knows(pulling, fails):
    knobs = pulling.knobs()
    knobs.etag, knobs.plain = "a" * 40, True
    error = await fails(ModelDownloadError, pulling.file(sha256="0" * 64))
    assert error.details["kind"] == "digest"


@pytest.mark.parametrize("length", [SIZE // 2, SIZE * 2])
async def test_a_file_of_another_length(pulling, fails, length):
    pulling.knobs().served = (pulling.knobs().data * 2)[:length]
    error = await fails(ModelDownloadError)
    assert error.details["kind"] == "size"


async def test_a_damaged_copy_that_cannot_be_had_anew(pulling, monkeypatch):
    first = await pulling.pull(name="first")
    first.files[0].path.resolve().write_bytes(b"damaged")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelDownloadError) as caught:
        await pulling.pull(name="second")
    check_words(caught.value)
    assert pulling.records() == ["first.json"]


@pytest.mark.parametrize("first", [0, SIZE // 3, SIZE - 10])
async def test_a_connection_that_is_cut_once(pulling, first):
    knobs = pulling.knobs()
    knobs.cut_after, knobs.cuts = first, 1
    model = await pulling.pull()
    assert model.files[0].path.read_bytes() == knobs.data
    assert len(pulling.hub.transfers()) >= 2


async def test_a_server_that_begins_anew_each_time(pulling):
    knobs = pulling.hub.repos[WHOLE].files["model.safetensors"] = HubFile(weights_of("sd1", 4 * SIZE))
    knobs.cut_after, knobs.cuts, knobs.ignore_range = 3 * SIZE, 2, True
    model = await pulling.pull()
    assert model.files[0].path.read_bytes() == knobs.data
    dones = [progress.done for progress in pulling.told]
    assert dones == sorted(dones)


async def test_a_connection_that_is_cut_for_good(pulling, fails):
    knobs = pulling.knobs()
    knobs.cut_after = 0
    error = await fails(ModelDownloadError)
    assert error.details["kind"] in {"cut", "size"}


async def test_a_server_that_stalls_for_good(pulling, fails):
    pulling.knobs().stall_after = 0
    error = await fails(ModelDownloadError)
    assert error.details["kind"] == "stalled"


async def test_a_server_that_stalls_before_it_answers(pulling, fails):
    pulling.knobs().stall_head = True
    error = await fails(ModelDownloadError)
    assert error.details["kind"] == "stalled"


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_a_hub_that_is_busy_for_a_moment(pulling, status):
    pulling.knobs().head_status.append(status)
    await pulling.pull()


@pytest.mark.parametrize(("status", "words"), [(429, "too many requests"), (503, "fault"), (418, "refuses")])
async def test_a_hub_that_refuses(pulling, fails, status, words):
    pulling.knobs().head_status += [status] * 20
    error = await fails(ModelDownloadError)
    assert words in error.message
    assert error.details["status"] == status


@pytest.mark.parametrize("status", [403, 404, 500])
async def test_a_store_behind_the_hub_that_refuses(pulling, fails, status):
    pulling.knobs().get_status += [status] * 20
    error = await fails(ModelDownloadError)
    assert error.details["status"] == status


async def test_an_address_that_is_no_hub(pulling, fails):
    pulling.hub.is_hub = False
    error = await fails(ModelDownloadError)
    assert "no hub" in error.message
    assert "HF_ENDPOINT" in error.hint


@pytest.mark.parametrize(
    ("endpoint", "kind"),
    [
        ("http://127.0.0.1:9", "unreachable"),
        ("http://no.such.host.invalid", "no_such_host"),
        ("nonsense", "address"),
    ],
)
async def test_an_address_where_nobody_answers(pulling, fails, monkeypatch, endpoint, kind):
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    error = await fails(ModelDownloadError)
    assert error.details["kind"] == kind


async def test_an_endpoint_that_speaks_no_http(pulling, fails, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setenv("HF_ENDPOINT", f"https://127.0.0.1:{pulling.hub.url.rpartition(':')[2]}")
        error = await fails(ModelDownloadError)
        assert error.details["kind"] in {"unreachable", "certificate", "cut"}
        assert listener


async def test_a_proxy_that_is_not_there(pulling, fails, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://user:hf_password@127.0.0.1:9")
    await fails(ModelDownloadError)


async def test_a_certificate_that_nobody_vouches_for(pulling, fails, monkeypatch, tmp_path):
    trustme = pytest.importorskip("trustme")
    import ssl
    import threading

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    listener = socket.create_server(("127.0.0.1", 0))

    def serve():
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            try:
                context.wrap_socket(sock, server_side=True).close()
            except OSError:
                sock.close()

    thread = threading.Thread(target=serve)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"https://127.0.0.1:{listener.getsockname()[1]}")
    try:
        error = await fails(ModelDownloadError)
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()
    assert error.details["kind"] == "certificate"


async def test_a_lora_given_as_a_model(pulling, fails):
    pulling.hub.repos[WHOLE].files["model.safetensors"] = HubFile(weights_of("lora"))
    await fails(ModelUnsupportedError)
    with pytest.raises(ModelUnsupportedError) as caught:
        await pull_model(f"{WHOLE}/model.safetensors", pulling.settings)
    check_words(caught.value)
    assert pulling.left() == []


async def test_a_page_given_as_a_model(pulling, fails):
    pulling.hub.repos[WHOLE].files["model.safetensors"] = HubFile(b"<!DOCTYPE html><html>" * 50, plain=True)
    await fails(ModelCorruptError)


async def test_a_file_in_the_place_of_another_part(pulling, fails):
    pulling.hub.repos[PARTS].files["vae.safetensors"] = HubFile(weights_of("llm"))
    await fails(ModelUnsupportedError, *pulling.parts(), kept=True)
    assert len([name for name in pulling.left() if name.endswith(".safetensors")]) == 3


async def test_a_truncated_gguf(pulling):
    from model_parts import KINDS

    header, size = gguf_header(typed("F16", KINDS["sd1"]))
    pulling.hub.repos["org/cut"] = Repo({"cut.gguf": HubFile(header + bytes(size - len(header) - 5))})
    with pytest.raises(ModelCorruptError) as caught:
        await pull_model("org/cut/cut.gguf", pulling.settings)
    check_words(caught.value)
    assert pulling.left() == []


async def test_what_came_whole_is_used_when_another_part_failed(pulling):
    knobs = pulling.knobs(PARTS, "vae.safetensors")
    knobs.stall_after = 0
    with pytest.raises(ModelDownloadError) as caught:
        await pulling.pull(*pulling.parts())
    check_words(caught.value)
    assert pulling.records() == []
    assert "llm.safetensors" in pulling.left()
    kept = sum(path.stat().st_size for path in pulling.cache.rglob("snapshots/**/*.safetensors"))
    assert f"{kept / 1e6:.0f} MB are kept for the next try." in caught.value.hint
    knobs.stall_after = None
    before = len([each for each in pulling.hub.transfers() if "llm" in each.path])
    model = await pulling.pull(*pulling.parts(), family=Family.Z_IMAGE)
    assert len([each for each in pulling.hub.transfers() if "llm" in each.path]) == before
    assert all(file.owned for file in model.files)


async def test_too_little_room_is_told_before_anything_is_fetched(pulling, fails, small_disk, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(small_disk(30_000_000)))
    error = await fails(InsufficientResourcesError)
    assert error.details["needed_bytes"] > error.details["free_bytes"] > 0
    assert "HF_HOME" in error.hint
    assert "needs 1 MB" in error.message
    assert "67 MB to spare; 30 MB is free" in error.message
    assert not pulling.hub.transfers()


async def test_a_disk_that_others_fill_meanwhile(pulling, small_disk, monkeypatch):
    folder = small_disk(80_000_000)
    monkeypatch.setenv("HF_HUB_CACHE", str(folder))

    def fill(progress):
        if progress.phase == "downloading" and not (folder / "filler").exists():
            subprocess.run(
                ["dd", "if=/dev/zero", f"of={folder}/filler", "bs=65536"], capture_output=True, check=False
            )

    with pytest.raises(InsufficientResourcesError) as caught:
        await pulling.pull(on_progress=fill)
    check_words(caught.value)
    assert not list(folder.rglob("*.incomplete"))
    (folder / "filler").unlink()
    await pulling.pull()


async def test_a_cache_that_may_not_be_written(pulling, fails, small_disk, monkeypatch):
    folder = small_disk(80_000_000)
    monkeypatch.setenv("HF_HUB_CACHE", str(folder))
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
    error = await fails(StorageError)
    assert "Read-only" in error.message


async def test_a_cache_that_is_a_file(pulling, fails, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "file"))
    await fails(StorageError)


async def test_a_state_folder_that_cannot_be(pulling, fails):
    pulling.settings.state_dir.parent.mkdir(exist_ok=True, parents=True)
    pulling.settings.state_dir.write_text("x")
    await fails(StorageError)


async def test_a_library_that_is_not_there(pulling, fails, monkeypatch, tmp_path):
    (tmp_path / "broken" / "huggingface_hub").mkdir(parents=True)
    (tmp_path / "broken" / "huggingface_hub" / "__init__.py").write_text("raise ImportError('no')")
    worker = tmp_path / "python3"
    worker.write_text(f'#!/bin/sh\nshift\nPYTHONPATH={tmp_path}/broken exec {sys.executable} "$@"\n')
    worker.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(worker))
    error = await fails(ModelDownloadError)
    assert error.details["cause"] == "ImportError"


@pytest.mark.parametrize("statuses", [[429], [503], [500, 429]])
async def test_a_store_that_is_busy_for_a_moment(pulling, statuses):
    pulling.knobs().get_status += statuses
    model = await pulling.pull()
    assert model.files[0].path.read_bytes() == pulling.knobs().data


async def test_a_hub_that_wants_a_token(pulling, fails):
    pulling.knobs().head_status += [401] * 20
    error = await fails(ModelGatedError)
    assert "wants a token" in error.message


async def test_a_setting_of_the_library_that_is_not_valid(pulling, fails, monkeypatch):
    monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "abc")
    error = await fails(ModelDownloadError)
    assert "HF_HUB_DOWNLOAD_TIMEOUT" in error.message
    assert "HF_HUB_DOWNLOAD_TIMEOUT" in error.hint


async def test_a_token_that_cannot_be_read(pulling, fails, tmp_path, monkeypatch):
    (tmp_path / "folder").mkdir()
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "folder"))
    error = await fails(StorageError)
    assert "token" in error.message
    await pulling.pull(token="hf_good")
