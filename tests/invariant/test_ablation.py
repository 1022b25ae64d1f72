"""A whole small ablation by the command line: equal arms, nothing computed twice, numbers against stored ones; and its teacher
carried over to another student.

`python -m tests.invariant.test_ablation` writes the reference anew, after a change that is meant to change numbers.
"""

from __future__ import annotations

import csv
import json
import sqlite3
import tempfile
from pathlib import Path
from typing import Any

import pytest

from edgearte.arms import ABOUT
from edgearte.cli import main
from edgearte.lesson import ARTE, SEEDS, UNALIGNED, UNTAUGHT
from edgearte.report import ablation
from tests import tiny

pytestmark = pytest.mark.invariant
REFERENCE = Path(__file__).with_name("tiny-ablation.json")
OPTIONS = ["measure.shots=[2]", "on_policy.max_tokens=8", "train.epochs=15", "train.learning_rate=2.0e-3"]


def ablate(folder: Path, model: Path) -> Path:
    recipe = tiny.write_recipe(folder / "task", model)
    assert main(["ablate", str(recipe), *OPTIONS, "--seeds", "2", "--runs", str(folder / "runs")]) == 0
    return folder / "runs" / "tiny-ablation"


def numbers(run: Path) -> dict[str, Any]:
    """By arm: examples by seed, and right answers by seed and number of examples shown."""
    found = ablation.read(run)
    return {
        a.name: {
            "examples": list(a.examples),
            "right": {str(n): [sum(x.correct) for x in asked] for n, asked in a.asked.items()},
            "trained tokens": [c.training_tokens for c in a.costs],
        }
        for a in found.arms
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    return ablate(tmp_path_factory.mktemp("ablation"), tiny_model)


def test_every_arm_is_there_and_of_equal_size(run: Path) -> None:
    found = numbers(run)
    assert list(found) == list(ABOUT)
    sizes = {tuple(arm["examples"]) for name, arm in found.items() if name != UNTAUGHT}
    assert len(sizes) == 1
    assert min(next(iter(sizes))) > 0


def test_the_numbers_are_those_of_the_reference(run: Path) -> None:
    found, expected = numbers(run), json.loads(REFERENCE.read_text("utf-8"))
    assert found.keys() == expected.keys()
    for arm, figures in expected.items():
        assert found[arm]["examples"] == figures["examples"], arm
        assert found[arm]["trained tokens"] == figures["trained tokens"], arm
        for shots, right in figures["right"].items():  # a near-tie may fall otherwise on another processor
            assert found[arm]["right"][shots] == pytest.approx(right, abs=4), (arm, shots)


def test_what_arms_share_was_computed_once(run: Path) -> None:
    with sqlite3.connect(run.parent / "store" / "store.sqlite") as db:
        twice = db.execute("SELECT stage, count(*) FROM attempts GROUP BY key HAVING count(*) > 1").fetchall()
        trained = db.execute("SELECT count(*) FROM trees WHERE stage = 'train'").fetchone()[0]
    assert twice == []
    assert trained <= 2 * (len(ABOUT) - 1), "a student an arm and seed, but for two arms; and one to measure influence"


def test_the_table_is_in_the_csv_the_report_and_the_answers(run: Path) -> None:
    import pyarrow.parquet as pq

    with (run / "ablation.csv").open(encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert [(row["arm"], row["shots"]) for row in table] == [(arm, n) for n in ("0", "2") for arm in ABOUT]
    for row in table:
        assert float(row["low"]) <= float(row["accuracy"]) <= float(row["high"])
        assert (row["p_value"] == "") == (row["arm"] == UNALIGNED)
        assert row["seeds"] == "2"
    answers = pq.read_table(run / "answers.parquet").to_pylist()
    questions = len(ablation.read(run).questions)
    assert len(answers) == len(ABOUT) * 2 * 2 * questions
    of_arte = [a["correct"] for a in answers if a["arm"] == ARTE and a["shots"] == 0]
    shown = next(row for row in table if row["arm"] == ARTE and row["shots"] == "0")
    assert sum(of_arte) / len(of_arte) == pytest.approx(float(shown["accuracy"]), abs=1e-4)
    report = (run / "report.html").read_text("utf-8")
    assert all(arm in report for arm in ABOUT)
    assert "<svg" in report


def test_an_arm_costs_what_it_would_cost_alone(run: Path) -> None:
    costs = {a.name: a.costs[0] for a in ablation.read(run).arms}
    assert costs[UNTAUGHT].seconds == costs[UNTAUGHT].teacher_tokens == 0
    assert costs[SEEDS].teacher_tokens == 0 < costs[SEEDS].training_tokens
    assert costs[UNALIGNED].student_tokens == 0 < costs[UNALIGNED].teacher_tokens
    assert costs[ARTE].teacher_tokens > costs[UNALIGNED].teacher_tokens
    assert costs[ARTE].student_tokens > 0
    assert costs[ARTE].student_tokens == costs["question pairs only"].student_tokens


def test_the_same_command_again_computes_nothing_and_leaves_the_same(run: Path, tiny_model: Path) -> None:
    kept = {name: (run / name).read_bytes() for name in ("ablation.json", "ablation.csv", "answers.parquet", "report.html")}
    store = run.parent / "store" / "store.sqlite"
    with sqlite3.connect(store) as db:
        before = db.execute("SELECT count(*) FROM attempts").fetchone()
    ablate(run.parent.parent, tiny_model)
    with sqlite3.connect(store) as db:
        assert db.execute("SELECT count(*) FROM attempts").fetchone() == before
    assert {name: (run / name).read_bytes() for name in kept} == kept


def test_a_teacher_aligned_in_a_build_is_carried_over(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe, runs = run.parent.parent / "task" / "recipe.yaml", run.parent
    assert main(["build", str(recipe), "--runs", str(runs)]) == 0
    again = ["tailor", str(recipe), "train.epochs=2", "--teacher", str(runs / "tiny"), "--runs", str(runs)]
    assert main(again) == 0
    found = numbers(runs / "tiny-tailor")
    assert list(found) == [UNTAUGHT, SEEDS, UNALIGNED, "transferred teacher"]
    assert main(["tailor", str(recipe), "--teacher", str(runs / "tiny-ablation"), "--runs", str(runs)]) == 2
    assert "no finished build here" in capsys.readouterr().err


def test_an_unknown_arm_is_named(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = run.parent.parent / "task" / "recipe.yaml"
    assert main(["ablate", str(recipe), "--arms", "ARTE,oracle", "--runs", str(run.parent)]) == 2
    assert "no such arm: oracle" in capsys.readouterr().err


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "model").mkdir()
        tiny.make(Path(scratch) / "model", fluent=True)
        made = ablate(Path(scratch), Path(scratch) / "model")
        REFERENCE.write_text(json.dumps(numbers(made), indent=1) + "\n", "utf-8")
