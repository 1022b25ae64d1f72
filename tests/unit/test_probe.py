"""Whether there is something to teach: the verdict on planted answers, and a whole probe with the tiny model."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgearte import probe, steps
from edgearte.answers import AnswerFormat, grade
from edgearte.cli import main
from edgearte.errors import UserError
from edgearte.evaluate import Answer
from edgearte.probe import FORM, KNOWLEDGE, LENGTH, Said
from edgearte.records import Question
from edgearte.setup import opened
from tests import tiny

FMT = AnswerFormat("number")
RIGHT, WRONG, NO_TAG, CUT = "So <ans>7</ans>", "So <ans>8</ans>", "It is 7.", ""


def answers(*texts: str) -> list[Answer]:
    return [Answer(Question(f"q{k}", f"What is {k}?", "7"), t, grade(t, "7", FMT)) for k, t in enumerate(texts)]


def written(*texts: str) -> Said:
    said = tuple(answers(*texts))
    kinds = {RIGHT: "", WRONG: KNOWLEDGE, NO_TAG: FORM, CUT: LENGTH}
    return Said(said, said, tuple(kinds[t] for t in texts))


def labelled(right: int, wrong: int, *texts: str) -> Said:
    """Answers that were read, and apart from them a few texts."""
    one = written(*texts)
    return Said(tuple(answers(*[RIGHT] * right, *[WRONG] * wrong)), one.texts, one.failures)


WEAK = answers(*[WRONG] * 30, *[RIGHT] * 10)


def test_a_teacher_that_knows_more_is_a_go() -> None:
    found = probe.judged(written(*[RIGHT] * 30, *[WRONG] * 6, *[NO_TAG] * 4), answers(*[NO_TAG] * 40), WEAK)
    assert found.verdict == "go"
    assert found.failures == {FORM: 4, LENGTH: 0, KNOWLEDGE: 6}
    assert (found.teacher.correct, found.untaught.correct, found.untaught.unextracted) == (30, 0, 40)
    assert found.seeds and found.seeds.correct == 10
    assert "answers 30 of 40 development questions rightly, a student taught on the seeds alone 10 (p = " in found.reason
    assert [s.failure for s in found.samples] == [FORM] * 3 + [KNOWLEDGE] * 3


def test_a_teacher_that_knows_no_more_than_the_seeds_teach_is_a_stop() -> None:
    assert probe.judged(written(*[RIGHT] * 13, *[WRONG] * 27), answers(*[WRONG] * 40), WEAK).verdict == "stop"
    worse = probe.judged(written(*[WRONG] * 40), answers(*[WRONG] * 40), answers(*[RIGHT] * 40))
    assert worse.verdict == "stop"
    assert "it has nothing to teach that these questions show" in worse.reason


def test_without_seeds_the_untaught_student_is_what_it_must_be_better_than() -> None:
    found = probe.judged(written(*[RIGHT] * 40), WEAK, None)
    assert (found.verdict, found.seeds) == ("go", None)
    assert "the untaught student 10" in found.reason


def test_texts_of_no_use_are_to_be_improved_and_say_nothing_of_what_is_known() -> None:
    found = probe.judged(written(*[WRONG] * 10, *[RIGHT] * 15, *[NO_TAG] * 5, *[CUT] * 10), WEAK, WEAK)
    assert found.verdict == "improve"
    assert "15 of 25 development questions" in found.reason and "raise draft.rationale_tokens" in found.reason
    assert "5 are not in the form asked for and 10 are cut off" in found.reason
    assert probe.judged(written(*[WRONG] * 25, *[NO_TAG] * 15), WEAK, WEAK).verdict == "stop"
    nothing = probe.judged(written(*[NO_TAG] * 40), WEAK, WEAK)
    assert (nothing.verdict, nothing.teacher.correct) == ("improve", 0)
    assert "say in task.description" in nothing.reason


def test_where_answers_are_read_the_texts_are_judged_apart() -> None:
    assert probe.judged(labelled(35, 5, *[RIGHT] * 10), WEAK, WEAK).verdict == "go"
    found = probe.judged(labelled(35, 5, *[RIGHT] * 7, *[CUT] * 3), WEAK, WEAK)
    assert (found.verdict, found.written, found.teacher.n) == ("improve", 10, 40)
    assert "35 of 40" in found.reason
    assert probe.judged(labelled(5, 35, *[CUT] * 10), WEAK, WEAK).verdict == "stop"


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    return tiny.write_recipe(tmp_path_factory.mktemp("probe"), tiny_model)


@pytest.mark.parametrize("overrides", [[], ["teacher.style=chat", "task.answer.choices=[]", "draft.rationale_tokens=20"]])
def test_a_whole_probe(recipe: Path, overrides: list[str], tmp_path: Path) -> None:
    own = ["task.development.file=development.jsonl", "train.teach=answer", *overrides]
    with opened(recipe, own, tmp_path) as (setup, _):
        setup = steps.prepared(setup)
        once, computed = probe.run(setup), len(setup.store.ledger)
        assert probe.run(setup) == once
        first, again = setup.store.ledger[:computed], setup.store.ledger[computed:]
    assert {"develop: untaught", "develop: seeds alone", "probe: the teacher's texts"} <= {entry.label for entry in first}
    assert any(entry.stage == "train" for entry in first)  # the student that is taught on the seeds
    assert again and all(entry.cached == entry.rows for entry in again)
    assert once.seeds and once.teacher.n == once.untaught.n == once.seeds.n == once.written == 24
    assert sum(once.failures.values()) >= len(once.samples) > 0  # a model that knows nothing
    if overrides:  # its answers are its texts
        assert sum(once.failures.values()) == once.written - once.teacher.correct


def test_validate_probe_prints_the_verdict_and_no_forecast(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = ["task.development.file=development.jsonl", "train.teach=answer", "--runs", str(tmp_path)]
    assert main(["validate", "--probe", str(recipe), *own]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "Is there something to teach?" in said and "the teacher" in said
    assert any(f"{verdict}: " in said for verdict in ("go", "improve", "stop"))


def test_without_development_questions_it_is_refused(recipe: Path, tmp_path: Path) -> None:
    with opened(recipe, [], tmp_path) as (setup, _), pytest.raises(UserError, match=r"task\.development"):
        probe.run(setup)
