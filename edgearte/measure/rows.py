"""One row of a generation, whatever runtime writes it: its text as it grows, where it stops, and how its tokens are
drawn."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.float32]


class Constraint(Protocol):
    """What may come next in one row. It is asked before each token and told which one was taken."""

    def mask(self, logits: Logits) -> Logits:
        """The logits with forbidden tokens at minus infinity."""
        ...

    def accept(self, token: int) -> bool:
        """Take note of a token; true when nothing may follow it."""
        ...


@dataclass(frozen=True)
class Row:
    """A prompt to continue; its text is `prefix + text`. `seed` keys the row's random numbers."""

    text: str
    prefix: str = ""
    seed: int = 0
    constraint: Constraint | None = None


@dataclass(frozen=True)
class Timed:
    """What one timed run reads and writes: after `context`, each of `turns` is read and `new_tokens` are written, in `batch` sequences
    alike. The last turn is timed."""

    context: list[int]
    turns: list[list[int]]
    new_tokens: int
    batch: int = 1

    @property
    def length(self) -> int:
        """Tokens of one sequence at its end."""
        return len(self.context) + sum(map(len, self.turns)) + len(self.turns) * self.new_tokens


@dataclass(frozen=True)
class Continuation:
    """What was written: the text without special tokens, tokens read, tokens written (an ending EOS is one of them),
    and why it ended: `stop` (a stop string, kept), `eos`, or `length`."""

    text: str
    prompt_tokens: int
    new_tokens: int
    ended: str


class Writer:
    """The growing text of a row, in bytes because a character may be split between tokens."""

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = [s.encode() for s in stop if s]
        self._reach = max((len(s) for s in self._stop), default=1) - 1
        self._raw = bytearray()

    def add(self, piece: bytes) -> bool:
        """Append a token's bytes; true when a stop string is now complete, with everything after it cut off."""
        start = max(0, len(self._raw) - self._reach)
        self._raw += piece
        ends = [at + len(s) for s in self._stop if (at := self._raw.find(s, start)) >= 0]
        if not ends:
            return False
        del self._raw[min(ends) :]
        return True

    def text(self) -> str:
        """The text so far, without a last character that is still incomplete."""
        return codecs.getincrementaldecoder("utf-8")("replace").decode(bytes(self._raw))


def pick(logits: Logits, temperature: float, top_p: float, seed: int, step: int) -> int:
    """The next token: the likeliest at temperature 0, else a sample by the Gumbel-max trick.

    The noise is keyed by row and step and has one number per word of the vocabulary, so that a token's luck depends
    neither on the other rows nor on which other tokens are in the running.
    """
    if temperature <= 0:
        return int(logits.argmax())
    scaled = logits.astype(np.float64) / temperature
    scaled -= scaled.max()
    running = np.flatnonzero(scaled > -25.0)  # the rest have less than e^-25 of the likeliest's chance, each
    if top_p < 1:
        order = running[np.argsort(-scaled[running], kind="stable")]
        mass = np.cumsum(np.exp(scaled[order]))
        running = order[: int(np.searchsorted(mass, top_p * mass[-1])) + 1]
    uniform = np.random.default_rng((seed, step)).random(len(logits))[running]
    with np.errstate(divide="ignore"):
        noisy = scaled[running] - np.log(-np.log(uniform))
    return int(running[noisy.argmax()])


@dataclass(frozen=True)
class Group:
    """Rows that declare the same prefix, and how many tokens their prompts truly share."""

    shared: int
    rows: list[int]


def shared_prefixes(prefixes: Sequence[str], prompts: Sequence[list[int]]) -> list[Group]:
    """Rows by prefix, in order of first appearance. What is shared is the common beginning of the *tokens*, since a
    prefix tokenized on its own may end in another token than within the whole; one token is left over for each row to
    start from."""
    members: dict[str, list[int]] = {}
    for index, prefix in enumerate(prefixes):
        members.setdefault(prefix, []).append(index)
    groups = []
    for prefix, indices in members.items():
        shared = 0
        if prefix and len(indices) > 1:
            first = prompts[indices[0]]
            shared = min(len(prompts[i]) for i in indices) - 1
            for i in indices[1:]:
                same = next((n for n in range(shared) if prompts[i][n] != first[n]), shared)
                shared = min(shared, same)
        groups.append(Group(shared, indices))
    return groups
