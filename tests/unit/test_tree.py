"""Continuations read as a tree, against each of them alone: every architecture that slots hold, in float32."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgearte.lm import tree
from edgearte.lm.slots import NOTHING, read_prefixes
from tests.unit.test_slots import model

TOKENS = st.lists(st.integers(3, 6), min_size=1, max_size=9)
ENDS = st.lists(st.lists(st.integers(3, 6), max_size=6), max_size=6)


def alone(lm: Any, before: list[int], end: list[int]) -> float:
    """The log-probability of `end`, by one forward pass over the whole text."""
    import torch

    with torch.inference_mode():
        logprobs = lm(torch.tensor([before + end])).logits[0].log_softmax(-1)
    return math.fsum(float(logprobs[len(before) - 1 + k, token]) for k, token in enumerate(end))


@given(TOKENS, ENDS)
def test_a_tree_holds_every_beginning_once_and_every_path_whole(own: list[int], ends: list[list[int]]) -> None:
    grown = tree.grow(own, ends)

    def back(place: int) -> list[int]:
        return [] if place < 0 else [*back(grown.parents[place]), grown.ids[place]]

    for end, places in zip(ends, grown.asked, strict=True):
        assert [back(place) for place in places] == [own + end[:k] for k in range(len(end))]
    beginnings = {tuple(own + end[:k]) for end in ends for k in range(1, len(end))}
    assert len(grown.ids) == len(own) + len(beginnings - {tuple(own)})
    assert grown.depths == [len(back(place)) - 1 for place in range(len(grown.ids))]


@given(st.lists(st.integers(1, 30), max_size=20), st.integers(1, 40))
def test_what_is_read_at_once_is_everything_in_order_and_within_the_limit(sizes: list[int], limit: int) -> None:
    made = [sizes[part] for part in tree.parts(sizes, limit)]
    assert [size for part in made for size in part] == sizes
    for part in made:
        assert part
        assert len(part) == 1 or (sum(part) <= limit and max(part) * len(part) <= 2 * limit)


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3", "mistral", "gemma2", "gemma3"])
def test_log_probabilities_are_those_of_each_continuation_alone(kind: str) -> None:
    """Under a shared prefix, another one, and none; the windows of Mistral and Gemma are shorter than every text here."""
    import torch

    lm = model(kind)

    @settings(max_examples=12)
    @given(st.lists(st.tuples(st.integers(0, 2), TOKENS, ENDS), min_size=1, max_size=4))
    def held(asked: list[tuple[int, list[int], list[list[int]]]]) -> None:
        asked = sorted(asked, key=lambda row: row[0])
        texts = [[], [*range(10, 21)], [*range(30, 35)]]
        with torch.inference_mode():
            read = [NOTHING, *read_prefixes(lm, texts[1:])]
            found = tree.log_probs(lm, [tree.grow(own, ends) for _, own, ends in asked], [read[p] for p, _, _ in asked])
        expected = [[alone(lm, texts[p] + own, end) for end in ends] for p, own, ends in asked]
        assert [len(row) for row in found] == [len(row) for row in expected]
        for row, wanted in zip(found, expected, strict=True):
            assert row == pytest.approx(wanted, abs=1e-4)

    held()


def test_a_continuation_given_twice_or_empty_is_told_like_any_other() -> None:
    import torch

    lm = model("llama")
    with torch.inference_mode():
        (found,) = tree.log_probs(lm, [tree.grow([7, 8], [[9, 10], [9, 10], [], [9]])], [NOTHING])
    assert found[0] == found[1] < found[3] < found[2] == 0.0


def test_a_prompt_without_tokens_tells_nothing() -> None:
    with pytest.raises(ValueError, match="without tokens"):
        tree.grow([], [[3]])
