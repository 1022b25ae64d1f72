"""Programs of the system that a test needs: installed where we may, else the test is skipped and says what to install; on CI it fails."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from functools import cache
from typing import NoReturn

import pytest


def need(programs: Mapping[str, str]) -> None:
    """Go on only where there are these programs, each given with the package of Debian that has it."""
    missing = {program: package for program, package in programs.items() if not shutil.which(program)}
    for package in missing.values():
        install(package)
    missing = {program: package for program, package in missing.items() if not shutil.which(program)}
    if missing:
        lacking(f"needs {', '.join(missing)}: apt-get install {' '.join(missing.values())}")


def lacking(what: str) -> NoReturn:
    """Skip the test, or fail it on CI, where nothing may be lacking."""
    if os.environ.get("CI"):
        pytest.fail(what)
    pytest.skip(what)


@cache  # what could not be installed is not tried again
def install(package: str) -> None:
    """Install a package where this is Debian, or one of its kind, and we are root; what apt-get says is left to be seen."""
    if not shutil.which("apt-get") or os.geteuid() != 0:
        return
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["apt-get", "update"], ["apt-get", "install", "-y", "--no-install-recommends", package]):
        subprocess.run(command, env=quiet, stdin=subprocess.DEVNULL)
