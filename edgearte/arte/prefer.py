"""The student's preference for a rationale (paper 2b): how many questions it answers with that rationale as its one example."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from edgearte.answers import grade, matches
from edgearte.arte import prompts
from edgearte.arte.adaptive import Adaptive, Row, Settings
from edgearte.lm.base import LM, Prompt, Sampling
from edgearte.records import Draft, Preference, Question
from edgearte.store import Store
from edgearte.task import Task

VERSION = 2
ROWS = 512  # generations of a chunk, in whole rationales: twice what is decoded together, so that rows come and go
LABEL = "student preferences"


@dataclass(frozen=True)
class Preferred:
    """What the student prefers, how many generations that took of how many the exact test takes, and how it ended, in a sentence."""

    preferences: tuple[Preference, ...]
    generations: int = 0
    exact: int = 0
    said: str = ""


def exact(
    student: LM, task: Task, drafts: Sequence[Draft], questions: Sequence[Question], max_tokens: int, store: Store
) -> Preferred:
    """s_r of every rationale over all the questions.

    s_r = mean over preference questions (q', a') of 1[student, one-shot with (q, r), answers q' with a'], greedy, exact match.
    """
    everything = list(range(len(questions)))
    items = [_item(d, k, everything) for d in drafts for k in range(len(d.rationales))]
    outputs = _answered(student, task, questions, max_tokens, store, items)
    found = tuple(
        Preference(i["id"], i["strategy"], sum(o["correct"]) / len(questions), len(questions), sum(o["correct"]), sum(o["extracted"]),
                   tuple(map(float, o["correct"])))
        for i, o in zip(items, outputs, strict=True)
    )  # fmt: skip
    total = len(items) * len(questions)
    return Preferred(found, total, total)


def adaptive(
    student: LM, task: Task, drafts: Sequence[Draft], questions: Sequence[Question], max_tokens: int, store: Store,
    *, confidence: float, by_target: bool, seed: int,
) -> Preferred:  # fmt: skip
    """The same for as many questions as it takes to know what pairs are made of: the top and bottom quarter of the drafts (of one
    target, where they are ranked `by_target`), and the best and worst rationale of each. The score is the share expected of all
    questions; `n`, `correct` and `extracted` are of those that were asked."""
    rows = [(d, same) for d in drafts for same in _alike(d)]
    policy = Adaptive(
        [Row(d.id, d.rationales[same[0]].strategy, d.target if by_target else "", len(same)) for d, same in rows],
        len(questions), Settings(confidence), seed,
    )  # fmt: skip
    extracted = [0] * len(rows)
    while wave := policy.ask():
        numbers: dict[int, list[int]] = {}
        for row, question in wave:
            numbers.setdefault(row, []).append(question)
        items = [_item(rows[row][0], rows[row][1][0], asked) for row, asked in numbers.items()]
        outputs = _answered(student, task, questions, max_tokens, store, items)
        for (row, asked), output in zip(numbers.items(), outputs, strict=True):
            extracted[row] += sum(output["extracted"])
            policy.tell((row, question, right) for question, right in zip(asked, output["correct"], strict=True))
    outcome = policy.outcome()
    found = tuple(
        Preference(d.id, d.rationales[k].strategy, score, n, correct, answered)
        for (d, same), score, (n, correct), answered in zip(rows, policy.scores(), policy.asked(), extracted, strict=True)
        for k in same
    )
    return Preferred(found, outcome.asked, outcome.total, str(outcome))


def _alike(draft: Draft) -> list[list[int]]:
    """The draft's rationales by text: one that two strategies brought is asked once."""
    places: dict[str, list[int]] = {}
    for k, rationale in enumerate(draft.rationales):
        places.setdefault(rationale.text, []).append(k)
    return list(places.values())


def _item(draft: Draft, rationale: int, numbers: list[int]) -> dict[str, Any]:
    r = draft.rationales[rationale]
    return {"id": draft.id, "input": draft.input, "strategy": r.strategy, "text": r.text, "questions": numbers}


def _answered(
    student: LM, task: Task, questions: Sequence[Question], max_tokens: int, store: Store, items: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """For every item whether each of its questions was answered, and rightly."""
    options = {
        "student": student.identity, "header": task.header, "answer": task.answer, "max_tokens": max_tokens,
        "questions": [(q.input, q.target) for q in questions],
    }  # fmt: skip

    def compute(part: list[dict[str, Any]]) -> list[dict[str, Any]]:
        rows = [
            Prompt(prompts.shot_question(questions[n].input), prefix=prompts.one_shot_prefix(task, i["input"], i["text"]))
            for i in part
            for n in i["questions"]
        ]  # fmt: skip
        outputs = iter(student.generate(rows, Sampling(max_tokens, stop=prompts.shot_stop(task))))
        values = []
        for item in part:
            mine = [(next(outputs), questions[n]) for n in item["questions"]]
            grades = [grade(o.text, q.target, task.answer) for o, q in mine]
            values.append({
                "correct": [int(g.correct) for g in grades],
                "extracted": [int(g.answer is not None) for g in grades],
                "tokens": sum(o.prompt_tokens + o.new_tokens for o, _ in mine),
            })  # fmt: skip
        return values

    longest = max((len(i["questions"]) for i in items), default=1)
    return store.rows("prefer", VERSION, options, items, compute, chunk=max(1, ROWS // longest), label=LABEL)


def of_the_right(preferences: Sequence[Preference], drafts: Sequence[Draft], task: Task) -> tuple[Preference, ...]:
    """The same preferences, and nothing (0) for a rationale whose own answer is not the draft's target: ICL with correctness."""
    right = {(d.id, r.strategy): matches(r.answer, d.target, task.answer) for d in drafts for r in d.rationales}
    return tuple(
        p if right[p.draft, p.strategy] else replace(p, score=0.0, marks=(0.0,) * len(p.marks)) for p in preferences
    )


def rationale_scores(preferences: Sequence[Preference]) -> dict[tuple[str, str], float]:
    """s_r by (draft, strategy)."""
    return {(p.draft, p.strategy): p.score for p in preferences}


def question_scores(preferences: Sequence[Preference]) -> dict[str, float]:
    """s_q: the mean of s_r over a question's rationales."""
    by_draft: dict[str, list[float]] = {}
    for p in preferences:
        by_draft.setdefault(p.draft, []).append(p.score)
    return {draft: fmean(scores) for draft, scores in by_draft.items()}


def degenerate(preferences: Sequence[Preference]) -> str:
    """Why these scores prefer nothing, or an empty text. Then there is nothing to align to."""
    if not preferences:
        return "no rationale could be scored"
    scores = {p.score for p in preferences}
    asked = sum(p.n for p in preferences)
    read = any(p.form is not None for p in preferences)  # probabilities: nothing was written that could hit
    if asked and not read and not any(p.correct for p in preferences):
        missing = 1 - sum(p.extracted for p in preferences) / asked
        return (
            "every score is zero: the student answered no preference question rightly with any example "
            f"({missing:.0%} of its outputs held no answer at all)"
        )
    if len(scores) == 1:
        return f"every score is {scores.pop():.3f}: the student does not tell the drafts apart"
    return ""
