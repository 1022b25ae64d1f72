"""Suites of a user's own prompts, and what is timed of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgearte import catalogue, steps
from edgearte.cli import main
from edgearte.errors import UserError
from edgearte.measure.harness import timed
from edgearte.measure.suite import TASK, load_suite
from edgearte.setup import opened
from tests import tiny

MINE = "name: mine\nabout: x\nprompt_tokens: 4\nnew_tokens: 2\nrepeats: 2\nwarmups: 0\n"


def words(text: str) -> list[int]:
    return [len(word) for word in text.split()]


def mine(folder: Path, more: str) -> str:
    path = folder / "mine.yaml"
    path.write_text(MINE + more)
    return str(path)


@pytest.mark.parametrize("name", catalogue.names("benchmarks"))
def test_every_suite_of_the_catalogue_loads_under_its_own_name(name: str) -> None:
    assert load_suite(name).name == name


def test_prompts_come_from_a_file_beside_the_suite_or_from_itself(tmp_path: Path) -> None:
    (tmp_path / "asked.txt").write_text("one two\n\nthree\n")
    (tmp_path / "asked.jsonl").write_text('"a\\nb"\n{"text": "c"}\n')
    assert load_suite(mine(tmp_path, "prompts: asked.txt\n")).prompts == ("one two", "three")
    assert load_suite(mine(tmp_path, "prompts: asked.jsonl\n")).prompts == ("a\nb", "c")
    assert load_suite(mine(tmp_path, "prompts: [x y, z]\n")).prompts == ("x y", "z")
    assert load_suite("task").prompts == TASK


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ("prompts: nowhere.txt\n", "nowhere.txt: cannot be read"),
        ("prompts: [a, ' ']\n", "one of them is empty"),
        ("prompts: [a]\ndepth: 5\n", "leave out depth and turns"),
        ("prompts: [a]\nturns: 2\n", "leave out depth and turns"),
        ("prompts: [1]\n", "prompts"),
        ("threads: -1\n", "threads must be a number of at least 0"),
    ],
)
def test_what_is_wrong_with_them_is_said(more: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=told):
        load_suite(mine(tmp_path, more))


def test_each_prompt_is_read_whole_or_cut_the_longest_first() -> None:
    suite = {"prompt_tokens": 3, "new_tokens": 2, "prompts": ["a", "a bb ccc dddd", "a bb"]}
    assert [how.turns for how in timed(suite, "", words)] == [[[1, 2, 3]], [[1, 2]], [[1]]]


def test_without_prompts_the_passage_is_cut_into_context_and_turns() -> None:
    (how,) = timed({"prompt_tokens": 2, "new_tokens": 1, "depth": 3, "turns": 2}, "a bb ccc ", words)
    assert (how.context, how.turns, how.length) == ([1, 2, 3], [[1, 2], [3, 1]], 9)


def test_a_recipes_own_prompts_are_for_a_build_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import gguf

    path = tmp_path / "m.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    assert main(["bench", str(path), "--suite", "task"]) == 2
    assert "its prompts are those of a recipe" in capsys.readouterr().err


def test_in_a_build_the_recipes_questions_are_read_as_the_student_is_asked_them(tmp_path: Path, tiny_model: Path) -> None:
    recipe = tiny.write_recipe(tmp_path / "task", tiny_model)
    with opened(recipe, ["measure.suite=task"], tmp_path / "runs") as (setup, _):
        suite = steps.suite(setup)
        questions = [q.input for q in setup.task.evaluation]
    assert isinstance(suite.prompts, tuple)
    assert len(suite.prompts) == 8
    assert all(question in prompt for question, prompt in zip(questions, suite.prompts, strict=False))
    assert 0 < suite.prompt_tokens < 100  # of the longest
