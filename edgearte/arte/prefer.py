"""The student's preference for a rationale (paper 2b): how many questions it answers with that rationale as its one example."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from edgearte.answers import grade
from edgearte.arte import prompts
from edgearte.lm.base import LM, Prompt, Sampling
from edgearte.records import Draft, Preference
from edgearte.store import Store
from edgearte.task import Task

VERSION = 1
ROWS = 64  # generations of a chunk, in whole rationales


def score(
    student: LM, task: Task, drafts: Sequence[Draft], questions: int, max_tokens: int, store: Store
) -> tuple[Preference, ...]:
    """s_r of every rationale over the first `questions` preference questions.

    s_r = mean over preference questions (q', a') of 1[student, one-shot with (q, r), answers q' with a'], greedy, exact match.
    """
    asked = task.preference[:questions]
    items = [
        {"id": d.id, "input": d.input, "strategy": r.strategy, "text": r.text} for d in drafts for r in d.rationales
    ]
    options = {
        "student": student.identity, "header": task.header, "answer": task.answer, "max_tokens": max_tokens,
        "questions": [(q.input, q.target) for q in asked],
    }  # fmt: skip

    def compute(part: list[dict[str, Any]]) -> list[dict[str, Any]]:
        rows = [
            Prompt(prompts.one_shot_question(q.input), prefix=prompts.one_shot_prefix(task, i["input"], i["text"]))
            for i in part
            for q in asked
        ]
        # A student that goes on with a question of its own has ended its answer.
        stop = ("\nQuestion:", *((task.answer.close,) if task.answer.tagged else ()))
        outputs = student.generate(rows, Sampling(max_tokens, stop=stop))
        values = []
        for k in range(len(part)):
            mine = outputs[k * len(asked) : (k + 1) * len(asked)]
            grades = [grade(o.text, q.target, task.answer) for o, q in zip(mine, asked, strict=True)]
            values.append({
                "correct": [int(g.correct) for g in grades],
                "extracted": [int(g.answer is not None) for g in grades],
                "tokens": sum(o.prompt_tokens + o.new_tokens for o in mine),
            })  # fmt: skip
        return values

    outputs = store.rows("prefer", VERSION, options, items, compute, chunk=max(1, ROWS // len(asked)),
                         label="student preferences")  # fmt: skip
    return tuple(
        Preference(i["id"], i["strategy"], len(asked), sum(o["correct"]), sum(o["extracted"]))
        for i, o in zip(items, outputs, strict=True)
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
    if scores == {0.0}:
        missing = 1 - sum(p.extracted for p in preferences) / sum(p.n for p in preferences)
        return (
            "every score is zero: the student answered no preference question rightly with any example "
            f"({missing:.0%} of its outputs held no answer at all)"
        )
    if len(scores) == 1:
        return f"every score is {scores.pop():.3f}: the student does not tell the drafts apart"
    return ""
