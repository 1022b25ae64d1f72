"""What onnxruntime-genai's model builder writes wrongly into its graphs, mended; and an embedding that is held twice, held once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

VERSION = 3  # of what is mended
FIRST = 64  # rows that are looked at
SHARING = 3  # of how `share_embedding` does it
DATA = "model.onnx.data"
# (code − middle) · scale, block by block; a Reshape keeps the batch and the position. What makes `codes` [i, j, n, block] is put in.
LOOK_UP = """
look_up (uint8[v, n, b] table, int64[i, j] ids, float[v, n] scales) => (float[i, j, k] rows) {
    middle = Constant <value = float {%d}> ()
    last = Constant <value_ints = [-1]> ()
    row = Constant <value_ints = [0, 0, -1]> ()
    %s
    numbers = Cast <to = 1> (codes)
    centred = Sub (numbers, middle)
    scale = Gather (scales, ids)
    scaling = Unsqueeze (scale, last)
    scaled = Mul (centred, scaling)
    rows = Reshape (scaled, row)
}
"""
BYTES = "codes = Gather (table, ids)"
HALVES = """
    alone = Constant <value_ints = [0, 0, -1, 1]> ()
    halves = Constant <value = uint8[2] {0, 4}> ()
    half = Constant <value = uint8 {15}> ()
    blocks = Constant <value_ints = [0, 0, -1, %d]> ()
    packed = Gather (table, ids)
    bytes = Reshape (packed, alone)
    shifted = BitShift <direction = "RIGHT"> (bytes, halves)
    single = BitwiseAnd (shifted, half)
    codes = Reshape (single, blocks)
"""  # two codes a byte, the lower half first
MASK = "/model/attn_mask_reformat"  # where a model without GroupQueryAttention (fp16 on a CPU) makes its own mask


def mend(folder: Path) -> None:
    """Mend the `model.onnx` of a folder that the builder wrote, in place."""
    import onnx

    size = json.loads((folder / "genai_config.json").read_text("utf-8"))["model"]["decoder"]["head_size"]
    model = onnx.load(str(folder / "model.onnx"), load_external_data=False)
    state_head_size(model.graph, size)
    see_the_past(model.graph)
    state_true_shapes(model.graph)
    onnx.save(model, str(folder / "model.onnx"))


def state_head_size(graph: Any, size: int) -> None:
    """Where the builder leaves a name for the size of a head in the shapes of past and present: plain onnxruntime is given an empty past to
    begin with, and onnxruntime-web takes a name for 0."""
    for value in [*graph.input, *graph.output]:
        shape = value.type.tensor_type.shape.dim
        if value.name.startswith(("past_key_values.", "present.")) and len(shape) == 4:
            shape[3].dim_value = size  # takes the place of the name


def see_the_past(graph: Any) -> None:
    """A mask that holds where several tokens follow a past, as when a chat goes on: token i of S sees all P of the past and of the new ones
    those up to itself. The builder makes it S × S, which fits no past, and the graph fails; so it is made S × (P + S)."""
    from onnx import helper

    ids = f"{MASK}/input_ids_subgraph"
    nodes = {node.name: node for node in graph.node}
    if f"{ids}/Where_2" not in nodes:
        return
    total, places = f"{ids}/Add_1/output_0", f"{ids}/places"
    nodes[f"{ids}/Concat_2"].input[1] = f"{ids}/Unsqueeze_3/output_0"  # P + S, for S
    begin, one = f"{MASK}/past_key_subgraph/Gather/output_0", "/model/constants/INT64/1"
    ends = nodes[f"{ids}/Add_2"]
    ends.input[0] = places
    column = helper.make_node("Unsqueeze", [ends.output[0], "/model/constants/INT64/[1]"], nodes[f"{ids}/Reshape"].output, f"{ids}/column")
    changed = [helper.make_node("Range", [begin, total, one], [places], places), ends, column]
    kept = [node for node in graph.node if node.name not in (ends.name, f"{ids}/Reshape")]
    at = next(i for i, node in enumerate(kept) if node.name == f"{ids}/Less")
    keep(graph.node, [*kept[:at], *changed, *kept[at:]])
    keep(graph.value_info, [v for v in graph.value_info if not v.name.startswith(MASK)])  # onnxruntime finds the shapes itself


def state_true_shapes(graph: Any) -> None:
    """Without what is said of heads repeated over the past (that they are as long as what is new): onnxruntime, which reuses memory by such
    words, then fails at the second token; without them it finds the shapes itself."""
    keep(graph.value_info, [v for v in graph.value_info if "/repeat_kv/" not in v.name])


def share_embedding(folder: Path) -> None:
    """Where the output layer of an int8 model is the embedding in 8 bits, look words up in it: the builder leaves the embedding in 32 bits
    besides, which in a small model is as much as all the rest."""
    import onnx

    model = onnx.load(str(folder / "model.onnx"))
    graph = model.graph
    held = {i.name: i for i in graph.initializer}
    tables = [n for n in graph.node if n.op_type == "Gather" and n.input[0] in held and len(held[n.input[0]].dims) == 2]
    products = [n for n in graph.node if n.op_type == "MatMulNBits"]
    both = next(((t, p) for t in tables for p in products if _is_rounded(held[t.input[0]], p, held)), None)
    if both is None:
        return
    embedding, (_, codes, scales) = both[0], both[1].input
    found = look_up(8, codes, scales, embedding.input[1], embedding.output[0])
    keep(graph.node, [new for node in graph.node for new in (found if node is embedding else [node])])
    keep(graph.initializer, [i for name, i in held.items() if name != embedding.input[0]])
    (folder / DATA).unlink()  # else what is saved would be put behind what is there
    onnx.save(model, str(folder / "model.onnx"), save_as_external_data=True, location=DATA)


def _is_rounded(table: Any, product: Any, held: Mapping[str, Any]) -> bool:
    """Whether a product's matrix is this table in 8 bits around 128, block by block, as far as its first rows tell."""
    import numpy as np
    from onnx import numpy_helper

    if {a.name: a.i for a in product.attribute}.get("bits") != 8 or len(product.input) != 3:
        return False
    codes, scales = (numpy_helper.to_array(held[name]) for name in product.input[1:])
    rows, columns = table.dims
    if scales.dtype != np.float32 or scales.size != codes.size // codes.shape[-1] or codes.size != rows * columns:
        return False
    scales = scales.reshape(codes.shape[:-1])[:FIRST, :, None]
    errors = (codes[:FIRST].astype(np.float32) - 128) * scales - numpy_helper.to_array(table)[:FIRST].reshape(codes[:FIRST].shape)
    return bool((np.abs(errors) <= 1.001 * np.abs(scales)).all())  # what is greatest may be a whole step off, and is rounded besides


def look_up(bits: int, table: str, scales: str, ids: str, rows: str, block: int = 0) -> list[Any]:
    """The nodes that look up rows of a table of 8-bit codes around 128, or of 4-bit codes around 8 in blocks of `block`: `table`, `scales`
    and `ids` are read, `rows` is written, and what lies between them is called after it."""
    from onnx import parser

    outside = {"table": table, "scales": scales, "ids": ids, "rows": rows}
    nodes = list(parser.parse_graph(LOOK_UP % (1 << bits - 1, BYTES if bits == 8 else HALVES % block)).node)
    for node in nodes:
        for names in (node.input, node.output):
            names[:] = [outside.get(name, f"{rows}/{name}") for name in names]
        node.name = node.output[0]
    return nodes


def keep(field: Any, kept: list[Any]) -> None:
    """Of what a list in a graph holds, these alone, in this order."""
    del field[:]
    field.extend(kept)
