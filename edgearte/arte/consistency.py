"""A second opinion on a drafted target where the set of answers is open: what the teacher answers most often, asked anew.

Self-consistency (Wang et al. 2022, arXiv 2203.11171): several reasoning paths are sampled at a temperature, and the answer most of
them end in is taken. Where the answers are a closed set and the teacher is weak, `vote.py` asks its likelihoods instead. The paper
of the loop verifies nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgearte.answers import extract, matches, spelled, valid_target
from edgearte.arte import draft
from edgearte.errors import UserError
from edgearte.lm.base import LM
from edgearte.records import Draft
from edgearte.store import Store, seed_of
from edgearte.task import Task

VERSION = 1
ROWS = 64  # samples of a chunk, in whole drafts


@dataclass(frozen=True)
class Verdict:
    """What the samples of one question say. Shares are of all samples, so that one without a usable answer speaks for none.

    majority: the answer given most often, None where none was given; of several, the draft's own target, or the one given first.
    majority_share and share: how many gave the majority, and how many the draft's own target. votes: samples by answer.
    """

    majority: str | None
    majority_share: float
    share: float
    votes: Mapping[str, int]


def agree(
    teacher: LM, task: Task, settings: draft.Settings, drafts: Sequence[Draft], samples: int, temperature: float, store: Store,
    *, label: str,
) -> list[Verdict]:  # fmt: skip
    """A verdict on every draft: its question answered `samples` times with the naive prompt at `temperature` (the paper: 0.5 to 0.7)."""
    if settings.style == "continuation" and task.answer.choices:
        raise UserError(
            "style: continuation with a closed set of answers explains a given answer and finds none; check its targets with draft.vote"
        )
    if temperature <= 0:
        raise UserError("samples that are to agree need a temperature above 0: without one they are all the same")
    options = {**draft.options(teacher, task, settings), "samples": samples, "temperature": temperature}

    def compute(part: list[str]) -> list[dict[str, Any]]:
        items = [
            {"input": text, "target": "", "instruction": draft.naive(settings),
             "seed": seed_of(settings.seed, "consistency", text, k)}
            for text in part
            for k in range(samples)
        ]  # fmt: skip
        written = draft.rationales(teacher, task, settings, items, temperature)
        by_question = [written[k * samples : (k + 1) * samples] for k in range(len(part))]
        return [{"texts": [w["text"] for w in ws], "tokens": sum(w["tokens"] for w in ws)} for ws in by_question]

    chunk = max(1, ROWS // samples)
    rows = store.rows("consistency", VERSION, options, [d.input for d in drafts], compute, chunk=chunk, label=label)
    return [_verdict(task, d.target, row["texts"]) for d, row in zip(drafts, rows, strict=True)]


def _verdict(task: Task, target: str, texts: Sequence[str]) -> Verdict:
    """The count of what samples answered. Answers that grading would call the same are one, as it was spelled first."""
    fmt = task.answer
    votes: Counter[str] = Counter()
    for text in texts:
        answer = extract(text, fmt)
        if answer is not None and valid_target(answer, fmt):
            votes[next((v for v in votes if matches(answer, v, fmt)), answer)] += 1
    own = sum(n for v, n in votes.items() if matches(v, target, fmt))
    most = max(votes.values(), default=0)
    first = next((spelled(v, fmt) for v, n in votes.items() if n == most), None)
    majority = target if own and own == most else first
    return Verdict(majority, most / len(texts), own / len(texts), {spelled(v, fmt): n for v, n in votes.items()})
