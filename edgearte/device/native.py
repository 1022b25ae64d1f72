"""The harness as one static program, for devices that have nothing: built from llama.cpp as the llama-cpp-python package brings it."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from edgearte.errors import UserError

SOURCE = Path(__file__).parent.parent / "measure" / "native"
CACHE = Path.home() / ".cache" / "edgearte"
PROGRAM = "edgearte-harness"
LAST_LINES = 25
# What a compiler of the host must be called to build for an architecture, and the package of Debian that has it.
CROSS = {"aarch64": ("aarch64-linux-gnu", "gcc-aarch64-linux-gnu g++-aarch64-linux-gnu")}


def source(cache: Path = CACHE) -> Path:
    """llama.cpp's source tree of the llama-cpp-python that is installed, downloaded once into `cache`."""
    try:
        version = metadata.version("llama-cpp-python")
    except metadata.PackageNotFoundError:
        raise UserError("llama.cpp's source comes with llama-cpp-python, which is not here: pip install 'edgearte[llamacpp]'") from None
    place = cache / "llama.cpp" / version
    if not (found := list(place.glob("*/vendor/llama.cpp"))):
        place.mkdir(parents=True, exist_ok=True)
        wanted = ["--no-deps", "--no-binary", "llama-cpp-python", f"llama-cpp-python=={version}"]
        _run([sys.executable, "-m", "pip", "download", "-q", "--no-build-isolation", "-d", str(place), *wanted], "downloading llama.cpp")
        with tarfile.open(next(place.glob("*.tar.gz"))) as package, tempfile.TemporaryDirectory(dir=place) as partial:
            package.extractall(partial, filter="data")
            for folder in Path(partial).iterdir():
                folder.rename(place / folder.name)
        found = list(place.glob("*/vendor/llama.cpp"))
    return found[0]


def program(architecture: str, features: Sequence[str] = ()) -> Path:
    """The static harness for an architecture (`x86_64` or `aarch64`) whose CPU has these features, built on first use: some minutes.

    `UserError` where a compiler is missing, or for an architecture that is not known.
    """
    flags = _flags(architecture, features)
    text = "".join(path.read_text("utf-8") for path in sorted(SOURCE.iterdir()) if path.is_file())
    version = metadata.version("llama-cpp-python")
    key = hashlib.sha256(repr((version, flags, text)).encode()).hexdigest()[:16]
    made = CACHE / "native" / f"{version}-{architecture}-{key}" / PROGRAM
    if made.is_file():
        return made
    llama = source()
    made.parent.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=made.parent.parent, prefix=".partial-") as partial:
        configure = ["cmake", "-S", str(SOURCE), "-B", partial, f"-DLLAMA={llama}", "-DCMAKE_BUILD_TYPE=Release", *flags]
        _run(configure, f"configuring the harness for {architecture}")
        at_once = str(len(os.sched_getaffinity(0)))
        _run(["cmake", "--build", partial, "-j", at_once, "--target", PROGRAM], f"building the harness for {architecture}")
        ready = Path(partial) / "ready"
        ready.mkdir()
        shutil.copy2(Path(partial) / PROGRAM, ready / PROGRAM)
        subprocess.run([f"{CROSS[architecture][0]}-strip" if _foreign(architecture) else "strip", str(ready / PROGRAM)], check=False)
        shutil.rmtree(made.parent, ignore_errors=True)
        ready.rename(made.parent)
    return made


def _flags(architecture: str, features: Sequence[str]) -> list[str]:
    """How llama.cpp is to be built."""
    from edgearte.doctor import llama_cmake_args

    if not shutil.which("cmake"):
        raise UserError("the static harness is built with cmake, which is not installed: apt-get install cmake, or pip install cmake")
    if architecture == "x86_64" and not _foreign(architecture):
        return llama_cmake_args(features).split() or ["-DGGML_NATIVE=ON"]
    if architecture not in CROSS:
        raise UserError(f"the static harness is built for x86_64 and aarch64, not for {architecture}")
    prefix, packages = CROSS[architecture]
    arch = "armv8-a"
    if "asimddp" in features:
        arch = "armv8.2-a+dotprod" + ("+fp16" if "asimdhp" in features else "") + ("+i8mm" if "i8mm" in features else "")
    flags = ["-DGGML_NATIVE=OFF", f"-DGGML_CPU_ARM_ARCH={arch}"]
    if not _foreign(architecture):
        return flags
    if not shutil.which(f"{prefix}-g++"):
        raise UserError(f"the static harness for {architecture} is built with {prefix}-g++, which is missing: apt-get install {packages}")
    return [*flags, "-DCMAKE_SYSTEM_NAME=Linux", f"-DCMAKE_SYSTEM_PROCESSOR={architecture}",
            f"-DCMAKE_C_COMPILER={prefix}-gcc", f"-DCMAKE_CXX_COMPILER={prefix}-g++"]  # fmt: skip


def _foreign(architecture: str) -> bool:
    return os.uname().machine != architecture


def _run(command: Sequence[str], doing: str) -> None:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    if done.returncode:
        last = "\n".join(done.stdout.strip().splitlines()[-LAST_LINES:])
        raise UserError(f"{doing} failed with exit code {done.returncode}; it said last:\n{last}")
