"""What a recipe's task becomes where it names no development questions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgearte import catalogue
from edgearte.load import load_recipe, load_task
from edgearte.task import Task

RECIPE = """\
name: sums
task:
  description: Work it out.
  answer: {kind: number}
  evaluation: {file: evaluation.jsonl}
teacher: {model: big}
student: {model: small}
"""


def load(folder: Path, texts: list[str], *overrides: str) -> Task:
    rows = [{"input": text, "target": i} for i, text in enumerate(texts)]
    (folder / "evaluation.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), "utf-8")
    (folder / "recipe.yaml").write_text(RECIPE, "utf-8")
    return load_task(load_recipe(folder / "recipe.yaml", overrides))


def test_a_third_is_split_off_and_no_longer_measured_on(tmp_path: Path) -> None:
    texts = [f"{i} and nothing?" for i in range(150)]
    task = load(tmp_path, texts)
    apart, kept = ([q.input for q in some] for some in (task.development, task.evaluation))
    assert (len(apart), len(kept)) == (50, 100)
    assert sorted(apart + kept) == sorted(texts)
    assert kept == [text for text in texts if text in kept]  # in their order
    (note,) = task.notes
    assert "50 of the 150 evaluation questions" in note


def test_what_is_split_off_does_not_depend_on_the_order(tmp_path: Path) -> None:
    texts = [f"{i} and nothing?" for i in range(151)]
    once, again = load(tmp_path, texts), load(tmp_path, texts[::-1])
    assert {q.input for q in once.development} == {q.input for q in again.development}


def test_a_text_that_stands_there_twice_stays_on_one_side(tmp_path: Path) -> None:
    task = load(tmp_path, [f"{i % 100} and nothing?" for i in range(200)])
    assert not {q.input for q in task.development} & {q.input for q in task.evaluation}


def test_nothing_is_split_off_where_there_are_few_or_development_is_named(tmp_path: Path) -> None:
    texts = [f"{i} and nothing?" for i in range(160)]
    few = load(tmp_path, texts[:149])
    assert (len(few.evaluation), few.development, few.notes) == (149, (), ())
    own = ["task.development.file=evaluation.jsonl", "task.development.take='150:160'", "task.evaluation.take='0:150'"]
    named = load(tmp_path, texts, *own)
    assert (len(named.evaluation), len(named.development), named.notes) == (150, 10, ())


@pytest.mark.parametrize("name", catalogue.names("recipes"))
def test_packaged_recipes_name_what_decides(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEARTE_DATA", "data")
    assert load_recipe(catalogue.find("recipes", name)).task.development
