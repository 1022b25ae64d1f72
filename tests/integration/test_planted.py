"""The aligned teacher, a real small model, must write what a rigged student prefers more often than the unaligned one does for the same
prompts; and must not where nothing is learned, or where the pairs are turned round."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgearte.lm.weights import Weights
from edgearte.store import Store
from edgearte.train import dpo
from edgearte.train.common import read_log
from tests import planted
from tests.planted import CAUSAL, PERSONAL, Kind, higher


@pytest.mark.parametrize("kind", [PERSONAL, CAUSAL], ids=lambda kind: kind.name)
@pytest.mark.parametrize("what", ["aligned", "rate 0", "swapped"])
def test_the_teacher_writes_what_the_student_prefers(source: Weights, store: Store, kind: Kind, what: str) -> None:
    author = planted.teacher(source.folder, store)
    pairs, how = planted.pairs(kind, author, store), planted.HOW
    asked = planted.questions(author, store)
    before = planted.of_the_kind(kind, planted.written(kind, author, asked, store))
    author.release()
    assert 0.2 <= sum(before) / len(before) <= 0.6  # room to rise and to fall
    if what == "rate 0":
        how = replace(how, learning_rate=0.0, min_steps=1, patience=1)
    elif what == "swapped":
        pairs = planted.swapped(pairs)
    folder = dpo.align(source.folder, source.identity, pairs, how, store, label=what)
    after = planted.of_the_kind(kind, planted.written(kind, planted.teacher(folder, store), asked, store))
    print(f"{kind.name}, {what}: {sum(before)}/{len(before)} -> {sum(after)}/{len(after)}, {read_log(folder).held_out[-1]}")
    assert (higher(after, before) < 0.01) is (what == "aligned")
    if what == "swapped":
        assert higher(before, after) < 0.01
