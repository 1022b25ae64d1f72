"""An OpenAI-compatible server (vLLM, llama-server, llama-cpp-python's, Ollama, a hosted API) as a model that writes.

What fails for a while is asked for again, with pauses that double and differ by chance (keyed by nothing: they change no result). What
is answered is kept call by call (`calls.py`), so that nothing is ever asked twice. The key comes from the environment and goes
nowhere but into the client.
"""

from __future__ import annotations

import asyncio
import math
import os
import random
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from importlib.util import find_spec
from pathlib import Path
from time import time
from typing import Any, TypeVar
from urllib.parse import urlsplit

from edgearte.errors import Problem, UserError
from edgearte.lm import wire
from edgearte.lm.base import Completion, Prompt, Sampling, Score
from edgearte.lm.calls import Answer, Call, Calls
from edgearte.lm.weights import Weights
from edgearte.store import digest

T = TypeVar("T")
NEEDED = ("openai", "tenacity", "aiolimiter")
AGAIN = (408, 409, 425, 429)  # and everything from 500 on
PATIENCE = 600.0  # seconds that a server may tell us to wait
COUNTED = "One, two, three, four, five,"
TOP = 20  # most probable first tokens that servers tell
HINTS = {
    401: "set the key in the environment and name its variable as `key`",
    403: "the key may not use this model",
    404: "look up what the server calls its model; and the URL usually ends in /v1",
}


@dataclass(frozen=True)
class Address:
    """Where a server is, what it calls the model, the environment variable that holds its key (if it wants one), and how it may be
    asked: calls at once, calls a minute (0: without limit), seconds a call may take, and attempts at one."""

    url: str
    model: str
    key: str = ""
    concurrency: int = 8
    per_minute: int = 0
    timeout: float = 60.0
    attempts: int = 6
    pause: float = 1.0  # seconds after the first failure; each further pause is twice as long
    longest_pause: float = 60.0

    @property
    def identity(self) -> str:
        """Of the weights behind a server nothing is known but where they are asked and by what name."""
        return digest("endpoint", self.url.rstrip("/"), self.model)

    def weights(self) -> Weights:
        """How the loop knows its models; this one has no folder, and so cannot be trained."""
        return Weights(self.model, Path("(an endpoint has no weights)"), self.identity, None, "", 0)


def problems(address: Address) -> list[Problem]:
    """Everything that would stop a call to this server, without calling it. The URL and the key are never repeated in it."""
    found = []
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        found.append(f"{', '.join(missing)} is not installed: pip install 'edgearte[endpoint]'")
    found.append(url_problem(address.url))
    key = os.environ.get(address.key, "") if address.key else "none"
    if not key:
        found.append("key: the environment has no variable of the name given there; it names the variable, and is not the key itself")
    elif not (key.isascii() and key.isprintable()) or " " in key:
        found.append("key: the variable named there holds blanks or signs that no key has")
    return [Problem(text) for text in found if text]


def url_problem(url: str) -> str:
    """What is wrong with a server's URL, or nothing. A key in it would be written down with the recipe."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "url: not a URL"
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return "url: a URL such as http://localhost:8000/v1 is needed"
    if parts.username is not None or parts.query or parts.fragment:
        return "url: no name, password, query or fragment may be in it; a key belongs into the environment, and `key` names its variable"
    return ""


class Endpoint:
    """A server's model. `calls` keeps what was asked, and counts it for `run`."""

    def __init__(self, address: Address, calls: Calls, run: str) -> None:
        if found := problems(address):
            raise UserError(found)
        self.address = address
        self.identity = address.identity
        self._calls = calls
        self._run = run
        self._line: _Line | None = None

    def chat(self, messages: Sequence[dict[str, str]]) -> str:
        return wire.render(messages)

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Completion]:
        if any(p.pattern for p in prompts):
            raise UserError(f"{self._name}: a server cannot be held to a pattern in a way that all share; use style: chat")
        answers = self._answers([wire.request(self.address.model, p, sampling) for p in prompts])
        return [wire.completion(p, sampling, a) for p, a in zip(prompts, answers, strict=True)]

    def call(self, prompt: Prompt, sampling: Sampling) -> Call:
        """The call that `generate` makes for a prompt, for a purse to look at."""
        return self._call(wire.request(self.address.model, prompt, sampling))

    def loglikelihood(self, pairs: Sequence[tuple[Prompt, str]]) -> list[Score]:
        """Of plain text only, and where the server echoes a prompt with its log-probabilities (vLLM does, hosted ones rarely do). A
        token on the border belongs to the continuation."""
        if any(wire.conversation(p.prefix + p.text) for p, _ in pairs):
            raise UserError(f"{self._name}: only plain text can be scored, since its chat template is not at hand")
        scores = self._echoed([(p.prefix + p.text, end) for p, end in pairs]) if self._echoes() else []
        if len(scores) < len(pairs):
            raise UserError(f"{self._name}: it does not echo prompts with their log-probabilities, so it cannot score a text")
        return scores

    def _echoed(self, pairs: Sequence[tuple[str, str]]) -> list[Score]:
        """The scores that can be read off. One token has to be written, and is left out: for some servers 0 means without end."""
        asked = [wire.request(self.address.model, Prompt(a + b), Sampling(1), echo=True, logprobs=1) for a, b in pairs]
        scores = [wire.score(answer, a, b) for (a, b), answer in zip(pairs, self._answers(asked), strict=True)]
        return [s for s in scores if s is not None]

    def _echoes(self) -> bool:
        """Whether an echo's log-probabilities are those of its tokens: a token just written must have the same one when it is
        echoed. (llama-cpp-python 0.3 gives each token that of itself coming once more.)"""
        written = self._answers([wire.request(self.address.model, Prompt(COUNTED), Sampling(1), logprobs=1)])[0]
        values = written.logprobs.get("token_logprobs") if isinstance(written.logprobs, dict) else None
        again = self._echoed([(COUNTED, written.text)])
        return bool(values and again and abs(again[0].logprob - values[0]) < 0.2)

    def choice_probabilities(self, prompts: Sequence[Prompt], words: Sequence[str]) -> list[dict[str, float]]:
        """The probability that an answer begins with each of these words, from the first token's log-probabilities.

        Prompts are conversations. A token counts for the word it begins, whatever its case and blanks before it; one that could
        begin several counts for none. What is not among the 20 most probable tokens counts 0, so that a row sums to 1 at most.
        """
        if not all(wire.conversation(p.prefix + p.text) for p in prompts):
            raise UserError(f"{self._name}: first-token probabilities are asked for of conversations")
        asked = [
            wire.request(self.address.model, p, Sampling(1), logprobs=True, top_logprobs=TOP) for p in prompts
        ]
        rows = [wire.first_words(answer, words) for answer in self._answers(asked)]
        if any(row is None for row in rows):
            raise UserError(f"{self._name}: it gives no log-probabilities, so no probability of an answer can be read off")
        return [row for row in rows if row is not None]

    def release(self) -> None:
        """Close the connections; the next call opens them again."""
        if self._line is not None:
            self._line.close()
            self._line = None

    @property
    def _name(self) -> str:
        return f"{self.address.model} at {self.address.url}"

    def _call(self, asked: wire.Request) -> Call:
        key = digest("call", self.identity, asked)
        return Call(key, self._name, {asked.path: asked.body}, asked.most_read, asked.most_written)

    def _answers(self, asked: Sequence[wire.Request]) -> list[Answer]:
        """An answer to each; only what was never answered is sent, and alike ones once."""
        calls = [self._call(a) for a in asked]
        self._calls.use(self._run, [c.key for c in calls])
        found = {c.key: self._calls.answer(c.key) for c in calls}
        todo = {c.key: (c, a) for c, a in zip(calls, asked, strict=True) if found[c.key] is None}
        if todo:
            self._line = self._line or _Line(self.address)
            self._line.run(self._all(self._line, list(todo.values())))
        answers = [found[c.key] or self._calls.answer(c.key) for c in calls]
        return [a for a in answers if a is not None]

    async def _all(self, line: _Line, todo: list[tuple[Call, wire.Request]]) -> None:
        """Ask them all. After a mistake nothing new is begun, but what is on its way is waited for and kept."""
        waiting = iter(todo)
        mistakes: list[UserError] = []

        async def worker() -> None:
            for call, asked in waiting:
                try:
                    await self._ask(line, call, asked)
                except UserError as error:
                    mistakes.append(error)
                if mistakes:
                    return

        async with asyncio.TaskGroup() as group:
            for _ in range(min(self.address.concurrency, len(todo))):
                group.create_task(worker())
        if mistakes:
            raise mistakes[0]

    async def _ask(self, line: _Line, call: Call, asked: wire.Request) -> None:
        import tenacity

        again = tenacity.AsyncRetrying(
            stop=tenacity.stop_after_attempt(self.address.attempts), retry=tenacity.retry_if_exception(_passing),
            wait=self._pause, reraise=True,
        )  # fmt: skip
        try:
            await again(self._attempt, line, call, asked)
        except Exception as error:
            if not _passing(error) and _status(error) is None:
                raise
            raise self._mistake(error) from None

    async def _attempt(self, line: _Line, call: Call, asked: wire.Request) -> None:
        await line.turn()
        self._calls.start(call)
        try:
            answer = wire.read(await line.send(asked), asked)
        except Exception:
            self._calls.fail(call.key)
            raise
        except BaseException:  # interrupted: the server may answer all the same
            self._calls.lose(call.key)
            raise
        self._calls.end(call.key, answer)

    def _pause(self, state: Any) -> float:
        """Seconds until the next attempt: what the server says, and no less than a pause that doubles with every failure. By a
        chance of its own, so that nobody's random numbers are other ones for it."""
        longest = min(self.address.pause * 2 ** (state.attempt_number - 1), self.address.longest_pause)
        return max(_told(state.outcome.exception()), random.SystemRandom().uniform(longest / 2, longest))

    def _mistake(self, error: Exception) -> UserError:
        what = self._without_key(_said(error))
        if _passing(error):
            return UserError(
                f"{self._name}: no answer after {self.address.attempts} attempts; the last one brought {what}. "
                "What was answered is kept: the same command goes on from here."
            )
        hint = HINTS.get(_status(error) or 0, "what was answered is kept")
        return UserError(f"{self._name}: refused, with {what}; {hint}")

    def _without_key(self, text: str) -> str:
        key = os.environ.get(self.address.key, "") if self.address.key else ""
        return text.replace(key, "[key]") if key else text


class _Line:
    """An open client with its loop and its limit of calls a minute, which live and end together."""

    def __init__(self, address: Address) -> None:
        from aiolimiter import AsyncLimiter
        from openai import AsyncOpenAI, DefaultAsyncHttpxClient

        # Retries are counted here, those of garbage too; so the client makes none of its own. Without a key it is given a word: it
        # would look for its maker's key in the environment, and send that to a stranger.
        self._client = AsyncOpenAI(
            base_url=address.url, api_key=os.environ[address.key] if address.key else "none", max_retries=0,
            timeout=address.timeout, http_client=DefaultAsyncHttpxClient(timeout=address.timeout),
        )  # fmt: skip
        self._client.organization = self._client.project = None
        self._timeout = address.timeout
        self._runner = asyncio.Runner()
        # One call in each share of a minute: a full bucket would let twice as many through in the first one.
        self._limiter = AsyncLimiter(1, 60 / address.per_minute) if address.per_minute else None

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(work)

    async def turn(self) -> None:
        if self._limiter is not None:
            await self._limiter.acquire()

    async def send(self, asked: wire.Request) -> str:
        """The body of the reply, in at most `timeout` seconds in all."""
        maker = self._client.chat.completions if asked.path == wire.CHAT else self._client.completions
        async with asyncio.timeout(self._timeout):
            reply = await maker.with_raw_response.create(**asked.body)
        return str(reply.text)

    def close(self) -> None:
        self._runner.run(self._client.close())
        self._runner.close()


def _status(error: BaseException) -> int | None:
    import openai

    return error.status_code if isinstance(error, openai.APIStatusError) else None


def _passing(error: BaseException) -> bool:
    """Whether the same call may succeed later."""
    import openai

    status = _status(error)
    if status is not None:
        return status in AGAIN or status >= 500
    return isinstance(error, wire.Unusable | openai.APIConnectionError | TimeoutError)


def _told(error: BaseException | None) -> float:
    """Seconds that a reply's Retry-After tells to wait, as a number or a date; 0 where it tells none."""
    import openai

    if not isinstance(error, openai.APIStatusError):
        return 0.0
    told = error.response.headers.get("retry-after", "")
    try:
        seconds = float(told)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(told).timestamp() - time()
        except ValueError:
            return 0.0
    return min(max(seconds, 0.0), PATIENCE) if math.isfinite(seconds) else 0.0


def _said(error: Exception) -> str:
    """What came back instead of an answer, in a line."""
    import openai

    if isinstance(error, openai.APIStatusError):
        body = error.body
        said = body.get("message") if isinstance(body, dict) else None
        return f"{error.status_code}: {wire.first_line(str(said or error.response.text))!r}"
    if isinstance(error, TimeoutError | openai.APITimeoutError):
        return "nothing in time"
    if isinstance(error, openai.APIConnectionError):
        return f"no connection, or one that broke off ({wire.first_line(str(error.__cause__ or error))})"
    return str(error)
