"""What a command on a recipe begins with: the recipe read, its task and models found, the store opened, a folder for what it leaves."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from edgearte.errors import UserError
from edgearte.files import write_text
from edgearte.load import load_recipe, load_task
from edgearte.recipe import Recipe, Teacher, Train
from edgearte.records import Question
from edgearte.store import Store
from edgearte.task import Task

if TYPE_CHECKING:
    from edgearte.arte.tailor import Teach
    from edgearte.lm.base import Asked
    from edgearte.lm.endpoint import Address
    from edgearte.lm.weights import Weights


@dataclass(frozen=True)
class Setup:
    """What every step is given: the recipe, its task, its models and the store."""

    recipe: Recipe
    task: Task
    teacher: Weights
    student: Weights
    store: Store
    assistant: Weights | None = None
    others: tuple[Weights, ...] = ()  # teachers beside `teacher`
    failed: tuple[Question, ...] = ()  # what the student gets wrong, which this round is about

    def asked(self, text: str, shown: Sequence[tuple[str, str]] = ()) -> Asked:
        """What the student is asked for a question, in training, in evaluation and on the device (`prompts.asked`)."""
        from edgearte.arte import prompts

        return prompts.asked(self.task.header, self.form, text, shown)

    def author(self, number: int = 0) -> tuple[Teacher, Weights]:
        """A teacher as the recipe names it, and its weights: 0 is the recipe's `teacher`, then come those of `assist.several`."""
        if number == 0:
            return self.recipe.teacher, self.teacher
        several = self.recipe.assist and self.recipe.assist.several
        if not several:
            raise RuntimeError("this recipe has one teacher")
        return several.teachers[number - 1], self.others[number - 1]

    def training(self, train: Train) -> Setup:
        """The same with other settings of training."""
        return replace(self, recipe=self.recipe.model_copy(update={"train": train}))

    def teaching(self, how: Teach) -> Setup:
        """The same with the form of a completion decided."""
        return self.training(self.recipe.train.model_copy(update={"teach": how}))

    @property
    def teach(self) -> Teach:
        """What a completion is; with a rationale, while that is not decided."""
        how = self.recipe.train.teach
        return "rationale" if how == "auto" else how

    @property
    def bare(self) -> bool:
        """Whether a teacher that answers is asked for the answer alone, after the seeds: where no rationale is taught."""
        return not self.recipe.train.reasons and bool(self.task.seeds)

    def towards(self, failed: Sequence[Question]) -> Setup:
        """The same for a round that is about these questions."""
        return replace(self, failed=tuple(failed))

    @property
    def drawn(self) -> Task:
        """The task with the seeds that questions are drafted from: those of `failed`, and with them the seeds of every other target, since
        a round about one target alone would teach to say it always; all, where that leaves too few to be shown."""
        kept = list(self.failed)
        if self.task.answer.choices:
            covered = {q.target for q in kept}
            kept += [q for q in self.task.seeds if q.target not in covered]
        enough = self.failed and len(kept) >= min(self.recipe.draft.shots, len(self.task.seeds))
        return replace(self.task, seeds=tuple(kept)) if enough else self.task

    @cached_property
    def form(self) -> str:
        """How the student is asked: system, user or plain."""
        from edgearte.lm.hf import form

        return form(self.student.folder)


def address(teacher: Teacher) -> Address | None:
    """Where the teacher is asked, if it is an endpoint's."""
    from edgearte.lm.endpoint import Address

    if (e := teacher.endpoint) is None:
        return None
    return Address(
        e.url, teacher.model, e.key, concurrency=e.concurrency, per_minute=e.per_minute, timeout=e.timeout, attempts=e.attempts
    )  # fmt: skip


@contextmanager
def opened(recipe_path: Path, overrides: list[str], runs: Path, suffix: str = "") -> Iterator[tuple[Setup, Path]]:
    """The setup of a recipe, everything checked that can be, and the folder `RUNS/NAME` + `suffix`; the store is open meanwhile."""
    from edgearte.check import check
    from edgearte.lm import weights

    recipe = load_recipe(recipe_path, overrides)
    task = load_task(recipe)
    run = _writable(runs / (recipe.name + suffix))
    check(recipe, task)
    store = Store(runs / "store")
    try:
        teacher = _teacher(recipe.teacher, store)
        student = weights.resolve(recipe.student.model, store, revision=recipe.student.revision)
        how = recipe.assist
        assistant = weights.resolve(how.model, store, revision=how.revision) if how else None
        others = tuple(_teacher(t, store) for t in how.several.teachers) if how and how.several else ()
        yield Setup(recipe, task, teacher, student, store, assistant, others), run
    finally:
        store.close()


def _teacher(teacher: Teacher, store: Store) -> Weights:
    from edgearte.lm import weights

    asked = address(teacher)
    return asked.weights() if asked else weights.resolve(teacher.model, store, revision=teacher.revision)


def write_recipe(recipe: Recipe, run: Path) -> None:
    """The recipe as resolved, so that it can be run again from the folder alone."""
    text = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    write_text(run / "recipe.yaml", text)


def _writable(run: Path) -> Path:
    try:
        run.mkdir(parents=True, exist_ok=True)
        probe = run / f".{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"{run}: the run folder cannot be written: {error.strerror}") from error
    return run
