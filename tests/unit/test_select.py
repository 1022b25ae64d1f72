"""Selection keeps what the student prefers, of every target as much, and not the same thing twice."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edgearte.arte.select import preferred
from edgearte.records import Example


def example(name: str, text: str, target: str) -> Example:
    return Example(name, text, f"<ans>{target}</ans>", target, "")


EXAMPLES = (
    example("a", "play some jazz in the kitchen", "music"),
    example("b", "play some jazz in the kitchen please", "music"),
    example("c", "the next song", "music"),
    example("d", "will it rain", "weather"),
    example("e", "is it cold out", "weather"),
    example("f", "do I need a coat", "weather"),
)
SCORES = {"a": 0.9, "b": 0.8, "c": 0.1, "d": 0.3, "e": 0.2, "f": 0.25}


def test_it_keeps_the_best_of_every_target() -> None:
    assert [e.id for e in preferred(EXAMPLES, SCORES, 4, 0.0)] == ["a", "d", "b", "f"]


def test_a_likeness_counts_against_an_example() -> None:
    kept = {e.id for e in preferred(EXAMPLES, SCORES, 4, 0.6)}
    assert {"a", "c"} <= kept
    assert "b" not in kept


def test_an_example_without_a_score_comes_last() -> None:
    assert preferred(EXAMPLES[:3], {"b": 0.1, "c": 0.2}, 3, 0.0)[-1].id == "a"


def test_open_answers_are_ranked_together() -> None:
    open_ones = [example(str(k), f"question number {k} of many", str(k)) for k in range(8)]
    assert [e.id for e in preferred(open_ones, {str(k): k for k in range(8)}, 3, 0.0)] == ["7", "6", "5"]


@given(st.lists(st.floats(0, 1), min_size=6, max_size=6), st.integers(0, 8), st.floats(0, 1))
def test_it_never_keeps_more_than_asked_nor_anything_twice(scores: list[float], count: int, diversity: float) -> None:
    kept = preferred(EXAMPLES, dict(zip("abcdef", scores, strict=True)), count, diversity)
    assert len(kept) == len({e.id for e in kept}) == min(count, 6)
