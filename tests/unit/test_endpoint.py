"""A server as a model: what travels, what is asked again, what is counted, and what is never written down."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgearte.answers import AnswerFormat, extract
from edgearte.arte import prompts
from edgearte.errors import UserError
from edgearte.lm import endpoint, wire
from edgearte.lm.base import Completion, Prompt, Sampling, Score
from edgearte.lm.calls import Answer, Budgeted, Calls, Kept, Limits, Price, Purse, Spent
from edgearte.lm.endpoint import Address, Endpoint
from edgearte.store import Store
from tests.faulty import MODES, Faulty, serving

SAMPLED = Sampling(60, 0.7, 0.9, ("</ans>",))
KEY = "sk-Secret.0f-the/test+42"


@pytest.fixture
def server() -> Iterator[Faulty]:
    with serving() as made:
        yield made


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(tmp_path / "store")
    yield made
    made.close()


def address(server: Faulty, **changes: Any) -> Address:
    quick: dict[str, Any] = {"pause": 0.001, "longest_pause": 0.004, "timeout": 10.0, "concurrency": 4}
    return Address(server.url, "big", **{**quick, **changes})


def ask(model: Endpoint, count: int, sampling: Sampling = SAMPLED) -> list[Completion]:
    found = model.generate(asked(model, count), sampling)
    model.release()
    return found


def asked(model: Endpoint, count: int) -> list[Prompt]:
    return [Prompt(model.chat([{"role": "user", "content": f"Question: number {i}"}]), seed=i) for i in range(count)]


# What travels


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text(), min_size=1, max_size=4), st.text(), st.integers(0, 300))
def test_any_text_survives_the_round_trip(contents: list[str], opening: str, cut: int) -> None:
    messages = [{"role": ("user", "assistant")[i % 2], "content": c} for i, c in enumerate(contents)]
    text = wire.render(messages) + "<" + opening
    cut = min(cut, len(text))
    sent = wire.request("m", Prompt(text[cut:], prefix=text[:cut]), Sampling(5))
    assert wire.conversation(text) == (messages, "<" + opening)
    assert sent.path == wire.CHAT
    assert json.loads(json.dumps(sent.body))["messages"] == messages


@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(min_size=1).filter(str.strip) | st.sampled_from(["</ans>\"'", "<|im_start|>user\n", "\ue0ed\uf0a7[]", "{}\\\u2028"]))
def test_text_comes_back_as_it_was_sent(server: Faulty, store: Store, text: str) -> None:
    model = Endpoint(address(server), Calls(store), "run")
    prompt = Prompt(model.chat([{"role": "user", "content": f"Say: {text}"}]))
    assert model.generate([prompt], Sampling(10_000))[0].text == text
    model.release()


def test_half_a_surrogate_does_not_stop_a_build(server: Faulty, store: Store) -> None:
    model = Endpoint(address(server), Calls(store), "run")
    found = model.generate([Prompt(model.chat([{"role": "user", "content": "Say: a\ud800b"}]))], Sampling(50))
    assert found[0].text == "a?b"


def test_plain_text_is_completed_and_conversations_are_chatted(server: Faulty, store: Store) -> None:
    model = Endpoint(address(server), Calls(store), "run")
    model.generate([Prompt("Say: a", prefix=""), *asked(model, 1)], replace(SAMPLED, temperature=0.0))
    by_path = dict(json.loads(s) for s in server.seen)
    assert by_path["/v1/completions"]["prompt"] == "Say: a"
    assert by_path["/v1/chat/completions"]["messages"] == [{"role": "user", "content": "Question: number 0"}]
    assert "seed" not in by_path["/v1/completions"]  # greedy


def test_what_is_sent() -> None:
    sent = wire.request("m", Prompt("text", seed=2**40 + 5), SAMPLED).body
    assert sent == {
        "model": "m", "prompt": "text", "max_tokens": 60, "temperature": 0.7, "top_p": 0.9, "seed": 5, "stop": ["</ans>"],
    }  # fmt: skip


def test_a_pattern_is_refused(server: Faulty, store: Store) -> None:
    with pytest.raises(UserError, match="style: chat"):
        Endpoint(address(server), Calls(store), "run").generate([Prompt("a", pattern="b")], SAMPLED)


# Replies as the loop's readers want them

OPENING = prompts.opening(4)
WANTED = [("one", "A"), ("two", "B")]


def block(number: int, text: str, target: str) -> str:
    return prompts.question_text(number, text, target, given=False)


@pytest.mark.parametrize(
    "reply",
    [
        block(4, "one", "A") + "\n" + block(5, "two", "B"),
        "Sure! Here are two questions:\n\n" + block(4, "one", "A") + "\n" + block(5, "two", "B"),
        block(1, "one", "A") + "\n" + block(2, "two", "B"),
        (block(4, "one", "A") + block(5, "two", "B")).replace("\n", ""),
        "one</input>\n<target>A</target>\n</Question_4>\n" + block(5, "two", "B"),
        " one</input>\n<target>A</target>\n</Question_4>\n" + block(1, "two", "B"),
    ],
)
def test_questions_are_read_whether_or_not_the_reply_repeats_the_opening(reply: str) -> None:
    prompt = Prompt(wire.render([{"role": "user", "content": "more"}]) + OPENING)
    found = wire.completion(prompt, Sampling(99, stop=("</Question_5>",)), Answer(reply, 1, 1, "stop"))
    assert prompts.read_questions(found.text, 4) == WANTED


@pytest.mark.parametrize(
    ("reply", "finish", "named", "text", "ended"),
    [
        ("so <ans>7", "stop", "", "so <ans>7</ans>", "stop"),
        ("so <ans>7</ans> and on", "stop", "", "so <ans>7</ans>", "stop"),  # a server that knows no stop
        ("so <ans>7", "length", "", "so <ans>7", "length"),
        ("nothing to say", "stop", "", "nothing to say", "eos"),
        ("some line", "stop", "\nQuestion:", "some line\nQuestion:", "stop"),  # vLLM names it
        ("some line", "stop", "other", "some line", "eos"),
        ("so <ans>7", "content_filter", "", "so <ans>7", "eos"),
    ],
)
def test_the_stop_string_is_put_back(reply: str, finish: str, named: str, text: str, ended: str) -> None:
    sampling = Sampling(9, stop=("\nQuestion:", "</ans>"))
    found = wire.completion(Prompt("q"), sampling, Answer(reply, 3, 4, finish, named))
    assert (found.text, found.ended, found.prompt_tokens, found.new_tokens) == (text, ended, 3, 4)


def test_an_answer_is_found_in_what_a_real_exchange_leaves(server: Faulty, store: Store) -> None:
    found = ask(Endpoint(address(server), Calls(store), "run"), 3)
    fmt = AnswerFormat(choices=("lights", "music", "weather"))
    assert all(c.text.endswith("</ans>") and c.ended == "stop" and extract(c.text, fmt) in fmt.choices for c in found)


@pytest.mark.parametrize(
    "reply",
    ["", "\x80garbage", "<html>", '{"choices": [{"mess', "[]", "{}", '{"choices": []}', '{"choices": [{}, {}]}', '{"choices": [3]}',
     '{"choices": [{"message": {"content": null}, "finish_reason": "stop"}]}', '{"choices": [{"message": null}]}',
     '{"error": {"message": "overloaded"}}', '{"choices": null}', "[" * 100_000],
)  # fmt: skip
def test_garbage_is_no_answer(reply: str) -> None:
    with pytest.raises(wire.Unusable):
        wire.read(reply, wire.request("m", Prompt(wire.render([])), Sampling(5)))


def test_an_answer_that_had_no_room_may_be_empty() -> None:
    asked = wire.request("m", Prompt(wire.render([])), Sampling(5))
    for finish in ("length", "content_filter"):
        reply = json.dumps({"choices": [{"message": {"content": None}, "finish_reason": finish}]})
        assert wire.read(reply, asked).text == ""


def test_without_usage_bytes_are_counted() -> None:
    asked = wire.request("m", Prompt("Grüße"), Sampling(5))
    found = wire.read(json.dumps({"choices": [{"text": "für", "finish_reason": "stop"}]}), asked)
    assert (found.read, found.written) == (asked.most_read, 4)
    assert asked.most_read >= len("Grüße".encode())


# What fails


@pytest.mark.parametrize("mode", MODES)
def test_every_kind_of_failure_is_asked_again(server: Faulty, store: Store, tmp_path: Path, mode: str) -> None:
    calls = Calls(store)
    expected = ask(Endpoint(address(server), calls, "whole"), 4)
    other = Store(tmp_path / "other")
    server.rate, server.modes, server.most = 1.0, (mode,), 2
    server.forget()
    again = Calls(other)
    assert ask(Endpoint(address(server, timeout=0.3 if mode == "hang" else 10.0), again, "run"), 4) == expected
    assert again.spent("run").failed == 8 == server.failed
    assert again.spent("run").calls == 4
    assert again.spent("run").lost == 0
    other.close()


@pytest.mark.parametrize("mode", [m for m in MODES if m != "hang"])
def test_a_server_that_never_recovers_is_named_with_what_it_sent(server: Faulty, store: Store, mode: str) -> None:
    server.rate, server.modes, server.most = 1.0, (mode,), 99
    model = Endpoint(address(server, attempts=3), Calls(store), "run")
    with pytest.raises(UserError, match="no answer after 3 attempts") as caught:
        ask(model, 1)
    said = str(caught.value)
    assert len(said.splitlines()) == 1
    what = {"429": "slow down", "500": "out of order", "html": "doctype html", "choices": "2 choices", "none": "0 choices",
            "cut": "broke off", "garbage": "no JSON", "truncated": "no JSON"}  # fmt: skip
    assert what.get(mode, "without text") in said
    assert len(server.seen) == 3


def test_no_server_at_all(store: Store) -> None:
    gone = Address("http://127.0.0.1:9/v1", "big", attempts=2, pause=0.001)
    with pytest.raises(UserError, match="no connection"):
        Endpoint(gone, Calls(store), "run").generate([Prompt("a")], SAMPLED)


@pytest.mark.parametrize(("status", "word"), [(400, "kept"), (401, "environment"), (403, "key"), (404, "/v1"), (422, "kept")])
def test_a_refusal_is_not_repeated(server: Faulty, store: Store, status: int, word: str) -> None:
    server.refuse = status
    with pytest.raises(UserError, match=f"{status}.*{word}"):
        ask(Endpoint(address(server, concurrency=1), Calls(store), "run"), 5)
    assert len(server.seen) == 1


def test_what_was_answered_before_a_failure_is_kept(server: Faulty, store: Store) -> None:
    model = Endpoint(address(server, attempts=1), Calls(store), "run")
    ask(model, 3)
    server.rate, server.most = 1.0, 1
    with pytest.raises(UserError):
        ask(model, 6)
    server.rate = 0.0
    server.forget()
    ask(model, 6)
    assert len(server.seen) == 3
    assert Calls(store).spent("run").lost == 0


def test_a_server_says_how_long_to_wait() -> None:
    import httpx2
    import openai

    def told(value: str) -> float:
        reply = httpx2.Response(429, headers={"retry-after": value}, request=httpx2.Request("POST", "http://x"))
        return endpoint._told(openai.RateLimitError("", response=reply, body=None))

    assert told("7") == 7.0
    assert told("0.5") == 0.5
    assert told("99999") == endpoint.PATIENCE
    assert 0 < told(formatdate(4102444800, usegmt=True)) <= endpoint.PATIENCE  # the year 2100
    assert [told(v) for v in ("-3", "nan", "inf", "soon", "")] == [0.0] * 5


def test_pauses_double_and_heed_the_server(server: Faulty, store: Store) -> None:
    import httpx2
    import openai

    @dataclass
    class Outcome:
        error: Exception

        def exception(self) -> Exception:
            return self.error

    @dataclass
    class State:
        attempt_number: int
        outcome: Outcome

    model = Endpoint(address(server, pause=1.0, longest_pause=5.0), Calls(store), "run")
    for attempt, (low, high) in enumerate([(0.5, 1), (1, 2), (2, 4), (2.5, 5), (2.5, 5)], 1):
        assert low <= model._pause(State(attempt, Outcome(wire.Unusable()))) <= high
    reply = httpx2.Response(503, headers={"retry-after": "30"}, request=httpx2.Request("POST", "http://x"))
    assert model._pause(State(1, Outcome(openai.InternalServerError("", response=reply, body=None)))) == 30.0


def test_every_attempt_takes_its_turn(server: Faulty, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    import aiolimiter

    turns: list[float] = []
    whole = aiolimiter.AsyncLimiter.acquire

    async def counted(self: aiolimiter.AsyncLimiter, amount: float = 1) -> None:
        turns.append(self.time_period / self.max_rate)
        await whole(self, amount)

    monkeypatch.setattr(aiolimiter.AsyncLimiter, "acquire", counted)
    server.rate, server.modes, server.most = 1.0, ("500",), 1
    ask(Endpoint(address(server, per_minute=60_000), Calls(store), "run"), 3)
    assert turns == [0.001] * 6


# What is counted


def test_nothing_is_asked_twice(server: Faulty, store: Store) -> None:
    model = Endpoint(address(server), Calls(store), "run")
    first = ask(model, 5)
    assert model.generate(asked(model, 5) * 2, SAMPLED) == first * 2
    assert len(server.seen) == 5
    assert len(ask(model, 5, replace(SAMPLED, max_tokens=61))) == 5  # another sampling is another call
    assert len(server.seen) == 10
    model.generate([replace(p, seed=9) for p in asked(model, 2)], replace(SAMPLED, temperature=0.0))
    model.generate([replace(p, seed=8) for p in asked(model, 2)], replace(SAMPLED, temperature=0.0))
    assert len(server.seen) == 12


def test_tokens_and_money_are_counted(server: Faulty, store: Store) -> None:
    calls = Calls(store)
    found = ask(Endpoint(address(server), calls, "run"), 4)
    spent = calls.spent("run")
    assert spent == Spent(4, sum(c.prompt_tokens for c in found), sum(c.new_tokens for c in found))
    assert spent.money(Price(2.0, 10.0)) == pytest.approx((2 * spent.read + 10 * spent.written) / 1e6)
    assert calls.spent("run", new=True) == spent
    store.opened += 1e6  # as a later process
    assert calls.spent("run", new=True) == Spent()
    assert calls.spent("run") == spent
    ask(Endpoint(address(server), calls, "another run"), 2)
    assert calls.spent("another run").calls == 2  # found, and used all the same
    assert calls.spent("another run", new=True).calls == 0


def budgeted(server: Faulty, store: Store, limits: Limits, price: Price | None = None, **changes: Any) -> Budgeted:
    calls = Calls(store)
    return Budgeted(Endpoint(address(server, **changes), calls, "build"), Purse(calls, "purse", limits, price))


@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_purse_pays_for_so_many_calls(server: Faulty, store: Store, concurrency: int) -> None:
    model = budgeted(server, store, Limits(calls=6), concurrency=concurrency)
    rows = [Prompt(model.chat([{"role": "user", "content": f"Question: {i}"}])) for i in range(9)]
    assert [c is not None for c in model.generate(rows[:4], SAMPLED)] == [True] * 4
    assert [c is not None for c in model.generate(rows[2:], SAMPLED)] == [True] * 4 + [False] * 3
    assert len(server.seen) == 6
    assert [c is not None for c in model.generate(rows, SAMPLED)] == [True] * 6 + [False] * 3  # a repeated run
    assert len(server.seen) == 6


@pytest.mark.parametrize("kind", ["tokens", "money"])
def test_a_purse_decides_as_if_one_call_came_after_the_other(server: Faulty, store: Store, tmp_path: Path, kind: str) -> None:
    """How many rows are paid for does not depend on how many are under way at once."""
    price, limit = Price(3.0, 15.0), 600
    limits = Limits(tokens=limit) if kind == "tokens" else Limits(money=limit * 6 / 1e6)
    paid = []
    for name, concurrency, at_once in (("a", 1, 1), ("b", 8, 40), ("c", 3, 7)):
        own = Store(tmp_path / name)
        model = budgeted(server, own, limits, price, concurrency=concurrency)
        rows = [Prompt(model.chat([{"role": "user", "content": f"Question: {i} " + "so " * (i % 5)}])) for i in range(40)]
        found: list[Completion | None] = []
        for i in range(0, 40, at_once):
            found += model.generate(rows[i : i + at_once], SAMPLED)
        paid.append([c.text if c else None for c in found])
        spent = model.purse.spent()
        most = limits.money if kind == "money" else limits.tokens
        assert (spent.money(price) if kind == "money" else spent.read + spent.written) <= (most or 0)
        own.close()
    count = sum(text is not None for text in paid[1])
    assert 0 < count < 40
    assert paid[1][:count] == paid[0][:count] == paid[2][:count]
    assert None not in paid[1][:count]
    assert set(paid[1][count:]) == {None}


def test_the_worst_case_is_reserved(server: Faulty, store: Store) -> None:
    """A call that could take more than is left is not sent, however little it would have taken."""
    model = budgeted(server, store, Limits(tokens=100))
    assert model.generate([Prompt(model.chat([{"role": "user", "content": "Say: a"}]))], Sampling(90)) == [None]
    assert server.seen == []


@dataclass
class Local:
    """A model of one's own that answers at once, and counts how often it was asked."""

    identity: str = "local"
    rows: int = 0

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Completion]:
        self.rows += len(prompts)
        return [Completion(f"{p.prefix}{p.text}!", len(p.text), 3, "eos") for p in prompts]

    def loglikelihood(self, pairs: Sequence[tuple[Prompt, str]]) -> list[Score]:
        return [Score(-1.0, 1) for _ in pairs]

    def chat(self, messages: Sequence[dict[str, str]]) -> str:
        return "".join(m["content"] for m in messages)


def test_a_purse_for_a_local_model(store: Store) -> None:
    local, calls = Local(), Calls(store)
    model = Budgeted(Kept(local, calls, "build"), Purse(calls, "purse", Limits(tokens=60)))
    rows = [Prompt("abc", prefix=str(i)) for i in range(20)]
    found = model.generate(rows, Sampling(10))
    paid = sum(c is not None for c in found)
    assert found[:paid] == [Completion(f"{i}abc!", 3, 3, "eos") for i in range(paid)]
    # Each takes 6 and may take 15: the last one is asked with at most 45 spent.
    assert paid == 8
    assert local.rows == paid
    assert model.generate(rows, Sampling(10)) == found
    assert local.rows == paid


# A build that is killed

CHILD = """
import sys
from pathlib import Path
from edgearte.lm.calls import Budgeted, Calls, Limits, Purse
from edgearte.lm.endpoint import Address, Endpoint
from edgearte.lm.base import Prompt, Sampling
from edgearte.store import Store

calls = Calls(Store(Path(sys.argv[1])))
server = Endpoint(Address(sys.argv[2], "big", concurrency=4, pause=0.001), calls, "build")
model = Budgeted(server, Purse(calls, "purse", Limits(calls=int(sys.argv[3]) or None)))
rows = [Prompt(model.chat([{"role": "user", "content": f"Question: {i}"}]), seed=i) for i in range(30)]
print(sum(c is not None for c in model.generate(rows, Sampling(60, 0.7))))
"""


@pytest.mark.parametrize("budget", [0, 20])
def test_killed_in_the_middle_of_a_batch(server: Faulty, tmp_path: Path, budget: int) -> None:
    command = [sys.executable, "-c", CHILD, str(tmp_path / "store"), server.url, str(budget)]
    server.held_after = 10  # ten are answered, and then four wait for an answer that does not come
    child = subprocess.Popen(command, cwd=Path(__file__).parents[2])
    assert server.wait_for(14)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    flying = set(server.seen[10:])
    assert len(flying) == 4
    server.held_after = -1
    server.gate.set()
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)
    assert {text for text, n in server.times().items() if n > 1} == flying
    assert max(server.times().values()) == 2
    paid = int(done.stdout)
    # The four that were lost count: they may be billed.
    assert paid == (16 if budget else 30)
    assert len(server.seen) == paid + 4
    store = Store(tmp_path / "store")
    spent = Calls(store).spent("purse")
    assert (spent.calls, spent.lost, spent.failed) == (paid, 4, 0)
    assert spent.lost_written == 4 * 60
    store.close()


def test_interrupted_in_the_middle_of_a_batch(server: Faulty, store: Store) -> None:
    """Ctrl-C: what was on its way is lost, and counted so; the same process can go on."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    calls = Calls(store)
    model = Endpoint(address(server, timeout=60.0), calls, "run")
    server.held_after = 5

    def interrupt() -> None:
        if server.wait_for(9):
            os.kill(os.getpid(), signal.SIGINT)

    waiting = threading.Thread(target=interrupt)
    waiting.start()
    with pytest.raises(KeyboardInterrupt):
        ask(model, 12)
    signal.signal(signal.SIGINT, before)
    waiting.join()
    assert (calls.spent("run").calls, calls.spent("run").lost) == (5, 4)
    server.held_after = -1
    server.gate.set()
    assert len(ask(model, 12)) == 12
    assert (calls.spent("run").calls, calls.spent("run").lost) == (12, 4)


# Log-probabilities


def test_probabilities_of_a_first_word(server: Faulty, store: Store) -> None:
    import math

    model = Endpoint(address(server), Calls(store), "run")
    found = model.choice_probabilities(asked(model, 2), ("yes", "no"))
    assert found[0] == pytest.approx({"yes": math.exp(-0.5) + math.exp(-2.0), "no": math.exp(-1.5)})
    server.logprobs = False
    with pytest.raises(UserError, match="no log-probabilities"):
        model.choice_probabilities(asked(model, 3), ("yes", "no"))


def test_log_likelihood_of_plain_text(server: Faulty, store: Store) -> None:
    model = Endpoint(address(server), Calls(store), "run")
    found = model.loglikelihood([(Prompt("one two"), " three four"), (Prompt("three", prefix="one two "), " four")])
    assert found == [Score(-11.0, 2), Score(-5.0, 1)]
    with pytest.raises(UserError, match="plain text"):
        model.loglikelihood([(asked(model, 1)[0], "a")])


@pytest.mark.parametrize("broken", ["none", "shifted"])
def test_log_likelihoods_that_are_not_those_of_the_text_are_refused(server: Faulty, store: Store, broken: str) -> None:
    server.logprobs, server.shifted = broken != "none", 3.0
    with pytest.raises(UserError, match="echo"):
        Endpoint(address(server), Calls(store), "run").loglikelihood([(Prompt("one two"), " three")])


# Keys


def test_a_key_is_sent_and_never_written(server: Faulty, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stands in no file, message or traceback of a run that succeeds and of runs that fail, though the server repeats it."""
    monkeypatch.setenv("TEACHERS_KEY", KEY)
    monkeypatch.setenv("OPENAI_API_KEY", "another-key")
    store = Store(tmp_path / "store")
    said = []
    model = Endpoint(address(server, key="TEACHERS_KEY", attempts=2), Calls(store), "run")
    ask(model, 3)
    assert {h["authorization"] for h in server.headers} == {f"Bearer {KEY}"}
    for status in (401, 500):
        server.refuse = status
        try:
            ask(model, 5)
        except UserError as error:
            said += [repr(error), traceback.format_exc(), repr(vars(model))]
    store.close()
    assert len(said) == 6
    assert "refused" in said[0]
    assert KEY not in "".join(said)
    left = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert left
    assert not [p for p in left if KEY.encode() in p.read_bytes()]


def test_no_key_is_borrowed_for_a_stranger(server: Faulty, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_ADMIN_KEY"):
        monkeypatch.setenv(name, "makers-own")
    ask(Endpoint(address(server), Calls(store), "run"), 1)
    assert "makers-own" not in json.dumps(server.headers)


@pytest.mark.parametrize("value", [None, "", "two words", "a\nb", "schlüssel"])
def test_a_key_that_cannot_be_one(server: Faulty, store: Store, monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    monkeypatch.delenv("TEACHERS_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("TEACHERS_KEY", value)
    with pytest.raises(UserError, match="key:") as caught:
        Endpoint(address(server, key="TEACHERS_KEY"), Calls(store), "run")
    assert not value or value not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["http://me:secret@host/v1", "https://host/v1?key=secret", "https://secret@host", "ftp://secret", "secret", "http://[secret",
            "https://host/v1#secret"],
)  # fmt: skip
def test_a_key_in_a_url_is_refused_without_repeating_it(url: str) -> None:
    assert endpoint.url_problem(url)
    assert "secret" not in endpoint.url_problem(url)


def test_the_identity_is_the_place_and_the_name() -> None:
    a = Address("http://h/v1", "m")
    assert a.identity == Address("http://h/v1/", "m", key="X", concurrency=2).identity
    assert len({a.identity, Address("http://h/v2", "m").identity, Address("http://h/v1", "n").identity}) == 3


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "NEEDED", ("no_such_package",))
    assert "pip install 'edgearte[endpoint]'" in str(endpoint.problems(Address("http://h/v1", "m"))[0])
