"""Whether an assistant is worth listening to: its confidences against what was right, where that is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

BINS = 10


@dataclass(frozen=True)
class Bin:
    """The answers whose confidence lies in one tenth: how many, their mean confidence, the share of right ones."""

    n: int
    confidence: float
    right: float


@dataclass(frozen=True)
class Calibration:
    """ece: expected calibration error, the mean over answers of |confidence - share right| of their bin (Naeini et al. 2015).
    auroc: the chance that a right answer has a higher confidence than a wrong one, ties counted half; None where all or none
    are right."""

    n: int
    right: float
    ece: float
    auroc: float | None
    bins: tuple[Bin, ...]


def calibration(confidences: Sequence[float], right: Sequence[bool]) -> Calibration:
    """The calibration of confidences (0 to 1) against what was right; at least one answer is needed."""
    from scipy.stats import mannwhitneyu

    n = len(right)
    inside: dict[int, list[tuple[float, bool]]] = {}
    for c, r in zip(confidences, right, strict=True):
        inside.setdefault(min(int(c * BINS), BINS - 1), []).append((c, r))
    bins = tuple(
        Bin(len(own), sum(c for c, _ in own) / len(own), sum(r for _, r in own) / len(own))
        for _, own in sorted(inside.items())
    )
    yes = [c for c, r in zip(confidences, right, strict=True) if r]
    no = [c for c, r in zip(confidences, right, strict=True) if not r]
    auroc = float(mannwhitneyu(yes, no).statistic) / (len(yes) * len(no)) if yes and no else None
    ece = sum(b.n * abs(b.confidence - b.right) for b in bins) / n
    return Calibration(n, sum(right) / n, ece, auroc, bins)


def threshold(confidences: Sequence[float], right: Sequence[bool]) -> float | None:
    """The confidence from which answers are kept that best tells right from wrong: the highest share of right ones kept less share of
    wrong ones kept (Youden's J), halfway between two confidences that were seen; of several, the lowest. None where all or none are
    right: nothing can be told then."""
    positive = sum(right)
    negative = len(right) - positive
    if not positive or not negative:
        return None
    seen = sorted(set(confidences))
    cuts = [0.0, *((a + b) / 2 for a, b in pairwise(seen))]

    def told(cut: float) -> float:
        kept = [r for c, r in zip(confidences, right, strict=True) if c >= cut]
        return sum(kept) / positive - (len(kept) - sum(kept)) / negative

    return max(cuts, key=lambda cut: (told(cut), -cut))
