"""The training set (paper 4): a teacher repeats the drafting and adds one rationale a question, with the naive prompt at T = 0; or the
answer alone, where that teaches the student better.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice
from typing import Literal

from edgearte.arte import prompts
from edgearte.arte.draft import Settings, draft_questions, draft_rationales, naive
from edgearte.arte.verify import Check, Dropped
from edgearte.lm.base import LM
from edgearte.records import Draft, Example, Question, Rationale
from edgearte.store import Store, seed_of
from edgearte.task import Task

# What a completion is: a rationale that ends in the answer, the answer alone, half of the examples each, or what the answer's label means.
Teach = Literal["rationale", "answer", "both", "meaning"]


@dataclass(frozen=True)
class Tailored:
    """Examples with the drafts they were made of, and why others were dropped, with a few of them for each reason; `stood` says how many
    passed each check."""

    examples: tuple[Example, ...]
    drafts: tuple[Draft, ...]
    dropped: Mapping[str, int]
    samples: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    stood: Mapping[str, int] = field(default_factory=dict)
    right: str = ""  # how much of what was kept is right, as an estimate in words; empty where nothing tells


def tailor(
    teacher: LM, task: Task, settings: Settings, count: int, store: Store, *, purpose: str, arm: str, checks: Sequence[Check] = (),
    drawn: Task | None = None, teach: Teach = "rationale",
) -> Tailored:  # fmt: skip
    """Up to `count` examples by one teacher, with the naive prompt; questions are drafted from the seeds of `drawn`, where it is given.

    A rationale that was cut off, or in which no answer is found, is not taught, and neither is its question.
    """
    found = draft_questions(
        teacher, drawn or task, settings, count, store, purpose=purpose, label=f"tailor, {arm}: questions", checks=checks
    )
    to_explain = [d for d in found.drafts if with_reason(d.id, teach)]
    explained = draft_rationales(teacher, task, settings, to_explain, {"naive": naive(settings)}, store,
                                 label=f"tailor, {arm}: rationales") if to_explain else ()  # fmt: skip
    by_id = {d.id: d for d in explained}
    drafts = tuple(by_id.get(d.id, d) for d in found.drafts)
    reasoned = {e.id: e for e in chosen(explained, lambda draft: draft.rationales[0])}
    examples = [reasoned.get(d.id) if d.id in by_id else bare(task, d, teach) for d in drafts]
    fell = Dropped()
    for d in explained:
        if not d.rationales:
            fell.add("cut off", d.input)
        elif d.id not in reasoned:
            fell.add("no answer in the rationale", f"{d.input} → {d.rationales[0].text}")
    dropped = Dropped.of(found.dropped, found.samples).joined(fell)
    return Tailored(tuple(e for e in examples if e), drafts, dropped.reasons(), dropped.shown(), found.stood)


def with_reason(name: str, teach: Teach) -> bool:
    """Whether the example of this id is taught with a rationale."""
    return teach == "rationale" or (teach == "both" and seed_of(0, "with a reason", name) % 2 == 0)


def chosen(drafts: Sequence[Draft], choose: Callable[[Draft], Rationale | None]) -> tuple[Example, ...]:
    """An example of every draft with the rationale that is chosen for it, if any. One that holds no answer would teach none: it is left
    out."""
    picked = ((d, choose(d)) for d in drafts if d.rationales)
    return tuple(Example(d.id, d.input, r.text, d.target, d.source) for d, r in picked if r and r.answer is not None)


def bare(task: Task, draft: Draft, teach: Teach = "answer") -> Example:
    """An example that needs no rationale by a teacher: the answer alone, or after what its label means."""
    return Example(draft.id, draft.input, unreasoned(task, draft.target, teach), draft.target, draft.source)


def unreasoned(task: Task, target: str, teach: Teach) -> str:
    """A completion without a rationale of its own."""
    meaning = task.meanings.get(target, "") if teach == "meaning" else ""
    return f"{meaning} {prompts.answered(task, target)}".strip()


def of_seeds(task: Task, teach: Teach = "rationale") -> tuple[Example, ...]:
    """The user's own seeds as examples, each once. A seed without a rationale is taught with its answer alone."""
    return tuple(Example(q.id, q.input, _completion(task, q, teach), q.target, "seed") for q in task.seeds)


def seeds_alone(task: Task, size: int, teach: Teach = "rationale") -> tuple[Example, ...]:
    """The user's own seeds, repeated to the size of a tailored set: the baseline without which every gain may be the format."""
    return tuple(islice(cycle(of_seeds(task, teach)), size))


def with_seeds(examples: Sequence[Example], task: Task, teach: Teach = "rationale", times: int = 1) -> tuple[Example, ...]:
    """A set with the user's own seeds before it, each so many times, so that they stay in it wherever it is cut short."""
    return (*of_seeds(task, teach) * times, *examples)


def equal_size(sets: Mapping[str, Sequence[Example]]) -> dict[str, tuple[Example, ...]]:
    """Every arm's set cut to the smallest one, so that arms differ in what they teach and not in how much."""
    size = min(map(len, sets.values()))
    return {arm: tuple(examples[:size]) for arm, examples in sets.items()}


def _completion(task: Task, seed: Question, teach: Teach) -> str:
    return prompts.completion_of(task, seed) if with_reason(seed.id, teach) else unreasoned(task, seed.target, teach)
