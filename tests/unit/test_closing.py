"""What follows where a device's budget is not met."""

from __future__ import annotations

from pathlib import Path

from edgearte.budget import Figures, judge
from edgearte.closing import CURE, ROUND, End, Step, next_step, worth
from edgearte.delivery import Checkpoint, Delivery
from edgearte.destination import destinations, impossible
from edgearte.recipe import Recipe
from edgearte.records import Artifact

FOUND = {"q8_0": Figures(0.8, 0.1, 1.0, 200e6, 140e6), "q4_0": Figures(0.6, 0.1, 0.7, 150e6, 80e6)}


def recipe(**limits: object) -> Recipe:
    return Recipe.model_validate({
        "name": "r", "task": {"description": "d", "evaluation": {"file": "e"}}, "teacher": {"model": "t"}, "student": {"model": "s"},
        "devices": {"local": limits},
    })  # fmt: skip


def delivered(asked: Recipe, found: dict[str, Figures] = FOUND) -> Delivery:
    artifacts = [Artifact(p, "gguf", "llama.cpp", p, int(f.size or 0), 8.0, {}) for p, f in found.items()]
    verdict = judge("local", asked.devices["local"], artifacts, found, None, lambda a, b: False)
    return Delivery(Checkpoint(Path(), (), (), ()), tuple(artifacts), {}, {}, {}, (verdict,))


def following(asked: Recipe, cures: tuple[str, ...] = (), foretold: dict[str, Figures] | None = None, hindered: str = "") -> Step | End:
    return next_step(delivered(asked), destinations(asked), {"local": foretold or {}}, cures, hindered, 135_000_000)


def test_a_budget_that_is_met_ends_the_loop() -> None:
    assert following(recipe(accuracy={"threshold": 0.7})) == End("every budget is met", True)


def test_cures_come_before_a_new_round_and_only_those_that_may_fit() -> None:
    asked = recipe(accuracy={"threshold": 0.9}, size="150 MB")
    step = following(asked, ("q8_0", "f16", "q6_k"), {"f16": Figures(size=270e6), "q6_k": Figures(size=138e6)})
    assert isinstance(step, Step)
    assert (step.kind, step.presets) == (CURE, ("q8_0", "q4_0", "q6_k"))


def test_then_the_artifact_that_misses_accuracy_alone_asks_for_a_new_round() -> None:
    step = following(recipe(accuracy={"threshold": 0.9}, size="100 MB"))
    assert isinstance(step, Step)
    assert (step.kind, step.deployed) == (ROUND, "q4_0")  # q8_0 has more right answers, and is too large


def test_where_a_new_round_is_hindered_the_loop_ends_and_says_so() -> None:
    end = following(recipe(accuracy={"threshold": 0.9}), hindered="close.rounds allows no more")
    assert isinstance(end, End)
    assert not end.met
    assert "accuracy 80.0%, 90.0% wanted (q8_0); close.rounds allows no more" in end.why


def test_a_limit_that_teaching_cannot_change_ends_it_with_what_would_do() -> None:
    end = following(recipe(accuracy={"threshold": 0.9}, size="40 MB"))
    assert isinstance(end, End)
    assert "on local size binds: a student of at most 68 M parameters (this one has 135 M)" in end.why


def test_the_delivery_that_is_kept_meets_most_then_answers_best() -> None:
    asked = recipe(accuracy={"threshold": 0.7})
    better = {"q8_0": Figures(0.9, size=140e6)}
    worse = {"q8_0": Figures(0.5, size=140e6)}
    assert worth(delivered(asked, better)) > worth(delivered(asked)) > worth(delivered(asked, worse))


def test_what_no_artifact_can_meet_is_said_before_anything_is_made() -> None:
    asked = recipe(memory="50 MB")
    problems = impossible(destinations(asked), {"local": FOUND}, 135_000_000)
    assert [p.message.partition(":")[0] for p in problems] == ["devices.local.memory"]
    assert "50.0 MB allowed, and q4_0, which comes nearest, is foretold to take 150.0 MB" in problems[0].message
    assert impossible(destinations(asked), {}, 135_000_000) == []
