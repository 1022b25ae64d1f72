"""What can be wrong with a model's files, found from headers and JSON alone: quickly, and without loading a weight."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edgearte.lm import template
from edgearte.lm.headers import DAMAGED, BrokenFile, GGUFHeader, Stored, read_gguf, read_safetensors

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json")
EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight", "embed_in.weight", "tok_embeddings.weight")
TO_SAFETENSORS = (
    "weights are read from safetensors or GGUF only, because a pickle can run any code when it is opened; convert it "
    'where you trust it: python -c "from transformers import AutoModelForCausalLM as M; '
    "M.from_pretrained('FOLDER', use_safetensors=False).save_pretrained('FOLDER')\""
)


def gguf_problems(path: Path) -> list[str]:
    """Everything wrong with a GGUF file that its header tells."""
    try:
        header = read_gguf(path)
    except BrokenFile as error:
        return [str(error)]
    except OSError as error:
        return [f"cannot be read: {error.strerror or error}"]
    found = []
    try:
        if int(header.metadata.get("split.count", 1)) > 1:
            found.append("one part of a split GGUF file; join the parts with `llama-gguf-split --merge`")
        if "general.architecture" not in header.metadata:
            found.append("its metadata lacks general.architecture: not a language model")
        return found + _gguf_vocabulary(header) + _gguf_rope(header) + _templates(header.metadata.get("tokenizer.chat_template"))
    except DAMAGED as error:
        return [*found, f"its metadata holds values that no model has: {error}"]


def _gguf_vocabulary(header: GGUFHeader) -> list[str]:
    tokens = header.lengths.get("tokenizer.ggml.tokens", 0)
    if not tokens:
        return ["it carries no tokenizer (tokenizer.ggml.tokens)"]
    embedding = header.tensors.get("token_embd.weight")
    if embedding is None:
        return ["it has no token embedding (token_embd.weight): not a language model"]
    rows = embedding.shape[-1]  # GGUF writes the fastest dimension first
    found = [_differs(tokens, rows)] if tokens > rows else []
    for key in ("bos", "eos"):
        id_ = header.metadata.get(f"tokenizer.ggml.{key}_token_id")
        if id_ is not None and id_ >= tokens:
            found.append(f"its {key.upper()} token is number {id_}, but its tokenizer has {tokens:,} tokens")
    return found


def _gguf_rope(header: GGUFHeader) -> list[str]:
    """Scaled rotary positions are dropped in silence by transformers' GGUF reader: another model would be trained."""
    architecture = header.metadata.get("general.architecture", "")
    scaling = header.metadata.get(f"{architecture}.rope.scaling.type", "none")
    scaled = [name for name in header.tensors if name.startswith(("rope_freqs", "rope_factors"))]
    if (scaled or scaling != "none") and architecture != "gpt-oss":
        what = scaled[0] if scaled else f"rope.scaling.type = {scaling}"
        return [f"it scales its positions ({what}), which is lost on the way from GGUF to a trainable model; use the "
                "model's safetensors folder"]  # fmt: skip
    return []


def _templates(*templates: object) -> list[str]:
    return list(dict.fromkeys(why for t in templates if isinstance(t, str) and t and (why := template.problem(t))))


def _differs(tokens: int, rows: int) -> str:
    return (
        f"its vocabulary differs from its tokenizer: {rows:,} rows of embeddings, but the tokenizer has ids up to "
        f"{tokens - 1:,}; tokenizer and weights come from different models"
    )


def folder_problems(folder: Path) -> list[str]:
    """Everything wrong with a Hugging Face model folder that its small files and headers tell."""
    found: list[str] = []
    try:
        _folder(folder, found)
    except DAMAGED as error:
        found.append(f"its small files hold values that no model has: {error}")
    return found


def _folder(folder: Path, found: list[str]) -> None:
    config = _json(folder / "config.json", found)
    tensors = _weights(folder, found)
    if not any((folder / name).is_file() for name in TOKENIZERS):
        found.append(f"no tokenizer ({', '.join(TOKENIZERS[:3])})")
    found += _templates(*_folder_templates(folder, found))
    highest = highest_token(folder, found)
    rows = embedding_rows(tensors)
    declared = config.get("vocab_size", config.get("text_config", {}).get("vocab_size"))
    if rows and declared and rows != declared:
        found.append(f"config.json says vocab_size {declared:,}, the embeddings have {rows:,} rows")
    if highest is not None and (size := rows or declared) and highest >= size:
        found.append(_differs(highest + 1, size))
    if "auto_map" in config and not _native(str(config.get("model_type"))):
        found.append("its architecture is code in its repository (auto_map), and such code is never run")


def _json(path: Path, found: list[str]) -> dict[str, Any]:
    if not path.is_file():
        found.append(f"no {path.name}: not a Hugging Face model folder")
        return {}
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        found.append(f"{path.name} cannot be read: {error}")
        return {}
    if not isinstance(value, dict):
        found.append(f"{path.name} does not hold keys and values")
        return {}
    return value


def _folder_templates(folder: Path, found: list[str]) -> list[object]:
    """All chat templates: in a file of their own, or, as in older models, within the tokenizer's configuration, one or several by name."""
    own = [path.read_text("utf-8", "replace") for path in sorted(folder.glob("*.jinja"))]
    config = folder / "tokenizer_config.json"
    inside = _json(config, found).get("chat_template") if config.is_file() else None
    named = [t.get("template") for t in inside if isinstance(t, dict)] if isinstance(inside, list) else [inside]
    return [*own, *named]


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a folder, sorted by name."""
    return sorted(folder.glob("*.safetensors"))


def _weights(folder: Path, found: list[str]) -> dict[str, Stored]:
    files = weight_files(folder)
    if not files:
        pickles = sorted(p.name for p in folder.iterdir() if p.suffix in PICKLES)
        found.append(f"holds only pickled weights ({pickles[0]}): {TO_SAFETENSORS}" if pickles else "no *.safetensors")
        return {}
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        parts = set(_json(index, found).get("weight_map", {}).values())
        missing = sorted(parts - {f.name for f in files})
        found += [f"{name} is missing, which {index.name} names" for name in missing]
    tensors: dict[str, Stored] = {}
    for file in files:
        try:
            tensors |= read_safetensors(file)
        except BrokenFile as error:
            found.append(f"{file.name}: {error}")
        except OSError as error:
            found.append(f"{file.name}: cannot be read: {error.strerror or error}")
    return tensors


def embedding_rows(tensors: dict[str, Stored]) -> int:
    """Rows of the token embedding, 0 where no tensor has one of the usual names."""
    return next((t.shape[0] for t in tensors.values() if t.name.endswith(EMBEDDINGS)), 0)


def highest_token(folder: Path, found: list[str]) -> int | None:
    """The highest id the tokenizer can give; None where there is no tokenizer.json to ask."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        return None
    tokenizer = _json(path, found)
    try:
        vocabulary = tokenizer.get("model", {}).get("vocab", {})
        ids = vocabulary.values() if isinstance(vocabulary, dict) else range(len(vocabulary))
        return max([*ids, *(t["id"] for t in tokenizer.get("added_tokens", []))], default=None)
    except (AttributeError, KeyError, TypeError) as error:
        found.append(f"tokenizer.json is not one of the tokenizers library: {error}")
        return None


def _native(model_type: str) -> bool:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    return model_type in CONFIG_MAPPING_NAMES
