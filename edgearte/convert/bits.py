"""What a model file truly holds: each tensor's type and size, and bits per weight. For any GGUF file or ONNX folder."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from edgearte.errors import UserError
from edgearte.lm.headers import BrokenFile, read_gguf
from edgearte.measure.machine import parts, size_of
from edgearte.records import Tensor

K_BLOCK = 256  # llama.cpp's K-quants store rows in super-blocks of so many weights


@dataclass(frozen=True)
class Bits:
    """`bytes` on disk, all files; bits per weight over weight tensors with their scales; weights by storage type."""

    bytes: int
    bits_per_weight: float
    types: dict[str, int]
    tensors: tuple[Tensor, ...]
    notes: tuple[str, ...] = ()


def bits(path: Path) -> Bits:
    """Read a `.gguf` file or a folder with `genai_config.json` (or a `model.onnx`)."""
    return gguf_bits(path) if path.is_file() else onnx_bits(path)


def gguf_bits(path: Path) -> Bits:
    """The tensors of a GGUF file, with a note on those that llama.cpp stored otherwise than the K-quant asked for."""
    import gguf

    try:
        headers = [read_gguf(part) for part in parts(path)]
    except (BrokenFile, OSError) as error:
        raise UserError(f"{path}: {error}") from error
    stored = [tensor for header in headers for tensor in header.tensors.values()]
    tensors = tuple(Tensor(t.name, t.type.lower(), t.elements, t.bytes) for t in stored)
    rows = {t.name: t.shape[0] for t in stored if len(t.shape) > 1}
    try:
        asked = gguf.LlamaFileType(headers[0].metadata.get("general.file_type", -1)).name.removeprefix("MOSTLY_").lower()
    except ValueError:  # not said, or a type newer than the gguf package
        asked = ""
    return _summary(size_of(path), tensors, _fallbacks(asked, tensors, rows))


def onnx_bits(folder: Path) -> Bits:
    """The weights of an ONNX model with external data. A quantized matrix counts its logical weights,
    once however often it is used; its bytes include scales and zero points. Rotary tables and shape
    constants are no weights."""
    import onnx

    path = onnx_model(folder)
    try:
        graph = onnx.load(str(path), load_external_data=False).graph
    except Exception as error:  # protobuf raises its own kinds
        raise UserError(f"{path}: not a readable ONNX model ({error})") from error
    initializers = {i.name: i for i in graph.initializer}
    taken: set[str] = set()
    tensors: list[Tensor] = []
    for node in graph.node:
        if node.op_type in ("MatMulNBits", "GatherBlockQuantized"):
            # Inputs: activations, data, scales, zero points; and data, indices, scales, zero points.
            first = 1 if node.op_type == "MatMulNBits" else 0
            parts = [n for n in (node.input[first], *node.input[2:4]) if n in initializers]
            if node.input[first] in initializers and node.input[first] not in taken:
                tensors.append(_quantized(node, initializers[node.input[first]], [initializers[n] for n in parts]))
            taken.update(parts)
        elif node.op_type in ("GroupQueryAttention", "RotaryEmbedding"):
            taken.update(n for n in node.input if n.endswith(("cos_cache", "sin_cache")))
    for name, initializer in initializers.items():
        kind = onnx.TensorProto.DataType.Name(initializer.data_type).lower()
        if name not in taken and "float" in kind:
            tensors.append(Tensor(name, kind, prod(initializer.dims), _bytes(initializer)))
    size = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
    return _summary(size, tuple(tensors), ())


def onnx_model(folder: Path) -> Path:
    """The `.onnx` file of a folder: the one that genai_config.json names, or model.onnx."""
    config = folder / "genai_config.json"
    if not config.is_file():
        return folder / "model.onnx"
    try:
        return folder / str(json.loads(config.read_text("utf-8"))["model"]["decoder"]["filename"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{config}: names no model file ({type(error).__name__}: {error})") from error


def _quantized(node: Any, data: Any, parts: list[Any]) -> Tensor:
    attributes = {a.name: a.i for a in node.attribute}
    width, block = attributes.get("bits", 4), attributes.get("block_size", 0)
    packed = 8 // width if data.data_type == 2 else 1  # 2: uint8, several weights a byte; int4 tensors count themselves
    weights = attributes["K"] * attributes["N"] if "K" in attributes else prod(data.dims) * packed
    return Tensor(data.name, f"int{width} block {block}", weights, sum(_bytes(p) for p in parts))


def _bytes(initializer: Any) -> int:
    external = {e.key: e.value for e in initializer.external_data}
    if "length" in external:
        return int(external["length"])
    if initializer.raw_data:
        return len(initializer.raw_data)
    return 4 * int(prod(initializer.dims))  # small float constants kept as numbers


def _summary(size: int, tensors: tuple[Tensor, ...], notes: Iterable[str]) -> Bits:
    if not tensors:
        raise UserError("the model file holds no weights")
    types: Counter[str] = Counter()
    for tensor in tensors:
        types[tensor.type] += tensor.elements
    weights = types.total()
    return Bits(size, 8 * sum(t.bytes for t in tensors) / weights, dict(types.most_common()), tensors, tuple(notes))


def _fallbacks(asked: str, tensors: tuple[Tensor, ...], rows: dict[str, int]) -> list[str]:
    """K-quants need rows that 256 divides; llama.cpp takes an older, larger type for every other tensor and goes on."""
    if "_k" not in asked:
        return []
    others = [t for t in tensors if t.name in rows and "_k" not in t.type and t.type not in ("f32", "f16", "bf16")]
    fallen = [t for t in others if rows[t.name] % K_BLOCK]
    if not fallen:
        return []
    share = sum(t.elements for t in fallen) / sum(t.elements for t in tensors)
    kinds = "/".join(sorted({t.type for t in fallen}))
    lengths = ", ".join(str(n) for n in sorted({rows[t.name] for t in fallen}))
    return [
        f"{asked} asked, {share:.0%} of weights stored as {kinds} "
        f"because rows of {lengths} are not divisible by {K_BLOCK}"
    ]
