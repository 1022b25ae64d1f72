"""What edgearte adds to transformers' decoding loop: samples keyed per row, stops at a text, and patterns to be matched."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


class KeyedSampling:
    """Sampling as a logits processor in front of a greedy choice: the token is picked by inverting the cumulative distribution
    at a uniform number that is keyed by (row seed, step), so a row's sample depends on nothing but the row."""

    def __init__(self, seeds: Sequence[int], start: int, temperature: float, top_p: float) -> None:
        self.seeds, self.start, self.temperature, self.top_p = list(seeds), start, temperature, top_p

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        import torch
        from transformers import TopPLogitsWarper

        scores = scores.float() / self.temperature
        if self.top_p < 1:
            scores = TopPLogitsWarper(self.top_p)(input_ids, scores)
        cumulative = scores.softmax(-1).double().cumsum(-1)
        step = input_ids.shape[1] - self.start
        uniform = torch.tensor([[_uniform(s, step)] for s in self.seeds], dtype=torch.float64, device=scores.device)
        chosen = torch.searchsorted(cumulative, uniform * cumulative[:, -1:]).clamp(max=scores.shape[-1] - 1)
        return torch.full_like(scores, float("-inf")).scatter(1, chosen, 0.0)


def _uniform(seed: int, step: int) -> float:
    import numpy as np

    return float(np.random.Generator(np.random.Philox(key=[seed, step])).random())


class StopAtText:
    """Ends a row once its new text holds one of the stop strings."""

    WINDOW = 24  # tokens looked at: longer than any stop string in use

    def __init__(self, tokenizer: Any, start: int, stop: Sequence[str]) -> None:
        self.tokenizer, self.start, self.stop = tokenizer, start, tuple(stop)

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        import torch

        tail = input_ids[:, max(self.start, input_ids.shape[1] - self.WINDOW) :]
        texts = self.tokenizer.batch_decode(tail, skip_special_tokens=True)
        hits = [any(s in text for s in self.stop) for text in texts]
        return torch.tensor(hits, device=input_ids.device)


class Patterns:
    """Constrained decoding: each row's completion must match its regular expression (llguidance keeps the automata)."""

    def __init__(self, tokenizer: Any, patterns: Sequence[str], start: int, eos: Sequence[int]) -> None:
        import llguidance

        self.start, self.eos = start, list(eos)
        self.matchers = [
            llguidance.LLMatcher(tokenizer, llguidance.LLMatcher.grammar_from_regex(p)) if p else None for p in patterns
        ]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        import llguidance.numpy
        import numpy as np
        import torch

        width = scores.shape[-1]
        for row, matcher in enumerate(self.matchers):
            if matcher is None:
                continue
            if input_ids.shape[1] > self.start and not matcher.is_stopped():
                matcher.consume_token(int(input_ids[row, -1]))
            if matcher.is_stopped():
                keep = torch.tensor(self.eos, device=scores.device)
                scores[row] = torch.full_like(scores[row], float("-inf")).index_fill(0, keep, 0.0)
                continue
            # llguidance's own torch helper compiles C++ at its first call; unpacking the bits takes no time either.
            packed = llguidance.numpy.allocate_token_bitmask(1, width)
            llguidance.numpy.fill_next_token_bitmask(matcher, packed, 0)
            allowed = np.unpackbits(packed.view(np.uint8), bitorder="little")[:width].astype(bool)
            scores[row].masked_fill_(torch.from_numpy(~allowed).to(scores.device), float("-inf"))
        return scores


def grammar_tokenizer(tokenizer: Any, vocabulary: int) -> Any:
    """The tokenizer as llguidance wants it; `vocabulary` is the width of the logits."""
    import llguidance.hf

    return llguidance.hf.from_tokenizer(tokenizer, n_vocab=max(vocabulary, len(tokenizer)))
