"""What a model makes of an answer: its last hidden states where it tells the answer's tokens, as their mean."""

from __future__ import annotations

from collections.abc import Sequence

from edgearte.lm.hf import TransformersLM
from edgearte.store import Store

VERSION = 2
ROWS = 8  # texts computed together


def pooled(model: TransformersLM, rows: Sequence[tuple[str, str]], store: Store) -> list[list[float]]:
    """For every (question, answer) a vector as wide as the model."""

    def compute(part: list[tuple[str, str]]) -> list[list[float]]:
        return [_one(model, question, answer) for question, answer in part]

    found: list[list[float]] = store.rows(
        "hidden", VERSION, {"model": model.identity}, [list(row) for row in rows], compute, chunk=1, together=ROWS, label="hidden states"
    )
    return found


def _one(model: TransformersLM, question: str, answer: str) -> list[float]:
    import torch

    tokenizer, network = model.tokenizer, model.model
    before = tokenizer(question, add_special_tokens=False)["input_ids"]
    whole = tokenizer(question + answer, add_special_tokens=False)["input_ids"]
    first = max(min(len(before), len(whole) - 1), 1)  # a token on the border belongs to the answer
    with torch.no_grad():
        states = network(torch.tensor([whole], device=network.device), output_hidden_states=True, use_cache=False).hidden_states[-1]
    mean: list[float] = states[0, first - 1 : -1].float().mean(0).tolist()
    return mean
