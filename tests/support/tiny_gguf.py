"""A language model of half a megabyte for a real llama-server: Llama's shape, random weights, a tokenizer of bytes.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

EMBEDDING, FORWARD, BLOCKS, HEADS, CONTEXT = 64, 128, 2, 4, 256
ALIGNMENT = 32
_U32, _I32, _F32, _STRING, _ARRAY = 4, 5, 6, 8, 9
_NORMAL, _UNKNOWN, _CONTROL, _BYTE = 1, 2, 3, 6
_WORDS = ("▁", "▁once", "▁upon", "▁a", "▁time", "▁there", "▁was")


def write_tiny_gguf(path: Path, seed: int = 0) -> Path:
    """Write it, the same for the same seed."""
    tensors = _tensors(seed)
    facts = _facts()
    header = [b"GGUF", struct.pack("<IQQ", 3, len(tensors), len(facts)), *facts]
    offset = 0
    for name, values in tensors.items():
        shape = values.shape[::-1]  # the fastest dimension comes first
        header.append(_string(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape))
        header.append(struct.pack("<IQ", 0, offset))  # 0: float32
        offset += _aligned(values.nbytes)
    start = b"".join(header)
    with path.open("wb") as file:
        file.write(start.ljust(_aligned(len(start)), b"\0"))
        for values in tensors.values():
            file.write(values.tobytes().ljust(_aligned(values.nbytes), b"\0"))
    return path


def _vocabulary() -> tuple[list[str], list[int]]:
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *_WORDS]
    kinds = [_UNKNOWN, _CONTROL, _CONTROL, *[_BYTE] * 256, *[_NORMAL] * len(_WORDS)]
    return tokens, kinds


def _facts() -> list[bytes]:
    tokens, kinds = _vocabulary()
    numbers = {
        "llama.context_length": CONTEXT,
        "llama.embedding_length": EMBEDDING,
        "llama.block_count": BLOCKS,
        "llama.feed_forward_length": FORWARD,
        "llama.attention.head_count": HEADS,
        "llama.attention.head_count_kv": HEADS,
        "llama.rope.dimension_count": EMBEDDING // HEADS,
        "llama.vocab_size": len(tokens),
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }
    texts = {
        "general.architecture": "llama",
        "general.name": "tiny",
        "tokenizer.ggml.model": "llama",
    }
    return [
        *(_fact(name, _STRING, _string(text)) for name, text in texts.items()),
        *(_fact(name, _U32, struct.pack("<I", number)) for name, number in numbers.items()),
        _fact("llama.attention.layer_norm_rms_epsilon", _F32, struct.pack("<f", 1e-5)),
        _array("tokenizer.ggml.tokens", _STRING, [_string(token) for token in tokens]),
        _array("tokenizer.ggml.scores", _F32, [struct.pack("<f", -float(at)) for at in range(len(tokens))]),
        _array("tokenizer.ggml.token_type", _I32, [struct.pack("<i", kind) for kind in kinds]),
    ]


def _tensors(seed: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    count = len(_vocabulary()[0])

    def weights(*shape: int) -> np.ndarray:
        return (random.standard_normal(shape) * 0.05).astype("<f4")

    norm = np.ones(EMBEDDING, "<f4")
    tensors = {
        "token_embd.weight": weights(count, EMBEDDING),
        "output_norm.weight": norm,
        "output.weight": weights(count, EMBEDDING),
    }
    for block in range(BLOCKS):
        at = f"blk.{block}"
        tensors |= {f"{at}.{part}_norm.weight": norm for part in ("attn", "ffn")}
        for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
            tensors[f"{at}.{part}.weight"] = weights(EMBEDDING, EMBEDDING)
        for part in ("ffn_gate", "ffn_up"):
            tensors[f"{at}.{part}.weight"] = weights(FORWARD, EMBEDDING)
        tensors[f"{at}.ffn_down.weight"] = weights(EMBEDDING, FORWARD)
    return tensors


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _fact(name: str, kind: int, value: bytes) -> bytes:
    return _string(name) + struct.pack("<I", kind) + value


def _array(name: str, kind: int, values: list[bytes]) -> bytes:
    return _fact(name, _ARRAY, struct.pack("<IQ", kind, len(values)) + b"".join(values))
