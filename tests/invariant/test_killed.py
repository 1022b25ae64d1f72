"""A build that is killed again and again ends with the very bundle of an undisturbed one, and computes nothing twice.

The builds run in forked children of this process, which has imported what they need: a life then is spent building, not importing.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests import tiny

pytestmark = pytest.mark.invariant
KILLS = {"ARTE": 20, "assisted": 6, "closed": 6}


def _imports() -> None:
    """Everything heavy, without starting a thread: threads do not survive a fork."""
    import torch

    torch.set_num_threads(1)
    import datasets  # noqa: F401
    import peft  # noqa: F401
    import transformers  # noqa: F401
    import trl  # noqa: F401

    import edgearte.loop  # noqa: F401


def _start(recipe: Path, options: Sequence[str], runs: Path, log: Path) -> int:
    """The pid of a child that builds, leader of a process group of its own."""
    pid = os.fork()
    if pid:
        return pid
    code = 99
    try:
        os.setsid()
        with log.open("a") as out:
            os.dup2(out.fileno(), 1)
            os.dup2(out.fileno(), 2)
        from edgearte.cli import main

        code = main(["--debug", "build", str(recipe), *options, "--runs", str(runs)])
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def _wait(pid: int, seconds: float) -> int | None:
    """The exit code of a child within so many seconds; None while it still runs."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    return None


@pytest.mark.parametrize("kind", list(KILLS))
def test_killed_at_random_moments(kind: str, tmp_path: Path, tiny_model: Path) -> None:
    """In a fresh interpreter: torch's threads, once started by another test, would not survive the forks."""
    command = [sys.executable, "-m", "tests.invariant.test_killed", kind, str(tmp_path), str(tiny_model)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=850)
    assert done.returncode == 0, done.stderr[-4000:]


def kill_again_and_again(kind: str, tmp_path: Path, tiny_model: Path) -> None:
    _imports()
    whole_loop = kind == "ARTE"
    options = {"ARTE": [], "assisted": tiny.assisted(tiny_model), "closed": tiny.closed()}[kind]
    recipe = tiny.write_recipe(tmp_path / "task", tiny_model, presets="q8_0, onnx-int4" if whole_loop else "q8_0")
    log = tmp_path / "log"
    began = time.monotonic()
    whole = _start(recipe, options, tmp_path / "undisturbed", log)
    assert _wait(whole, 600) == 0, log.read_text()
    took = time.monotonic() - began
    expected = tiny.hashes(tmp_path / "undisturbed" / "tiny" / "bundle")
    assert {"manifest.json", "README.md", "gguf/tiny-q8_0.gguf"} <= expected.keys()

    runs, chance, kills = tmp_path / "killed", random.Random(2026), 0
    while kills < KILLS[kind]:
        pid = _start(recipe, options, runs, log)
        code = _wait(pid, chance.uniform(0.1, took / 7))
        if code is None:
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            kills += 1
            continue
        # It finished between two kills: what it left must be right, and the kills go on over a new build.
        assert code == 0, log.read_text()
        assert tiny.hashes(runs / "tiny" / "bundle") == expected
        _nothing_twice(runs)
        shutil.rmtree(runs)
    assert _wait(_start(recipe, options, runs, log), 600) == 0, log.read_text()
    assert tiny.hashes(runs / "tiny" / "bundle") == expected
    _nothing_twice(runs)
    assert not list((runs / "store" / "trees").glob(".*")), "half-written trees were left"


def _nothing_twice(runs: Path) -> None:
    """No attempt at a chunk or a tree began after it was finished."""
    with sqlite3.connect(runs / "store" / "store.sqlite") as db:
        for table in ("chunks", "trees"):
            again = db.execute(
                f"SELECT a.stage, count(*) FROM attempts a JOIN {table} t ON a.key = t.key WHERE a.started > t.finished GROUP BY 1"
            ).fetchall()
            assert again == []
        lonely = db.execute("SELECT count(*) FROM rows WHERE chunk NOT IN (SELECT key FROM chunks)").fetchone()[0]
    assert lonely == 0, "rows of a chunk that was never committed"


if __name__ == "__main__":
    kill_again_and_again(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
