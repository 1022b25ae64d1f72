"""An OpenAI-compatible server that fails as servers do: it refuses, hangs, cuts connections, sends garbage. When it answers, the answer
depends on nothing but the request; when it fails, on nothing but the request and how often it was sent before.
"""

from __future__ import annotations

import json
import random
import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.tiny import COMMANDS, LABELS

MODES = ("429", "500", "hang", "cut", "garbage", "html", "truncated", "choices", "none", "empty", "null")
TOKEN = r"\s*\S+|\s+$"


class Faulty(ThreadingHTTPServer):
    """`rate` of the calls fail, in one of `modes`, but no request more than `most` times. `refuse` is a status for all of them, whose
    message repeats the key that was sent. Everything after `held_after` requests waits until `gate` is set."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.rate = 0.0
        self.modes: tuple[str, ...] = MODES
        self.most = 4
        self.refuse = 0
        self.held_after = -1
        self.stops_named = False  # as vLLM does
        self.logprobs = True
        self.shifted = 0.0  # by how much an echo's log-probabilities are wrong
        self.usage = True
        self.gate = threading.Event()
        self.arrived = threading.Condition()
        self.seen: list[str] = []  # every request, as canonical JSON
        self.headers: list[dict[str, str]] = []
        self.answered = 0
        self.failed = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def times(self) -> Counter[str]:
        return Counter(self.seen)

    def wait_for(self, count: int) -> bool:
        """Whether so many requests arrived in a minute: who sends them may have to import torch on a busy machine first."""
        with self.arrived:
            return self.arrived.wait_for(lambda: len(self.seen) >= count, 60)

    def forget(self) -> None:
        self.seen.clear()
        self.headers.clear()
        self.answered = self.failed = 0


@contextmanager
def serving() -> Iterator[Faulty]:
    server = Faulty()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.gate.set()
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: Faulty
    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16  # a reply in one piece: two would wait for each other
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = json.dumps([self.path, body], sort_keys=True)
        server = self.server
        with server.arrived:
            attempt = server.seen.count(text)
            server.seen.append(text)
            server.headers.append({name.lower(): value for name, value in self.headers.items()})
            held = 0 <= server.held_after < len(server.seen)
            server.arrived.notify_all()
        if held:
            server.gate.wait(60)
        if server.refuse:
            return self._send(server.refuse, {"error": {"message": f"refused: {self.headers.get('Authorization')}"}})
        chance = random.Random(f"{attempt} {text}")
        if attempt < server.most and chance.random() < server.rate:
            server.failed += 1
            return self._fail(chance.choice(server.modes), json.dumps(answer(self.path, body, server)))
        server.answered += 1
        return self._send(200, answer(self.path, body, server))

    def _fail(self, mode: str, whole: str) -> None:
        match mode:
            case "429":
                self._send(429, {"error": {"message": "slow down"}}, retry="0.02")
            case "500":
                self._send(500, {"error": {"message": "out of order"}})
            case "hang":
                self.server.gate.wait(20)
                self.close_connection = True
            case "cut":
                self._raw(200, whole.encode()[: len(whole) // 2], "application/json", length=len(whole))
                self.close_connection = True
            case "garbage":
                self._raw(200, bytes(range(128, 256)), "application/json")
            case "html":
                self._raw(200, b"<!doctype html>\n<html><body>Bad gateway</body></html>", "text/html")
            case "truncated":
                self._raw(200, whole.encode()[: len(whole) // 2], "application/json")
            case "choices":
                doubled = json.loads(whole)
                self._send(200, {**doubled, "choices": doubled["choices"] * 2})
            case "none":
                self._send(200, {**json.loads(whole), "choices": []})
            case other:
                broken = json.loads(whole)
                broken["choices"][0]["message"] = {"role": "assistant", "content": "" if other == "empty" else None}
                self._send(200, broken)

    def _send(self, status: int, data: Any, retry: str = "") -> None:
        self._raw(status, json.dumps(data).encode(), "application/json", retry=retry)

    def _raw(self, status: int, data: bytes, kind: str, *, length: int = 0, retry: str = "") -> None:
        try:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(length or len(data)))
            if retry:
                self.send_header("Retry-After", retry)
            self.end_headers()
            self.wfile.write(data)
            self.wfile.flush()
        except OSError:  # the client is gone
            self.close_connection = True


def answer(path: str, body: dict[str, Any], server: Faulty) -> dict[str, Any]:
    """The reply to a request, by its content alone."""
    chat = path.endswith("/chat/completions")
    asked = body["messages"][-1]["content"] if chat else body["prompt"]
    text = ("" if chat else " ") + write(asked, random.Random(json.dumps(body, sort_keys=True)))
    finish, named = "stop", None
    words = re.findall(TOKEN, text)
    if len(words) > body["max_tokens"]:
        text, finish = "".join(words[: body["max_tokens"]]), "length"
    for stop in body.get("stop", []):
        if stop in text:
            text, finish, named = text[: text.index(stop)], "stop", stop
    choice: dict[str, Any] = {"index": 0, "finish_reason": finish, "logprobs": None}
    choice |= {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
    if server.stops_named:
        choice["stop_reason"] = named
    if server.logprobs and body.get("logprobs"):
        choice |= _logprobs(chat, asked, text, body, server)
    used = {"prompt_tokens": len(asked.split()), "completion_tokens": max(1, len(text.split()))}
    return {"id": "x", "object": "completion", "choices": [choice], **({"usage": used} if server.usage else {})}


def write(asked: str, chance: random.Random) -> str:
    """What a teacher of the tiny task would write; what is asked to be said again, it says."""
    if again := re.search(r"^Say: (.*)", asked, re.S):
        return again.group(1)
    words = " ".join(c for commands in COMMANDS.values() for c in commands).split()
    if wanted := re.search(r"from <Question_(\d+)> to <Question_(\d+)>", asked):
        blocks = []
        for number in range(int(wanted[1]), int(wanted[2]) + 1):
            text = " ".join(chance.choices(words, k=chance.randint(4, 9)))
            blocks.append(
                f"<Question_{number}>\n<input>{text}</input>\n<target>{chance.choice(LABELS)}</target>\n</Question_{number}>"
            )
        return "Here they are:\n" * chance.randint(0, 1) + "\n".join(blocks)
    label = chance.choice(LABELS)
    return f"{' '.join(chance.choices(words, k=4))}. It is about {label}. <ans>{label}</ans> Good luck!"


def _logprobs(chat: bool, asked: str, text: str, body: dict[str, Any], server: Faulty) -> dict[str, Any]:
    if chat:
        top = [{"token": t, "logprob": p} for t, p in ((" Yes", -0.5), ("yes", -2.0), ("No", -1.5), ("Why", -3.0))]
        return {"logprobs": {"content": [{"token": "Yes", "logprob": -0.5, "top_logprobs": top}]}}
    if not body.get("echo"):
        tokens = re.findall(TOKEN, text)
        return {"logprobs": {"tokens": tokens, "token_logprobs": [-float(len(token)) for token in tokens]}}
    whole = asked + text
    tokens = [token for part in (asked, text) for token in re.findall(TOKEN, part)]
    offsets, at = [], 0
    for token in tokens:
        offsets.append(at)
        at += len(token)
    values = [None, *(-float(len(token)) - server.shifted for token in tokens[1:])]
    return {"text": whole, "logprobs": {"tokens": tokens, "token_logprobs": values, "text_offset": offsets}}
