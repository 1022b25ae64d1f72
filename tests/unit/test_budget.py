"""What a device allows, held against what was measured or foretold."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from edgearte import budget
from edgearte.budget import Figures, Missed, binding, judge, missed, out_of_reach
from edgearte.recipe import Limits
from edgearte.records import Artifact

figures = st.builds(
    Figures, st.floats(0, 1), st.floats(0.001, 10), st.floats(0.001, 100), st.floats(1e6, 1e9), st.floats(1e6, 1e9)
)


def artifact(preset: str, size: int, failed: str = "") -> Artifact:
    return Artifact(preset, "gguf", "llama.cpp", f"{preset}.gguf", size, 8.0, {}, failed=failed)


def limits(**said: object) -> Limits:
    return Limits.model_validate(said)


def test_a_floor_is_absolute_or_against_the_student_before_its_export() -> None:
    found = Figures(accuracy=0.70)
    assert missed(limits(accuracy={"threshold": 0.7}), found) == ()
    assert missed(limits(accuracy={"threshold": 0.71}), found) == (Missed("accuracy", 0.71, 0.70),)
    assert missed(limits(accuracy={"max_degradation": 0.05}), found, student=0.75) == ()
    assert [m.limit for m in missed(limits(accuracy={"max_degradation": 0.04}), found, student=0.75)] == ["accuracy"]


def test_sizes_are_written_as_people_write_them() -> None:
    found = limits(memory="400 MB", size="1.5 GB")
    assert (found.memory, found.size) == (400_000_000, 1_500_000_000)


@pytest.mark.parametrize(
    "wrong", [{"accuracy": {}}, {"accuracy": {"threshold": 0.5, "max_degradation": 0.1}}, {"accuracy": {"threshold": 2}},
              {"memory": "many"}, {"size": 0}, {"answer_s": 0}, {"speed": 1}]
)  # fmt: skip
def test_what_is_no_budget_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        limits(**wrong)


@given(figures)
def test_without_limits_nothing_is_missed(found: Figures) -> None:
    assert missed(limits(), found, 1.0) == ()


@given(figures, st.sampled_from(list(budget.SLACK)))
def test_what_is_out_of_reach_is_missed_too_and_by_more_than_foretelling_errs(found: Figures, name: str) -> None:
    beyond, within = (getattr(found, name) / budget.SLACK[name] * by for by in (0.98, 1.02))
    assert [m.limit for m in out_of_reach(allowing(name, beyond), found)] == [name]
    assert name in [m.limit for m in missed(allowing(name, beyond), found)]
    assert out_of_reach(allowing(name, within), found) == ()


def allowing(name: str, value: float) -> Limits:
    return limits(**{name: value if name.endswith("_s") else round(value)})


def test_the_limit_that_binds_is_the_one_that_the_nearest_artifact_misses_by_most() -> None:
    asked = limits(size="10 MB", answer_s=1.0)
    found = {"f16": Figures(answer_s=8.0, size=270e6), "q4_0": Figures(answer_s=3.0, size=80e6)}
    bound = binding(asked, found)
    assert bound
    worst, preset = bound
    assert (preset, worst.limit, round(worst.times)) == ("q4_0", "size", 8)
    assert binding(asked, {**found, "tiny": Figures(answer_s=0.5, size=9e6)}) is None
    said = budget.would_do(worst, preset, 135_000_000)
    assert "a student of at most 17 M parameters (this one has 135 M)" in said


def test_the_smallest_that_meets_the_budget_is_embedded_unless_it_answers_worse_than_the_best() -> None:
    asked = limits(accuracy={"threshold": 0.5}, size="200 MB")
    artifacts = [artifact("f16", 270_000_000), artifact("q8_0", 140_000_000), artifact("q4_0", 80_000_000), artifact("bad", 1, "gate")]
    found = {
        "f16": Figures(0.9, size=270e6), "q8_0": Figures(0.8, size=140e6), "q4_0": Figures(0.6, size=80e6),
    }  # fmt: skip
    alike = judge("d", asked, artifacts, found, None, lambda a, b: False)
    assert (alike.preset, alike.nearest) == ("q4_0", "")
    worse = judge("d", asked, artifacts, found, None, lambda a, b: (a, b) == ("q4_0", "q8_0"))
    assert worse.preset == "q8_0"
    assert [m.limit for m in worse.missed["f16"]] == ["size"]
    assert any("bad is out: gate" in said for said in worse.story)


def test_where_accuracy_alone_is_missing_the_nearest_artifact_is_named() -> None:
    asked = limits(accuracy={"threshold": 0.95}, size="200 MB")
    artifacts = [artifact("f16", 270_000_000), artifact("q8_0", 140_000_000), artifact("q4_0", 80_000_000)]
    found = {"f16": Figures(0.9, size=270e6), "q8_0": Figures(0.8, size=140e6), "q4_0": Figures(0.6, size=80e6)}
    verdict = judge("d", asked, artifacts, found, None, lambda a, b: False)
    assert (verdict.preset, verdict.nearest) == ("", "q8_0")
    nothing = judge("d", replace_limits(asked), artifacts, found, None, lambda a, b: False)
    assert (nothing.preset, nothing.nearest) == ("", "")
    assert nothing.reason == "size binds: size 80.0 MB, 1.0 MB allowed (q4_0)"


def replace_limits(asked: Limits) -> Limits:
    return asked.model_copy(update={"size": 1_000_000})


def test_an_emulated_device_has_no_times_to_be_missed() -> None:
    found = budget.measured(replace(artifact("q8_0", 140_000_000)), None, None)
    assert (found.first_token_s, found.answer_s, found.memory, found.size) == (None, None, None, 140_000_000)
    assert missed(limits(answer_s=0.001, memory="1 MB"), found) == ()
