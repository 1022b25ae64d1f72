"""What the teacher answers to questions of a pool: the calls that a budget is spent on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from edgearte.answers import extract, matches, spelled, valid_target
from edgearte.arte import draft, prompts, tailor, vote
from edgearte.arte.tailor import Teach
from edgearte.lm.base import Prompt, Sampling
from edgearte.lm.calls import Answer, Purse, Recorded
from edgearte.records import Annotation, Question
from edgearte.store import Store
from edgearte.task import Task

VERSION = 1
ROWS = 64  # answers computed together


def annotate(
    teacher: Recorded, task: Task, settings: draft.Settings, questions: Sequence[Question], purse: Purse, store: Store,
    *, label: str, shown: Sequence[Sequence[Question]] = (), bare: bool = False, number: int = 0,
) -> list[Annotation]:  # fmt: skip
    """One call a question, in their order, as many as the purse pays for: with the naive prompt and no word of the answer; or for the
    `bare` answer, after the seeds. A question's own target, if it has one, stays unseen. With worked examples `shown`, as many lists as
    questions, the teacher is told besides that it was doubted and should take care. `number` says which of several teachers it is."""
    items = draft.unanswered(settings, questions, bare=bare)
    ask, write = (draft.bare_calls, draft.bare) if bare else (draft.rationale_calls, draft.rationales)
    for item, examples in zip(items, shown, strict=False):
        item["shown"] = [asdict(e) for e in examples]
        item["instruction"] = prompts.AGAIN if settings.style == "chat" else draft.naive(settings)
    asked, sampling = ask(teacher, task, settings, items)
    calls = [teacher.call(p, sampling) for p in asked]
    options = draft.options(teacher, task, settings)
    rows: list[dict[str, Any]] = []

    def compute(part: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return write(teacher, task, settings, part)

    while count := purse.admit(calls[len(rows) :]):
        part = items[len(rows) : len(rows) + count]
        rows += store.rows("annotate", VERSION, options, part, compute, chunk=1, together=ROWS, label=label)
    return [annotation(task, q, row["text"], row["tokens"], number) for q, row in zip(questions, rows, strict=False)]


def named(
    teacher: Recorded, task: Task, questions: Sequence[Question], purse: Purse, store: Store, teach: Teach,
    *, label: str, usual: Sequence[str] = (), number: int = 0,
) -> list[Annotation]:  # fmt: skip
    """The same where the answers are a closed set and no rationale is taught: of each question the label that the teacher finds most
    probable after the seeds (`vote.table`), against how much it likes the labels in the `usual` texts; without any, in the questions
    themselves. A question counts as a call, of which nothing is written. The text is what the student is taught to say."""
    prefix = prompts.label_prefix(task)
    calls = [teacher.call(Prompt(prompts.label_question(q.input), prefix=prefix), Sampling(0)) for q in questions]
    tokens = [call.most_read // prompts.CHARACTERS for call in calls]
    rows: list[list[float]] = []
    while count := purse.admit(calls[len(rows) :]):
        part = slice(len(rows), len(rows) + count)
        rows += vote.table(teacher, task, [q.input for q in questions[part]], store, label=label)
        made = zip(calls[part], tokens[part], strict=True)
        purse.calls.keep([(c, Answer("", read, 0, "stop")) for c, read in made if purse.calls.answer(c.key) is None])
    told = vote.likeliest(task, rows, vote.table(teacher, task, usual, store, label=label) if usual else rows)
    texts = [tailor.unreasoned(task, answer, teach) for answer in told]
    return [annotation(task, q, text, read, number) for q, text, read in zip(questions, texts, tokens, strict=False)]


def annotation(task: Task, question: Question, text: str, tokens: int, number: int = 0) -> Annotation:
    """A teacher's text with the answer found in it, and whether that is right where the question brings its target."""
    found = extract(text, task.answer)
    answer = spelled(found, task.answer) if found is not None and valid_target(found, task.answer) else None
    right = matches(found, question.target, task.answer) if question.target else None
    return Annotation(question.id, question.input, text, answer, right, tokens, number)
