"""Importance matrices: how strongly each column of a weight is used, in llama.cpp's own file forms.

For every matrix the sum of its inputs' squares, column by column, over the tokens of some text, and how many tokens that were. A
quantizer that knows their mean keeps what matters (llama.cpp pull request 4861). llama.cpp writes a GGUF file of them today
and wrote a bare sequence of numbers before; both are read, the first is written.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgearte.errors import UserError
from edgearte.lm.headers import BrokenFile, read_gguf

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SUMS, COUNTS = ".in_sum2", ".counts"
DATASETS, CHUNKS, CHUNK_SIZE = "imatrix.datasets", "imatrix.chunk_count", "imatrix.chunk_size"


@dataclass(frozen=True)
class Imatrix:
    """By the weight's name in a GGUF file: `sums` [matrices, columns] of squares, and `counts` [matrices] of the tokens summed over (one
    matrix a weight, except where experts lie in one). `chunks` texts of `chunk_size` tokens were read, of `datasets`."""

    sums: Mapping[str, NDArray[np.float32]]
    counts: Mapping[str, NDArray[np.float32]]
    datasets: tuple[str, ...] = ()
    chunks: int = 0
    chunk_size: int = 512

    def importance(self, name: str) -> NDArray[np.float32]:
        """The mean square of each column's input, [matrices * columns], as llama.cpp's quantizer takes it; 1 where no token was met."""
        import numpy as np

        counts = self.counts[name][:, None]
        found: NDArray[np.float32] = np.where(counts > 0, self.sums[name] / np.maximum(counts, 1), np.float32(1)).astype(np.float32)
        return found.ravel()


def write(found: Imatrix, path: Path) -> None:
    """Write the GGUF form: the same bytes for the same numbers."""
    import gguf
    import numpy as np

    writer = gguf.GGUFWriter(path, "", use_temp_file=False)
    writer.add_type("imatrix")
    writer.add_array(DATASETS, list(found.datasets))
    writer.add_uint32(CHUNKS, found.chunks)
    writer.add_uint32(CHUNK_SIZE, found.chunk_size)
    for name in sorted(found.sums):
        writer.add_tensor(name + SUMS, np.ascontiguousarray(found.sums[name], np.float32))
        writer.add_tensor(name + COUNTS, np.ascontiguousarray(found.counts[name], np.float32)[:, None])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def read(path: Path) -> Imatrix:
    """Read either form. `UserError` where the file is neither, is damaged, or holds a number that is none."""
    import numpy as np

    try:
        with path.open("rb") as file:
            begins = file.read(4)
        found = _gguf(path) if begins == b"GGUF" else _legacy(path)
    except (BrokenFile, OSError, struct.error, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not an importance matrix: {error}") from error
    if not found.sums:
        raise UserError(f"{path}: not an importance matrix: it holds no weight's inputs")
    for name, sums in found.sums.items():
        if not (np.isfinite(sums).all() and (sums >= 0).all() and np.isfinite(found.counts[name]).all()):
            raise UserError(f"{path}: {name} has inputs whose squares are no numbers")
    return found


def _gguf(path: Path) -> Imatrix:
    import gguf

    header = read_gguf(path)  # first, since it is careful with what a file claims
    if header.metadata.get("general.type") != "imatrix":
        raise BrokenFile("a GGUF file of another kind")
    reader: Any = gguf.GGUFReader(path)
    tensors = {t.name: t.data for t in reader.tensors}
    names = [n.removesuffix(SUMS) for n in tensors if n.endswith(SUMS)]
    if missing := [n for n in names if n + COUNTS not in tensors]:
        raise BrokenFile(f"{missing[0]} has no counts")
    sums = {n: tensors[n + SUMS].reshape(tensors[n + COUNTS].size, -1).copy() for n in names}
    datasets = reader.fields[DATASETS].contents() if DATASETS in reader.fields else []
    return Imatrix(
        sums, {n: tensors[n + COUNTS].ravel().copy() for n in names}, tuple(datasets),
        int(header.metadata.get(CHUNKS, 0)), int(header.metadata.get(CHUNK_SIZE, 0)),
    )  # fmt: skip


def _legacy(path: Path) -> Imatrix:
    """`count` entries of (name, calls, values: the mean squares times the calls), then the calls in all and the data set's name."""
    import numpy as np

    data = memoryview(path.read_bytes())
    at = 0

    def take(size: int) -> memoryview:
        nonlocal at
        if not 0 <= size <= len(data) - at:
            raise BrokenFile(f"it ends at byte {len(data)}, where {size} more are promised at {at}")
        at += size
        return data[at - size : at]

    def number() -> int:
        return int(struct.unpack("<i", take(4))[0])

    sums, counts = {}, {}
    for _ in range(number()):
        name = bytes(take(number())).decode("utf-8")
        calls = max(number(), 1)
        sums[name] = np.frombuffer(take(4 * number()), "<f4").reshape(1, -1).copy()
        counts[name] = np.array([calls], np.float32)
    chunks = number() if at < len(data) else 0
    dataset = bytes(take(number())).decode("utf-8") if at < len(data) else ""
    return Imatrix(sums, counts, (dataset,) if dataset else (), chunks, 0)

