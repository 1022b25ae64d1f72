"""The training set (paper 4): a teacher repeats the drafting and adds one rationale a question, with the naive prompt at T = 0."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice

from edgearte.arte import prompts
from edgearte.arte.draft import Settings, draft_questions, draft_rationales, naive
from edgearte.arte.verify import Check
from edgearte.lm.base import LM
from edgearte.records import Draft, Example, Rationale
from edgearte.store import Store
from edgearte.task import Task


@dataclass(frozen=True)
class Tailored:
    """Examples with the drafts they were made of, and why others were dropped."""

    examples: tuple[Example, ...]
    drafts: tuple[Draft, ...]
    dropped: Mapping[str, int]


def tailor(
    teacher: LM, task: Task, settings: Settings, count: int, store: Store, *, purpose: str, arm: str, checks: Sequence[Check] = (),
    drawn: Task | None = None,
) -> Tailored:  # fmt: skip
    """Up to `count` examples by one teacher, with the naive prompt; questions are drafted from the seeds of `drawn`, where it is given."""
    drafted = draft_questions(
        teacher, drawn or task, settings, count, store, purpose=purpose, label=f"tailor, {arm}: questions", checks=checks
    )
    drafts = draft_rationales(teacher, task, settings, drafted.drafts, {"naive": naive(settings)}, store,
                              label=f"tailor, {arm}: rationales")  # fmt: skip
    examples = chosen(drafts, lambda draft: draft.rationales[0])
    dropped = Counter(drafted.dropped)
    dropped["no answer in the rationale"] += len(drafts) - len(examples)
    return Tailored(examples, drafts, {reason: n for reason, n in dropped.items() if n})


def chosen(drafts: Sequence[Draft], choose: Callable[[Draft], Rationale]) -> tuple[Example, ...]:
    """An example of every draft with the rationale that is chosen for it. One that holds no answer would teach none: it is left out."""
    picked = ((d, choose(d)) for d in drafts if d.rationales)
    return tuple(Example(d.id, d.input, r.text, d.target, d.source) for d, r in picked if r.answer is not None)


def seeds_alone(task: Task, size: int) -> tuple[Example, ...]:
    """The user's own seeds, repeated to the size of a tailored set: the baseline without which every gain may be the format."""
    once = [Example(q.id, q.input, prompts.completion_of(task, q), q.target, "seed") for q in task.seeds]
    return tuple(islice(cycle(once), size))


def equal_size(sets: Mapping[str, Sequence[Example]]) -> dict[str, tuple[Example, ...]]:
    """Every arm's set cut to the smallest one, so that arms differ in what they teach and not in how much."""
    size = min(map(len, sets.values()))
    return {arm: tuple(examples[:size]) for arm, examples in sets.items()}
