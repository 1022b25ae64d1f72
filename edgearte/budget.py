"""What a device allows, held against what an artifact does there or is foretold to do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgearte.evaluate import Answer
    from edgearte.measure.roofline import Foretold
    from edgearte.recipe import Limits
    from edgearte.records import Artifact, Measurement

# How far what is foretold of a file's size, its memory and its speed may be off before an artifact is held to be out of reach.
SLACK = {"size": 1.1, "memory": 1.3, "first_token_s": 2.0, "answer_s": 2.0}


@dataclass(frozen=True)
class Figures:
    """What one artifact does on one device, or is foretold to: share of right answers, seconds, bytes. `None` where it is not known."""

    accuracy: float | None = None
    first_token_s: float | None = None
    answer_s: float | None = None
    memory: float | None = None
    size: float | None = None


@dataclass(frozen=True)
class Missed:
    """A limit that is not met: what it allows, and what was found."""

    limit: str  # a field of `Figures`
    allowed: float
    found: float

    def __str__(self) -> str:
        asked = "wanted" if self.limit == "accuracy" else "allowed"
        return f"{self.limit} {spoken(self.limit, self.found)}, {spoken(self.limit, self.allowed)} {asked}"

    @property
    def times(self) -> float:
        """How many times what is allowed was found; of accuracy, how many times what was found is wanted."""
        over = self.allowed / max(self.found, 1e-9) if self.limit == "accuracy" else self.found / self.allowed
        return float(over)


def spoken(limit: str, value: float) -> str:
    """A figure as one says it."""
    if limit == "accuracy":
        return f"{value:.1%}"
    return f"{value:.3g} s" if limit.endswith("_s") else f"{value / 1e6:.1f} MB"


def measured(artifact: Artifact, answers: Sequence[Answer] | None, measurement: Measurement | None) -> Figures:
    """What an artifact was found to do on a device; of an emulated one, times and memory are not known."""
    right = sum(a.grade.correct for a in answers) / len(answers) if answers else None
    if measurement is None or measurement.instructions:
        return Figures(right, size=artifact.bytes)
    first = measurement.first_token_s.median
    whole = first + (measurement.new_tokens - 1) / measurement.decode_tps.median
    return Figures(right, first, whole, measurement.peak_memory_bytes, artifact.bytes)


def foretold(found: Foretold, new_tokens: int) -> Figures:
    """What an artifact is foretold to do on a device."""
    whole = found.first_token_s + (new_tokens - 1) / found.decode_tps
    return Figures(None, found.first_token_s, whole, found.peak_memory_bytes, found.size_bytes)


def missed(limits: Limits, found: Figures, student: float | None = None) -> tuple[Missed, ...]:
    """The limits that these figures do not meet, accuracy first. `student` is its accuracy before the export, on the same questions."""
    over: list[Missed] = []
    if (floor := limits.accuracy) and found.accuracy is not None:
        wanted = floor.threshold if floor.threshold is not None else (student or 0.0) - (floor.max_degradation or 0.0)
        if found.accuracy < wanted - 1e-9:
            over.append(Missed("accuracy", wanted, found.accuracy))
    for name in SLACK:
        allowed, value = getattr(limits, name), getattr(found, name)
        if allowed is not None and value is not None and value > allowed:
            over.append(Missed(name, float(allowed), float(value)))
    return tuple(over)


def out_of_reach(limits: Limits, found: Figures) -> tuple[Missed, ...]:
    """The limits that what is foretold misses by more than it may be off."""
    return tuple(m for m in missed(limits, found) if m.found > SLACK[m.limit] * m.allowed)


def binding(limits: Limits, found: Mapping[str, Figures]) -> tuple[Missed, str] | None:
    """Where every artifact is out of reach: the limit that binds most, and the artifact that comes nearest to it; else nothing."""
    over = {preset: out_of_reach(limits, figures) for preset, figures in found.items()}
    if not over or not all(over.values()):
        return None
    return nearest(over)


def nearest(over: Mapping[str, Sequence[Missed]]) -> tuple[Missed, str]:
    """The limit that is missed by the most in the artifact that misses it by the least, and that artifact: to relax any other limit would
    help nobody."""
    worst = {preset: max(some, key=lambda m: m.times) for preset, some in over.items()}
    preset = min(worst, key=lambda p: worst[p].times)
    return worst[preset], preset


def beside_accuracy(over: Mapping[str, Sequence[Missed]]) -> dict[str, list[Missed]]:
    """The limits that artifacts miss and that no teaching changes."""
    return {preset: [m for m in some if m.limit != "accuracy"] for preset, some in over.items()}


def would_do(worst: Missed, preset: str, parameters: int) -> str:
    """What would meet a limit that no artifact of this student can."""
    smaller = f"a student of at most {parameters / worst.times / 1e6:.0f} M parameters (this one has {parameters / 1e6:.0f} M)"
    match worst.limit:
        case "size":
            other = "a device with more storage"
        case "memory":
            other = "a device with more memory"
        case "first_token_s":
            other = f"a device that computes {worst.times:.1f} times as fast"
        case _:
            other = f"a device with {worst.times:.1f} times the memory bandwidth"
    return f"{smaller}, {other}, or {spoken(worst.limit, worst.found)} allowed, would let {preset} do"


@dataclass(frozen=True)
class Verdict:
    """How a device's budget is met: by `preset`, or by none, and then `nearest` is the artifact that meets everything but the accuracy with
    the most right answers, if there is one. `missed` are each artifact's limits that are not met."""

    device: str
    preset: str
    reason: str
    story: tuple[str, ...]
    missed: Mapping[str, tuple[Missed, ...]]
    figures: Mapping[str, Figures]
    nearest: str = ""


def judge(
    device: str, limits: Limits, artifacts: Sequence[Artifact], figures: Mapping[str, Figures], student: float | None,
    worse: Callable[[str, str], bool],
) -> Verdict:  # fmt: skip
    """The artifact to embed on a device: the smallest that meets the budget and answers no worse than the best of those that meet it, as
    far as the questions tell; `worse(a, b)` says whether `a` is. `student` is the accuracy before the export."""
    story: list[str] = []
    over: dict[str, tuple[Missed, ...]] = {}
    for a in sorted(artifacts, key=lambda a: (a.bytes, a.preset)):
        if a.failed:
            story.append(f"{a.preset} is out: {a.failed}")
            continue
        over[a.preset] = missed(limits, figures[a.preset], student)
        said = "; ".join(map(str, over[a.preset]))
        story.append(f"{a.preset}, {a.bytes / 1e6:.1f} MB{_right(figures[a.preset])}: {said or 'meets the budget'}.")
    meeting = [preset for preset, some in over.items() if not some]
    if meeting:
        best = max(meeting, key=lambda p: (figures[p].accuracy or 0.0, -(figures[p].size or 0.0)))
        chosen = next(p for p in meeting if not worse(p, best))
        reason = "the smallest artifact that meets the budget" + (
            "" if chosen == meeting[0] else " and answers no worse than the best that does, as far as these questions tell"
        )
        return Verdict(device, chosen, reason, (*story, f"{chosen} is chosen: {reason}."), over, dict(figures))
    able = [p for p, some in over.items() if {m.limit for m in some} == {"accuracy"}]
    if not able:
        return Verdict(device, "", _binds(over) if over else "no artifact is usable", tuple(story), over, dict(figures))
    likeliest = max(able, key=lambda p: (figures[p].accuracy or 0.0, -(figures[p].size or 0.0)))
    return Verdict(device, "", f"accuracy binds: {over[likeliest][0]} ({likeliest})", tuple(story), over, dict(figures), likeliest)


def _binds(over: Mapping[str, Sequence[Missed]]) -> str:
    worst, preset = nearest(beside_accuracy(over))
    return f"{worst.limit} binds: {worst} ({preset})"


def _right(found: Figures) -> str:
    return "" if found.accuracy is None else f", {found.accuracy:.1%} right"
