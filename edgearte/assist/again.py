"""Asking again what is doubted (Interactive DualChecker, arXiv 2408.12326): once more, with detail, after answers to similar questions that
are trusted and the student's least sure error.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgearte.records import Annotation, Question
from edgearte.task import Task

SIMILAR = 3  # trusted answers shown


def examples(task: Task, question: str, trusted: Sequence[Annotation], error: Annotation | None) -> list[Question]:
    """What is shown before a question that is asked again: the trusted answers to the questions most like it, least alike first, and before
    them the error (so that neither the question itself nor one answer twice is shown)."""
    from rapidfuzz import fuzz, process

    apart = [a for a in trusted if a.input != question and not (error and a.id == error.id)]
    found = process.extract(question, [a.input for a in apart], scorer=fuzz.token_set_ratio, limit=SIMILAR)
    near = [apart[place] for _, _, place in reversed(found)]
    first = [error] if error and error.input != question else []
    return [worked(task, a) for a in (*first, *near)]


def worked(task: Task, annotation: Annotation) -> Question:
    """An answer of the teacher as a question with its rationale and target."""
    reasoning = annotation.text.partition(task.answer.open)[0] if task.answer.tagged else ""
    return Question(annotation.id, annotation.input, annotation.answer or "", reasoning.strip())


def least_sure(errors: Sequence[tuple[float, Annotation]]) -> Annotation | None:
    """Of the student's errors, as (its uncertainty, the trusted answer), the one it was least sure of; of several the first."""
    return max(errors, key=lambda e: e[0])[1] if errors else None
