from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgearte.measure.rows import Logits, Writer, choose, shared_prefixes


def write(pieces: list[bytes], stop: list[str]) -> tuple[str, bool]:
    writer = Writer(stop)
    stopped = any(writer.add(piece) for piece in pieces)  # nothing is written after a stop
    return writer.text(), stopped


def test_a_stop_string_split_between_tokens_is_found_kept_and_what_follows_is_cut() -> None:
    assert write([b"so <", b"ans>4<", b"/an", b"s> and more"], ["</ans>"]) == ("so <ans>4</ans>", True)


def test_the_stop_string_that_ends_first_wins() -> None:
    assert write([b"one two three"], ["three", "two"]) == ("one two", True)


@given(text=st.text(min_size=1), cut=st.integers(1, 5))
def test_text_survives_any_split_into_pieces(text: str, cut: int) -> None:
    raw = text.encode()
    assert write([raw[i : i + cut] for i in range(0, len(raw), cut)], []) == (text, False)


def test_an_unfinished_character_at_the_end_is_left_out() -> None:
    assert write(["né".encode(), "日".encode()[:2]], []) == ("né", False)


def pick(logits: Logits, temperature: float, top_p: float, seed: int, step: int) -> int:
    return choose(logits[None], [(seed, step)], temperature, top_p)[0]


def test_greedy_takes_the_likeliest() -> None:
    logits = np.array([[0.1, 3.0, 2.9], [0.1, 0.0, -1.0]], np.float32)
    assert choose(logits, [(1, 0), (1, 0)], 0.0, 1.0) == [1, 0]


@pytest.mark.parametrize("temperature", [1.0, 0.8])
@pytest.mark.parametrize("top_p", [1.0, 0.999999])
def test_samples_follow_the_softmax(temperature: float, top_p: float) -> None:
    logits = np.full(1500, -60.0, np.float32)
    logits[[3, 700, 1499]] = 2.0, 1.0, 0.0
    n = 3000
    wanted = np.exp(logits[[3, 700, 1499]] / temperature)
    wanted /= wanted.sum()
    found = Counter(pick(logits, temperature, top_p, seed, step=3) for seed in range(n))
    assert sum(found[k] for k in (3, 700, 1499)) == n
    for k, p in zip((3, 700, 1499), wanted, strict=True):
        assert abs(found[k] - n * p) <= 4.5 * math.sqrt(n * p * (1 - p)) + 1e-6  # one in 100,000 by chance


@pytest.mark.parametrize("top_p", [1.0, 0.9, 0.5])
@pytest.mark.parametrize("temperature", [1.0, 1.3, 0.4])
def test_samples_are_those_of_the_transformers_backend(temperature: float, top_p: float) -> None:
    """The same row, seed and step: the same token, but where the number falls within rounding of a border."""
    import torch

    from edgearte.lm import decoding
    from edgearte.lm.base import Sampling

    logits = np.random.default_rng(0).normal(0, 3, (300, 2000)).astype(np.float32)
    keys = [(seed, seed % 7) for seed in range(len(logits))]
    ours = choose(logits, keys, temperature, top_p)
    theirs = decoding.sample(torch.from_numpy(logits), keys, Sampling(1, temperature, top_p)).tolist()
    assert sum(a != b for a, b in zip(ours, theirs, strict=True)) <= 2
    assert len(set(ours)) > 50


def test_top_p_keeps_the_smallest_set_that_reaches_it() -> None:
    logits = np.log(np.array([0.05, 0.5, 0.3, 0.15], np.float32))
    assert {pick(logits, 1.0, 0.75, seed, 0) for seed in range(300)} == {1, 2}
    assert {pick(logits, 1.0, 0.1, seed, 0) for seed in range(50)} == {1}


def test_what_is_forbidden_is_never_drawn() -> None:
    logits = np.zeros(1200, np.float32)
    logits[np.arange(1200) % 400 != 5] = -np.inf
    for top_p in (1.0, 0.9):
        assert {pick(logits, 1.0, top_p, seed, 0) for seed in range(200)} == {5, 405, 805}


def test_a_sample_is_keyed_by_seed_and_step_alone() -> None:
    logits = np.zeros(1000, np.float32)
    draws = {(seed, step): pick(logits, 1.0, 1.0, seed, step) for seed in range(20) for step in range(20)}
    assert all(pick(logits, 1.0, 1.0, *key) == token for key, token in reversed(draws.items()))
    assert len(set(draws.values())) > 300  # neither steps nor seeds repeat one another's luck


@pytest.mark.parametrize(
    ("prefixes", "prompts", "expected"),
    [
        (["p", "p"], [[1, 2, 3, 4], [1, 2, 5]], [(2, [0, 1])]),
        (["p", "q", "p"], [[1, 2, 3], [1, 2, 3], [1, 2, 4]], [(2, [0, 2]), (0, [1])]),  # one row alone shares nothing
        (["p", "p"], [[1, 2, 3], [1, 2, 3]], [(2, [0, 1])]),  # one token is left to start from
        (["", ""], [[1, 2], [1, 2]], [(0, [0, 1])]),  # no prefix was declared
        (["p", "p"], [[9, 2], [1, 2]], [(0, [0, 1])]),
    ],
)
def test_rows_share_the_tokens_they_truly_begin_with(
    prefixes: list[str], prompts: list[list[int]], expected: list[tuple[int, list[int]]]
) -> None:
    assert [(g.shared, g.rows) for g in shared_prefixes(prefixes, prompts)] == expected
