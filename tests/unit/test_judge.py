"""An alignment is judged by what the student makes of the teacher's texts before and after it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgearte.arte import align, judge
from edgearte.lm.base import Prompt, Score
from edgearte.records import Draft, Example, Preference, Question, Rationale
from edgearte.store import Store
from tests.unit.test_arte import CONTINUE, OPEN, TASK, Scripted

QUESTIONS = tuple(Question(f"q{k}", f"question {k}", "4") for k in range(30))


def drafts(name: str, count: int = 24) -> list[Draft]:
    return [Draft(f"{name}{k}", f"{name} {k}", "4", f"judge/{k // 2}", ("s0",), (Rationale("naive", "r", "4"),)) for k in range(count)]


def scorer(gain: float, hard: float, *, read: bool = False) -> judge.Scorer:
    """A student that does better by `gain` with the aligned teacher's texts, while prompts and questions differ by `hard`."""

    def score(found: Sequence[Draft]) -> list[Preference]:
        chance = np.random.default_rng(1)
        prompts, questions = hard * chance.random(100), hard * chance.random(30)
        rows = []
        for d in found:
            p = 0.1 + prompts[int(d.source.split("/")[1])] + questions + gain * d.id.startswith("a")
            marks = p if read else (chance.random(30) < p).astype(float)
            rows.append(Preference(d.id, "naive", float(marks.mean()), 30, marks=tuple(marks.tolist()), form=0.5 if read else None))
        return rows

    return score


def test_a_teacher_that_helps_the_student_is_found_better_and_one_that_harms_it_worse() -> None:
    found = judge.judge(drafts("a"), drafts("u"), scorer(0.2, 0.2), QUESTIONS)
    assert found.better == judge.ALIGNED
    assert found.low < found.difference < found.high
    assert found.difference == pytest.approx(found.aligned_mean - found.unaligned_mean)
    assert 0.1 < found.difference < 0.3
    assert (found.n_aligned, found.n_unaligned, found.questions) == (24, 24, 30)
    assert found.sentence.startswith(f"the student answers {found.aligned_mean:.1%} with what the aligned teacher writes")
    harmed = judge.judge(drafts("u"), drafts("a"), scorer(0.2, 0.2), QUESTIONS)
    assert harmed.better == judge.UNALIGNED
    assert "did harm" in harmed.sentence
    assert judge.judge(drafts("a"), drafts("u"), scorer(0.2, 0.2), QUESTIONS) == found


def test_no_difference_is_said_and_rarely_taken_for_one() -> None:
    wrong = 0
    for seed in range(40):
        chance = np.random.default_rng(seed)

        def score(found: Sequence[Draft], chance: np.random.Generator = chance) -> list[Preference]:
            hard = 0.4 * chance.random(30)
            return [Preference(d.id, "n", float(m.mean()), 30, marks=tuple(m.tolist()))
                    for d in found for m in [(chance.random(30) < 0.1 + hard).astype(float)]]  # fmt: skip

        found = judge.judge(drafts("a"), drafts("u"), score, QUESTIONS)
        wrong += found.better != judge.SAME
    assert wrong <= 5
    assert "brought nothing" in judge.judge(drafts("a"), drafts("u"), scorer(0.0, 0.0, read=True), QUESTIONS).sentence


def test_what_two_teachers_wrote_to_one_prompt_stays_together() -> None:
    """Prompts that differ widely leave a small constant gain beyond the noise, and only where they are paired."""
    paired = judge.judge(drafts("a"), drafts("u"), scorer(0.02, 0.4, read=True), QUESTIONS)
    assert paired.better == judge.ALIGNED
    assert paired.high - paired.low < 0.001
    assert "a probability of" in paired.sentence
    apart = [replace(d, source=f"judge/{k + 50}") for k, d in enumerate(drafts("u"))]
    assert judge.judge(drafts("a"), apart, scorer(0.02, 0.4, read=True), QUESTIONS).better == judge.SAME


def test_a_teacher_that_wrote_less_is_judged_too_and_one_that_wrote_nothing_cannot_be() -> None:
    found = judge.judge(drafts("a", 8), drafts("u"), scorer(0.4, 0.1), QUESTIONS)
    assert (found.n_aligned, found.better) == (8, judge.ALIGNED)
    without = judge.judge(drafts("a"), drafts("u"), lambda found: [Preference(d.id, "n", 0.5 + (d.id[0] == "a")) for d in found], QUESTIONS)
    assert (without.difference, without.low, without.high) == (1.0, 1.0, 1.0)
    with pytest.raises(ValueError, match="both teachers"):
        judge.judge([], drafts("u"), scorer(0.4, 0.1), QUESTIONS)


def test_judging_questions_took_no_part_in_making_pairs() -> None:
    developed = tuple(Question(f"dev{k}", f"developed {k}", "4") for k in range(20))
    task = replace(OPEN, preference=QUESTIONS, development=developed)
    assert judge.judging_questions(task, QUESTIONS[:10], 15) == QUESTIONS[10:25]
    few = judge.judging_questions(task, QUESTIONS[:27], 15)
    assert few == (*QUESTIONS[27:], *developed[:12])
    seeds_only = replace(TASK, development=())
    assert judge.judging_questions(seeds_only, (), 15) == (), "seeds were shown to the teacher"
    same = replace(task, development=tuple(replace(q, id=f"again-{q.id}") for q in QUESTIONS))
    assert judge.judging_questions(same, QUESTIONS, 15) == (), "a question is known by its text"


def test_what_is_judged_is_what_is_taught() -> None:
    examples = [Example("a0", "a 0", "<ans>4</ans>", "4", ""), Example("a2", "a 2", "two and two <ans>4</ans>", "4", "")]
    found = judge.taught([replace(d, rationales=()) for d in drafts("a", 3)], examples)
    assert [(d.id, [r.text for r in d.rationales]) for d in found] == [("a0", ["<ans>4</ans>"]), ("a2", ["two and two <ans>4</ans>"])]
    without = [*found, replace(found[0], id="a9", rationales=())]
    assert judge.judge(without, found, scorer(0.0, 0.0), QUESTIONS).n_aligned == 2, "what has no rationale cannot be an example"


class Leaning(Scripted):
    """A teacher to which every character costs so much."""

    def __init__(self, identity: str, cost: float) -> None:
        super().__init__(lambda p: "")
        self.identity, self.cost = identity, cost

    def loglikelihood(self, pairs: Sequence[tuple[Prompt, str]]) -> list[Score]:
        return [Score(-self.cost * len(c), len(c)) for _, c in pairs]


def test_how_far_a_teacher_moved(tmp_path: Path) -> None:
    before, after = Leaning("before", 2.0), Leaning("after", 0.5)
    written = [
        Draft("a", "turn turn turn turn", "lights", "j/0", ("s0",), (Rationale("naive", "so it is <ans>lights</ans>", "lights"),)),
        Draft("b", "turn turn turn turn", "lights", "j/1", ("s0",), ()),
    ]
    other = [replace(written[0], input="dim the lamp"), replace(written[1], input="it is so bright here now")]
    texts = align.as_written(after, TASK, CONTINUE, written)
    assert [t[1] for t in texts] == [
        "turn turn turn turn</input>\n</Question_2>", " so it is\n", "turn turn turn turn</input>\n</Question_2>"
    ]  # fmt: skip
    found = judge.moved(before, after, texts, written, other, Store(tmp_path))
    assert found.divergence == pytest.approx(1.5)
    assert found.tokens == sum(len(c) for _, c in texts)
    assert (found.words, found.words_before) == (4.0, 4.5)
    assert found.diversity == 0.0
    assert found.diversity_before > 0.5
    assert found.distinct == pytest.approx(1 / 6)
    assert found.distinct_before == 1.0
    assert judge.moved(after, after, texts, written, other, Store(tmp_path)).divergence == 0.0
