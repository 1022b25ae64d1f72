"""What the teacher answers to questions of a pool: the calls that a budget is spent on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from edgearte.answers import extract, matches, spelled, valid_target
from edgearte.arte import draft, prompts
from edgearte.lm.calls import Purse, Recorded
from edgearte.records import Annotation, Question
from edgearte.store import Store
from edgearte.task import Task

VERSION = 1
ROWS = 64  # answers computed together


def annotate(
    teacher: Recorded, task: Task, settings: draft.Settings, questions: Sequence[Question], purse: Purse, store: Store,
    *, label: str, shown: Sequence[Sequence[Question]] = (), number: int = 0,
) -> list[Annotation]:  # fmt: skip
    """One call a question, in their order, as many as the purse pays for: with the naive prompt and no word of the answer. A question's
    own target, if it has one, stays unseen. With worked examples `shown`, as many lists as questions, the teacher is told besides
    that it was doubted and should take care. `number` says which of several teachers it is."""
    items: list[dict[str, Any]] = [{"input": q.input, "target": "", "instruction": draft.naive(settings)} for q in questions]
    for item, examples in zip(items, shown, strict=False):
        item["shown"] = [asdict(e) for e in examples]
        item["instruction"] = prompts.AGAIN if settings.style == "chat" else draft.naive(settings)
    asked, sampling = draft.rationale_calls(teacher, task, settings, items)
    calls = [teacher.call(p, sampling) for p in asked]
    options = draft.options(teacher, task, settings)
    rows: list[dict[str, Any]] = []

    def compute(part: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return draft.rationales(teacher, task, settings, part)

    while count := purse.admit(calls[len(rows) :]):
        part = items[len(rows) : len(rows) + count]
        rows += store.rows("annotate", VERSION, options, part, compute, chunk=1, together=ROWS, label=label)
    return [annotation(task, q, row["text"], row["tokens"], number) for q, row in zip(questions, rows, strict=False)]


def annotation(task: Task, question: Question, text: str, tokens: int, number: int = 0) -> Annotation:
    """A teacher's text with the answer found in it, and whether that is right where the question brings its target."""
    found = extract(text, task.answer)
    answer = spelled(found, task.answer) if found is not None and valid_target(found, task.answer) else None
    right = matches(found, question.target, task.answer) if question.target else None
    return Annotation(question.id, question.input, text, answer, right, tokens, number)
