from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgearte.measure.rows import Writer, pick, shared_prefixes


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


def test_greedy_takes_the_likeliest() -> None:
    assert pick(np.array([0.1, 3.0, 2.9], np.float32), 0.0, 1.0, seed=1, step=0) == 1


def test_samples_follow_the_softmax() -> None:
    logits = np.array([2.0, 1.0, 0.0, -50.0], np.float32)
    temperature, n = 0.8, 4000
    wanted = np.exp(logits / temperature)
    wanted /= wanted.sum()
    counts = np.bincount([pick(logits, temperature, 1.0, seed, step=3) for seed in range(n)], minlength=4)
    for count, p in zip(counts, wanted, strict=True):
        assert abs(count - n * p) <= 4.5 * math.sqrt(n * p * (1 - p)) + 1e-6  # one in 100,000 by chance


def test_top_p_keeps_the_smallest_set_that_reaches_it() -> None:
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))
    assert {pick(logits, 1.0, 0.75, seed, 0) for seed in range(300)} == {0, 1}
    assert {pick(logits, 1.0, 0.1, seed, 0) for seed in range(50)} == {0}


def test_a_sample_is_keyed_by_seed_and_step_alone() -> None:
    logits = np.zeros(1000, np.float32)
    draws = {(seed, step): pick(logits, 1.0, 1.0, seed, step) for seed in range(20) for step in range(20)}
    assert all(pick(logits, 1.0, 1.0, *key) == token for key, token in reversed(draws.items()))
    assert len(set(draws.values())) > 300  # neither steps nor seeds repeat one another's luck


def test_the_luck_of_a_token_does_not_depend_on_the_others_in_the_running() -> None:
    wide = np.zeros(50, np.float32)
    narrow = wide.copy()
    for seed in range(50):
        winner = pick(wide, 1.0, 1.0, seed, 0)
        narrow[:] = -100
        narrow[[winner, (winner + 7) % 50]] = 0
        assert pick(narrow, 1.0, 1.0, seed, 0) == winner


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
