"""Is there something to teach? Asked before anything is drafted, for a build takes hours and a look at the teacher minutes.

The teacher answers development questions as it will be asked when it teaches, beside the student as it came and one taught on the user's
seeds alone. Nothing that is found here changes a build: the verdict is advice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from edgearte import steps
from edgearte.answers import Grade, accuracy, grade
from edgearte.arte import draft, vote
from edgearte.decide import SIGNIFICANT, Compared, compare
from edgearte.errors import UserError
from edgearte.evaluate import Answer
from edgearte.lm.base import LM
from edgearte.records import Probe, ProbeSample
from edgearte.setup import Setup

VERSION = 1
WRITTEN = 60  # questions that the teacher answers in writing, which takes it long
EXPLAINED = 24  # questions whose given answer it explains
ROWS = 60
FAILING = 0.2  # share of the teacher's texts that may be of no use before something should be done about it
SHOWN = 3  # samples of each kind of failure
FORM, LENGTH, KNOWLEDGE = "form", "length", "knowledge"
UNTAUGHT = "untaught"


@dataclass(frozen=True)
class Said:
    """The teacher's answers to some questions, and what was wrong with each of the texts it wrote: FORM, LENGTH or KNOWLEDGE, or ""."""

    answers: tuple[Answer, ...]
    texts: tuple[Answer, ...]
    failures: tuple[str, ...]


def run(setup: Setup) -> Probe:
    """Teacher, untaught student and the one taught on the seeds, on the development questions. `UserError` where the recipe has none."""
    if not setup.task.development:
        raise UserError("task.development: whether there is something to teach is told on development questions, which this recipe has not")
    author = steps.teacher(setup, setup.teacher.folder)
    said = _labels(setup, author) if setup.task.answer.choices and not setup.recipe.teacher.endpoint else _texts(setup, author)
    author.release()
    asked = len(said.answers)
    untaught = steps.developed(setup, setup.student.folder, UNTAUGHT)[:asked]
    seeds = None
    if setup.task.seeds:
        seeds = steps.developed(setup, steps.warmed(setup, setup.student.folder), steps.SEEDS)[:asked]
    return judged(said, untaught, seeds)


def judged(said: Said, untaught: Sequence[Answer], seeds: Sequence[Answer] | None) -> Probe:
    """The verdict. Texts that fail by form or length say nothing of what the teacher knows, so where there are too many of them, it is held
    against the student on the other questions alone."""
    count = len(said.texts)
    counts = {kind: said.failures.count(kind) for kind in (FORM, LENGTH, KNOWLEDGE)}
    useless = counts[FORM] + counts[LENGTH]
    many = useless > FAILING * count
    kept = list(range(len(said.answers)))
    if many and said.answers == said.texts:
        kept = [k for k in kept if said.failures[k] not in (FORM, LENGTH)]
    student = untaught if seeds is None else seeds
    found = compare([said.answers[k] for k in kept], [student[k] for k in kept]) if kept else None
    better = found is None or (found.difference > 0 and found.p_value < SIGNIFICANT)
    verdict: Literal["go", "improve", "stop"] = "stop" if not better else "improve" if many else "go"
    return Probe(
        accuracy(a.grade for a in said.answers), accuracy(a.grade for a in untaught),
        accuracy(a.grade for a in seeds) if seeds is not None else None,
        verdict, _reason(verdict, found, len(kept), seeds is not None, counts, count), counts, count, _samples(said),
    )  # fmt: skip


def _reason(
    verdict: str, found: Compared | None, questions: int, taught: bool, counts: Mapping[str, int], written: int
) -> str:  # fmt: skip
    """The verdict in words with its figures, and what to do."""
    student = "a student taught on the seeds alone" if taught else "the untaught student"
    beside = "the teacher wrote no text in which an answer could be found"
    if found:
        teacher, other = (found.both + one for one in (found.only_a, found.only_b))
        beside = f"the teacher answers {teacher} of {questions} development questions rightly, {student} {other} (p = {found.p_value:.3f})"
    failing = f"of {written} texts it wrote, {counts[FORM]} are not in the form asked for and {counts[LENGTH]} are cut off"
    match verdict:
        case "stop":
            return (
                f"{beside}: it has nothing to teach that these questions show. Take a stronger teacher, describe the task and its labels "
                "more closely, or give it better seeds"
            )
        case "improve":
            what = "raise draft.rationale_tokens" if counts[LENGTH] >= counts[FORM] else "say in task.description how an answer is written"
            return f"{beside}, but {failing}: {what}, or take a teacher that follows instructions better"
    return f"{beside}; {failing}"


def _samples(said: Said) -> tuple[ProbeSample, ...]:
    """A few texts of each failure."""
    shown: list[ProbeSample] = []
    for kind in (FORM, LENGTH, KNOWLEDGE):
        failed = [a for a, failure in zip(said.texts, said.failures, strict=True) if failure == kind]
        shown += [ProbeSample(a.question.input, a.question.target, a.text, kind) for a in failed[:SHOWN]]
    return tuple(shown)


def _texts(setup: Setup, author: LM) -> Said:
    """What the teacher finds out in writing, by the prompt it writes a training set with."""
    questions = setup.task.development[:WRITTEN]
    items = draft.unanswered(steps.settings(setup.recipe, setup.task), questions, bare=setup.bare)
    rows = _written(setup, author, items, draft.bare if setup.bare else draft.rationales)
    answers = tuple(Answer(q, text, grade(text, q.target, setup.task.answer)) for q, (text, _) in zip(questions, rows, strict=True))
    return Said(answers, answers, tuple(_failure(a, ended) for a, (_, ended) in zip(answers, rows, strict=True)))


def _labels(setup: Setup, author: LM) -> Said:
    """What the teacher finds most probable of a closed set of answers, as in a vote; and what it writes where it explains an answer."""
    task, questions = setup.task, setup.task.development
    table = vote.table(author, task, [q.input for q in questions], setup.store, label="probe: the teacher's labels")
    told = vote.likeliest(task, table, table)
    answers = tuple(Answer(q, label, Grade(label, label == q.target)) for q, label in zip(questions, told, strict=True))
    explained = questions[:EXPLAINED]
    ask = steps.settings(setup.recipe, task)
    given = draft.for_targets(task, ask)
    items = [{"input": q.input, "target": q.target if given else "", "instruction": draft.naive(ask)} for q in explained]
    written = _written(setup, author, items, draft.rationales)
    texts = tuple(Answer(q, text, grade(text, q.target, task.answer)) for q, (text, _) in zip(explained, written, strict=True))
    return Said(answers, texts, tuple(_failure(a, ended) for a, (_, ended) in zip(texts, written, strict=True)))


def _failure(answer: Answer, ended: str) -> str:
    """What is wrong with a text, or "". One without its end comes back empty."""
    if answer.grade.answer is None:
        return LENGTH if ended == "length" or not answer.text else FORM
    return "" if answer.grade.correct else KNOWLEDGE


def _written(setup: Setup, author: LM, items: list[dict[str, Any]], write: Callable[..., list[dict[str, Any]]]) -> list[tuple[str, str]]:
    """What the teacher writes for these items (`draft.rationales` or `draft.bare`), and why each text ended."""
    task, ask = setup.task, steps.settings(setup.recipe, setup.task)
    rows = setup.store.rows(
        "probe", VERSION, draft.options(author, task, ask), items, lambda part: write(author, task, ask, part), chunk=ROWS,
        label="probe: the teacher's texts",
    )  # fmt: skip
    return [(row["text"], row["ended"]) for row in rows]


def print_probe(found: Probe) -> None:
    """Print the figures and the verdict to standard output."""
    from rich.console import Console
    from rich.table import Table

    table = Table("who", "right", "of", "%", "95 %", title="Is there something to teach?", title_justify="left", box=None, pad_edge=False)
    named = {"the teacher": found.teacher, "the student, untaught": found.untaught, "the student, taught on the seeds": found.seeds}
    for who, a in named.items():
        if a:
            table.add_row(who, str(a.correct), str(a.n), f"{100 * a.accuracy:.1f}", f"{100 * a.low:.1f} – {100 * a.high:.1f}")
    console = Console()
    console.print(table)
    counts = ", ".join(f"{kind} {n}" for kind, n in found.failures.items())
    console.print(f"{found.written} texts of the teacher's, of no use for: {counts}", markup=False)
    for sample in found.samples:
        console.print(f"  [{sample.failure}] {sample.question!r} ({sample.target}): {sample.text[:200]!r}", markup=False)
    console.print(f"{found.verdict}: {found.reason}.", markup=False, style="bold")
