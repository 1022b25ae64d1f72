"""Whether an alignment did what it is for: what the student makes of texts by the aligned teacher, beside those by the unaligned one for
the same prompts; and how far the teacher has moved for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations, pairwise
from statistics import fmean
from typing import TYPE_CHECKING, Any

from edgearte.arte.reliability import by_question
from edgearte.lm.base import LM, sharing
from edgearte.records import Draft, Example, Judged, Moved, Preference, Question, Rationale
from edgearte.store import Store
from edgearte.task import Task

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

VERSION = 2
ROWS = 8  # texts of a chunk: every token of theirs takes a row of logits as wide as the vocabulary
RESAMPLES = 4_000
ENOUGH = 8  # preference questions that are left over; with fewer, development questions are added
ALIGNED, UNALIGNED, SAME = "aligned", "unaligned", "no difference"

Scorer = Callable[[Sequence[Draft]], Sequence[Preference]]


def judging_questions(task: Task, asked: Sequence[Question], count: int) -> tuple[Question, ...]:
    """Up to `count` questions that took no part in making pairs: preference questions that were not asked and are no seeds, filled up with
    development questions where fewer than `ENOUGH` of them are left. None where there are none."""
    used = {q.input for q in (*asked, *task.seeds)}
    left = {q.input: q for q in task.preference if q.input not in used}
    if len(left) < min(ENOUGH, count):
        left |= {q.input: q for q in task.development if q.input not in used and q.input not in left}
    return tuple(left.values())[:count]


def taught(drafts: Sequence[Draft], examples: Sequence[Example]) -> list[Draft]:
    """The drafts that examples were made of, each with what is taught of it as its one rationale: reasoning, or the answer alone."""
    completions = {e.id: e.completion for e in examples}
    return [replace(d, rationales=(Rationale("taught", completions[d.id], d.target),)) for d in drafts if d.id in completions]


def judge(aligned: Sequence[Draft], unaligned: Sequence[Draft], score: Scorer, questions: Sequence[Question]) -> Judged:
    """Both teachers' drafts, one rationale each, scored by `score` on these questions.

    The interval is a bootstrap's that resamples prompts and questions alike (the pigeonhole bootstrap, Owen 2007, Annals of Applied
    Statistics 1). What both teachers wrote to one prompt stays together, so that a hard prompt counts for neither; a prompt to which only
    one of them wrote something fit is drawn as well. Raises ValueError where either teacher wrote nothing.
    """
    aligned, unaligned = ([d for d in arm if d.rationales] for arm in (aligned, unaligned))
    if not aligned or not unaligned:
        raise ValueError("to be judged, both teachers must have written something")
    scores = by_question(score(list({d.id: d for d in (*aligned, *unaligned)}.values())))
    read = all(p.form is not None and p.marks for p in scores.values())
    one, other = _mean(aligned, scores, read=read), _mean(unaligned, scores, read=read)
    low, high = _interval((aligned, unaligned), scores, read=read)
    difference = one - other
    better = ALIGNED if low > 0 else UNALIGNED if high < 0 else SAME
    sentence = _sentence(one, other, low, high, better, read=read)
    return Judged(one, other, difference, low, high, len(aligned), len(unaligned), len(questions), better, sentence)


def _mean(drafts: Sequence[Draft], scores: Mapping[str, Preference], *, read: bool) -> float:
    """The mean score; of probabilities that were read the geometric one, over texts and questions."""
    own = [scores[d.id] for d in drafts]
    return math.exp(fmean(fmean(p.marks) for p in own)) if read else fmean(p.score for p in own)


def _interval(
    arms: tuple[Sequence[Draft], Sequence[Draft]], scores: Mapping[str, Preference], *, read: bool
) -> tuple[float, float]:
    """The middle 95 % of the difference over resampled prompts, and questions where every score has its marks."""
    import numpy as np

    # Seeds belong to the prompt: in later attempts the same number may ask for another answer.
    prompts = {key: k for k, key in enumerate(dict.fromkeys((d.source, d.seeds) for arm in arms for d in arm))}
    width = len({len(scores[d.id].marks) for arm in arms for d in arm}) == 1 and len(scores[arms[0][0].id].marks)
    chance = np.random.default_rng(0)
    drawn = chance.multinomial(len(prompts), np.full(len(prompts), 1 / len(prompts)), RESAMPLES)
    asked = chance.multinomial(width, np.full(width, 1 / width), RESAMPLES) / width if width else np.ones((RESAMPLES, 1))

    def means(arm: Sequence[Draft]) -> NDArray[np.float64]:
        values = np.array([scores[d.id].marks if width else (scores[d.id].score,) for d in arm], float)
        weights = drawn[:, [prompts[d.source, d.seeds] for d in arm]]
        with np.errstate(invalid="ignore"):  # a resample without any text of this arm says nothing
            found: NDArray[np.float64] = ((weights @ values) * asked).sum(1) / weights.sum(1)
        return np.exp(found) if read else found

    low, high = np.nanpercentile(means(arms[0]) - means(arms[1]), [2.5, 97.5])
    return float(low), float(high)


def _sentence(one: float, other: float, low: float, high: float, better: str, *, read: bool) -> str:
    verb = "gives the right answers a probability of" if read else "answers"
    said = (
        f"the student {verb} {one:.1%} with what the aligned teacher writes, {other:.1%} with what the unaligned one wrote "
        f"({(one - other) * 100:+.1f} points, 95 % interval {low * 100:+.1f} to {high * 100:+.1f})"
    )
    ends = {
        ALIGNED: "the alignment did its job",
        UNALIGNED: "the alignment did harm",
        SAME: "no difference beyond noise: the alignment brought nothing that could be seen",
    }
    return f"{said}: {ends[better]}" if better != SAME else f"{said}; {ends[better]}"


def moved(
    before: LM, after: LM, texts: Sequence[tuple[str, str]], aligned: Sequence[Draft], unaligned: Sequence[Draft], store: Store
) -> Moved:
    """How far `after` is from `before`, over what it wrote: (prompt, completion), see `align.as_written`; and what its questions look like,
    beside those of `before`.

    KL(after || before) a token = mean over the tokens that `after` sampled of log p_after - log p_before; an estimate, since questions
    are read one by one that may have been written one after the other.
    """
    here, there = _logprobs(after, texts, store), _logprobs(before, texts, store)
    tokens = sum(row["scored"] for row in here)
    gap = sum(a["logprob"] for a in here) - sum(b["logprob"] for b in there)
    one, other = [d.input for d in aligned], [d.input for d in unaligned]
    return Moved(gap / tokens if tokens else 0.0, tokens, _words(one), _words(other), diversity(one), diversity(other), distinct(one),
                 distinct(other))  # fmt: skip


def _logprobs(model: LM, texts: Sequence[tuple[str, str]], store: Store) -> list[dict[str, Any]]:
    def compute(part: list[list[str]]) -> list[dict[str, Any]]:
        asked = sharing([prompt for prompt, _ in part])  # they begin with the same task
        scores = model.loglikelihood([(prompt, completion) for prompt, (_, completion) in zip(asked, part, strict=True)])
        return [{"logprob": s.logprob, "scored": s.tokens, "tokens": s.tokens} for s in scores]

    options = {"model": model.identity}
    return store.rows("moved", VERSION, options, [list(t) for t in texts], compute, chunk=ROWS, label="how far the teacher moved")


def _words(texts: Sequence[str]) -> float:
    return fmean(len(t.split()) for t in texts) if texts else 0.0


def diversity(texts: Sequence[str]) -> float:
    """How unlike texts are to each other, 0 to 1: the mean of 1 - rapidfuzz's token_sort_ratio over all two of them."""
    from rapidfuzz import fuzz

    return fmean(1 - fuzz.token_sort_ratio(a, b) / 100 for a, b in combinations(texts, 2)) if len(texts) > 1 else 0.0


def distinct(texts: Sequence[str]) -> float:
    """Distinct-2 (Li et al. 2016, arXiv 1510.03055): different pairs of neighbouring words by all such pairs."""
    pairs = [pair for t in texts for words in [t.casefold().split()] for pair in pairwise(words)]
    return len(set(pairs)) / len(pairs) if pairs else 0.0
