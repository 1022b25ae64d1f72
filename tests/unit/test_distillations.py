"""The benchmark of real distillations: what it says can be shown, and what it makes of the results of builds."""

from __future__ import annotations

from typing import Any

import distillations as d
import numpy as np
import pytest
from scipy.stats import binomtest


def test_what_a_test_rejects_is_what_scipys_exact_test_rejects() -> None:
    trials = np.arange(1, 60)
    wanted = [max((k for k in range(n // 2 + 1) if binomtest(k, n).pvalue <= d.ALPHA), default=-1) for n in trials.tolist()]
    assert d.rejected(trials).tolist() == wanted


@pytest.mark.parametrize(("questions", "discordant"), [(300, 0.2), (450, 0.4)])
def test_the_smallest_difference_is_found_as_often_as_is_said(questions: int, discordant: float) -> None:
    chance, gap = np.random.default_rng(0), d.smallest(questions, discordant)
    apart = chance.binomial(questions, discordant, 3_000)
    first = chance.binomial(apart, (discordant + gap) / (2 * discordant))
    found = [binomtest(int(k), int(n)).pvalue <= d.ALPHA for k, n in zip(first, apart, strict=True)]
    assert abs(sum(found) / len(found) - d.POWER) < 3 * (d.POWER * (1 - d.POWER) / len(found)) ** 0.5


def test_too_few_questions_show_nothing() -> None:
    assert np.isnan(d.smallest(20, 0.1))
    assert d.smallest(900, 0.2) < d.smallest(300, 0.2)


def stage(label: str, seconds: float, tokens: int = 0) -> dict[str, Any]:
    return {"label": label, "seconds": seconds, "teacher_tokens": tokens}


def result(seed: int, arm: str, hits: dict[str, dict[str, str]]) -> dict[str, Any]:
    artifact = {"preset": "small", "bytes": 78_000_000, "bits_per_weight": 4.51}
    return {
        "name": f"x-seed{seed}", "arm": {"name": arm, "reason": f"{arm} answers most"}, "hits": hits, "notes": ["A note."],
        "training": {name: {"examples": 100} for name in hits if name != "untaught"}, "artifacts": [{"artifact": artifact}],
        "decision": {"preset": "small"},
        "stages": [stage("draft: questions", 60, 500), stage("align the teacher", 30), stage("tailor, ARTE: questions", 60, 700),
                   stage("train: ARTE", 90), stage("tailor, unaligned teacher: questions", 60, 600),
                   stage("train: unaligned teacher", 90), stage("train: seeds alone", 45), stage("evaluate: ARTE", 1000)],
    }  # fmt: skip


def same(marks: str, file: str) -> dict[str, str]:
    return {"checkpoint": marks, "small": file}


def test_the_table_has_every_arm_and_what_is_delivered_seed_by_seed() -> None:
    none, few, many = "0" * 20, "1" * 8 + "0" * 12, "1" * 18 + "0" * 2
    first = {"untaught": same(none, none), "seeds alone": same(few, few), "unaligned teacher": same(many, few), "ARTE": same(many, many)}
    second = {**first, "ARTE": same(few, few), "unaligned teacher": same(many, many)}
    table = {x.arm: x for x in d.lines([result(0, "ARTE", first), result(1, "unaligned teacher", second)], "small")}
    assert list(table) == ["untaught", "seeds alone", "unaligned teacher", "ARTE", "delivered"]
    arte, plain, delivered = table["ARTE"], table["unaligned teacher"], table["delivered"]
    assert arte.file and plain.file and delivered.file
    assert (arte.checkpoint.value, arte.file.value) == pytest.approx((0.65, 0.65))
    assert (plain.checkpoint.value, plain.file.value) == pytest.approx((0.9, 0.65))
    assert (delivered.checkpoint.value, delivered.file.value) == pytest.approx((0.9, 0.9))
    assert delivered.over_seeds and delivered.over_untaught
    assert (delivered.over_seeds.value, delivered.over_untaught.value) == pytest.approx((0.5, 0.9))
    assert delivered.over_seeds.low > 0 and delivered.over_seeds.p_value < 0.01
    assert table["seeds alone"].over_seeds is None


def test_costs_are_those_of_the_stages_that_an_arm_needs() -> None:
    hits = {arm: same("10", "10") for arm in ("untaught", "seeds alone", "unaligned teacher", "ARTE")}
    table = {x.arm: x for x in d.lines([result(0, "unaligned teacher", hits)], "small")}
    assert [(x.minutes, x.teacher_tokens) for x in table.values()] == [(0, 0), (0.75, 0), (2.5, 600), (4, 1200), (2.5, 600)]
    assert [x.examples for x in table.values()] == [0, 100, 100, 100, 100]


def test_an_arm_that_was_not_made_a_file_of_has_no_figures_for_it() -> None:
    table = d.lines([result(0, "ARTE", {"ARTE": {"checkpoint": "10"}, "seeds alone": same("10", "10")})], "small")
    (arte,) = [x for x in table if x.arm == "ARTE"]
    assert (arte.file, arte.over_seeds, arte.over_untaught) == (None, None, None)
    assert "| ARTE | 1 | 50.0" in d.markdown(table, "small")[3]
    assert "| – | – | – | – | – |" in d.markdown(table, "small")[3]


def test_each_build_says_what_it_delivers_and_what_its_alignment_brought() -> None:
    one = result(3, "ARTE", {"ARTE": same("10", "10")})
    one["alignment"] = {"judged": {"sentence": "the student answers 40 % against 30 %"}}
    assert d.story([one]) == [
        "- x-seed3: ARTE answers most; as small (small 78.0 MB at 4.51 bits).", "  - the alignment: the student answers 40 % against 30 %.",
        "  - A note.",
    ]  # fmt: skip
