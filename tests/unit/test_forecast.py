"""The forecast of a build: what it counts, and that what a stage took here before stands in place of a guess."""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgearte import forecast, pace
from edgearte.lm import weights
from edgearte.load import load_recipe, load_task
from edgearte.pace import Pace
from edgearte.recipe import Align
from edgearte.store import Store
from edgearte.workload import Machine, Sizes, Work, _Counter, pairs_seen, work
from tests import tiny

SIZES = Sizes(10_000_000, 1_000_000)


@pytest.fixture
def stages(tiny_model: Path, tmp_path: Path) -> Callable[..., dict[str, Work]]:
    path = tiny.write_recipe(tmp_path, tiny_model)

    def made(*overrides: str) -> dict[str, Work]:
        recipe = load_recipe(path, list(overrides))
        return {w.stage: w for w in work(recipe, load_task(recipe), SIZES, Machine(1e12, 1e10))}

    return made


def test_few_pairs_are_seen_often_and_many_once() -> None:
    align = Align(batch=16, min_steps=8, max_steps=32, held_out=0.2)
    assert pairs_seen(50, align) == pytest.approx(16 * (8 * 32) ** 0.5)  # 40 are learned from, 10 say when to stop
    assert pairs_seen(10, align) == pytest.approx(8 * (8 * 32) ** 0.5)  # a batch has no more than there are
    assert pairs_seen(1000, align) == 16 * 50
    assert pairs_seen(50, align.model_copy(update={"held_out": 0.0})) == 16 * 8
    assert pairs_seen(0, align) == 0


def test_what_the_recipe_asks_for_beside_the_loop_is_counted(stages: Callable[..., dict[str, Work]]) -> None:
    plain = stages("align.judge=0")
    assert plain["vote"].calls == plain["judge: texts"].calls == plain["select"].calls == 0
    voted = stages("draft.vote=0.5")
    assert voted["vote"].calls == voted["draft: questions"].calls * 2 + voted["tailor: questions"].calls * 2  # two questions a prompt
    assert voted["draft: questions"].calls == 2 * plain["draft: questions"].calls
    selected = stages("select.factor=3")
    assert selected["select"].calls == 3 * 8 * 4
    assert selected["tailor: rationales"].calls == plain["tailor: rationales"].calls + 3 * 8
    assert selected["train"].calls == plain["train"].calls * 4 // 3
    judged = stages("align.judge=5")
    assert (judged["judge: texts"].calls, judged["judge: scores"].calls) == (10, 40)
    alone = stages("train.seeds=false")
    assert plain["train"].calls == alone["train"].calls + 3 * 6


def test_both_ways_of_teaching_are_tried_where_development_decides(stages: Callable[..., dict[str, Work]]) -> None:
    development = "task.development.file=development.jsonl"
    tried, given = stages(development), stages(development, "train.teach=answer")
    assert tried["train"].calls == given["train"].calls + 6


def test_where_no_rationale_is_taught_none_is_counted(stages: Callable[..., dict[str, Work]]) -> None:
    bare, reasoned = stages("train.teach=answer"), stages("train.teach=rationale")
    assert bare["draft: rationales"].calls == bare["tailor: rationales"].calls == 0 < reasoned["tailor: rationales"].calls
    assert 0 < bare["prefer"].calls < reasoned["prefer"].calls  # a question each, in place of each of its rationales
    assert bare["align"].calls < reasoned["align"].calls
    assert stages("train.teach=answer", "align.question_pairs=0")["align"].calls == 0
    assert bare["train"].tokens_in < reasoned["train"].tokens_in


def test_a_pair_is_two_texts(tiny_model: Path) -> None:
    counted = _Counter(Machine(1e12, 1e10), ())

    def memory(texts: int) -> float:
        work = counted.train("align", 1, 8, 4000, 1, tiny_model, 8, "bfloat16", 0.5, texts=texts)
        return work.memory

    assert memory(2) < memory(1)


def test_reading_answers_is_cheaper_than_writing_them(stages: Callable[..., dict[str, Work]]) -> None:
    written, read = stages()["prefer"], stages("prefer.scorer=probability")["prefer"]
    assert read.tokens_out == 0 < written.tokens_out
    assert read.seconds < written.seconds


def test_a_rate_seen_here_stands_in_place_of_a_guess() -> None:
    guessed = [
        Work("prefer", 10, 900, 100, 1.0, 77.0, 1_000_000, "float32", "prefer"),
        Work("train", 10, 1000, 0, 1.0, 88.0, 1_000_000, "float32", "train"),
    ]
    seen = [
        Pace("prefer", 1_000_000, "float32", tokens, seconds) for tokens, seconds in ((400, 2.0), (600, 2.0), (90, 9.0))
    ]
    found = forecast.corrected(guessed, seen)
    assert (found[0].seconds, found[0].seen) == (1000 / 200, True)  # the median: 200 tokens a second
    assert found[1] == guessed[1]
    for other in (
        Pace("prefer", 2_000_000, "float32", 400, 9.0), Pace("prefer", 1_000_000, "bfloat16", 400, 9.0),
        Pace("prefer", 1_000_000, "float32", 400, 0.5),
    ):  # fmt: skip
        assert forecast.corrected(guessed, [other]) == guessed


def test_a_store_tells_what_stages_took_by_the_size_of_the_model(tiny_model: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    store = Store(tmp_path / "store")
    identity = weights.identity(folder, store)
    options = {"student": f"{identity}:float32"}

    def compute(part: list[Any]) -> list[Any]:
        return [{"tokens": 100} for _ in part]

    store.rows("prefer", 1, options, list(range(6)), compute, chunk=3)
    store.rows("prefer", 1, {"student": "gone:float32"}, [1], compute, chunk=3)
    store.rows("hidden", 1, {"model": f"{identity}:float32"}, [1], lambda part: [[0.5]], chunk=3)  # says no tokens
    rows = [{"prompt": "x" * 300, "completion": [{"content": "y" * 100}]}] * 2
    store.tree("train", 1, {"student": identity, "rows": rows, "epochs": 3}, lambda out: None)
    store.write("UPDATE chunks SET seconds = 9.0")
    store.write("UPDATE processor SET seconds = 6.0")
    store.write("UPDATE trees SET seconds = 8.0")
    size = weights.footprint(str(folder))[0]
    expected = [Pace("prefer", size, "float32", 300, 3.0)] * 2 + [Pace("train", size, "float32", 600, 3.0)]
    assert pace.paces(store, 2) == expected
    assert {p.seconds for p in pace.paces(store, 0)} == {8.0, 9.0}, "on a GPU the clock counts"
    store.write("UPDATE chunks SET seconds = 0.1")
    assert [p.stage for p in pace.paces(store, 2)] == ["train"]
    store.close()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="threads cannot be kept on one core here")
def test_other_work_on_the_machine_changes_little() -> None:
    """Threads that take the core away stretch the clock, and not the time of the thread that is measured."""
    cores = os.sched_getaffinity(0)
    stop, ends = threading.Event(), time.monotonic() + 60

    def busy() -> None:
        while not stop.is_set() and time.monotonic() < ends:
            hashlib.sha256(bytes(1 << 20))  # which lets other threads of Python go on

    others = [threading.Thread(target=busy) for _ in range(6)]
    os.sched_setaffinity(0, {min(cores)})  # this thread, and those it starts
    try:
        quiet = forecast.measure_machine()
        for other in others:
            other.start()
        disturbed = forecast.measure_machine()
    finally:
        stop.set()
        os.sched_setaffinity(0, cores)
    for other in others:
        other.join()
    assert disturbed.flops > quiet.flops / 2
    assert disturbed.cores == quiet.cores
