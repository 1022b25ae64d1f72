"""What is asked of llama.cpp's cache, against one that keeps the tokens themselves."""

from __future__ import annotations

import random
from typing import Any

import pytest

from edgearte.measure.llamalib import Work
from edgearte.measure.seats import Arrival, Seats, room


class Cache:
    """llama.cpp's calls on sequences, where a cell is what stands in it and at which position."""

    def __init__(self, count: int) -> None:
        self.held: list[list[int]] = [[] for _ in range(count)]  # ids of cells
        self.tokens: list[int] = []
        self.peak = 0

    def llama_memory_seq_rm(self, memory: Any, seat: int, begin: int, end: int) -> None:
        assert end == -1
        del self.held[seat][max(begin, 0) :]

    def llama_memory_seq_cp(self, memory: Any, source: int, seat: int, begin: int, end: int) -> None:
        assert begin == 0 and not self.held[seat] and len(self.held[source]) >= end
        self.held[seat] = self.held[source][:end]

    def decode(self, work: Work) -> None:
        for token, position, seats in zip(work.tokens, work.positions, work.sequences, strict=True):
            self.tokens.append(token)
            assert len({tuple(self.held[s]) for s in seats}) == 1, "sequences of one token must stand alike"
            for seat in seats:
                assert len(self.held[seat]) == position
                self.held[seat].append(len(self.tokens) - 1)
        self.peak = max(self.peak, len({cell for held in self.held for cell in held}))

    def text(self, seat: int) -> list[int]:
        return [self.tokens[cell] for cell in self.held[seat]]


def arrival(seat: int, tokens: list[int], tag: str) -> Arrival:
    return Arrival(seat, tokens, [None] * (len(tokens) - 1) + [tag])


def test_rows_that_arrive_together_read_what_they_share_once() -> None:
    cache, work = Cache(4), Work()
    rows = [[1, 2, 3], [1, 2, 3, 4, 5], [1, 2, 6], [7]]
    Seats(cache, None, 4).enter([arrival(k, row, str(k)) for k, row in enumerate(rows)], work)
    cache.decode(work)
    assert work.tokens == [1, 2, 3, 4, 5, 6, 7]
    assert [cache.text(k) for k in range(4)] == rows
    assert work.tags == [None, None, ["0"], None, ["1"], ["2"], ["3"]]


def test_rows_that_are_asked_the_same_share_all_and_the_logits() -> None:
    cache, work = Cache(2), Work()
    Seats(cache, None, 2).enter([arrival(0, [1, 2], "a"), arrival(1, [1, 2], "b")], work)
    assert (work.tokens, work.tags, work.sequences) == ([1, 2], [None, ["a", "b"]], [[0, 1], [0, 1]])


def test_a_row_that_comes_later_shares_what_is_left_of_one_that_is_gone() -> None:
    cache = Cache(1)
    seats = Seats(cache, None, 1)
    for row, read in (([1, 2, 3], [1, 2, 3]), ([1, 2, 3], [3]), ([1, 2, 4, 5], [4, 5]), ([9], [9])):
        work = Work()
        seats.enter([arrival(0, row, "x")], work)
        cache.decode(work)
        assert work.tokens == read
        assert cache.text(0) == row
        wrote = Work()
        wrote.add([8, 8], len(row), 0, [None, None])
        cache.decode(wrote)
        seats.leave(0)
        assert cache.text(0) == row
    seats.empty([0])
    assert not cache.text(0)


def test_a_model_that_cannot_share_reads_every_row_whole() -> None:
    cache, work = Cache(2), Work()
    seats = Seats(cache, None, 2, sharing=False)
    seats.enter([arrival(0, [1, 2], "a"), arrival(1, [1, 2], "b")], work)
    assert work.tokens == [1, 2, 1, 2]
    cache.decode(work)
    seats.leave(0)
    again = Work()
    seats.enter([arrival(0, [1, 2], "c")], again)
    assert again.tokens == [1, 2]
    assert room([[1, 2], [1, 2]], [3, 3], 2, sharing=False) == 10


@pytest.mark.parametrize("seed", range(30))
def test_every_seat_holds_its_row_whatever_comes_and_goes(seed: int) -> None:
    chance = random.Random(seed)
    count = chance.randint(1, 6)
    prompts = sorted([chance.randint(0, 1) for _ in range(chance.randint(1, 9))] for _ in range(40))
    own = [chance.randint(1, 5) for _ in prompts]
    cache = Cache(count)
    seats = Seats(cache, None, count)
    waiting, active, free, read = list(range(len(prompts))), dict[int, int](), list(range(count)), 0
    while waiting or active:
        work, arrivals = Work(), []
        for seat, index in active.items():
            work.add([5], len(cache.held[seat]), seat, [["on"]])
            own[index] -= 1
        while waiting and free:
            index, seat = waiting.pop(0), free.pop()
            arrivals.append(arrival(seat, prompts[index], str(index)))
            active[seat] = index
        seats.enter(arrivals, work)
        read += len(work.tokens)
        cache.decode(work)
        assert sorted(tag for tags in work.tags for tag in tags or () if tag != "on") == sorted(a.tags[-1] for a in arrivals)
        for seat, index in list(active.items()):
            assert cache.text(seat)[: len(prompts[index])] == prompts[index]
            if own[index] <= 0:
                seats.leave(seat)
                free.append(seat)
                del active[seat]
    assert cache.peak <= room(prompts, [6] * len(prompts), count)
