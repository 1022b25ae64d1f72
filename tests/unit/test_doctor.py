"""The doctor: a child that dies of a signal or hangs is reported, not suffered, and the remedy fits the CPU."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgearte import doctor
from edgearte.doctor import BROKEN, MISSING, OK, Finding, examine, llama_cmake_args

AMX = ["avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16"]


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Puts a module of one's own before the installed one, here and in child processes."""

    def write(module: str, code: str) -> None:
        (tmp_path / f"{module}.py").write_text(code)
        monkeypatch.syspath_prepend(str(tmp_path))
        root = Path(doctor.__file__).parents[1]
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(root)]))

    return write


def test_llama_cpp_really_decodes() -> None:
    finding = examine("llamacpp")
    assert finding.state == OK, finding
    assert "llama-cpp-python" in finding.detail


def test_onnx_really_computes() -> None:
    assert examine("onnx").state == OK


def test_a_signal_is_named_and_the_remedy_is_a_build_for_this_cpu(
    fake: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake("llama_cpp", "import os, signal\ndef Llama(*a, **k): os.kill(os.getpid(), signal.SIGILL)")
    monkeypatch.setattr(doctor, "describe", lambda: {"features": AMX})
    finding = examine("llamacpp")
    assert finding.state == BROKEN
    assert "SIGILL" in finding.detail
    assert 'CMAKE_ARGS="-DGGML_NATIVE=OFF' in finding.remedy
    assert "pip install" in finding.remedy
    monkeypatch.setattr(doctor, "describe", lambda: {"features": ["avx2"]})
    assert "CMAKE_ARGS" not in examine("llamacpp").remedy


def test_a_hanging_child_is_ended(fake: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    fake("jinja2", "import time\ntime.sleep(60)")
    monkeypatch.setattr(doctor, "TIMEOUT", 1)
    finding = examine("report")
    assert (finding.state, finding.detail) == (BROKEN, "no answer in 1 s")


def test_the_childs_own_error_is_shown(fake: Callable[[str, str], None]) -> None:
    fake("jinja2", "raise ImportError('libfoo.so.3 is not there')")
    finding = examine("report")
    assert finding.state == BROKEN
    assert "libfoo.so.3 is not there" in finding.detail
    assert "edgearte[report]" in finding.remedy


def test_an_extra_that_is_not_installed_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "peft" else find(name))
    finding = examine("teach")
    assert (finding.state, finding.detail) == (MISSING, "no peft")
    assert finding.remedy == "pip install 'edgearte[teach]'"


@pytest.mark.parametrize("as_json", [True, False])
@pytest.mark.parametrize(("states", "code"), [([OK, MISSING], 0), ([OK, BROKEN], 1)])
def test_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], states: list[str], code: int, as_json: bool
) -> None:
    found = {
        name: Finding(name, states[i % 2], f"detail of {name}", "do [this]") for i, name in enumerate(doctor.CHECKS)
    }
    monkeypatch.setattr(doctor, "examine", found.__getitem__)
    assert doctor.run(json=as_json) == code
    out = capsys.readouterr().out
    if as_json:
        parsed = json.loads(out)
        assert [c["state"] for c in parsed["checks"]] == [f.state for f in found.values()]
        assert parsed["machine"]["memory_bytes"] > 0
    else:
        assert all(f"detail of {name}" in out for name in doctor.CHECKS)
        assert "do [this]" in out


def test_build_options_name_what_the_cpu_has_and_leave_amx_out() -> None:
    arguments = llama_cmake_args(AMX)
    assert arguments == "-DGGML_NATIVE=OFF -DGGML_AVX512=ON -DGGML_AVX512_VNNI=ON -DGGML_AVX512_BF16=ON"
    assert llama_cmake_args(["avx2", "avx512f"]) == ""  # the native build is right
    assert llama_cmake_args(["asimd", "i8mm"]) == ""


def _tool() -> Any:
    path = Path(__file__).parents[2] / "tools" / "install_llama.py"
    spec = importlib.util.spec_from_file_location("install_llama", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("states", "calls", "code"),
    [
        ([OK], ["install"], 0),
        ([BROKEN, OK], ["install", "cache", "uninstall", "install"], 0),
        ([BROKEN, BROKEN], ["install", "cache", "uninstall", "install"], 1),
    ],
)
def test_a_wheel_that_does_not_run_is_built_anew_once(
    monkeypatch: pytest.MonkeyPatch, states: list[str], calls: list[str], code: int
) -> None:
    tool = _tool()
    made: list[list[str]] = []
    environments: list[dict[str, str]] = []

    def pip(command: list[str], **options: Any) -> None:
        assert command[:3] == [sys.executable, "-m", "pip"]
        made.append(command[3:])
        if command[3] == "install":
            environments.append(options["env"])

    waiting = list(states)
    monkeypatch.delenv("CMAKE_ARGS", raising=False)
    monkeypatch.setattr(subprocess, "run", pip)
    monkeypatch.setattr(tool, "examine", lambda _: Finding("run GGUF", waiting.pop(0), ""))
    monkeypatch.setattr(tool, "describe", lambda: {"features": AMX})
    assert tool.main("constraints.txt") == code
    assert [command[0] for command in made] == calls
    assert all(environment["CMAKE_ARGS"] == llama_cmake_args(AMX) for environment in environments)
