"""Writes random models as GGUF: a third of a megabyte, enough to run llama.cpp's quantized kernels, or large enough to time them.

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
    "f16": (1, 1, 2, (0,)),
    "bf16": (30, 1, 2, (0,)),
    "q4_0": (2, 32, 18, (0,)),
    "q4_1": (3, 32, 20, (0, 2)),
    "q5_0": (6, 32, 22, (0,)),
    "q5_1": (7, 32, 24, (0, 2)),
    "q8_0": (8, 32, 34, (0,)),
    "q2_k": (10, 256, 84, (80, 82)),
    "q3_k": (11, 256, 110, (108,)),
    "q4_k": (12, 256, 144, (0, 2)),
    "q5_k": (13, 256, 176, (0, 2)),
    "q6_k": (14, 256, 210, (208,)),
    "iq4_nl": (20, 32, 18, (0,)),
    "iq4_xs": (23, 256, 136, (0,)),
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
    matrices = {name: (kind, WIDTH, rows) for name, (kind, rows) in _MATRICES.items()}
    _write(path, matrices, WIDTH, WIDTH, 1)


def write_like(path: Path, type: str, *, width: int, feed: int, layers: int) -> None:
    """A llama model of these sizes without a tokenizer, all its layers in one type of llama.cpp's; the same bytes each time."""
    matrices = {"token_embd": ("q8_0", width, WORDS)}
    for layer in range(layers):
        square = {f"blk.{layer}.attn_{name}": (type, width, width) for name in ("q", "k", "v", "output")}
        matrices |= square | {f"blk.{layer}.ffn_{name}": (type, width, feed) for name in ("gate", "up")}
        matrices[f"blk.{layer}.ffn_down"] = (type, feed, width)
    _write(path, matrices, width, feed, layers)


def _write(path: Path, matrices: dict[str, tuple[str, int, int]], width: int, feed: int, layers: int) -> None:
    """`matrices` are type, length of a row, and rows, by name."""
    random = np.random.default_rng(0)
    norms = [f"blk.{layer}.{name}_norm" for layer in range(layers) for name in ("attn", "ffn")]
    tensors: list[tuple[str, int, tuple[int, ...], bytes]] = [
        (name, _TYPES[kind][0], (row, rows), _blocks(random, kind, row * rows)) for name, (kind, row, rows) in matrices.items()
    ]
    ones = np.ones(width, np.float32).tobytes()
    tensors += [(name, _F32, (width,), ones) for name in (*norms, "output_norm")]
    listing, at = b"", 0
    for name, number, shape, data in tensors:
        listing += _text(f"{name}.weight") + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, number, at)
        at += len(_padded(data))
    said = _metadata(width, feed, layers)
    keys = b"".join(_text(key) + value for key, value in said.items())
    with path.open("wb") as file:
        file.write(_padded(b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(said)) + keys + listing))
        for *_, data in tensors:
            file.write(_padded(data))


def _metadata(width: int, feed: int, layers: int) -> dict[str, bytes]:
    numbers = {"context_length": 64 if width == WIDTH else 2048, "embedding_length": width, "block_count": layers,
               "feed_forward_length": feed, "attention.head_count": HEADS * width // WIDTH, "vocab_size": WORDS}  # fmt: skip
    return {
        "general.architecture": struct.pack("<I", 8) + _text("llama"),
        "tokenizer.ggml.model": struct.pack("<I", 8) + _text("none"),
        "llama.attention.layer_norm_rms_epsilon": struct.pack("<If", 6, 1e-5),
        **{f"llama.{key}": struct.pack("<II", 4, value) for key, value in numbers.items()},
    }


def _blocks(random: np.random.Generator, kind: str, count: int) -> bytes:
    _, weights, size, scales = _TYPES[kind]
    blocks = random.integers(0, 256, (count // weights, size), np.uint8)
    small = np.frombuffer(np.float16(0.001).tobytes(), np.uint8)
    for at in scales:  # random bits would make some scales infinite
        blocks[:, at : at + 2] = small
    return blocks.tobytes()


def _text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % _ALIGNMENT)
