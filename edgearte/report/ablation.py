"""What an ablation leaves: `ablation.json` (all of it), `ablation.csv` (its table), `answers.parquet` (every answer) and a report."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from edgearte.errors import UserError
from edgearte.files import write_text
from edgearte.report import plots, words
from edgearte.significance import Difference, Mean, difference, mean


@dataclass(frozen=True)
class Asked:
    """One student on all evaluation questions: which it answered rightly, and in which an answer was found at all."""

    seed: int
    correct: tuple[bool, ...]
    extracted: tuple[bool, ...]


@dataclass(frozen=True)
class Cost:
    """What an arm costs one who has nothing yet, its evaluation apart: tokens the teacher and the student read and wrote, tokens
    the student was trained on, seconds."""

    teacher_tokens: int
    student_tokens: int
    training_tokens: int
    seconds: float
    assistant_tokens: int = 0


@dataclass(frozen=True)
class Arm:
    """One arm: examples and cost by seed, and its students' answers by number of examples shown; the arm it is compared with, its
    method, and the teacher's answers that one was allowed to buy (0: it buys none)."""

    name: str
    about: str
    examples: tuple[int, ...]
    asked: Mapping[int, tuple[Asked, ...]]
    costs: tuple[Cost, ...]
    notes: tuple[str, ...]
    baseline: str
    method: str
    calls: int


@dataclass(frozen=True)
class Ablation:
    """A whole ablation. `baseline` is the method every other is compared with, `highlighted` are those it is about."""

    name: str
    edgearte: str
    task: str
    description: str
    teacher: str
    student: str
    questions: tuple[str, ...]
    baseline: str
    highlighted: tuple[str, ...]
    arms: tuple[Arm, ...]
    recipe: dict[str, Any] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """A line of the table: one arm, asked with so many examples. `against` is None for the baseline itself."""

    arm: Arm
    shots: int
    seeds: int
    accuracy: Mean
    unextracted: float
    against: Difference | None
    cost: Cost  # mean over the seeds


def rows(ablation: Ablation) -> list[Row]:
    """The table: by number of examples shown, then arm by arm."""
    by_name = {a.name: a for a in ablation.arms}
    found = []
    for shots in ablation.arms[0].asked:
        for arm in ablation.arms:
            base = by_name[arm.baseline]
            asked = arm.asked[shots]
            if not asked:
                continue
            seeds = {a.seed for a in asked}
            paired = [b for b in base.asked[shots] if b.seed in seeds]
            same = {b.seed for b in paired}
            ours = [a for a in asked if a.seed in same]
            against = None
            if arm is not base and paired:
                against = difference([a.correct for a in ours], [b.correct for b in paired])
            total = sum(len(a.extracted) for a in asked)
            missing = sum(not e for a in asked for e in a.extracted) / total
            found.append(
                Row(arm, shots, len(asked), mean([a.correct for a in asked]), missing, against, _mean_cost(arm.costs))
            )
    return found


def _mean_cost(costs: tuple[Cost, ...]) -> Cost:
    n = len(costs)
    return Cost(
        round(sum(c.teacher_tokens for c in costs) / n), round(sum(c.student_tokens for c in costs) / n),
        round(sum(c.training_tokens for c in costs) / n), sum(c.seconds for c in costs) / n,
        round(sum(c.assistant_tokens for c in costs) / n),
    )  # fmt: skip


def write(ablation: Ablation, run: Path) -> None:
    """Leave everything in the folder `run`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = rows(ablation)
    write_text(run / "ablation.json", json.dumps(asdict(ablation), indent=1, ensure_ascii=False) + "\n")
    write_text(run / "ablation.csv", _csv(table))
    answers = [
        {"arm": arm.name, "shots": shots, "seed": a.seed, "question": q, "correct": c, "extracted": e}
        for arm in ablation.arms
        for shots, asked in arm.asked.items()
        for a in asked
        for q, c, e in zip(ablation.questions, a.correct, a.extracted, strict=True)
    ]
    partial = run / ".answers.partial"
    pq.write_table(pa.Table.from_pylist(answers), partial)
    partial.replace(run / "answers.parquet")
    write_text(run / "report.html", render(ablation, table))


def _csv(table: list[Row]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        ["arm", "calls", "shots", "seeds", "examples", "accuracy", "low", "high", "unextracted", "difference", "difference_low",
         "difference_high", "p_value", "teacher_tokens", "assistant_tokens", "student_tokens", "training_tokens",
         "seconds"]
    )  # fmt: skip
    for row in table:
        d = row.against
        found = [d.value, d.low, d.high, d.p_value] if d else [None] * 4
        a = row.accuracy
        figures = [a.value, a.low, a.high, row.unextracted, *found]
        cost = row.cost
        writer.writerow(
            [row.arm.name, row.arm.calls, row.shots, row.seeds, max(row.arm.examples), *("" if f is None else f"{f:.4f}" for f in figures),
             cost.teacher_tokens, cost.assistant_tokens, cost.student_tokens, cost.training_tokens, f"{cost.seconds:.1f}"]
        )  # fmt: skip
    return out.getvalue()


def render(ablation: Ablation, table: list[Row]) -> str:
    """The report's HTML; the same ablation gives the same bytes."""
    from edgearte.report.html import environment

    shown = {}
    for shots in dict.fromkeys(row.shots for row in table):
        dots = [
            plots.Dot(row.arm.name, row.accuracy.value, row.accuracy.low, row.accuracy.high, row.arm.method in ablation.highlighted)
            for row in table
            if row.shots == shots
        ]  # fmt: skip
        shown[shots] = plots.dots(f"arms{shots}", dots, "accuracy, %")
    return environment().get_template("ablation.html.j2").render(a=ablation, table=table, plots=shown, curves=_curves(ablation, table))


def _curves(ablation: Ablation, table: list[Row]) -> dict[int, str]:
    """By number of examples shown: accuracy against the teacher's answers that were bought, where there were several budgets."""
    drawn = {}
    for shots in dict.fromkeys(row.shots for row in table):
        series: dict[str, list[tuple[float, plots.Dot]]] = {}
        for row in (r for r in table if r.shots == shots and r.arm.calls):
            a, method = row.accuracy, row.arm.method
            dot = plots.Dot(method, a.value, a.low, a.high, method in ablation.highlighted)
            series.setdefault(method, []).append((row.arm.calls, dot))
        if any(len(line) > 1 for line in series.values()):
            drawn[shots] = plots.by_budget(f"budget{shots}", series, "answers of the teacher that were bought", "accuracy, %")
    return drawn


def print_table(ablation: Ablation, run: Path) -> None:
    """The table in the terminal."""
    from rich.table import Table

    from edgearte.report.summary import plain_console

    table = rows(ablation)
    console = plain_console(170)
    for shots in dict.fromkeys(row.shots for row in table):
        shown = Table(title=f"{ablation.name}, {shots}-shot", title_justify="left", box=None, pad_edge=False)
        for column in ("arm", "seeds", "examples", "accuracy", "95 %", "no answer", f"against {ablation.baseline}", "95 %", "p",
                       "teacher tok", "student tok", "trained tok", "time"):  # fmt: skip
            shown.add_column(column, justify="left" if column == "arm" else "right")
        for row in (r for r in table if r.shots == shots):
            shown.add_row(*cells(row))
        console.print(shown, "")
    for arm in ablation.arms:
        for note in arm.notes:
            console.print(f"! {arm.name}, {note}")
    console.print(f"Report, CSV and answers are in {run}")


def cells(row: Row) -> list[str]:
    """A line of the table in words."""
    a, d, c = row.accuracy, row.against, row.cost
    against = ["", "", ""]
    if d:
        against = [words.points(d.value), f"{words.points(d.low)} to {words.points(d.high)}", words.p_value(d.p_value)]
    return [
        row.arm.name, str(row.seeds), str(max(row.arm.examples)), words.percent(a.value),
        f"{words.percent(a.low)} to {words.percent(a.high)}", words.percent(row.unextracted), *against,
        words.count(c.teacher_tokens), words.count(c.student_tokens), words.count(c.training_tokens), words.duration(c.seconds),
    ]  # fmt: skip


def read(run: Path) -> Ablation:
    """The ablation of a run's folder."""
    from pydantic import TypeAdapter, ValidationError

    path = run / "ablation.json"
    try:
        return TypeAdapter(Ablation).validate_python(json.loads(path.read_text("utf-8")))
    except FileNotFoundError:
        raise UserError(f"{run}: no finished ablation here (no ablation.json)") from None
    except (OSError, ValueError, ValidationError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error
