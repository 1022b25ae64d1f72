"""Question files: the shapes of files, slices, ids, and all problems of a file at once; and what a task tells whom."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgearte.answers import AnswerFormat
from edgearte.arte import prompts
from edgearte.errors import UserError
from edgearte.records import Question
from edgearte.setup import opened
from edgearte.task import load_questions
from tests import tiny

NUMBER = AnswerFormat("number")
TEN = [{"input": f"{i} + 1?", "target": i + 1} for i in range(10)]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("q.jsonl", "".join(json.dumps(r) + "\n\n" for r in TEN)),
        ("q.jsonl", "\ufeff" + "\n".join(json.dumps(r) for r in TEN)),
        ("q.json", json.dumps(TEN, indent=1)),
        ("q.json", json.dumps({"canary": "x", "examples": TEN})),
        ("q.json", "\n".join(json.dumps(r) for r in TEN)),
    ],
)
def test_shapes_of_files(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, "utf-8")
    assert load_questions(tmp_path / name, NUMBER) == tuple(Question(f"q-{i}", f"{i} + 1?", str(i + 1)) for i in range(10))


@pytest.mark.parametrize(("take", "ids"), [("0:2", [0, 1]), ("8:", [8, 9]), ("-1:", [9]), (":1", [0])])
def test_a_slice_keeps_the_ids_of_the_file(tmp_path: Path, take: str, ids: list[int]) -> None:
    path = tmp_path / "q.json"
    path.write_text(json.dumps(TEN))
    assert [q.id for q in load_questions(path, NUMBER, take)] == [f"q-{i}" for i in ids]


def test_slices_that_are_none_or_empty_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "q.json"
    path.write_text(json.dumps(TEN))
    with pytest.raises(UserError, match="'5' is not start:stop"):
        load_questions(path, NUMBER, "5")
    with pytest.raises(UserError, match="no questions in it between 10:20"):
        load_questions(path, NUMBER, "10:20")


def test_all_problems_come_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    lines = ['{"input": "a", "target": "1", "id": "a"}', "{broken", "[1]", '{"input": "", "target": 2}',
             '{"input": "b", "target": "3", "id": "a"}', '{"input": "c", "target": "many"}']  # fmt: skip
    path.write_text("\n".join(lines))
    with pytest.raises(UserError) as caught:
        load_questions(path, NUMBER)
    wanted = ["not valid JSON", "not an object", "no input", "duplicate id 'a', first seen at", "target 'many'"]
    assert [p.where for p in caught.value.problems] == [f"{path}:{n}" for n in range(2, 7)]
    assert all(part in p.message for part, p in zip(wanted, caught.value.problems, strict=True))


def test_the_student_is_told_the_instruction_and_the_teacher_the_description(tmp_path: Path, tiny_model: Path) -> None:
    recipe = tiny.write_recipe(tmp_path / "task", tiny_model)
    described = "Say what a spoken command is about."
    with opened(recipe, ["task.instruction=What is it?"], tmp_path / "runs", "-test") as (setup, _):
        asked = str(setup.asked("play some jazz"))
        assert "Task Description: What is it?" in asked
        assert described not in asked
        assert described in prompts.draft_continuation(setup.task, setup.task.seeds, "music")
    with opened(recipe, [], tmp_path / "runs", "-test") as (setup, _):
        assert described in str(setup.asked("play some jazz"))
