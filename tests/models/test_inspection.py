"""What a file is, by its header: the answers and the errors that callers see."""

from __future__ import annotations

import io
import os
import pickle
import struct
import subprocess
import tracemalloc
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from loras import write_lora
from safetensors.numpy import save_file
from weights import flux_dev, gguf_head, gguf_header, qwen3, safetensors_header, typed, vocabulary, write

from sdmanager.errors import (
    ModelCorruptError,
    ModelError,
    ModelNotFoundError,
    ModelUnsafeError,
    ModelUnsupportedError,
)
from sdmanager.models import Family, Role, demo_model
from sdmanager.models.inspection import FileFormat, FileKind, inspect_file

MIB = 2**20


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    from sdmanager.settings import Settings

    folder = tmp_path_factory.mktemp("demo")
    return demo_model(Settings(folder, folder, folder)).files


@pytest.mark.parametrize(
    ("role", "family", "tensors"),
    [(Role.DIFFUSION_MODEL, Family.OVIS_IMAGE, 49), (Role.LLM, None, 13), (Role.TAE, None, 134)],
)
def test_the_demo_model(demo, role, family, tensors):
    facts = inspect_file(demo[role])
    assert (facts.role, facts.family, facts.tensors) == (role, family, tensors)
    assert (facts.format, facts.parts, facts.quantisation) == (FileFormat.SAFETENSORS, {role}, "F16")
    assert facts.size == demo[role].stat().st_size


def test_a_file_of_the_real_library(tmp_path):
    path = tmp_path / "clip_l.safetensors"
    words = np.zeros((100, 768), np.float16)
    save_file(
        {"text_model.embeddings.token_embedding.weight": words, "logit_scale": np.zeros(1, np.float32)}, path
    )
    facts = inspect_file(path)
    assert (facts.role, facts.kind, facts.parameters) == (Role.CLIP_L, FileKind.CLIP_L, 76_801)


def test_a_file_of_24_gb_is_not_read(tmp_path):
    """FLUX.1 dev as it is: 780 tensors, 12 billion parameters."""
    made = {
        FileFormat.GGUF: gguf_header(typed("BF16", flux_dev()), {"general.architecture": "flux"}),
        FileFormat.SAFETENSORS: safetensors_header(typed("BF16", flux_dev(prefix="model.diffusion_model."))),
    }
    for format_, header in made.items():
        path = write(tmp_path / f"flux1-dev.{format_}", header)
        tracemalloc.start()
        facts = inspect_file(path)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert (facts.format, facts.role, facts.family) == (format_, Role.DIFFUSION_MODEL, Family.FLUX)
        assert (facts.quantisation, facts.tensors, facts.parameters) == ("BF16", 780, 11_901_408_320)
        assert facts.takes_guidance
        assert facts.size > 23.8e9
        assert peak < 4 * MIB


def test_a_language_model_with_its_vocabulary(tmp_path):
    path = write(tmp_path / "qwen3.gguf", gguf_header(typed("Q8_0", qwen3()), vocabulary()))
    tracemalloc.start()
    facts = inspect_file(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (facts.role, facts.quantisation, facts.tensors) == (Role.LLM, "Q8_0", 398)
    assert peak < 4 * MIB


def test_the_quantisation_is_that_of_most_bytes(tmp_path):
    """Not of most tensors: norms and biases stay as they are."""
    shapes = {"double_blocks.0.img_attn.qkv.weight": ("Q4_K", (1024, 1024))}
    shapes |= {f"double_blocks.{n}.img_attn.norm.key_norm.scale": ("F32", (128,)) for n in range(100)}
    facts = inspect_file(write(tmp_path / "x.gguf", gguf_header(shapes)))
    assert facts.quantisation == "Q4_K"


@pytest.mark.parametrize("role", [Role.DIFFUSION_MODEL, Role.LLM, Role.TAE])
def test_what_the_real_engine_converts(tmp_path, demo, engine, role):
    """Its GGUF is of the same model."""
    path = tmp_path / "x.gguf"
    argv = [engine.path, "-M", "convert", "-m", demo[role], "-o", path, "--type", "q8_0"]
    subprocess.run(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True, timeout=120)
    facts, before = inspect_file(path), inspect_file(demo[role])
    assert (facts.format, facts.role, facts.family) == (FileFormat.GGUF, role, before.family)
    assert (facts.tensors, facts.parameters) == (before.tensors, before.parameters)
    # It does not quantise the convolutions that are all of a tiny autoencoder.
    assert facts.quantisation == ("F16" if role is Role.TAE else "Q8_0")
    with path.open("r+b") as file:
        file.truncate(facts.size - 64)
    with pytest.raises(ModelCorruptError, match="cut short"):
        inspect_file(path)


def test_a_lora_is_no_model(tmp_path):
    facts = inspect_file(write_lora(tmp_path / "style.safetensors"))
    assert (facts.role, facts.kind, facts.family) == (None, FileKind.LORA, Family.FLUX)


def test_a_file_cut_short_says_how_much_is_missing(tmp_path, demo):
    whole = demo[Role.TAE].read_bytes()
    path = tmp_path / "tae.safetensors"
    path.write_bytes(whole[:-1])
    with pytest.raises(ModelCorruptError) as caught:
        inspect_file(path)
    assert str(caught.value).startswith("The file 'tae.safetensors' is cut short: its tensors have ")
    assert "Download" in caught.value.hint
    assert caught.value.details == {"path": str(path)}


def test_a_small_file_cut_short_anywhere(tmp_path):
    path = tmp_path / "x"
    for header in (
        gguf_header({"a": ("F16", (16, 16))}, {"general.architecture": "x"}),
        safetensors_header({"a": ("F16", (16, 16))}, {"format": "pt"}),
    ):
        whole = header[0].ljust(header[1], b"\0")
        for end in range(len(whole)):
            path.write_bytes(whole[:end])
            with pytest.raises(ModelCorruptError):
                inspect_file(path)
        path.write_bytes(whole)
        assert inspect_file(path).tensors == 1


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is empty"),
        (b"GG", "is cut short"),
        (b"\x10\0\0\0\0\0\0\0", "is cut short"),
        (b"<!DOCTYPE html><title>Sign in</title>", "is a web page"),
        (b"\n <html><body>404", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "pointer of Git LFS"),
        (b"GGML" + bytes(100), "neither safetensors nor GGUF"),
        (b"\x80\x00" + bytes(100), "neither safetensors nor GGUF"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "neither safetensors nor GGUF"),
        (b"PK\x03\x04" + bytes(100), "neither safetensors nor GGUF"),
    ],
)
def test_what_is_no_model_is_named(tmp_path, data, words):
    path = tmp_path / "x.safetensors"
    path.write_bytes(data)
    with pytest.raises(ModelCorruptError, match=words):
        inspect_file(path)


def zipped_pickle() -> bytes:
    """As torch.save writes it: the pickle first."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"a": 1}, protocol=2))
        archive.writestr("archive/data/0", bytes(5000))
    return data.getvalue()


@pytest.mark.parametrize("protocol", [2, 3, 4, 5, "zip"])
def test_a_pickle_is_refused_unless_allowed(tmp_path, protocol):
    path = tmp_path / "model.ckpt"
    path.write_bytes(zipped_pickle() if protocol == "zip" else pickle.dumps({"a": 1}, protocol=protocol))
    with pytest.raises(ModelUnsafeError, match="can run any program") as caught:
        inspect_file(path)
    assert "--allow-pickle" in caught.value.hint
    facts = inspect_file(path, allow_pickle=True)
    assert (facts.format, facts.role, facts.kind) == (FileFormat.CHECKPOINT, Role.MODEL, FileKind.UNKNOWN)
    assert (facts.family, facts.quantisation, facts.parts) == (None, None, frozenset())


def test_a_pickle_is_never_opened(tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    path = tmp_path / "model.ckpt"
    path.write_bytes(pickle.dumps(Trap()))
    inspect_file(path, allow_pickle=True)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (gguf_head(0, 0, 1), "version 1"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
        (gguf_header({"a": ("F32", (8,))}, {"split.count": 4})[0] + bytes(32), "one of 4 pieces"),
    ],
)
def test_what_no_engine_reads(tmp_path, header, words):
    path = tmp_path / "x.gguf"
    path.write_bytes(header)
    with pytest.raises(ModelUnsupportedError, match=words):
        inspect_file(path)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("none.gguf", "does not exist"),
        ("a\0b.gguf", "does not exist"),
        ("x" * 300, "cannot be read"),
        ("file/x.gguf", "cannot be read"),
        ("folder", "is a folder"),
        ("broken-link.gguf", "does not exist"),
        ("pipe.gguf", "no regular file"),
    ],
    ids=ascii,
)
def test_what_is_no_file(tmp_path, name, words):
    """A pipe that nobody writes to would wait for ever."""
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "broken-link.gguf").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe.gguf")
    with pytest.raises(ModelNotFoundError, match=words) as caught:
        inspect_file(tmp_path / name)
    assert caught.value.hint


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read anything")
def test_what_may_not_be_read(tmp_path):
    path = tmp_path / "x.gguf"
    path.write_bytes(b"x")
    path.chmod(0)
    with pytest.raises(ModelNotFoundError, match="cannot be read"):
        inspect_file(path)


@pytest.mark.parametrize("ending", ["safetensors", "gguf"])
def test_a_file_without_tensors_is_no_model(tmp_path, ending):
    path = tmp_path / f"x.{ending}"
    write(path, safetensors_header({}) if ending == "safetensors" else gguf_header({}))
    with pytest.raises(ModelCorruptError, match="has no tensors in it"):
        inspect_file(path)


def test_a_link_is_followed(tmp_path, demo):
    """The shared cache of huggingface_hub is links to files without a suffix."""
    link = tmp_path / "tae.safetensors"
    link.symlink_to(demo[Role.TAE])
    assert inspect_file(link).role is Role.TAE


HEADS = [b"", b"GGUF", gguf_head(1, 1), bytes(7), struct.pack("<Q", 40) + b"{", b"PK\x03\x04", b"\x80\x02"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(HEADS), st.binary(max_size=200), st.booleans())
def test_any_file_gives_facts_or_a_typed_error(tmp_path, head, data, sparse):
    path = tmp_path / "x"
    with path.open("wb") as file:
        file.write(head + data)
        if sparse:
            file.truncate(24 * 10**9)
    try:
        facts = inspect_file(path)
    except ModelError as exc:
        facts, said = None, exc.message
    assert said.endswith(".") if facts is None else facts.size == path.stat().st_size
