"""A teacher far out of its distribution counts less."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgearte.assist import familiar, route
from edgearte.lm.base import Prompt, Score
from edgearte.store import Store
from tests.scripted import Scripted

SUMS = [f"add {i} and {i + 1}" for i in range(10)]
WORDS = [f"which animal barks in story {i}" for i in range(10)]


class Knows(Scripted):
    """A teacher that finds texts with this word probable."""

    def __init__(self, word: str, usual: float) -> None:
        super().__init__()
        self.word, self.usual, self.identity = word, usual, word

    def loglikelihood(self, pairs: Sequence[tuple[Prompt, str]]) -> list[Score]:
        return [Score(len(text) * (self.usual - (0 if self.word in text else 2)), len(text)) for _, text in pairs]


def counted(store: Store) -> list[list[float]]:
    # The first is a bigger model: everything is more probable to it.
    return familiar.weights([familiar.log_probs(t, "Answer.", SUMS + WORDS, store) for t in (Knows("add", -1.0), Knows("animal", -4.0))])


def test_a_teacher_counts_where_it_knows_the_like_whatever_its_size(tmp_path: Path) -> None:
    found = counted(Store(tmp_path))
    assert all(a > 1.5 > 0.5 > b for a, b in found[:10])
    assert all(b > 1.5 > 0.5 > a for a, b in found[10:])
    assert all(sum(row) == pytest.approx(2) for row in found)


def test_what_a_teacher_has_not_seen_the_like_of_goes_to_another(tmp_path: Path) -> None:
    """Both were worth as much in the warm-up, which had sums alone: nothing else warns of the first teacher's words."""
    worth = [[0.8, 0.7]] * 5
    found = route.chosen("router", SUMS[:5], worth, SUMS + WORDS, 0, counted(Store(tmp_path)))
    assert found == [0] * 10 + [1] * 10
    assert set(route.chosen("router", SUMS[:5], worth, SUMS + WORDS, 0)) == {0}, "switched off, the first is asked everything"


@given(st.lists(st.lists(st.floats(-50, 0), min_size=3, max_size=3), min_size=1, max_size=4))
def test_weights_are_one_on_the_mean(table: list[list[float]]) -> None:
    for row in familiar.weights(table):
        assert sum(row) == pytest.approx(len(table))
        assert min(row) > 0
