"""How many of the drafts a reader would call right: an estimate from the teacher's own vote, whose mistakes the seeds tell."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean, quantiles

from edgearte.answers import spelled
from edgearte.arte import sieve, vote
from edgearte.lm.base import LM
from edgearte.records import Draft
from edgearte.store import Store, seed_of
from edgearte.task import Task

DRAWS = 2000  # of the interval


@dataclass(frozen=True)
class Right:
    """The share of kept drafts whose target is right, with its 95 % interval; what it is made of: `agreed`, the drafts that the vote
    confirms of all that were voted on; `sensitivity`, the seeds it confirms; `mistaken`, the wrong targets of seeds it would confirm."""

    share: float
    low: float
    high: float
    agreed: float
    sensitivity: float
    mistaken: float
    drafts: int
    seeds: int

    @property
    def said(self) -> str:
        return (
            f"about {self.share:.0%} of the kept drafts are right (95 %: {self.low:.0%} to {self.high:.0%}): the vote confirms "
            f"{self.agreed:.0%} of what was drafted, and {self.sensitivity:.0%} of the seeds; supposing that it errs with drafts as it "
            "does with seeds, and that a wrong draft fits any other label alike"
        )


def right(agreed: Sequence[bool], seeds: Sequence[tuple[float, float]], *, sieved: bool, seed: int = 0) -> Right | None:
    """The estimate from what the vote says of the drafts (confirmed or not), and of every seed: whether it confirms its own target (0 or 1)
    and the share of the other choices that it would have confirmed.

    Rogan and Gladen's (1978) correction of a prevalence: p = (agreed - mistaken) / (sensitivity - mistaken), within [0, 1]. Where the
    drafts that the vote did not confirm were `sieved` out, the share of right ones among the others is p * sensitivity / agreed. The
    interval is of draws from the Beta distributions of the three shares (Jeffreys' prior). None where there is nothing to tell by, or
    where the vote confirms wrong targets of seeds as readily as right ones.
    """
    if not agreed or not seeds:
        return None
    shares = fmean(map(float, agreed)), fmean(own for own, _ in seeds), fmean(other for _, other in seeds)
    if shares[1] <= shares[2]:
        return None
    chance = random.Random(seed_of(seed, "share right"))
    drawn = sorted(
        _corrected(*(chance.betavariate(p * n + 0.5, (1 - p) * n + 0.5) for p, n in zip(shares, sizes, strict=True)), sieved=sieved)
        for sizes in [(len(agreed), len(seeds), len(seeds))]
        for _ in range(DRAWS)
    )
    cuts = quantiles(drawn, n=40)
    return Right(_corrected(*shares, sieved=sieved), cuts[0], cuts[-1], *shares, len(agreed), len(seeds))


def of_voted(
    teacher: LM, task: Task, confirmed: int, refused: int, at_least: float, store: Store, *, label: str, seed: int = 0
) -> Right | None:
    """The same for a task with choices whose drafts went through the vote: so many it confirmed, and so many it refused, which are not
    taught. Each seed is voted on by a teacher that is not shown it: of `sieve.FOLDS` parts of the seeds its own is left out."""
    said = [True] * confirmed + [False] * refused
    return right(said, _of_seeds(teacher, task, at_least, store, label), sieved=True, seed=seed)


def share_right(
    teacher: LM, task: Task, drafts: Sequence[Draft], at_least: float, store: Store, *, label: str, seed: int = 0
) -> Right | None:
    """The same for drafts that no vote has sieved: they are voted on for the estimate alone."""
    agreed = [p >= at_least for p in vote.shares(teacher, task, drafts, store, label=label)]
    return right(agreed, _of_seeds(teacher, task, at_least, store, label), sieved=False, seed=seed)


def _of_seeds(teacher: LM, task: Task, at_least: float, store: Store, label: str) -> list[tuple[float, float]]:
    """Of every seed whether the vote confirms it, and the share of the other choices it would confirm in its place."""
    choices = task.answer.choices
    held = [q for part in sieve.folds(task.seeds) for q in part]
    rows = []
    for part in sieve.folds(task.seeds):
        rest = replace(task, seeds=tuple(q for q in task.seeds if q not in part))
        rows += vote.table(teacher, rest, [q.input for q in part], store, label=f"{label}, seeds")
    found = []
    for q, row in zip(held, vote.calibrated(rows, [q.target for q in held]), strict=True):
        confirmed = {c: float(math.exp(value) >= at_least) for c, value in zip(choices, row, strict=True)}
        own = confirmed.pop(spelled(q.target, task.answer))
        found.append((own, fmean(confirmed.values()) if confirmed else 0.0))
    return found


def _corrected(agreed: float, sensitivity: float, mistaken: float, *, sieved: bool) -> float:
    if sensitivity <= mistaken:
        return 1.0 if agreed >= sensitivity else 0.0
    p = min(1.0, max(0.0, (agreed - mistaken) / (sensitivity - mistaken)))
    if not sieved:
        return p
    confirmed = p * sensitivity + (1 - p) * mistaken
    return p * sensitivity / confirmed if confirmed else 0.0
