"""A whole small build for devices: the loop closes by itself, says what it did, and refuses what cannot be met."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgearte.cli import main
from edgearte.convert.bundle import verify_bundle
from edgearte.report.result import Result, from_json
from tests import tiny

pytestmark = pytest.mark.invariant


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    folder = tmp_path_factory.mktemp("closed")
    recipe = tiny.write_recipe(folder / "task", tiny_model, presets="q8_0")
    assert main(["build", str(recipe), *tiny.closed(), "--runs", str(folder / "runs")]) == 0
    return folder / "runs" / "tiny"


@pytest.fixture(scope="module")
def result(run: Path) -> Result:
    return from_json((run / "result.json").read_text("utf-8"))


def test_first_a_cure_then_a_new_round_until_the_budget_is_met(result: Result) -> None:
    closing = result.closing
    assert closing
    assert closing.met
    kinds = [turn.kind for turn in closing.turns]
    assert kinds[:3] == ["first", "cure", "round"]
    assert closing.kept == len(kinds) - 1
    first, cure, again = closing.turns[0], closing.turns[1], closing.turns[-1]
    assert (list(first.devices[0].figures), list(cure.devices[0].figures)) == (["q8_0"], ["q8_0", "f16"])
    assert "accuracy" in first.devices[0].missed["q8_0"][0]
    assert again.deployed in ("q8_0", "f16")
    assert again.failed > 0
    assert again.examples > first.examples
    assert again.devices[0].preset
    assert "right on the development questions" in again.devices[0].brought
    assert result.decision
    assert result.decision.preset == again.devices[0].preset


def test_what_is_embedded_is_the_student_of_the_last_round(run: Path, result: Result) -> None:
    assert verify_bundle(run / "bundle") == []
    lineage = {step.what: step for step in result.lineage}
    arm = result.closing.turns[-1].arm if result.closing else ""
    assert f"student of {arm}" in lineage
    assert lineage["artifact q8_0"].made_from == (f"student of {arm}",)
    assert any(row.model == arm and row.where == "checkpoint" for row in result.accuracy)


def test_the_report_tells_it_turn_by_turn(run: Path) -> None:
    page = (run / "report.html").read_text("utf-8")
    for words in ("The loop, turn by turn", "New round 1", "seeds were drawn towards", "What this turn brought", "foretold",
                  "accuracy at least 52%", "It ended with every budget met"):  # fmt: skip
        assert words in page


def test_the_development_questions_decide_and_nothing_else_is_made_of_them(run: Path) -> None:
    held = {json.loads(line)["input"] for line in (run.parent.parent / "task" / "development.jsonl").read_text().splitlines()}
    import pyarrow.parquet as pq

    for path in (run / "data").glob("*.parquet"):
        rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
        assert not any(row.get("input") in held for row in rows), path.name


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (["devices.local.size=1 MB"], "devices.local.size: no artifact of this student can meet it: 1.0 MB allowed"),
        (["devices.local.answer_s=0.000001"], "devices.local.answer_s: no artifact of this student can meet it"),
        (["devices.arm64-emulated.answer_s=1"], "devices.arm64-emulated.answer_s: time and memory mean nothing on an emulated device"),
        (["devices.nowhere.size=1 GB"], "no devices entry called 'nowhere'"),
        (["devices.local.sise=1 GB"], "devices.local.sise: unknown key; did you mean size?"),
        (["devices.local.accuracy.threshold=0.5"], "task.development: a device's accuracy is decided on questions of their own"),
        (["devices.local.size=1 GB", "close.cures=[q9]"], "q9"),
        (["task.development.file=evaluation.jsonl"], "is also evaluation question"),
        (["task.development.file=seeds.jsonl"], "is also development question"),
    ],
)
def test_what_cannot_be_is_refused_before_hours_are_spent(
    changes: list[str], told: str, tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tiny.write_recipe(tmp_path / "task", tiny_model)
    assert main(["build", str(recipe), *changes, "--runs", str(tmp_path / "runs")]) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "runs" / "tiny" / "result.json").exists()
