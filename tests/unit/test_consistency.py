"""Second opinions on drafted targets: the teacher's own majority, and a program of the user's."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgearte.answers import AnswerFormat
from edgearte.arte import checker, consistency, draft
from edgearte.arte.verify import Verdict
from edgearte.errors import UserError
from edgearte.lm.base import Completion, Prompt, Sampling, Score
from edgearte.records import Draft, Question
from edgearte.store import Store
from edgearte.task import Task

SEEDS = (Question("s0", "two and two?", "4", "two and two"), Question("s1", "one and two?", "3", "one and two"))
OPEN = Task("t", "Add.", AnswerFormat("number"), SEEDS, SEEDS, (Question("e0", "six and six?", "12"),))
CHAT = draft.Settings("chat", 2, 2, 1.0, 1.0, 50, 50, 0.0, 0.9, 2, 0)
DRAFTS = tuple(Draft(f"d{i}", f"what is {i} and {i}?", str(2 * i), "draft/0", ()) for i in range(5))


class Sampled:
    """A teacher whose answer to a prompt a function of its text and seed decides; it remembers how it was asked."""

    identity = "sampled"

    def __init__(self, says: Callable[[Prompt], str]) -> None:
        self.says, self.calls, self.sampling = says, list[list[Prompt]](), list[Sampling]()

    def generate(self, rows: Sequence[Prompt], sampling: Sampling) -> list[Completion]:
        self.calls.append(list(rows))
        self.sampling.append(sampling)
        return [Completion(self.says(p), 10, 5, "stop") for p in rows]

    def loglikelihood(self, pairs: Sequence[tuple[Prompt, str]]) -> list[Score]:
        raise AssertionError("samples are asked for, not likelihoods")

    def chat(self, messages: Sequence[dict[str, str]]) -> str:
        return "".join(f"[{m['role']}]{m['content']}" for m in messages) + "[assistant]"


def in_turn(*answers: str) -> Callable[[Prompt], str]:
    """Each question's samples answer `answers` one after the other."""
    asked: dict[str, int] = {}

    def say(prompt: Prompt) -> str:
        text = prompt.prefix + prompt.text
        asked[text] = asked.get(text, -1) + 1
        return answers[asked[text] % len(answers)]

    return say


def verdict(tmp_path: Path, *answers: str, target: str = "4", task: Task = OPEN) -> consistency.Verdict:
    drafts = [Draft("d", "what is 2 and 2?", target, "draft/0", ())]
    teacher = Sampled(in_turn(*answers))
    return consistency.agree(teacher, task, CHAT, drafts, len(answers), 0.7, Store(tmp_path), label="c")[0]


def test_the_majority_and_the_targets_own_share_are_of_all_samples(tmp_path: Path) -> None:
    found = verdict(tmp_path, "<ans>5</ans>", "so <ans>4.0</ans>", "<ans>$5</ans>", "I do not know", "<ans>5</ans>")
    assert found == consistency.Verdict("5", 3 / 5, 1 / 5, {"5": 3, "4": 1})


def test_a_tie_goes_to_the_drafts_own_target_and_else_to_what_was_said_first(tmp_path: Path) -> None:
    said = "<ans>5</ans>", "<ans>4</ans>", "<ans>4</ans>", "<ans>5</ans>"
    assert verdict(tmp_path / "a", *said, target="4").majority == "4"
    assert verdict(tmp_path / "b", *said, target="6").majority == "5"


def test_where_nobody_answers_there_is_no_majority(tmp_path: Path) -> None:
    assert verdict(tmp_path, "hm", "<ans>no number</ans>") == consistency.Verdict(None, 0.0, 0.0, {})


def test_an_answer_that_is_no_choice_is_no_vote_and_choices_are_spelled_as_the_task_spells_them(tmp_path: Path) -> None:
    letters = replace(OPEN, answer=AnswerFormat("choice", choices=("(A)", "(B)")))
    found = verdict(tmp_path, "<ans>b</ans>", "<ans>B) two</ans>", "<ans>(C)</ans>", "<ans>a</ans>", target="(A)", task=letters)
    assert found == consistency.Verdict("(B)", 0.5, 0.25, {"(B)": 2, "(A)": 1})


def test_samples_are_asked_naively_at_the_temperature_and_each_with_a_seed_of_its_own(tmp_path: Path) -> None:
    teacher = Sampled(in_turn("<ans>4</ans>"))
    consistency.agree(teacher, OPEN, CHAT, DRAFTS[:2], 3, 0.7, Store(tmp_path), label="c")
    (call,), (sampling,) = teacher.calls, teacher.sampling
    assert [d.input in p.prefix + p.text for p in call for d in DRAFTS[:2]] == [True, False] * 3 + [False, True] * 3
    assert all("Let's think step by step." in p.prefix + p.text for p in call)
    assert len({p.seed for p in call}) == 6
    assert (sampling.temperature, sampling.stop) == (0.7, ("</ans>",))


def test_a_drafts_samples_do_not_depend_on_the_drafts_beside_it_nor_on_its_target(tmp_path: Path) -> None:
    def by_seed(prompt: Prompt) -> str:
        return f"<ans>{prompt.seed % 3}</ans>"

    together = consistency.agree(Sampled(by_seed), OPEN, CHAT, DRAFTS, 30, 0.7, Store(tmp_path / "a"), label="c")
    alone = consistency.agree(Sampled(by_seed), OPEN, CHAT, DRAFTS[3:4], 30, 0.7, Store(tmp_path / "b"), label="c")
    assert together[3] == alone[0]
    other = replace(DRAFTS[3], target="999")
    assert consistency.agree(Sampled(by_seed), OPEN, CHAT, [other], 30, 0.7, Store(tmp_path / "c"), label="c")[0].votes == alone[0].votes


def test_what_was_sampled_is_found_again_and_another_temperature_samples_anew(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first, again, warmer = (Sampled(in_turn("<ans>4</ans>", "<ans>5</ans>")) for _ in range(3))
    found = consistency.agree(first, OPEN, CHAT, DRAFTS, 40, 0.7, store, label="c")
    assert [len(call) for call in first.calls] == [40] * 5, "a chunk holds whole drafts"
    assert consistency.agree(again, OPEN, CHAT, DRAFTS, 40, 0.7, store, label="c") == found
    assert not again.calls
    consistency.agree(warmer, OPEN, CHAT, DRAFTS, 40, 0.9, store, label="c")
    assert warmer.calls


def test_a_continuation_is_asked_with_the_seeds_and_without_the_target(tmp_path: Path) -> None:
    teacher = Sampled(lambda p: " two and two <ans>4</ans>")
    asking = replace(CHAT, style="continuation")
    drafts = [replace(DRAFTS[2], target="777")]
    found = consistency.agree(teacher, OPEN, asking, drafts, 2, 0.5, Store(tmp_path), label="c")
    prompt = teacher.calls[0][0]
    assert "777" not in prompt.prefix + prompt.text
    assert "one and two <ans>3</ans>" in prompt.prefix + prompt.text
    assert prompt.pattern
    assert (found[0].majority, found[0].share) == ("4", 0.0)


def test_what_cannot_agree_is_refused(tmp_path: Path) -> None:
    closed = replace(OPEN, answer=AnswerFormat("tag", choices=("a", "b")))
    teacher = Sampled(lambda p: "")
    with pytest.raises(UserError, match=r"draft\.vote"):
        consistency.agree(teacher, closed, replace(CHAT, style="continuation"), DRAFTS, 2, 0.5, Store(tmp_path), label="c")
    with pytest.raises(UserError, match="temperature above 0"):
        consistency.agree(teacher, OPEN, CHAT, DRAFTS, 2, 0.0, Store(tmp_path), label="c")


@given(st.lists(st.sampled_from(["<ans>4</ans>", "<ans>5</ans>", "<ans>6</ans>", "none", "<ans>x</ans>"]), min_size=1, max_size=9))
def test_shares_are_what_was_counted(texts: list[str]) -> None:
    found = consistency._verdict(OPEN, "4", texts)
    said = [t[5:6] for t in texts if t[5:6] in "456" and t.startswith("<ans>")]
    assert dict(found.votes) == {v: said.count(v) for v in dict.fromkeys(said)}
    assert found.share == said.count("4") / len(texts)
    assert found.majority_share == max(map(said.count, said), default=0) / len(texts)
    assert (found.majority in said) if said else found.majority is None


def program(folder: Path, body: str) -> list[str]:
    (folder / "check.py").write_text(f"import json, sys, time, os\nrows = [json.loads(line) for line in sys.stdin]\n{body}\n", "utf-8")
    return [sys.executable, "check.py"]


ADDS = """
for row in rows:
    right = str(sum(map(int, [w.strip("?") for w in row["input"].split() if w.strip("?").isdigit()])))
    print(json.dumps({"ok": True} if row["target"] == right else {"ok": False, "target": right}))
print("checked", len(rows), file=sys.stderr)
"""


def test_a_program_is_started_once_where_the_recipe_is_and_what_it_says_on_the_side_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drafts = [*DRAFTS, replace(DRAFTS[3], target="7")]
    command = program(tmp_path, ADDS + "open('starts', 'a').write('x')")
    found = checker.check(command, OPEN, drafts, tmp_path, 30)
    assert found == [Verdict(True, "")] * 5 + [Verdict(False, "6")]
    assert (tmp_path / "starts").read_text() == "x"
    assert "checked 6" in capsys.readouterr().err


def test_text_of_any_kind_reaches_the_program_whole(tmp_path: Path) -> None:
    odd = 'a "quoted"\nline\u2028and\ud83d\ude00'.encode("utf-16", "surrogatepass").decode("utf-16") + " ü"
    command = program(tmp_path, "print(json.dumps({'ok': rows[0]['input'] == " + ascii(odd) + "}))")
    drafts = [replace(DRAFTS[0], input=odd)]
    assert checker.check(command, OPEN, drafts, tmp_path, 30) == [Verdict(True, "")]


def test_a_target_may_be_a_number_and_none_may_be_given(tmp_path: Path) -> None:
    body = "print('{\"ok\": false, \"target\": 7}\\n\\n{\"ok\": false, \"target\": null}\\n{\"ok\": false, \"target\": \"\"}')"
    found = checker.check(program(tmp_path, body), OPEN, DRAFTS[:3], tmp_path, 30)
    assert found == [Verdict(False, "7"), Verdict(False, ""), Verdict(False, "")]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("print('fine')", r"line 1: not JSON: 'fine'"),
        ("print('{\"ok\": 1}')", r"line 1: \{\"ok\": 1\}; it should be like"),
        ("print('[true]')", r"line 1: \[true\]; it should be like"),
        ('print(\'{"ok": true, "tagret": "7"}\')', r"tagret"),
        ('print(\'{"ok": false, "target": "seven"}\')', r"line 1: target 'seven' is not an answer of this task's form"),
        ("", r"wrote 0 lines for 1 questions"),
        ("print('{\"ok\": true}\\n' * 2)", r"wrote 2 lines for 1 questions"),
        ("print('to the side', file=sys.stderr); sys.exit(3)", r"failed with exit code 3; it said:\nto the side"),
        ("print('half a thought', file=sys.stderr, flush=True); os.kill(os.getpid(), 11)", r"failed with signal 11; it said:\nhalf"),
        ("raise ValueError('cannot add')", r"failed with exit code 1; it said:\n(.|\n)*ValueError: cannot add"),
    ],
)
def test_a_program_that_answers_badly_is_the_users_to_mend(tmp_path: Path, body: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        checker.check(program(tmp_path, body), OPEN, DRAFTS[:1], tmp_path, 30)


def test_many_bad_lines_are_not_all_listed(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        checker.check(program(tmp_path, "print('bad\\n' * 12)"), OPEN, [DRAFTS[0]] * 12, tmp_path, 30)
    assert len(error.value.problems) == 6
    assert "and 7 more" in str(error.value)


@pytest.mark.parametrize("command", [["no-such-program-here"], ["./no-such-file.py"], ["."], []])
def test_a_program_that_cannot_be_started_is_named(tmp_path: Path, command: list[str]) -> None:
    with pytest.raises(UserError, match="could not be started"):
        checker.check(command, OPEN, DRAFTS, tmp_path, 30)


def test_a_program_that_does_not_end_is_stopped_with_all_it_started(tmp_path: Path) -> None:
    body = "import subprocess\nprint('thinking', file=sys.stderr, flush=True)\n" \
           "p = subprocess.Popen(['sleep', '60'])\nopen('pid', 'w').write(str(p.pid))\ntime.sleep(60)"  # fmt: skip
    began = time.monotonic()
    with pytest.raises(UserError, match=r"not done within 2 s; it was stopped; it said:\nthinking"):
        checker.check(program(tmp_path, body), OPEN, DRAFTS, tmp_path, 2)
    assert time.monotonic() - began < 40
    status = Path("/proc") / (tmp_path / "pid").read_text() / "stat"

    def ended() -> bool:
        try:
            return status.read_text().rpartition(")")[2].split()[0] == "Z"
        except (FileNotFoundError, ProcessLookupError):
            return True

    while not ended() and time.monotonic() - began < 40:  # on a busy machine a killed process takes a moment to end
        time.sleep(0.05)
    assert ended()


def test_a_program_that_reads_nothing_is_heard_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "deaf.py").write_text("print('{\"ok\": true}')\n", "utf-8")
    many = replace(DRAFTS[0], input="x" * 1_000_000)
    assert checker.check([sys.executable, "deaf.py"], OPEN, [many], tmp_path, 30) == [Verdict(True, "")]


def test_nothing_to_check_starts_nothing(tmp_path: Path) -> None:
    assert checker.check(["no-such-program-here"], OPEN, [], tmp_path, 30) == []
