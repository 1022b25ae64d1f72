"""A look at a GGUF header before a runtime gets it: lengths that lie crash a loader, and a crash explains nothing."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Sequence
from pathlib import Path

from edgearte.errors import UserError

_SCALARS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # bytes by GGUF value type
_STRING, _ARRAY = 8, 9


def check_gguf(path: Path) -> None:
    """Walk the header within the bounds of the file. llama.cpp trusts lengths more than it should, and checks the data
    itself."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            problem = _walk(data, {})
        except (struct.error, KeyError, OverflowError):
            problem = "its header is cut off or damaged"
    if problem:
        raise UserError(f"{path}: a broken GGUF file: {problem}; fetch or export it again")


def embedding_alone(parts: Sequence[Path]) -> int:
    """Bytes of a GGUF model's embedding where its output layer is another tensor: a token then reads one row of it. 0 for others, and for
    files that are no GGUF."""
    sizes: dict[bytes, int] = {}
    for path in parts:
        if path.suffix == ".gguf":
            with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                _walk(data, sizes)
    return sizes.get(b"token_embd.weight", 0) if b"output.weight" in sizes else 0


def _walk(data: mmap.mmap, sizes: dict[bytes, int]) -> str:
    """What is wrong, or ""; `sizes` gets the bytes of each tensor, with what pads it."""
    version, tensors, keys = struct.unpack_from("<IQQ", data, 4)
    if version not in (2, 3):
        return f"version {version}, where 2 and 3 are known (a big-endian file?)"
    at, alignment = 24, 32
    for _ in range(keys):
        key, at = _string(data, at)
        (kind,) = struct.unpack_from("<I", data, at)
        if key == b"general.alignment" and kind == 4:
            (alignment,) = struct.unpack_from("<I", data, at + 4)
        at = _skip(data, at + 4, kind)
    offsets: dict[bytes, int] = {}
    for _ in range(tensors):
        name, at = _string(data, at)
        (dimensions,) = struct.unpack_from("<I", data, at)
        if dimensions > 4:
            return f"a tensor of {dimensions} dimensions"
        (offset,) = struct.unpack_from("<Q", data, at + 8 + 8 * dimensions)
        offsets[name] = offset
        at += 16 + 8 * dimensions
    if not 0 < alignment <= 1 << 16:
        return f"tensors aligned to {alignment} bytes"
    whole = len(data) - -(-at // alignment) * alignment
    ordered = sorted(offsets, key=offsets.__getitem__)
    if ordered and offsets[ordered[-1]] >= whole:
        return f"its last tensor lies beyond its end ({len(data):,} bytes); it was cut short"
    ends = [*(offsets[name] for name in ordered[1:]), whole]
    sizes.update({name: end - offsets[name] for name, end in zip(ordered, ends)})  # noqa: B905 (Python 3.9 runs this)
    return ""


def _skip(data: mmap.mmap, at: int, kind: int) -> int:
    if kind == _STRING:
        return _string(data, at)[1]
    if kind != _ARRAY:
        return at + _SCALARS[kind]
    kind, count = struct.unpack_from("<IQ", data, at)
    at += 12
    if kind != _STRING:
        return at + _SCALARS[kind] * int(count)
    for _ in range(count):
        at += 8 + int.from_bytes(data[at : at + 8], "little")
        if at > len(data):
            raise struct.error("an array beyond the end")
    return at


def _string(data: mmap.mmap, at: int) -> tuple[bytes, int]:
    (length,) = struct.unpack_from("<Q", data, at)
    end = at + 8 + length
    if end > len(data):
        raise struct.error("a string beyond the end")
    return data[at + 8 : end], end
