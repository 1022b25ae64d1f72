"""Teaching with an assistant (TA-in-the-Loop, arXiv 2406.05322), top to bottom; over the store, as `loop.py`.

pool ─► warm-up: ask the teacher at random ─► the assistant drops what it doubts ─► teach the student
  │                                                                                     │
  └─► the student's and the assistant's doubts rank the rest ◄──────────────────────────┘
        └─► ask the teacher the first of them ─► the assistant drops what it doubts ─► all that was kept
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice
from pathlib import Path

from edgearte.answers import matches
from edgearte.arte.tailor import unreasoned
from edgearte.assist import again as second
from edgearte.assist import calibration, route, signals, steps, weigh
from edgearte.assist.calibration import Calibration
from edgearte.check import too_few
from edgearte.errors import UserError
from edgearte.lm.calls import Limits
from edgearte.recipe import Assist, Budget
from edgearte.records import Annotation, Example, Question
from edgearte.setup import Setup
from edgearte.steps import taught, with_seeds
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
    answer (None: it was not asked), and whether that answer is right (None: it is not known)."""

    question: str
    uncertainty: float
    confidence: float | None
    right: bool | None


@dataclass(frozen=True)
class Assisted:
    """What came of it: the answer to every question that was put to a teacher (the best of several), what was known of the questions that
    could be, and the examples that were kept."""

    pool: int
    judged: tuple[Judged, ...]
    bought: int  # answers, second ones among them
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


class NothingKept(UserError):
    """A budget was spent, and bought nothing to learn from."""


def teach(setup: Setup, how: Assist, most: Budget, arm: str) -> Assisted:
    """The examples that `most` buys; `NothingKept` where there are none. `how` is the recipe's, or what an ablation makes of it."""
    budget = steps.Allowance(setup, how, most)
    with budget.phase("pool", budget.left, shared=True) as purse:
        pool = _shuffled(steps.pool(setup, how, purse), seed_of(setup.recipe.seed, "pool"))
    if problem := too_few(budget.left.calls or 0, len(pool)):
        raise UserError(problem)
    teachers = range(1 + len(how.several.teachers) if how.several else 1)
    all_asked = bool(how.several and how.several.choose == "agreement")

    # the warm-up: a random part of the budget, put to every teacher, so that the student's own signals come to mean something
    asked = _asked_all(setup, budget, pool, teachers, WARM_UP, budget.left.share(how.warmup))
    rest = pool[len(asked) // len(teachers) :]
    trust = _trust(setup, how, asked)
    threshold, said = _threshold(how, asked, trust)
    warm = _by_question(_judged(asked, trust, threshold, WARM_UP))
    judged = tuple(_best(setup, group, agree=all_asked) for group in warm)
    begun = with_seeds(setup, _examples(setup, judged))
    student = taught(setup, begun, f"{arm}, warm-up") if begun else setup.student.folder
    usual = [group[0].annotation.input for group in warm]  # drawn at random, as no later question is

    # the rest of the budget goes where student and assistant doubt most, to the teacher whose answers are worth most there
    known = doubts(setup, how, student, rest)
    ranked = [rest[k] for k in signals.order(wanted(known, how))] if known else rest
    limits = budget.left.share(1 - how.again.share if how.again else 1)
    if all_asked:
        asked = _asked_all(setup, budget, ranked, teachers, CHOSEN, limits, usual)
    else:
        asked = _asked(setup, budget, ranked, _numbers(setup, how, student, warm, ranked), CHOSEN, limits, usual=usual)
    chosen = _by_question(_judged(asked, _trust(setup, how, asked), threshold, CHOSEN))
    judged += tuple(_best(setup, group, agree=all_asked) for group in chosen)
    bought = sum(map(len, (*warm, *chosen)))

    # what is doubted is asked again, with what is trusted as an example
    again = 0
    if how.again and threshold is not None:
        doubted, shown = _doubted(setup, how.again.below, judged, known)
        by_id = {q.id: q for q in pool}
        questions, numbers = [by_id[j.annotation.id] for j in doubted], [j.annotation.teacher for j in doubted]
        asked = _asked(setup, budget, questions, numbers, AGAIN, budget.left, shown)
        both = _by_question((*judged, *_judged(asked, _trust(setup, how, asked), threshold, AGAIN)))
        judged = tuple(_best(setup, group, agree=False) for group in both)
        again = len(asked)

    examples = _examples(setup, judged)
    if not bought + again:
        raise NothingKept(
            f"{setup.task.name}: of the teacher's answers none was bought, since the budget holds no call more; if it was spent under this "
            "recipe's name before, on other prompts than its settings make now, raise it or give the recipe another name"
        )
    if not examples:
        unread = sum(j.annotation.answer is None for j in judged)
        raise NothingKept(
            f"{setup.task.name}: of {bought + again} answers of the teacher none was kept ({said}), and in {unread} no answer was found; "
            "take a lower assist.threshold, a better assistant, or a larger budget, and where the teacher is cut off before its answer "
            "more draft.rationale_tokens"
        )
    if how.weigh and threshold is not None:
        weights = weigh.rectified([j.confidence or 0.0 for j in judged if j.kept])
        examples = tuple(replace(e, weight=w) for e, w in zip(examples, weights, strict=True))
    # Arms that bought as much train as many steps, however much of it they kept.
    training_set = tuple(islice(cycle(examples), bought + again))
    return Assisted(len(pool), judged, bought + again, again, budget.tokens(), known, threshold, said, training_set)


def _asked_all(
    setup: Setup, budget: steps.Allowance, questions: Sequence[Question], teachers: Sequence[int], phase: str, limits: Limits,
    usual: Sequence[str] = (),
) -> list[Annotation]:  # fmt: skip
    """Every teacher's answers to the first of the questions, as many as these limits pay for from all of them."""
    each, found = limits.share(1 / len(teachers)), []
    for number in teachers:
        with budget.phase(phase, each, number) as purse:
            found.append(steps.annotated(setup, questions[: each.calls], purse, phase, number, usual=usual))
    return [answer for together in zip(*found, strict=False) for answer in together]


def _asked(
    setup: Setup, budget: steps.Allowance, questions: Sequence[Question], numbers: Sequence[int], phase: str, limits: Limits,
    shown: Sequence[Sequence[Question]] = (), usual: Sequence[str] = (),
) -> list[Annotation]:  # fmt: skip
    """The answers to the first of the questions, as many as these limits pay for, each from the teacher of its number."""
    many = len(questions) if limits.calls is None else min(limits.calls, len(questions))
    found: dict[int, Annotation] = {}
    for number in sorted(set(numbers[:many])):
        mine = [k for k in range(many) if numbers[k] == number]
        with budget.phase(phase, limits.share(len(mine) / many), number) as purse:
            before = [shown[k] for k in mine] if shown else ()
            answers = steps.annotated(setup, [questions[k] for k in mine], purse, phase, number, before, usual)
        found |= dict(zip(mine, answers, strict=False))
    return [found[k] for k in sorted(found)]


def _by_question(judged: Sequence[Judged]) -> list[list[Judged]]:
    """All answers to each question."""
    groups: dict[str, list[Judged]] = {}
    for j in judged:
        groups.setdefault(j.annotation.id, []).append(j)
    return list(groups.values())


def _best(setup: Setup, group: Sequence[Judged], *, agree: bool) -> Judged:
    """The most trusted of the answers to a question, of several the first; where they have to `agree`, it is dropped if they do not
    (ATSEN's hard labels, arXiv 2212.06522)."""
    best = max(group, key=lambda j: (j.kept, j.confidence or 0.0))
    same = all(matches(j.annotation.answer, best.annotation.answer or "", setup.task.answer) for j in group)
    return replace(best, kept=best.kept and same) if agree else best


def _numbers(
    setup: Setup, how: Assist, student: Path, warm: Sequence[Sequence[Judged]], questions: Sequence[Question]
) -> list[int]:
    """Which teacher to ask each question."""
    if not how.several or how.several.choose == "agreement":
        return [0] * len(questions)
    natural = iter(steps.natural(setup, student, [j.annotation for group in warm for j in group]))
    worth = route.rewards(
        [[_worth(j) for j in group] for group in warm], [[next(natural) for _ in group] for group in warm], how.several.quality
    )
    asked, texts = [group[0].annotation.input for group in warm], [q.input for q in questions]
    choose = how.several.choose if warm else "uniform"
    teachers = 1 + len(how.several.teachers)
    counted = steps.familiar(setup, how.several, texts)
    return route.chosen(choose, asked, worth or [[0.0] * teachers], texts, seed_of(setup.recipe.seed, "route"), counted)


def _worth(judged: Judged) -> float:
    """How right an answer is: as its target says, or where there is none the assistant."""
    right = judged.annotation.right
    return float(right) if right is not None else judged.confidence if judged.confidence is not None else UNSURE


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
    setup: Setup, below: float, judged: Sequence[Judged], known: Sequence[Doubt]
) -> tuple[list[Judged], list[list[Question]]]:
    """What the teacher is trusted too little in, the least first, and the worked examples to be shown before each."""
    found = sorted((j for j in judged if (j.confidence or 0.0) < below), key=lambda j: j.confidence or 0.0)
    trusted = [j.annotation for j in judged if j.kept and (j.confidence or 0.0) >= below]
    by_id = {a.id: a for a in trusted}
    # An error as far as it can be known: by the target, or where there is none by the assistant's word.
    wrong = [d for d in known if d.question in by_id and (d.right is False or (d.right is None and (d.confidence or 0.0) < UNSURE))]
    error = second.least_sure([(d.uncertainty, by_id[d.question]) for d in wrong])
    return found, [second.examples(setup.task, j.annotation.input, trusted, error) for j in found]


def doubts(setup: Setup, how: Assist, student: Path, rest: Sequence[Question]) -> tuple[Doubt, ...]:
    """Signals 1 and 2 of every question that could still be asked; nothing where neither is wanted."""
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


def wanted(known: Sequence[Doubt], how: Assist) -> list[list[float]]:
    """How much each question is wanted, under each signal that takes part."""
    return [
        *([[d.uncertainty for d in known]] if "consistency" in how.signals else []),
        *([[1 - (d.confidence or 0.0) for d in known]] if "student" in how.signals else []),
    ]


def _examples(setup: Setup, judged: Sequence[Judged]) -> tuple[Example, ...]:
    """What was kept, as the recipe teaches it: with the teacher's text, or the answer without it."""

    def example(of: Annotation, phase: str) -> Example:
        answer = of.answer or ""
        text = of.text if setup.recipe.train.reasons else unreasoned(setup.task, answer, setup.teach)
        return Example(of.id, of.input, text, answer, phase)

    return tuple(example(j.annotation, j.phase) for j in judged if j.kept)


def _calibration(known: Sequence[tuple[float | None, bool | None]]) -> Calibration | None:
    both = [(c, r) for c, r in known if c is not None and r is not None]
    return calibration.calibration([c for c, _ in both], [r for _, r in both]) if both else None
