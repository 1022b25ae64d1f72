"""What is laid out for a browser: an embedding of plain nodes that looks up what `GatherBlockQuantized` does, and files where they are
looked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgearte.child import ChildFailed
from edgearte.convert.bits import onnx_model
from edgearte.convert.browser import lay_out, look_up_plainly
from edgearte.errors import UserError

ROWS, BLOCKS = 40, 3


def quantized(block: int, *, flat: bool = False, zeros: bool = False) -> Any:
    """A model of an int4 embedding alone, its table as a matrix multiplication's weights lie, or flat."""
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(block)
    table = random.integers(0, 256, (ROWS, BLOCKS, block // 2)).astype(np.uint8)
    scales = random.normal(size=(ROWS, BLOCKS)).astype(np.float32)
    points = random.integers(0, 256, (ROWS, (BLOCKS + 1) // 2)).astype(np.uint8)
    shape = np.array([ROWS, BLOCKS * block // 2], np.int64)
    held = {"table": table.reshape(shape) if flat else table, "scales": scales, "points": points}
    how = {"bits": 4, "block_size": block, "gather_axis": 0, "quantize_axis": 1, "domain": "com.microsoft"}
    inputs = ["table" if flat else "lying", "ids", "scales", *(["points"] if zeros else [])]
    nodes = [helper.make_node("GatherBlockQuantized", inputs, ["rows"], **how)]
    if not flat:
        nodes.insert(0, helper.make_node("Reshape", ["table", "shape"], ["lying"]))
        nodes.insert(0, helper.make_node("Constant", [], ["shape"], value=numpy_helper.from_array(shape)))
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("ids", TensorProto.INT64, ["b", "s"])],
        [helper.make_tensor_value_info("rows", TensorProto.FLOAT, ["b", "s", BLOCKS * block])],
        [numpy_helper.from_array(array, name) for name, array in held.items() if name != "points" or zeros],
        value_info=[] if flat else [helper.make_tensor_value_info("lying", TensorProto.UINT8, shape.tolist())],
    )  # fmt: skip
    imports = [helper.make_opsetid("", 22), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10)


def looked_up(model: Any, ids: Any) -> Any:
    import onnxruntime

    return onnxruntime.InferenceSession(model.SerializeToString()).run(["rows"], {"ids": ids})[0]


@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize("block", [16, 32, 128])
def test_plain_nodes_look_up_the_same_rows(block: int, flat: bool) -> None:
    model = quantized(block, flat=flat)
    ids = np.random.default_rng(1).integers(0, ROWS, (2, 7))
    expected = looked_up(model, ids)
    look_up_plainly(model.graph)
    assert np.array_equal(looked_up(model, ids), expected)
    assert {node.domain for node in model.graph.node} == {""}
    assert {i.name for i in model.graph.initializer} == {"table", "scales"}  # no weight is added,
    assert not any("table" in n.input for n in model.graph.node if n.op_type != "Gather")  # and none copied to be flattened
    assert "shape" not in [n.output[0] for n in model.graph.node]
    assert not model.graph.value_info


def test_a_table_quantized_otherwise_is_told() -> None:
    with pytest.raises(ChildFailed, match="the embedding is quantized in a way"):
        look_up_plainly(quantized(32, zeros=True).graph)


def test_files_are_where_transformers_js_looks(tmp_path: Path) -> None:
    import onnx
    import onnxruntime

    folder, checkpoint = tmp_path / "made", tmp_path / "checkpoint"
    folder.mkdir()
    checkpoint.mkdir()
    model, ids = quantized(32), np.array([[3, 1, 39]])
    expected = looked_up(model, ids)
    onnx.save(model, str(folder / "model.onnx"), save_as_external_data=True, location="model.onnx.data", size_threshold=100)
    weights = (folder / "model.onnx.data").read_bytes()
    (folder / "genai_config.json").write_text('{"model": {"decoder": {"filename": "model.onnx"}}}')
    (folder / "tokenizer.json").write_text('{\n  "model": {"vocab": {"ä": 0}}\n}', "utf-8")
    (folder / "tokenizer_config.json").write_text('{"eos_token": "<end>"}')
    (folder / "chat_template.jinja").write_text("{{ messages }}\n")
    (checkpoint / "config.json").write_text('{"model_type": "llama", "_name_or_path": "/home/me/model"}')
    lay_out(folder, checkpoint)
    path = onnx_model(folder)
    assert path == folder / "onnx" / "model_q4.onnx"
    assert (folder / "onnx" / "model_q4.onnx_data").read_bytes() == weights
    assert sorted(p.name for p in folder.iterdir()) == [
        "chat_template.jinja", "config.json", "genai_config.json", "onnx", "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip
    assert np.array_equal(onnxruntime.InferenceSession(str(path)).run(["rows"], {"ids": ids})[0], expected)
    settings = {"dtype": "q4", "use_external_data_format": True}
    assert json.loads((folder / "config.json").read_text()) == {"model_type": "llama", "transformers.js_config": settings}
    assert json.loads((folder / "tokenizer_config.json").read_text()) == {"eos_token": "<end>", "chat_template": "{{ messages }}\n"}
    assert (folder / "tokenizer.json").read_text("utf-8") == '{"model":{"vocab":{"ä":0}}}'


@pytest.mark.parametrize("config", ["{", "{}", '{"model": []}'])
def test_a_folder_that_names_no_model_is_a_users_mistake(tmp_path: Path, config: str) -> None:
    (tmp_path / "genai_config.json").write_text(config)
    with pytest.raises(UserError, match=r"genai_config\.json: names no model file"):
        onnx_model(tmp_path)


def test_what_is_for_a_browser_is_measured_through_genai() -> None:
    from edgearte.measure import genai, harness

    assert harness._engine({"runtime": "transformers.js"}) is genai.Engine
