"""The soft score: the probability of the right answer, read with a rationale as the one example, and of the form apart from it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from edgearte.answers import AnswerFormat
from edgearte.arte import prefer, probability, prompts
from edgearte.forms import with_options
from edgearte.lm.base import Completion, Prompt, Sampling, Score
from edgearte.lm.hf import TransformersLM
from edgearte.records import Draft, Question, Rationale
from edgearte.store import Store
from edgearte.task import Task
from tests.unit.test_arte import OPEN, TASK


class Reader:
    """A student whose log-likelihoods a function decides, a token a character; it remembers its calls and writes nothing."""

    identity = "reader"

    def __init__(self, likes: Callable[[str, str], float]) -> None:
        self.likes, self.calls = likes, list[list[tuple[Prompt, str]]]()

    def generate(self, rows: Sequence[Prompt], sampling: Sampling) -> list[Completion]:
        raise AssertionError("nothing is generated")

    def loglikelihood(self, pairs: Sequence[tuple[Prompt, str]]) -> list[Score]:
        self.calls.append(list(pairs))
        return [Score(self.likes(p.prefix, p.text + c), len(c)) for p, c in pairs]

    def chat(self, messages: Sequence[dict[str, str]]) -> str:
        raise AssertionError("nothing is asked in a conversation")


def one(text: str, input: str = "dim it") -> list[Draft]:
    return [Draft("d", input, "lights", "", (), (Rationale("a", text, None),))]


def test_closed_choices_share_the_probability_and_all_of_a_chunk_is_read_in_one_call(tmp_path: Path) -> None:
    chances = {"lights": 0.02, "music": 0.01, "weather": 0.01}  # of the whole; an answer in the form is rare

    def likes(prefix: str, text: str) -> float:
        if text.endswith(" <ans>"):
            return -6.0
        label = text.partition("<ans>")[2].removesuffix("</")
        return math.log(chances[label]) + (math.log(2) if label in prefix else 0)

    student = Reader(likes)
    drafts = [Draft(f"d{k}", f"q{k}", "music", "", (), (Rationale("a", r, None), Rationale("b", r, None)))
              for k, r in enumerate(["so <ans>lights</ans>", "so <ans>music</ans>"])]  # fmt: skip
    store = Store(tmp_path)
    found = probability.score(student, TASK, drafts, TASK.preference, store)
    a, a2, b, b2 = found.preferences
    assert a.marks == pytest.approx((4 / 6, 1 / 6, 1 / 6)), "the softmax over the choices, in the order of the questions"
    assert b.marks == pytest.approx((2 / 5, 2 / 5, 1 / 5))
    assert b.score == pytest.approx(1 / 3)
    assert (a.n, a.correct, b.correct, a.extracted) == (3, 1, 1, 0)
    assert a.form == pytest.approx(math.exp(-1)), "six tokens of one nat each"
    assert (found.generations, found.exact) == (0, 0)
    (pairs,) = student.calls
    assert len(pairs) == 2 * 3 * 4, "a text that two strategies brought is read once"
    assert a2 == replace(a, strategy="b")
    assert b2 == replace(b, strategy="b")
    assert {p.prefix for p, _ in pairs} == {prompts.one_shot_prefix(TASK, d.input, d.rationales[0].text) for d in drafts}
    assert pairs[0][0].text == prompts.shot_question("turn it on")
    assert [c for _, c in pairs[:4]] == [" <ans>", " <ans>lights</", " <ans>music</", " <ans>weather</"]
    assert probability.score(student, TASK, drafts, TASK.preference, store) == found
    assert len(student.calls) == 1
    assert "does not tell the drafts apart" in prefer.degenerate(found.preferences)
    no_hit = [replace(p, score=p.marks[0], correct=0) for p in found.preferences]
    assert prefer.degenerate(no_hit) == "", "where nothing is written, nothing need be hit"


def test_an_open_answer_counts_per_token_of_its_own_text(tmp_path: Path) -> None:
    student = Reader(lambda prefix, text: -3.0 if text.endswith("<ans>") else -3.0 - 2 * len(text.partition("<ans>")[2]))
    questions = [Question("a", "one", "4"), Question("b", "two", "4096")]
    (p,) = probability.score(student, OPEN, one("r"), questions, Store(tmp_path)).preferences
    assert p.marks == pytest.approx((math.exp(-2), math.exp(-2))), "neither the tag nor the length counts"
    assert p.form == pytest.approx(math.exp(-3 / 6))
    assert p.correct == 0


def test_a_tokenizer_that_joins_tag_and_answer_gives_a_probability_all_the_same(tmp_path: Path) -> None:
    student = Reader(lambda prefix, text: -1.0)  # reading on costs nothing ...
    student.loglikelihood = lambda pairs: [Score(-1.0 + 0.5 * (c != " <ans>"), 6) for _, c in pairs]  # type: ignore[method-assign]
    (p,) = probability.score(student, OPEN, one("r"), [Question("a", "one", "4")], Store(tmp_path)).preferences
    assert p.score == 1.0


def test_without_tags_the_text_itself_is_read_and_has_the_form(tmp_path: Path) -> None:
    task = replace(OPEN, answer=AnswerFormat("text"))
    student = Reader(lambda prefix, text: -0.5 * len(text.rpartition("step by step.")[2]))
    (p,) = probability.score(student, task, one("r"), [Question("a", "one", "a whole sentence")], Store(tmp_path)).preferences
    assert p.score == pytest.approx(math.exp(-0.5))
    assert p.form == 1.0
    assert [c for _, c in student.calls[0]] == [" a whole sentence"]


@pytest.mark.parametrize(
    ("kind", "question", "answers"),
    [
        ("yesno", Question("q", "is it?", "True"), ["True", "False"]),
        ("yesno", Question("q", "is it?", "no"), ["no", "yes"]),
        ("choice", Question("q", with_options("which?", ["a", "b", "c"]), "B"), ["A", "B", "C"]),
        ("choice", Question("q", with_options("which?", ["a", "b"]), "(B)"), ["(A)", "(B)"]),
    ],
)
def test_choices_that_the_question_itself_brings_are_closed_too(
    tmp_path: Path, kind: str, question: Question, answers: list[str]
) -> None:
    task = replace(OPEN, answer=AnswerFormat(kind))
    student = Reader(lambda prefix, text: -1.0 if f"<ans>{question.target}<" in text else -9.0)
    (p,) = probability.score(student, task, one("r"), [question], Store(tmp_path)).preferences
    assert [c for _, c in student.calls[0]] == [" <ans>", *(f" <ans>{a}</" for a in answers)]
    assert p.score > 0.99
    assert p.correct == 1


def test_the_tiny_model_finds_an_answer_more_probable_after_an_example_that_gives_it(tiny_model: Path, tmp_path: Path) -> None:
    """The tiny model was taught to answer mostly what its example answers."""
    task = Task("t", "Say what a spoken command is about.", TASK.answer, (), (), ())
    drafts = [Draft(label, "so it is about jazz", label, "", (), (Rationale("a", f"It is about {label}. <ans>{label}</ans>", label),))
              for label in ("lights", "music")]  # fmt: skip
    lm = TransformersLM(tiny_model, "tiny", dtype="float32")
    questions = [Question(f"q{k}", text, "lights") for k, text in enumerate(["it is dark in here", "switch on the lamp"])]
    found = {p.draft: p for p in probability.score(lm, task, drafts, questions, Store(tmp_path)).preferences}
    assert found["lights"].score > found["music"].score
    assert all(0 < m < 1 for p in found.values() for m in p.marks)
