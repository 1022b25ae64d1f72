"""Seats for rows in llama.cpp's cache: a sequence each. What rows begin with alike is read once, whether anybody declared it or not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgearte.measure.llamalib import Work

Ids = NDArray[np.int32]
NOTHING: Ids = np.zeros(0, np.int32)


@dataclass(frozen=True)
class Arrival:
    """A row that takes a seat: its tokens, and for each of them who wants the logits after it, or None."""

    seat: int
    tokens: list[int]
    tags: list[Any]


@dataclass(frozen=True)
class _Path:
    """An arrival on its way: the first `base` of its tokens are in the cache, the others stand at `entries` of the work."""

    seat: int
    ids: Ids
    base: int
    entries: list[int]


class Seats:
    """The sequences 0, 1, … of one context with a unified cache. A seat keeps what its last row was asked until the next one takes it,
    so that rows that begin alike need not be there at the same time."""

    def __init__(self, library: Any, memory: Any, count: int, *, sharing: bool = True) -> None:
        """`sharing` False is for models that keep one state a sequence, which cannot be cut."""
        self._c = library
        self._memory = memory
        self._sharing = sharing
        self._held: list[Ids] = [NOTHING] * count

    def enter(self, arrivals: Sequence[Arrival], work: Work) -> None:
        """Append to `work` what these rows need read. A tag stands there in a list with those of other rows that want the same logits.
        Work must be decoded, and whole, before the next rows enter. Rows in the order of their tokens share the most."""
        paths: list[_Path] = []
        for arrival in arrivals:
            paths.append(self._placed(arrival, paths, work))
        for path in paths:
            self._held[path.seat] = path.ids if self._sharing else NOTHING

    def leave(self, seat: int) -> None:
        """The row has ended: what it was asked is kept, what it wrote is forgotten."""
        self._c.llama_memory_seq_rm(self._memory, seat, len(self._held[seat]) or -1, -1)

    def empty(self, seats: Sequence[int]) -> None:
        """Forget all of these seats: nobody comes who could share it."""
        for seat in seats:
            self._c.llama_memory_seq_rm(self._memory, seat, -1, -1)
            self._held[seat] = NOTHING

    def _placed(self, arrival: Arrival, paths: Sequence[_Path], work: Work) -> _Path:
        ids = np.array(arrival.tokens, np.int32)
        first = next(at for at, tag in enumerate(arrival.tags) if tag is not None)
        held = [min(_alike(known, ids), first) for known in self._held]
        source = max(range(len(held)), key=held.__getitem__)
        base, entries = held[source], list[int]()
        if self._sharing and paths:
            also = max(paths, key=lambda path: _alike(path.ids, ids))
            common = _alike(also.ids, ids)
            if common > max(base, also.base):
                source, base, entries = also.seat, also.base, also.entries[: common - also.base]
        self._fork(source, arrival.seat, base)
        self._held[arrival.seat] = ids[:base]
        for at, entry in enumerate(entries, base):
            work.sequences[entry].append(arrival.seat)
            if arrival.tags[at] is not None:
                work.tags[entry] = [*(work.tags[entry] or ()), arrival.tags[at]]
        known = base + len(entries)
        begin = len(work.tokens)
        work.add(arrival.tokens[known:], known, arrival.seat, [tag if tag is None else [tag] for tag in arrival.tags[known:]])
        return _Path(arrival.seat, ids, base, [*entries, *range(begin, len(work.tokens))])

    def _fork(self, source: int, seat: int, count: int) -> None:
        """Let a seat hold the first `count` tokens of another one, and nothing else."""
        if source == seat and count:
            self._c.llama_memory_seq_rm(self._memory, seat, count, -1)
            return
        self._c.llama_memory_seq_rm(self._memory, seat, -1, -1)
        if count:
            self._c.llama_memory_seq_cp(self._memory, source, seat, 0, count)


def room(prompts: Sequence[Sequence[int]], own: Sequence[int], seats: int, *, sharing: bool = True) -> int:
    """Tokens that may be in the cache at once, at most, while rows of these prompts, in order, pass through the seats and each gets as
    many of its `own`."""
    together = sum(sorted((len(p) + n for p, n in zip(prompts, own)), reverse=True)[:seats])  # noqa: B905 (Python 3.9 runs this)
    ids = [np.array(p, np.int32) for p in prompts]
    apart = sum(len(a) for a in ids) - sum(_alike(a, b) for a, b in zip(ids, ids[1:]))  # noqa: B905, RUF007
    return min(together, apart + sum(sorted(own, reverse=True)[:seats])) if sharing else together


def _alike(one: Ids, other: Ids) -> int:
    """How many tokens two rows begin with alike."""
    count = min(len(one), len(other))
    differ = one[:count] != other[:count]
    return int(differ.argmax()) if differ.any() else count
