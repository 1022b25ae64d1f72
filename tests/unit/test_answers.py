"""Finding answers in what models really write."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgearte.answers import AnswerFormat, accuracy, extract, grade, valid_target
from edgearte.errors import UserError

TAG, CHOICE, YESNO, NUMBER, JSON = (AnswerFormat(k) for k in ("tag", "choice", "yesno", "number", "json"))


@pytest.mark.parametrize(
    ("output", "target", "fmt"),
    [
        ("So it is <ans>lights</ans>", "lights", TAG),
        ("<ans> Lights. </ans> and more", "lights", TAG),
        ("<ans>music</ans> no, wait: <ans>lights</ans>", "lights", TAG),
        ("<ans><ans>lights</ans>", "lights", TAG),
        ("< ans >lights</ ans >", "lights", TAG),
        ("**<ANS>**lights**</ANS>**", "lights", TAG),
        ("<ans>\n  the  living\nroom </ans>", "the living room", TAG),
        ("<ans>“ｌｉｇｈｔｓ”</ans>", "lights", TAG),
        ("<ans>(B)</ans>", "B", CHOICE),
        ("<ans>b.</ans>", "(B)", CHOICE),
        ("<ans>(C) the long text of the option</ans>", "C", CHOICE),
        ("<ans>Option D</ans>", "D", CHOICE),
        ("<ans>Yes.</ans>", "yes", YESNO),
        ("<ans>**TRUE**</ans>", "Yes", YESNO),
        ("<ans>$1,234.50</ans>", "1234.5", NUMBER),
        ("<ans>8 apples</ans>", "8", NUMBER),
        ("<ans>3 + 5 = 8</ans>", "8", NUMBER),
        ("<ans>−3</ans>", "-3", NUMBER),
        ("<ans>8.00</ans>", "8", NUMBER),
        ('<ans>{"b": 1, "a": [2]}</ans>', '{"a": [2], "b": 1}', JSON),
        ('<ans>```json\n{"a": 1}\n```</ans>', '{"a":1}', JSON),
        ('<ans>Here it is: {"a": 1}. Good?</ans>', '{"a":1}', JSON),
        ("  Paris. ", "paris", AnswerFormat("text")),
    ],
)
def test_ugly_outputs_that_are_right(output: str, target: str, fmt: AnswerFormat) -> None:
    assert grade(output, target, fmt).correct


@pytest.mark.parametrize(
    ("output", "target", "fmt"),
    [
        ("<ans>light</ans>", "lights", TAG),
        ("<ans>(A) or (B)</ans>", "B", CHOICE),
        ("<ans>no</ans>", "yes", YESNO),
        ("<ans>80</ans>", "8", NUMBER),
        ('<ans>{"a": 2}</ans>', '{"a":1}', JSON),
    ],
)
def test_wrong_answers_are_wrong_and_extracted(output: str, target: str, fmt: AnswerFormat) -> None:
    found = grade(output, target, fmt)
    assert not found.correct
    assert found.answer is not None


@pytest.mark.parametrize(
    ("output", "fmt"),
    [
        ("It is lights", TAG), ("<ans>lights", TAG), ("<ans></ans>", TAG), ("<ans> . </ans>", NUMBER), ("The answer is 8", NUMBER),
        ("<ans>between 3 and 5</ans>", NUMBER), ("<ans>maybe</ans>", YESNO), ("<ans>{broken</ans>", JSON), ("", TAG),
    ],
)  # fmt: skip
def test_no_answer_is_counted_apart_from_a_wrong_one(output: str, fmt: AnswerFormat) -> None:
    assert extract(output, fmt) is None


@pytest.mark.parametrize(
    ("output", "answer", "kind"),
    [
        ("so \\boxed{42} it is", "42", "number"), ("#### 42", "42", "number"), ("The answer is: 42.", "42", "number"),
        ("I count 3, then 42 in all", "42", "number"), ("Therefore (C) fits, not (A). So (C)", "C", "choice"),
        ("Hmm, no. The answer is yes", "yes", "yesno"), ('reply {"a": 1} end', '{"a": 1}', "json"),
    ],
)  # fmt: skip
def test_without_strictness_the_usual_places_are_searched(output: str, answer: str, kind: str) -> None:
    assert extract(output, AnswerFormat(kind, strict=False)) == answer
    assert extract(output, AnswerFormat(kind)) is None


@given(st.text(max_size=300), st.sampled_from(["tag", "choice", "yesno", "number", "text", "json"]), st.booleans())
def test_any_text_is_graded_without_an_error(output: str, kind: str, strict: bool) -> None:
    fmt = AnswerFormat(kind, strict=strict)
    grade(output, "8", fmt)
    grade(f"<ans>{output}</ans>", output, fmt)


@given(st.integers(-(10**12), 10**12))
def test_a_number_is_found_however_it_is_written(number: int) -> None:
    for text in (str(number), f"{number:,}", f"{number}.0", f" {number} things"):
        assert grade(f"<ans>{text}</ans>", str(number), NUMBER).correct


@given(st.recursive(st.integers() | st.text() | st.booleans(), lambda x: st.lists(x, max_size=3), max_leaves=5))
def test_json_is_compared_by_value(value: object) -> None:
    assert grade(f"<ans>{json.dumps(value)}</ans>", json.dumps(value, indent=2), JSON).correct or "</" in json.dumps(
        value
    )


def test_targets_are_checked_against_the_format() -> None:
    labels = AnswerFormat("tag", choices=("lights", "music"))
    assert valid_target("Lights", labels)
    assert not valid_target("heating", labels)
    assert not valid_target("eight", NUMBER)


def test_accuracy_has_wilsons_interval() -> None:
    found = accuracy(grade(f"<ans>{x}</ans>" if x else "", "1", NUMBER) for x in ["1", "1", "2", ""])
    assert (found.n, found.correct, found.unextracted, found.accuracy) == (4, 2, 1, 0.5)
    assert found.low == pytest.approx(0.1500, abs=1e-4)  # Wilson (1927) for 2 of 4
    assert found.high == pytest.approx(0.8500, abs=1e-4)
    with pytest.raises(UserError):
        accuracy([])
