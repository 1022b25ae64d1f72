"""The store: computed once, committed by chunk, found again; nothing half-written."""

from __future__ import annotations

import os
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgearte.errors import UserError
from edgearte.store import Store, canonical, digest, seed_of

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def doubled(calls: list[list[int]]) -> Any:
    def compute(part: list[int]) -> list[int]:
        calls.append(part)
        return [2 * x for x in part]

    return compute


def test_rows_are_computed_by_chunk_and_only_once(tmp_path: Path) -> None:
    calls: list[list[int]] = []
    store = Store(tmp_path)
    assert store.rows("s", 1, {}, [1, 2, 3], doubled(calls), chunk=2) == [2, 4, 6]
    assert Store(tmp_path).rows("s", 1, {}, [1, 2, 3], doubled(calls), chunk=2) == [2, 4, 6]
    assert calls == [[1, 2], [3]]


@pytest.mark.parametrize(("stage", "version", "options"), [("t", 1, {}), ("s", 2, {}), ("s", 1, {"a": 1})])
def test_another_stage_version_or_option_is_another_result(
    tmp_path: Path, stage: str, version: int, options: dict[str, int]
) -> None:
    calls: list[list[int]] = []
    store = Store(tmp_path)
    store.rows("s", 1, {}, [1], doubled(calls), chunk=2)
    store.rows(stage, version, options, [1], doubled(calls), chunk=2)
    assert calls == [[1], [1]]


def test_an_interrupted_chunk_leaves_the_finished_ones(tmp_path: Path) -> None:
    calls: list[list[int]] = []

    def breaks(part: list[int]) -> list[int]:
        calls.append(part)
        if part == [3]:
            raise KeyboardInterrupt
        return part

    with pytest.raises(KeyboardInterrupt):
        Store(tmp_path).rows("s", 1, {}, [1, 2, 3], breaks, chunk=1)
    assert Store(tmp_path).rows("s", 1, {}, [1, 2, 3], doubled(calls), chunk=1) == [1, 2, 6]
    assert calls == [[1], [2], [3], [3]]


def test_a_stage_that_returns_too_few_rows_is_an_error_and_stores_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(RuntimeError, match="1 values for 2 items"):
        store.rows("s", 1, {}, [1, 2], lambda part: [0], chunk=2)
    assert sqlite3.connect(tmp_path / "store.sqlite").execute("SELECT count(*) FROM rows").fetchone() == (0,)


def test_a_tree_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def breaks(out: Path) -> None:
        (out / "half").write_text("x")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        store.tree("t", 1, {}, breaks)
    assert list((tmp_path / "trees").iterdir()) == []

    def works(out: Path) -> None:
        (out / "whole").write_text("x")

    path = store.tree("t", 1, {}, works)
    assert [p.name for p in path.iterdir()] == ["whole"]
    assert store.tree("t", 1, {}, breaks) == path


def test_two_builds_that_make_the_same_tree_at_once_both_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = Store(tmp_path), Store(tmp_path)

    def first(folder: Path) -> None:
        (folder / "made.txt").write_text("by the first")

        def meanwhile(folder: Path) -> None:
            (folder / "made.txt").write_text("by the other")

        with monkeypatch.context() as elsewhere:
            elsewhere.setattr(os, "getpid", lambda: 1)
            other.tree("stage", 1, {}, meanwhile)

    path = one.tree("stage", 1, {}, first)
    assert (path / "made.txt").read_text() == "by the other", "what is in its place may be in use"
    assert [p.name for p in (tmp_path / "trees").iterdir()] == [path.name]
    assert other.tree("stage", 1, {}, first) == path


def test_leftovers_of_a_killed_process_are_swept(tmp_path: Path) -> None:
    Store(tmp_path)
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    (tmp_path / "trees" / f".abc.{pid}").mkdir()
    Store(tmp_path)
    assert list((tmp_path / "trees").iterdir()) == []


def test_a_full_disk_is_one_message(tmp_path: Path) -> None:
    def full(out: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match="No space left"):
        Store(tmp_path).tree("t", 1, {}, full)


def test_a_foreign_file_in_the_stores_place_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "store.sqlite").write_bytes(b"this is no database" * 100)
    with pytest.raises(UserError, match=r"store\.sqlite"):
        Store(tmp_path)


@given(st.dictionaries(st.text(max_size=5), JSON, max_size=4))
def test_keys_do_not_depend_on_the_order_of_a_mapping(value: dict[str, Any]) -> None:
    assert digest(value) == digest(dict(reversed(list(value.items()))))
    assert canonical(value) == canonical(dict(reversed(list(value.items()))))


def test_seeds_differ_by_content_and_repeat() -> None:
    assert seed_of("a", 1) == seed_of("a", 1) != seed_of("a", 2)
    assert 0 <= seed_of("a") < 2**63


def test_what_one_build_uses_twice_costs_nothing_the_second_time(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def compute(part: list[str]) -> list[dict[str, int]]:
        return [{"tokens": 10} for _ in part]

    for label in ("teacher", "student"):
        store.rows("s", 1, {}, ["a", "b"], compute, chunk=1, label=label)
        store.tree("t", 1, {}, lambda out: (out / "f").touch(), label=label)
    assert [(e.label, e.rows, e.cached, e.tokens) for e in store.ledger] == [
        ("teacher", 2, 0, 20), ("teacher", 1, 0, 0), ("student", 2, 2, 0), ("student", 1, 1, 0)
    ]  # fmt: skip
    assert [e.seconds > 0 for e in store.ledger] == [True, True, False, False]


def test_the_ledger_knows_how_busy_the_cores_were_and_what_all_of_it_would_cost(tmp_path: Path) -> None:
    def works(part: list[int]) -> list[dict[str, int]]:
        until = time.process_time() + 0.05
        while time.process_time() < until:
            pass
        return [{"value": n, "tokens": 3} for n in part]

    store = Store(tmp_path)
    store.rows("s", 1, {}, [1, 2, 3], works, chunk=2)
    store.rows("s", 1, {}, [1, 2, 3], works, chunk=2)
    first, second = store.ledger
    assert first.processor >= 0.08
    assert (second.seconds, second.tokens, second.processor) == (0, 0, 0), "what is used twice costs nothing the second time"
    assert (second.whole_seconds, second.whole_tokens) == (first.seconds, 9)
    later = Store(tmp_path)
    later.rows("s", 1, {}, [1, 2, 3], works, chunk=2)
    assert later.ledger[0].processor == pytest.approx(first.processor), "it is that of the run that computed it"
