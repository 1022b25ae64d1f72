"""What is sent to an OpenAI-compatible server, and what is read from its replies. Nothing here is sent: `endpoint.py` does that.

Three things differ from a model whose weights are at hand. Its chat template lives on the server, so a conversation travels as
messages. A started assistant turn is not sent: only some servers go on from one, and others answer it; the instruction has to carry
the form, and a reply that begins with the opening is taken from there. And the stop string at which a reply ended is cut off by
the server, so it is put back.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edgearte.lm.base import Completion, Prompt, Sampling, Score
from edgearte.lm.calls import Answer

CONVERSATION = "\ue0ed\uf0a7"  # of the private use area: no text of anybody's begins with it
CHAT, PLAIN = "chat/completions", "completions"
TEMPLATE = 64  # tokens that a template may add on its own: markers, a system message of the model's
UNFINISHED = ("length", "content_filter")  # endings that excuse a reply without text


class Unusable(Exception):
    """A reply that is no answer: garbage, HTML, half a JSON, the wrong number of choices, no text. To be asked for again."""


@dataclass(frozen=True)
class Request:
    """The path under the server's URL, and the JSON that is sent there."""

    path: str
    body: dict[str, Any]

    @property
    def most_read(self) -> int:
        """The most tokens that the server can read: a token is a byte at least, and a template has some of its own."""
        asked = self.body.get("messages", self.body.get("prompt"))
        return len(json.dumps(asked, ensure_ascii=False).encode()) + TEMPLATE

    @property
    def most_written(self) -> int:
        return int(self.body["max_tokens"])


def render(messages: Sequence[dict[str, str]]) -> str:
    """A conversation as the text that prompts are made of; `conversation` reads it back. Plain ASCII after the mark, so that no
    text inside of it can be taken for anything else."""
    return CONVERSATION + json.dumps(list(messages))


def conversation(text: str) -> tuple[list[dict[str, str]], str] | None:
    """The messages of a rendered conversation and the opening written after it; None for plain text."""
    if not text.startswith(CONVERSATION):
        return None
    messages, end = json.JSONDecoder().raw_decode(text, len(CONVERSATION))
    return messages, text[end:]


def request(model: str, prompt: Prompt, sampling: Sampling, **more: Any) -> Request:
    """What asks `model` for a prompt's completion. At temperature 0 a seed changes nothing, so that none is sent."""
    text = prompt.prefix + prompt.text
    talk = conversation(text)
    body: dict[str, Any] = {"model": model, "max_tokens": sampling.max_tokens, "temperature": sampling.temperature}
    if sampling.temperature > 0:
        body["seed"] = prompt.seed & 0x7FFFFFFF  # servers take 31 bits
        if sampling.top_p < 1:
            body["top_p"] = sampling.top_p
    if sampling.stop:
        body["stop"] = list(sampling.stop)
    if talk is None:
        return Request(PLAIN, {**body, "prompt": _whole(text), **more})
    messages = [{role: _whole(said) for role, said in message.items()} for message in talk[0]]
    return Request(CHAT, {**body, "messages": messages, **more})


def read(reply: str, asked: Request) -> Answer:
    """The answer in a reply's body; `Unusable` says what came instead. A server that reports no usage is counted by bytes, which
    are never fewer than tokens."""
    try:
        data = json.loads(reply)
    except (ValueError, RecursionError):
        raise Unusable(f"no JSON but {first_line(reply)!r}") from None
    choices = data.get("choices") if isinstance(data, dict) else None
    if not isinstance(choices, list):
        raise Unusable(f"JSON without choices: {first_line(reply)!r}")
    if len(choices) != 1 or not isinstance(choices[0], dict):
        raise Unusable(f"{len(choices)} choices where one was asked for")
    choice = choices[0]
    said = choice.get("message") if asked.path == CHAT else choice
    text = said.get("content" if asked.path == CHAT else "text") if isinstance(said, dict) else None
    finish = str(choice.get("finish_reason") or "")
    if not isinstance(text, str) or not text:
        if finish not in UNFINISHED and not choice.get("logprobs"):
            raise Unusable("a choice without text")
        text = ""
    stop = choice.get("stop_reason")  # vLLM's word for the stop string
    usage = data.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    return Answer(
        _whole(text), _count(usage.get("prompt_tokens"), asked.most_read),
        _count(usage.get("completion_tokens"), len(_whole(text).encode())), finish,
        stop if isinstance(stop, str) else "", choice.get("logprobs") if "logprobs" in asked.body else None,
    )  # fmt: skip


def completion(prompt: Prompt, sampling: Sampling, answer: Answer) -> Completion:
    """The answer as other models give it: going on from the opening, and with the stop string it ended at."""
    talk = conversation(prompt.prefix + prompt.text)
    before = talk[1] if talk else prompt.prefix + prompt.text
    text, ended = _going_on(answer.text, before) if talk else answer.text, "length" if answer.finish == "length" else "eos"
    at = min((text.find(s) + len(s) for s in sampling.stop if s in text), default=-1)
    if at >= 0:
        text, ended = text[:at], "stop"
    elif answer.finish == "stop" and (stop := _stop(before + text, sampling.stop, answer.stop)):
        text, ended = text + stop, "stop"
    return Completion(text, answer.read, answer.written, ended)


def score(answer: Answer, prompt: str, end: str) -> Score | None:
    """The log-likelihood of the text from the prompt's end up to the token that had to be written; None where it was not echoed."""
    given = answer.logprobs
    if not isinstance(given, dict) or not answer.text.startswith(prompt + end):
        return None
    offsets, values, tokens = (given.get(name) for name in ("text_offset", "token_logprobs", "tokens"))
    if not offsets or not values or not tokens:
        return None
    last = len(prompt + end)
    inside = [
        v for at, v, t in zip(offsets, values, tokens, strict=True) if at < last and at + len(t) > len(prompt) and v is not None
    ]
    return Score(sum(inside), len(inside)) if inside else None


def first_words(answer: Answer, words: Sequence[str]) -> dict[str, float] | None:
    """The probability of each word as the first of an answer; None where the server gave no log-probabilities."""
    given = answer.logprobs
    content = given.get("content") if isinstance(given, dict) else None
    top = content[0].get("top_logprobs") if content else None
    if not top:
        return None
    found = dict.fromkeys(words, 0.0)
    for entry in top:
        begun = entry["token"].strip().casefold()
        meant = [w for w in words if begun and w.casefold().startswith(begun)]
        if len(meant) == 1:
            found[meant[0]] += math.exp(entry["logprob"])
    return found


def first_line(text: str) -> str:
    """The beginning of what came back, for a message."""
    lines = text.strip().splitlines() or [""]
    return lines[0][:120]


def _going_on(text: str, opening: str) -> str:
    """A reply without the opening that the prompt ended with, should it repeat it, and without what it said before. The numbers
    in it may be others: a model that was not shown the opening may count from one."""
    if not opening:
        return text
    kinds = re.findall(r"(\d+)|(\s+)|([^\d\s]+)", opening)
    found = re.search("".join(r"\d+" if d else r"\s*" if s else re.escape(rest) for d, s, rest in kinds), text)
    if found is None:
        return text
    tags = re.findall(r"<([^<>/\s]+)>", opening)
    begun = bool(tags) and f"</{tags[-1]}>" in text[: found.start()]  # it went on at once, and this is its next one
    return text if begun else text[found.end() :]


def _stop(text: str, stops: Sequence[str], named: str) -> str:
    """The stop string a text ended at, as far as that can be known: the one that the server names, or the closing tag of what was
    opened and is not closed. A text that ended on its own there lacks the same tag."""
    if named in stops:
        return named
    tags = [(stop, re.fullmatch(r"</([^<>\s]+)>", stop)) for stop in stops]
    return next((stop for stop, tag in tags if tag and text.rfind(f"<{tag[1]}>") > text.rfind(stop)), "")


def _whole(text: str) -> str:
    """A text that UTF-8 can hold: half surrogates become question marks."""
    return text.encode("utf-8", "replace").decode()


def _count(value: Any, otherwise: int) -> int:
    return value if isinstance(value, int) and value >= 0 else otherwise
