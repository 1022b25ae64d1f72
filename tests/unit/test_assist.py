"""The teaching assistant: what its signals say, and that a planted noisy teacher is seen through."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgearte import assisted, guidance
from edgearte.answers import AnswerFormat
from edgearte.arte import draft, prompts
from edgearte.assist import again, annotate, calibration, confidence, signals, steps
from edgearte.assist.signals import Sampled
from edgearte.cli import main
from edgearte.errors import UserError
from edgearte.lm.base import Completion, Prompt, Sampling
from edgearte.lm.calls import Calls, Kept, Limits, Purse
from edgearte.load import load_recipe
from edgearte.recipe import Again, Assist, Budget, Guide, Recipe, Several, Teacher
from edgearte.records import Annotation, Draft, Example, Question, Rationale
from edgearte.setup import Setup
from edgearte.store import Store
from edgearte.task import Task, load_questions
from tests import tiny
from tests.scripted import Scripted

SEEDS = (Question("s0", "two and two?", "4", "two and two"), Question("s1", "one and two?", "3", "one and two"))
TASK = Task("t", "Add.", AnswerFormat("number"), SEEDS, SEEDS, (Question("e0", "six and six?", "12"),))
ASK = draft.Settings("chat", 2, 2, 1.0, 1.0, 50, 50, 0.0, 0.9, 2, 0)

answers = st.lists(st.none() | st.sampled_from("abcd"), min_size=2, max_size=8)
shares = st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=30)


def said(*found: str | None) -> Sampled:
    return Sampled(tuple(f"text {k} {a}" for k, a in enumerate(found)), found)


@given(answers)
def test_uncertainty_is_a_share_and_nothing_where_all_agree(found: list[str | None]) -> None:
    for measure in ("answers", "texts", "entropy"):
        assert 0 <= signals.uncertainty(said(*found), measure) <= 1 + 1e-9
    agree = said(*["a"] * len(found))
    assert signals.uncertainty(agree, "answers") == signals.uncertainty(agree, "entropy") == 0
    assert signals.uncertainty(agree, "texts") == 1, "texts are told apart even where their answers agree"


def test_uncertainty_counts_what_differs() -> None:
    assert signals.uncertainty(said("4", "4", "5", "4"), "answers") == pytest.approx(1 / 3)
    assert signals.uncertainty(said("4", "5", "6", "7"), "answers") == 1
    assert signals.uncertainty(said("yes", "Yes", "no", "no"), "entropy") == pytest.approx(math.log(2) / math.log(4))
    # Four samples without an answer do not agree on anything.
    assert signals.uncertainty(said(None, None, None, None), "answers") == 1
    assert said(None, "5", "4", "4").usual == "text 2 4"
    assert said(None, None).usual == "text 0 None"


def test_ranks_are_averaged_and_ties_stay_in_their_order() -> None:
    assert signals.order([[0.1, 0.9, 0.5], [0.2, 0.1, 0.9]]) == [2, 1, 0]
    assert signals.order([[0.5, 0.5, 0.5]]) == [0, 1, 2]
    assert signals.order([[0.0, 1e-9, 0.0], [7.0, 7.0, 7.0]]) == [1, 0, 2], "ranks are compared, not sizes"


def test_samples_are_kept_by_question_and_seeded_apart(tmp_path: Path) -> None:
    seen: list[int] = []

    class Student(Scripted):
        def generate(self, rows: Sequence[Prompt], sampling: Sampling) -> list[Completion]:
            seen.extend(p.seed for p in rows)
            assert sampling.temperature == 0.7
            return [Completion(f"so <ans>{p.seed % 3}</ans>", 1, 1, "stop") for p in rows]

    ask: list[Any] = [[{"role": "user", "content": "one?"}], [{"role": "user", "content": "two?"}]]
    found = signals.sampled(Student(), ask, TASK.answer, 4, 0.7, 20, 1, Store(tmp_path), label="x")
    assert len(set(seen)) == 8, "every sample has random numbers of its own"
    assert [len(f.texts) for f in found] == [4, 4]
    assert found[0].answers == tuple(str(s % 3) for s in seen[:4])


@pytest.mark.parametrize("form", ["system", "plain"])
def test_confidence_is_the_probability_of_yes_against_no(form: str, tmp_path: Path) -> None:
    def sure(text: str, word: str) -> float:
        yes = math.log(0.6) if "<ans>4</ans>" in text else math.log(0.1)
        return yes if word.strip() == "Yes" else math.log(0.2)

    assistant = Scripted(sure=sure)
    pairs = [("2 + 2?", "So <ans>4</ans>"), ("2 + 2?", "So <ans>5</ans>")]
    found = confidence.confidences(assistant, form, TASK, pairs, "yes/no", Store(tmp_path), label="x")
    assert found == pytest.approx([0.75, 1 / 3])
    assert all("2 + 2?" in text and "Add." in text for text in assistant.asked)
    assert all(text.endswith("Reply:" if form == "plain" else "[assistant]") for text in assistant.asked)


def test_an_assistant_may_name_a_number(tmp_path: Path) -> None:
    words = {"a": "85", "b": "I would say 40%.", "c": "0.9", "d": "no idea", "e": "250", "f": "1"}
    assistant = Scripted(says=lambda text: words[text.partition("Proposed answer:\n")[2][0]])
    found = confidence.confidences(assistant, "system", TASK, [("q", k) for k in words], "number", Store(tmp_path), label="x")
    assert found == pytest.approx([0.85, 0.40, 0.9, 0.5, 1.0, 0.01])


@given(st.text())
def test_whatever_an_assistant_says_is_a_share(text: str) -> None:
    assert 0 <= confidence.named(text) <= 1


@given(shares)
def test_auroc_is_the_chance_that_right_is_above_wrong(table: list[tuple[float, bool]]) -> None:
    found = calibration.calibration([c for c, _ in table], [r for _, r in table])
    yes, no = [c for c, r in table if r], [c for c, r in table if not r]
    if yes and no:
        pairs = [1.0 if a > b else 0.5 if a == b else 0.0 for a in yes for b in no]
        assert found.auroc == pytest.approx(sum(pairs) / len(pairs))
    else:
        assert found.auroc is None
    assert 0 <= found.ece <= 1
    assert sum(b.n for b in found.bins) == found.n == len(table)


def test_calibration_error_is_the_gap_of_the_bins() -> None:
    found = calibration.calibration([0.95, 0.95, 0.15, 1.0], [True, False, False, True])
    # In the last tenth 0.967 on average, of which two thirds are right; in the second 0.15, of which none.
    assert found.ece == pytest.approx(0.75 * (2.9 / 3 - 2 / 3) + 0.25 * 0.15)
    assert [b.n for b in found.bins] == [1, 3]


@given(shares)
def test_no_threshold_tells_better_than_the_fitted_one(table: list[tuple[float, bool]]) -> None:
    cut = calibration.threshold([c for c, _ in table], [r for _, r in table])
    yes, no = [c for c, r in table if r], [c for c, r in table if not r]
    if not yes or not no:
        assert cut is None
        return
    assert cut is not None

    def told(at: float) -> float:
        return sum(c >= at for c in yes) / len(yes) - sum(c >= at for c in no) / len(no)

    assert all(told(cut) >= told(c) - 1e-9 for c, _ in table)


def test_the_teacher_is_never_asked_twice_in_whatever_selection(tmp_path: Path) -> None:
    questions = [Question(f"q{i}", f"{i} and {i}?", str(2 * i)) for i in range(6)]
    teacher = Scripted(says=lambda text: "It is <ans>4</ans>")
    store = Store(tmp_path)
    calls = Calls(store)
    kept = Kept(teacher, calls, "t")
    first = annotate.annotate(kept, TASK, ASK, questions[:4], Purse(calls, "a", Limits()), store, label="x")
    again = annotate.annotate(kept, TASK, ASK, questions[::-1], Purse(calls, "b", Limits()), store, label="x")
    assert annotate.annotate(kept, TASK, ASK, questions, Purse(calls, "c", Limits(calls=2)), store, label="x") == first[:2]
    assert len(teacher.asked) == len(set(teacher.asked)) == 6
    assert [a.right for a in first] == [False, False, True, False]
    assert [a.id for a in again] == [q.id for q in questions[::-1]]
    assert all(q.target not in text.replace(q.input, "") for q, text in zip(questions, teacher.asked, strict=False) if q.target == "10")


def test_a_continuation_finds_its_own_answer_among_the_choices(tmp_path: Path) -> None:
    closed = Task("t", "Which?", AnswerFormat("tag", ("lights", "music")), SEEDS, SEEDS, SEEDS)

    class Teacher(Scripted):
        def generate(self, rows: Sequence[Prompt], sampling: Sampling) -> list[Completion]:
            assert all("(lights|music)" in p.pattern for p in rows)
            return super().generate(rows, sampling)

    ask = draft.Settings("continuation", 2, 2, 1.0, 1.0, 50, 50, 0.0, 0.9, 2, 0)
    teacher = Teacher(says=lambda text: " because it plays <ans>music</ans>")
    store = Store(tmp_path)
    calls = Calls(store)
    question = Question("q", "put on jazz", "lights")
    kept, purse = Kept(teacher, calls, "t"), Purse(calls, "a", Limits())
    (found,) = annotate.annotate(kept, closed, ask, [question], purse, store, label="x")
    assert (found.answer, found.right) == ("music", False)
    assert "put on jazz\nAnswer: Let's think step by step." in teacher.asked[0]
    assert found.text == "because it plays <ans>music</ans>"


def test_the_answer_alone_is_asked_for_after_the_seeds(tmp_path: Path) -> None:
    told = replace(TASK, instruction="Just add.")
    teacher = Scripted(says=lambda text: "<ans>12</ans>" if "six" in text else "so <ans>")
    store = Store(tmp_path)
    calls = Calls(store)
    kept, purse = Kept(teacher, calls, "t"), Purse(calls, "a", Limits(calls=1))
    questions = [Question("e0", "six and six?", "12"), Question("e1", "two and one?", "3")]
    (found,) = annotate.annotate(kept, told, ASK, questions, purse, store, label="x", bare=True)
    assert (found.answer, found.right, found.text) == ("12", True, "<ans>12</ans>")
    (asked,) = teacher.asked
    assert asked.endswith("[user]Question: six and six?[assistant]")
    assert "two and two?[assistant]<ans>4</ans>" in asked and "two and two<" not in asked, "the seeds with their answers alone"
    assert "Add." in asked and "Just add." not in asked, "the teacher is told what the student is not"


LABELS = Task(
    "t", "Which?", AnswerFormat("tag", ("lights", "music")),
    (Question("s0", "dim the hall", "lights"), Question("s1", "put on jazz", "music")), (), (), meanings={"music": "wants a song"},
)  # fmt: skip


def test_a_label_is_read_against_what_the_teacher_likes_and_paid_for(tmp_path: Path) -> None:
    """It likes to say lights, whatever it is asked; against that, what is about a song is music."""

    def sure(text: str, word: str) -> float:
        return {"lights": 5.0, "music": 3.0 if text.endswith("song\nThis is about:") else 0.0}[word.strip()]

    teacher, store = Scripted(sure=sure), Store(tmp_path)
    calls = Calls(store)
    kept, purse = Kept(teacher, calls, "t"), Purse(calls, "a", Limits(calls=3))
    questions = [Question(f"q{k}", text, target) for k, (text, target) in enumerate(
        [("a lamp", ""), ("a song", "music"), ("the lamp", ""), ("any song", "")]
    )]  # fmt: skip
    found = annotate.named(kept, LABELS, questions, purse, store, "meaning", label="x")
    assert [a.answer for a in found] == ["lights", "music", "lights"], "three were paid for"
    assert [a.right for a in found] == [None, True, None]
    assert found[1].text == "wants a song <ans>music</ans>"
    assert (purse.spent().calls, purse.spent().written) == (3, 0)
    assert "dim the hall" in teacher.asked[0]
    before = len(teacher.asked)
    assert annotate.named(kept, LABELS, questions[:3], Purse(calls, "a", Limits(calls=3)), store, "meaning", label="x") == found
    assert len(teacher.asked) == before, "nothing is asked twice"
    # One that comes alone has no others to tell what is usual: it is told.
    usual = ["a lamp", "a song"]
    (alone,) = annotate.named(kept, LABELS, questions[3:], Purse(calls, "b", Limits()), store, "answer", label="x", usual=usual)
    assert (alone.answer, alone.text) == ("music", "<ans>music</ans>")


# A planted world: questions 0 to 39, of which the teacher answers every fourth wrongly; the assistant knows it, with some doubt. The
# student is sure of those below 20, and the assistant believes it there.
POOL = [Question(f"q{i}", f"number {i}", str(i)) for i in range(40)]
MOST = Budget(calls=20)
HOW = Assist(model="none", budget=MOST)


second: list[str] = []  # what the second teacher was asked
SEVERAL = Several(teachers=(Teacher(model="y"),))
RECIPE = Recipe.model_validate(
    {
        "name": "t", "seed": 5, "task": {"description": "Add.", "seeds": {"file": "x"}, "evaluation": {"file": "x"}},
        "teacher": {"model": "x"}, "student": {"model": "x"},
    }
)  # fmt: skip


def world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> tuple[Setup, list[str]]:
    """A setup in which the models are planted, and the ids of the questions the teacher was asked, in order."""
    bought: list[str] = []
    second.clear()

    class Noisy(Scripted):
        def generate(self, rows: Sequence[Prompt], sampling: Sampling) -> list[Completion]:
            texts = [p.prefix + p.text for p in rows]
            self.asked += texts
            numbers = [int(t.rpartition("number ")[2].split()[0]) for t in texts]
            bought.extend(f"q{n}" for n in numbers)
            careful = ["was doubted" in t for t in texts]  # asked again it takes care, and gets most of them right
            found = [n + (n % 4 == 0 and not (c and n % 8)) for n, c in zip(numbers, careful, strict=True)]
            return [Completion(f"I see {n}. <ans>{n}</ans>", 6, 4, "stop") for n in found]

    class Worse(Noisy):
        """A second teacher: right where the first one is wrong, and of every fourth number besides."""

        identity = "worse"

        def generate(self, rows: Sequence[Prompt], sampling: Sampling) -> list[Completion]:
            numbers = [int((p.prefix + p.text).rpartition("number ")[2].split()[0]) for p in rows]
            second.extend(f"q{n}" for n in numbers)
            return [Completion(f"<ans>{n if n % 4 < 2 else 0.5}</ans>", 6, 4, "stop") for n in numbers]

    teachers = (Noisy(), Worse())

    def trusted(setup: Setup, how: Assist, pairs: Sequence[tuple[str, str]], label: str) -> list[float]:
        numbers = [int(text.split()[1]) for text, _ in pairs]
        if "student" in label:
            return [0.9 if n < 20 else 0.2 for n in numbers]
        right = [f"<ans>{n}</ans>" in text for n, (_, text) in zip(numbers, pairs, strict=True)]
        return [(0.8 if r else 0.3) + n / 1000 for n, r in zip(numbers, right, strict=True)]

    def sampled(setup: Setup, how: Assist, folder: Path, questions: Sequence[Question]) -> list[Sampled]:
        return [said("a", "a", "a", "a") if int(q.id[1:]) < 20 else said("a", "b", "c", "d") for q in questions]

    @contextmanager
    def recorded(setup: Setup, number: int = 0) -> Iterator[Kept]:
        yield Kept(teachers[number], Calls(setup.store), setup.recipe.name)

    for name, function in (("recorded", recorded), ("trusted", trusted), ("sampled", sampled)):
        monkeypatch.setattr(steps, name, function)
    monkeypatch.setattr(steps, "pool", lambda setup, how, spend: tuple(POOL))
    monkeypatch.setattr(steps, "natural", lambda setup, folder, answers: [0.0] * len(answers))
    monkeypatch.setattr(assisted, "taught", lambda setup, examples, arm: tmp_path / "taught")
    models: Any = type("Weights", (), {"folder": tmp_path})()
    return Setup(RECIPE, TASK, models, models, Store(tmp_path / "store")), bought


def test_the_filter_finds_what_a_noisy_teacher_got_wrong(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    setup, _ = world(monkeypatch, tmp_path)
    whole = assisted.teach(setup, HOW, MOST, "assisted")
    wrong = {q.id for q in POOL[::4]}
    assert any(j.annotation.id in wrong for j in whole.judged), "some wrong answers must have been bought"
    assert not any(e.id in wrong for e in whole.examples)
    assert {e.id for e in whole.examples} == {j.annotation.id for j in whole.judged} - wrong
    assert whole.threshold is not None
    assert 0.3 < whole.threshold < 0.9
    assert "fitted on 4 answers" in whole.said
    believing = assisted.teach(setup, HOW.model_copy(update={"signals": ("consistency", "student")}), MOST, "without the filter")
    assert any(e.id in wrong for e in believing.examples), "switched off, it lets them through"


def test_doubt_chooses_what_the_teacher_is_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    setup, bought = world(monkeypatch, tmp_path)
    whole = assisted.teach(setup, HOW, MOST, "assisted")
    warm = [j.annotation.id for j in whole.judged if j.phase == "warm-up"]
    chosen = [j.annotation.id for j in whole.judged if j.phase == "chosen"]
    assert (len(warm), len(chosen)) == (4, 16)
    unsure = {q.id for q in POOL[20:]} - set(warm)
    assert len(set(chosen) & unsure) == min(16, len(unsure)), "those it is unsure of come first"
    assert bought == warm + chosen
    assert len(set(bought)) == 20, "nothing is bought twice"

    random = assisted.teach(setup, HOW.model_copy(update={"signals": ()}), MOST, "no signal")
    assert {j.annotation.id for j in random.judged} != set(warm + chosen), "switched off, chance chooses"
    assert [j.annotation.id for j in random.judged if j.phase == "warm-up"] == warm
    assert len(bought) == len(set(bought)), "what another arm bought is not asked again"
    cold = assisted.teach(setup, HOW.model_copy(update={"warmup": 0.0}), MOST, "without the warm-up")
    assert {j.phase for j in cold.judged} == {"chosen"}
    assert len(cold.judged) == 20


@settings(deadline=None, max_examples=25)
@given(st.integers(10, 200), st.sampled_from([0.0, 0.2, 0.5]))
def test_a_budget_of_tokens_is_never_overdrawn_and_nearly_spent(tokens: int, warmup: float) -> None:
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        setup, _ = world(patch, Path(folder))
        # A call may take its prompt's bytes and 50 tokens at the most, and takes 10.
        how = HOW.model_copy(update={"warmup": warmup, "signals": ("consistency",)})
        try:
            found = assisted.teach(setup, how, Budget(tokens=200 + tokens), "x")
        except UserError as error:
            assert "none was kept" in str(error) or "none was bought" in str(error)
            return
        taken = sum(j.annotation.tokens for j in found.judged)
        assert taken <= 200 + tokens
        assert taken == 10 * len(found.judged)
        assert len(found.judged) == len(POOL) or taken > tokens - 200


def test_what_is_doubted_is_asked_again_with_what_is_trusted_as_an_example(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    setup, bought = world(monkeypatch, tmp_path)
    how = HOW.model_copy(update={"again": Again(below=0.75, share=0.25)})
    found = assisted.teach(setup, how, MOST, "asking again")
    assert len(bought) == len(found.judged) + found.again == 20, "second answers are paid from the same budget"
    wrong = {q.id for q in POOL[::4]}
    twice = {i for i in bought if bought.count(i) == 2}
    assert len(twice) == found.again == 4
    assert twice <= wrong, "only what was doubted is asked again"
    assert {j.annotation.id for j in found.judged if j.phase == "asked again"} == {i for i in twice if int(i[1:]) % 8}
    assert all(j.annotation.right for j in found.judged if j.kept)
    once = assisted.teach(setup, HOW, MOST, "assisted")
    assert {j.annotation.id for j in once.judged if not j.kept} & twice, "switched off, they are dropped"


def test_an_example_is_trusted_alike_and_not_the_question_itself() -> None:
    def answered(i: int, text: str) -> Annotation:
        return Annotation(f"a{i}", text, f"So. <ans>{i}</ans>", str(i), None, 1)

    trusted = [answered(1, "two red apples"), answered(2, "a fast train"), answered(3, "three red apples"), answered(4, "two red pears")]
    shown = again.examples(TASK, "two red apples", trusted, trusted[1])
    assert shown[0].input == "a fast train"
    assert {q.input for q in shown[1:]} == {"three red apples", "two red pears"}
    assert (shown[0].target, shown[0].rationale) == ("2", "So.")
    assert again.least_sure([(0.2, trusted[0]), (0.9, trusted[1]), (0.9, trusted[2])]) == trusted[1]
    assert again.least_sure([]) is None
    text = prompts.rationale_chat(Scripted(), TASK, "two red apples", prompts.AGAIN, shown)
    assert text.index("a fast train\nAnswer: So. <ans>2</ans>") < text.index("Question: two red apples\n\nAn earlier answer")


def two(choose: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> tuple[assisted.Assisted, list[str]]:
    """What comes of two teachers, and the ids of what the first was asked."""
    setup, bought = world(monkeypatch, tmp_path)
    how = HOW.model_copy(update={"several": SEVERAL.model_copy(update={"choose": choose}), "warmup": 0.5, "signals": ("teacher",)})
    setup = replace(setup, recipe=RECIPE.model_copy(update={"assist": how}), others=(setup.teacher,))
    return assisted.teach(setup, how, MOST, choose), bought


@pytest.mark.parametrize("choose", ["router", "policy", "best"])
def test_a_bad_second_teacher_is_asked_in_the_warm_up_and_then_no_more(
    choose: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found, bought = two(choose, monkeypatch, tmp_path)
    assert (len(bought), len(second)) == (15, 5), "all are asked in the warm-up, five questions each"
    assert found.bought == 20
    assert len(found.judged) == 15
    # In the warm-up the one that is right is taken, whichever it is.
    assert {j.annotation.teacher for j in found.judged if j.phase == "warm-up" and int(j.annotation.id[1:]) % 4 == 0} <= {1}


def test_chance_would_have_asked_it_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    two("uniform", monkeypatch, tmp_path)
    assert len(second) > 5


def test_two_teachers_are_believed_where_they_agree(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found, bought = two("agreement", monkeypatch, tmp_path)
    assert bought == second
    assert len(bought) == 10, "both are asked everything, from one budget"
    assert {j.annotation.id for j in found.judged if j.kept} == {i for i in bought if int(i[1:]) % 4 == 1}


def test_drafting_a_pool_is_paid_by_every_budget_whoever_asked_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    drafted = steps.pool
    setup, _ = world(monkeypatch, tmp_path)
    wrote = "two and five?</input>\n<target>7</target>\n</Question_3>"
    teacher = Scripted(says=lambda text: wrote)

    @contextmanager
    def recorded(setup: Setup, number: int = 0) -> Iterator[Kept]:
        yield Kept(teacher, Calls(setup.store), setup.recipe.name)

    monkeypatch.setattr(steps, "recorded", recorded)
    how = HOW.model_copy(update={"pool": ("drafts",)})
    draft_one = RECIPE.draft.model_copy(update={"questions": 1, "per_prompt": 1, "attempts": 1})
    setup = replace(setup, recipe=RECIPE.model_copy(update={"draft": draft_one}))
    left = []
    for signal in ("consistency", "student"):
        budget = steps.Allowance(setup, how.model_copy(update={"signals": (signal,)}), Budget(calls=5))
        with budget.phase("pool", budget.left, shared=True) as purse:
            assert len(drafted(setup, how, purse)) == 1
        left.append(budget.left.calls)
    assert len(teacher.asked) == 1, "the second budget finds the draft in the store"
    assert left == [4, 4], "and pays for it all the same"


class Killed(Exception):
    """Where a process would have died."""


def test_a_build_killed_after_every_batch_ends_as_an_undisturbed_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    setup, before = world(monkeypatch, tmp_path)
    undisturbed = assisted.teach(setup, HOW, MOST, "assisted")
    keep = Calls.keep

    def dying(self: Calls, made: Sequence[Any]) -> None:
        keep(self, made)
        raise Killed

    monkeypatch.setattr(annotate, "ROWS", 3)
    setup, bought = world(monkeypatch, tmp_path / "killed")
    monkeypatch.setattr(Calls, "keep", dying)
    lives = 0
    while True:
        try:
            found = assisted.teach(setup, HOW, MOST, "assisted")
            break
        except Killed:
            lives += 1
    assert found == undisturbed
    assert bought == before, "a life asks for what the one before it had not got yet, and for nothing else"
    assert lives == 2 + 6, "4 answers and 16, three at a time"


def test_an_example_may_count_as_much_as_it_is_trusted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    setup, _ = world(monkeypatch, tmp_path)
    how = HOW.model_copy(update={"weigh": True, "threshold": 0.0})
    found = {e.id: e.weight for e in assisted.teach(setup, how, MOST, "x").examples}
    wrong = {q.id for q in POOL[::4]}
    assert max(w for i, w in found.items() if i in wrong) < 0.6 * min(w for i, w in found.items() if i not in wrong)
    assert sum(found.values()) == pytest.approx(len(found))
    alike = assisted.teach(setup, HOW.model_copy(update={"threshold": 0.0}), MOST, "x")
    assert {e.weight for e in alike.examples} == {1.0}


def test_arms_that_bought_as_much_train_as_many_steps(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    setup, _ = world(monkeypatch, tmp_path)
    sizes = {
        len(assisted.teach(setup, HOW.model_copy(update={"signals": s}), MOST, "x").examples)
        for s in ((), ("teacher",), ("consistency", "student", "teacher"))
    }
    assert sizes == {20}


def test_the_assistants_worth_is_measured_where_targets_are_known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    setup, _ = world(monkeypatch, tmp_path)
    whole = assisted.teach(setup, HOW, MOST, "assisted")
    found = whole.on_teacher()
    assert found
    assert (found.n, found.auroc) == (20, 1.0)
    unknown = [Question(q.id, q.input, "") for q in POOL]
    monkeypatch.setattr(steps, "pool", lambda setup, how, spend: tuple(unknown))
    assert assisted.teach(setup, HOW, MOST, "assisted").on_student() is None


def test_a_pool_that_is_too_small_and_a_filter_that_keeps_nothing_are_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    setup, bought = world(monkeypatch, tmp_path)
    with pytest.raises(UserError, match="the pool has 40 questions"):
        assisted.teach(setup, HOW, Budget(calls=41), "x")
    assert bought == [], "and nothing is bought"
    with pytest.raises(UserError, match="none was kept"):
        assisted.teach(setup, HOW.model_copy(update={"threshold": 1.0}), MOST, "x")
    already = len(bought)
    other = replace(setup, task=replace(TASK, description="Add otherwise."))  # other prompts, and the same budget
    with pytest.raises(UserError, match="none was bought"):
        assisted.teach(other, HOW.model_copy(update={"threshold": 1.0}), MOST, "x")
    assert len(bought) == already


def test_questions_of_a_pool_need_no_target(tmp_path: Path) -> None:
    path = tmp_path / "pool.jsonl"
    path.write_text('{"input": "one?"}\n{"input": "two?", "target": "2"}\n', "utf-8")
    assert [q.target for q in load_questions(path, TASK.answer, labelled=False)] == ["", "2"]
    with pytest.raises(UserError, match="no target"):
        load_questions(path, TASK.answer)
    path.write_text('{"input": "one?", "target": "many"}\n{"target": "2"}\n', "utf-8")
    with pytest.raises(UserError) as error:
        load_questions(path, TASK.answer, labelled=False)
    assert "target 'many' is not" in str(error.value)
    assert "no input" in str(error.value)


@pytest.mark.parametrize(
    ("command", "options", "message"),
    [
        (["build"], ["assist.model=MODEL", "assist.budget.calls=4"], "task.pool"),
        (["build"], ["assist.model=nowhere.gguf", "assist.budget.calls=4", "task.pool.file=seeds.jsonl"], "assist.model: nowhere.gguf"),
        (["build"], ["assist.model=MODEL", "assist.budget.calls=0"], "assist.budget: a budget of calls, tokens or money"),
        (["build"], ["assist.model=MODEL", "assist.budget.calls=4", "assist.sample=3"], "did you mean samples?"),
        (["build"], ["assist.model=MODEL", "assist.budget.calls=4", "task.pool.file=evaluation.jsonl"], "is also evaluation question"),
        (["build"], ["assist.model=MODEL", "assist.budget.calls=40", "task.pool.file=seeds.jsonl"], "the pool has 6 questions"),
        (["ablate", "--calls", "4"], [], "need a recipe with one and its budget (assist:)"),
        (["ablate", "--arms", "ARTE with an assistant"], [], "needs a recipe in which one helps"),
        (["build"], ["assist.model=MODEL"], "one of budget and arte is needed"),
        (["ablate", "--arms", "assisted"], [], "need a recipe with one and its budget (assist:)"),
        (["build"], ["assist.model=MODEL", "assist.budget.calls=4", "task.pool.file=seeds.jsonl",
                     "assist.several={familiarity: true, teachers: [{model: x, endpoint: {url: 'http://localhost:9/v1'}}]}"],
         "assist.several.familiarity: an endpoint does not tell"),
        (["build"], ["assist.model=MODEL", "assist.budget.calls=4",
                     "assist.several={familiarity: true, choose: policy, teachers: [{model: MODEL}]}"],
         "familiarity is for choose: router"),
    ],
)  # fmt: skip
def test_mistakes_are_said_before_anything_is_done(
    command: list[str], options: list[str], message: str, tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tiny.write_recipe(tmp_path / "task", tiny_model)
    options = [o.replace("MODEL", str(tiny_model)) for o in options]
    assert main([command[0], str(recipe), *options, *command[1:], "--runs", str(tmp_path / "runs")]) == 2
    assert message in capsys.readouterr().err


def test_a_recipe_with_several_teachers_is_read_with_its_paths_and_checked(
    tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tiny.write_recipe(tmp_path / "task", tiny_model)
    shutil.copytree(tiny_model, tmp_path / "task" / "other")
    options = [*tiny.assisted(tiny_model), "assist.several.teachers=[{model: other, style: continuation}]"]
    loaded = load_recipe(recipe, options)
    assert loaded.assist
    assert loaded.assist.several
    assert loaded.assist.several.teachers[0].model == str(tmp_path / "task" / "other")
    bad = [*tiny.assisted(tiny_model), "assist.several.teachers=[{model: nowhere.gguf}]"]
    assert main(["build", str(recipe), *bad, "--runs", str(tmp_path / "runs")]) == 2
    assert "assist.several.teachers.0.model: nowhere.gguf" in capsys.readouterr().err
    arms = ["--arms", "teachers by router"]
    assert main(["ablate", str(recipe), *tiny.assisted(tiny_model), *arms, "--runs", str(tmp_path / "runs")]) == 2
    assert "assist.several:" in capsys.readouterr().err


def test_an_assistant_helps_arte_with_what_is_worth_scoring_believing_and_learning(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    setup, _ = world(monkeypatch, tmp_path)
    how = Assist(model="none", arte=Guide(score=0.5))
    right, wrong = (Rationale(kind, f"<ans>{n}</ans>", "") for kind, n in (("a", 30), ("b", 31)))
    drafts = [Draft(q.id, q.input, q.target, "", ()) for q in POOL]
    assert how.arte
    kept = guidance.worth_scoring(setup, how, how.arte, tmp_path, drafts)
    assert [d.id for d in kept] == [q.id for q in POOL[20:]], "the half that the student is unsure of, in its order"
    only = Draft("q30", "number 30", "30", "", (), (right, wrong))
    none = Draft("q31", "number 31", "31", "", (), (right,))
    assert guidance.believed(setup, how, [only, none]) == (replace(only, rationales=(right,)),)
    examples = [Example("a", "number 30", "<ans>30</ans>", "30", ""), Example("b", "number 30", "<ans>7</ans>", "7", "")]
    weights = [e.weight for e in guidance.weighed(setup, how, examples)]
    assert weights[0] > 2 * weights[1]
    assert sum(weights) == pytest.approx(2)


def test_an_assistant_spends_a_budget_or_helps_arte() -> None:
    for options in ({}, {"budget": {"calls": 3}, "arte": {}}):
        with pytest.raises(ValueError, match="one of budget and arte is needed"):
            Assist.model_validate({"model": "x", **options})
    with pytest.raises(ValueError, match="a budget of calls, tokens or money is needed"):
        Assist.model_validate({"model": "x", "budget": {}})


def test_a_description_alone_is_enough_for_a_teacher_that_chats(tmp_path: Path) -> None:
    bare = Task("t", "Add two numbers.", AnswerFormat("number"), (), SEEDS, SEEDS)
    rest = "<Question_2>\n<input>one and one?</input>\n<target>2</target>\n</Question_2>"
    wrote = f"two and five?</input>\n<target>7</target>\n</Question_1>\n{rest}"
    teacher = Scripted(says=lambda text: wrote)
    ask = draft.Settings("chat", 0, 2, 1.0, 1.0, 50, 50, 0.0, 0.9, 1, 0)
    found = draft.draft_questions(teacher, bare, ask, 2, Store(tmp_path), purpose="draft", label="x")
    assert [(d.input, d.target, d.seeds) for d in found.drafts] == [("two and five?", "7", ()), ("one and one?", "2", ())]
    assert "example" not in teacher.asked[0]
    assert "<input>the question</input>\n<target>its answer</target>" in teacher.asked[0]


def test_what_needs_seeds_says_so(tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tiny.write_recipe(tmp_path / "task", tiny_model)
    options = ["task.seeds=null", "teacher.style=chat", "measure.shots=[2]", "train.weights=influence"]
    assert main(["build", str(recipe), *options, "--runs", str(tmp_path / "runs")]) == 2
    said = capsys.readouterr().err
    assert [line.split(": ")[1] for line in said.splitlines()] == ["task.preference", "measure.shots", "influence"]
