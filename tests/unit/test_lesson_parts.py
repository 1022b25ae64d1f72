"""What rounds draw from, and what a completion is: the parts of a lesson that need no model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from edgearte import steps
from edgearte.arte import tailor
from edgearte.load import load_recipe, load_task
from edgearte.records import Draft, Example, Question
from edgearte.setup import Setup
from tests import tiny

MEANINGS = "{lights: asks for light or for less of it, music: wants to hear something, weather: asks about the sky}"


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    """A setup whose models are not at hand."""
    path = tiny.write_recipe(tmp_path, Path("nowhere"))
    recipe = load_recipe(path, [f"task.answer.choices={MEANINGS}"])
    nothing = cast(Any, None)
    return Setup(recipe, load_task(recipe), nothing, nothing, nothing)


def test_the_next_round_starts_from_what_was_missed_and_covers_every_target(setup: Setup) -> None:
    missed = (Question("d1", "is it foggy", "weather"), setup.task.seeds[0])
    drawn = setup.towards(missed).drawn
    assert drawn.seeds[:2] == missed
    assert {q.target for q in drawn.seeds} == set(setup.task.answer.choices)
    assert len(drawn.seeds) < len(setup.task.seeds) + 1


def test_where_too_little_was_missed_all_seeds_are_drawn_from(setup: Setup) -> None:
    open_task = replace(setup.task, answer=replace(setup.task.answer, choices=()))
    alone = replace(setup, task=open_task).towards([Question("d1", "is it foggy", "weather")])
    assert alone.drawn == open_task
    assert setup.drawn == setup.task


def test_seeds_are_part_of_every_set_as_often_as_the_recipe_says(setup: Setup) -> None:
    own = (Example("x", "is it foggy", "<ans>weather</ans>", "weather", "tailor/0"),)
    ids = [e.id for e in steps.with_seeds(setup, own)]
    assert ids == [q.id for q in setup.task.seeds] + ["x"]
    train = setup.recipe.train
    for times in (0, 3):
        more = replace(setup, recipe=setup.recipe.model_copy(update={"train": train.model_copy(update={"seeds": times})}))
        found = steps.with_seeds(more, own)
        assert [e.source for e in found].count("seed") == times * len(setup.task.seeds)
        assert found[-1] == own[0]


@pytest.mark.parametrize(
    ("how", "completion"),
    [
        ("rationale", "It is about lights. <ans>lights</ans>"),
        ("answer", "<ans>lights</ans>"),
        ("meaning", "asks for light or for less of it <ans>lights</ans>"),
    ],
)
def test_what_a_completion_is(setup: Setup, how: tailor.Teach, completion: str) -> None:
    assert steps.seeds_alone(setup.teaching(how), 1)[0].completion == completion


def test_drafts_are_explained_by_no_teacher_where_no_rationale_is_taught(setup: Setup) -> None:
    drafts = [Draft("a", "play the radio", "music", "draft/0", ())]
    for how, text in (("answer", "<ans>music</ans>"), ("meaning", "wants to hear something <ans>music</ans>")):
        found = steps.explained(setup.teaching(cast(tailor.Teach, how)), cast(Any, None), drafts, "draft")
        assert [(r.text, r.answer) for d in found for r in d.rationales] == [(text, "music")]


def test_a_decided_form_is_not_decided_again(setup: Setup) -> None:
    assert setup.recipe.train.teach == "auto"
    assert setup.teach == "rationale"
    assert setup.teaching("meaning").teach == "meaning"
