"""How the students are trained, where a recipe has that searched (`train.search`): the settings that decide at this size are tried one
after the other on one arm's set, and the development questions decide for all arms.

From the recipe's own settings the rate is doubled while that helps, or else halved while that helps; then the epochs likewise; then an
adapter (LoRA) is tried in place of all weights. What the arm of that set is taught with was computed here, and costs nothing again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from edgearte import steps
from edgearte.recipe import Train
from edgearte.records import Example
from edgearte.setup import Setup

RANK, FASTER = 16, 10  # an adapter's rank, and how many times faster it learns than all weights


@dataclass(frozen=True)
class Tried:
    """Settings that were tried: how many development questions the student answered rightly, and the seconds that took."""

    train: Train
    right: int
    seconds: float

    @property
    def said(self) -> str:
        t = self.train
        weights = f", LoRA of rank {t.lora_rank}" if t.lora_rank else ""
        return f"rate {t.learning_rate:.1e}, {t.epochs} epochs{weights}"


@dataclass(frozen=True)
class Searched:
    """What was tried, in order, within a `budget` of seconds."""

    tried: tuple[Tried, ...]
    budget: int
    questions: int

    @property
    def seconds(self) -> float:
        return sum(one.seconds for one in self.tried)

    @property
    def spent(self) -> bool:
        return self.seconds >= self.budget

    @property
    def best(self) -> Tried:
        return max(self.tried, key=lambda one: one.right)

    @property
    def said(self) -> str:
        tried = "; ".join(f"{one.said}: {one.right}" for one in self.tried)
        end = ", until the budget was spent" if self.spent else ""
        return (
            f"Settings of training were searched for {self.seconds:.0f} s{end}; right of {self.questions} development questions: "
            f"{tried}. All arms are taught with {self.best.said}."
        )


def searched(setup: Setup, examples: Sequence[Example], arm: str) -> Searched:
    """The search on one arm's examples. No trial begins once `train.search` seconds are spent; the seconds are those that each trial took
    when it was computed, so that a build which is resumed searches on as it would have."""
    ledger = setup.store.ledger
    found = Searched((), setup.recipe.train.search, len(setup.task.development))

    def right(train: Train) -> int:
        nonlocal found
        before = len(ledger)
        one, label = setup.training(train), f"search, {arm}"
        answers = steps.developed(one, steps.taught(one, examples, label), label)
        took = sum(entry.whole_seconds for entry in ledger[before:])
        trial = Tried(train, sum(a.grade.correct for a in answers), took)
        found = replace(found, tried=(*found.tried, trial))
        return trial.right

    def climbed(best: Train, further: Callable[[Train], Train | None]) -> Train:
        """As far in one direction as it helps."""
        while not found.spent and (candidate := further(best)) is not None:
            most = found.best.right
            if right(candidate) <= most:
                break
            best = candidate
        return best

    best = setup.recipe.train
    right(best)
    for way in WAYS:
        start = best
        for further in way:  # the second direction only where the first brought nothing
            best = climbed(best, further) if best is start else best
    return found


def _rate(factor: float) -> Callable[[Train], Train | None]:
    return lambda train: train.model_copy(update={"learning_rate": train.learning_rate * factor})


def _longer(train: Train) -> Train | None:
    return train.model_copy(update={"epochs": 2 * train.epochs})


def _shorter(train: Train) -> Train | None:
    return train.model_copy(update={"epochs": train.epochs // 2}) if train.epochs > 1 else None


def _adapter(train: Train) -> Train | None:
    if train.lora_rank:
        return None
    return train.model_copy(update={"lora_rank": RANK, "learning_rate": FASTER * train.learning_rate})


WAYS: tuple[tuple[Callable[[Train], Train | None], ...], ...] = ((_rate(2), _rate(0.5)), (_longer, _shorter), (_adapter,))
