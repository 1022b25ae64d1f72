"""Writes a random one-layer model as GGUF, a third of a megabyte: enough to run llama.cpp's quantized kernels.

Written here with numpy alone: the installation is checked on devices too, where no other package can write one.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

WIDTH, HEADS, WORDS = 256, 4, 64  # 256 is the block of the K-quants
# Per type: its number in GGUF, weights and bytes of a block, and where in the block its float16 scales stand.
_F32 = 0
_TYPES = {
    "q4_0": (2, 32, 18, (0,)),
    "q8_0": (8, 32, 34, (0,)),
    "q4_k": (12, 256, 144, (0, 2)),
    "q6_k": (14, 256, 210, (208,)),
}
_MATRICES = {
    "token_embd": ("q8_0", WORDS),
    "blk.0.attn_q": ("q4_0", WIDTH),
    "blk.0.attn_k": ("q8_0", WIDTH),
    "blk.0.attn_v": ("q6_k", WIDTH),
    "blk.0.attn_output": ("q4_k", WIDTH),
    "blk.0.ffn_gate": ("q4_k", WIDTH),
    "blk.0.ffn_up": ("q4_0", WIDTH),
    "blk.0.ffn_down": ("q6_k", WIDTH),
}
_NORMS = ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm")
_ALIGNMENT = 32


def write(path: Path) -> None:
    """A llama model without a tokenizer, with matrices in Q4_0, Q8_0, Q4_K and Q6_K; the same bytes each time."""
    random = np.random.default_rng(0)
    tensors = [(name, kind, (WIDTH, rows), _blocks(random, kind, rows)) for name, (kind, rows) in _MATRICES.items()]
    ones = np.ones(WIDTH, np.float32).tobytes()
    listing, body = b"", b""
    for name, kind, shape, data in [*tensors, *((name, "", (WIDTH,), ones) for name in _NORMS)]:
        number = _TYPES[kind][0] if kind else _F32
        listing += _text(f"{name}.weight") + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, number, len(body))
        body += _padded(data)
    keys = b"".join(_text(key) + value for key, value in _metadata().items())
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors) + len(_NORMS), len(_metadata())) + keys + listing
    path.write_bytes(_padded(head) + body)


def _metadata() -> dict[str, bytes]:
    numbers = {"context_length": 64, "embedding_length": WIDTH, "block_count": 1, "feed_forward_length": WIDTH,
               "attention.head_count": HEADS, "vocab_size": WORDS}  # fmt: skip
    return {
        "general.architecture": struct.pack("<I", 8) + _text("llama"),
        "tokenizer.ggml.model": struct.pack("<I", 8) + _text("none"),
        "llama.attention.layer_norm_rms_epsilon": struct.pack("<If", 6, 1e-5),
        **{f"llama.{key}": struct.pack("<II", 4, value) for key, value in numbers.items()},
    }


def _blocks(random: np.random.Generator, kind: str, rows: int) -> bytes:
    _, weights, size, scales = _TYPES[kind]
    blocks = random.integers(0, 256, (rows * WIDTH // weights, size), np.uint8)
    small = np.frombuffer(np.float16(0.001).tobytes(), np.uint8)
    for at in scales:  # random bits would make some scales infinite
        blocks[:, at : at + 2] = small
    return blocks.tobytes()


def _text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % _ALIGNMENT)
