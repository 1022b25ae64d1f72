"""A child process: `python -m edgearte.convert.quantize REQUEST.json` through llama.cpp's own quantizer.

The request has `source` (an f16 GGUF file), `out`, `type`, and as it likes `imatrix` (a file) and `tensors` (a type for each tensor of
that name, in place of what llama.cpp would take).
"""

from __future__ import annotations

import ctypes
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def main(request: str) -> int:
    import llama_cpp

    asked = json.loads(Path(request).read_text("utf-8"))
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{asked['type'].upper()}")
    params.nthread = 0
    held = [_given(params, asked), _typed(params, asked.get("tensors", {}))]  # what the parameters point to must outlive the call
    llama_cpp.llama_backend_init()
    done = int(llama_cpp.llama_model_quantize(asked["source"].encode(), asked["out"].encode(), params))
    del held
    return done


def _given(params: Any, asked: Mapping[str, Any]) -> Any:
    """The importance matrix, as the C structure that ends with an empty one."""
    if not asked.get("imatrix"):
        return None
    import llama_cpp

    from edgearte.convert import imatrix

    found = imatrix.read(Path(asked["imatrix"]))
    kept = {name.encode(): found.importance(name) for name in found.sums}
    rows = (llama_cpp.llama_model_imatrix_data * (len(kept) + 1))()
    for row, (name, values) in zip(rows, kept.items(), strict=False):
        row.name, row.size = name, values.size
        row.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    params.imatrix = rows
    return rows, kept


def _typed(params: Any, tensors: Mapping[str, str]) -> Any:
    """Types by tensor, as patterns that match one name each."""
    if not tensors:
        return None
    import gguf
    import llama_cpp

    rows = (llama_cpp.llama_model_tensor_override * (len(tensors) + 1))()
    for row, (name, type) in zip(rows, tensors.items(), strict=False):
        row.pattern = f"^{re.escape(name)}$".encode()
        row.type = int(gguf.GGMLQuantizationType[type.upper()])
    params.tt_overrides = rows
    return rows


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
