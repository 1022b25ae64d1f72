"""What a command takes: its exit code, and the memory of its children too."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from watched import watch

MB = 1_000_000
HOLD = "import time; kept = bytearray(b'x' * {size}); time.sleep(1.0)"
CHILDREN = """
import subprocess, sys, time
both = [subprocess.Popen([sys.executable, "-c", {hold!r}]) for _ in range(2)]
print([child.wait() for child in both])
sys.exit(3)
"""


def test_memory_of_all_below_is_added_up(tmp_path: Path) -> None:
    hold = HOLD.format(size=80 * MB)
    taken = watch([sys.executable, "-c", CHILDREN.format(hold=hold)], tmp_path / "log", os.environ)
    assert taken.code == 3
    assert 160 * MB < taken.peak < 400 * MB
    assert taken.seconds > 1  # they sleep, which costs no processor
    assert 0 < taken.processor < taken.seconds
    assert (tmp_path / "log").read_text() == "[0, 0]\n"


def test_a_small_program_is_small(tmp_path: Path) -> None:
    taken = watch([sys.executable, "-c", "import time; time.sleep(0.5)"], tmp_path / "log", os.environ)
    assert taken.code == 0
    assert MB < taken.peak < 80 * MB


def test_its_environment_is_what_it_is_given(tmp_path: Path) -> None:
    watch([sys.executable, "-c", "import os; print(os.environ.get('A'), os.environ.get('HOME'))"], tmp_path / "log", {"A": "b"})
    assert (tmp_path / "log").read_text() == "b None\n"


def test_it_runs_where_it_is_told_to(tmp_path: Path) -> None:
    watch([sys.executable, "-c", "open('left', 'w').close()"], tmp_path / "log", os.environ, tmp_path)
    assert (tmp_path / "left").exists()


def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        watch([tmp_path / "nothing"], tmp_path / "log", os.environ)
