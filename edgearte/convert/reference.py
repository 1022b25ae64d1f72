"""The checkpoint's side of the gates: what its own tokenizer, template, configuration and fp32 logits say."""

from __future__ import annotations

import json
import shutil
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgearte.convert.strings import awkward
from edgearte.convert.wide import load, widened
from edgearte.errors import UserError

POSITIONS = 1024  # the standard error of the mean KL is then a few percent of it
WINDOW = 256  # tokens seen at once; longer texts are cut into windows
LONG, LAST = 1024, 256  # tokens of the long text, and how many of its positions are compared
PROMPTS, NEW_TOKENS = 8, 48  # how far the checkpoint is followed in the search for answers that end

HI = {"role": "user", "content": "What is 2+2? Say \"four\" – or {{ 'quatre' }}.\n\n  Indented, 日本語 🙂"}
CONVERSATIONS: list[tuple[list[dict[str, str]], bool]] = [
    ([HI], True),
    ([{"role": "system", "content": "You are terse."}, HI], True),
    ([HI, {"role": "assistant", "content": "4\n"}, {"role": "user", "content": "And 3+3?"}], True),
    ([{"role": "system", "content": ""}, HI, {"role": "assistant", "content": " Four. "}, HI], True),
    ([HI, {"role": "assistant", "content": "It is <b>4</b>."}], False),
]


@dataclass(frozen=True)
class Reference:
    """Everything an artifact is compared with.

    `logprobs` is a .npy file, positions × vocabulary, in nats: the windows' positions in order; `long_logprobs` another, of the last
    positions of the `long` text. `templates` are the rendered conversations; None where the checkpoint's template refuses one, or
    there is none. `together` are prompts of several lengths, to be answered in one batch.
    """

    strings: list[tuple[str, str]]
    ids: list[list[int]]
    plain: list[bool]  # whether the string is ordinary text; see `ordinary`
    templates: list[str | None]
    eos: list[int]  # ids at which the checkpoint's generation stops
    tokenizer_eos: int | None
    bos: list[int]
    windows: list[list[int]]
    logprobs: Path
    long: list[int]
    long_logprobs: Path
    together: list[list[int]]
    endings: list[dict[str, list[int]]]  # prompts whose greedy answer ended: prompt ids, answer ids without EOS
    prompts_tried: int


def read_reference(checkpoint: Path, texts: Sequence[str], chat: Sequence[str], folder: Path) -> Reference:
    """Run the checkpoint once for all artifacts on the CPU, its logits in 32 bits; large results are written into `folder`."""
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(str(checkpoint), local_files_only=True)
    strings = awkward(sorted(tokenizer.get_added_vocab()))
    eos, bos = _ends(checkpoint, tokenizer)
    windows = _windows(tokenizer, texts)
    model = load(checkpoint)
    logprobs, long_logprobs = folder / "reference.npy", folder / "reference-long.npy"
    long = _long(tokenizer, texts, model.config.get_text_config().max_position_embeddings)
    with widened(model):
        write_logprobs(model, windows, logprobs)
        write_logprobs(model, [long], long_logprobs, LAST)
    prompts = [tokenizer(p, add_special_tokens=False).input_ids for p in chat[:PROMPTS]]
    return Reference(
        strings=strings,
        ids=tokenizer([text for _, text in strings]).input_ids,
        plain=[ordinary(text, tokenizer) for _, text in strings],
        templates=[_render(tokenizer, messages, prompt) for messages, prompt in CONVERSATIONS],
        eos=eos,
        tokenizer_eos=tokenizer.eos_token_id,
        bos=bos,
        windows=windows,
        logprobs=logprobs,
        long=long,
        long_logprobs=long_logprobs,
        together=_together(long, {*eos, tokenizer.eos_token_id, tokenizer.pad_token_id}),
        endings=_endings(model, [p for p in prompts if p], eos),
        prompts_tried=len(prompts),
    )


def ordinary(text: str, tokenizer: Any) -> bool:
    """Whether all runtimes must agree on the text.

    Not where it holds control characters, private or unassigned code points (each library has its own Unicode tables),
    nor where the tokenizer's own normalizer would rewrite it: edge runtimes carry none.
    """
    if any(unicodedata.category(c) in ("Cc", "Cn", "Co") and c not in "\t\n\r" for c in text):
        return False
    backend = getattr(tokenizer, "backend_tokenizer", None)
    normalizer = backend.normalizer if backend is not None else None
    # A normalizer that touches plain words writes SentencePiece's "▁": that encodes all text, and rewrites none.
    if normalizer is None or normalizer.normalize_str("a b") != "a b":
        return True
    return bool(normalizer.normalize_str(text) == text)


def _ends(checkpoint: Path, tokenizer: Any) -> tuple[list[int], list[int]]:
    """Ids that end generation (`generate` takes generation_config.json before config.json), and ids called BOS."""
    eos: list[int] = []
    bos: set[int] = {tokenizer.bos_token_id} - {None}
    for name in ("generation_config.json", "config.json"):
        path = checkpoint / name
        data = json.loads(path.read_text("utf-8")) if path.is_file() else {}
        found = data.get("eos_token_id")
        if found is not None and not eos:
            eos = sorted(set(found if isinstance(found, list) else [found]))
        if data.get("bos_token_id") is not None:
            bos.add(data["bos_token_id"])
    if not eos and tokenizer.eos_token_id is not None:
        eos = [tokenizer.eos_token_id]
    return eos, sorted(bos)


def _windows(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    windows: list[list[int]] = []
    left = POSITIONS
    for text in texts:
        ids = tokenizer(text).input_ids[:left]
        windows += [ids[i : i + WINDOW] for i in range(0, len(ids), WINDOW)]
        left -= len(ids)
        if not left:
            break
    if not windows:
        raise UserError("the logit gate has no held-out text to compare on: give it some")
    return windows


def _long(tokenizer: Any, texts: Sequence[str], context: int) -> list[int]:
    """The texts in one, over and over where they are short, as long as the model's `context` lets it be."""
    ids = [token for text in texts for token in tokenizer(text).input_ids]
    most = min(LONG, context)
    return (ids * -(-most // len(ids)))[:most]


def _together(ids: Sequence[int], ends: set[int | None]) -> list[list[int]]:
    """Four beginnings of several lengths; none that ends as a filled-up one does."""
    cuts = [list(ids[start : start + length]) for start, length in ((0, 8), (64, 16), (128, 24), (192, 32))]
    for cut in cuts:
        while cut and cut[-1] in ends:
            cut.pop()
    return [cut for cut in cuts if cut]


def _render(tokenizer: Any, messages: list[dict[str, str]], prompt: bool) -> str | None:
    from jinja2 import TemplateError

    if not tokenizer.chat_template:
        return None
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt))
    except TemplateError:  # a template may refuse a conversation: no system role, say
        return None


def write_logprobs(model: Any, windows: list[list[int]], path: Path, last: int | None = None) -> None:
    """What the model gives each word at every position of the windows, or the `last` ones of each. On disk, not in memory: 1024
    positions of a vocabulary of 152k are 0.6 GB."""
    import numpy as np
    import torch

    shape = (sum(min(last or len(w), len(w)) for w in windows), model.config.get_text_config().vocab_size)
    need, free = 4 * shape[0] * shape[1], shutil.disk_usage(path.parent).free
    if need > free:
        raise UserError(
            f"{path.parent}: the logit gate needs {need / 1e9:.1f} GB for a while, {free / 1e9:.1f} GB are free"
        )
    with path.open("wb") as out, torch.inference_mode():
        np.lib.format.write_array_header_1_0(out, {"descr": "<f4", "fortran_order": False, "shape": shape})
        for ids in windows:
            logits = model(torch.tensor([ids]), use_cache=False, logits_to_keep=min(last or 0, len(ids))).logits[0].float()
            out.write(torch.log_softmax(logits, dim=-1).numpy().data)


def _endings(model: Any, prompts: list[list[int]], eos: list[int]) -> list[dict[str, list[int]]]:
    """Greedy answers of the checkpoint that end with EOS within NEW_TOKENS."""
    import torch
    from transformers import GenerationConfig

    if not prompts or not eos:
        return []
    longest = max(map(len, prompts))
    padded = torch.tensor([[eos[0]] * (longest - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
    # A configuration of our own: the checkpoint's may ask for sampling or a repetition penalty.
    greedy = GenerationConfig(do_sample=False, max_new_tokens=NEW_TOKENS, eos_token_id=eos, pad_token_id=eos[0])
    with torch.inference_mode():
        out = model.generate(input_ids=padded, attention_mask=mask, generation_config=greedy)
    endings = []
    for prompt, row in zip(prompts, out[:, longest:].tolist(), strict=True):
        stop = next((i for i, token in enumerate(row) if token in eos), None)
        if stop is not None:
            endings.append({"prompt": prompt, "answer": row[:stop]})
    return endings
