"""A whole small build by the command line: its numbers against stored ones, what it leaves, and what a second run does.

`python -m tests.invariant.test_reference` writes the reference anew, after a change that is meant to change numbers.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest

from edgearte.cli import main
from edgearte.convert.bundle import verify_bundle
from edgearte.report.result import Result, from_json
from tests import tiny

pytestmark = pytest.mark.invariant
REFERENCE = Path(__file__).with_name("tiny.json")
DECIDED = ["prefer.scorer=probability", "task.development.file=development.jsonl"]


def numbers(result: Result) -> dict[str, Any]:
    """What must not change by itself: counts exactly, losses and divergences nearly."""
    assert result.drafts
    assert result.preferences
    assert result.alignment
    return {
        "counts": {
            "asked": result.drafts.asked,
            "kept": result.drafts.kept,
            "rationales": result.preferences.rationales,
            "question pairs": result.alignment.question_pairs,
            "rationale pairs": result.alignment.rationale_pairs,
            "held-out pairs": result.alignment.held_out,
            "steps": {arm: t.steps for arm, t in result.training.items()},
            "bits per weight": {a.artifact.preset: round(a.artifact.bits_per_weight, 3) for a in result.artifacts},
            "gates": {a.artifact.preset: [g.passed for g in a.artifact.gates] for a in result.artifacts},
        },
        "mean score": sum(result.preferences.scores) / len(result.preferences.scores),
        "dpo loss": result.alignment.curve[-1].loss if result.alignment.curve else 0.0,
        "held-out margins": [look.margin for look in result.alignment.looks],
        "kept step": result.alignment.best_step,
        "judged": result.alignment.judged.difference if result.alignment.judged else None,
        "first loss": {arm: t.curve[0].loss for arm, t in result.training.items()},
        "last loss": {arm: t.curve[-1].loss for arm, t in result.training.items()},
    }


def build(folder: Path, model: Path) -> Path:
    recipe = tiny.write_recipe(folder / "task", model, presets="q8_0, q4_k_m, onnx-int4")
    assert main(["build", str(recipe), *DECIDED, "--runs", str(folder / "runs")]) == 0
    return folder / "runs" / "tiny"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    return build(tmp_path_factory.mktemp("reference"), tiny_model)


@pytest.fixture(scope="module")
def result(run: Path) -> Result:
    return from_json((run / "result.json").read_text("utf-8"))


def test_the_numbers_are_those_of_the_reference(result: Result) -> None:
    found, expected = numbers(result), json.loads(REFERENCE.read_text("utf-8"))
    assert found.pop("counts") == expected.pop("counts")
    assert found.keys() == expected.keys()
    assert max(expected["held-out margins"]) > 0.5, "a reference that holds without learning proves nothing"
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=0.02, abs=5e-3), name


def test_the_run_folder_holds_what_was_promised(run: Path, result: Result) -> None:
    import pyarrow.parquet as pq

    assert {p.name for p in run.iterdir()} >= {"recipe.yaml", "result.json", "report.html", "bundle", "data"}
    assert verify_bundle(run / "bundle") == []
    manifest = json.loads((run / "bundle" / "manifest.json").read_text("utf-8"))
    assert {"gguf/tiny-q8_0.gguf", "Modelfile", "README.md"} <= manifest["files"].keys()
    text = "".join(
        p.read_text("utf-8", "ignore") for p in (run / "bundle").rglob("*.*") if p.suffix in (".md", ".json")
    )
    assert str(run.parent) not in text
    pairs = pq.read_table(run / "data" / "pairs.parquet").to_pylist()
    assert pairs
    assert {"prompt", "chosen", "rejected"} <= pairs[0].keys()
    taught = pq.read_table(run / "data" / "train-arte.parquet").to_pylist()
    assert taught[0]["prompt"][0]["role"] == "system"
    assert taught[0]["completion"][0]["content"].endswith("</ans>")
    seeds = [row["id"] for row in taught if row["source"] == "seed"]
    assert len(seeds) == len(set(seeds)) == 6, "the user's seeds are part of every set"
    sizes = {
        arm: len(pq.read_table(run / "data" / f"train-{arm}.parquet"))
        for arm in ("arte", "unaligned-teacher", "seeds-alone")
    }
    assert sizes["seeds-alone"] == max(sizes.values()), "the seeds alone are taught as many steps as any set"


def test_the_alignment_learned_and_was_judged(result: Result) -> None:
    """Not by losses that hold without learning: pairs it was not shown have come to lie the right way round."""
    found = result.alignment
    assert found and found.judged and found.moved
    assert found.held_out and found.best_step
    assert found.looks[0].margin == pytest.approx(0, abs=1e-4)
    assert max(look.margin for look in found.looks) > 0.5
    assert found.moved.divergence > 0.01
    assert all(look.loss <= found.looks[0].loss for look in found.looks if look.step == found.best_step)
    assert ("brought nothing" in " ".join(result.notes)) == (found.judged.better == "no difference")


def test_the_development_questions_decide_what_is_delivered(result: Result, run: Path) -> None:
    assert result.arm and result.probe
    assert result.arm.questions == result.probe.teacher.n == 24
    assert result.arm.right[result.arm.name] == max(result.arm.right.values())
    assert {"seeds alone", "unaligned teacher", "ARTE"} == result.arm.right.keys()
    assert any("is not what is delivered" in note for note in result.notes) == (result.arm.name != "ARTE")
    assert any(row.model == result.arm.name and row.where == "q8_0" for row in result.accuracy), "its student is what is exported"


def test_every_arms_right_answers_stand_in_the_result(result: Result) -> None:
    assert {"untaught", "seeds alone", "unaligned teacher", "ARTE"} == result.hits.keys()
    for row in result.accuracy:
        marks = result.hits[row.model][row.where]
        assert (len(marks), marks.count("1")) == (row.accuracy.n, row.accuracy.correct)


def test_no_measured_time_is_in_the_bundle(run: Path) -> None:
    for name in ("README.md", "manifest.json"):
        text = (run / "bundle" / name).read_text("utf-8")
        assert "tok/s" not in text
        assert "seconds" not in text


def test_the_same_command_again_computes_nothing(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {p: p.stat().st_mtime_ns for p in run.rglob("*")}
    monkeypatch.setattr("edgearte.loop.run", None)
    assert main(["build", str(run.parent.parent / "task" / "recipe.yaml"), "presets", "--runs", str(run.parent)]) == 2
    recipe = run.parent.parent / "task" / "recipe.yaml"
    overrides = ["export.presets=[q8_0, q4_k_m, onnx-int4]", *DECIDED]
    assert main(["build", str(recipe), *overrides, "--runs", str(run.parent)]) == 0
    assert {p: p.stat().st_mtime_ns for p in run.rglob("*")} == before


def test_the_recipe_in_the_run_folder_is_the_same_build(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgearte.loop.run", None)
    assert main(["build", str(run / "recipe.yaml"), "--runs", str(run.parent)]) == 0


def test_the_report_is_made_again_from_the_result(run: Path, tmp_path: Path) -> None:
    again = tmp_path / "report.html"
    assert main(["report", str(run), "--out", str(again)]) == 0
    assert again.read_bytes() == (run / "report.html").read_bytes()


def test_validate_foretells_every_stage(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", str(run / "recipe.yaml"), "--runs", str(run.parent)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    for stage in ("draft: questions", "prefer", "align", "tailor", "train", "export and measure", "of disk"):
        assert stage in said
    assert "cut off" not in said
    assert main(["validate", str(run / "recipe.yaml"), "measure.max_tokens=4", "--runs", str(run.parent)]) == 0
    assert "may write 4 tokens, and learns from answers of up to 12" in " ".join(capsys.readouterr().out.split())


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "model").mkdir()
        tiny.make(Path(scratch) / "model", fluent=True)
        made = build(Path(scratch), Path(scratch) / "model")
        figures = numbers(from_json((made / "result.json").read_text("utf-8")))
        REFERENCE.write_text(json.dumps(figures, indent=1) + "\n", "utf-8")
