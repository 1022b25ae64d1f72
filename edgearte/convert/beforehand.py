"""What can be said of an export before any of its work: whether the converters know the architecture, whether there is room."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

from edgearte.convert.presets import Preset
from edgearte.errors import Problem
from edgearte.files import disk_free

GB = 1e9
# Bytes a weight, roughly, of a file of each type; a type that is not here takes no more than 16 bits.
PER_WEIGHT = {"fp32": 4.0, "int8": 2.0, "q8_0": 1.1, "q6_k": 1.1, "q5_k_m": 0.9, "q4_k_m": 0.8, "int4": 1.0, "int4_k": 1.0, "q4_0": 0.7,
              "iq4_nl": 0.7, "iq4_xs": 0.7, "q3_k_m": 0.7, "q2_k": 0.6, "mixed": 0.8}  # fmt: skip


def unknown(checkpoint: Path, formats: Iterable[str]) -> dict[str, str]:
    """Why a format cannot be made of a Hugging Face folder at all, by format; formats that can are not in it."""
    try:
        named = json.loads((checkpoint / "config.json").read_text("utf-8")).get("architectures") or []
    except (OSError, ValueError, AttributeError):
        return {}  # what reads the checkpoint says it better
    found = {}
    for format in dict.fromkeys(formats):
        known = architectures(format)
        if named and known and named[0] not in known:
            found[format] = f"{named[0]} is an architecture that its converter does not know; it knows {', '.join(known)}"
    return found


@cache
def architectures(format: str) -> tuple[str, ...]:
    """The architectures a converter knows, read in its source without running it; none where it is not installed."""
    if format == "gguf":
        spec = importlib.util.find_spec("conversion")
        tables = [
            ast.literal_eval(node.value)
            for node in (ast.parse(Path(spec.origin).read_text("utf-8")).body if spec and spec.origin else [])
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == "TEXT_MODEL_MAP" and node.value
        ]
        return tuple(sorted(name for table in tables for name in table))
    spec = importlib.util.find_spec("onnxruntime_genai")
    builder = Path(spec.origin).parent / "models" / "builder.py" if spec and spec.origin else None
    text = builder.read_text("utf-8") if builder and builder.is_file() else ""
    return tuple(sorted(set(re.findall(r'architectures\[0\] == "(\w+)"', text))))


def room(parameters: int, presets: Sequence[Preset], folder: Path) -> list[Problem]:
    """What a model of so many parameters lacks here: disk in `folder` for its conversions and their copies, and memory for the checkpoint,
    which every artifact is compared with; in float32 where it is rounded, or its types chosen, by what its layers meet."""
    in_full = any(p.calibration == "gptq" or p.type == "mixed" for p in presets)
    disk = parameters * sum([2.0, *(2 * PER_WEIGHT.get(p.type, 2.0) for p in presets)])
    return lacking((4.0 if in_full else 3.0) * parameters, disk, folder)


def lacking(memory: float, disk: float, folder: Path, advice: str = "") -> list[Problem]:
    """What of so many bytes of memory, and of disk in `folder`, is not there; with `advice` on taking less memory."""
    import psutil

    problems = []
    free, left = psutil.virtual_memory().available, disk_free(folder)
    if memory > free:
        problems.append(Problem(f"memory: about {memory / GB:.1f} GB are needed and {free / GB:.1f} GB are free{advice}"))
    if disk > left:
        problems.append(Problem(f"disk: about {disk / GB:.1f} GB are needed and {left / GB:.1f} GB are free", str(folder.absolute())))
    return problems
