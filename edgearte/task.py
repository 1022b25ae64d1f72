"""A task: its description, seeds, preference questions and evaluation set, read from the files people have.

A file is JSONL, or one JSON document with a list of records or `{"examples": [...]}`; what its records may hold is in `forms.py`.
A `.yaml` file is a task of lm-evaluation-harness.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgearte import forms
from edgearte.answers import AnswerFormat, valid_target
from edgearte.errors import Problem, UserError
from edgearte.records import Question


@dataclass(frozen=True)
class Task:
    """What is taught: `seeds` start the drafting, `preference` questions score drafts, `evaluation` only measures. Questions of the
    `pool` may be put to the teacher; they need no target. `development` decides what is delivered. `meanings` say what each label is
    for, where the recipe tells. The `instruction` is what the student is told in place of the description, if it is not empty. `notes` are
    what a reader of the outcome should know of how the task was read."""

    name: str
    description: str
    answer: AnswerFormat
    seeds: tuple[Question, ...]
    preference: tuple[Question, ...]
    evaluation: tuple[Question, ...]
    pool: tuple[Question, ...] = ()
    development: tuple[Question, ...] = ()
    meanings: Mapping[str, str] = field(default_factory=dict)
    instruction: str = ""
    notes: tuple[str, ...] = ()

    @property
    def header(self) -> str:
        """How every prompt to the student begins (papers' wording: description, then the reminder of the tag)."""
        told = self.instruction or self.description
        if not self.answer.tagged:
            return f"Task Description: {told}"
        return (
            f"Task Description: {told} Remember you should include your final answer with the tag "
            f"{self.answer.open} and {self.answer.close}."
        )


def load_questions(path: Path, fmt: AnswerFormat, take: str = "", *, labelled: bool = True) -> tuple[Question, ...]:
    """The questions of a file, or the slice `take` ("start:stop") of them; all problems of the file in one `UserError`. Where they
    need not be `labelled`, a target may be missing."""
    problems: list[Problem] = []
    questions: list[Question] = []
    seen: dict[str, str] = {}
    part = _slice(take)
    for where, question in _harness(path, fmt) if path.suffix in (".yaml", ".yml") else _formed(path):
        if isinstance(question, Question) and (problem := unfit(question, fmt, where, labelled=labelled)):
            question = problem
        if isinstance(question, Problem):
            problems.append(question)
            continue
        if question.id in seen:
            problems.append(Problem(f"duplicate id {question.id!r}, first seen at {seen[question.id]}", where))
        seen.setdefault(question.id, where)
        questions.append(question)
    if problems:
        raise UserError(problems)
    chosen = tuple(questions[part])
    if not chosen:
        raise UserError(Problem("no questions in it" + (f" between {take}" if take else ""), str(path)))
    return chosen


def unfit(question: Question, fmt: AnswerFormat, where: str, *, labelled: bool = True) -> Problem | None:
    """What keeps a question from being asked under this answer format."""
    missing = [key for key in ("input", *(["target"] if labelled else [])) if not getattr(question, key)]
    if missing:
        return Problem(f"no {' and no '.join(missing)}", where)
    if question.target and not valid_target(question.target, fmt):
        kind = f"one of {', '.join(fmt.choices)}" if fmt.choices else f"an answer of the kind {fmt.kind}"
        return Problem(f"target {question.target!r} is not {kind}", where)
    return None


Found = Iterator[tuple[str, Question | Problem]]  # what stands where


def _harness(path: Path, fmt: AnswerFormat) -> Found:
    """The documents of a task of lm-evaluation-harness."""
    from edgearte import lmeval

    for i, question in enumerate(lmeval.as_questions(lmeval.load_task_yaml(path), fmt)):
        yield f"{path}: document {i + 1}", question


def _formed(path: Path) -> Found:
    """The records of a file, each in a form of `forms.py`."""
    entries = [(where, r, None if isinstance(r, Problem) else forms.recognised(r)) for where, r in _records(path)]
    strange = [(where, r) for where, r, form in entries if form is None and not isinstance(r, Problem)]
    if strange and not any(form for _, _, form in entries):
        # Then it is the file that is of another form, not some records that are wrong.
        where, record = strange[0]
        raise UserError(Problem(f"{_strange(record)}. Known forms: {forms.known()}", where))
    for position, (where, found, form) in enumerate(entries):
        if isinstance(found, Problem):
            yield where, found
        elif form is None:
            yield where, Problem(_strange(found), where)
        else:
            yield where, _question(found, form, where, f"{path.stem}-{position}")


def _strange(record: dict[str, Any]) -> str:
    return f"fits no known form; it holds {', '.join(record) or 'nothing'}"


def _question(record: dict[str, Any], form: forms.Form, where: str, default_id: str) -> Question | Problem:
    try:
        values = form.read(record)
    except ValueError as error:
        return Problem(str(error), where)
    return Question(
        id=values.get("id") or default_id,
        input=values["input"].strip(),
        target=values["target"].strip(),
        rationale=values.get("rationale", "").strip(),
    )


def _slice(take: str) -> slice:
    if not take:
        return slice(None)
    start, colon, stop = take.partition(":")
    try:
        if not colon:
            raise ValueError
        return slice(int(start) if start else None, int(stop) if stop else None)
    except ValueError:
        raise UserError(f"take: {take!r} is not start:stop, such as 0:40") from None


def _records(path: Path) -> Iterator[tuple[str, dict[str, Any] | Problem]]:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise UserError(Problem("no such file", str(path))) from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UserError(Problem(f"not UTF-8 at byte {error.start}", f"{path}:{line}")) from None
    except OSError as error:
        raise UserError(Problem(f"cannot be read: {error.strerror}", str(path))) from None
    whole = _whole(text) if path.suffix == ".json" else None
    if whole is not None:
        for i, record in enumerate(whole):
            where = f"{path}: example {i + 1}"
            yield where, record if isinstance(record, dict) else Problem("not an object", where)
        return
    for number, written in enumerate(text.split("\n"), 1):
        if not written.strip():
            continue
        where = f"{path}:{number}"
        try:
            record = json.loads(written)
        except ValueError as error:
            yield where, Problem(f"not valid JSON: {error}", where)
            continue
        yield where, record if isinstance(record, dict) else Problem("not an object", where)


def _whole(text: str) -> Sequence[Any] | None:
    """The records of a file that is one JSON document; None when it is not one (then it is read line by line)."""
    try:
        data = json.loads(text)
    except ValueError:
        return None
    examples = data.get("examples", [data]) if isinstance(data, dict) else data
    return examples if isinstance(examples, list) else None
