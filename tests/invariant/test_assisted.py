"""A whole small build and ablation with a teaching assistant by the command line: numbers against stored ones, and what they leave.

`python -m tests.invariant.test_assisted` writes the reference anew, after a change that is meant to change numbers.
"""

from __future__ import annotations

import csv
import json
import sqlite3
import tempfile
from pathlib import Path
from typing import Any

import pytest

from edgearte.arms import ASKING_AGAIN, WITHOUT_WARM_UP
from edgearte.build import read_result
from edgearte.cli import main
from edgearte.lesson import ASSISTED, NO_SIGNAL, SEEDS, UNTAUGHT
from edgearte.report import ablation
from tests import tiny

pytestmark = pytest.mark.invariant
REFERENCE = Path(__file__).with_name("tiny-assisted.json")
SEEDED = 6  # the user's seeds, which are part of every set
BUDGETS = (6, 12)
METHODS = (NO_SIGNAL, WITHOUT_WARM_UP, ASSISTED, ASKING_AGAIN, "weighed by scorer")


def runs_of(folder: Path, model: Path) -> Path:
    recipe = tiny.write_recipe(folder / "task", model)
    options = [str(recipe), *tiny.assisted(model), "--runs", str(folder / "runs")]
    arms, calls = ",".join([UNTAUGHT, SEEDS, *METHODS]), ",".join(map(str, BUDGETS))
    assert main(["ablate", *options, "--arms", arms, "--seeds", "1", "--calls", calls]) == 0
    assert main(["build", *options]) == 0
    return folder / "runs"


def numbers(runs: Path) -> dict[str, Any]:
    """By arm: examples and right answers; and of the build: how many answers were kept, by which threshold."""
    found = ablation.read(runs / "tiny-ablation")
    bought = read_result(runs / "tiny").assistance
    assert bought
    return {
        "arms": {a.name: {"examples": list(a.examples), "right": [sum(x.correct) for x in a.asked[0]]} for a in found.arms},
        "kept": bought.kept,
        "threshold": bought.threshold,
    }


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    return runs_of(tmp_path_factory.mktemp("assisted"), tiny_model)


def test_every_arm_has_every_budget_and_spends_it(runs: Path) -> None:
    found = ablation.read(runs / "tiny-ablation")
    arms = [f"{method}, {calls} calls" for calls in BUDGETS for method in METHODS]
    assert [a.name for a in found.arms] == [UNTAUGHT, SEEDS, *arms]
    assert all(a.examples == (a.calls + SEEDED,) for a in found.arms if a.calls)


def test_the_numbers_are_those_of_the_reference(runs: Path) -> None:
    found, expected = numbers(runs), json.loads(REFERENCE.read_text("utf-8"))
    assert found["arms"].keys() == expected["arms"].keys()
    for arm, figures in expected["arms"].items():
        assert found["arms"][arm]["examples"] == figures["examples"], arm
        assert found["arms"][arm]["right"] == pytest.approx(figures["right"], abs=4), arm
    assert found["kept"] == pytest.approx(expected["kept"], abs=2)
    assert found["threshold"] == pytest.approx(expected["threshold"], abs=0.02)


def test_a_budget_that_bought_nothing_to_learn_from_leaves_the_student_as_it_is(runs: Path, tiny_model: Path) -> None:
    recipe, options = runs.parent / "task" / "recipe.yaml", [*tiny.assisted(tiny_model), "name=nothing", "assist.threshold=1.0"]
    arms = ["--arms", f"{UNTAUGHT},{ASSISTED}", "--seeds", "1", "--calls", "6"]
    assert main(["ablate", str(recipe), *options, *arms, "--runs", str(runs)]) == 0
    untaught, plain, nothing = ablation.read(runs / "nothing-ablation").arms
    assert (plain.examples, nothing.examples) == ((6 + SEEDED,), (0,))
    assert nothing.asked == untaught.asked
    assert "none was kept" in nothing.notes[0]


def test_the_build_asked_the_teacher_nothing_that_the_ablation_had_asked(runs: Path) -> None:
    with sqlite3.connect(runs / "store" / "store.sqlite") as db:
        twice = db.execute("SELECT stage, count(*) FROM attempts GROUP BY key HAVING count(*) > 1").fetchall()
        items = db.execute(
            "SELECT count(*), count(DISTINCT item) FROM rows JOIN chunks ON rows.chunk = chunks.key "
            "WHERE stage = 'annotate' AND item NOT LIKE '%\"shown\"%'"  # those that were asked again
        ).fetchone()
    assert twice == []
    assert items[0] == items[1] <= 24, "no question of the pool was put to the teacher twice"


def test_the_budget_the_calibration_and_the_curve_are_reported(runs: Path) -> None:
    result = read_result(runs / "tiny")
    assert result.assistance
    assert result.assistance.calls == 12
    assert result.assistance.on_teacher
    assert result.assistance.on_teacher.n == 12
    assert result.models["assistant"].parameters > 0
    report = (runs / "tiny" / "report.html").read_text("utf-8")
    for words in ("The teaching assistant", "12 answers of the teacher were bought for 24 questions", "calibration error"):
        assert words in report
    curve = (runs / "tiny-ablation" / "report.html").read_text("utf-8")
    assert "Accuracy against what the teacher was asked." in curve
    assert all(method in curve for method in (NO_SIGNAL, ASSISTED))
    with (runs / "tiny-ablation" / "ablation.csv").open() as text:
        table = list(csv.DictReader(text))
    by_calls = {row["calls"] for row in table}
    assert by_calls == {"0", "6", "12"}
    assisted = next(row for row in table if row["arm"] == f"{ASSISTED}, 12 calls")
    assert int(assisted["assistant_tokens"]) > 0
    assert {"annotations.parquet", "doubts.parquet"} <= {p.name for p in (runs / "tiny" / "data").iterdir()}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        tiny.make(Path(scratch) / "model", fluent=True)
        REFERENCE.write_text(json.dumps(numbers(runs_of(Path(scratch), Path(scratch) / "model")), indent=1) + "\n", "utf-8")
