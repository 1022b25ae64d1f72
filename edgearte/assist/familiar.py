"""How familiar a question is to each of several teachers: a teacher far out of its distribution counts less.

STRATANET (arXiv 2406.15476) merges several teachers by how sure each is that it knows a text's like. Here that is the teacher's own
log-probability of the question.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgearte.lm.base import LM, Prompt
from edgearte.store import Store

VERSION = 1
ROWS = 8  # questions computed together


def log_probs(teacher: LM, header: str, texts: Sequence[str], store: Store) -> list[float]:
    """Mean log-probability a token, in nats, of every question after the task's description."""

    def compute(part: list[str]) -> list[dict[str, Any]]:
        scores = teacher.loglikelihood([(Prompt(f"{header}\n\n"), text) for text in part])
        return [{"logprob": s.logprob, "scored": s.tokens, "tokens": s.tokens} for s in scores]

    options = {"model": teacher.identity, "header": header}
    rows = store.rows("familiar", VERSION, options, list(texts), compute, chunk=1, together=ROWS, label="familiar questions")
    return [r["logprob"] / r["scored"] for r in rows]


def weights(found: Sequence[Sequence[float]]) -> list[list[float]]:
    """What each teacher counts for each question, from its log-probabilities [teachers, questions]: [questions, teachers], 1 on the mean.

    softmax over the teachers of how far a question lies above the teacher's own mean, in its own standard deviations: that a
    bigger teacher finds every text more probable says nothing.
    """
    import numpy as np
    from scipy.special import softmax

    table = np.asarray(found, float)
    spread = table.std(1, keepdims=True)
    alike = spread <= 1e-9 * (1 + np.abs(table).max())  # to this teacher all questions are: it tells nothing
    told = np.where(alike, 0.0, (table - table.mean(1, keepdims=True)) / np.where(alike, 1.0, spread))
    counted: list[list[float]] = (softmax(told, axis=0) * len(table)).T.tolist()
    return counted
