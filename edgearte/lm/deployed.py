"""An exported artifact behind the protocol: the student as it is deployed, quantized, run by its own runtime in a process of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgearte.lm.base import LM, Completion, Prompt, Sampling, Score


class Deployed:
    """An artifact that is asked greedily; `identity` names it by content. `checkpoint` is what it was made of, whose chat template renders
    its conversations (a gate has shown that the artifact's is the same)."""

    def __init__(self, path: Path, runtime: str, identity: str, checkpoint: LM, *, threads: int = 0) -> None:
        self.path = path
        self.identity = identity
        self._runtime = runtime
        self._checkpoint = checkpoint
        self._threads = threads

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Completion]:
        """Continue the prompts; a `NotImplementedError` for sampling and for patterns, which the harness does not have."""
        from edgearte.measure.host import answer

        if sampling.temperature or any(p.pattern for p in prompts):
            raise NotImplementedError("a deployed artifact is asked greedily")
        rows = [{"text": p.text, "prefix": p.prefix} for p in prompts]
        outputs = answer(self.path, self._runtime, rows, max_tokens=sampling.max_tokens, stop=sampling.stop, threads=self._threads)
        return [Completion(**output) for output in outputs]

    def loglikelihood(self, pairs: Sequence[tuple[Prompt, str]]) -> list[Score]:
        raise NotImplementedError("a deployed artifact tells no likelihoods")

    def chat(self, messages: Sequence[dict[str, str]]) -> str:
        return self._checkpoint.chat(messages)

    def release(self) -> None:
        """Nothing is held between calls."""
