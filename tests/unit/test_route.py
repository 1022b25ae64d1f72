"""Several teachers: a planted bad one is avoided where it is bad."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgearte.assist import route

SUMS = [f"add {i} and {i + 1} apples" for i in range(20)]
WORDS = [f"which animal barks in story {i}" for i in range(20)]
# The first teacher can count and not read, the second read and not count.
WORTH = [*([0.9, 0.2] for _ in SUMS[:10]), *([0.1, 0.8] for _ in WORDS[:10])]


@pytest.mark.parametrize("how", ["router", "policy"])
def test_each_question_goes_to_the_teacher_that_is_good_at_it(how: route.How) -> None:
    found = route.chosen(how, SUMS[:10] + WORDS[:10], WORTH, SUMS[10:] + WORDS[10:], 0)
    assert found == [0] * 10 + [1] * 10
    best = route.chosen("best", SUMS[:10] + WORDS[:10], WORTH, SUMS[10:] + WORDS[10:], 0)
    assert len(set(best)) == 1, "switched off, one is asked whatever the question"


@pytest.mark.parametrize("how", ["router", "policy", "best"])
def test_a_teacher_that_is_always_bad_is_not_asked(how: route.How) -> None:
    worth = [[0.2 + 0.01 * (i % 3), 0.7 - 0.02 * (i % 5), 0.1] for i in range(20)]
    assert set(route.chosen(how, SUMS[:10] + WORDS[:10], worth, SUMS[10:] + WORDS[10:], 0)) == {1}
    assert set(route.chosen("uniform", SUMS, worth, SUMS + WORDS, 0)) == {0, 1, 2}, "switched off, it is"


def test_a_policy_is_a_distribution_and_is_not_sure_after_one_question() -> None:
    import numpy as np

    after_one = route.probabilities(SUMS[:1], np.array([[0.9, 0.1]]), WORDS[:1])
    after_many = route.probabilities(SUMS[:10], np.array([[0.9, 0.1]] * 10), SUMS[10:11])
    assert after_one.sum() == pytest.approx(1)
    assert 0.5 < after_one[0, 0] <= after_many[0, 0] < 1


def test_the_worth_of_an_answer_weighs_what_is_right_and_what_is_natural() -> None:
    found = route.rewards([[1, 0], [0, 1]], [[-0.1, -5.0], [-0.2, -0.3]], 0.6)
    assert found[0] == pytest.approx([0.6 + 0.4, 0.0])
    assert found[1] == pytest.approx([0.4 * 2 / 3, 0.6 + 0.4 / 3])


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.text(), st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=8), st.lists(st.text(), max_size=5))
def test_whatever_the_questions_some_teacher_is_asked(rows: list[tuple[str, float, float]], texts: list[str]) -> None:
    every: tuple[route.How, ...] = ("router", "policy", "best", "uniform")
    for how in every:
        found = route.chosen(how, [t for t, _, _ in rows], [[a, b] for _, a, b in rows], texts, 0)
        assert len(found) == len(texts)
        assert set(found) <= {0, 1}
