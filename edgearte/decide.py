"""Comparing models on the same questions, and choosing the artifact to embed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgearte.evaluate import Answer
from edgearte.records import ArmChoice, Artifact

SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Compared:
    """Two models on the same questions; `p_value` is that of McNemar's exact test (two-sided binomial on the questions
    only one of them answered rightly)."""

    difference: float
    p_value: float
    both: int
    only_a: int
    only_b: int
    neither: int


def compare(a: Sequence[Answer], b: Sequence[Answer]) -> Compared:
    from scipy.stats import binomtest

    pairs = [(x.grade.correct, y.grade.correct) for x, y in zip(a, b, strict=True)]
    only_a, only_b = pairs.count((True, False)), pairs.count((False, True))
    p_value = float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0
    difference = (only_a - only_b) / len(pairs)
    return Compared(difference, p_value, pairs.count((True, True)), only_a, only_b, pairs.count((False, False)))


def arm(developed: Mapping[str, Sequence[Answer]], method: str) -> ArmChoice:
    """The arm that answers most development questions rightly; `method` where none answers more, or where none was asked.

    The evaluation questions take no part: they only report. The best of several arms is chosen on questions that it may have been lucky
    on, so its share of right answers here is no estimate of what it will do.
    """
    if not developed:
        return ArmChoice(method, f"{method} is delivered, unproven: there are no development questions to choose an arm by", {}, 0)
    right = {name: sum(a.grade.correct for a in answers) for name, answers in developed.items()}
    n = len(next(iter(developed.values())))
    best = max(right, key=lambda name: (right[name], name == method))
    if best == method:
        return ArmChoice(best, f"no arm answers more of the {n} development questions rightly than {best} ({right[best]})", right, n)
    found = compare(developed[best], developed[method]) if method in developed else None
    beside = f" where {method} answers {right[method]} (p = {found.p_value:.3f})" if found else ""
    return ArmChoice(best, f"{best} answers {right[best]} of the {n} development questions rightly{beside}", right, n)


@dataclass(frozen=True)
class Choice:
    preset: str
    reason: str
    story: tuple[str, ...]


def choose(
    artifacts: Sequence[Artifact], answers: Mapping[str, Sequence[Answer]], checkpoint: Sequence[Answer]
) -> Choice:
    """The smallest artifact that passed its gates and answers no worse than the checkpoint, as far as the questions can tell.

    No measured time takes part, so that the same build always chooses the same artifact.
    """
    story = []
    sound = []
    for artifact in sorted(artifacts, key=lambda a: (a.bytes, a.preset)):
        if artifact.failed:
            story.append(f"{artifact.preset} is out: {artifact.failed}")
            continue
        sound.append(artifact)
        found = compare(answers[artifact.preset], checkpoint)
        size = f"{artifact.bytes / 1e6:.1f} MB"
        said = f"{found.difference:+.1%} against the checkpoint (p = {found.p_value:.3f})"
        if found.difference < 0 and found.p_value < SIGNIFICANT:
            story.append(f"{artifact.preset}, {size}, answers worse than the checkpoint: {said}.")
            continue
        reason = (
            f"the smallest artifact that answers no worse than the checkpoint as far as these questions tell: {said}"
        )
        story.append(f"{artifact.preset}, {size}, is chosen: {said}.")
        return Choice(artifact.preset, reason, tuple(story))
    if sound:
        best = max(sound, key=lambda a: (sum(x.grade.correct for x in answers[a.preset]), -a.bytes))
        story.append(f"None is as good as the checkpoint; {best.preset} comes nearest.")
        return Choice(best.preset, "every artifact answers worse than the checkpoint; this one the least", tuple(story))
    return Choice("", "no artifact is usable", tuple(story))
