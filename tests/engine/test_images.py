"""Pictures on their way in and out."""

from __future__ import annotations

import asyncio
import io
import random
import struct
import threading
import warnings
import weakref
import zlib

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sdmanager.engine import check_input_images, images
from sdmanager.engine.images import check_result, encode_preview, fit_input, natural_size, open_input
from sdmanager.engine.png import SIGNATURE, is_whole_png, png_texts
from sdmanager.errors import BlankImageError, InputImageError, NoImageError, StorageError, TruncatedImageError
from sdmanager.generation import SIZE_MAX, SIZE_MIN, SIZE_MULTIPLE, ImageRequest, PreviewFormat

PARAMETERS = "a lighthouse, 灯台\nSteps: 4, Seed: 7"


def encoded(picture: Image.Image, image_format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, image_format, **options)
    return buffer.getvalue()


def noise(width: int = 64, height: int = 48, mode: str = "RGB") -> Image.Image:
    bands = [Image.effect_noise((width, height), 60) for _ in range(3)]
    return Image.merge("RGB", bands).convert(mode)


def engine_png(width: int = 64, height: int = 48, parameters: str = PARAMETERS) -> bytes:
    """With its settings as the engine writes them: UTF-8, though a chunk of this kind should hold Latin-1."""
    info = PngInfo()
    info.add(b"tEXt", b"parameters\0" + parameters.encode())
    return encoded(noise(width, height), pnginfo=info)


def decoded(data: bytes) -> Image.Image:
    picture = Image.open(io.BytesIO(data))
    picture.load()
    return picture


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def huge_png(width: int, height: int) -> bytes:
    """A few bytes that claim to be a picture of any size."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        SIGNATURE + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


# --- results


def test_a_good_result(tmp_path):
    path = tmp_path / "o_0.png"
    path.write_bytes(engine_png())
    image = check_result(path, 64, 48, 7)
    assert (image.png, image.seed, image.width, image.height) == (path.read_bytes(), 7, 64, 48)
    assert png_texts(image.png) == {"parameters": PARAMETERS}


def test_no_result(tmp_path):
    with pytest.raises(NoImageError, match="wrote no image"):
        check_result(tmp_path / "o_0.png", 64, 48, 7)


def test_a_result_that_cannot_be_read(tmp_path):
    with pytest.raises(StorageError) as caught:
        check_result(tmp_path, 64, 48, 7)
    assert tmp_path.name not in str(caught.value)


@pytest.mark.parametrize("share", [0, 0.001, 0.01, 0.5, 0.9, 0.999])
def test_a_result_that_is_cut_short(tmp_path, share):
    data = engine_png()
    path = tmp_path / "o_0.png"
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(TruncatedImageError, match="cut short"):
        check_result(path, 64, 48, 7)


@pytest.mark.parametrize(
    "data",
    [
        b"<html>",
        encoded(noise(), "JPEG"),
        SIGNATURE + chunk(b"IEND", b""),
        SIGNATURE + chunk(b"IHDR", b"") + chunk(b"IEND", b""),
        SIGNATURE + chunk(b"IHDR", struct.pack(">IIBBBBB", 64, 48, 8, 9, 0, 0, 0)) + chunk(b"IEND", b""),
        SIGNATURE + chunk(b"IHDR", struct.pack(">IIBBBBB", 64, 48, 8, 2, 0, 0, 0)) + chunk(b"IEND", b""),
        huge_png(64, 48),
    ],
    ids=["text", "jpeg", "no header", "empty header", "odd header", "no data", "too little data"],
)
def test_a_result_whose_checksums_hide_that_it_is_none(tmp_path, data):
    path = tmp_path / "o_0.png"
    path.write_bytes(data)
    with pytest.raises(TruncatedImageError):
        check_result(path, 64, 48, 7)


@pytest.mark.parametrize("size", [(63, 48), (64, 47), (32, 32), (64 + 64, 48), (64, 48 + 64), (640, 480)])
def test_a_result_of_another_size(tmp_path, size):
    path = tmp_path / "o_0.png"
    path.write_bytes(engine_png(*size))
    with pytest.raises(TruncatedImageError, match=f"{size[0]}x{size[1]} pixels instead of 64x48"):
        check_result(path, 64, 48, 7)


@pytest.mark.parametrize("surplus", [(1, 0), (0, 8), (16, 16), (63, 63)])
def test_a_result_that_the_engine_rounded_up_is_cropped_and_keeps_its_settings(tmp_path, surplus):
    path = tmp_path / "o_0.png"
    path.write_bytes(engine_png(64 + surplus[0], 48 + surplus[1]))
    image = check_result(path, 64, 48, 7)
    cropped = image.to_pil()
    assert cropped.size == (64, 48) == (image.width, image.height)
    assert cropped.text == png_texts(image.png) == {"parameters": PARAMETERS}
    left, top = surplus[0] // 2, surplus[1] // 2
    original = decoded(path.read_bytes()).crop((left, top, left + 64, top + 48))
    assert list(original.tobytes()) == list(cropped.tobytes())


TAGGED, ASKED = "<lora:1-ink:1>a lighthouse, 灯台", "a lighthouse <lora:ink:1>, 灯台"


@pytest.mark.parametrize("surplus", [0, 8])
@pytest.mark.parametrize("negative", ["", f"Negative prompt: {TAGGED}\n"])
def test_a_picture_tells_the_prompt_that_was_asked_for(tmp_path, surplus, negative):
    path, rest = tmp_path / "o_0.png", f"\n{negative}Steps: 4, Seed: 7, Version: {TAGGED}\n"
    path.write_bytes(engine_png(64 + surplus, 48, TAGGED + rest))
    image = check_result(path, 64, 48, 7, prompts=(TAGGED, ASKED))
    assert is_whole_png(image.png)
    assert png_texts(image.png) == {"parameters": ASKED + rest}
    assert image.to_pil().tobytes() == check_result(path, 64, 48, 7).to_pil().tobytes()


def test_nothing_but_that_text_changes(tmp_path):
    path = tmp_path / "o_0.png"
    written = engine_png(parameters=f"{TAGGED}\nSteps: 4")
    path.write_bytes(written)
    prompts = f"parameters\0{TAGGED}\nSteps: 4".encode(), f"parameters\0{ASKED}\nSteps: 4".encode()
    old, new = (chunk(b"tEXt", content) for content in prompts)
    assert written.count(old) == 1
    assert check_result(path, 64, 48, 7, prompts=(TAGGED, ASKED)).png == written.replace(old, new)


@pytest.mark.parametrize(
    "data",
    [
        encoded(noise()),
        engine_png(parameters=f"{TAGGED} and more\nSteps: 4"),
        engine_png(parameters=f"a{TAGGED}\nSteps: 4"),
        engine_png(parameters=""),
        chunk(b"tEXt", f"other\0{TAGGED}\n".encode()),
        chunk(b"teST", f"parameters\0{TAGGED}\n".encode()),
    ],
    ids=["no text", "longer", "before", "empty", "another text", "another chunk"],
)
def test_a_picture_that_tells_something_else_stays_as_it_is(tmp_path, data):
    if not data.startswith(SIGNATURE):
        whole = encoded(noise())
        data = whole[:33] + data + whole[33:]  # behind the header
    path = tmp_path / "o_0.png"
    path.write_bytes(data)
    assert check_result(path, 64, 48, 7, prompts=(TAGGED, ASKED)).png == data


@pytest.mark.parametrize("colour", [(0, 0, 0), (127, 127, 127), (255, 255, 255), (1, 2, 3)])
def test_a_blank_result(tmp_path, colour):
    path = tmp_path / "o_0.png"
    path.write_bytes(encoded(Image.new("RGB", (64, 48), colour)))
    with pytest.raises(BlankImageError):
        check_result(path, 64, 48, 7)


def test_one_pixel_makes_a_picture(tmp_path):
    picture = Image.new("RGB", (64, 48), (9, 9, 9))
    picture.putpixel((63, 47), (9, 9, 10))
    path = tmp_path / "o_0.png"
    path.write_bytes(encoded(picture))
    assert check_result(path, 64, 48, 7).width == 64


def test_colours_that_differ_while_each_is_uniform_in_its_band_are_no_blank(tmp_path):
    picture = Image.new("RGB", (64, 48), (1, 2, 3))
    picture.paste((3, 2, 1), (0, 0, 1, 1))
    path = tmp_path / "o_0.png"
    path.write_bytes(encoded(picture))
    check_result(path, 64, 48, 7)


# --- inputs


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize("as_path", [False, True])
def test_usual_formats(tmp_path, image_format, as_path):
    data = encoded(noise(), image_format)
    path = tmp_path / "no suffix"
    path.write_bytes(data)
    assert open_input(path if as_path else data, "init image").size == (64, 48)


def refused(source, **more) -> InputImageError:
    with pytest.raises(InputImageError, **more) as caught:
        open_input(source, "mask image")
    assert str(caught.value).startswith("The mask image ")
    assert caught.value.hint
    return caught.value


def test_a_missing_file(tmp_path):
    refused(tmp_path / "none.png", match="does not exist")


def test_a_folder(tmp_path):
    error = refused(tmp_path, match="cannot be read")
    assert tmp_path.name not in str(error)


def test_a_file_as_a_folder(tmp_path):
    (tmp_path / "file").write_text("x")
    refused(tmp_path / "file" / "x.png", match="cannot be read")


def test_a_name_that_no_file_can_have(tmp_path):
    refused(tmp_path / "a\0b.png")
    refused(tmp_path / ("x" * 300))


@pytest.mark.parametrize("data", [b"", b"just a text", b"\x89PNG", SIGNATURE, b"GIF89a", b"RIFF1234WEBP"])
def test_no_image_at_all(tmp_path, data):
    refused(data)
    (tmp_path / "x.png").write_bytes(data)
    refused(tmp_path / "x.png")


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_half_an_image(tmp_path, image_format):
    data = encoded(noise(), image_format)
    for share in (0.3, 0.6):
        half = data[: int(len(data) * share)]
        refused(half)
        (tmp_path / "x").write_bytes(half)
        refused(tmp_path / "x")  # an open file would be a warning, which is an error here


@pytest.mark.parametrize("size", [(100_000, 100_000), (9500, 9500), (14_000, 14_000), (2**31 - 1, 2**31 - 1)])
def test_a_decompression_bomb(tmp_path, size):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        refused(huge_png(*size), match="too many pixels")
        (tmp_path / "x.png").write_bytes(huge_png(*size))
        refused(tmp_path / "x.png", match="too many pixels")


def test_the_warnings_of_the_host_are_left_alone():
    """They were replaced while a picture was opened, which is not safe in the thread where that happens."""
    before = list(warnings.filters)
    data, seen = encoded(noise(200, 200)), []

    def open_many():
        for _ in range(20):
            open_input(data, "init image")
            seen.append(list(warnings.filters) == before)

    threads = [threading.Thread(target=open_many) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(seen)
    assert len(seen) == 80
    assert list(warnings.filters) == before


@pytest.mark.parametrize(
    ("orientation", "size"), [(1, (64, 48)), (3, (64, 48)), (6, (48, 64)), (8, (48, 64))]
)
def test_a_photo_is_turned_upright(orientation, size):
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = Image.new("RGB", (64, 48), (255, 0, 0))
    picture.paste((0, 0, 255), (0, 0, 32, 24))
    upright = open_input(encoded(picture, "JPEG", exif=exif, quality=95), "init image")
    assert upright.size == size
    blue_at = {1: (2, 2), 3: (61, 45), 6: (45, 2), 8: (2, 61)}[orientation]
    red, _, blue = upright.getpixel(blue_at)
    assert blue > 200 > 50 > red


def test_the_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (64, 48), colour) for colour in ("red", "lime", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    (tmp_path / "x.gif").write_bytes(data)
    picture = open_input(tmp_path / "x.gif", "init image")
    assert decoded(fit_input(picture, 64, 48, mask=False)).getpixel((0, 0)) == (255, 0, 0)


def test_a_palette_with_transparency():
    picture = noise().quantize(16)
    data = encoded(picture, transparency=3)
    assert decoded(fit_input(open_input(data, "init image"), 64, 48, mask=False)).mode == "RGB"
    assert decoded(fit_input(open_input(data, "mask image"), 64, 48, mask=True)).mode == "L"


def wide_ramp(mode: str) -> Image.Image:
    """From black to white in 16 bits."""
    samples = [column * 65535 // 63 for _ in range(48) for column in range(64)]
    picture = Image.new("I", (64, 48))
    picture.putdata(samples)
    return picture.convert(mode)


@pytest.mark.parametrize(("mode", "image_format"), [("I;16", "PNG"), ("I;16", "TIFF"), ("I", "TIFF")])
def test_sixteen_bits_are_scaled_to_eight(mode, image_format):
    """They were clipped: nearly all of the picture turned white."""
    data = encoded(wide_ramp(mode), image_format)
    for mask in (False, True):
        ramp = decoded(fit_input(open_input(data, "x"), 64, 48, mask=mask)).convert("L")
        values = [ramp.getpixel((column, 5)) for column in range(64)]
        assert values == pytest.approx([column * 255 / 63 for column in range(64)], abs=1.5)


@pytest.mark.parametrize(
    ("mode", "image_format"),
    [
        ("CMYK", "JPEG"),
        ("L", "PNG"),
        ("LA", "PNG"),
        ("1", "PNG"),
        ("RGBA", "PNG"),
        ("RGBA", "WEBP"),
        ("F", "TIFF"),
        ("I", "TIFF"),
        ("LAB", "TIFF"),
        ("YCbCr", "JPEG"),
    ],
)
def test_every_mode_can_be_fitted(mode, image_format):
    picture = Image.new("LAB", (64, 48), (99, 1, 2)) if mode == "LAB" else noise(mode=mode)
    opened = open_input(encoded(picture, image_format), "x")
    for mask, wanted in ((False, "RGB"), (True, "L")):
        fitted = decoded(fit_input(opened, 32, 32, mask=mask))
        assert (fitted.mode, fitted.size) == (wanted, (32, 32))


def test_a_mask_keeps_its_black_and_white():
    mask = Image.new("L", (64, 64), 0)
    mask.paste(255, (32, 0, 64, 64))
    fitted = decoded(fit_input(mask, 64, 64, mask=True))
    assert fitted.tobytes() == mask.tobytes()


@pytest.mark.parametrize("source", [(64, 48), (10, 1000), (1000, 10), (1, 1), (63, 65)])
@pytest.mark.parametrize("size", [(64, 64), (64, 128), (200, 72)])
@pytest.mark.parametrize("mask", [False, True])
def test_an_input_is_fitted_exactly(source, size, mask):
    assert decoded(fit_input(noise(*source), *size, mask=mask)).size == size


def test_an_input_is_cropped_from_its_centre():
    picture = Image.new("RGB", (300, 100), "red")
    picture.paste("blue", (100, 0, 200, 100))
    fitted = decoded(fit_input(picture, 64, 64, mask=False))
    assert fitted.getpixel((32, 32)) == fitted.getpixel((4, 60)) == fitted.getpixel((60, 4)) == (0, 0, 255)


@pytest.mark.parametrize(
    "source", [(1, 1), (64, 64), (100, 100), (4000, 3000), (20_000, 3), (3, 20_000), (777, 333)]
)
@pytest.mark.parametrize("default", [(64, 64), (512, 512), (1024, 768)])
def test_the_natural_size_of_a_picture_can_be_asked_for(source, default):
    width, height = natural_size(Image.new("1", source), *default)
    for side in (width, height):
        assert SIZE_MIN <= side <= SIZE_MAX
        assert side % SIZE_MULTIPLE == 0
    if min(source) >= 64 and max(source) / min(source) < 3:
        assert width * height <= max(default[0] * default[1], SIZE_MIN**2 * 2)


def test_a_picture_is_turned_in_its_place(monkeypatch):
    exif = Image.Exif()
    exif[0x112] = 6
    turned, upright = encoded(noise(64, 48), "JPEG", exif=exif), encoded(noise(64, 48, "RGBA"))

    def refuse(self, *args):
        raise AssertionError("a copy of the picture")

    monkeypatch.setattr(Image.Image, "copy", refuse)
    assert open_input(turned, "x").size == (48, 64)
    assert open_input(upright, "x").size == (64, 48)


# Orientation 6 where a damaged entry does not come before it.
DAMAGED_EXIF = {
    "cut in its header": b"Exif\0\0MM\0\x2a\0",
    "no byte order": b"Exif\0\0XX\0\x2a\0\0\0\x08",
    "entries that are not there": b"Exif\0\0MM\0\x2a\0\0\0\x08\xff\xff",
    "an offset beyond the end": b"Exif\0\0II\x2a\0\xff\xff\xff\x7f",
    "an orientation that is text": b"Exif\0\0MM\0\x2a\0\0\0\x08\0\x01"
    + struct.pack(">HHI4s", 0x112, 2, 4, b"abc\0")
    + bytes(4),
    "rationals that no number holds": b"Exif\0\0MM\0\x2a\0\0\0\x08\0\x02"
    + struct.pack(">HHIHH", 0x112, 3, 1, 6, 0)
    + struct.pack(">HHII", 0x11A, 5, 1, 0xFFFFFFF0)
    + bytes(4),
}


@pytest.mark.parametrize("kind", DAMAGED_EXIF)
def test_damaged_exif_data_do_not_spoil_a_picture(kind):
    picture = noise(64, 48)
    plain, data = encoded(picture, "JPEG"), encoded(picture, "JPEG", exif=DAMAGED_EXIF[kind])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        opened = open_input(data, "init image")
        assert len(fit_input(opened, 64, 64, mask=False)) > 100
    turned = decoded(plain).transpose(Image.Transpose.ROTATE_270)
    assert opened.tobytes() in (decoded(plain).tobytes(), turned.tobytes())


@pytest.mark.parametrize("error", [struct.error("short"), KeyError(1), ZeroDivisionError(), UserWarning("x")])
def test_whatever_reading_exif_data_raises_is_no_reason_to_refuse(monkeypatch, error):
    def fail(self):
        raise error

    monkeypatch.setattr(Image.Image, "getexif", fail)
    assert open_input(encoded(noise(64, 48), "JPEG"), "x").size == (64, 48)


def damage(rng: random.Random, data: bytes) -> bytes:
    broken = bytearray(data)
    for _ in range(rng.choice([1, 2, 5, 20])):
        broken[rng.randrange(min(len(broken), rng.choice([60, 400, 10**6])))] = rng.randrange(256)
    return bytes(broken[: rng.randrange(len(broken))] if rng.random() < 0.3 else broken)


def open_damaged(count: int) -> None:
    rng = random.Random(20260)
    formats = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "TGA", "PPM", "ICO", "DDS", "PCX", "SGI")
    originals = [encoded(noise(40, 30), image_format) for image_format in formats]
    opened = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(count):
            try:
                fit_input(
                    open_input(damage(rng, rng.choice(originals)), "x"), 64, 64, mask=rng.random() < 0.5
                )
                opened += 1
            except InputImageError:
                continue
    assert 0 < opened < count


def test_damaged_inputs_are_refused_or_read():
    open_damaged(800)


@pytest.mark.slow
def test_damaged_inputs_are_refused_or_read_thoroughly():
    open_damaged(40_000)


# --- previews


@pytest.mark.parametrize("image_format", list(PreviewFormat))
@pytest.mark.parametrize(
    ("max_size", "size"), [(None, (64, 48)), (1000, (64, 48)), (64, (64, 48)), (32, (32, 24)), (16, (16, 12))]
)
def test_previews(image_format, max_size, size):
    preview = encode_preview(encoded(noise()), image_format, max_size)
    assert (preview.width, preview.height) == size
    assert preview.format == image_format.value
    picture = decoded(preview.data)
    assert (picture.size, picture.format) == (size, image_format.value.upper())


def test_a_preview_that_needs_no_change_is_not_encoded_again():
    data = encoded(noise())
    assert encode_preview(data, PreviewFormat.PNG, None).data is data


def test_a_preview_keeps_its_shape_however_narrow():
    assert encode_preview(encoded(noise(512, 8)), PreviewFormat.JPEG, 16).height == 1


def test_a_preview_that_cannot_be_decoded():
    for data in (b"", b"text", encoded(noise())[:-40]):
        with pytest.raises((OSError, SyntaxError, ValueError)):
            encode_preview(data, PreviewFormat.JPEG, None)


# --- before a request is accepted


async def test_one_picture_is_decoded_after_the_other_and_none_is_kept(monkeypatch):
    pictures, opened = [], Image.open

    def watched(*args, **kwargs):
        assert not [picture for picture in pictures if picture() is not None]
        picture = opened(*args, **kwargs)
        pictures.append(weakref.ref(picture))
        return picture

    monkeypatch.setattr(Image, "open", watched)
    data = encoded(noise())
    await check_input_images(ImageRequest(prompt="x", init_image=data, mask_image=data))
    assert [picture() for picture in pictures] == [None, None]


async def test_a_check_that_is_cancelled_opens_no_other_picture(monkeypatch):
    begun, go_on, opened = threading.Event(), threading.Event(), []

    def held(source, what):
        opened.append(what)
        begun.set()
        go_on.wait(60)

    monkeypatch.setattr(images, "open_input", held)
    picture = encoded(noise())
    checking = asyncio.create_task(
        check_input_images(ImageRequest(prompt="x", init_image=picture, mask_image=picture))
    )
    await asyncio.to_thread(begun.wait, 60)
    checking.cancel()
    await asyncio.sleep(0)
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await checking
    assert opened == ["init image"]


async def test_good_input_images_pass(tmp_path):
    path = tmp_path / "start.png"
    noise().save(path)
    await check_input_images(ImageRequest(prompt="x"))
    await check_input_images(ImageRequest(prompt="x", init_image=path))
    await check_input_images(ImageRequest(prompt="x", init_image=path, mask_image=encoded(noise(mode="L"))))


def with_an_empty_profile(data: bytes) -> bytes:
    """A PNG whose checksums are right, with a last chunk that makes Pillow raise ``IndexError``."""
    return data[:-12] + chunk(b"iCCP", b"") + data[-12:]


BAD_INPUTS = {
    "none": (b"", "no image that can be read"),
    "text": (b"no picture", "no image that can be read"),
    "cut": (encoded(noise(300, 300))[:5000], "cannot be read"),
    "empty profile": (with_an_empty_profile(encoded(noise())), "cannot be read: it is damaged"),
    "huge": (huge_png(60_000, 60_000), "too many pixels"),
    "eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no image that can be read"),
}


@pytest.mark.parametrize("kind", BAD_INPUTS)
@pytest.mark.parametrize("field", ["init_image", "mask_image"])
async def test_bad_input_images_are_told_apart(kind, field):
    data, words = BAD_INPUTS[kind]
    fields = {"init_image": encoded(noise()), field: data}
    with pytest.raises(InputImageError, match=words) as caught:
        await check_input_images(ImageRequest(prompt="x", **fields))
    assert field.replace("_", " ") in str(caught.value)


@pytest.mark.parametrize("error", [MemoryError, asyncio.CancelledError, KeyboardInterrupt])
def test_what_says_nothing_of_the_picture_is_no_fault_of_it(monkeypatch, error):
    def fail(picture):
        raise error

    monkeypatch.setattr(images, "turn_upright", fail)
    with pytest.raises(error):
        open_input(encoded(noise()), "x")


async def test_a_missing_input_image(tmp_path):
    with pytest.raises(InputImageError, match="does not exist") as caught:
        await check_input_images(ImageRequest(prompt="x", init_image=tmp_path / "none.png"))
    assert str(tmp_path) not in str(caught.value)
