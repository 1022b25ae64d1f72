"""Teaching with an assistant (TA-in-the-Loop, arXiv 2406.05322), top to bottom; over the store, as `loop.py`.

pool ─► warm-up: ask the teacher at random ─► the assistant drops what it doubts ─► teach the student
  │                                                                                     │
  └─► the student's and the assistant's doubts rank the rest ◄──────────────────────────┘
        └─► ask the teacher the first of them ─► the assistant drops what it doubts ─► all that was kept
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

from edgearte.assist import again, calibration, signals, steps
from edgearte.assist.calibration import Calibration
from edgearte.errors import UserError
from edgearte.recipe import Assist
from edgearte.records import Annotation, Example, Question
from edgearte.setup import Setup
from edgearte.steps import taught
from edgearte.store import seed_of

UNSURE = 0.5  # the threshold where none is given and none can be fitted
WARM_UP, CHOSEN, AGAIN = "warm-up", "chosen", "asked again"


@dataclass(frozen=True)
class Judged:
    """An answer of the teacher, when it was asked for, and the assistant's confidence in it (None: it was not asked)."""

    annotation: Annotation
    phase: str
    confidence: float | None
    kept: bool


@dataclass(frozen=True)
class Doubt:
    """What is known of a question before the teacher is asked: the student's uncertainty, the assistant's confidence in the student's
    answer, and whether that answer is right (each None where it was not asked or is not known)."""

    question: str
    uncertainty: float | None
    confidence: float | None
    right: bool | None


@dataclass(frozen=True)
class Assisted:
    """What came of it: every answer that was bought, what was known of the questions that could be, and the examples that were kept."""

    pool: int
    judged: tuple[Judged, ...]
    again: int  # questions that were asked a second time
    tokens: int  # of all these calls
    doubts: tuple[Doubt, ...]
    threshold: float | None
    said: str  # where the threshold comes from
    examples: tuple[Example, ...]

    def on_teacher(self) -> Calibration | None:
        """How well the assistant knows the teacher's right answers, where the pool brings targets."""
        known = [(j.confidence, j.annotation.right) for j in self.judged]
        return _calibration(known)

    def on_student(self) -> Calibration | None:
        """The same of the student's answers."""
        return _calibration([(d.confidence, d.right) for d in self.doubts])


def teach(setup: Setup, how: Assist, arm: str) -> Assisted:
    """The examples that `how.budget` buys. `how` is the recipe's, or what an ablation makes of it."""
    budget = steps.Allowance(setup, how)
    with budget.phase("pool") as purse:
        pool = _shuffled(steps.pool(setup, how, purse), seed_of(setup.recipe.seed, "pool"))
    if len(pool) < (budget.left.calls or 0):
        raise UserError(
            f"assist.budget.calls: {budget.left.calls} answers are to be bought, and the pool has {len(pool)} questions; "
            "give it more, or a smaller budget"
        )

    # the warm-up: a random part of the budget, so that the student's own signals come to mean something
    with budget.phase(WARM_UP, how.warmup) as purse:
        asked = steps.annotated(setup, pool, purse, WARM_UP)
    rest = pool[len(asked) :]
    trust = _trust(setup, how, asked)
    threshold, said = _threshold(how, asked, trust)
    judged = _judged(asked, trust, threshold, WARM_UP)
    begun = _examples(judged)
    student = taught(setup, begun, f"{arm}, warm-up") if begun else setup.student.folder

    # the rest of the budget goes where student and assistant doubt most
    doubts = _doubts(setup, how, student, rest)
    columns = [
        *([[d.uncertainty or 0.0 for d in doubts]] if "consistency" in how.signals else []),
        *([[1 - (d.confidence or 0.0) for d in doubts]] if "student" in how.signals else []),
    ]
    ranked = signals.order(columns) if columns else range(len(rest))
    with budget.phase(CHOSEN, 1 - how.again.share if how.again else 1) as purse:
        asked = steps.annotated(setup, [rest[k] for k in ranked], purse, CHOSEN)
    judged += _judged(asked, _trust(setup, how, asked), threshold, CHOSEN)

    # what is doubted is asked again, with what is trusted as an example
    second: list[Annotation] = []
    if how.again and threshold is not None:
        doubted, shown = _doubted(setup, how.again.below, judged, doubts)
        by_id = {q.id: q for q in pool}
        with budget.phase(AGAIN) as purse:
            second = steps.annotated(setup, [by_id[j.annotation.id] for j in doubted], purse, AGAIN, shown)
        judged = _better(judged, _judged(second, _trust(setup, how, second), threshold, AGAIN))

    examples = _examples(judged)
    if not examples:
        raise UserError(
            f"{setup.task.name}: of {len(judged)} answers of the teacher none was kept ({said}); take a lower assist.threshold, a better "
            "assistant, or a larger budget"
        )
    # Arms that bought as much train as many steps, however much of it they kept.
    bought = len(judged) + len(second)
    training_set = tuple(islice(cycle(examples), bought))
    return Assisted(len(pool), judged, len(second), budget.tokens(), doubts, threshold, said, training_set)


def _shuffled(pool: Sequence[Question], seed: int) -> list[Question]:
    return random.Random(seed).sample(list(pool), len(pool))


def _trust(setup: Setup, how: Assist, asked: Sequence[Annotation]) -> list[float] | None:
    """Signal 3: the assistant's confidence in the teacher's answers."""
    if "teacher" not in how.signals:
        return None
    return steps.trusted(setup, how, [(a.input, a.text) for a in asked], "the assistant on the teacher")


def _threshold(how: Assist, asked: Sequence[Annotation], trust: Sequence[float] | None) -> tuple[float | None, str]:
    """The confidence from which the teacher is believed, and where it comes from."""
    if trust is None:
        return None, "the assistant was not asked about the teacher"
    if how.threshold is not None:
        return how.threshold, "given in the recipe"
    known = [(c, a.right) for c, a in zip(trust, asked, strict=True) if a.right is not None]
    fitted = calibration.threshold([c for c, _ in known], [r for _, r in known])
    if fitted is None:
        return UNSURE, "as usual: the warm-up has no right and wrong answers to fit it on"
    return fitted, f"fitted on {len(known)} answers of the warm-up"


def _judged(
    asked: Sequence[Annotation], trust: Sequence[float] | None, threshold: float | None, phase: str
) -> tuple[Judged, ...]:
    """An answer that could not be found is dropped in any case: it would teach none."""
    confidences: Sequence[float | None] = trust if trust is not None else [None] * len(asked)
    return tuple(
        Judged(a, phase, c, a.answer is not None and (c is None or threshold is None or c >= threshold))
        for a, c in zip(asked, confidences, strict=True)
    )


def _doubted(
    setup: Setup, below: float, judged: Sequence[Judged], doubts: Sequence[Doubt]
) -> tuple[list[Judged], list[list[Question]]]:
    """What the teacher is trusted too little in, the least first, and the worked examples to be shown before each."""
    found = sorted((j for j in judged if (j.confidence or 0.0) < below), key=lambda j: j.confidence or 0.0)
    trusted = [j.annotation for j in judged if j.kept and (j.confidence or 0.0) >= below]
    by_id = {a.id: a for a in trusted}
    # An error as far as it can be known: by the target, or where there is none by the assistant's word.
    wrong = [d for d in doubts if d.question in by_id and (d.right is False or (d.right is None and (d.confidence or 0.0) < UNSURE))]
    error = again.least_sure([(d.uncertainty or 0.0, by_id[d.question]) for d in wrong])
    return found, [again.examples(setup.task, j.annotation.input, trusted, error) for j in found]


def _better(first: Sequence[Judged], second: Sequence[Judged]) -> tuple[Judged, ...]:
    """Of two answers to a question the one that is trusted more."""
    by_id = {j.annotation.id: j for j in second}

    def better(j: Judged) -> Judged:
        other = by_id.get(j.annotation.id)
        return other if other and (other.kept, other.confidence or 0.0) > (j.kept, j.confidence or 0.0) else j

    return tuple(map(better, first))


def _doubts(setup: Setup, how: Assist, student: Path, rest: Sequence[Question]) -> tuple[Doubt, ...]:
    """Signals 1 and 2 of every question that could still be asked."""
    if not {"consistency", "student"} & set(how.signals):
        return ()
    said = steps.sampled(setup, how, student, rest)
    trust: Sequence[float | None] = [None] * len(rest)
    if "student" in how.signals:
        shown = [(q.input, s.usual) for q, s in zip(rest, said, strict=True)]
        trust = steps.trusted(setup, how, shown, "the assistant on the student")
    return tuple(
        Doubt(q.id, signals.uncertainty(s, how.uncertainty), c, steps.right(setup, q, s.usual))
        for q, s, c in zip(rest, said, trust, strict=True)
    )


def _examples(judged: Sequence[Judged]) -> tuple[Example, ...]:
    return tuple(
        Example(j.annotation.id, j.annotation.input, j.annotation.text, j.annotation.answer or "", j.phase)
        for j in judged
        if j.kept
    )


def _calibration(known: Sequence[tuple[float | None, bool | None]]) -> Calibration | None:
    both = [(c, r) for c, r in known if c is not None and r is not None]
    return calibration.calibration([c for c, _ in both], [r for _, r in both]) if both else None
