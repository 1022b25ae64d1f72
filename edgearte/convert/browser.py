"""An int4 ONNX folder laid out for transformers.js: what a browser loads, and onnxruntime-genai and plain onnxruntime load as before.

    config.json  generation_config.json  genai_config.json  tokenizer.json  …  onnx/model_q4.onnx  onnx/model_q4.onnx_data

Beside files and names, one thing in the graph of onnxruntime-genai's builder is another. The embedding shares the output layer's int4
weights and is looked up by `GatherBlockQuantized`, for which onnxruntime-web has no kernel in WebAssembly; nodes that every onnxruntime
has look up the same rows of the same weights.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edgearte.child import ChildFailed
from edgearte.convert.graphs import DATA, keep, look_up

MODEL = "onnx/model_q4.onnx"  # transformers.js finds a model by its dtype, here q4, and its weights beside it under that name and _data
LAYOUT = "2"  # of what `lay_out` writes
SETTINGS = {"dtype": "q4", "use_external_data_format": True}  # so that nobody has to say either when loading


def lay_out(folder: Path, checkpoint: Path) -> None:
    """Make the int4 folder that the builder wrote of a checkpoint into one that transformers.js loads too. The weights stay as they are."""
    import onnx

    path = folder / MODEL
    path.parent.mkdir()
    model = onnx.load(str(folder / "model.onnx"), load_external_data=False)
    look_up_plainly(model.graph)
    for initializer in model.graph.initializer:
        for entry in initializer.external_data:
            if entry.key == "location":
                entry.value = f"{path.name}_data"
    onnx.save(model, str(path))
    (folder / DATA).rename(path.with_name(f"{path.name}_data"))
    (folder / "model.onnx").unlink()
    genai = json.loads((folder / "genai_config.json").read_text("utf-8"))
    genai["model"]["decoder"]["filename"] = MODEL
    _write(folder / "genai_config.json", genai)
    config = json.loads((checkpoint / "config.json").read_text("utf-8"))
    config.pop("_name_or_path", None)  # of the machine it was taught on
    _write(folder / "config.json", config | {"transformers.js_config": SETTINGS})
    generation = checkpoint / "generation_config.json"
    if generation.is_file():
        _write(folder / generation.name, json.loads(generation.read_text("utf-8")))
    _for_its_tokenizer(folder)


def _for_its_tokenizer(folder: Path) -> None:
    """transformers.js looks for a chat template nowhere but in the tokenizer's configuration; and what every browser fetches is written
    without white space."""
    template = folder / "chat_template.jinja"
    if template.is_file():
        config = folder / "tokenizer_config.json"
        _write(config, {**json.loads(config.read_text("utf-8")), "chat_template": template.read_text("utf-8")})
    tokenizer = folder / "tokenizer.json"
    data = json.loads(tokenizer.read_text("utf-8"))
    tokenizer.write_text(json.dumps(data, ensure_ascii=False, separators=(",", ":")), "utf-8")


def look_up_plainly(graph: Any) -> None:
    """Put the nodes of `look_up` in the place of each `GatherBlockQuantized`. `ChildFailed` where a table is quantized otherwise than
    uint8, two symmetric 4-bit codes a byte."""
    from onnx import TensorProto

    kinds = {i.name: i.data_type for i in graph.initializer}
    flattened = {n.output[0]: n.input[0] for n in graph.node if n.op_type == "Reshape" and n.input[0] in kinds}
    nodes: list[Any] = []
    for node in graph.node:
        if node.op_type != "GatherBlockQuantized":
            nodes.append(node)
            continue
        how = {a.name: a.i for a in node.attribute}
        # The table is read as it lies in the file, [rows, blocks, bytes]: flattened first, it would be copied when the model is loaded.
        table, (_, ids, scales, *zeros) = flattened.get(node.input[0], node.input[0]), node.input
        known = (how.get("bits", 4), how.get("gather_axis", 0), kinds.get(table), kinds.get(scales))
        if known != (4, 0, TensorProto.UINT8, TensorProto.FLOAT) or zeros:
            raise ChildFailed("the embedding is quantized in a way that a browser has no kernel for")
        nodes += look_up(4, table, scales, ids, node.output[0], how["block_size"])
    gone: set[str] = set()
    for kind in ("Reshape", "Constant"):  # the one that flattened the table has no reader now, and then its shape has none
        read = {o.name for o in graph.output}.union(*(n.input for n in nodes))
        gone |= {n.output[0] for n in nodes if n.op_type == kind and n.output[0] not in read}
        nodes = [n for n in nodes if n.output[0] not in gone]
    keep(graph.node, nodes)
    keep(graph.value_info, [v for v in graph.value_info if v.name not in gone])


def _write(path: Path, data: Any) -> None:
    path.write_text(json.dumps(data, ensure_ascii=False, indent=2) + "\n", "utf-8")
