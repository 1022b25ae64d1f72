"""What `assisted.py` asks of the models, as a recipe sets it: each step is a stage over the store."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgearte import steps
from edgearte.answers import grade
from edgearte.arte import draft, prompts
from edgearte.assist import annotate, confidence, signals
from edgearte.lm.hf import TransformersLM, form
from edgearte.recipe import Assist
from edgearte.records import Annotation, Question
from edgearte.setup import Setup
from edgearte.store import seed_of


def pool(setup: Setup, how: Assist) -> tuple[Question, ...]:
    """The questions the teacher may be asked: the user's own, what it drafts itself (without the targets it drafted), or both."""
    found = setup.task.pool if "questions" in how.pool else ()
    if "drafts" in how.pool:
        author = steps.teacher(setup, setup.teacher.folder)
        ask, count = steps.settings(setup.recipe, setup.task), setup.recipe.draft.questions
        written = draft.draft_questions(author, setup.task, ask, count, setup.store, purpose="draft", label="draft: questions")
        author.release()
        found += tuple(Question(d.id, d.input, "") for d in written.drafts)
    return found


def annotated(setup: Setup, questions: Sequence[Question], phase: str) -> list[Annotation]:
    """What the teacher answers."""
    author, task = steps.teacher(setup, setup.teacher.folder), setup.task
    found = annotate.annotate(author, task, steps.settings(setup.recipe, task), questions, setup.store, label=f"ask the teacher: {phase}")
    author.release()
    return found


def trusted(setup: Setup, how: Assist, said: Sequence[tuple[str, str]], label: str) -> list[float]:
    """The assistant's confidence in each (question, answer)."""
    found = setup.assistant
    if found is None:
        raise RuntimeError("this recipe has no assistant")
    model = TransformersLM(found.folder, found.identity, dtype=how.dtype)
    shares = confidence.confidences(model, form(found.folder), setup.task, said, how.confidence, setup.store, label=label)
    model.release()
    return shares


def sampled(setup: Setup, how: Assist, folder: Path, questions: Sequence[Question]) -> list[signals.Sampled]:
    """What the student in `folder` says to each question, several times."""
    model, task = steps.student(setup, folder), setup.task
    asked = [prompts.asked(task.header, setup.form, q.input) for q in questions]
    found = signals.sampled(
        model, asked, task.answer, how.samples, how.temperature, setup.recipe.measure.max_tokens,
        seed_of(setup.recipe.seed, "samples"), setup.store, label="the student's samples",
    )  # fmt: skip
    model.release()
    return found


def right(setup: Setup, question: Question, text: str) -> bool | None:
    """Whether a text answers a question rightly; None where that is not known."""
    return grade(text, question.target, setup.task.answer).correct if question.target else None
