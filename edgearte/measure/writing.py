"""Rows that are being written side by side: what each has, and what comes next in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from edgearte.measure.rows import Continuation, Logits, Row, Writer, choose


class Words(Protocol):
    """What is asked of a vocabulary."""

    def ends(self, token: int) -> bool: ...

    def piece(self, token: int) -> bytes: ...


@dataclass(frozen=True)
class How:
    """How much rows may write, and how their tokens are chosen (`rows.choose`)."""

    max_tokens: int
    temperature: float
    top_p: float


@dataclass(eq=False)
class Written:
    """A row in its seat."""

    index: int
    row: Row
    seat: int
    prompt: list[int]
    writer: Writer
    count: int = 0
    last: int = -1  # the token to be read next; -1 while the prompt is

    def take(self, token: int, words: Words, max_tokens: int) -> str:
        """Write a token down; why the row has ended, or nothing."""
        self.count += 1
        self.last = token
        if words.ends(token):
            return "eos"
        if self.writer.add(words.piece(token)):
            return "stop"
        if self.row.constraint is not None and self.row.constraint.accept(token):
            return "eos"
        return "length" if self.count >= max_tokens else ""

    def continuation(self, ended: str) -> Continuation:
        return Continuation(self.writer.text(), len(self.prompt), self.count, ended)


def advance(several: Sequence[Sequence[Written]], logits: Logits, words: Words, how: How) -> list[tuple[Written, str]]:
    """Take the next token of these rows; those that have ended, and why. `logits` has a row for each of `several`, whose members have
    been asked the same and share it."""
    rows = [row for alike in several for row in alike]
    if len(rows) > len(several):
        logits = logits.repeat([len(alike) for alike in several], axis=0)
    elif any(row.row.constraint for row in rows):
        logits = logits.copy()
    for row, its in zip(rows, logits):  # noqa: B905 (Python 3.9 runs this)
        if row.row.constraint is not None:
            row.row.constraint.mask(its)
    tokens = choose(logits, [(row.row.seed, row.count) for row in rows], how.temperature, how.top_p)
    taken = [(row, row.take(token, words, how.max_tokens)) for row, token in zip(rows, tokens)]  # noqa: B905
    return [(row, ended) for row, ended in taken if ended]
