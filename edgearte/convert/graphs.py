"""What onnxruntime-genai's model builder writes wrongly into its graphs, mended: nodes and shapes, never weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

VERSION = 3  # of what is mended
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


def keep(field: Any, kept: list[Any]) -> None:
    """Of what a list in a graph holds, these alone, in this order."""
    del field[:]
    field.extend(kept)
