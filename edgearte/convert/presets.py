"""Export presets: one YAML file each says what to make of a checkpoint, for which runtime, and how far it may stray."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from edgearte import catalogue
from edgearte.errors import Problem, UserError

BROWSER = "transformers.js"
TYPES = {
    "gguf": ("f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q4_k_m", "q4_0", "iq4_nl", "iq4_xs", "q3_k_m", "q2_k", "mixed"),
    "onnx": ("fp32", "fp16", "int8", "int4", "int4_k"),
}
# What a mixed preset may be given: at most the size of another type, or so many bits a weight; the least size at which it loses no more
# than another type, or than so many nats; or at most the time that another type takes for a decoded token on this machine.
BUDGETS = ("size_of", "bits", "kl_of", "kl", "speed_of")
OF_ANOTHER = ("size_of", "kl_of", "speed_of")  # named by a type
CHECKED = ("kl_of", "kl", "speed_of")  # on the real file
# How a type is calibrated on texts: by llama.cpp's importance matrix, or rounded by GPTQ, which knows these types only.
CALIBRATIONS = {"gguf": ("none", "imatrix", "gptq"), "onnx": ("none", "gptq")}
GPTQ = ("q4_0", "iq4_nl", "int4")
# The first of a format judges on this machine what is made for the others.
RUNTIMES = {"gguf": ("llama.cpp",), "onnx": ("onnxruntime-genai", BROWSER)}


@dataclass(frozen=True)
class Preset:
    """What to make (`format`, `type`), whether it is calibrated on texts, what runs it, and the logit gate: mean KL divergence
    from the checkpoint at most `max_kl` nats, the same most likely token at no less than the fraction `min_top1` of positions."""

    name: str
    format: str
    type: str
    calibration: str  # none | imatrix | gptq
    runtime: str
    about: str
    max_kl: float
    min_top1: float
    budget: Mapping[str, Any] = field(default_factory=dict)  # of a mixed one, see BUDGETS
    split: int | None = None  # megabytes (10^6 bytes) that a GGUF file may have; a larger one is put into parts
    heal: bool = False  # of one rounded by gptq: whether the checkpoint then teaches its scales, kept if the gate is better for it


OPTIONAL = ("budget", "split", "heal")


def load_preset(name: str) -> Preset:
    """The preset of that catalogue name, or of a user's own YAML file. `UserError` names all mistakes in the file."""
    path = catalogue.find("export", name)
    data = catalogue.load("export", name)
    problems = [Problem(message, where=str(path)) for message in _mistakes(data)]
    if problems:
        raise UserError(problems)
    numbers = {"max_kl": float(data["max_kl"]), "min_top1": float(data["min_top1"])}
    return Preset(**{**data, **numbers})


def _mistakes(data: dict[str, Any]) -> list[str]:
    known = [f.name for f in fields(Preset)]
    found = []
    for key in data:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, 1)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
            found.append(f"unknown key {key!r}; {hint}")
    found += [f"missing key {key!r}" for key in known if key not in data and key not in OPTIONAL]
    if found:
        return found
    for key in ("name", "format", "type", "calibration", "runtime", "about"):
        if not isinstance(data[key], str) or not data[key].strip():
            found.append(f"{key}: expected text, found {data[key]!r}")
    for key, low, high in (("max_kl", 0.0, float("inf")), ("min_top1", 0.0, 1.0)):
        value = data[key]
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            found.append(f"{key}: expected a number from {low:g} to {high:g}, found {value!r}")
    if found:
        return found
    if data["format"] not in TYPES:
        return [f"format: {data['format']!r} is not known; known: {', '.join(TYPES)}"]
    if data["type"] not in TYPES[data["format"]]:
        found.append(f"type: {data['format']} has no {data['type']!r}; known: {', '.join(TYPES[data['format']])}")
    found += _budget_mistakes(data)
    if not isinstance(data.get("heal", False), bool) or (data.get("heal") and data["calibration"] != "gptq"):
        found.append("heal: true or false, and true where calibration is gptq alone")
    split = data.get("split")
    if split is not None and (isinstance(split, bool) or not isinstance(split, int) or split < 1 or data["format"] != "gguf"):
        found.append(f"split: whole megabytes that a file of GGUF may have, found {split!r}")
    if data["calibration"] not in CALIBRATIONS[data["format"]]:
        allowed = ", ".join(CALIBRATIONS[data["format"]])
        found.append(f"calibration: {data['format']} has no {data['calibration']!r}; known: {allowed}")
    elif data["calibration"] == "gptq" and data["type"] not in GPTQ:
        found.append(f"calibration: gptq rounds to {', '.join(GPTQ)}, not to {data['type']!r}")
    if data["runtime"] not in RUNTIMES[data["format"]]:
        found.append(f"runtime: {data['format']} is run by {' or '.join(RUNTIMES[data['format']])}, not {data['runtime']!r}")
    elif data["runtime"] == BROWSER and data["type"] != "int4":
        found.append(f"runtime: what {BROWSER} loads is made of int4, not of {data['type']!r}")
    return found


def _budget_mistakes(data: dict[str, Any]) -> list[str]:
    budget = data.get("budget")
    if data["type"] != "mixed":
        return ["budget: only a mixed type has one"] if budget is not None else []
    if not isinstance(budget, dict) or len(budget) != 1 or next(iter(budget)) not in BUDGETS:
        return [f"budget: a mixed type needs one of {', '.join(BUDGETS)}, found {budget!r}"]
    ((kind, value),) = budget.items()
    known = [t for t in TYPES["gguf"] if t != "mixed"]
    if kind in OF_ANOTHER and value not in known:
        return [f"budget: {kind} names a type of {', '.join(known)}, found {value!r}"]
    if kind in ("bits", "kl") and (isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf")):
        return [f"budget: {kind} is a number above 0, found {value!r}"]
    return ["calibration: a mixed type is chosen by what texts show; set it to imatrix"] if data["calibration"] != "imatrix" else []
