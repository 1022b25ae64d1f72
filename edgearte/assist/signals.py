"""What the student's own answers say about which questions it still has to be taught (paper: student self-consistency)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from edgearte.answers import AnswerFormat, extract
from edgearte.evaluate import stop
from edgearte.lm.base import LM, Asked, Prompt, Sampling, rendered
from edgearte.store import Store, seed_of

VERSION = 1
ROWS = 64  # questions of a chunk

Measure = Literal["answers", "texts", "entropy"]


@dataclass(frozen=True)
class Sampled:
    """What the student says to one question, asked several times."""

    texts: tuple[str, ...]
    answers: tuple[str | None, ...]

    @property
    def usual(self) -> str:
        """The text that stands for all: the first with the answer given most often, or the first where none holds an answer."""
        votes = Counter(a for a in self.answers if a is not None)
        return self.texts[self.answers.index(votes.most_common(1)[0][0])] if votes else self.texts[0]


def sampled(
    student: LM, asked: Sequence[Asked], fmt: AnswerFormat, samples: int, temperature: float, max_tokens: int, seed: int, store: Store,
    *, label: str,
) -> list[Sampled]:  # fmt: skip
    """Every question answered `samples` times at `temperature` (paper: 0.7; how often is not stated)."""

    def compute(part: list[Asked]) -> list[dict[str, Any]]:
        texts = rendered(student, part)
        prompts = [Prompt("", prefix=t, seed=seed_of(seed, "sample", t, k)) for t in texts for k in range(samples)]
        outputs = student.generate(prompts, Sampling(max_tokens, temperature, stop=stop(fmt)))
        mine = [outputs[i * samples : (i + 1) * samples] for i in range(len(part))]
        return [
            {"texts": [o.text for o in own], "tokens": sum(o.prompt_tokens + o.new_tokens for o in own)} for own in mine
        ]

    options = {
        "student": student.identity, "samples": samples, "temperature": temperature, "max_tokens": max_tokens,
        "stop": stop(fmt), "seed": seed,
    }  # fmt: skip
    rows = store.rows("sample", VERSION, options, asked, compute, chunk=ROWS, label=label)
    return [Sampled(tuple(r["texts"]), tuple(extract(t, fmt) for t in r["texts"])) for r in rows]


def uncertainty(of: Sampled, measure: Measure) -> float:
    """How unsure the student is of a question, from 0 to 1.

    `answers` (or `texts`): (distinct - 1) / (samples - 1), the paper's count of distinct outputs. `entropy`: that of the shares of the
    answers, over log(samples). A sample without an answer agrees with no other: it is an answer of its own.
    """
    import math

    n = len(of.texts)
    if n < 2:
        return 0.0
    said: Sequence[object] = of.texts
    if measure != "texts":
        said = [(k,) if a is None else a.casefold() for k, a in enumerate(of.answers)]
    counts = Counter(said).values()
    if measure == "entropy":
        return -sum(c / n * math.log(c / n) for c in counts) / math.log(n)
    return (len(counts) - 1) / (n - 1)


def order(columns: Sequence[Sequence[float]]) -> list[int]:
    """Indices from what is most wanted to what is least: by the mean of the ranks under each column of scores, higher first.

    What ranks alike stays in the order it came in, so give it in an order that means nothing.
    """
    from scipy.stats import rankdata

    ranks = rankdata(columns, axis=1).sum(0).tolist()
    return sorted(range(len(ranks)), key=lambda k: -ranks[k])
