"""The student's preference for a rationale, read and not written: how probable the right answer is with that rationale as its one example.

The paper's score (`prefer.py`) counts greedy hits. A student that hardly ever hits gives the same count to almost every example, and the
count then measures chance. The probability of the right answer differs between examples long before an answer is hit, and it costs one
reading where a hit costs a whole written answer.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from edgearte.answers import AnswerFormat, spelled
from edgearte.arte import prompts
from edgearte.arte.prefer import LABEL, Preferred
from edgearte.lm.base import LM, Prompt, Score
from edgearte.records import Draft, Preference, Question
from edgearte.store import Store
from edgearte.task import Task

VERSION = 1
ROWS = 512  # questions of a chunk, in whole examples
CLOSING = "</"  # the rest of the tag is certain then, and would have to be read for every choice
OPPOSITE = {"yes": "no", "no": "yes", "true": "false", "false": "true"}
_OPTION = re.compile(r"^\s*\(([A-Z])\)", re.M)  # how `forms.with_options` writes the options of a question
_LETTER = re.compile(r"\(?([A-Z])\)?")


@dataclass(frozen=True)
class Asked:
    """A preference question as it is read: what could follow it, and which of those is right."""

    text: str
    answers: tuple[str, ...]
    right: int


def score(student: LM, task: Task, drafts: Sequence[Draft], questions: Sequence[Question], store: Store) -> Preferred:
    """The mean probability of the right answer over all the questions, for every rationale.

    With closed choices p = softmax over the choices c of log P(" <ans>c</" | example, question), at the right one. Without, p is
    exp of the mean log-probability a token of the answer's own text, after its opening tag. Each question's p is in `marks`; `correct`
    counts those whose right choice is the most probable one (0 where there are no choices). `form` is apart from that: exp of the mean
    log-probability a token of the opening tag, averaged over the questions, and 1 where no tag is asked for. Nothing is generated.
    """
    asked = [_asked(q, task.answer) for q in questions]
    apart = list(dict.fromkeys((d.input, r.text) for d in drafts for r in d.rationales))
    options = {"student": student.identity, "header": task.header, "answer": task.answer, "questions": asked}

    def compute(part: list[list[str]]) -> list[dict[str, Any]]:
        prefixes = [prompts.one_shot_prefix(task, text, rationale) for text, rationale in part]
        rows = [
            (Prompt(prompts.shot_question(q.text), prefix=prefix), continuation)
            for prefix in prefixes
            for q in asked
            for continuation in _continuations(q, task.answer)
        ]
        scores = iter(student.loglikelihood(rows))
        values = []
        for prefix in prefixes:
            own = [[next(scores) for _ in _continuations(q, task.answer)] for q in asked]
            read = len(prefix) + sum(len(prompts.shot_question(q.text)) for q in asked)
            values.append({
                "right": [_right(q, found, task.answer) for q, found in zip(asked, own, strict=True)],
                "hit": [_hit(q, found) for q, found in zip(asked, own, strict=True)],
                "form": [_form(found, task.answer) for found in own],
                "tokens": read // prompts.CHARACTERS + sum(s.tokens for found in own for s in found),
            })  # fmt: skip
        return values

    chunk = max(1, ROWS // len(questions))
    rows = store.rows("probability", VERSION, options, [list(one) for one in apart], compute, chunk=chunk, label=LABEL)
    by_text = dict(zip(apart, rows, strict=True))
    return Preferred(tuple(_preference(d.id, r.strategy, by_text[d.input, r.text]) for d in drafts for r in d.rationales))


def _preference(draft: str, strategy: str, row: dict[str, Any]) -> Preference:
    right = tuple(row["right"])
    return Preference(draft, strategy, fmean(right), len(right), sum(row["hit"]), 0, right, fmean(row["form"]))


def _asked(question: Question, fmt: AnswerFormat) -> Asked:
    choices = _choices(question, fmt)
    target = spelled(question.target, fmt) if fmt.choices else question.target
    return Asked(question.input, choices, choices.index(target)) if target in choices else Asked(question.input, (target,), 0)


def _choices(question: Question, fmt: AnswerFormat) -> tuple[str, ...]:
    """All that could be answered, spelled as this question's target is; empty where the answers are open."""
    if fmt.choices:
        return fmt.choices
    if fmt.kind == "yesno":
        other = OPPOSITE.get(question.target.casefold())
        return (question.target, other.capitalize() if question.target[0].isupper() else other) if other else ()
    letter = _LETTER.fullmatch(question.target.strip())
    letters = tuple(dict.fromkeys(_OPTION.findall(question.input)))
    if fmt.kind == "choice" and letter and letter[1] in letters:
        return tuple(question.target.replace(letter[1], one) for one in letters)
    return ()


def _continuations(question: Asked, fmt: AnswerFormat) -> list[str]:
    """What is read after a question: the opening tag (where there is one), then every answer whole."""
    if not fmt.tagged:
        return [f" {answer}" for answer in question.answers]
    # A choice is read until its closing tag begins, for one label may begin another; an open answer up to its own end.
    end = CLOSING if len(question.answers) > 1 else ""
    return [f" {fmt.open}", *(f" {fmt.open}{answer}{end}" for answer in question.answers)]


def _right(question: Asked, scores: Sequence[Score], fmt: AnswerFormat) -> float:
    answers = scores[1:] if fmt.tagged else scores
    if len(question.answers) > 1:
        top = max(s.logprob for s in answers)
        parts = [math.exp(s.logprob - top) for s in answers]
        return parts[question.right] / sum(parts)
    whole, tag = answers[0], scores[0] if fmt.tagged else Score(0.0, 0)
    # Some tokenizers join the tag's last character with the answer's first: then there is a token less, and the difference may pass 0.
    return math.exp(min(0.0, whole.logprob - tag.logprob) / max(1, whole.tokens - tag.tokens))


def _hit(question: Asked, scores: Sequence[Score]) -> int:
    """Whether the right one of several choices is the most probable one."""
    answers = scores[-len(question.answers) :]
    best = max(range(len(answers)), key=lambda k: answers[k].logprob)
    return int(len(answers) > 1 and best == question.right)


def _form(scores: Sequence[Score], fmt: AnswerFormat) -> float:
    return math.exp(scores[0].logprob / scores[0].tokens) if fmt.tagged else 1.0
