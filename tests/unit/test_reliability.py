"""What of the differences between scores is not chance."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edgearte.arte.reliability import advice, by_question, certainty, gap_error, reliability, split_half
from edgearte.records import Preference


def simulated(between: float, questions: int = 40, drafts: int = 200, seed: int = 0) -> tuple[list[Preference], float]:
    """Scores whose true parts have the sd `between`, those of single questions the sd 1; and the true reliability of their means."""
    chance = np.random.default_rng(seed)
    ability, hard = between * chance.standard_normal(drafts), 3 * chance.standard_normal(questions)
    marks = ability[:, None] + hard[None, :] + chance.standard_normal((drafts, questions))
    found = [Preference(f"d{k}", "a", float(row.mean()), questions, marks=tuple(row.tolist())) for k, row in enumerate(marks)]
    return found, between**2 / (between**2 + 1 / questions)


def test_split_half_finds_the_share_of_the_differences_that_is_not_chance() -> None:
    for between in (0.0, 0.1, 0.3):
        found, truth = simulated(between, drafts=800)
        assert split_half(found) == pytest.approx(truth, abs=0.12)
    assert split_half(found) == split_half(found)
    assert split_half(found, seed=1) != split_half(found)


def test_what_groups_differ_in_does_not_count_within_them() -> None:
    found, _ = simulated(0.0)
    groups = {p.draft: k % 10 for k, p in enumerate(found)}
    apart = [Preference(p.draft, "a", 0, marks=tuple(m + groups[p.draft] for m in p.marks)) for p in found]
    within = split_half(apart, within=groups)
    assert (split_half(apart) or 0) > 0.95
    assert within is not None
    assert within < 0.3


def test_too_few_scores_or_questions_have_no_split_half() -> None:
    found, _ = simulated(0.3)
    assert split_half(found[:2]) is None
    assert split_half([Preference(p.draft, "a", 0, marks=p.marks[:3]) for p in found]) is None
    assert split_half([*found, Preference("x", "a", 0.5, 10)]) is None


def test_without_marks_the_reliability_comes_from_the_counts() -> None:
    chance = np.random.default_rng(0)

    def counted(truth: list[float]) -> list[Preference]:
        return [Preference(f"d{k}", "a", c / 40, 40, c) for k, c in enumerate(int(chance.binomial(40, p)) for p in truth)]

    assert reliability(counted([0.3] * 200)) == pytest.approx(1 / math.sqrt(200), abs=0.12)
    assert reliability(counted([0.1, 0.5] * 100)) > 0.8
    assert reliability([Preference(f"d{k}", "a", float(k)) for k in range(9)]) == 1.0, "a score of no questions has no such noise"


def test_the_order_of_a_certain_pair_is_right_as_often_as_its_weight_says() -> None:
    """Pairs of the ends of scores that are mostly chance: the plain test is far too sure of them, the regressed one is not."""
    weights, plain, right = [], [], []
    for seed in range(60):
        chance = np.random.default_rng(seed)
        ability = 0.1 * chance.standard_normal(40)
        marks = ability[:, None] + chance.standard_normal((40, 40))
        found = [Preference(str(k), "a", float(row.mean()), 40, marks=tuple(row.tolist())) for k, row in enumerate(marks)]
        trust = reliability(found)
        ranked = sorted(found, key=lambda p: -p.score)
        for top, bottom in zip(ranked[:10], ranked[-10:], strict=True):
            weights.append(certainty(top, bottom, trust)[0])
            plain.append(certainty(top, bottom)[0])
            right.append(1 if ability[int(top.draft)] > ability[int(bottom.draft)] else -1)
    assert np.mean(weights) == pytest.approx(np.mean(right), abs=0.1)
    assert np.mean(plain) > np.mean(right) + 0.15


def test_what_is_hard_for_both_is_no_noise_of_their_gap() -> None:
    a = Preference("a", "x", 0.5, 8, marks=(0.9, 0.1) * 4)
    b = Preference("b", "x", 0.4, 8, marks=(0.8, 0.0) * 4)
    assert gap_error(a, b) == 0.0
    assert certainty(a, b) == (1.0, True)
    assert certainty(b, a) == (0.0, False)
    c = Preference("c", "x", 0.4, 8, marks=(0.0, 0.8) * 4)
    assert gap_error(a, c) == pytest.approx(np.std(np.subtract(a.marks, c.marks), ddof=1) / math.sqrt(8))
    assert certainty(a, c)[0] < 0.4


def test_counts_alone_give_a_binomial_noise() -> None:
    a, b = Preference("a", "x", 0.75, 40, 30), Preference("b", "x", 0.5, 40, 20)
    expected = math.sqrt((32 / 44) * (12 / 44) / 44 + 0.25 / 44)
    assert gap_error(a, b) == pytest.approx(expected)
    z = 0.25 / expected
    weight, beyond = certainty(a, b)
    assert weight == pytest.approx(math.erf(z / math.sqrt(2)))
    assert beyond
    assert z > 1.96
    assert certainty(Preference("a", "x", 0.25, 4, 1), Preference("b", "x", 0.0, 4))[1] is False


def test_a_question_has_the_mean_marks_of_its_rationales() -> None:
    own = [Preference("d", "a", 0.5, 2, marks=(1.0, 0.0), form=0.2), Preference("d", "b", 1.0, 2, marks=(1.0, 1.0), form=0.4)]
    found = by_question(own)["d"]
    assert (found.score, found.marks, found.n) == (0.75, (1.0, 0.5), 2)
    assert found.form == pytest.approx(0.3)
    assert by_question([own[0], Preference("d", "b", 1.0, 2)])["d"].marks == ()


def test_the_advice_says_which_score_tells_and_what_to_do_where_none_does() -> None:
    assert "hits tells" in advice(40, hits=0.8)
    both = advice(40, hits=0.1, probability=0.9)
    assert "hits does not tell drafts apart" in both
    assert "right answer tells" in both
    assert "mostly chance" not in both
    poor = advice(40, hits=0.25)
    assert "prefer.scorer: probability" in poor
    assert "about 280 preference questions" in poor, "Spearman-Brown: 7/3 x 3 x 40"
    none = advice(40, hits=0.0, probability=0.0)
    assert "prefer.scorer" not in none
    assert "many more preference questions" in none
    assert "cannot be said" in advice(2)
