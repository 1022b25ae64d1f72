"""The arms of an ablation: what each teaches the student with. An arm asks the store for everything it needs from the drafts on, so
that what two arms share is computed once, and what an arm costs is counted as if it were alone.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from edgearte import assisted, guidance, lesson, steps
from edgearte.arte import tailor
from edgearte.arte.prefer import rationale_scores
from edgearte.arte.preference_set import PreferenceSet
from edgearte.assist.steps import weighed
from edgearte.lesson import ARTE, ASSISTED, NO_SIGNAL, ON_POLICY, SEEDS, UNALIGNED, UNTAUGHT
from edgearte.recipe import Again, Assist, Budget
from edgearte.records import Draft, Example, Rationale
from edgearte.setup import Setup
from edgearte.store import seed_of
from edgearte.train import distill

RANDOM, BEST, CONSISTENT = "random strategy", "best-scored rationale", "one consistent strategy"
RATIONALES, QUESTIONS = "rationale pairs only", "question pairs only"
GRAPE, INFLUENCE = "GRAPE selection", "influence instead of ICL"
TRANSFERRED, GUIDED = "transferred teacher", "ARTE with an assistant"
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


ALONE = {
    "self-consistency alone": ("consistency",),
    "assistant on the student alone": ("student",),
    "assistant on the teacher alone": ("teacher",),
}
WITHOUT_WARM_UP, WITHOUT_FILTER = "without the warm-up", "without the filter"
ASKING_AGAIN = "asking again"
BY_TRUST, BY_FAMILIARITY = "weighed by trust", "teachers by familiarity"
# arm -> what of the recipe's training it changes
TRAINED: dict[str, dict[str, Any]] = {
    "weighed by influence": {"weights": "influence"},
    "weighed by scorer": {"weights": "scorer"},
    "hidden states matched": {"match": 1.0},
}

ASSISTANT = {
    NO_SIGNAL: "the teacher asked at random, every answer believed",
    "self-consistency alone": "the teacher asked where the student's samples differ most",
    "assistant on the student alone": "the teacher asked where the assistant doubts the student most",
    "assistant on the teacher alone": "the teacher asked at random, and believed where the assistant is sure",
    WITHOUT_WARM_UP: "all signals, of the student as it came",
    WITHOUT_FILTER: "both of the student's signals, every answer believed",
    ASSISTED: "all signals, after a warm-up",
    ASKING_AGAIN: "the same, and a part of the budget for asking again what is doubted",
    BY_TRUST: "all signals; an example counts as much as the assistant trusts it",
    "weighed by influence": "all signals; an example counts as much as a step on it helps",
    "weighed by scorer": "the same, told from the student's states for two thirds of them",
    "hidden states matched": "all signals; answers come to be alike to the student that are to the teacher",
}

# arm -> how of several teachers one is chosen, and in words
SEVERAL: dict[str, tuple[dict[str, Any], str]] = {
    "teachers by router": ({"choose": "router"}, "of several teachers the one whose answer is predicted to be worth most"),
    BY_FAMILIARITY: (
        {"choose": "router", "familiarity": True}, "the same, and a teacher counts less where a question is unlike what it knows"
    ),
    "teachers by policy": ({"choose": "policy"}, "of several teachers the one that a learned policy takes"),
    "best single teacher": ({"choose": "best"}, "of several teachers the one that is best on the whole"),
    "teachers by chance": ({"choose": "uniform"}, "of several teachers each as often"),
    "teachers that agree": ({"choose": "agreement"}, "all of several teachers, believed where they agree"),
}  # fmt: skip
ASSISTANT |= {method: about for method, (_, about) in SEVERAL.items()}


@dataclass(frozen=True)
class Arm:
    """One arm: its method by name, the arm it is compared with, and the teacher's answers it may buy (0: it buys none)."""

    method: str
    baseline: str
    calls: int = 0

    @property
    def name(self) -> str:
        return f"{self.method}, {self.calls} calls" if self.calls else self.method

    @property
    def about(self) -> str:
        words = {GUIDED: "as ARTE; an assistant chooses what is scored, what is believed and what it counts"}
        return {**ABOUT, **ASSISTANT, **words}.get(self.method, "tailored by a teacher that was aligned elsewhere")


def ordered(wanted: Sequence[str], budgets: Sequence[int]) -> list[Arm]:
    """The wanted arms in the order of their tables, those with an assistant once a budget; and with them those they are compared with."""
    bought = [m for m in ASSISTANT if m in wanted]
    written = [m for m in (*ABOUT, GUIDED) if m in wanted and m not in (UNTAUGHT, SEEDS)]
    plain = [m for m in (*ABOUT, GUIDED) if m in wanted or (m == UNALIGNED and (written or not bought))]
    against = UNALIGNED if UNALIGNED in plain else f"{NO_SIGNAL}, {max(budgets)} calls"
    arms = [Arm(m, against) for m in plain]
    methods = [m for m in ASSISTANT if m in (NO_SIGNAL, *bought)] if bought else []
    return arms + [Arm(m, f"{NO_SIGNAL}, {calls} calls", calls) for calls in budgets for m in methods]


@dataclass(frozen=True)
class Made:
    """What an arm teaches with: examples, the teacher they came from, what should be known about how it came to them, and whether a
    budget was spent although there are none."""

    examples: tuple[Example, ...]
    teacher: Path
    note: str = ""
    spent: bool = False


def make(setup: Setup, arm: Arm, transferred: Path | None = None) -> Made:
    """The examples of an arm that teaches with a teacher's writing (all but the untaught one and the seeds alone)."""
    plain, method = setup.teacher.folder, arm.method
    if method in ASSISTANT:
        if reason := _not_at_hand(setup, method):
            return Made((), plain, f"not run: {reason}")
        try:
            return Made(assisted.teach(setup, _assist(setup, arm), Budget(calls=arm.calls), arm.name).examples, plain)
        except assisted.NothingKept as error:
            return Made((), plain, str(error), spent=True)
    if method in (UNALIGNED, TRANSFERRED):
        author = transferred if method == TRANSFERRED and transferred else plain
        return Made(steps.tailored(setup, author, method).examples, author)
    if method == ON_POLICY and (reason := steps.not_at_hand(setup) or distill.shared_tokenizer(setup.student.folder, plain)):
        return Made((), plain, f"not run: {reason}")
    asked = steps.preference_questions(setup)
    if method in (RANDOM, BEST, CONSISTENT, GRAPE):
        return Made(_selected(setup, asked, method), plain)
    if method == ON_POLICY:
        return _aligned(setup, asked, ARTE)
    if method == GUIDED:
        return _guided(setup, asked)
    scorer = "influence" if method == INFLUENCE else ""
    return _aligned(setup, asked, method, KINDS.get(method, ("question", "rationale")), scorer)


def _not_at_hand(setup: Setup, method: str) -> str:
    """Why an arm that looks into teachers cannot, or ""."""
    if "match" in TRAINED.get(method, ()):
        return steps.not_at_hand(setup)
    several = setup.recipe.assist and setup.recipe.assist.several
    if method == BY_FAMILIARITY and several and any(t.endpoint for t in (setup.recipe.teacher, *several.teachers)):
        return "one of the teachers is an endpoint: its weights are not at hand"
    return ""


def _assist(setup: Setup, arm: Arm) -> Assist:
    """The recipe's assistant, with what the arm leaves out left out."""
    whole = setup.recipe.assist
    if whole is None:
        raise RuntimeError("this recipe has no assistant")
    signals = {NO_SIGNAL: (), WITHOUT_FILTER: tuple(s for s in whole.signals if s != "teacher"), **ALONE}
    changed: dict[str, Any] = {}
    if arm.method in signals:
        changed["signals"] = signals[arm.method]
    if arm.method == WITHOUT_WARM_UP:
        changed["warmup"] = 0.0
    chosen = SEVERAL.get(arm.method)
    several = whole.several and chosen and whole.several.model_copy(update={"familiarity": False, **chosen[0]})
    changed["several"] = several or None
    changed["weigh"] = arm.method == BY_TRUST
    changed["again"] = (whole.again or Again()) if arm.method == ASKING_AGAIN else None
    return whole.model_copy(update=changed)


def _aligned(
    setup: Setup, asked: PreferenceSet, arm: str, kinds: tuple[str, ...] = ("question", "rationale"), scorer: str = "",
    guided: bool = False,
) -> Made:  # fmt: skip
    """What a teacher writes that was aligned with these kinds of pairs."""
    once = lesson.once(
        setup, asked, setup.teacher.folder, setup.student.folder, kinds=kinds, scorer=scorer, guided=guided
    )
    note = f"the teacher was not aligned: {once.skipped}" if once.skipped else ""
    return Made(steps.tailored(setup, once.aligned, arm).examples, once.aligned, note)


def _guided(setup: Setup, asked: PreferenceSet) -> Made:
    made = _aligned(setup, asked, GUIDED, guided=True)
    how = setup.recipe.assist
    if not (how and how.arte and how.arte.weigh):
        return made
    return replace(made, examples=guidance.weighed(setup, how, made.examples))


def _selected(setup: Setup, asked: PreferenceSet, arm: str) -> tuple[Example, ...]:
    """The drafts, each with one of the rationales it has."""
    author = steps.teacher(setup, setup.teacher.folder)
    drafts = steps.explained(setup, author, steps.drafted(setup, author, "draft").drafts, "draft")
    author.release()
    scores: Mapping[tuple[str, str], float] = {}
    if arm != RANDOM:
        reader = steps.student(setup, setup.student.folder)
        scorer = "naturalness" if arm == GRAPE else ""
        scores = rationale_scores(steps.preferences(setup, reader, reader.folder, drafts, asked, scorer).preferences)
        reader.release()
    return tailor.chosen(drafts, _choice(setup, drafts, scores, arm))


def _choice(
    setup: Setup, drafts: tuple[Draft, ...], scores: Mapping[tuple[str, str], float], arm: str
) -> Callable[[Draft], Rationale | None]:
    if arm == RANDOM:
        return lambda d: random.Random(seed_of(setup.recipe.seed, arm, d.id)).choice(d.rationales)
    if arm == CONSISTENT:
        names = list(dict.fromkeys(r.strategy for d in drafts for r in d.rationales))
        best = max(names, key=lambda name: fmean(scores.get((d.id, name), 0.0) for d in drafts))  # cut off: nothing
        return lambda d: next((r for r in d.rationales if r.strategy == best), None)
    nothing = float("-inf")  # a rationale without text has no probability
    return lambda d: max(d.rationales, key=lambda r: scores.get((d.id, r.strategy), nothing))


def teach(setup: Setup, arm: Arm, made: Made, examples: tuple[Example, ...]) -> Path:
    """The student after the arm's training on `examples`, a part of what it made."""
    if arm.method == ON_POLICY:
        return steps.distilled(setup, setup.student.folder, made.teacher, examples, arm.name)
    if arm.method in TRAINED:
        how = setup.recipe.train.model_copy(update=TRAINED[arm.method])
        setup = replace(setup, recipe=setup.recipe.model_copy(update={"train": how}))
    return steps.taught(setup, weighed(setup, examples), arm.name)
