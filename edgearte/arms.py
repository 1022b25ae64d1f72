"""The arms of an ablation: what each teaches the student with. An arm asks the store for everything it needs from the drafts on, so
that what two arms share is computed once, and what an arm costs is counted as if it were alone.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from edgearte import loop, steps
from edgearte.arte import tailor
from edgearte.arte.prefer import rationale_scores
from edgearte.arte.preference_set import PreferenceSet
from edgearte.loop import ARTE, SEEDS, UNALIGNED, UNTAUGHT
from edgearte.records import Draft, Example, Rationale
from edgearte.setup import Setup
from edgearte.store import seed_of
from edgearte.train import distill

RANDOM, BEST, CONSISTENT = "random strategy", "best-scored rationale", "one consistent strategy"
RATIONALES, QUESTIONS = "rationale pairs only", "question pairs only"
GRAPE, INFLUENCE, ON_POLICY = "GRAPE selection", "influence instead of ICL", "on-policy"
TRANSFERRED = "transferred teacher"
KINDS = {RATIONALES: ("rationale",), QUESTIONS: ("question",)}  # of pairs, where an arm has not both

ABOUT = {
    UNTAUGHT: "the student as it came",
    SEEDS: "SFT on the user's own seeds, repeated to the same size",
    UNALIGNED: "tailored by the teacher as it came",
    RANDOM: "drafts with the rationale of a random strategy",
    BEST: "drafts with the rationale the student scores best",
    CONSISTENT: "drafts with the rationales of the one strategy that is best on average",
    GRAPE: "drafts with the rationale most probable under the student",
    RATIONALES: "tailored by a teacher aligned with rationale pairs",
    QUESTIONS: "tailored by a teacher aligned with question pairs",
    ARTE: "tailored by a teacher aligned with both",
    INFLUENCE: "as ARTE, with influence on a reference loss as the preference",
    ON_POLICY: "ARTE's questions, answered by the student, with the aligned teacher's distribution as the target",
}


@dataclass(frozen=True)
class Made:
    """What an arm teaches with: examples, the teacher they came from, and what should be known about how it came to them."""

    examples: tuple[Example, ...]
    teacher: Path
    note: str = ""


def make(setup: Setup, asked: PreferenceSet, arm: str, transferred: Path | None = None) -> Made:
    """The examples of an arm that teaches with a teacher's writing (all but the untaught one and the seeds alone)."""
    plain = setup.teacher.folder
    if arm in (RANDOM, BEST, CONSISTENT, GRAPE):
        return Made(_selected(setup, asked, arm), plain)
    if arm in (UNALIGNED, TRANSFERRED):
        author = transferred if arm == TRANSFERRED and transferred else plain
        return Made(steps.tailored(setup, author, arm).examples, author)
    if arm == ON_POLICY:
        reason = steps.not_at_hand(setup) or distill.shared_tokenizer(setup.student.folder, plain)
        return Made((), plain, f"not run: {reason}") if reason else _aligned(setup, asked, ARTE)
    scorer = "influence" if arm == INFLUENCE else ""
    return _aligned(setup, asked, arm, KINDS.get(arm, ("question", "rationale")), scorer)


def _aligned(
    setup: Setup, asked: PreferenceSet, arm: str, kinds: tuple[str, ...] = ("question", "rationale"), scorer: str = ""
) -> Made:
    """What a teacher writes that was aligned with these kinds of pairs."""
    once = loop.once(setup, asked, setup.teacher.folder, setup.student.folder, kinds=kinds, scorer=scorer)
    note = f"the teacher was not aligned: {once.skipped}" if once.skipped else ""
    return Made(steps.tailored(setup, once.aligned, arm).examples, once.aligned, note)


def _selected(setup: Setup, asked: PreferenceSet, arm: str) -> tuple[Example, ...]:
    """The drafts, each with one of the rationales it has."""
    author = steps.teacher(setup, setup.teacher.folder)
    _, drafts = steps.drafted(setup, author, "draft")
    author.release()
    scores: Mapping[tuple[str, str], float] = {}
    if arm != RANDOM:
        reader = steps.student(setup, setup.student.folder)
        scorer = "naturalness" if arm == GRAPE else ""
        scores = rationale_scores(steps.preferences(setup, reader, drafts, asked, scorer).preferences)
        reader.release()
    return tailor.chosen(drafts, _choice(setup, drafts, scores, arm))


def _choice(
    setup: Setup, drafts: tuple[Draft, ...], scores: Mapping[tuple[str, str], float], arm: str
) -> Callable[[Draft], Rationale]:
    if arm == RANDOM:
        return lambda d: random.Random(seed_of(setup.recipe.seed, arm, d.id)).choice(d.rationales)
    if arm == CONSISTENT:
        names = list(setup.recipe.draft.strategies)
        best = max(names, key=lambda name: fmean(scores[d.id, name] for d in drafts))
        return lambda d: next(r for r in d.rationales if r.strategy == best)
    nothing = float("-inf")  # a rationale without text has no probability
    return lambda d: max(d.rationales, key=lambda r: scores.get((d.id, r.strategy), nothing))


def teach(setup: Setup, arm: str, made: Made, examples: tuple[Example, ...]) -> Path:
    """The student after the arm's training on `examples`, a part of what it made."""
    if arm == ON_POLICY:
        return steps.distilled(setup, setup.student.folder, made.teacher, examples, arm)
    return steps.taught(setup, examples, arm)
