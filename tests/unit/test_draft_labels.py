"""Drafting in a chat for one label at a time: what is asked, how a list is read, what is taught of what was written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from edgearte.answers import AnswerFormat
from edgearte.arte import draft, labelled, prompts, tailor, whole
from edgearte.arte.verify import Check, Verdict
from edgearte.lm.base import Completion, Prompt, Sampling, Score
from edgearte.records import Draft, Question, Rationale
from edgearte.store import Store
from edgearte.task import Task

MEANINGS = {"play_music": "something is to be played", "what_song": "the song's name is asked", "lights": ""}
SEEDS = tuple(
    Question(f"s{i}", text, target, why)
    for i, (text, target, why) in enumerate(
        [
            ("play a song", "play_music", "They want to hear a song."),
            ("put on some jazz", "play_music", ""),
            ("what is this tune", "what_song", "They ask for a name."),
            ("it is dark in here", "lights", ""),
        ]
    )
)
TASK = Task("t", "Say what a command is about.", AnswerFormat("tag", choices=tuple(MEANINGS)), SEEDS, SEEDS, (), meanings=MEANINGS)
STYLES = ("polite", "short", "as a question")
CHAT = draft.Settings("chat", 2, 3, 1.0, 1.0, 20, 20, 0.0, 0.95, 3, 0, STYLES)
CONTINUE = replace(CHAT, style="continuation")


class Scripted:
    """A model that says what a function of the prompt decides, and why it ended; it remembers what it was asked."""

    identity = "scripted"

    def __init__(self, says: Callable[[str], str | tuple[str, str]]) -> None:
        self.says, self.asked, self.sampling = says, list[str](), list[Sampling]()

    def generate(self, rows: Sequence[Prompt], sampling: Sampling) -> list[Completion]:
        self.sampling.append(sampling)
        found = []
        for p in rows:
            self.asked.append(p.prefix + p.text)
            said = self.says(p.prefix + p.text)
            text, ended = said if isinstance(said, tuple) else (said, "eos")
            found.append(Completion(text, 10, 5, ended))
        return found

    def loglikelihood(self, pairs: Sequence[tuple[Prompt, str]]) -> list[Score]:
        return [Score(0.0, 1) for _ in pairs]

    def chat(self, messages: Sequence[dict[str, str]]) -> str:
        return "".join(f"[{m['role']}]{m['content']}" for m in messages) + "[assistant]"


def label_of(asked: str) -> str:
    return asked.partition("different texts whose answer is “")[2].partition("”")[0].replace(" ", "_")


def a_list(count: int = 3) -> Callable[[str], str]:
    """A teacher that writes `count` texts of the label it is asked for, other ones each time."""
    times: Counter[str] = Counter()

    def say(asked: str) -> str:
        label = label_of(asked)
        times[label] += 1
        turn = chr(97 + times[label])
        words = [f"{label.replace('_', '')}{turn}{'abc'[k]} {'xyz'[k] * 9} {turn * 7}" for k in range(count)]
        return "".join(f" {w}\n{k}." for k, w in enumerate(words, 2))

    return say


def drafted(teacher: Scripted, tmp_path: Path, count: int, checks: Sequence[Check] = (), **changed: object) -> draft.Drafted:
    settings = replace(CHAT, **changed)  # type: ignore[arg-type]
    return draft.draft_questions(teacher, TASK, settings, count, Store(tmp_path), purpose="d", label="d", checks=checks)


def test_a_chat_is_asked_for_one_label_with_its_meaning_its_seeds_and_the_others(tmp_path: Path) -> None:
    teacher = Scripted(a_list())
    drafted(teacher, tmp_path, 9)
    asked = next(a for a in teacher.asked if label_of(a) == "play_music")
    assert "- play music: something is to be played\n" in asked
    assert "- what song: the song's name is asked\n" in asked, "what the texts must not be about"
    assert "Write 5 different texts whose answer is “play music” (something is to be played)" in asked
    assert "it is dark in here" not in asked
    assert asked.endswith("[assistant]1. play a song\n2. put on some jazz\n3."), "it goes on with what it seems to have begun"
    assert teacher.sampling[0].stop == ("\n6.",)


def test_a_label_without_seeds_is_not_shown_those_of_others(tmp_path: Path) -> None:
    teacher = Scripted(a_list())
    few = replace(TASK, seeds=SEEDS[:2])
    draft.draft_questions(teacher, few, CHAT, 9, Store(tmp_path), purpose="d", label="d")
    asked = next(a for a in teacher.asked if label_of(a) == "what_song")
    assert asked.endswith("[assistant]1.")
    assert "play a song" not in asked


def test_every_label_gets_its_share_and_every_style_its_turn(tmp_path: Path) -> None:
    teacher = Scripted(a_list())
    found = drafted(teacher, tmp_path, 27)
    assert Counter(d.target for d in found.drafts) == {"play_music": 9, "what_song": 9, "lights": 9}
    assert [d.target for d in found.drafts[:3]] == list(MEANINGS), "in turn, so that a set cut short is balanced too"
    styles = {(label_of(a), next(s for s in STYLES if f"on they are {s}." in a)) for a in teacher.asked}
    assert len(styles) == 9
    assert len({s for _, s in [(label_of(a), next(s for s in STYLES if s in a)) for a in teacher.asked[:3]]}) == 3


def test_a_label_that_comes_short_is_asked_for_again_and_alone(tmp_path: Path) -> None:
    write = a_list()
    teacher = Scripted(lambda asked: write(asked) if label_of(asked) != "lights" or len(teacher.asked) > 3 else "")
    found = drafted(teacher, tmp_path, 9)
    assert Counter(d.target for d in found.drafts) == {"play_music": 3, "what_song": 3, "lights": 3}
    assert {label_of(a) for a in teacher.asked[3:]} == {"lights"}
    assert found.dropped["not in the form asked for"] == 3


def test_checks_judge_a_late_round_together_with_the_earlier_ones(tmp_path: Path) -> None:
    """A vote's calibration needs drafts of every label."""
    seen = []

    def verdicts(drafts: Sequence[Draft]) -> list[Verdict]:
        seen.append(Counter(d.target for d in drafts))
        return [Verdict(d.target != "lights" or len(seen) > 1) for d in drafts]

    found = drafted(Scripted(a_list()), tmp_path, 9, [Check("no", verdicts)])
    assert seen[0] == {"play_music": 3, "what_song": 3, "lights": 3}
    assert seen[1]["play_music"] == 3
    assert seen[1]["lights"] > 3
    assert len(found.drafts) == 9
    assert "no" not in found.dropped, "what stands at last is not counted as fallen"


def test_dropped_drafts_are_kept_as_samples(tmp_path: Path) -> None:
    checks = [Check("no music", lambda ds: [Verdict(d.target != "play_music") for d in ds])]
    found = drafted(Scripted(a_list()), tmp_path, 9, checks, attempts=1)
    assert found.dropped["no music"] == 3
    assert found.stood == {"no music": 6}
    assert len(found.samples["no music"]) == 3
    assert all(s.endswith("→ play_music") for s in found.samples["no music"])
    many = drafted(Scripted(a_list()), tmp_path / "b", 27, checks, attempts=1)
    assert (many.dropped["no music"], len(many.samples["no music"])) == (9, 3)


@pytest.mark.parametrize(
    ("line", "read"),
    [
        (' "Play it again."', "play it again"),
        (" **Play it again**", "play it again"),
        ("2) play it again (polite)", "play it again"),
        ("- 3. “play it again” - short and casual", "play it again"),
        ("4. play music: play it again", "play it again"),
        ("play it again (temperature)", "play it again"),
        ("play it's got a 'special' sound", "play it's got a 'special' sound"),
        ("play 3.5 hours of it", "play 3.5 hours of it"),
        ("5. play 90s rock at 7 p.m", "play 90s rock at 7 p.m"),
    ],
)
def test_a_lines_number_quotes_and_remarks_are_taken_off(line: str, read: str) -> None:
    (text,) = labelled.read(line, TASK, "play_music", 5, cut=False)
    assert labelled.as_seeds(text, SEEDS) == read


@pytest.mark.parametrize(
    "line",
    [
        "Here are 3 more texts:", "Sure, here you go", "what_song", "this is play_music", "play [song name]", "<target>play_music</target>",
        "play the song <ans>x</ans>", "", "---", "Note: these are polite.", "play ____ please", "Examples:",
    ],
)  # fmt: skip
def test_what_is_no_text_of_the_task_is_left_out(line: str) -> None:
    assert labelled.read(f"{line}\n5. play it again\n", TASK, "play_music", 5, cut=False) == ["play it again"]


def test_a_list_that_was_cut_off_loses_its_last_line() -> None:
    said = " play it again\n2. put on the ra"
    assert labelled.read(said, TASK, "play_music", 5, cut=True) == ["play it again"]
    assert labelled.read(said, TASK, "play_music", 5, cut=False) == ["play it again", "put on the ra"]
    assert labelled.read(said, TASK, "play_music", 1, cut=False) == ["play it again"]


def test_texts_are_written_as_the_seeds_are() -> None:
    formal = [replace(s, input=f"{s.input.capitalize()}.") for s in SEEDS]
    assert labelled.as_seeds("Play Jazz now!", SEEDS) == "play jazz now"
    assert labelled.as_seeds("Play Jazz now", formal) == "Play Jazz now."
    assert labelled.as_seeds("Play Jazz now", [*SEEDS, *formal]) == "Play Jazz now"
    assert labelled.as_seeds("Play Jazz now", []) == "Play Jazz now"


def test_what_a_pair_says_was_written_is_read_back_as_the_draft(tmp_path: Path) -> None:
    """The prompt of a pair is the one that the draft came from, and its completion what brings that very draft."""
    teacher = Scripted(a_list())
    found = drafted(teacher, tmp_path, 27)
    for d in found.drafts:
        prompt = draft.prompt_of(teacher, TASK, CHAT, d)
        assert prompt in teacher.asked
        completion = draft.written(TASK, CHAT, d, len(d.seeds) + 1)
        assert labelled.read(completion, TASK, d.target, 1, cut=False) == [d.input]


def test_a_continuation_pair_is_numbered_as_its_prompt_is() -> None:
    d = Draft("d", "Put the radio on", "play_music", "d/0", ("s0", "s1"))
    prompt = draft.prompt_of(Scripted(str), TASK, CONTINUE, d)
    whole_text = prompt + draft.written(TASK, CONTINUE, d, 3)
    assert whole_text.endswith("<Question_3>\n<target>play_music</target>\n<input>Put the radio on</input>\n</Question_3>")


D = (Draft("d", "put the radio on", "play_music", "d/0", ("s0",)),)


def explained(says: str | tuple[str, str], tmp_path: Path, settings: draft.Settings = CHAT, task: Task = TASK) -> tuple[Rationale, ...]:
    strategies = {"naive": draft.naive(settings)}
    found = draft.draft_rationales(Scripted(lambda _: says), task, settings, D, strategies, Store(tmp_path), label="r")
    return found[0].rationales


def test_a_chat_is_told_the_label_and_says_why(tmp_path: Path) -> None:
    teacher = Scripted(lambda _: " They want to hear the radio.\n")
    (found,) = draft.draft_rationales(teacher, TASK, CHAT, D, {"naive": draft.naive(CHAT)}, Store(tmp_path), label="r")
    assert found.rationales == (Rationale("naive", "They want to hear the radio. <ans>play_music</ans>", "play_music"),)
    (asked,) = teacher.asked
    assert "Question: put the radio on\nAnswer: play_music (something is to be played)\n\n" in asked
    assert "Question: play a song\nAnswer: play_music\nWhy: They want to hear a song.\n" in asked, "the seeds show how"
    assert "what is this tune" not in asked, "reasons for other labels would be taken over"
    assert prompts.NAIVE not in asked
    assert asked.endswith("[assistant]Why:")
    assert draft.rationale_prompt(teacher, TASK, CHAT, D[0].input, D[0].target, draft.naive(CHAT)) == asked
    assert draft.reasoned(TASK, CHAT, found.rationales[0]) == " They want to hear the radio."


def test_a_strategy_says_how_the_reason_is_given(tmp_path: Path) -> None:
    teacher = Scripted(lambda _: " They want to hear the radio. No song is asked for.")
    (found,) = draft.draft_rationales(teacher, TASK, CHAT, D, {"a": "Rule out the others."}, Store(tmp_path), label="r")
    assert found.rationales[0].text == "They want to hear the radio. No song is asked for. <ans>play_music</ans>"
    assert f"Rule out the others. {prompts.WHY}" in teacher.asked[0]


@pytest.mark.parametrize(
    ("said", "taught"),
    [
        ((" They want the radio. It is a kind of mu", "length"), "They want the radio."),
        ((" They want to hear some mu", "length"), None),
        (" They want to hear music", "They want to hear music."),
        (" **Why:** \"They want to hear music.\"", "They want to hear music."),
        (" They want music. <ans>what_song</ans>", "They want music."),
        (" They want music. It is about that.", "They want music."),
        (" play_music", None),
        ("", None),
    ],
)  # fmt: skip
def test_a_reason_is_taught_whole_or_not_at_all(said: str | tuple[str, str], taught: str | None, tmp_path: Path) -> None:
    wanted = () if taught is None else (Rationale("naive", f"{taught} <ans>play_music</ans>", "play_music"),)
    assert explained(said, tmp_path) == wanted


def test_a_continued_reason_that_fills_its_pattern_was_cut_off(tmp_path: Path) -> None:
    long = "They want " + "very " * 13 + "loud mus."
    assert len(long) >= prompts.bound(CONTINUE.rationale_tokens) - 1
    assert explained(f" {long}\n", tmp_path / "a", CONTINUE) == ()
    kept = explained(f" They want music. {long}"[: len(long)] + ".\n", tmp_path / "b", CONTINUE)
    assert kept == (Rationale("naive", "They want music. <ans>play_music</ans>", "play_music"),)


def test_the_opening_words_of_a_strategy_are_no_reason(tmp_path: Path) -> None:
    teacher = Scripted(lambda _: " They want to hear some mu" + "c" * 60 + ".\n")
    (found,) = draft.draft_rationales(teacher, TASK, CONTINUE, D, {"a": "Say why."}, Store(tmp_path), label="r")
    assert found.rationales == ()


def test_the_patterns_end_with_a_sentence() -> None:
    import re

    pattern = prompts.rationale_pattern(TASK, "play_music", 20)
    assert re.fullmatch(pattern, " They want music.\n")
    assert not re.fullmatch(pattern, " They want mus\n")
    own = prompts.rationale_pattern(replace(TASK, answer=AnswerFormat("number")), "", 20)
    assert re.fullmatch(own, " Two and two are 4. <ans>4</ans>")
    assert not re.fullmatch(own, " Two and two are <ans>4</ans>")


def test_open_reasoning_that_was_cut_off_is_dropped_whole(tmp_path: Path) -> None:
    """Its last steps are missing, and so is what they lead to."""
    number = replace(TASK, answer=AnswerFormat("number", strict=False))
    assert explained(("There are 4 of them. Then 3 mo", "length"), tmp_path / "a", CHAT, number) == ()
    assert [r.answer for r in explained("There are 4 of them <ans>4</ans>", tmp_path / "b", CHAT, number)] == ["4"]
    filled = " " + "so 4 and " * 9 + ". <ans>4</ans>"
    assert explained(filled, tmp_path / "c", CONTINUE, number) == ()


def test_a_question_that_fills_its_pattern_was_cut_off(tmp_path: Path) -> None:
    said = "Put on the " + "very " * 13 + "long</input>"
    found = draft.draft_questions(
        Scripted(lambda _: said), TASK, replace(CONTINUE, attempts=1, per_prompt=1), 3, Store(tmp_path), purpose="d", label="d"
    )
    assert found.drafts == ()
    assert found.dropped == {"cut off": 3}
    assert found.samples["cut off"][0].startswith("Put on the very")


@pytest.mark.parametrize(
    ("text", "kept"),
    [("One. Two! Three", "One. Two!"), ("It is 3.5 and", ""), ("He said “go.” Then", "He said “go.”"), ("Why? ", "Why?"), ("", "")],
)
def test_whole_sentences(text: str, kept: str) -> None:
    assert whole.sentences(text) == kept


def tailored(teacher: Scripted, tmp_path: Path, teach: tailor.Teach) -> tailor.Tailored:
    return tailor.tailor(teacher, TASK, CHAT, 18, Store(tmp_path), purpose="t", arm="a", teach=teach)


def speaks(reason: str | tuple[str, str] = " They say so.") -> Scripted:
    write = a_list()
    return Scripted(lambda asked: write(asked) if "different texts" in asked else reason)


def test_what_is_taught_is_the_reason_and_the_answer_or_the_answer_alone(tmp_path: Path) -> None:
    reasons = tailored(speaks(), tmp_path / "a", "rationale")
    assert {e.completion for e in reasons.examples} == {f"They say so. <ans>{c}</ans>" for c in MEANINGS}
    teacher = speaks()
    answers = tailored(teacher, tmp_path / "b", "answer")
    assert [(e.id, e.completion) for e in answers.examples] == [(e.id, f"<ans>{e.target}</ans>") for e in reasons.examples]
    assert not any("Why:" in a for a in teacher.asked), "reasons that are not taught are not written"
    both = tailored(speaks(), tmp_path / "c", "both")
    assert [e.id for e in both.examples] == [e.id for e in reasons.examples]
    long = sum(e.completion.startswith("They") for e in both.examples)
    assert 4 <= long <= 14
    assert {e.completion for e in both.examples} <= {e.completion for e in (*reasons.examples, *answers.examples)}


def test_what_was_cut_off_is_counted_and_not_taught(tmp_path: Path) -> None:
    found = tailored(speaks((" They say so beca", "length")), tmp_path, "rationale")
    assert found.examples == ()
    assert found.dropped["cut off"] == len(found.drafts) == 18
    assert len(found.samples["cut off"]) == 3


def test_the_seeds_are_taught_as_the_drafts_are() -> None:
    assert tailor.of_seeds(TASK)[0].completion == "They want to hear a song. <ans>play_music</ans>"
    assert tailor.of_seeds(TASK, "answer")[0].completion == "<ans>play_music</ans>"
    assert [e.completion for e in tailor.seeds_alone(TASK, 5, "answer")][4] == "<ans>play_music</ans>"
    examples = tailor.seeds_alone(TASK, 2)
    whole_set = tailor.with_seeds(examples, TASK, "answer")
    assert [e.source for e in whole_set] == ["seed"] * 6
    assert whole_set[4:] == examples


def test_a_chosen_rationale_may_be_none() -> None:
    drafts = [replace(D[0], rationales=(Rationale("a", "so <ans>lights</ans>", "lights"),))]
    assert len(tailor.chosen(drafts, lambda d: d.rationales[0])) == 1
    assert tailor.chosen(drafts, lambda _: None) == ()


def test_a_development_question_is_not_taught(tmp_path: Path) -> None:
    deciding = replace(TASK, development=(Question("v", "playmusicba xxxxxxxxx bbbbbbb", "play_music"),))
    found = draft.draft_questions(Scripted(a_list()), deciding, replace(CHAT, attempts=1), 9, Store(tmp_path), purpose="d", label="d")
    assert len(found.drafts) == 8
    assert found.dropped == {"like a development question": 1}
    assert found.samples["like a development question"] == ("playmusicba xxxxxxxxx bbbbbbb",)
