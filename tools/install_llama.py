"""Installs llama-cpp-python so that it runs on this CPU, and proves it by decoding with a quantized model.

`make` runs it with the environment's own Python: `python tools/install_llama.py constraints.txt`. The package is built
from source, which takes minutes, unless pip's cache holds a wheel; one that was built for another CPU is thrown out.
"""

from __future__ import annotations

import os
import subprocess
import sys

from edgearte.doctor import OK, examine, llama_cmake_args
from edgearte.measure.machine import describe


def install(constraints: str) -> None:
    """pip install, with build options for this CPU where the user has not set any."""
    environment = {"CMAKE_ARGS": llama_cmake_args(describe()["features"])} | os.environ
    print("llama-cpp-python: from pip's cache, or built from source in some minutes", flush=True)
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "-c", constraints, "llama-cpp-python"],
        check=True,
        env=environment,
    )


def main(constraints: str) -> int:
    install(constraints)
    finding = examine("llamacpp")
    if finding.state != OK:
        print(f"llama-cpp-python does not run here ({finding.detail}): building it anew for this CPU", flush=True)
        subprocess.run([sys.executable, "-m", "pip", "cache", "remove", "llama_cpp_python"], check=False)
        subprocess.run([sys.executable, "-m", "pip", "uninstall", "-q", "-y", "llama-cpp-python"], check=True)
        install(constraints)
        finding = examine("llamacpp")
    print(f"{finding.name}: {finding.state}: {finding.detail}", flush=True)
    return 0 if finding.state == OK else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
