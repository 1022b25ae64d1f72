"""`edgearte ablate`: the arms of the paper's tables in one run, at equal size, with any number of seeds, over one store.

`edgearte tailor` is the same with one arm more: a teacher that was aligned elsewhere (the paper's tables 4 and 5).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgearte import __version__
from edgearte.arms import ABOUT, ASSISTANT, GUIDED, SEVERAL, TRANSFERRED, Arm, Made, make, ordered, teach
from edgearte.errors import UserError
from edgearte.evaluate import Answer
from edgearte.lesson import ARTE, ASSISTED, SEEDS, UNALIGNED, UNTAUGHT
from edgearte.recipe import Recipe
from edgearte.records import Example
from edgearte.report import ablation as report
from edgearte.report.ablation import Ablation, Asked, Cost
from edgearte.setup import Setup, opened, write_recipe
from edgearte.store import Entry

PASSING = ("memory_available_bytes", "load_average")  # of a machine: what is another at every look


@dataclass(frozen=True)
class Trial:
    """One arm under one seed: its student's answers by number of examples shown, and what it cost."""

    answers: Mapping[int, list[Answer]]
    examples: int
    cost: Cost
    note: str


def ablate(
    recipe_path: Path, overrides: list[str], runs: Path, arms: Sequence[str], seeds: int, calls: Sequence[int] = ()
) -> tuple[Ablation, Path]:
    """Run the arms of an ablation, those with an assistant with each of the budgets `calls`; leaves `RUNS/NAME-ablation/`."""
    known = [*ABOUT, GUIDED, *ASSISTANT]
    if unknown := [arm for arm in arms if arm not in known]:
        raise UserError(f"no such arm: {', '.join(unknown)}; known are: {', '.join(known)}")
    return _run(recipe_path, overrides, runs, arms, seeds, "ablation", calls=calls)


def transfer(recipe_path: Path, overrides: list[str], runs: Path, teacher: Path, seeds: int) -> tuple[Ablation, Path]:
    """Teach the recipe's student with a teacher that was aligned elsewhere; leaves `RUNS/NAME-tailor/`."""
    return _run(recipe_path, overrides, runs, [UNTAUGHT, SEEDS, UNALIGNED, TRANSFERRED], seeds, "tailor", teacher)


def aligned_teacher(where: Path) -> Path:
    """The checkpoint that is meant by a run's folder (the teacher that build aligned) or by a checkpoint's folder itself."""
    from edgearte.build import read_result

    if (where / "config.json").is_file():
        return where.resolve()
    found = read_result(where)
    if not found.alignment or found.alignment.skipped or not found.alignment.teacher:
        raise UserError(f"{where}: no teacher was aligned in this build")
    folder = Path(found.alignment.teacher)
    if not (folder / "config.json").is_file():
        raise UserError(f"{where}: its aligned teacher is no longer at {folder}; run that build again")
    return folder


def _run(
    recipe_path: Path, overrides: list[str], runs: Path, wanted: Sequence[str], seeds: int, kind: str,
    teacher: Path | None = None, calls: Sequence[int] = (),
) -> tuple[Ablation, Path]:  # fmt: skip
    from edgearte import steps
    from edgearte.report.ablation import write

    with opened(recipe_path, overrides, runs, f"-{kind}") as (setup, run):
        setup = steps.prepared(setup)
        recipe = setup.recipe
        arms = [arm for arm in _arms(recipe, wanted, calls) if arm.method != SEEDS or setup.task.seeds]
        if kind == "tailor":
            arms.append(Arm(TRANSFERRED, UNALIGNED))
        write_recipe(recipe, run)
        trials = [
            _trials(replace(setup, recipe=recipe.model_copy(update={"seed": recipe.seed + k})), arms, teacher)
            for k in range(seeds)
        ]
    found = _ablation(setup, arms, trials)
    write(found, run)
    return found, run


def _arms(recipe: Recipe, wanted: Sequence[str], calls: Sequence[int]) -> list[Arm]:
    """The wanted arms, or all that the recipe allows."""
    how = recipe.assist
    budget, guide, several = (how.budget, how.arte, how.several) if how else (None, None, None)
    if not budget and (calls or set(wanted) & set(ASSISTANT)):
        raise UserError("arms with an assistant, and --calls, need a recipe with one and its budget (assist:)")
    if set(wanted) & set(SEVERAL) and not several:
        raise UserError("arms with several teachers need a recipe that names them (assist.several:)")
    if GUIDED in wanted and not guide:
        raise UserError(f"the arm {GUIDED!r} needs a recipe in which one helps (assist.arte:)")
    if not budget:
        return ordered(wanted or [*ABOUT, *([GUIDED] if guide else [])], [0])
    if not (calls or budget.calls):
        raise UserError("an ablation compares budgets of calls: name some with --calls, or in assist.budget.calls")
    usual = [UNTAUGHT, SEEDS, *(m for m in ASSISTANT if several or m not in SEVERAL)]
    return ordered(wanted or usual, calls or [budget.calls])


def _trials(setup: Setup, arms: Sequence[Arm], teacher: Path | None) -> dict[str, Trial]:
    """Every arm under one seed: all sets are made first, so that they can be cut to equal size, budget by budget."""
    from edgearte import steps

    ledger = setup.store.ledger
    made: dict[str, Made] = {}
    spent: dict[str, list[Entry]] = {}
    for arm in arms:
        start = len(ledger)
        if arm.method not in (UNTAUGHT, SEEDS):
            made[arm.name] = make(setup, arm, teacher)
        spent[arm.name] = ledger[start:]
    sizes: dict[int, int] = {}
    for arm in arms:
        if arm.name in made and (n := len(made[arm.name].examples)):
            sizes[arm.calls] = min(n, sizes.get(arm.calls, n))
    if not sizes:
        raise UserError("no arm wrote an example that could be trained on")
    sizes.setdefault(0, max(sizes.values()))
    if setup.task.seeds:
        made[SEEDS] = Made(steps.seeds_alone(setup, sizes[0]), setup.teacher.folder)
    trials = {}
    for arm in arms:
        start = len(ledger)
        folder, examples, note = setup.student.folder, tuple[Example, ...](), ""
        if arm.method != UNTAUGHT:
            examples, note = made[arm.name].examples[: sizes.get(arm.calls, 0)], made[arm.name].note
            if examples:
                examples = steps.with_seeds(setup, examples)
                folder = teach(setup, arm, made[arm.name], examples)
            elif not made[arm.name].spent:
                reason = note or "it wrote no example that could be trained on"
                trials[arm.name] = Trial({}, 0, _cost(spent[arm.name], folder), reason)
                continue  # while a budget that bought nothing to learn from leaves the student as it is
        trained = ledger[start:]
        shots = (0, *setup.recipe.measure.shots)
        answers = {n: steps.answers(setup, folder, arm.name, n) for n in shots}
        trials[arm.name] = Trial(answers, len(examples), _cost([*spent[arm.name], *trained], folder), note)
    return trials


def _cost(entries: Sequence[Entry], student: Path) -> Cost:
    """What an arm would cost alone, its evaluation apart."""
    from edgearte.outcome import BY_ASSISTANT, BY_STUDENT
    from edgearte.train.common import LOG, read_log

    by_student = sum(e.whole_tokens for e in entries if e.stage in BY_STUDENT)
    by_assistant = sum(e.whole_tokens for e in entries if e.stage in BY_ASSISTANT)
    by_teacher = sum(e.whole_tokens for e in entries if e.stage not in (*BY_STUDENT, *BY_ASSISTANT))
    trained = read_log(student).tokens if (student / LOG).is_file() else 0
    return Cost(by_teacher, by_student, trained, sum(e.whole_seconds for e in entries), by_assistant)


def _ablation(setup: Setup, arms: Sequence[Arm], trials: Sequence[Mapping[str, Trial]]) -> Ablation:
    from edgearte.measure.machine import describe

    recipe, task = setup.recipe, setup.task
    rows = []
    for arm in arms:
        whole = [(recipe.seed + k, t[arm.name]) for k, t in enumerate(trials)]
        found = [(seed, trial) for seed, trial in whole if trial.answers]
        asked = {
            shots: tuple(
                Asked(seed, tuple(a.grade.correct for a in trial.answers[shots]),
                      tuple(a.grade.answer is not None for a in trial.answers[shots]))
                for seed, trial in found
            )
            for shots in (0, *recipe.measure.shots)
        }  # fmt: skip
        notes = tuple(f"seed {seed}: {trial.note}" for seed, trial in whole if trial.note)
        rows.append(
            report.Arm(arm.name, arm.about, tuple(t.examples for _, t in found), asked, tuple(t.cost for _, t in found), notes,
                       arm.baseline, arm.method, arm.calls)
        )  # fmt: skip
    return Ablation(
        name=recipe.name, edgearte=__version__, task=task.name, description=task.description, teacher=setup.teacher.name,
        student=setup.student.name, questions=tuple(q.id for q in task.evaluation),
        baseline=" or ".join(dict.fromkeys(arm.baseline.partition(",")[0] for arm in arms)), highlighted=(ARTE, ASSISTED),
        arms=tuple(rows), recipe=recipe.model_dump(mode="json"),
        machine={k: v for k, v in describe().items() if k not in PASSING},
    )  # fmt: skip
