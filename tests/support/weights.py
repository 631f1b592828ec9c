"""Weights files with given tensors and no content: sparse, so that those of any size are made at once."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path

Tensors = Mapping[str, tuple[str, tuple[int, ...]]]  # type and shape, the slowest dimension first

# As in ggml.h: number, elements per block, bytes per block.
GGML = {
    "F32": (0, 1, 4),
    "F16": (1, 1, 2),
    "Q4_0": (2, 32, 18),
    "Q8_0": (8, 32, 34),
    "Q4_K": (12, 256, 144),
    "Q6_K": (14, 256, 210),
    "BF16": (30, 1, 2),
}
SAFETENSORS = {"F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "I64": 8, "U8": 1}


def text(value: str) -> bytes:
    data = value.encode("utf-8", "surrogateescape")
    return struct.pack("<Q", len(data)) + data


def pair(key: str, value: str | float | bool | Iterable[str] | Iterable[int]) -> bytes:
    """One entry of GGUF metadata."""
    match value:
        case str():
            return text(key) + struct.pack("<I", 8) + text(value)
        case bool():
            return text(key) + struct.pack("<IB", 7, value)
        case int():
            return text(key) + struct.pack("<II", 4, value)
        case float():
            return text(key) + struct.pack("<If", 6, value)
    items = list(value)
    head = text(key) + struct.pack("<IIQ", 9, 8 if items and isinstance(items[0], str) else 5, len(items))
    return head + b"".join(text(item) if isinstance(item, str) else struct.pack("<i", item) for item in items)


def tensor(name: str, kind: int, shape: tuple[int, ...], offset: int) -> bytes:
    """One description of a GGUF tensor."""
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *reversed(shape), kind, offset)


def gguf_head(tensors: int, pairs: int, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, pairs)


def gguf_header(
    tensors: Tensors, metadata: Mapping[str, object] | None = None, *, version: int = 3, alignment: int = 32
) -> tuple[bytes, int]:
    """Header, and size of the whole file."""
    parts, offset = [gguf_head(len(tensors), len(metadata or {}), version)], 0
    parts += [pair(key, value) for key, value in (metadata or {}).items()]
    for name, (kind, shape) in tensors.items():
        number, block, block_bytes = GGML[kind]
        parts.append(tensor(name, number, shape, offset))
        length = math.prod(shape) // block * block_bytes
        offset += -(-length // alignment) * alignment
    header = b"".join(parts)
    header += bytes(-len(header) % alignment)
    return header, len(header) + offset


def safetensors_header(tensors: Tensors, metadata: Mapping[str, str] | None = None) -> tuple[bytes, int]:
    """Header, and size of the whole file."""
    entries: dict[str, object] = {"__metadata__": metadata} if metadata is not None else {}
    offset = 0
    for name, (kind, shape) in tensors.items():
        length = math.prod(shape) * SAFETENSORS[kind]
        entries[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [offset, offset + length]}
        offset += length
    header = json.dumps(entries, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header)) + header, 8 + len(header) + offset


def write(path: Path, header: tuple[bytes, int]) -> Path:
    """A file with this header and as many zeros after it as it needs, which take no room."""
    data, size = header
    with path.open("wb") as file:
        file.write(data)
        file.truncate(size)
    return path


def typed(kind: str, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[str, tuple[int, ...]]]:
    """All of one type, but for vectors, which stay as they are in real files."""
    return {name: (kind if len(shape) > 1 else "F32", shape) for name, shape in shapes.items()}


def flux_dev(width: int = 3072, *, prefix: str = "") -> dict[str, tuple[int, ...]]:
    """Names and shapes of FLUX.1 dev: 780 tensors, 12 billion parameters (with the width of the real one)."""
    tensors: dict[str, tuple[int, ...]] = {}

    def linear(name: str, outputs: int, inputs: int) -> None:
        tensors[f"{prefix}{name}.weight"] = (outputs, inputs)
        tensors[f"{prefix}{name}.bias"] = (outputs,)

    linear("img_in", width, 64)
    linear("txt_in", width, 4096)
    for name, inputs in (("time_in", 256), ("vector_in", 768), ("guidance_in", 256)):
        linear(f"{name}.in_layer", width, inputs)
        linear(f"{name}.out_layer", width, width)
    for block in range(19):
        for side in ("img", "txt"):
            start = f"double_blocks.{block}.{side}"
            linear(f"{start}_mod.lin", 6 * width, width)
            linear(f"{start}_attn.qkv", 3 * width, width)
            linear(f"{start}_attn.proj", width, width)
            linear(f"{start}_mlp.0", 4 * width, width)
            linear(f"{start}_mlp.2", width, 4 * width)
            for norm in ("query_norm", "key_norm"):
                tensors[f"{prefix}{start}_attn.norm.{norm}.scale"] = (128,)
    for block in range(38):
        start = f"single_blocks.{block}"
        linear(f"{start}.linear1", 7 * width, width)
        linear(f"{start}.linear2", width, 5 * width)
        linear(f"{start}.modulation.lin", 3 * width, width)
        for norm in ("query_norm", "key_norm"):
            tensors[f"{prefix}{start}.norm.{norm}.scale"] = (128,)
    linear("final_layer.linear", 64, width)
    linear("final_layer.adaLN_modulation.1", 2 * width, width)
    return tensors


def qwen_image(width: int = 3072, *, prefix: str = "") -> dict[str, tuple[int, ...]]:
    """Names and shapes of Qwen-Image: 1933 tensors, 20 billion parameters."""
    tensors: dict[str, tuple[int, ...]] = {f"{prefix}txt_norm.weight": (3584,)}

    def linear(name: str, outputs: int, inputs: int) -> None:
        tensors[f"{prefix}{name}.weight"] = (outputs, inputs)
        tensors[f"{prefix}{name}.bias"] = (outputs,)

    linear("img_in", width, 64)
    linear("txt_in", width, 3584)
    linear("time_text_embed.timestep_embedder.linear_1", width, 256)
    linear("time_text_embed.timestep_embedder.linear_2", width, width)
    for block in range(60):
        start = f"transformer_blocks.{block}"
        attention = (
            "to_q",
            "to_k",
            "to_v",
            "to_out.0",
            "add_q_proj",
            "add_k_proj",
            "add_v_proj",
            "to_add_out",
        )
        for name in attention:
            linear(f"{start}.attn.{name}", width, width)
        for norm in ("norm_q", "norm_k", "norm_added_q", "norm_added_k"):
            tensors[f"{prefix}{start}.attn.{norm}.weight"] = (128,)
        for side in ("img", "txt"):
            linear(f"{start}.{side}_mod.1", 6 * width, width)
            linear(f"{start}.{side}_mlp.net.0.proj", 4 * width, width)
            linear(f"{start}.{side}_mlp.net.2", width, 4 * width)
    linear("norm_out.linear", 2 * width, width)
    linear("proj_out", 64, width)
    return tensors


def qwen3(layers: int = 36, width: int = 2560, words: int = 151_936) -> dict[str, tuple[int, ...]]:
    """Names and shapes of Qwen3 4B as llama.cpp has them: 398 tensors."""
    tensors: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (words, width),
        "output_norm.weight": (width,),
    }
    for layer in range(layers):
        shapes = {
            "attn_q": (4096, width),
            "attn_k": (1024, width),
            "attn_v": (1024, width),
            "attn_output": (width, 4096),
            "ffn_gate": (9728, width),
            "ffn_up": (9728, width),
            "ffn_down": (width, 9728),
            "attn_norm": (width,),
            "ffn_norm": (width,),
            "attn_q_norm": (128,),
            "attn_k_norm": (128,),
        }
        tensors |= {f"blk.{layer}.{name}.weight": shape for name, shape in shapes.items()}
    return tensors


def vocabulary(words: int = 151_936, merges: int = 151_387) -> dict[str, object]:
    """Metadata like a language model's: words of about 7 bytes, and how they are merged."""
    tokens = [f"{number:x}" * (1 + number % 3) for number in range(words)]
    return {
        "general.architecture": "qwen3",
        "qwen3.block_count": 36,
        "qwen3.rope.freq_base": 1e6,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [1] * words,
        "tokenizer.ggml.merges": [f"{tokens[number % words]} {number:x}" for number in range(merges)],
        "tokenizer.ggml.add_bos_token": False,
        "general.quantization_version": 2,
    }
