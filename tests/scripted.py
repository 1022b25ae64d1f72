"""A model whose words and likelihoods a test writes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from edgearte.lm.base import Completion, Prompt, Sampling, Score


class Scripted:
    """A model whose words and likelihoods functions of the prompt decide; it remembers what it was asked."""

    identity = "scripted"

    def __init__(self, says: Callable[[str], str] = str, sure: Callable[[str, str], float] = lambda *_: 0.0) -> None:
        self.says, self.sure, self.asked = says, sure, list[str]()

    def generate(self, rows: Sequence[Prompt], sampling: Sampling) -> list[Completion]:
        self.asked += [p.prefix + p.text for p in rows]
        return [Completion(self.says(p.prefix + p.text), 10, 5, "stop") for p in rows]

    def loglikelihood(self, pairs: Sequence[tuple[Prompt, str]]) -> list[Score]:
        self.asked += [p.prefix + p.text for p, _ in pairs]
        return [Score(self.sure(p.prefix + p.text, word), 1) for p, word in pairs]

    def chat(self, messages: Sequence[dict[str, str]]) -> str:
        return "".join(f"[{m['role']}]{m['content']}" for m in messages) + "[assistant]"
