"""How far scores over the preference questions can be trusted: their reliability, and the noise of a gap between two of them.

A score is a mean over a sample of questions. With other questions of the same kind it would have come out differently; what of a gap
between two scores would have stayed is what a teacher can learn from.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING

from edgearte.records import Preference
from edgearte.store import seed_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

HALVES = 200  # random halves of the questions
BEYOND = 1.96  # standard errors: 95 % of what chance does lies within them
TELLS = 0.5  # from this reliability on, more of the differences between scores is real than chance
WANTED = 0.7  # the reliability that more questions are recommended for
FEWEST_SCORES, FEWEST_QUESTIONS = 3, 4  # that a reliability can be estimated from


def split_half(preferences: Sequence[Preference], *, seed: int = 0, within: Mapping[str, Hashable] | None = None) -> float | None:
    """The split-half reliability of the scores, 0 to 1: of all differences between them, the share that is not chance.

    The questions are cut into random halves, many times; r is the mean Pearson correlation between the scores of the two halves (0
    where one half tells no scores apart), and the reliability of the whole is 2r / (1 + r) (Spearman 1910, Brown 1910). `within` gives
    every draft's group: then only differences within a group count. None where `marks` are missing, or too few to tell.
    """
    import numpy as np

    width = len(preferences[0].marks) if preferences else 0
    if len(preferences) < FEWEST_SCORES or width < FEWEST_QUESTIONS or any(len(p.marks) != width for p in preferences):
        return None
    table = np.array([p.marks for p in preferences], float)
    groups = [] if within is None else [within[p.draft] for p in preferences]
    chance = np.random.default_rng(seed_of(seed, "halves"))
    correlations = []
    for _ in range(HALVES):
        order = chance.permutation(width)
        one, other = (
            _centred(table[:, half].mean(1), groups) for half in (order[: width // 2], order[width // 2 :])
        )
        scale = float(np.sqrt((one @ one) * (other @ other)))
        correlations.append(float(one @ other) / scale if scale > 1e-12 else 0.0)
    r = max(0.0, fmean(correlations))
    return 2 * r / (1 + r)


def reliability(preferences: Sequence[Preference], *, seed: int = 0, within: Mapping[str, Hashable] | None = None) -> float:
    """The same as far as it can be known. Without `marks` it is 1 - (mean variance of a score's own noise) / (variance of the scores), from
    `n`; a score that is not a mean over questions has no such noise: 1.

    Few scores cannot tell a low reliability from none: the estimate is never below 1/sqrt(number of scores), its standard error at 0.
    """
    import numpy as np

    found = split_half(preferences, seed=seed, within=within)
    if found is None:
        if len(preferences) < FEWEST_SCORES or not all(p.n for p in preferences):
            return 1.0
        groups = [] if within is None else [within[p.draft] for p in preferences]
        values = _centred(np.array([p.score for p in preferences], float), groups)
        freedom = len(values) - max(1, len(set(groups)))
        spread = float(values @ values) / freedom if freedom else 0.0
        found = 1 - fmean(_binomial(p) for p in preferences) / spread if spread > 0 else 0.0
    return min(1.0, max(found, 1 / math.sqrt(len(preferences))))


def certainty(a: Preference, b: Preference, reliability: float = 1.0) -> tuple[float, bool]:
    """What a pair of `a` before `b` is worth, and whether its gap is beyond the noise: (max(0, 2Φ(z) - 1), z > 1.96).

    z = sqrt(reliability) · gap / standard error. With the reliability at 1 that is the plain test of one gap. Pairs are made of the ends of
    many scores, though, where chance alone brings wide gaps; with their reliability z is that of the true gap given the observed one,
    for true scores and noise that are normal (Kelley's regressed score: mean reliability · gap, variance reliability · error²). The
    weight is then the probability that the order is right, less the probability that it is wrong.
    """
    gap, error = a.score - b.score, gap_error(a, b)
    if gap <= 0:
        return 0.0, False
    if error == 0:
        return 1.0, True
    z = math.sqrt(reliability) * gap / error
    return math.erf(z / math.sqrt(2)), z > BEYOND


def gap_error(a: Preference, b: Preference) -> float:
    """The standard error of `a`'s score less `b`'s. Where both have marks, they are of the same questions: sd of the differences / sqrt(n),
    in which what is hard for both drops out. Otherwise from their counts; 0 where neither was asked anything."""
    n = len(a.marks)
    if n > 1 and n == len(b.marks):
        gaps = [x - y for x, y in zip(a.marks, b.marks, strict=True)]
        middle = fmean(gaps)
        variance = sum((g - middle) ** 2 for g in gaps) / (n - 1) / n
        return math.sqrt(variance) if variance > 1e-18 else 0.0
    return math.sqrt(_binomial(a) + _binomial(b))


def _binomial(p: Preference) -> float:
    """The variance of a share of `n` questions, with two hits and two misses added (Agresti and Coull 1998): 0 of 4 is no certainty."""
    share = (min(1.0, max(0.0, p.score)) * p.n + 2) / (p.n + 4)
    return share * (1 - share) / (p.n + 4) if p.n else 0.0


def by_question(preferences: Sequence[Preference]) -> dict[str, Preference]:
    """One preference a question, s_q: scores and marks are the means over its rationales. These were asked the same questions and err
    alike, so `n` is that of one of them, on average."""
    found: dict[str, list[Preference]] = {}
    for p in preferences:
        found.setdefault(p.draft, []).append(p)
    return {draft: _mean(draft, own) for draft, own in found.items()}


def _mean(draft: str, own: Sequence[Preference]) -> Preference:
    alike = len({len(p.marks) for p in own}) == 1
    marks = tuple(map(fmean, zip(*(p.marks for p in own), strict=True))) if alike else ()
    forms = [p.form for p in own if p.form is not None]
    score, n = fmean(p.score for p in own), round(fmean(p.n for p in own))
    return Preference(draft, "", score, n, marks=marks, form=fmean(forms) if forms else None)


def advice(questions: int, *, hits: float | None = None, probability: float | None = None) -> str:
    """Which of the two scores tells drafts apart beyond their own noise, by their reliability over so many preference questions (None: not
    measured, or too few to tell); and what to do where none does."""
    measured = {"counted hits": hits, "the probability of the right answer": probability}
    known = {name: value for name, value in measured.items() if value is not None}
    if not known:
        return f"whether scores tell drafts apart cannot be said from {questions} preference questions and so few drafts"
    said = " and ".join(f"{name} {_rated(value)}" for name, value in known.items())
    best = max(known.values())
    if best >= TELLS:
        return f"over {questions} preference questions {said}"
    return f"over {questions} preference questions {said}: the pairs are mostly chance; {_remedy(best, questions, probability)}"


def _rated(value: float) -> str:
    return f"{'tells' if value >= TELLS else 'does not tell'} drafts apart beyond noise (reliability {value:.2f})"


def _remedy(best: float, questions: int, probability: float | None) -> str:
    soft = "" if probability is not None else "set prefer.scorer: probability, "
    enough = WANTED / (1 - WANTED) * (1 - best) / best * questions if best > 0.05 else math.inf  # Spearman-Brown, turned round
    more = f"use about {enough:.0f} preference questions" if enough < math.inf else "use many more preference questions"
    return f"{soft}{more}, or begin with a better student (one taught on the seeds)"


def _centred(values: NDArray[np.float64], groups: Sequence[Hashable]) -> NDArray[np.float64]:
    """Values less their mean, or less that of their group."""
    import numpy as np

    places = {group: k for k, group in enumerate(dict.fromkeys(groups or [None]))}
    at = np.array([places[group] for group in groups or [None] * len(values)])
    centred: NDArray[np.float64] = values - (np.bincount(at, values) / np.bincount(at))[at]
    return centred
