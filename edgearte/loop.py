"""The loop, top to bottom. Everything here is a function over the store: running it again *is* resuming it.

task ─► draft ─► prefer ─► align ─► tailor ─► train ─► export ─► measure ─► decide
          ▲                            │                 ▲                    │ budget not met
          ├──── the next round ────────┘                 └── cures ◄──────────┤
          └──── the deployed student's failures and preferences ◄─────────────┘
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edgearte import assisted, closing, decide, delivery, guidance, steps
from edgearte.arte import draft, prefer, tailor
from edgearte.arte.preference_set import PreferenceSet
from edgearte.assist.steps import weighed
from edgearte.budget import Figures
from edgearte.delivery import Checkpoint, Delivery, deliver
from edgearte.destination import destinations
from edgearte.errors import UserError
from edgearte.evaluate import Answer
from edgearte.lm.base import LM
from edgearte.recipe import Assist, Budget
from edgearte.records import Draft, Example, Pair
from edgearte.setup import Setup

UNTAUGHT, SEEDS, UNALIGNED, ARTE = "untaught", "seeds alone", "unaligned teacher", "ARTE"
NO_SIGNAL, ASSISTED = "no signal", "assisted"


@dataclass(frozen=True)
class Round:
    """Once through the teaching: what was drafted, preferred and paired, and the teacher that came of it."""

    drafted: draft.Drafted
    drafts: tuple[Draft, ...]
    preferred: prefer.Preferred
    skipped: str  # why the teacher was not aligned, or ""
    pairs: tuple[Pair, ...]
    aligned: Path


@dataclass(frozen=True)
class Lesson:
    """What the student is to be taught, arm by arm and of equal size, and how it came about; `best` is the arm that is delivered,
    `plain` the one without what the method adds."""

    best: str
    plain: str
    teacher: Path
    sets: Mapping[str, tuple[Example, ...]]
    asked: PreferenceSet | None = None
    rounds: tuple[Round, ...] = ()
    tailored: Mapping[str, tailor.Tailored] = field(default_factory=dict)
    assisted: assisted.Assisted | None = None


@dataclass(frozen=True)
class Turn:
    """Once out to the devices: what was changed and why, by what arm the student was taught, and what came of it. In a new round, what
    the deployed student preferred, and the seeds it failed at."""

    kind: str  # closing.FIRST, CURE or ROUND
    why: str
    arm: str
    delivered: Delivery
    taught: Round | None = None
    deployed: str = ""
    failed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Found:
    """Everything a build found; `outcome.py` turns it into a result."""

    setup: Setup
    lesson: Lesson
    taught: Mapping[str, Path]
    answers: Mapping[tuple[str, int], list[Answer]]  # by arm and number of examples shown, as checkpoint
    turns: tuple[Turn, ...]
    ended: closing.End
    foretold: Mapping[str, Mapping[str, Figures]]  # by device and preset
    turn: Turn  # the one whose student is embedded
    choice: decide.Choice


def run(setup: Setup) -> Found:
    """A lesson, by ARTE or by a teaching assistant; then out to the devices, and back to the teacher while their budgets are not met."""
    recipe, how = setup.recipe, setup.recipe.assist
    lesson = with_assistant(setup, how, how.budget) if how and how.budget else arte(setup)
    best = lesson.best

    # train: one student an arm, equal in size and steps
    taught = {arm: steps.taught(setup, weighed(setup, examples), arm) for arm, examples in lesson.sets.items()}
    if recipe.on_policy.when != "never":
        start = taught[best] if recipe.on_policy.when == "after" else setup.student.folder
        taught[best] = steps.distilled(setup, start, lesson.teacher, lesson.sets[best], best)
    students = {UNTAUGHT: setup.student.folder, **taught}
    shots = (0, *recipe.measure.shots)
    answers = {(arm, n): steps.answers(setup, folder, arm, n) for n in shots for arm, folder in students.items()}

    # export and measure: what counts is the file, on the devices it is for
    to = destinations(recipe)
    guessed = delivery.foreseen(setup, to)
    presets = delivery.foretold_first(recipe.export.presets, guessed, to)

    def out(arm: str, presets: Sequence[str], examples: Sequence[Example]) -> Delivery:
        asked = steps.developed(setup, taught[arm], arm) if setup.task.development else ()
        student = Checkpoint(taught[arm], answers[arm, 0], asked, examples)
        return deliver(setup, to, steps.student(setup, taught[arm]), student, presets)

    turns = [Turn(closing.FIRST, "", best, out(best, presets, lesson.sets[best]))]
    # decide: where a device's budget is not met, first by cheaper cures, then by a new round
    while True:
        last, hindered = turns[-1].delivered, _hindered(setup, lesson, turns)
        step = closing.next_step(last, to, guessed, recipe.close.cures, hindered, setup.student.parameters)
        if isinstance(step, closing.End):
            break
        if step.kind == closing.CURE:
            delivered = out(turns[-1].arm, step.presets, turns[-1].delivered.student.examples)
            turns.append(Turn(step.kind, step.why, turns[-1].arm, delivered))
            continue
        again = anew(setup, lesson, turns, step.deployed)
        taught[again.arm] = steps.taught(setup, weighed(setup, again.examples), again.arm)
        answers[again.arm, 0] = steps.answers(setup, taught[again.arm], again.arm)
        delivered = out(again.arm, step.presets, again.examples)
        turns.append(Turn(step.kind, step.why, again.arm, delivered, again.round, step.deployed, again.failed))
    kept = max(turns, key=lambda turn: closing.worth(turn.delivered))
    return Found(setup, lesson, taught, answers, tuple(turns), step, guessed, kept, _choice(setup, kept, answers))


def _hindered(setup: Setup, lesson: Lesson, turns: Sequence[Turn]) -> str:
    """Why the deployed student cannot ask for a new round, or ""."""
    how, begun = setup.recipe.close, sum(turn.kind == closing.ROUND for turn in turns)
    hours = sum(entry.seconds for entry in setup.store.ledger) / 3600
    if not lesson.asked:
        return "what the teacher's answers may cost is spent, and a new round would need more of them (assist.budget)"
    if begun >= how.rounds:
        return f"the new rounds that close.rounds allows ({how.rounds}) were not enough"
    if how.hours is not None and hours >= how.hours:
        return f"close.hours allows {how.hours:g} hours of computing, and {hours:.1f} were computed"
    return ""


def _choice(setup: Setup, turn: Turn, answers: Mapping[tuple[str, int], list[Answer]]) -> decide.Choice:
    """What is embedded: on the recipe's first device, where it has devices."""
    delivered = turn.delivered
    if not setup.recipe.devices:
        questions = len(next(iter(delivered.evaluated.values()), []))
        return decide.choose(delivered.artifacts, delivered.evaluated, answers[turn.arm, 0][:questions])
    verdict = next((v for v in delivered.verdicts if v.preset), delivered.verdicts[0])
    return decide.Choice(verdict.preset, f"on {verdict.device}: {verdict.reason}", verdict.story)


@dataclass(frozen=True)
class Anew:
    """A new round on behalf of the deployed student: all examples so far with its own, and the seeds it failed at."""

    arm: str
    round: Round
    examples: tuple[Example, ...]
    failed: tuple[str, ...]


def anew(setup: Setup, lesson: Lesson, turns: Sequence[Turn], preset: str) -> Anew:
    """Once more through the teaching: the deployed, quantized student itself shows which drafts teach it, and the teacher drafts and
    tailors from seeds that it fails at."""
    if lesson.asked is None:
        raise RuntimeError("only ARTE's lessons go on")
    last = turns[-1].delivered
    artifact = next(a for a in last.artifacts if a.preset == preset)
    number = setup.recipe.rounds + 1 + sum(t.kind == closing.ROUND for t in turns)
    again, arm = f" {number}", f"{ARTE}, round {number}"
    model = steps.student(setup, last.student.folder)
    failed = tuple(a.question.id for a in delivery.answers(setup, model, artifact, setup.task.seeds) if not a.grade.correct)
    towards = setup.towards(failed)
    teacher = next((t.taught.aligned for t in reversed(turns) if t.taught), lesson.teacher)
    reader = delivery.deployed(setup, model, artifact)
    found = once(towards, lesson.asked, teacher, last.student.folder, again, reader=reader, scorer=steps.by_asking(setup))
    own = steps.tailored(towards, found.aligned, arm, "tailor" + again)
    return Anew(arm, found, (*last.student.examples, *own.examples), failed)


def arte(setup: Setup) -> Lesson:
    """As many times through the loop as the recipe has rounds; an assistant may help."""
    asked = steps.preference_questions(setup)
    teacher, student = setup.teacher.folder, setup.student.folder
    how = setup.recipe.assist
    guide = how.arte if how else None
    rounds: list[Round] = []
    ours: list[tailor.Tailored] = []
    plain: list[tailor.Tailored] = []
    for number in range(1, setup.recipe.rounds + 1):
        again = "" if number == 1 else f" {number}"
        rounds.append(once(setup, asked, teacher, student, again, guided=guide is not None))
        teacher = rounds[-1].aligned
        # tailor: the aligned teacher writes a training set; so does the unaligned one, to compare with
        plain.append(steps.tailored(setup, setup.teacher.folder, UNALIGNED + again, "tailor" + again))
        ours.append(steps.tailored(setup, teacher, ARTE + again, "tailor" + again))
        if number < setup.recipe.rounds:  # the next round asks the student that all rounds so far have taught
            student = steps.taught(setup, _together(ours).examples, ARTE + again)
    tailored = {UNALIGNED: _together(plain), ARTE: _together(ours)}
    sets = _sets(setup, tailored)
    if how and guide and guide.weigh:
        sets[ARTE] = guidance.weighed(setup, how, sets[ARTE])
    return Lesson(ARTE, UNALIGNED, teacher, sets, asked, tuple(rounds), tailored)


def with_assistant(setup: Setup, how: Assist, budget: Budget) -> Lesson:
    """What a budget of the teacher's answers buys with an assistant; and as much bought at random, to compare with."""
    plain = assisted.teach(setup, how.model_copy(update={"signals": ()}), budget, NO_SIGNAL)
    ours = assisted.teach(setup, how, budget, ASSISTED)
    sets = tailor.equal_size({NO_SIGNAL: plain.examples, ASSISTED: ours.examples})
    sets = {**_seeds(setup, len(sets[ASSISTED])), **sets}
    return Lesson(ASSISTED, NO_SIGNAL, setup.teacher.folder, sets, assisted=ours)


def once(
    setup: Setup, asked: PreferenceSet, teacher: Path, student: Path, again: str = "",
    *, kinds: Sequence[str] = ("question", "rationale"), scorer: str = "", guided: bool = False, reader: LM | None = None,
) -> Round:  # fmt: skip
    """Once through the teaching: what comes of this teacher when this student is asked. `again` names a later round; `kinds` of
    pairs and a `scorer` other than the recipe's are what an ablation changes. It may be `guided` by an assistant; a `reader` is the
    student in another form, as it is deployed."""
    author, checkpoint = steps.teacher(setup, teacher), steps.student(setup, student)
    how = setup.recipe.assist
    guide = how.arte if how and guided else None
    # draft: the teacher asks, and explains in several ways
    drafted = steps.drafted(setup, author, "draft" + again)
    drafts = drafted.drafts
    if how and guide:
        drafts = guidance.worth_scoring(setup, how, guide, student, drafts)
    drafts = steps.explained(setup, author, drafts, "draft" + again)
    if how and guide and guide.filter:
        drafts = guidance.believed(setup, how, drafts)
    # prefer: the student shows which of it teaches
    preferred = steps.preferences(setup, reader or checkpoint, student, drafts, asked, scorer)
    checkpoint.release()
    # align: the teacher learns what the student prefers
    skipped = steps.not_at_hand(setup) or prefer.degenerate(preferred.preferences)
    pairs = () if skipped else steps.pairs(setup, author, drafts, preferred.preferences, kinds)
    author.release()
    if not skipped and not pairs:
        skipped = (
            "no two drafts that could be held against each other differ in score, so there is no pair to learn from"
        )
    aligned = teacher if skipped else steps.aligned(setup, teacher, pairs, "align the teacher" + again)
    return Round(drafted, drafts, preferred, skipped, pairs, aligned)


def _sets(setup: Setup, tailored: Mapping[str, tailor.Tailored]) -> dict[str, tuple[Example, ...]]:
    sets = tailor.equal_size({arm: t.examples for arm, t in tailored.items()})
    if not sets[ARTE]:
        raise UserError(
            "the teacher wrote no example that could be trained on; look at its drafts in the store, or try style: continuation"
        )
    return {**_seeds(setup, len(sets[ARTE])), **sets}


def _seeds(setup: Setup, size: int) -> dict[str, tuple[Example, ...]]:
    """The arm of the user's own seeds, where there are any."""
    return {SEEDS: tailor.seeds_alone(setup.task, size)} if setup.task.seeds else {}


def _together(sets: Sequence[tailor.Tailored]) -> tailor.Tailored:
    """What one teacher wrote in all rounds."""
    dropped: dict[str, int] = {}
    for one in sets:
        for reason, n in one.dropped.items():
            dropped[reason] = dropped.get(reason, 0) + n
    examples = tuple(e for one in sets for e in one.examples)
    return tailor.Tailored(examples, tuple(d for one in sets for d in one.drafts), dropped)
