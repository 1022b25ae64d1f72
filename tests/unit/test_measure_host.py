"""The child process and how it ends, with a stand-in for the runtime: the library that the child imports is ours."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgearte import steps
from edgearte.convert import converters
from edgearte.delivery import Checkpoint, used
from edgearte.destination import destinations
from edgearte.errors import UserError
from edgearte.measure import host
from edgearte.measure.suite import Suite
from edgearte.records import Artifact
from edgearte.setup import opened
from tests import tiny

ROOT = Path(__file__).resolve().parents[2]
SUITE = Suite(name="tiny", about="", prompt_tokens=4, new_tokens=2, repeats=1, warmups=0)


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The source of the `llama_cpp` that a child will import; every child started in the test sees it."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path / "llama_cpp.py"


def measure() -> None:
    host.measure(Path("model.gguf"), "llama.cpp", SUITE, name="model", timeout_s=60)


def test_a_child_ended_by_a_signal_is_reported_by_name_with_what_it_said(runtime: Path) -> None:
    runtime.write_text("import os, sys; print('last words', file=sys.stderr, flush=True); os.kill(os.getpid(), 11)")
    with pytest.raises(UserError, match=r"model\.gguf: .* died of SIGSEGV\nIt said last:\nlast words"):
        measure()


def test_an_illegal_instruction_points_to_the_doctor(runtime: Path) -> None:
    runtime.write_text("import os, signal; os.kill(os.getpid(), signal.SIGILL)")
    with pytest.raises(UserError, match=r"SIGILL.*edgearte doctor"):
        measure()


def test_a_child_that_exits_is_reported_with_its_code(runtime: Path) -> None:
    runtime.write_text("import os; os.write(2, b'no such luck'); os._exit(7)")
    with pytest.raises(UserError, match=r"failed with exit code 7\nIt said last:\nno such luck"):
        measure()


def test_a_record_cut_off_by_death_is_not_mistaken_for_one(runtime: Path) -> None:
    # File descriptor 1 is standard error by now; the records go to a copy of the original, the highest one open.
    runtime.write_text(
        'import os\nfor fd in range(20, 2, -1):\n    try: os.write(fd, b\'{"kind": "ru\')\n    except OSError: pass\n'
        "os.kill(os.getpid(), 9)"
    )
    with pytest.raises(UserError, match="SIGKILL"):
        measure()


def test_a_missing_runtime_says_how_to_get_it(runtime: Path) -> None:
    runtime.write_text("print('chatter on standard output'); raise ImportError('libllama.so is not there')")
    with pytest.raises(UserError, match=r"libllama\.so is not there.*pip install"):
        measure()


def test_a_python_error_in_the_child_is_one_message(runtime: Path) -> None:
    runtime.write_text("raise ValueError('boom')")
    with pytest.raises(UserError, match=r"model\.gguf: ValueError: boom$"):
        measure()


def test_an_unknown_runtime_is_refused() -> None:
    with pytest.raises(UserError, match="no runtime called 'abacus'"):
        host.measure(Path("model"), "abacus", SUITE, name="model")


def test_a_child_that_takes_too_long_is_stopped(runtime: Path) -> None:
    runtime.write_text("import time; time.sleep(60)")
    start = time.monotonic()
    with pytest.raises(UserError, match="not measured within 2 s"):
        host.measure(Path("model.gguf"), "llama.cpp", SUITE, name="model", timeout_s=2)
    assert time.monotonic() - start < 30


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_no_child_outlives_its_parent(runtime: Path, how: signal.Signals) -> None:
    told = runtime.parent / "pid"
    runtime.write_text(
        f"import os, pathlib, time\npathlib.Path({str(told)!r}).write_text(f'{{os.getpid()}} ')\ntime.sleep(60)"
    )
    code = "import test_measure_host as t; t.measure()"
    path = os.pathsep.join([str(Path(__file__).parent), str(ROOT), str(runtime.parent)])
    parent = subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path},
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored where tests run in the background
    )
    assert _until(lambda: told.exists() and told.read_text().endswith(" "))
    child = int(told.read_text())
    parent.send_signal(how)
    parent.wait(30)
    assert _until(lambda: not _running(child))


def _until(condition: object, seconds: float = 30) -> bool:
    assert callable(condition)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False


def _running(pid: int) -> bool:
    """Whether the process is there and not merely waiting for somebody to collect its exit code."""
    import psutil

    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_an_artifact_that_its_runtime_does_not_run_fails_alone(tiny_model: Path, tmp_path: Path) -> None:
    """A build then has the others, and says of that one why."""
    recipe = tiny.write_recipe(tmp_path / "task", tiny_model)
    sound, cut = tmp_path / "sound" / "model.gguf", tmp_path / "cut" / "model.gguf"
    for path in (sound, cut):
        path.parent.mkdir()
    converters.to_gguf(tiny_model, "0" * 64, sound)
    cut.write_bytes(sound.read_bytes()[: sound.stat().st_size // 2])
    made = [Artifact(path.parent.name, "gguf", "llama.cpp", str(path), path.stat().st_size, 16.0, {}) for path in (cut, sound)]
    with opened(recipe, ["measure.questions=2"], tmp_path / "runs", "-test") as (setup, _):
        student = Checkpoint(setup.student.folder, (), (), ())
        found = used(setup, destinations(setup.recipe), steps.student(setup, student.folder), student, made)
    assert [a.preset for a in found.artifacts] == ["cut", "sound"]
    assert found.artifacts[1] == made[1]
    assert found.artifacts[0].failed.startswith(f"{cut}: llama.cpp cannot load this file")
    assert (len(found.evaluated["sound"]), list(found.evaluated), list(found.measurements["local"])) == (2, ["sound"], ["sound"])


def test_percentiles_are_values_that_were_measured() -> None:
    values = [float(n) for n in range(1, 101)]
    assert [host._percentile(values, p) for p in (0.5, 0.9, 0.99)] == [50.0, 90.0, 99.0]
    assert host._percentile([3.0], 0.99) == 3.0
