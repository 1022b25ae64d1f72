"""Bits per weight, tensor by tensor, of files written by the test itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgearte import tiny_gguf
from edgearte.convert.bits import bits, gguf_bits, onnx_bits
from edgearte.errors import UserError

BITS = {"q4_0": 4.5, "q8_0": 8.5, "q4_k": 4.5, "q6_k": 6.5625, "f32": 32}


def test_a_gguf_file_of_mixed_types(tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    tiny_gguf.write(path)
    held = gguf_bits(path)
    assert held.bytes == path.stat().st_size
    assert set(held.types) == set(BITS)
    for tensor in held.tensors:
        assert 8 * tensor.bytes / tensor.elements == BITS[tensor.type]
    expected = sum(BITS[kind] * n for kind, n in held.types.items()) / sum(held.types.values())
    assert held.bits_per_weight == pytest.approx(expected)
    assert held.notes == ()
    assert bits(path) == held


@pytest.mark.parametrize(("width", "noted"), [(64, True), (256, False)])
def test_a_k_quant_that_fell_back_is_noted(tmp_path: Path, width: int, noted: bool) -> None:
    import gguf

    path = tmp_path / "fallen.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_K_M)
    block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType.Q5_0]
    rows = np.zeros((8, width // block * size), np.uint8)
    writer.add_tensor("blk.0.ffn_up.weight", rows, raw_dtype=gguf.GGMLQuantizationType.Q5_0)
    writer.add_tensor("output_norm.weight", np.zeros(width, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    held = gguf_bits(path)
    assert held.types == {"q5_0": 8 * width, "f32": width}
    if noted:
        (note,) = held.notes
        assert note == "q4_k_m asked, 89% of weights stored as q5_0 because rows of 64 are not divisible by 256"
    else:
        assert held.notes == ()


def test_quantized_onnx_weights_count_as_weights(tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    def floats(name: str, *shape: int) -> TensorProto:
        return numpy_helper.from_array(np.zeros(shape, np.float32), name)

    packed = numpy_helper.from_array(np.zeros((96, 2, 16), np.uint8), "head_Q4")  # 96 rows of 64 weights
    initializers = [
        packed,
        floats("head_scales", 96, 2),
        floats("norm", 64),
        floats("cos_cache", 128, 8),
        numpy_helper.from_array(np.array([1, -1], np.int64), "shape"),
    ]
    common = {"bits": 4, "block_size": 32, "domain": "com.microsoft"}
    nodes = [
        helper.make_node("MatMulNBits", ["x", "head_Q4", "head_scales"], ["y"], K=64, N=96, **common),
        helper.make_node("Reshape", ["head_Q4", "shape"], ["table"]),
        helper.make_node("GatherBlockQuantized", ["table", "ids", "head_scales"], ["z"], **common),
        helper.make_node("RotaryEmbedding", ["y", "p", "cos_cache", "cos_cache"], ["r"], domain="com.microsoft"),
        helper.make_node("Mul", ["z", "norm"], ["o"]),
    ]
    graph = helper.make_graph(nodes, "g", [], [], initializers)
    onnx.save(helper.make_model(graph), str(tmp_path / "model.onnx"), save_as_external_data=True, size_threshold=1000)
    held = onnx_bits(tmp_path)
    assert held.types == {"int4 block 32": 96 * 64, "float": 64}
    assert {t.name: t.bytes for t in held.tensors} == {"head_Q4": 96 * 32 + 96 * 2 * 4, "norm": 256}
    assert held.bits_per_weight == pytest.approx(8 * (96 * 40 + 256) / (96 * 64 + 64))
    assert held.bytes == sum(f.stat().st_size for f in tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"", b"GGUF", b"not a model at all, but long enough to look at"])
def test_a_broken_gguf_file_is_a_users_mistake(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"broken\.gguf"):
        bits(path)


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model\.onnx"):
        bits(tmp_path)
