"""Sieves: which drafts are fit to teach, and how many of them a reader would call right."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from edgearte.answers import AnswerFormat
from edgearte.arte import share, sieve, vote
from edgearte.lm.base import Completion, Prompt, Sampling, Score
from edgearte.records import Draft, Question
from edgearte.store import Store
from edgearte.task import Task

LABELS = ("play_music", "what_song")
SEEDS = tuple(
    Question(f"s{i}", text, target)
    for i, (text, target) in enumerate(
        [
            ("play a song for me", "play_music"),
            ("put on some jazz", "play_music"),
            ("what is this tune", "what_song"),
            ("who sings this song", "what_song"),
            ("play the radio", "play_music"),
        ]
    )
)
TASK = Task("t", "Say what it is about.", AnswerFormat("tag", choices=LABELS), SEEDS, SEEDS, ())


class Read:
    """A model whose likelihoods a function of prompt and continuation decides, one token a word; it remembers what it read."""

    identity = "read"

    def __init__(self, likes: Callable[[str, str], float], says: Callable[[str], str] = lambda _: "") -> None:
        self.likes, self.says, self.read = likes, says, list[tuple[str, str]]()

    def generate(self, rows: Sequence[Prompt], sampling: Sampling) -> list[Completion]:
        return [Completion(self.says(p.prefix + p.text), 10, 5, "stop") for p in rows]

    def loglikelihood(self, pairs: Sequence[tuple[Prompt, str]]) -> list[Score]:
        self.read += [(p.prefix + p.text, c) for p, c in pairs]
        return [Score(self.likes(p.prefix + p.text, c), len(c.split())) for p, c in pairs]

    def chat(self, messages: Sequence[dict[str, str]]) -> str:
        return "".join(m["content"] for m in messages)


def texts(*inputs: str, target: str = "play_music") -> list[Draft]:
    return [Draft(f"d{k}", text, target, "d/0", ()) for k, text in enumerate(inputs)]


def stands(drafts: Sequence[Draft], task: Task = TASK) -> list[bool]:
    return [v.stands for v in sieve.form(task, drafts)]


@pytest.mark.parametrize(
    "text",
    [
        "12 34", "- play it", "play it -", "play it, (please", 'say "play it', "“play it", "play play play play it",
        "la la la la la la now", "play it play it play it play it", "play [artist] now", "play {x}", "play ____ now", "<b>play it</b>",
        "play this:", "update what_song", "see https://x.org please", ", play it", "play it;",
    ],
)  # fmt: skip
def test_what_no_person_would_say_falls(text: str) -> None:
    assert stands(texts(text)) == [False]


@pytest.mark.parametrize(
    "text",
    [
        "play it", "play 'it' please", "what's this?", "play the kids' songs", 'play "yesterday" by the beatles', "play it (the live one)",
        "no no no, play the other one", "play 99 luftballons at 7:30", "play rock-and-roll", "i'm told it's good - play it", "play it!",
        "play the song the the played",
    ],
)  # fmt: skip
def test_what_people_say_stands(text: str) -> None:
    assert stands(texts(text)) == [True]


def test_what_a_seed_does_itself_is_allowed() -> None:
    code = replace(TASK, seeds=(*SEEDS, Question("s9", "what does f[0] do:", "what_song")))
    assert stands(texts("what does g[1] do:"), code) == [True]
    assert stands(texts("what does g[1] do:"), TASK) == [False]


def test_length_is_held_against_the_seeds() -> None:
    drafts = texts("play", "play it", "word " * 15, "word " * 16)
    assert [v.stands for v in sieve.length(TASK, drafts, 3.0)] == [True, True, True, False], "seeds have 3 to 5 words"
    assert [v.stands for v in sieve.length(TASK, drafts, 1.5)] == [False, True, False, False]
    assert all(v.stands for v in sieve.length(TASK, drafts, 0.0))
    assert all(v.stands for v in sieve.length(replace(TASK, seeds=()), drafts, 3.0))


def by_words(prompt: str, text: str) -> float:
    """Words it knows cost one nat, others five; a text that it has just read costs nothing."""
    if f"- {text.strip()}\n" in prompt:
        return 0.0
    known = {w for s in SEEDS for w in s.input.split()}
    return -sum(1.0 if w in known else 5.0 for w in text.split())


def test_a_draft_the_teacher_finds_far_less_likely_than_the_seeds_falls(tmp_path: Path) -> None:
    teacher = Read(by_words)
    drafts = texts("play some song", "zxq vbn kjh", "play vbn kjh")
    verdicts = sieve.plausible(teacher, TASK, drafts, 3.0, Store(tmp_path), label="p")
    assert [v.stands for v in verdicts] == [True, False, False], "seeds: -1 a word, and a quarter of a nat for their spread"
    assert [v.stands for v in sieve.plausible(teacher, TASK, drafts, 11.0, Store(tmp_path), label="p")] == [True, False, True]
    assert all(v.stands for v in sieve.plausible(teacher, TASK, drafts, 0.0, Store(tmp_path), label="p"))
    few = replace(TASK, seeds=SEEDS[:3])
    assert all(v.stands for v in sieve.plausible(teacher, few, drafts, 3.0, Store(tmp_path), label="p"))


def test_a_seed_is_never_read_after_itself(tmp_path: Path) -> None:
    teacher = Read(by_words)
    sieve.plausible(teacher, TASK, texts("play some song"), 3.0, Store(tmp_path), label="p")
    seeds = [(prompt, text.strip()) for prompt, text in teacher.read if text.strip() in {s.input for s in SEEDS}]
    assert {text for _, text in seeds} == {s.input for s in SEEDS}
    assert not any(f"- {text}\n" in prompt for prompt, text in seeds)
    (prompt,) = [prompt for prompt, text in teacher.read if text.strip() == "play some song"]
    assert all(f"- {s.input}\n" in prompt for s in SEEDS)


def test_what_the_student_knows_already_falls(tmp_path: Path) -> None:
    def likes(prompt: str, answer: str) -> float:
        return math.log({"<ans>play_music</ans>": 0.9, "<ans>what_song</ans>": 0.1}[answer]) if "easy" in prompt else math.log(0.5)

    drafts = [*texts("easy one", "hard one"), *texts("easy too", target="what_song")]
    drafts = [replace(d, id=str(k)) for k, d in enumerate(drafts)]

    def known(at_least: float) -> list[bool]:
        verdicts = sieve.known(Read(likes), TASK, lambda t: f"Q: {t}\nA:", drafts, at_least, 10, Store(tmp_path), label="k")
        return [v.stands for v in verdicts]

    assert known(0.8) == [False, True, True]
    assert known(0.95) == [True, True, True]
    assert known(0.5) == [False, False, True]
    assert known(0.0) == [True, True, True]


def test_an_open_answer_is_known_where_the_student_writes_it(tmp_path: Path) -> None:
    number = replace(TASK, answer=AnswerFormat("number"))
    student = Read(lambda *_: 0.0, lambda asked: "so <ans>4.0</ans>" if "two and two" in asked else "hm")
    drafts = texts("two and two", "three and one", target="4")
    verdicts = sieve.known(student, number, lambda t: t, drafts, 0.9, 10, Store(tmp_path), label="k")
    assert [v.stands for v in verdicts] == [False, True]


def test_the_parts_of_the_seeds_are_spread_over_the_labels() -> None:
    many = tuple(Question(f"{c}{k}", "x", c) for c in "abcde" for k in range(5))
    parts = sieve.folds(many)
    assert len(parts) == 5
    assert all({q.target for q in part} == set("abcde") for part in parts)
    assert [len(p) for p in sieve.folds(SEEDS[:2])] == [1, 1]
    assert sieve.folds(()) == []


def test_the_vote_is_not_swayed_by_how_many_drafts_a_label_has(tmp_path: Path) -> None:
    """A late round has drafts of the labels that came short alone; a plain mean over them would hold their label against them."""
    teacher = Read(lambda prompt, answer: 2.0 if answer.strip() in prompt.rpartition("Question:")[2] else 0.0)
    drafts = [*texts(*[f"this is play music {k}" for k in range(30)]), *texts("this is what song", target="what_song")]
    shares = vote.shares(teacher, TASK, drafts, Store(tmp_path), label="v")
    assert min(shares) > 0.7


def simulated(right: float, sensitivity: float, mistaken: float, count: int = 1000) -> list[bool]:
    """What a vote of these qualities says of `count` drafts of which that share is right."""
    good = round(right * count)
    confirmed = round(good * sensitivity) + round((count - good) * mistaken)
    return [k < confirmed for k in range(count)]


@pytest.mark.parametrize("truth", [0.1, 0.5, 0.8, 0.95])
def test_the_share_of_right_drafts_is_found_behind_a_vote_that_errs(truth: float) -> None:
    seeds = [(float(k % 5 != 0), 0.05) for k in range(100)]
    agreed = simulated(truth, 0.8, 0.05)
    found = share.right(agreed, seeds, sieved=False)
    assert found
    assert found.share == pytest.approx(truth, abs=0.01)
    assert found.low < truth < found.high
    assert abs(sum(agreed) / len(agreed) - truth) > 0.02, "the bare count is another"
    kept = share.right(agreed, seeds, sieved=True)
    assert kept
    confirmed_right = truth * 0.8
    assert kept.share == pytest.approx(confirmed_right / (confirmed_right + (1 - truth) * 0.05), abs=0.01)
    assert "of the kept drafts are right" in kept.said


def test_a_share_stays_within_bounds_and_is_not_told_by_a_blind_vote() -> None:
    seeds = [(1.0, 0.0)] * 3 + [(0.0, 0.2)] * 3
    most = share.right([True] * 20, seeds, sieved=False)
    least = share.right([False] * 20, seeds, sieved=False)
    assert most
    assert least
    assert (most.share, least.share) == (1.0, 0.0)
    assert 0.0 <= least.low <= least.high <= 1.0
    assert share.right([True], [(0.5, 0.5)], sieved=False) is None
    assert share.right([], seeds, sieved=False) is None
    assert share.right([True], [], sieved=False) is None


def test_seeds_are_voted_on_by_a_teacher_that_is_not_shown_them(tmp_path: Path) -> None:
    teacher = Read(lambda prompt, answer: 3.0 * (("song" in prompt.rpartition("Question:")[2]) == (answer == " what song")))
    drafts = [*texts("jazz", "rock"), *texts("which song", "jazz again", target="what_song")]
    found = share.share_right(teacher, TASK, drafts, 0.5, Store(tmp_path), label="s")
    for prompt, _ in teacher.read:
        asked = prompt.rpartition("Question: ")[2].partition("\n")[0]
        assert f"Question: {asked}\n" not in prompt.rpartition("Question: ")[0]
    assert found
    assert found.agreed == 0.75
    # "play a song for me" is taken for the other label, "what is this tune" too: 3 of 5 seeds are confirmed, 2 wrong ones would be.
    assert (found.sensitivity, found.mistaken) == (0.6, 0.4)
    assert found.seeds == 5
    # Three of the four stood where the other one was sieved out: the share of right ones among the three is higher than among all.
    kept = share.of_voted(teacher, TASK, 3, 1, 0.5, Store(tmp_path), label="s")
    assert kept
    assert kept.share >= found.share
    assert kept == share.right([True] * 3 + [False], [(1.0, 0.0)] * 3 + [(0.0, 1.0)] * 2, sieved=True)
