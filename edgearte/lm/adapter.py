"""A PEFT adapter and its base become one model: merged, and held against what the two say side by side.

A merged model that answers otherwise than the adapted one has been a surprise of other tools; whoever converts it then blames the
converter. So the step is checked by itself.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edgearte.errors import UserError
from edgearte.files import TOKENIZER, copy_files
from edgearte.lm.general import GENERAL

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
VERSION = 1
MAX_KL = 0.005  # nats; what rounding the merged weights to 16 bits costs is a tenth of it


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter and no model."""
    return (folder / CONFIG).is_file() and not (folder / "config.json").is_file()


def base_of(folder: Path) -> str:
    """The model that an adapter belongs to, as its configuration names it; `UserError` with what is wrong with the adapter's files."""
    try:
        config = json.loads((folder / CONFIG).read_text("utf-8"))
        base = config.get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{folder}: {CONFIG} cannot be read: {error}") from error
    if not (folder / TENSORS).is_file():
        raise UserError(f"{folder}: {TENSORS} is missing; adapters are read from safetensors only, because a pickle can run any code")
    if not isinstance(base, str) or not base:
        raise UserError(f"{folder}: {CONFIG} does not say of which model it is an adapter (base_model_name_or_path)")
    beside = folder / base
    return str(beside) if beside.is_dir() else base


def merge(base: Path, adapter: Path, out: Path) -> None:
    """Write the merged model into `out`, in the base's precision, with the adapter's tokenizer where it brings one.

    Raises `UserError` where the adapter does not fit its base, or the merged model says something else than the adapted one.
    """
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    stored = json.loads((base / "config.json").read_text("utf-8"))
    if "quantization_config" in stored:
        raise UserError(f"{adapter}: its base {base} is quantized; name the model in 16 bits as {CONFIG}'s base_model_name_or_path")
    tokens = adapter if any(adapter.glob("tokenizer*")) else base
    tokenizer: Any = AutoTokenizer.from_pretrained(str(tokens), local_files_only=True)
    model: Any = AutoModelForCausalLM.from_pretrained(str(base), local_files_only=True, dtype="auto")
    own = model.dtype
    try:
        adapted: Any = PeftModel.from_pretrained(model.float(), str(adapter), local_files_only=True).eval()
    except (RuntimeError, ValueError, KeyError, OSError) as error:
        raise UserError(f"{adapter}: does not fit its base {base}: {str(error).splitlines()[0]}") from error
    texts = [tokenizer(text)["input_ids"] for text in GENERAL]
    before = [_said(adapted, ids) for ids in texts]
    merged = adapted.merge_and_unload()
    merged.to(own).save_pretrained(out)
    for folder in dict.fromkeys((base, tokens)):  # the adapter's files take the place of the base's
        copy_files(folder, out, (*TOKENIZER, "generation_config"))
    again = AutoModelForCausalLM.from_pretrained(str(out), local_files_only=True, dtype=torch.float32).eval()
    kl = torch.cat([(p.exp() * (p - _said(again, ids))).sum(-1) for p, ids in zip(before, texts, strict=True)]).mean().item()
    if not kl <= MAX_KL:
        raise UserError(
            f"{adapter}: merging it into {base} changes what the model says (KL {kl:.3f} nats, at most {MAX_KL:g}): "
            "the adapter was trained on another model than this one"
        )


def _said(model: Any, ids: list[int]) -> Any:
    import torch

    with torch.no_grad():
        return model(torch.tensor([ids]), use_cache=False).logits[0].float().log_softmax(-1)
