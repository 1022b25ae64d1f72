"""Reads the headers of weight files, GGUF and safetensors, without loading a weight.

The gguf package's reader makes numpy arrays of every token of the vocabulary and takes 2 to 12 s on the models we use;
checks before each build need the counts only, so the header is walked here, in 0.05 s. Block sizes are the package's.
"""

from __future__ import annotations

import json
import math
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_STRING, _ARRAY = 8, 9
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_KNOWN_STARTS = {
    b"version https://git-lfs": "a Git LFS pointer, not the file itself; run `git lfs pull`",
    b"PK\x03\x04": "a zip archive or a PyTorch pickle",
    b"\x80": "a Python pickle",
    b"<": "a web page, perhaps a failed download",
    b"ggjt": "a llama.cpp file from before GGUF",
    b"lmgg": "a llama.cpp file from before GGUF",
}


# What reading values of the wrong kind, size or depth ends in; a file that was made to harm holds any of them.
DAMAGED = (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError, RecursionError)


class BrokenFile(Exception):
    """The file is not what its name says; the text says why, without the file's name."""


@dataclass(frozen=True)
class Stored:
    """One tensor as the header describes it. `shape` is in the file's own order; `bits` counts per weight."""

    name: str
    shape: tuple[int, ...]
    type: str
    elements: int
    bytes: int

    @property
    def bits(self) -> float:
        return 8 * self.bytes / max(self.elements, 1)


@dataclass(frozen=True)
class GGUFHeader:
    """Scalar metadata by key, the lengths of its arrays by key, and the tensors by name."""

    metadata: dict[str, Any]
    lengths: dict[str, int]
    tensors: dict[str, Stored]


def read_gguf(path: Path) -> GGUFHeader:
    """The header of a GGUF file (version 2 or 3, little-endian), after a check that the file holds all its tensors.

    Raises `BrokenFile` where it is no GGUF file, is damaged or cut short; `OSError` where it cannot be read.
    """
    with path.open("rb") as file:
        start = file.read(32)
        if start[:4] != b"GGUF":
            raise BrokenFile(f"not a GGUF file: {_guess(start)}")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                return _walk(data)
            except (struct.error, *DAMAGED) as error:
                raise BrokenFile(
                    f"a GGUF file whose header is damaged or cut short ({len(data):,} bytes); download it again"
                ) from error


def _guess(start: bytes) -> str:
    for known, meaning in _KNOWN_STARTS.items():
        if start.startswith(known):
            return f"it looks like {meaning}"
    return "it is empty" if not start else f"it starts with {start[:4]!r}, not with b'GGUF'"


def _walk(data: mmap.mmap) -> GGUFHeader:
    (version,) = struct.unpack_from("<I", data, 4)
    if version & 0xFFFF == 0:
        raise BrokenFile("a big-endian GGUF file, which is not supported")
    if version not in (2, 3):
        raise BrokenFile(f"a GGUF file of version {version}; versions 2 and 3 are supported")
    tensor_count, key_count = struct.unpack_from("<QQ", data, 8)
    metadata: dict[str, Any] = {}
    lengths: dict[str, int] = {}
    at = 24
    for _ in range(key_count):
        key, at = _string(data, at)
        (kind,) = struct.unpack_from("<I", data, at)
        at += 4
        if kind == _ARRAY:
            lengths[key], at = _skip_array(data, at)
        elif kind == _STRING:
            metadata[key], at = _string(data, at)
        else:
            (metadata[key],) = struct.unpack_from("<" + _SCALARS[kind], data, at)
            at += struct.calcsize("<" + _SCALARS[kind])
    tensors: dict[str, Stored] = {}
    end = 0
    for _ in range(tensor_count):
        tensor, offset, at = _tensor(data, at)
        tensors[tensor.name] = tensor
        end = max(end, offset + tensor.bytes)
    alignment = int(metadata.get("general.alignment", 32)) or 32
    end += -(-at // alignment) * alignment
    if tensors and end > len(data):  # without any, as in the first part of a split file, nothing need follow
        raise BrokenFile(
            f"a truncated GGUF file: its tensors end at byte {end:,}, the file at {len(data):,}; download it again"
        )
    return GGUFHeader(metadata, lengths, tensors)


def _string(data: mmap.mmap, at: int) -> tuple[str, int]:
    (length,) = struct.unpack_from("<Q", data, at)
    end = at + 8 + length
    if end > len(data):
        raise struct.error("string beyond the end of the file")
    return data[at + 8 : end].decode("utf-8"), end


def _skip_array(data: mmap.mmap, at: int) -> tuple[int, int]:
    kind, count = struct.unpack_from("<IQ", data, at)
    at += 12
    if kind == _STRING:
        for _ in range(count):
            at += 8 + struct.unpack_from("<Q", data, at)[0]
    elif kind == _ARRAY:
        for _ in range(count):
            _, at = _skip_array(data, at)
    else:
        at += count * struct.calcsize("<" + _SCALARS[kind])
    return count, at


def _tensor(data: mmap.mmap, at: int) -> tuple[Stored, int, int]:
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    name, at = _string(data, at)
    (dimensions,) = struct.unpack_from("<I", data, at)
    if dimensions > 8:
        raise struct.error("not a tensor")
    shape = struct.unpack_from(f"<{dimensions}Q", data, at + 4)
    at += 4 + 8 * dimensions
    kind, offset = struct.unpack_from("<IQ", data, at)
    try:
        type_ = GGMLQuantizationType(kind)
    except ValueError as error:
        raise BrokenFile(
            f"tensor {name} is stored in type {kind}, which the installed gguf package does not know; "
            "`pip install -U gguf`, or the file is damaged"
        ) from error
    block, size = GGML_QUANT_SIZES[type_]
    elements = math.prod(shape)
    return Stored(name, shape, type_.name, elements, elements // block * size), offset, at + 12


def read_safetensors(path: Path) -> dict[str, Stored]:
    """The tensors of a safetensors file by name, after a check that the file is as long as its header says.

    Raises `BrokenFile` or `OSError` as `read_gguf` does.
    """
    with path.open("rb") as file:
        size = path.stat().st_size
        start = file.read(8)
        length = int.from_bytes(start, "little") if len(start) == 8 else 0
        if not 2 <= length <= size - 8:
            raise BrokenFile(f"not a safetensors file: {_guess_safetensors(start)}")
        try:
            header = json.loads(file.read(length))
            tensors = {name: _safetensor(name, entry) for name, entry in header.items() if name != "__metadata__"}
            end = max((entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"), default=0)
        except DAMAGED as error:
            raise BrokenFile("a safetensors file whose header is damaged; download it again") from error
    if end + 8 + length != size:
        raise BrokenFile(
            f"a truncated or overlong safetensors file: its header asks for {end + 8 + length:,} bytes, it has "
            f"{size:,}; download it again"
        )
    return tensors


def _guess_safetensors(start: bytes) -> str:
    for known, meaning in _KNOWN_STARTS.items():
        if start.startswith(known[:8]):
            return f"it looks like {meaning}"
    return "its first 8 bytes do not give the length of a header"


def _safetensor(name: str, entry: dict[str, Any]) -> Stored:
    first, last = entry["data_offsets"]
    shape = tuple(int(n) for n in entry["shape"])
    return Stored(name, shape, str(entry["dtype"]), math.prod(shape), int(last) - int(first))
