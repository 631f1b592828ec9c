"""What goes into a gallery, and how it comes out again."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from gallery import cancelled, kept, pictures, previewed, rows, whole
from scripted_generator import png, result_of

from sdmanager.errors import ImageFormingError, ImageNotFoundError, InvalidRequestError, StorageError
from sdmanager.generation import Failed, ImageRequest, Lora
from sdmanager.history import History
from sdmanager.history._database import deadline
from sdmanager.history._gallery import Gallery

WAIT = 30.0  # only where hanging is the failure


async def until(history: History, image_id: str, is_so) -> object:
    """The image, once it is as wanted."""
    async with asyncio.timeout(WAIT):
        while True:
            try:
                image = await history.get(image_id)
            except ImageNotFoundError:
                image = None
            if is_so(image):
                return image
            await asyncio.sleep(0.005)


async def test_an_image_has_all_that_is_known_of_it(history: History) -> None:
    asked = ImageRequest(
        prompt="a <lora:x:1> cat", negative_prompt="rain", seed=5, loras=(Lora(name="x"),), count=2
    )
    drawn = asked.with_defaults(steps=4, cfg_scale=1.0)
    history.begin("gen_1", asked)
    await history.keep("gen_1", dataclasses.replace(result_of(2, 5), request=drawn))
    first, second = await history.get("gen_1-0"), await history.get("gen_1-1")
    assert (first.seed, second.seed, second.index, second.generation_id) == (5, 6, 1, "gen_1")
    assert (first.model, first.variant, first.time_taken) == ("demo", "cpu", 1.5)
    assert first.timings == {"loading": 0.1, "diffusion": 1.0, "decoding": 0.4, "offloading": 0.0}
    assert first.path.read_bytes() == png(5)
    assert second.path.read_bytes() == png(6)
    assert first.request["prompt"] == "a <lora:x:1> cat"
    assert (
        first.request | {"steps": 4, "cfgScale": 1.0, "negativePrompt": "rain", "count": 2} == first.request
    )
    assert first.request["loras"] == [{"name": "x", "weight": 1.0}]
    assert ImageRequest(**first.request) == drawn
    assert first.completed_at >= first.created_at > 1_600_000_000_000


async def test_pictures_to_start_from_and_previews_are_not_kept(history: History) -> None:
    request = ImageRequest(prompt="a cat", init_image=png(1), mask_image=png(2), previews={})
    history.begin("gen_1", request)
    await history.keep("gen_1", result_of())
    assert not {"initImage", "maskImage", "previews"} & (await history.get("gen_1-0")).request.keys()


async def test_files_have_names_that_say_when_and_with_which_seed(tmp_path: Path, opened) -> None:
    history = await opened(tmp_path / "gallery", wall=lambda: 1_793_000_000.0)
    (image,) = await kept(history, "gen_1", seed=42)
    assert image.path.parent.parent == history.folder / "images"
    month = image.path.parent.name
    assert image.path.name.startswith(f"{month}-")
    assert image.path.name.endswith("_42_gen_1-0.png")


async def test_the_server_s_own_file_may_go_afterwards(history: History, tmp_path: Path) -> None:
    source = tmp_path / "0.png"
    source.write_bytes(png(1))
    result = result_of()
    on_disk = dataclasses.replace(result, images=(dataclasses.replace(result.images[0], source=source),))
    (image,) = await kept(history, "gen_1", result=on_disk)
    assert os.path.samefile(image.path, source)
    source.unlink()
    assert image.path.read_bytes() == png(1)


async def test_a_frame_is_there_from_the_beginning_and_shows_the_newest_preview(history: History) -> None:
    history.begin("gen_1", ImageRequest(prompt="a cat", count=2, seed=3, model_id="demo"))
    frame = await until(history, "gen_1-1", bool)
    assert (frame.path, frame.completed_at, frame.seed, frame.model) == (None, None, 4, "demo")
    assert (await history.list(search="cat")).total == 2
    history.take(previewed("gen_1", 1, image=2, data=png(1)))
    first = await until(history, "gen_1-1", lambda image: image.path)
    assert first.path.read_bytes() == png(1)
    history.take(previewed("gen_1", 2, image=2, data=png(2)))
    second = await until(history, "gen_1-1", lambda image: image.version > first.version)
    assert second.path.read_bytes() == png(2)
    assert first.path == second.path
    await history.keep("gen_1", result_of(2, 3))
    whole = await history.get("gen_1-1")
    assert whole.version > second.version
    assert whole.path != second.path
    assert not second.path.exists()


async def test_previews_that_come_faster_than_they_are_written_do_not_queue(
    history: History, tmp_path: Path
) -> None:
    history.begin("gen_1", ImageRequest(prompt="a cat"))
    await until(history, "gen_1-0", bool)
    for step in range(1, 201):  # none can be written meanwhile: the loop does not run
        history.take(previewed("gen_1", step, data=png(step)))
    shown = await until(history, "gen_1-0", lambda image: image.path)
    assert shown.path.read_bytes() == png(200)
    assert shown.version == 1


@pytest.mark.parametrize("end", ["cancelled", "failed", "closed"])
async def test_what_is_not_drawn_to_its_end_leaves_nothing(tmp_path: Path, opened, end: str) -> None:
    history = await opened(tmp_path / "gallery")
    history.begin("gen_1", ImageRequest(prompt="a cat", count=3))
    history.take(previewed("gen_1", 1))
    frame = await until(history, "gen_1-0", lambda image: image and image.path)
    if end == "cancelled":
        await cancelled(history, "gen_1")
    elif end == "failed":
        history.take(Failed(generation_id="gen_1", sequence=1, elapsed=0.0, error=StorageError("x")))
    if end != "closed":
        await until(history, "gen_1-0", lambda image: image is None)
        assert not frame.path.exists()
    await history.aclose()
    assert rows(history.folder) == rows(history.folder, "rowid FROM words") == []
    assert pictures(history.folder) == set()


async def test_events_of_generations_that_have_not_begun_are_nothing(history: History) -> None:
    history.take(previewed("gen_9", 1))
    await cancelled(history, "gen_9")
    assert (await history.list()).total == 0


async def test_a_generation_that_gave_fewer_images_leaves_no_frames(history: History) -> None:
    history.begin("gen_1", ImageRequest(prompt="a cat", count=3))
    await history.keep("gen_1", result_of(1))
    assert [image.id for image in (await history.list()).images] == ["gen_1-0"]


async def test_an_image_is_kept_whose_frame_could_not_be_made(history: History) -> None:
    history.begin("gen_1", ImageRequest(prompt="a cat"))
    await until(history, "gen_1-0", bool)
    connection = sqlite3.connect(history.folder / "gallery.sqlite3")
    connection.execute("DELETE FROM images")
    connection.execute("DELETE FROM words")
    connection.commit()
    connection.close()
    await history.keep("gen_1", result_of())
    assert (await history.list(search="cat")).images[0].path.read_bytes() == png(1)


async def test_the_newest_is_first_whatever_the_clock_says(tmp_path: Path, opened) -> None:
    times = iter([5000.0, 6000.0, 4000.0, 3000.0, 1000.0, 500.0])
    history = await opened(tmp_path / "gallery", wall=lambda: next(times))
    for number in range(3):
        await kept(history, f"gen_{number}")
    images = (await history.list()).images
    assert [image.generation_id for image in images] == ["gen_2", "gen_1", "gen_0"]
    assert all(image.completed_at >= image.created_at for image in images)


async def test_deleting_removes_the_image_and_its_file(history: History) -> None:
    (image,) = await kept(history, "gen_1")
    (other,) = await kept(history, "gen_2")
    await history.delete(image.id)
    assert pictures(history.folder) == {other.path}
    assert [found.id for found in (await history.list(search="lighthouse")).images] == [other.id]
    assert rows(history.folder, "path FROM doomed") == []
    with pytest.raises(ImageNotFoundError):
        await history.get(image.id)
    with pytest.raises(ImageNotFoundError):
        await history.delete(image.id)


async def test_deleting_works_also_where_the_file_is_gone(history: History) -> None:
    (image,) = await kept(history, "gen_1")
    image.path.unlink()
    await history.delete(image.id)
    assert rows(history.folder) == []


async def test_what_still_forms_cannot_be_deleted(history: History) -> None:
    history.begin("gen_1", ImageRequest(prompt="a cat"))
    await until(history, "gen_1-0", bool)
    with pytest.raises(ImageFormingError):
        await history.delete("gen_1-0")
    assert await history.clear() == 0
    await history.keep("gen_1", result_of())
    assert whole((await history.get("gen_1-0")).path.read_bytes())


async def test_clearing_deletes_all_that_is_whole(history: History, monkeypatch) -> None:
    monkeypatch.setattr("sdmanager.history._gallery._BATCH", 2)
    for number in range(5):
        await kept(history, f"gen_{number}")
    assert await history.clear() == 5
    assert await history.clear() == 0
    assert pictures(history.folder) == set()
    assert (await history.list()).total == 0


async def test_clearing_spares_what_was_still_forming_when_asked(history: History, monkeypatch) -> None:
    await kept(history, "gen_1")
    history.begin("gen_2", ImageRequest(prompt="a cat", count=2))
    await until(history, "gen_2-1", bool)
    begun = history._frames["gen_2"].begun
    delete_some = Gallery.delete_some

    def late(self, *args):
        if rows(history.folder, "id FROM images WHERE completed_at IS NULL"):
            self.keep(begun, result_of(2), 1.8e9, deadline())
        return delete_some(self, *args)

    monkeypatch.setattr(Gallery, "delete_some", late)
    assert await history.clear() == 1
    assert {image.id for image in (await history.list()).images} == {"gen_2-0", "gen_2-1"}
    assert len(pictures(history.folder)) == 2
    assert await history.clear() == 2


@pytest.mark.parametrize("what", ["file", "month", "pipe"])
async def test_a_link_in_the_folder_is_no_picture_and_is_not_forgotten(
    history: History, tmp_path: Path, what: str
) -> None:
    (image,) = await kept(history, "gen_1")
    if what == "month":
        moved = image.path.parent.rename(tmp_path / "elsewhere")
        image.path.parent.symlink_to(moved, target_is_directory=True)
    else:
        image.path.unlink()
        image.path.symlink_to(tmp_path / "gallery" / "gallery.sqlite3") if what == "file" else os.mkfifo(
            image.path
        )
    with pytest.raises(ImageNotFoundError):
        await history.picture(image.id)
    assert (await history.list()).total == 1


async def test_a_gallery_behind_a_link_is_one(tmp_path: Path, opened) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "real", target_is_directory=True)
    (tmp_path / "real").mkdir()
    history = await opened(tmp_path / "link")
    (image,) = await kept(history, "gen_1")
    assert whole((await history.picture(image.id))[1].read_bytes())


async def test_what_is_kept_is_on_the_disk_before_it_is_told(
    history: History, tmp_path: Path, monkeypatch
) -> None:
    """A power cut finds the picture, its name, and then the index that says so; nothing waits to be written."""
    done: list[str] = []
    fsync = os.fsync

    def heard(descriptor: int) -> None:
        name = Path(os.readlink(f"/proc/self/fd/{descriptor}")).name
        done.append(name if name in {"images", "0.png"} or re.fullmatch(r"\d{4}-\d\d", name) else "picture")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", heard)
    history._opened.gallery._db.set_trace_callback(done.append)
    source = tmp_path / "0.png"
    source.write_bytes(png(1))
    result = result_of()
    on_disk = dataclasses.replace(result, images=(dataclasses.replace(result.images[0], source=source),))
    history.begin("gen_1", ImageRequest(prompt="a cat"))
    await until(history, "gen_1-0", bool)
    del done[:]
    await history.keep("gen_1", on_disk)
    words = {"BEGIN IMMEDIATE": "begin", "COMMIT": "commit", "PRAGMA synchronous = FULL": "full"}
    told = [re.sub(r"\d{4}-\d\d", "month", words.get(line, line)) for line in done]
    known = {"begin", "commit", "full", "images", "month", "picture", "PRAGMA synchronous = NORMAL"}
    assert [line for line in told if line in known] == [
        "full", "begin", "commit", "images", "picture", "month", "full", "begin", "commit",
    ]  # fmt: skip


async def test_a_picture_that_somebody_deleted_is_forgotten(history: History) -> None:
    (image,) = await kept(history, "gen_1")
    await kept(history, "gen_2")
    assert (await history.picture(image.id))[1] == image.path
    image.path.unlink()
    with pytest.raises(ImageNotFoundError):
        await history.picture(image.id)
    assert [found.id for found in (await history.list()).images] == ["gen_2-0"]


async def test_pictures_whose_folder_is_away_are_not_forgotten(history: History) -> None:
    (image,) = await kept(history, "gen_1")
    image.path.parent.rename(history.folder / "elsewhere")
    with pytest.raises(ImageNotFoundError):
        await history.picture(image.id)
    (history.folder / "elsewhere").rename(image.path.parent)
    assert (await history.picture(image.id))[0] == image


async def test_names_that_are_no_text_do_no_harm(history: History) -> None:
    result = dataclasses.replace(result_of(), model="m\udc80x", request=ImageRequest(prompt="a \udc80 cat"))
    (image,) = await kept(history, "gen_1", result=result, prompt="a \udc80 cat")
    assert image.request["prompt"] == "a \udc80 cat"
    assert (await history.list(search="cat", model="m\udc80x")).total == 1
    assert (await history.list(model="m\udc80x")).total == 1
    with pytest.raises(ImageNotFoundError):
        await history.get("gen\udc80")
    with pytest.raises(ImageNotFoundError):
        await history.delete("gen\udc80")


@pytest.mark.parametrize("name", ["../../evil", "a/b", "A", ".x"])
async def test_no_id_leads_out_of_the_folder(tmp_path: Path, history: History, name: str) -> None:
    history.begin(name, ImageRequest(prompt="a cat"))
    with pytest.raises(ValueError, match="not the name"):
        await history.keep(name, result_of())
    assert (await history.list()).total == 0
    assert pictures(tmp_path) == set()


async def test_no_path_in_the_database_leads_out_of_the_folder(tmp_path: Path, opened) -> None:
    first = await opened(tmp_path / "gallery")
    (image,) = await kept(first, "gen_1")
    await first.aclose()
    secret = tmp_path / "secret.png"
    secret.write_bytes(b"mine")
    connection = sqlite3.connect(tmp_path / "gallery" / "gallery.sqlite3")
    connection.execute("UPDATE images SET path = '../secret.png'")
    connection.execute("INSERT INTO doomed VALUES ('../secret.png', 'dead')")
    connection.execute("INSERT INTO doomed VALUES (?, 'dead')", (str(secret),))
    connection.commit()
    connection.close()
    again = await opened(tmp_path / "gallery")
    with pytest.raises(ImageNotFoundError):
        await again.picture(image.id)
    await again.delete(image.id)
    assert secret.read_bytes() == b"mine"


async def test_limits_are_checked(history: History) -> None:
    for limit in (0, 501, -1):
        with pytest.raises(InvalidRequestError):
            await history.list(limit=limit)


async def test_a_gallery_that_is_closed_says_so(tmp_path: Path) -> None:
    history = History(tmp_path / "gallery")
    for _ in range(2):
        with pytest.raises(StorageError):
            await history.list()
        with pytest.raises(StorageError):
            history.begin("gen_1", ImageRequest(prompt="a cat"))
        await history.open()
        await history.open()
        await history.aclose()
        await history.aclose()


READER = """
import json, sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
for line in sys.stdin:
    print(json.dumps(connection.execute("SELECT id, path FROM images ORDER BY number").fetchall()), flush=True)
"""


async def test_another_process_may_read_meanwhile(history: History) -> None:
    argv = [sys.executable, "-c", READER, str(history.folder / "gallery.sqlite3")]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as reader:
        for number in range(5):
            await kept(history, f"gen_{number}")
            reader.stdin.write("\n")
            reader.stdin.flush()
            seen = json.loads(await asyncio.to_thread(reader.stdout.readline))
            assert [name for name, _ in seen] == [f"gen_{known}-0" for known in range(number + 1)]
            assert all((history.folder / path).is_file() for _, path in seen)
        reader.stdin.close()
    assert rows(history.folder, "* FROM pragma_journal_mode") == [("wal",)]
