"""What a drafted question must be before anything is spent on it: well-formed, new, and like nothing that only measures or decides."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from edgearte.answers import AnswerFormat, valid_target
from edgearte.records import Draft
from edgearte.task import Task

SAMPLES = 3  # dropped texts that are kept for the report, for each reason


@dataclass
class Dropped:
    """How many drafts fell for each reason, and the first few of them; for a check also how many stood."""

    counts: Counter[str] = field(default_factory=Counter)
    samples: dict[str, list[str]] = field(default_factory=dict)
    stood: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(cls, counts: Mapping[str, int], samples: Mapping[str, Sequence[str]]) -> Dropped:
        return cls(Counter(counts), {reason: list(texts) for reason, texts in samples.items()})

    def add(self, reason: str, text: str = "", times: int = 1) -> None:
        self.counts[reason] += times
        kept = self.samples.setdefault(reason, [])
        if text and len(kept) < SAMPLES:
            kept.append(text)

    def joined(self, other: Dropped) -> Dropped:
        """Both together."""
        both = Dropped.of(self.counts, self.samples)
        for reason, n in other.counts.items():
            both.add(reason, times=n)
            both.samples[reason] = (both.samples[reason] + other.samples.get(reason, []))[:SAMPLES]
        return both

    def reasons(self) -> dict[str, int]:
        return {reason: n for reason, n in self.counts.items() if n}

    def shown(self) -> Mapping[str, tuple[str, ...]]:
        return {reason: tuple(texts) for reason, texts in self.samples.items() if texts}


@dataclass(frozen=True)
class Verdict:
    """Whether a draft's target stands, and the one to put in its place (else empty)."""

    stands: bool
    better: str = ""


@dataclass(frozen=True)
class Check:
    """What drafts must stand up to besides their form: the reason the others are dropped for, and a verdict on each."""

    reason: str
    verdicts: Callable[[Sequence[Draft]], Sequence[Verdict]]

    def passed(self, drafts: Sequence[Draft], dropped: Dropped) -> list[Draft]:
        """The drafts that stand, or stand with another target; the others are counted."""
        kept = []
        for d, verdict in zip(drafts, self.verdicts(drafts), strict=True):
            if verdict.stands or verdict.better:
                kept.append(replace(d, target=verdict.better or d.target))
            else:
                dropped.add(self.reason, f"{d.input} → {d.target}")
        dropped.stood[self.reason] += len(kept)
        return kept


class Verifier:
    """Accepts questions one after the other; `dropped` holds the reasons of those it refused.

    Two texts are near-copies when their words, sorted, are alike to at least `near` (rapidfuzz's token_sort_ratio, 0 to 1).
    The paper describes neither check; without them an evaluation question could be trained on, or one that decides what is delivered.
    """

    def __init__(self, task: Task, near: float) -> None:
        self.answer: AnswerFormat = task.answer
        self.near = near
        self.dropped = Dropped()
        self._seeds = [_plain(q.input) for q in task.seeds]
        self._held_out = [_plain(q.input) for q in task.evaluation]
        self._deciding = [_plain(q.input) for q in task.development]
        self._kept: list[str] = []

    def accepts(self, text: str, target: str) -> bool:
        reason = self._reason(text, target)
        if reason:
            self.dropped.add(reason, text)
            return False
        self._kept.append(_plain(text))
        return True

    def _reason(self, text: str, target: str) -> str:
        if len(text.split()) < 2:
            return "no question in it"
        if not valid_target(target, self.answer):
            return "target not of the answer's form"
        plain = _plain(text)
        for others, reason in (
            (self._held_out, "like an evaluation question"),
            (self._deciding, "like a development question"),
            (self._seeds, "near copy of a seed"),
            (self._kept, "near copy of another draft"),
        ):
            if self._like(plain, others):
                return reason
        return ""

    def _like(self, text: str, others: Iterable[str]) -> bool:
        from rapidfuzz import fuzz, process

        found = process.extractOne(text, list(others), scorer=fuzz.token_sort_ratio, score_cutoff=self.near * 100)
        return found is not None


def _plain(text: str) -> str:
    kept = (c if c.isalnum() else " " for c in text.casefold())
    return " ".join("".join(kept).split())
