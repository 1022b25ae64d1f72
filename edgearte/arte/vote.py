"""A second opinion on a drafted target: what the teacher itself would answer, asked once more with the user's seeds as examples.

A weak teacher writes to a label better than it labels, so its drafts hold many that belong elsewhere; its likelihoods over the
labels, given the draft, tell a good part of them. The paper verifies nothing.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from statistics import fmean
from typing import Any

from edgearte.arte import prompts
from edgearte.lm.base import LM, Prompt
from edgearte.records import Draft
from edgearte.store import Store
from edgearte.task import Task

VERSION = 2
ROWS = 128  # drafts of a chunk; the seeds are read once in each


def shares(teacher: LM, task: Task, drafts: Sequence[Draft], store: Store, *, label: str) -> list[float]:
    """The probability of every draft's own target among the task's choices; see `calibrated`."""
    choices = task.answer.choices
    rows = calibrated(table(teacher, task, [d.input for d in drafts], store, label=label), [d.target for d in drafts])
    return [math.exp(row[choices.index(d.target)]) for row, d in zip(rows, drafts, strict=True)]


def calibrated(rows: Sequence[Sequence[float]], groups: Sequence[Hashable]) -> list[list[float]]:
    """log p(c) of every row of a `table`: the log-softmax over choices c of [l(c) - b(c)], where b(c) is the mean over the groups of the
    mean over a group's rows of l(c).

    That is batch calibration (Zhou et al. 2023, arXiv 2309.17249), without which a few-shot prompt prefers the labels it likes. It supposes
    that the texts are spread over the choices; grouped by the choice each is claimed to be of, all of them count alike.
    """
    if not rows:
        return []
    usual = _bias(rows, groups)
    return [_log_softmax([a - b for a, b in zip(row, usual, strict=True)]) for row in rows]


def likeliest(task: Task, rows: Sequence[Sequence[float]], usual: Sequence[Sequence[float]]) -> list[str]:
    """The choice that is most probable in each row of a `table`, against how much the teacher likes it in the `usual` rows."""
    if not rows:
        return []
    liked = _bias(usual, [""] * len(usual))
    return [task.answer.choices[max(range(len(row)), key=lambda k: row[k] - liked[k])] for row in rows]


def _bias(rows: Sequence[Sequence[float]], groups: Sequence[Hashable]) -> list[float]:
    """b(c) of `calibrated`: how much the teacher likes each choice, whatever the text. At least one row is needed."""
    apart: dict[Hashable, list[Sequence[float]]] = {}
    for row, group in zip(rows, groups, strict=True):
        apart.setdefault(group, []).append(row)
    means = [[fmean(column) for column in zip(*part, strict=True)] for part in apart.values()]
    return [fmean(column) for column in zip(*means, strict=True)]


def table(teacher: LM, task: Task, texts: Sequence[str], store: Store, *, label: str) -> list[list[float]]:
    """Of every text the l(c): the log-softmax over the task's choices c of log P(c | meanings, seeds, text)."""
    prefix = prompts.label_prefix(task)
    choices = task.answer.choices
    options = {"teacher": teacher.identity, "prefix": prefix, "choices": choices}

    def compute(part: list[str]) -> list[dict[str, Any]]:
        pairs = [
            (Prompt(prompts.label_question(t), prefix=prefix), prompts.label_answer(c)) for t in part for c in choices
        ]
        scores = [s.logprob for s in teacher.loglikelihood(pairs)]
        # All labels are read with one question (`lm/tree.py`).
        beside = len(prefix) + sum(len(prompts.label_answer(c)) for c in choices)
        return [
            {
                "scores": scores[k * len(choices) : (k + 1) * len(choices)],
                "tokens": (beside + len(prompts.label_question(text))) // prompts.CHARACTERS,
            }
            for k, text in enumerate(part)
        ]

    rows = store.rows("vote", VERSION, options, list(texts), compute, chunk=ROWS, label=label)
    return [_log_softmax(row["scores"]) for row in rows]


def _log_softmax(row: Sequence[float]) -> list[float]:
    top = max(row)
    total = top + math.log(sum(math.exp(x - top) for x in row))
    return [x - total for x in row]
