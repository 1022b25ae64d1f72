"""A GGUF file as a trainable model: read by transformers, saved as safetensors, read again and held to its metadata."""

from __future__ import annotations

import gc
import shutil
import tempfile
from pathlib import Path
from typing import Any

from edgearte.errors import UserError
from edgearte.lm.headers import GGUFHeader

VERSION = 1
# What a GGUF file holds is an approximation already, so above a billion parameters it is kept in bfloat16, in which it
# is trained anyway, at half the disk. Below, float32 costs little and loses nothing of what was dequantized.
LARGE = 1_000_000_000
# Two quantizations of one matrix differ by some percent (8 % at 4 bits), two different ones by more than 100 %.
SAME_MATRIX = 0.25


def stored_dtype(parameters: int) -> str:
    """The dtype that the converted weights are kept in."""
    return "bfloat16" if parameters > LARGE else "float32"


# Pre-tokenizers that take every digit by itself before GPT-2's rule. transformers reads the rule of GPT-2 alone from a GGUF file,
# which splits a digit after spaces in another way.
DIGITS_APART = ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b")


def convert(gguf: Path, header: GGUFHeader, folder: Path) -> None:
    """Write `gguf` into `folder` as config, safetensors and tokenizer files; the same bytes each time.

    Raises `UserError` where transformers cannot read the architecture, memory or disk are short, or what was written
    does not say the same as the GGUF metadata.
    """
    _space(gguf, header, folder)
    with tempfile.TemporaryDirectory() as empty:
        link = Path(empty) / "model.gguf"  # alone in a folder: transformers would prefer a config.json lying beside it
        link.symlink_to(gguf.resolve())
        try:
            save_tokenizer(link, header, folder)
            _save_model(link, header, folder)
        except OSError:  # a full disk is the store's to explain
            raise
        except Exception as error:  # the readers raise whatever they meet in the file, tokenizers a bare Exception
            raise UserError(f"{gguf}: cannot be made a trainable model: {type(error).__name__}: {error}") from error
    gc.collect()  # the model is gone before the check loads it again
    _verify(gguf, header, folder)


def _space(gguf: Path, header: GGUFHeader, folder: Path) -> None:
    import psutil

    parameters = sum(t.elements for t in header.tensors.values())
    written = parameters * (2 if stored_dtype(parameters) == "bfloat16" else 4)
    largest = max(t.elements for t in header.tensors.values())
    # Measured peaks: 1.2 GB for 0.13 B parameters, 3.8 for 0.63 B (both float32), 5.5 for 1.8 B (bfloat16). The weights
    # are held once; beside them one tensor at a time is unpacked in float32, and torch takes half a gigabyte itself.
    memory = 1.1 * written + 8 * largest + 0.7e9
    free = psutil.virtual_memory().available
    if free < memory:
        raise UserError(
            f"{gguf}: reading it as a trainable model takes about {memory / 1e9:.1f} GB of memory, "
            f"{free / 1e9:.1f} GB are free"
        )
    disk = shutil.disk_usage(folder).free
    if disk < written * 1.1:
        raise UserError(
            f"{gguf}: its weights take {written / 1e9:.1f} GB as safetensors in {folder.parent}, "
            f"{disk / 1e9:.1f} GB are free"
        )


def save_tokenizer(link: Path, header: GGUFHeader, folder: Path) -> None:
    """The tokenizer of a GGUF file in transformers' form, checked against what the file says of it."""
    from tokenizers import pre_tokenizers
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(link.parent, gguf_file=link.name, trust_remote_code=False)
    architecture = header.metadata["general.architecture"]
    for key in ("bos", "eos", "pad"):  # transformers has got these wrong before
        id_ = header.metadata.get(f"tokenizer.ggml.{'padding' if key == 'pad' else key}_token_id")
        if id_ is not None and getattr(tokenizer, f"{key}_token_id") != id_:
            setattr(tokenizer, f"{key}_token", tokenizer.convert_ids_to_tokens(int(id_)))
    if header.metadata.get("tokenizer.ggml.pre") in DIGITS_APART:
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ])  # fmt: skip
    tokenizer.chat_template = header.metadata.get("tokenizer.chat_template") or tokenizer.chat_template
    tokenizer.model_max_length = int(header.metadata.get(f"{architecture}.context_length", tokenizer.model_max_length))
    tokenizer.save_pretrained(folder)


def _save_model(link: Path, header: GGUFHeader, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, GgufConfig

    dtype = getattr(torch, stored_dtype(sum(t.elements for t in header.tensors.values())))
    model, info = AutoModelForCausalLM.from_pretrained(
        link.parent,
        gguf_file=link.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=dtype,
        output_loading_info=True,
        trust_remote_code=False,
    )
    if info["missing_keys"]:
        raise ValueError(f"the file lacks {', '.join(sorted(info['missing_keys'])[:5])}")
    if not model.config.tie_word_embeddings:
        _tie(model, header)
    ends = [header.metadata.get(f"tokenizer.ggml.{key}_token_id") for key in ("eos", "eot")]
    ids = list(dict.fromkeys(int(i) for i in ends if i is not None))
    if isinstance(model.generation_config.eos_token_id, int | None) and ids:
        model.generation_config.eos_token_id = ids if len(ids) > 1 else ids[0]
    model.save_pretrained(folder)


def _tie(model: Any, header: GGUFHeader) -> None:
    """Tie the output to the embedding where a quantizer stored one matrix twice, at different precision.

    Qwen2.5's small models are published tied; their GGUF files carry both. Untied, 0.49 B becomes 0.63 B parameters:
    the copies drift apart in training and are stored twice on the device. The more precise one is kept.
    """
    given, produced = model.get_input_embeddings(), model.get_output_embeddings()
    a, b = given.weight.data, produced.weight.data
    if a.shape != b.shape or float((a - b).float().norm() / a.float().norm()) > SAME_MATRIX:
        return
    if header.tensors["output.weight"].bits > header.tensors["token_embd.weight"].bits:
        given.weight.data = b
    produced.weight = given.weight
    model.config.tie_word_embeddings = True


def _verify(gguf: Path, header: GGUFHeader, folder: Path) -> None:
    """Load what was written, and hold it against the metadata: a wrong end token or template ruins everything later."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    metadata = header.metadata
    wrong = []
    for key in ("bos", "eos"):
        expected, got = metadata.get(f"tokenizer.ggml.{key}_token_id"), getattr(tokenizer, f"{key}_token_id")
        if expected is not None and got != expected:
            wrong.append(f"{key.upper()} token {got} instead of {expected}")
    if (template := metadata.get("tokenizer.chat_template")) and tokenizer.chat_template != template:
        wrong.append("another chat template")
    ids = tokenizer("The capital of France is", return_tensors="pt").input_ids
    begins = int(ids[0, 0]) == tokenizer.bos_token_id
    if "tokenizer.ggml.add_bos_token" in metadata and begins != metadata["tokenizer.ggml.add_bos_token"]:
        wrong.append(f"{'a' if begins else 'no'} BOS token before a text")
    model, info = AutoModelForCausalLM.from_pretrained(
        folder, dtype="auto", output_loading_info=True, use_safetensors=True, trust_remote_code=False
    )
    if info["missing_keys"]:
        wrong.append(f"no {', '.join(sorted(info['missing_keys'])[:5])}")
    with torch.inference_mode():
        if not bool(torch.isfinite(model(ids).logits).all()):
            wrong.append("logits that are not numbers")
    if wrong:
        raise UserError(
            f"{gguf}: read as a trainable model it gives {'; '.join(wrong)}; use the model's safetensors folder"
        )
