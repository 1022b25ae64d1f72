"""The stages of the loop on a scripted model: what is asked, what is read, what is kept, what is paired."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgearte.answers import AnswerFormat, extract
from edgearte.arte import align, draft, prefer, prompts, tailor, vote
from edgearte.arte.verify import Check, Verdict, Verifier
from edgearte.lm.base import Completion, Prompt, Sampling, Score
from edgearte.records import Draft, Preference, Question, Rationale
from edgearte.store import Store
from edgearte.task import Task

SEEDS = tuple(
    Question(f"s{i}", text, target, f"it says {target}")
    for i, (text, target) in enumerate(
        [("turn it on", "lights"), ("play a song", "music"), ("is it raining", "weather")]
    )
)
TASK = Task(
    "t", "Say what it is about.", AnswerFormat("tag", choices=("lights", "music", "weather")), SEEDS, SEEDS,
    (Question("e0", "is it dark outside now", "lights"),),
)  # fmt: skip
FREE = replace(TASK, answer=AnswerFormat("tag"))  # a chat names what it drafts itself: no label to draft for
OPEN = replace(TASK, answer=AnswerFormat("number"), seeds=(Question("s0", "two and two?", "4", "two and two"),))
CHAT = draft.Settings("chat", 2, 2, 1.0, 1.0, 50, 50, 0.0, 0.9, 2, 0)
CONTINUE = replace(CHAT, style="continuation")


class Scripted:
    """A model whose completions a function decides; it remembers what it was asked."""

    identity = "scripted"

    def __init__(self, says: Callable[[Prompt], str], likes: Callable[[str, str], float] = lambda a, b: 0.0) -> None:
        self.says, self.likes, self.asked = says, likes, list[Prompt]()

    def generate(self, rows: Sequence[Prompt], sampling: Sampling) -> list[Completion]:
        self.asked += rows
        return [Completion(self.says(p), 10, 5, "stop") for p in rows]

    def loglikelihood(self, pairs: Sequence[tuple[Prompt, str]]) -> list[Score]:
        return [Score(self.likes(p.text, c), 1) for p, c in pairs]

    def chat(self, messages: Sequence[dict[str, str]]) -> str:
        return "".join(f"[{m['role']}]{m['content']}" for m in messages) + "[assistant]"


def test_a_chat_teacher_is_asked_as_in_paper_1a_and_read_tolerantly(tmp_path: Path) -> None:
    teacher = Scripted(lambda p: "dim the lamp</input> <target>lights</target></Question_3>\n<Question_4>\n<input>rock please</input>"
                                 "\n<target> music </target></Question_4><Question_5><input>cut off")  # fmt: skip
    found = draft.draft_questions(teacher, FREE, CHAT, 2, Store(tmp_path), purpose="draft", label="d")
    assert [(d.input, d.target) for d in found.drafts] == [("dim the lamp", "lights"), ("rock please", "music")]
    asked = teacher.asked[0].prefix
    assert TASK.description in asked
    assert "brainstorm 2 more" in asked
    assert asked.endswith("<Question_3>\n<input>")
    assert len(found.drafts[0].seeds) == 2


def test_a_label_in_another_case_is_spelled_as_the_task_spells_it_before_the_vote(tmp_path: Path) -> None:
    teacher = Scripted(
        lambda p: "dim the lamp</input>\n<target>Lights</target></Question_3>",
        lambda text, label: float("lamp" in text and label == " lights"),
    )
    store = Store(tmp_path)
    checks = [
        Check("v", lambda ds: [Verdict(p >= 0.3) for p in vote.shares(teacher, TASK, ds, store, label="v")]),
        Check("w", lambda ds: [Verdict(False, "music") for _ in ds]),
        Check("x", lambda ds: [Verdict(d.target == "music") for d in ds]),
    ]
    asking = replace(CHAT, attempts=1)
    whole = replace(TASK, answer=replace(TASK.answer, kind="text"))
    found = draft.draft_questions(teacher, whole, asking, 1, store, purpose="d", label="d", checks=checks)
    assert [d.target for d in found.drafts] == ["music"], "what one check puts in its place is what the next one sees"


def test_seeds_of_a_target_with_few_of_them_are_counted_prompt_by_prompt(tmp_path: Path) -> None:
    """Prompts of one chunk may show different numbers of seeds, and so number their questions differently."""
    more = replace(TASK, seeds=(*SEEDS, Question("s3", "turn it off", "lights", "it says lights")))

    def go_on(prompt: Prompt) -> str:
        target = next(t for t in TASK.answer.choices if f"<target>{t}</target>" in prompt.prefix)
        return f"more about {target} please</input>"

    asking = replace(CONTINUE, attempts=1, per_prompt=1)
    found = draft.draft_questions(Scripted(go_on), more, asking, 3, Store(tmp_path), purpose="d", label="d")
    assert [(len(d.seeds), d.target) for d in found.drafts] == [(2, "lights"), (1, "music"), (1, "weather")]


def test_every_answer_gets_its_share_of_the_drafts_as_far_as_the_teacher_can_write_to_it(tmp_path: Path) -> None:
    def go_on(prompt: Prompt) -> str:
        """Writes well for lights, only now and then for music, and never for the weather."""
        target = prompt.prefix.rpartition("</target>")[0].rpartition("<target>")[2]
        word = "".join(chr(97 + int(c)) for c in str(prompt.seed))
        text = f"{word} {target}" if target == "lights" or (target == "music" and prompt.seed % 3 == 0) else "x"
        return f"{text}</input>"

    asking = replace(CONTINUE, attempts=6, per_prompt=1)
    found = draft.draft_questions(Scripted(go_on), TASK, asking, 9, Store(tmp_path), purpose="d", label="d")
    drafted = [d.target for d in found.drafts]
    assert drafted == ["lights", "music"] * 3, "in turn, so that a set cut short is balanced too"
    assert found.asked > 9


@pytest.mark.parametrize(("tokens", "chunks"), [(100, [5]), (4096, [2, 2, 1]), (99_999, [1] * 5)])
def test_what_may_be_long_is_kept_piece_by_piece(tokens: int, chunks: list[int], tmp_path: Path) -> None:
    """A build that is stopped while a large teacher drafts loses a piece that it can write in minutes, not all that was asked for."""
    sizes: list[int] = []

    class Teacher(Scripted):
        def generate(self, rows: Sequence[Prompt], sampling: Sampling) -> list[Completion]:
            sizes.append(len(rows))
            return super().generate(rows, sampling)

    asking = replace(CHAT, attempts=1, question_tokens=tokens)
    draft.draft_questions(Teacher(lambda p: ""), FREE, asking, 5 * asking.per_prompt, Store(tmp_path), purpose="d", label="d")
    assert sizes == chunks


def test_bad_and_repeated_questions_are_dropped_with_their_reason(tmp_path: Path) -> None:
    lines = [
        "turn it on!|lights",
        "feed the cat|",
        "Is it dark outside now?|lights",
        "x|music",
        "dim the lamp|lights",
        "Dim the lamp.|lights",
    ]
    body = "".join(
        f"<Question_{i}><input>{a}</input><target>{b}</target></Question_{i}>"
        for i, line in enumerate(lines, 3)
        for a, b in [line.split("|")]
    )
    teacher = Scripted(lambda p: body.removeprefix("<Question_3><input>"))
    found = draft.draft_questions(
        teacher, FREE, replace(CHAT, per_prompt=6, attempts=1), 6, Store(tmp_path), purpose="d", label="d"
    )
    assert [d.input for d in found.drafts] == ["dim the lamp"]
    assert found.dropped == {
        "near copy of a seed": 1, "target not of the answer's form": 1, "like an evaluation question": 1,
        "no question in it": 1, "near copy of another draft": 1,
    }  # fmt: skip


def test_a_continuation_drafts_for_each_target_in_turn_and_shows_its_seeds(tmp_path: Path) -> None:
    teacher = Scripted(lambda p: "")
    draft.draft_questions(teacher, TASK, replace(CONTINUE, attempts=1), 6, Store(tmp_path), purpose="d", label="d")
    for prompt, target in zip(teacher.asked, TASK.answer.choices, strict=True):
        assert f"<target>{target}</target>" in prompt.prefix
        assert target in prompt.pattern
        assert not any(f"<target>{other}</target>" in prompt.prefix for other in TASK.answer.choices if other != target)


@given(
    st.lists(
        st.tuples(st.from_regex(r"[A-Z][a-z ]{9,40}", fullmatch=True), st.sampled_from(TASK.answer.choices)),
        min_size=1,
        max_size=4,
    )
)
def test_what_a_pattern_allows_is_read_back(written: list[tuple[str, str]]) -> None:
    import re

    first = 4
    text = "\n".join(prompts.question_text(i, a, b, given=True) for i, (a, b) in enumerate(written, first))
    target, last = written[0][1], first + len(written) - 1
    completion = text.removeprefix(prompts.opening(first, target)).removesuffix(f"\n</Question_{last}>")
    pattern = prompts.continuation_pattern(first, [b for _, b in written], 20)
    assert re.fullmatch(pattern, completion)
    assert prompts.read_questions(completion, first, target) == [(a.strip(), b) for a, b in written]


def test_rationales_by_strategy_and_their_answers(tmp_path: Path) -> None:
    teacher = Scripted(lambda p: "since <ans>music</ans>" if "Think" in p.prefix + p.text else "who knows")
    drafts = (Draft("d", "a song", "music", "draft/0", ("s0",)),)
    found = draft.draft_rationales(
        teacher, FREE, CHAT, drafts, {"a": "Think.", "b": "Guess."}, Store(tmp_path), label="r"
    )
    assert [(r.strategy, r.answer) for r in found[0].rationales] == [("a", "music"), ("b", None)]
    assert all("output your final answer like <ans>" in p.prefix + p.text for p in teacher.asked)


def test_a_continued_rationale_opens_with_the_strategy_and_ends_in_its_target(tmp_path: Path) -> None:
    teacher = Scripted(lambda p: " to hear a song.\n")
    drafts = (Draft("d", "a song", "music", "draft/0", ("s0",)),)
    found = draft.draft_rationales(teacher, TASK, CONTINUE, drafts, {"w": "They want"}, Store(tmp_path), label="r")
    assert found[0].rationales == (Rationale("w", "They want to hear a song. <ans>music</ans>", "music"),)
    assert (teacher.asked[0].prefix + teacher.asked[0].text).endswith("Answer: music\nWhy: They want")


def test_the_vote_believes_the_drafts_the_teacher_would_label_so(tmp_path: Path) -> None:
    drafts = [Draft(str(i), f"about {t}", t, "", ()) for i, t in enumerate(TASK.answer.choices)]
    drafts.append(Draft("wrong", "about music", "weather", "", ()))
    teacher = Scripted(lambda p: "", lambda text, label: 3.0 * (label.strip() in text) + 5.0 * (label == " lights"))
    shares = vote.shares(teacher, TASK, drafts, Store(tmp_path), label="v")
    assert all(share > 0.5 for share in shares[:3]), "the bias for one label must not decide"
    assert shares[3] < 0.3


def test_preference_is_the_share_of_questions_answered_with_the_example(tmp_path: Path) -> None:
    good = Rationale("g", "so <ans>lights</ans>", "lights")
    bad = Rationale("b", "hm <ans>music</ans>", "music")
    student = Scripted(lambda p: " <ans>lights</ans>" if "so <ans>" in p.prefix else " no idea")
    drafts = [Draft("d", "q", "lights", "", (), (good, bad))]
    found = prefer.exact(student, TASK, drafts, TASK.preference, 20, Store(tmp_path))
    scored = found.preferences
    assert [(p.strategy, p.n, p.correct, p.extracted) for p in scored] == [("g", 3, 1, 3), ("b", 3, 0, 0)]
    assert (found.generations, found.exact) == (6, 6)
    assert [p.marks for p in scored] == [(1.0, 0.0, 0.0), (0.0, 0.0, 0.0)]
    assert prefer.question_scores(scored) == {"d": pytest.approx(1 / 6)}
    asked = student.asked[0]
    # Paper 2b, word for word.
    assert asked.prefix + asked.text == (
        "Task Description: Say what it is about. Remember you should include your final answer with the tag <ans> and </ans>.\n"
        "Question: q\nAnswer: Let's think step by step. so <ans>lights</ans>\n"
        "Question: turn it on\nAnswer: Let's think step by step."
    )


def _scores(*values: float) -> list[Preference]:
    return [Preference(f"d{i}", "a", v, 10, round(v * 10), 10) for i, v in enumerate(values)]


def test_scores_that_prefer_nothing_are_said_to() -> None:
    assert "every score is zero" in prefer.degenerate(_scores(0, 0))
    assert "does not tell the drafts apart" in prefer.degenerate(_scores(0.5, 0.5))
    assert prefer.degenerate(_scores(0.5, 0)) == ""
    assert prefer.degenerate([]) != ""


def test_question_pairs_take_the_top_quarter_against_the_bottom_one_first() -> None:
    drafts = [Draft(f"d{i}", f"question {i}", "4", "draft/0", ("s0",)) for i in range(8)]
    preferences = _scores(0.9, 0.8, 0.5, 0.5, 0.5, 0.5, 0.1, 0.0)
    pairs = align.question_pairs(Scripted(lambda p: ""), OPEN, CHAT, drafts, preferences, 4)
    assert {(p.chosen_from, p.rejected_from) for p in pairs} == {(a, b) for a in ("d0", "d1") for b in ("d6", "d7")}
    assert all(p.chosen_score > p.rejected_score and p.prompt.endswith("<input>") for p in pairs)
    assert pairs[0].chosen == f"question {pairs[0].chosen_from[1]}</input>\n<target>4</target>\n</Question_2>"
    assert len(align.question_pairs(Scripted(lambda p: ""), OPEN, CHAT, drafts, preferences, 3)) == 3


def test_where_quarters_give_too_few_pairs_halves_follow_and_then_any_two_with_a_gap() -> None:
    drafts = [Draft(f"d{i}", f"question {i}", "4", "draft/0", ("s0",)) for i in range(8)]
    preferences = _scores(1.0, 0.9, 0.7, 0.6, 0.5, 0.5, 0.1, 0.0)
    pairs = align.question_pairs(Scripted(lambda p: ""), OPEN, CHAT, drafts, preferences, 50)
    made = [(int(p.chosen_from[1]), int(p.rejected_from[1])) for p in pairs]
    assert len(set(made)) == len(made) == 8 * 7 // 2 - 1, "all but the two that are level"
    halves, rest = made[4:16], made[16:]
    assert all(a < 4 <= b for a, b in halves)
    for part in (pairs[4:16], pairs[16:]):
        gaps = [p.chosen_score - p.rejected_score for p in part]
        assert gaps == sorted(gaps, reverse=True)
    assert all((a < 4) == (b < 4) for a, b in rest)


def test_a_pair_weighs_what_its_gap_is_worth() -> None:
    drafts = [Draft(f"d{i}", f"question {i}", "4", "draft/0", ("s0",)) for i in range(3)]
    marks = {"d0": (1,) * 20, "d1": (1,) * 10 + (0,) * 10, "d2": (0, 1) * 4 + (1,) * 3 + (0,) * 9}
    preferences = [Preference(d, "a", sum(m) / 20, 20, sum(m), 20, tuple(map(float, m))) for d, m in marks.items()]
    pairs = {(p.chosen_from, p.rejected_from): p for p in align.question_pairs(
        Scripted(lambda p: ""), OPEN, CHAT, drafts, preferences, 50)}  # fmt: skip
    assert pairs["d0", "d2"].certain
    assert pairs["d0", "d2"].weight > 0.9
    assert not pairs["d1", "d2"].certain
    assert 0 < pairs["d1", "d2"].weight < 0.9


def test_held_out_drafts_make_pairs_of_their_own_and_no_others() -> None:
    drafts = [
        Draft(f"d{i}", f"question {i}", "4", "draft/0", ("s0",), tuple(Rationale(s, f"{s} {i}", "4") for s in "ab")) for i in range(20)
    ]
    preferences = [Preference(f"d{i}", s, i / 20 - 0.5 * (s == "b"), 0) for i in range(20) for s in "ab"]
    teacher = Scripted(lambda p: "")
    pairs = [
        *align.question_pairs(teacher, OPEN, CHAT, drafts, preferences, 40, held_out=0.2),
        *align.rationale_pairs(teacher, OPEN, CHAT, drafts, preferences, 40, held_out=0.2),
    ]
    ends = {
        flag: {e.split("/")[0] for p in pairs if p.held_out is flag for e in (p.chosen_from, p.rejected_from)} for flag in (True, False)
    }
    assert len(ends[True]) == 4
    assert not ends[True] & ends[False]
    for kind, held, learned in (("question", 6, 34), ("rationale", 4, 16)):
        assert [sum(p.held_out is flag for p in pairs if p.kind == kind) for flag in (True, False)] == [held, learned]
    again = align.question_pairs(teacher, OPEN, CHAT, list(reversed(drafts)), preferences, 40, held_out=0.2)
    assert again == [p for p in pairs if p.kind == "question"], "the order of the drafts decides nothing"


def test_of_small_groups_some_are_held_out_by_twos() -> None:
    drafts = [Draft(f"{label}{i}", f"{label} {i}", label, "", ()) for label in "abcdefgh" for i in range(3)]
    groups = {d.id: d.target for d in drafts}
    found = align.held_out_drafts(drafts, 0.25, 0, groups)
    assert len(found) == 6
    assert {sum(i[0] == label for i in found) for label in "abcdefgh"} == {0, 2}
    assert align.held_out_drafts(drafts, 0.25, 1, groups) != found
    assert align.held_out_drafts(drafts, 0.0, 0, groups) == frozenset()


def test_rationale_pairs_are_best_against_worst_on_the_naive_prompt() -> None:
    texts = {"x": "best <ans>4</ans>", "y": "middle <ans>4</ans>", "z": "worst"}
    drafts = [Draft("d0", "q", "4", "", ("s0",), tuple(Rationale(k, v, extract(v, OPEN.answer)) for k, v in texts.items()))]
    scores = [Preference("d0", k, c / 10, 10, c, 10) for k, c in (("x", 9), ("y", 5), ("z", 1))]
    pairs = align.rationale_pairs(Scripted(lambda p: ""), OPEN, CHAT, drafts, scores, 1)
    assert [(p.chosen, p.rejected, p.chosen_score, p.rejected_score) for p in pairs] == [
        (texts["x"], texts["z"], 0.9, 0.1)
    ]
    assert prompts.NAIVE in pairs[0].prompt
    more = align.rationale_pairs(Scripted(lambda p: ""), OPEN, CHAT, drafts, scores, 5)
    assert [(p.chosen_from, p.rejected_from) for p in more] == [("d0/x", "d0/z"), ("d0/x", "d0/y"), ("d0/y", "d0/z")]
    level = [replace(s, score=0.5) for s in scores]
    assert align.rationale_pairs(Scripted(lambda p: ""), OPEN, CHAT, drafts, level, 5) == []


def test_a_rationale_without_an_answer_may_be_rejected_and_is_never_chosen() -> None:
    rationales = (Rationale("x", "cut off in the mid", None), Rationale("y", "so <ans>4</ans>", "4"), Rationale("z", "hm", None))
    drafts = [Draft("d0", "q", "4", "", ("s0",), rationales)]
    scores = [Preference("d0", k, c) for k, c in (("x", 0.9), ("y", 0.5), ("z", 0.1))]
    pairs = align.rationale_pairs(Scripted(lambda p: ""), OPEN, CHAT, drafts, scores, 5)
    assert [(p.chosen_from, p.rejected_from) for p in pairs] == [("d0/y", "d0/z")]


def test_the_extremes_pair_the_highest_with_the_lowest_and_so_on() -> None:
    drafts = [Draft(f"d{i}", f"question {i}", "4", "draft/0", ("s0",)) for i in range(5)]
    preferences = _scores(0.9, 0.7, 0.5, 0.2, 0.1)
    pairs = align.question_pairs(Scripted(lambda p: ""), OPEN, CHAT, drafts, preferences, 4, extremes=True)
    assert [(p.chosen_from, p.rejected_from) for p in pairs] == [("d0", "d4"), ("d1", "d3"), ("d0", "d3"), ("d1", "d4")]


def test_rationale_pairs_can_be_made_on_the_prompt_that_elicited_the_best() -> None:
    rationales = (Rationale("x", "best <ans>4</ans>", "4"), Rationale("y", "worst", None))
    scores = [Preference("d0", "x", 0.9), Preference("d0", "y", 0.1)]
    drafts = [Draft("d0", "q", "4", "", ("s0",), rationales)]
    strategies = {"x": "Add them up.", "y": "Guess."}
    (pair,) = align.rationale_pairs(Scripted(lambda p: ""), OPEN, CHAT, drafts, scores, 5, strategies=strategies)
    assert strategies["x"] in pair.prompt
    assert prompts.NAIVE not in pair.prompt


def test_with_correctness_a_rationale_of_a_wrong_answer_is_worth_nothing() -> None:
    rationales = (Rationale("x", "so <ans>4</ans>", "4"), Rationale("y", "so <ans>5</ans>", "5"), Rationale("z", "hm", None))
    drafts = [Draft("d0", "q", "4", "", (), rationales)]
    scores = [Preference("d0", s, 0.5, 2, 1, 2, (1.0, 0.0)) for s in "xyz"]
    found = prefer.of_the_right(scores, drafts, OPEN)
    assert [(p.score, p.correct, sum(p.marks)) for p in found] == [(0.5, 1, 1.0), (0.0, 1, 0.0), (0.0, 1, 0.0)]


def test_arms_are_equal_in_size_and_seeds_repeat() -> None:
    seeds = tailor.seeds_alone(TASK, 7)
    assert [e.id for e in seeds] == ["s0", "s1", "s2"] * 2 + ["s0"]
    assert seeds[0].completion == "it says lights <ans>lights</ans>"
    assert {len(v) for v in tailor.equal_size({"a": seeds, "b": seeds[:4]}).values()} == {4}


def test_an_example_without_an_answer_is_not_taught(tmp_path: Path) -> None:
    def says(p: Prompt) -> str:
        if "brainstorm" in p.prefix + p.text:
            first = "dim the lamp</input><target>lights</target></Question_3>"
            return first + "<Question_4><input>rock please</input><target>music</target></Question_4>"
        return "so <ans>lights</ans>" if "lamp" in p.prefix + p.text else "no idea"

    found = tailor.tailor(Scripted(says), FREE, CHAT, 2, Store(tmp_path), purpose="t", arm="a")
    assert [e.completion for e in found.examples] == ["so <ans>lights</ans>"]
    assert found.dropped["no answer in the rationale"] == 1


@given(st.text(max_size=80), st.text(max_size=20))
def test_any_text_can_be_verified(text: str, target: str) -> None:
    Verifier(TASK, 0.9).accepts(text, target)
