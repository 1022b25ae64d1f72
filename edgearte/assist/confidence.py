"""How sure the teaching assistant is that an answer is right: of the student's (signal 2) and of the teacher's (signal 3).

The paper does not say whether it takes a probability or a number that the assistant names; both are here, and the report shows
how well either is calibrated.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any, Literal

from edgearte.arte import prompts
from edgearte.lm.base import LM, Asked, Sampling, rendered, sharing
from edgearte.store import Store
from edgearte.task import Task

VERSION = 1
ROWS = 64  # answers computed together
How = Literal["yes/no", "number"]
NUMBER_TOKENS = 8
UNKNOWN = 0.5  # of an assistant that names no number


def confidences(
    assistant: LM, form: str, task: Task, said: Sequence[tuple[str, str]], how: How, store: Store, *, label: str
) -> list[float]:
    """The assistant's confidence, from 0 to 1, in every (question, answer); `form` is how its template takes a task (`hf.form`).

    yes/no: P(Yes) / (P(Yes) + P(No)) as the next word. number: what it says to "how likely, from 0 to 100?".
    """
    asked = [question(task, form, q, answer, how) for q, answer in said]

    def compute(part: list[Asked]) -> list[dict[str, Any]]:
        texts = rendered(assistant, part)
        measure = _yes_or_no if how == "yes/no" else _number
        found = measure(assistant, texts, form)
        tokens = [len(t) // prompts.CHARACTERS for t in texts]
        return [{"confidence": c, "tokens": n} for c, n in zip(found, tokens, strict=True)]

    options = {"assistant": assistant.identity, "how": how}
    rows = store.rows("confidence", VERSION, options, asked, compute, chunk=1, together=ROWS, label=label)
    return [float(row["confidence"]) for row in rows]


def question(task: Task, form: str, text: str, answer: str, how: How) -> Asked:
    """What the assistant is asked about one answer."""
    ending = (
        "Is the final answer of this proposal correct? Reply with one word, Yes or No."
        if how == "yes/no"
        else "How likely is it that the final answer of this proposal is correct? Reply with a whole number from 0 to 100 only."
    )
    ask = f"{task.description}\n\nQuestion: {text}\n\nProposed answer:\n{answer.strip()}\n\n{ending}"
    return f"{ask}\nReply:" if form == "plain" else [{"role": "user", "content": ask}]


def _yes_or_no(assistant: LM, texts: Sequence[str], form: str) -> list[float]:
    space = " " if form == "plain" else ""
    pairs = [(p, space + word) for p in sharing(texts) for word in ("Yes", "No")]
    scores = [s.logprob for s in assistant.loglikelihood(pairs)]
    return [1 / (1 + math.exp(no - yes)) for yes, no in zip(scores[::2], scores[1::2], strict=True)]


def _number(assistant: LM, texts: Sequence[str], form: str) -> list[float]:
    outputs = assistant.generate(sharing(texts), Sampling(NUMBER_TOKENS))
    return [named(o.text) for o in outputs]


def named(text: str) -> float:
    """The first number of a text as a confidence: 85, 85 % and 0.85 alike."""
    found = re.search(r"\d+(?:\.\d+)?", text)
    if not found:
        return UNKNOWN
    value = float(found.group())
    share = value if "." in found.group() and value <= 1 else value / 100
    return min(share, 1.0)
