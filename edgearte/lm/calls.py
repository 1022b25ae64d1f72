"""What was asked of a paid model, call by call, in the store's own database: nothing is ever asked twice, also by a build that was
killed in the middle of a batch; and a purse that a number of calls, tokens or money can never overdraw.

A call is one prompt with its sampling and seed; its key is the digest of the model's identity and the request's content. It is in
one of three states: in flight (`started` is set), answered, or neither (every attempt failed, or it was lost). A call whose process
died in flight is *lost*: the host may have answered and billed it, so it counts, at the most it can have cost.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from edgearte.lm.base import LM, Completion, Prompt, Sampling, Score
from edgearte.store import Store, alive, canonical, digest

SCHEMA = (
    """CREATE TABLE IF NOT EXISTS calls (
    key TEXT PRIMARY KEY, model TEXT NOT NULL, request TEXT NOT NULL, most_read INTEGER NOT NULL, most_written INTEGER NOT NULL,
    started REAL, pid INTEGER, answered REAL, answer TEXT, read INTEGER NOT NULL DEFAULT 0, written INTEGER NOT NULL DEFAULT 0,
    failed INTEGER NOT NULL DEFAULT 0, lost INTEGER NOT NULL DEFAULT 0)""",
    "CREATE TABLE IF NOT EXISTS uses (run TEXT NOT NULL, key TEXT NOT NULL, PRIMARY KEY (run, key)) WITHOUT ROWID",
)


@dataclass(frozen=True)
class Answer:
    """What came back: the text as it came, tokens read and written, why it ended, the stop string it ended at where the server
    says so, and its log-probabilities where they were asked for."""

    text: str
    read: int
    written: int
    finish: str
    stop: str = ""
    logprobs: Any = None


@dataclass(frozen=True)
class Call:
    """A call as it will be made: its key, the model in words, what is sent, and the most tokens it can read and write."""

    key: str
    model: str
    request: Any
    most_read: int
    most_written: int


@dataclass(frozen=True)
class Price:
    """Money per million tokens read and written."""

    read: float = 0.0
    written: float = 0.0

    def of(self, read: int, written: int) -> float:
        return (read * self.read + written * self.written) / 1e6


@dataclass(frozen=True)
class Spent:
    """Calls answered and the tokens they read and wrote; calls lost in flight and the most tokens those can have taken; attempts
    that failed, which are not billed."""

    calls: int = 0
    read: int = 0
    written: int = 0
    lost: int = 0
    lost_read: int = 0
    lost_written: int = 0
    failed: int = 0

    def money(self, price: Price) -> float:
        return price.of(self.read + self.lost_read, self.written + self.lost_written)


class Calls:
    """The calls in a store. Calls that another process began and did not live to see answered are lost from now on."""

    def __init__(self, store: Store) -> None:
        self._store = store
        for statement in SCHEMA:
            store.write(statement)
        flying = store.read("SELECT DISTINCT pid FROM calls WHERE started IS NOT NULL")
        dead = [(pid,) for (pid,) in flying if not alive(pid)]
        if dead:
            store.write("UPDATE calls SET lost = lost + 1, started = NULL WHERE started IS NOT NULL AND pid = ?", dead)

    def answer(self, key: str) -> Answer | None:
        """The answer to a call, where it has one."""
        found = self._store.read("SELECT answer FROM calls WHERE key = ? AND answer IS NOT NULL", (key,))
        return Answer(**json.loads(found[0][0])) if found else None

    def start(self, call: Call) -> None:
        """Committed before the call is sent."""
        self._insert([call])
        self._store.write("UPDATE calls SET started = ?, pid = ? WHERE key = ?", [(time.time(), os.getpid(), call.key)])

    def end(self, key: str, answer: Answer) -> None:
        """Committed as soon as the answer is there."""
        self._answer([(key, answer)])

    def fail(self, key: str) -> None:
        """An attempt came to nothing."""
        self._store.write("UPDATE calls SET failed = failed + 1, started = NULL WHERE key = ?", [(key,)])

    def lose(self, key: str) -> None:
        """The call was given up while it was in flight."""
        self._store.write("UPDATE calls SET lost = lost + 1, started = NULL WHERE key = ?", [(key,)])

    def keep(self, made: Sequence[tuple[Call, Answer]]) -> None:
        """Calls of a model that answers a whole batch at once, all or none."""
        self._insert([call for call, _ in made])
        self._answer([(call.key, answer) for call, answer in made])

    def use(self, run: str, keys: Sequence[str]) -> None:
        """These calls count for this run, whoever made or makes them."""
        self._store.write("INSERT OR IGNORE INTO uses VALUES (?,?)", [(run, key) for key in keys])

    def used(self, run: str) -> set[str]:
        """The answered calls that count for a run."""
        found = self._store.read(
            "SELECT key FROM uses JOIN calls USING (key) WHERE run = ? AND answered IS NOT NULL", (run,)
        )
        return {key for (key,) in found}

    def spent(self, run: str, *, new: bool = False) -> Spent:
        """What a run's calls took; with `new`, those that were answered since the store was opened."""
        since = self._store.opened if new else 0.0
        row = self._store.read(
            "SELECT count(answered), sum(read), sum(written), sum(lost), sum(lost * most_read), sum(lost * most_written), sum(failed) "
            "FROM uses JOIN calls USING (key) WHERE run = ? AND coalesce(answered, ?) >= ?", (run, since, since),
        )[0]  # fmt: skip
        return Spent(*(value or 0 for value in row))

    def _insert(self, calls: Sequence[Call]) -> None:
        rows = [(c.key, c.model, canonical(c.request), c.most_read, c.most_written) for c in calls]
        self._store.write(
            "INSERT OR IGNORE INTO calls (key, model, request, most_read, most_written) VALUES (?,?,?,?,?)", rows
        )

    def _answer(self, answers: Sequence[tuple[str, Answer]]) -> None:
        self._store.write(
            "UPDATE calls SET started = NULL, answered = ?, answer = ?, read = ?, written = ? WHERE key = ?",
            [(time.time(), json.dumps(asdict(a)), a.read, a.written, key) for key, a in answers],
        )


@dataclass(frozen=True)
class Limits:
    """The most that may be spent of each; None means without limit."""

    calls: int | None = None
    tokens: int | None = None
    money: float | None = None

    def less(self, spent: Spent, price: Price) -> Limits:
        """What is left of them; lost calls count at the most they can have taken."""
        tokens = spent.read + spent.written + spent.lost_read + spent.lost_written
        return Limits(
            None if self.calls is None else max(0, self.calls - spent.calls - spent.lost),
            None if self.tokens is None else max(0, self.tokens - tokens),
            None if self.money is None else max(0.0, self.money - spent.money(price)),
        )

    def share(self, part: float) -> Limits:
        return Limits(
            None if self.calls is None else round(part * self.calls),
            None if self.tokens is None else int(part * self.tokens),
            None if self.money is None else part * self.money,
        )


class Purse:
    """A hard stop for the calls of one `run`, over all processes that ever made some of them.

    What is used is counted by the run's set of calls, whether they were made for it or found: so a run that is repeated, or was killed
    and goes on, takes the decisions of an undisturbed one. (Calls lost in flight are the exception: they count on top, since they
    may be billed.) What was newly billed, `Calls.spent(run, new=True)` says apart. What is asked through a purse must not be hidden
    from it behind rows of the store that another run computed, or the purse does not see that it was used.
    """

    def __init__(self, calls: Calls, run: str, limits: Limits, price: Price | None = None) -> None:
        self.calls = calls
        self.run = run
        self.limits = limits
        self.price = price or Price()

    def spent(self) -> Spent:
        return self.calls.spent(self.run)

    def left(self) -> Limits:
        return self.limits.less(self.spent(), self.price)

    def admit(self, wanted: Sequence[Call]) -> int:
        """How many of these calls, in order, may be made now; they count for the run from here on.

        Each reserves the most it can take, on top of what all before it took or reserve. What a call leaves of its reservation is
        there for the next `admit`: so where nothing is admitted, the next call does not fit, whatever came before it took.
        """
        spent, seen = self.spent(), self.calls.used(self.run)
        calls, money = spent.calls + spent.lost, spent.money(self.price)
        tokens = spent.read + spent.written + spent.lost_read + spent.lost_written
        count = 0
        for call in wanted:
            if call.key not in seen:
                calls, tokens = calls + 1, tokens + call.most_read + call.most_written
                money += self.price.of(call.most_read, call.most_written)
                if self._over(calls, tokens, money):
                    break
                seen.add(call.key)
            count += 1
        self.calls.use(self.run, [call.key for call in wanted[:count]])
        return count

    def _over(self, calls: int, tokens: int, money: float) -> bool:
        most = self.limits
        return bool(
            (most.calls is not None and calls > most.calls)
            or (most.tokens is not None and tokens > most.tokens)
            or (most.money is not None and money > most.money + 1e-9)
        )


class Recorded(LM, Protocol):
    """A model whose calls are kept: `lm.endpoint.Endpoint`, or any other one in `Kept`."""

    def call(self, prompt: Prompt, sampling: Sampling) -> Call: ...


class Kept:
    """Any model, with what it writes kept call by call and counted for `run`, as if it were paid for."""

    def __init__(self, lm: LM, calls: Calls, run: str) -> None:
        self.identity = lm.identity
        self._lm = lm
        self._calls = calls
        self._run = run

    def call(self, prompt: Prompt, sampling: Sampling) -> Call:
        text = prompt.prefix + prompt.text
        request = {"prompt": text, "seed": prompt.seed, "pattern": prompt.pattern, "sampling": asdict(sampling)}
        most_read = 1 + len(text.encode("utf-8", "surrogatepass"))  # a token is a byte at least; one more begins the text
        return Call(digest("call", self.identity, request), self.identity, request, most_read, sampling.max_tokens)

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Completion]:
        made = [self.call(p, sampling) for p in prompts]
        self._calls.use(self._run, [c.key for c in made])
        todo = {c.key: (c, p) for c, p in zip(made, prompts, strict=True) if self._calls.answer(c.key) is None}
        if todo:
            outputs = self._lm.generate([p for _, p in todo.values()], sampling)
            answers = [Answer(o.text, o.prompt_tokens, o.new_tokens, o.ended) for o in outputs]
            self._calls.keep([(call, a) for (call, _), a in zip(todo.values(), answers, strict=True)])
        found = [self._calls.answer(c.key) for c in made]
        return [Completion(a.text, a.read, a.written, a.finish) for a in found if a]

    def loglikelihood(self, pairs: Sequence[tuple[Prompt, str]]) -> list[Score]:
        return self._lm.loglikelihood(pairs)

    def chat(self, messages: Sequence[dict[str, str]]) -> str:
        return self._lm.chat(messages)


class Budgeted:
    """A model whose writing is paid from a purse."""

    def __init__(self, lm: Recorded, purse: Purse) -> None:
        self.identity = lm.identity
        self.purse = purse
        self._lm = lm

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Completion | None]:
        """A completion for each of the first prompts, as many as the purse pays for, and None for the others: not asked."""
        wanted = [self._lm.call(p, sampling) for p in prompts]
        found: list[Completion | None] = []
        while count := self.purse.admit(wanted[len(found) :]):
            found += self._lm.generate(prompts[len(found) : len(found) + count], sampling)
        return found + [None] * (len(prompts) - len(found))

    def chat(self, messages: Sequence[dict[str, str]]) -> str:
        return self._lm.chat(messages)
