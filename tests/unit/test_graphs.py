"""An int8 model looks words up in its output layer where that is the embedding, and nowhere else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgearte.convert import graphs

ROWS, BLOCKS, BLOCK = 70, 2, 32


def write(folder: Path, *, tied: bool = True, zeros: bool = False, levels: int = 127) -> Any:
    """A model of an embedding and an int8 output layer, in the folder; the embedding."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(0)
    table = random.normal(size=(ROWS, BLOCKS * BLOCK)).astype(np.float32)
    blocks = (table if tied else random.permutation(table)).reshape(ROWS, BLOCKS, BLOCK)
    scales = (np.abs(blocks).max(-1) / levels).astype(np.float32)
    codes = np.clip(np.round(blocks / scales[..., None]) + 128, 0, 255).astype(np.uint8)
    held = {"table": table, "codes": codes, "scales": scales} | ({"points": np.full((ROWS, BLOCKS), 128, np.uint8)} if zeros else {})
    how = {"K": BLOCKS * BLOCK, "N": ROWS, "bits": 8, "block_size": BLOCK, "domain": "com.microsoft"}
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "ids"], ["rows"], "embed"),
         helper.make_node("MatMulNBits", ["rows", *list(held)[1:]], ["logits"], "head", **how)],
        "g", [helper.make_tensor_value_info("ids", TensorProto.INT64, ["b", "s"])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["b", "s", size]) for name, size in (("rows", how["K"]), ("logits", ROWS))],
        [numpy_helper.from_array(array, name) for name, array in held.items()],
    )  # fmt: skip
    imports = [helper.make_opsetid("", 22), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=10)
    onnx.save(model, str(folder / "model.onnx"), save_as_external_data=True, location=graphs.DATA, size_threshold=100)
    return table


def said(folder: Path, ids: Any) -> Any:
    import onnxruntime

    return onnxruntime.InferenceSession(str(folder / "model.onnx")).run(["rows", "logits"], {"ids": ids})


@pytest.mark.parametrize("levels", [127, 128])  # of 128, the greatest weight of a block is a whole step off
def test_words_are_looked_up_in_the_output_layer(tmp_path: Path, levels: int) -> None:
    table, ids = write(tmp_path, levels=levels), np.array([[3, 69, 0], [5, 5, 1]])
    before, size = said(tmp_path, ids), (tmp_path / graphs.DATA).stat().st_size
    graphs.share_embedding(tmp_path)
    rows, logits = said(tmp_path, ids)
    assert np.array_equal(before[0], table[ids])
    assert np.abs(rows - table[ids]).max() <= 1.001 * np.abs(table).max() / levels
    assert np.abs(logits - before[1]).max() < 0.02 * np.abs(logits).max()
    assert (tmp_path / graphs.DATA).stat().st_size < size - 0.9 * table.nbytes
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", graphs.DATA]


@pytest.mark.parametrize("other", [{"tied": False}, {"zeros": True}])
def test_an_output_layer_that_is_not_the_embedding_stays_apart(tmp_path: Path, other: dict[str, bool]) -> None:
    write(tmp_path, **other)
    before = [path.read_bytes() for path in sorted(tmp_path.iterdir())]
    graphs.share_embedding(tmp_path)
    assert [path.read_bytes() for path in sorted(tmp_path.iterdir())] == before
