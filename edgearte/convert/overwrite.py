"""Matrices that were rounded with care take the place of those that a tool rounded itself, in the file it laid out: the same bytes to
read, the same graph, other numbers.

Which of the file's matrices is which of the checkpoint's is told by their numbers: two roundings of one matrix are near each other, and
neither names nor a converter's habits (heads reordered, matrices joined) need to be known for every architecture.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgearte.convert.gptq import BLOCK, EVEN, Rounded
from edgearte.convert.graphs import DATA
from edgearte.lm.headers import read_gguf

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

FAR = 0.5  # of a matrix's length: roundings of one matrix are never so far apart, of two matrices always
FIRST = 8  # rows looked at in the search


def levels(type: str) -> tuple[int, ...]:
    """The levels of a 4-bit type: llama.cpp's `q4_0` and `iq4_nl`, ONNX's `int4`."""
    from gguf.quants import IQ4_NL

    return tuple(IQ4_NL.kvalues) if type == "iq4_nl" else EVEN


def into_gguf(path: Path, rounded: Mapping[str, Rounded], type: str) -> float:
    """Put matrices, rounded to the levels of `type`, into a GGUF file that llama.cpp made of it; the share of its weights put there."""
    import gguf
    import numpy as np
    import torch

    heads = {int(v) for k, v in read_gguf(path).metadata.items() if k.endswith((".head_count", ".head_count_kv")) and isinstance(v, int)}
    put = weights = 0
    for tensor in gguf.GGUFReader(path, "r+").tensors:
        weights += int(tensor.n_elements)
        if tensor.tensor_type.name.lower() != type or len(tensor.shape) != 2:
            continue
        found = _found(torch.from_numpy(gguf.dequantize(tensor.data, tensor.tensor_type)), rounded.values(), levels(type), heads)
        if found is None:
            continue
        codes = found.codes.numpy().reshape(len(found.codes), -1, 2, BLOCK // 2)
        scales = found.scales.numpy().astype(np.float16)[:, :, None].view(np.uint8)
        tensor.data[:] = np.concatenate([scales, codes[:, :, 0] | codes[:, :, 1] << 4], axis=2).reshape(tensor.data.shape)
        put += int(tensor.n_elements)
    return put / weights


def into_onnx(folder: Path, rounded: Mapping[str, Rounded]) -> float:
    """Put matrices, rounded to even levels, into the symmetric int4 model that onnxruntime-genai's builder laid out in blocks of `BLOCK`;
    the share of its quantized weights put there."""
    import numpy as np
    import onnx
    import torch

    graph = onnx.load(str(folder / "model.onnx"), load_external_data=False).graph
    data = np.memmap(folder / DATA, mode="r+", dtype=np.uint8)
    stored = {i.name: i for i in graph.initializer}
    put = weights = 0
    for node in graph.node:
        if node.op_type != "MatMulNBits" or {a.name: a.i for a in node.attribute}.get("bits") != 4:
            continue
        packed, scaled = (_at(data, stored[name]) for name in node.input[1:3])
        shape = stored[node.input[1]].dims[0], -1
        weights += 2 * packed.size
        codes = np.stack([packed & 15, packed >> 4], axis=1).reshape(shape)
        held = Rounded(torch.from_numpy(codes), torch.from_numpy(scaled.view(np.float32).reshape(shape).copy()))
        found = _found(held.weight(EVEN), rounded.values(), EVEN)
        if found is None:
            continue
        codes = found.codes.numpy()
        packed[:] = (codes[:, 0::2] | codes[:, 1::2] << 4).reshape(-1)
        scaled[:] = found.scales.numpy().astype(np.float32).reshape(-1).view(np.uint8)
        put += 2 * packed.size
    return put / max(weights, 1)


def _at(data: NDArray[np.uint8], initializer: Any) -> NDArray[np.uint8]:
    """The bytes of an initializer that lies in the external file."""
    where = {e.key: int(e.value) for e in initializer.external_data if e.key in ("offset", "length")}
    return data[where["offset"] : where["offset"] + where["length"]]


def _found(held: torch.Tensor, rounded: Iterable[Rounded], levels: tuple[int, ...], heads: Iterable[int] = ()) -> Rounded | None:
    """The matrix that `held` [rows, columns] is another rounding of, in the order of its rows; or the matrices, one below the other."""
    import torch

    parts: list[Rounded] = []
    while (done := sum(len(p.codes) for p in parts)) < len(held):
        part = next((r for m in rounded for r in _ordered(m, heads) if _near(held[done:], r, levels)), None)
        if part is None:
            return None
        parts.append(part)
    return Rounded(torch.cat([p.codes for p in parts]), torch.cat([p.scales for p in parts]))


def _ordered(matrix: Rounded, heads: Iterable[int]) -> Iterable[Rounded]:
    """The matrix with its rows in the orders that converters know: as they come, and the two halves of each head row by row in turn."""
    yield matrix
    rows = len(matrix.codes)
    for count in heads:
        if rows % (2 * count) == 0:
            codes, scales = (t.reshape(count, 2, -1, t.shape[1]).transpose(1, 2).reshape(t.shape) for t in (matrix.codes, matrix.scales))
            yield Rounded(codes, scales)


def _near(held: torch.Tensor, matrix: Rounded, levels: tuple[int, ...]) -> bool:
    """Whether the first rows of `held` are a rounding of this matrix, as far as it goes."""
    rows, columns = matrix.codes.shape
    if columns != held.shape[1] or rows > len(held):
        return False
    for count in (min(FIRST, rows), rows):  # most are told apart by a few rows
        other = Rounded(matrix.codes[:count], matrix.scales[:count]).weight(levels)
        if not bool((held[:count] - other).norm() < FAR * held[:count].norm()):
            return False
    return True
