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
STRETCH = 512  # words of the vocabulary summed up at once, to find in two steps where a sample falls
SORTED = 256  # likeliest words that are sorted at first, where top_p asks for order


class Constraint(Protocol):
    """What may come next in one row. It is asked before each token and told which one was taken."""

    def mask(self, logits: Logits) -> None:
        """Put forbidden tokens at minus infinity, in place."""
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


def choose(logits: Logits, keys: Sequence[tuple[int, int]], temperature: float, top_p: float) -> list[int]:
    """The next token of each row of `logits` (rows x vocabulary): the likeliest at temperature 0, else a sample.

    `keys` are (seed, step) of the rows. A sample inverts the cumulative distribution at a uniform number keyed by them, as
    `lm/decoding.py` does, so that it depends on nothing but its row.
    """
    if temperature <= 0:
        likeliest: list[int] = logits.argmax(axis=1).tolist()
        return likeliest
    return [_sample(row, uniform(*key), temperature, top_p) for row, key in zip(logits, keys)]  # noqa: B905 (Python 3.9 runs this)


def uniform(seed: int, step: int) -> float:
    """A number from 0 to 1 that depends on these two alone."""
    return float(np.random.Generator(np.random.Philox(key=[seed, step])).random())


def _sample(logits: Logits, at: float, temperature: float, top_p: float) -> int:
    """The token at which the cumulative distribution passes `at` (0 to 1). Row by row: one row fits a processor's cache."""
    chances = logits - logits.max()
    if temperature != 1:
        chances /= np.float32(temperature)
    np.exp(chances, out=chances)
    sums = np.add.reduceat(chances, np.arange(0, len(chances), STRETCH)).cumsum(dtype=np.float64)
    if top_p < 1:
        kept = _nucleus(chances, top_p, float(sums[-1]))
        return int(kept[_passing(chances[kept], at)])
    stretch = _passing_at(sums, at * sums[-1])
    before = float(sums[stretch - 1]) if stretch else 0.0
    first = stretch * STRETCH
    within = chances[first : first + STRETCH].cumsum(dtype=np.float64)
    return first + _passing_at(within, at * float(sums[-1]) - before)


def _nucleus(chances: Logits, top_p: float, total: float) -> NDArray[np.intp]:
    """The fewest tokens that have `top_p` of the chances together, in the vocabulary's order."""
    # Tokens with less than this each have less than 1 - top_p together, even if all the vocabulary was such: they are in no nucleus.
    least = (1 - top_p) * total / len(chances)
    running = np.flatnonzero(chances >= np.float32(0.999 * least))
    count = SORTED
    while count < len(running):  # sorting all of a flat distribution would take longer than a pass through a small model
        likeliest = running[np.argpartition(chances[running], -count)[-count:]]
        if chances[likeliest].sum(dtype=np.float64) >= top_p * total:
            running = likeliest
            break
        count *= 8
    ordered = running[np.argsort(-chances[running], kind="stable")]
    mass = chances[ordered].cumsum(dtype=np.float64)
    kept = ordered[: int(np.searchsorted(mass, top_p * total)) + 1]
    kept.sort()
    return kept


def _passing(chances: Logits, at: float) -> int:
    mass = chances.cumsum(dtype=np.float64)
    return _passing_at(mass, at * float(mass[-1]))


def _passing_at(cumulative: NDArray[np.float64], value: float) -> int:
    return min(int(np.searchsorted(cumulative, value, side="right")), len(cumulative) - 1)


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
