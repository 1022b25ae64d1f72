"""Connections cut at random moments."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def cutting(cut: Callable[[], int], low: float, high: float) -> Iterator[list[int]]:
    """Calls `cut` meanwhile, again and again, so many seconds apart; what it gave each time."""
    chance, over, cuts = random.Random(6), threading.Event(), list[int]()

    def work() -> None:
        while not over.wait(chance.uniform(low, high)):
            cuts.append(cut())

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield cuts
    finally:
        over.set()
        thread.join()
