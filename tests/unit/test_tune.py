"""Searching the settings of training: as far in each direction as it helps, within its seconds, and the same when it is resumed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edgearte import steps, tune
from edgearte.answers import Grade
from edgearte.cli import main
from edgearte.evaluate import Answer
from edgearte.recipe import Train
from edgearte.records import Question
from edgearte.report.result import from_json
from edgearte.setup import Setup, opened
from tests import tiny

COST = 10.0  # seconds that the ledger says a trial took


@pytest.fixture
def answers_by(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Train]]:
    """In place of teaching and asking: the higher the rate up to 8e-4 and the more the epochs up to 2, the more is right."""
    met: dict[str, list[Train]] = {"met": []}

    def taught(setup: Setup, examples: object, arm: str) -> Path:
        met["met"].append(setup.recipe.train)
        return Path(arm)

    def developed(setup: Setup, folder: Path, arm: str) -> list[Answer]:
        train = setup.recipe.train
        right = round(min(train.learning_rate, 8e-4) * 1e4) + min(train.epochs, 2) - (5 if train.lora_rank else 0)
        setup.store.value("trial", 1, [train.learning_rate, train.epochs, train.lora_rank], lambda: 1)
        setup.store.ledger[-1] = replace(setup.store.ledger[-1], whole_seconds=COST)
        return [Answer(Question(str(k), "", ""), "", Grade("", k < right)) for k in range(12)]

    monkeypatch.setattr(steps, "taught", taught)
    monkeypatch.setattr(steps, "developed", developed)
    return met


@pytest.mark.parametrize(
    ("seconds", "tried", "spent"),
    [
        # 1e-4 → 8e-4 is better each time, 16e-4 is not; 2 epochs are better than one, 4 are not; LoRA is worse.
        (1000, [(1e-4, 1, 0), (2e-4, 1, 0), (4e-4, 1, 0), (8e-4, 1, 0), (16e-4, 1, 0), (8e-4, 2, 0), (8e-4, 4, 0), (8e-3, 2, 16)], False),
        (25, [(1e-4, 1, 0), (2e-4, 1, 0), (4e-4, 1, 0)], True),
        (1, [(1e-4, 1, 0)], True),
    ],
)
def test_it_goes_on_where_it_helps_until_its_seconds_are_spent(
    seconds: int, tried: list[tuple[float, int, int]], spent: bool, answers_by: dict[str, list[Train]], tiny_model: Path, tmp_path: Path
) -> None:
    recipe = tiny.write_recipe(tmp_path / "task", tiny_model)
    own = [f"train.search={seconds}", "train.learning_rate=1.0e-4", "task.development.file=development.jsonl"]
    for _ in range(2):  # the second time is a build that is resumed
        answers_by["met"].clear()
        with opened(recipe, own, tmp_path / "runs", "-test") as (setup, _):
            found = tune.searched(setup, [], "arm")
        assert [(t.learning_rate, t.epochs, t.lora_rank) for t in answers_by["met"]] == [pytest.approx(t) for t in tried]
        assert found.spent is spent
        assert found.best.right == max(one.right for one in found.tried)
    assert "All arms are taught with rate" in found.said


def test_a_build_searches_and_says_what_it_took(tiny_model: Path, tmp_path: Path) -> None:
    recipe = tiny.write_recipe(tmp_path / "task", tiny_model)
    own = ["task.development.file=development.jsonl", "train.search=1", "align.question_pairs=0", "align.rationale_pairs=0"]
    assert main(["build", str(recipe), *own, "--runs", str(tmp_path / "runs")]) in (0, 1)
    result = from_json((tmp_path / "runs" / "tiny" / "result.json").read_text("utf-8"))
    (note,) = [n for n in result.notes if n.startswith("Settings of training were searched")]
    assert "right of 24 development questions: rate 1.0e-03, 1 epochs" in note
    assert any("the recipe asks for no pairs" in n for n in result.notes)
    # What was found is what the arm of the search is taught with: it was computed once.
    costs = {s.label: s.seconds for s in result.stages if s.label.startswith("train: ")}
    assert costs["train: search, unaligned teacher"] > 0
    assert costs["train: unaligned teacher"] == 0


def test_without_development_questions_there_is_nothing_to_search_on(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tiny.write_recipe(tmp_path / "task", tiny_model)
    assert main(["build", str(recipe), "train.search=60", "--runs", str(tmp_path / "runs")]) == 2
    assert "train.search: settings are tried on development questions" in capsys.readouterr().err
