"""The harness as one static program, for devices that have nothing: built from llama.cpp as the llama-cpp-python package brings it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path

from edgearte.errors import UserError

SOURCE = Path(__file__).parent.parent / "measure" / "native"
CACHE = Path.home() / ".cache" / "edgearte"
LLAMA = CACHE / "llama.cpp"
PROGRAM = "edgearte-harness"
LAST_LINES = 25
NATIVE = "-DGGML_NATIVE=ON"
# What a compiler for another architecture than ours is called, and Debian's packages that have it.
CROSS = {
    "aarch64": ("aarch64-linux-gnu", "gcc-aarch64-linux-gnu g++-aarch64-linux-gnu"),
    "x86_64": ("x86_64-linux-gnu", "gcc-x86-64-linux-gnu g++-x86-64-linux-gnu"),
}
# llama.cpp's options for a CPU of x86, and what /proc/cpuinfo says where it has what they use.
X86 = {
    "SSE42": "sse4_2", "AVX": "avx", "F16C": "f16c", "FMA": "fma", "AVX2": "avx2", "BMI2": "avx2", "AVX_VNNI": "avx_vnni",
    "AVX512": "avx512f", "AVX512_VNNI": "avx512_vnni", "AVX512_BF16": "avx512_bf16",
}  # fmt: skip


def source(folder: Path = LLAMA) -> Path:
    """llama.cpp's source tree of the llama-cpp-python that is installed, downloaded once into `folder`; it holds its programs too."""
    place = folder / _version()
    if not (found := list(place.glob("*/vendor/llama.cpp"))):
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place) as partial:
            wanted = ["--no-deps", "--no-binary", "llama-cpp-python", f"llama-cpp-python=={_version()}"]
            tell("downloading llama.cpp's source", sys.executable, "-m", "pip", "download", "-q", "-d", partial, *wanted)
            with tarfile.open(next(Path(partial).glob("*.tar.gz"))) as package:
                package.extractall(partial, filter="data")
            (tree,) = (path.parents[1] for path in Path(partial).glob("*/vendor/llama.cpp"))
            tree.rename(place / tree.name)
        found = list(place.glob("*/vendor/llama.cpp"))
    return found[0]


def program(architecture: str, features: Sequence[str] = ()) -> Path:
    """The static harness for an architecture (`x86_64` or `aarch64`) whose CPU has these features, by /proc/cpuinfo's names; built on
    first use, in some minutes. Without features: for this machine, or for any CPU of an architecture that is not ours.

    `UserError` where a compiler is missing, for an architecture that is not known, or with what the compiler says.
    """
    from edgearte.measure.machine import describe

    ours = describe()["features"] if _ours(architecture) else []
    flags = _flags(architecture, features or ours, ours)
    text = "".join(path.read_text("utf-8") for path in sorted(SOURCE.iterdir()) if path.is_file())
    key = hashlib.sha256(repr((flags, ours if NATIVE in flags else [], text)).encode()).hexdigest()[:16]
    made = CACHE / "native" / f"{_version()}-{architecture}-{key}" / PROGRAM
    if not made.is_file():
        made.parent.parent.mkdir(parents=True, exist_ok=True)
        with alone(made.parent.parent / ".lock"):
            if not made.is_file():
                _build(made.parent, [*flags, *_compilers(architecture)], f"the harness for {architecture}")
    return made


@contextlib.contextmanager
def alone(lock: Path) -> Iterator[None]:
    """One process at a time: nobody builds what another is about to have built."""
    import fcntl

    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build(folder: Path, flags: Sequence[str], what: str) -> None:
    if not shutil.which("cmake"):
        raise UserError(f"{what} is built with cmake, which is missing: apt-get install cmake, or pip install cmake")
    given = [f"-DLLAMA={source()}", f"-DVERSION={_version()}", "-DCMAKE_BUILD_TYPE=Release", *flags]
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".partial-") as partial:
        tell(f"configuring {what}", "cmake", "-S", SOURCE, "-B", partial, *given)
        tell(f"building {what}", "cmake", "--build", partial, "-j", os.cpu_count() or 1, "--target", PROGRAM)
        ready = Path(partial) / "ready"
        ready.mkdir()
        shutil.copy2(Path(partial) / PROGRAM, ready)
        ready.rename(folder)


def _flags(architecture: str, features: Sequence[str], ours: Sequence[str]) -> list[str]:
    """What llama.cpp is built for; `ours` are the features of this machine, if it is of this architecture."""
    if architecture == "aarch64":
        arch = "armv8-a"
        if "asimddp" in features:
            arch = "armv8.2-a+dotprod" + ("+fp16" if "asimdhp" in features else "") + ("+i8mm" if "i8mm" in features else "")
        return ["-DGGML_NATIVE=OFF", f"-DGGML_CPU_ARM_ARCH={arch}"]
    if architecture != "x86_64":
        raise UserError(f"the static harness is built for {' and '.join(CROSS)}, not for {architecture!r}")
    if ours and {*features} == {*ours}:
        from edgearte.doctor import llama_cmake_args

        return llama_cmake_args(ours).split() or [NATIVE]  # as the Python package is built here
    return ["-DGGML_NATIVE=OFF", *(f"-DGGML_{option}={'ON' if flag in features else 'OFF'}" for option, flag in X86.items())]


def _compilers(architecture: str) -> list[str]:
    """What cmake must be told to build for another architecture than ours."""
    if _ours(architecture):
        return []
    prefix, packages = CROSS[architecture]
    if not shutil.which(f"{prefix}-g++"):
        raise UserError(f"the harness for {architecture} is built with {prefix}-g++, which is missing: apt-get install {packages}")
    return ["-DCMAKE_SYSTEM_NAME=Linux", f"-DCMAKE_SYSTEM_PROCESSOR={architecture}",
            f"-DCMAKE_C_COMPILER={prefix}-gcc", f"-DCMAKE_CXX_COMPILER={prefix}-g++"]  # fmt: skip


def _ours(architecture: str) -> bool:
    return sys.platform.startswith("linux") and platform.machine() == architecture


def _version() -> str:
    try:
        return metadata.version("llama-cpp-python")
    except metadata.PackageNotFoundError:
        raise UserError("llama.cpp's source comes with llama-cpp-python, which is not here: pip install 'edgearte[llamacpp]'") from None


def tell(doing: str, *command: str | Path | int) -> None:
    """Run a tool; where it fails, its last words are the `UserError`."""
    done = subprocess.run(
        list(map(str, command)), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    if done.returncode:
        last = "\n".join(done.stdout.strip().splitlines()[-LAST_LINES:])
        raise UserError(f"{doing} failed with exit code {done.returncode}; it said last:\n{last}")
