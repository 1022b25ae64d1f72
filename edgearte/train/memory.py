"""What a training will hold in memory on a processor, foretold from the model's shape and the batch.

With P all parameters, A those that are trained, T tokens of a part (`trie`), K of them predicted, L layers, H the hidden size, I that of
the feed-forward layer, N attention heads, S the longest text and V the vocabulary, in bytes:

    process     450 MB: torch, transformers, TRL and PEFT
    weights     4 P in float32, and 2 P more while autocast holds them in bfloat16; 2 P + 4 A for an adapter on bfloat16 weights
    training    12 A: the gradients, and AdamW's two moments, in float32
    best point  2 P, or 4 A of an adapter, where examples are held out: the trained weights as they were at the lowest loss
    activations T L (28 H + 8 I): what the norms keep in float32 (16 H; 8 H where the weights are bfloat16), the inputs of the linear
                layers (12 H) and what the gated feed-forward keeps (8 I)
    attention   T L (6 N S + 12 H): the probabilities in float32 and in bfloat16; the queries and keys in float32, the values
    adapter     T L (24 H + 4 I), only with LoRA: the linear layers' inputs in float32, which PEFT makes and the allocator holds on to
    head        12 K V: the logits in bfloat16 once and once more for their gradient, and float32 while they are exponentiated

Everything else is small: the optimizer's step reuses what is there, the reference's log-probabilities keep no activations, and a saved
model is smaller than a step.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgearte.train import trie
from edgearte.train.trie import Text

PROCESS = 450 * 10**6


@dataclass(frozen=True)
class Part:
    """What is computed at once: tokens, how many of them are predicted, and the tokens of its longest text."""

    tokens: int
    answers: int
    longest: int


def foretell(folder: Path, part: Part, *, dtype: str, lora_rank: int, mixed: bool = True, held_out: bool = False) -> int:
    """Bytes at the peak of training the checkpoint in `folder` (formula above), if `part` is the largest.

    `dtype` are the weights' (all weights are always trained in float32); `mixed`: computed in bfloat16 (`common.bf16`); `held_out`: the
    best point is kept (`held_out.Looks`).
    """
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder).get_text_config()
    layers, hidden, inner = config.num_hidden_layers, config.hidden_size, config.intermediate_size
    everything, trained = parameters(config, lora_rank)
    wide = dtype == "float32" or not lora_rank
    half = 2 if mixed else 4
    weights = (4 if wide else 2) * everything + (2 * everything if wide and mixed else 0) + (4 * trained if lora_rank else 0)
    kept = (8 * 2 if wide else 4 * 2) * hidden + 6 * half * hidden + 4 * half * inner
    attention = (4 + half) * config.num_attention_heads * part.longest + 12 * hidden
    cast = 24 * hidden + 4 * inner if lora_rank else 0
    head = (2 * half + 8) * part.answers * config.vocab_size
    best = (4 * trained if lora_rank else 2 * everything) if held_out else 0
    total: int = PROCESS + weights + best + 12 * trained + part.tokens * layers * (kept + attention + cast) + head
    return total


def parameters(config: Any, lora_rank: int) -> tuple[int, int]:
    """All parameters of a model, and those that are trained. Counted on a model that has no memory."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    everything = sum(p.numel() for p in model.parameters())
    if not lora_rank:
        return everything, everything
    head = model.get_output_embeddings()
    linear = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and m is not head]
    return everything, sum(lora_rank * (m.in_features + m.out_features) for m in linear)


def largest(batches: Iterable[Sequence[Sequence[Text]]]) -> Part:
    """The most that any part of some batches of groups of texts has."""
    rows = [part for groups in batches for part in trie.parts(groups, shared=True) if isinstance(part, trie.Row)]
    return Part(
        tokens=max(len(r.ids) for r in rows),
        answers=max(sum(len(t.targets()) for t in r.texts) for r in rows),
        longest=max(max(map(len, r.paths)) for r in rows),
    )
