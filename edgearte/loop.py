"""The loop, top to bottom. Everything here is a function over the store: running it again *is* resuming it.

task ─► draft ─► prefer ─► align ─► tailor ─► train ─► export ─► measure ─► decide
          ▲                            │                 ▲                    │ budget not met
          ├──── the next round ────────┘                 └── cures ◄──────────┤
          └──── the deployed student's failures and preferences ◄─────────────┘
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgearte import closing, decide, delivery, probe, steps, tune
from edgearte.assist.steps import weighed
from edgearte.budget import Figures
from edgearte.delivery import Checkpoint, Delivery, deliver
from edgearte.destination import destinations
from edgearte.evaluate import Answer
from edgearte.lesson import ARTE, ON_POLICY, SEEDS, UNTAUGHT, Lesson, Round, arte, once, with_assistant
from edgearte.records import ArmChoice, Example, Probe, Question
from edgearte.setup import Setup


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
    failed: tuple[Question, ...] = ()


@dataclass(frozen=True)
class Found:
    """Everything a build found; `outcome.py` turns it into a result."""

    setup: Setup
    probed: Probe | None
    lesson: Lesson
    search: tune.Searched | None
    chosen: ArmChoice  # the arm that is delivered
    taught: Mapping[str, Path]
    developed: Mapping[str, list[Answer]]  # by arm, on the development questions
    answers: Mapping[tuple[str, int], list[Answer]]  # by arm and number of examples shown, as checkpoint
    turns: tuple[Turn, ...]
    ended: closing.End
    foretold: Mapping[str, Mapping[str, Figures]]  # by device and preset
    turn: Turn  # the one whose student is embedded
    choice: decide.Choice
    others: Mapping[str, Mapping[str, list[Answer]]]  # by arm and preset, what the students that are not delivered answer as files


def run(setup: Setup) -> Found:
    """A lesson, by ARTE or by a teaching assistant; then out to the devices, and back to the teacher while their budgets are not met."""
    setup = steps.prepared(setup)
    recipe, how = setup.recipe, setup.recipe.assist
    paid = recipe.teacher.endpoint or (how and how.budget)  # whose answers cost what no probe may spend
    probed = probe.run(setup) if setup.task.development and not paid else None
    lesson = with_assistant(setup, how, how.budget) if how and how.budget else arte(setup)

    # train: one student an arm; which of them is delivered the development questions decide
    sets = dict(lesson.sets)
    weighted = {arm: weighed(setup, examples) for arm, examples in sets.items()}
    first = lesson.plain if lesson.plain in sets else lesson.method
    search = tune.searched(setup, weighted[first], first) if recipe.train.search else None
    trainer = setup.training(search.best.train) if search else setup
    taught = {arm: steps.taught(trainer, examples, arm) for arm, examples in weighted.items()}
    developed = {arm: steps.developed(setup, folder, arm) for arm, folder in taught.items() if setup.task.development}
    chosen = decide.arm(developed, lesson.method if lesson.method in taught else lesson.plain)
    if recipe.on_policy.when != "never":
        start = taught[chosen.name] if recipe.on_policy.when == "after" else setup.student.folder
        sets[ON_POLICY] = sets[chosen.name]
        taught[ON_POLICY] = steps.distilled(setup, start, lesson.teacher, sets[ON_POLICY], ON_POLICY)
        developed |= {ON_POLICY: steps.developed(setup, taught[ON_POLICY], ON_POLICY)} if developed else {}
        chosen = decide.arm(developed, chosen.name if developed else ON_POLICY)
    students = {UNTAUGHT: setup.student.folder, **taught}
    shots = (0, *recipe.measure.shots)
    answers = {(arm, n): steps.answers(setup, folder, arm, n) for n in shots for arm, folder in students.items()}

    # export and measure: what counts is the file, on the devices it is for
    to = destinations(recipe)
    guessed = delivery.foreseen(setup, to)
    presets = delivery.foretold_first(recipe.export.presets, guessed, to)

    def checkpoint(arm: str, examples: Sequence[Example]) -> Checkpoint:
        return Checkpoint(students[arm], answers[arm, 0], developed.get(arm, ()), examples)

    def out(arm: str, presets: Sequence[str], examples: Sequence[Example]) -> Delivery:
        return deliver(setup, to, steps.student(setup, students[arm]), checkpoint(arm, examples), presets)

    turns = [Turn(closing.FIRST, "", chosen.name, out(chosen.name, presets, sets[chosen.name]))]
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
        taught[again.arm] = students[again.arm] = steps.taught(trainer, weighed(setup, again.examples), again.arm)
        answers[again.arm, 0] = steps.answers(setup, taught[again.arm], again.arm)
        developed |= {again.arm: steps.developed(setup, taught[again.arm], again.arm)} if developed else {}
        delivered = out(again.arm, step.presets, again.examples)
        turns.append(Turn(step.kind, step.why, again.arm, delivered, again.round, step.deployed, again.failed))
    kept = max(turns, key=lambda turn: closing.worth(turn.delivered))
    usual = sets.get(SEEDS, sets[chosen.name])  # calibrates what was taught nothing: the same file, whatever the others were taught
    others = {
        arm: delivery.as_files(setup, checkpoint(arm, sets.get(arm, usual)), recipe.measure.others)
        for arm in students if recipe.measure.others and arm not in {t.arm for t in turns}
    }  # fmt: skip
    return Found(
        setup, probed, replace(lesson, sets=sets), search, chosen, taught, developed, answers, tuple(turns), step, guessed, kept,
        _choice(setup, kept, answers), others,
    )  # fmt: skip


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
    failed: tuple[Question, ...]


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
    failed = tuple(a.question for a in delivery.answers(setup, model, artifact, setup.task.seeds) if not a.grade.correct)
    towards = setup.towards(failed)
    teacher = next((t.taught.aligned for t in reversed(turns) if t.taught), lesson.teacher)
    reader = delivery.deployed(setup, model, artifact)
    found = once(towards, lesson.asked, teacher, last.student.folder, again, reader=reader, scorer=steps.by_asking(setup))
    own = steps.tailored(towards, found.aligned, arm, "tailor" + again)
    return Anew(arm, found, (*last.student.examples, *own.examples), failed)
