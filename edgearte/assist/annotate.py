"""What the teacher answers to questions of a pool: the calls that a budget is spent on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from edgearte.answers import extract, matches, spelled, valid_target
from edgearte.arte import draft, prompts, tailor, vote
from edgearte.arte.tailor import Teach
from edgearte.lm.calls import Answer, Call, Purse, Recorded
from edgearte.records import Annotation, Question
from edgearte.store import Store, digest
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
    items: list[dict[str, Any]] = [{"input": q.input, "target": "", "instruction": draft.naive(settings)} for q in questions]
    ask, write = (draft.bare_calls, draft.bare) if bare else (draft.rationale_calls, draft.rationales)
    if bare:
        items = [{"input": q.input, "bare": True} for q in questions]
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
    calls = [_naming(teacher, f"{prefix}{prompts.label_question(q.input)}", task.answer.choices) for q in questions]
    rows: list[list[float]] = []
    while count := purse.admit(calls[len(rows) :]):
        part = slice(len(rows), len(rows) + count)
        rows += vote.table(teacher, task, [q.input for q in questions[part]], store, label=label)
        new = [call for call in calls[part] if purse.calls.answer(call.key) is None]
        purse.calls.keep([(call, Answer("", call.most_read // prompts.CHARACTERS, 0, "stop")) for call in new])
    if not rows:
        return []
    others = vote.table(teacher, task, usual, store, label=label) if usual else rows
    liked = vote.bias(others, [""] * len(others))
    found = []
    for question, row, call in zip(questions, rows, calls, strict=False):
        best = max(range(len(row)), key=lambda k: row[k] - liked[k])
        text = tailor.unreasoned(task, task.answer.choices[best], teach)
        found.append(annotation(task, question, text, call.most_read // prompts.CHARACTERS, number))
    return found


def _naming(teacher: Recorded, text: str, choices: Sequence[str]) -> Call:
    """The call that reads all labels after a text."""
    request = {"prompt": text, "choices": list(choices)}
    return Call(digest("label", teacher.identity, request), teacher.identity, request, 1 + len(text.encode("utf-8", "surrogatepass")), 0)


def annotation(task: Task, question: Question, text: str, tokens: int, number: int = 0) -> Annotation:
    """A teacher's text with the answer found in it, and whether that is right where the question brings its target."""
    found = extract(text, task.answer)
    answer = spelled(found, task.answer) if found is not None and valid_target(found, task.answer) else None
    right = matches(found, question.target, task.answer) if question.target else None
    return Annotation(question.id, question.input, text, answer, right, tokens, number)
