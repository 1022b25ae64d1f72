"""Which arm is delivered: the one that answers most development questions rightly, the method where none answers more."""

from __future__ import annotations

from edgearte import decide
from edgearte.answers import Grade
from edgearte.evaluate import Answer
from edgearte.records import Question


def answers(marks: str) -> list[Answer]:
    return [Answer(Question(str(k), "q", "a"), "", Grade("a", mark == "1")) for k, mark in enumerate(marks)]


def test_the_method_is_delivered_where_no_arm_answers_more() -> None:
    found = decide.arm({"seeds alone": answers("1100"), "ARTE": answers("0011"), "unaligned teacher": answers("1000")}, "ARTE")
    assert found.name == "ARTE"
    assert found.right == {"seeds alone": 2, "ARTE": 2, "unaligned teacher": 1}
    assert "no arm answers more of the 4 development questions" in found.reason


def test_a_better_arm_is_delivered_with_the_figures() -> None:
    found = decide.arm({"seeds alone": answers("111111"), "ARTE": answers("000000")}, "ARTE")
    assert found.name == "seeds alone"
    assert found.reason == "seeds alone answers 6 of the 6 development questions rightly where ARTE answers 0 (p = 0.031)"


def test_without_development_questions_nothing_is_claimed() -> None:
    found = decide.arm({}, "ARTE")
    assert (found.name, found.questions) == ("ARTE", 0)
    assert "unproven" in found.reason
