"""Converters and runtimes run in child processes: what kills them (SIGILL, an abort in C++, lack of memory) must not
kill a build."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import edgearte

LAST_LINES = 12


class ChildFailed(Exception):
    """A child process ended badly. The message holds how, and the last lines it wrote itself."""


def run_module(module: str, arguments: Sequence[str | Path], doing: str) -> str:
    """`python -m MODULE ARGUMENTS` with this interpreter, offline; returns what it wrote, both streams together.

    Raises `ChildFailed` where it ended badly, `OSError` where the disk is full.
    """
    command, environment = python(module, arguments)
    done = subprocess.run(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    said = done.stdout.decode("utf-8", "replace")
    if done.returncode and os.strerror(errno.ENOSPC) in said:
        raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)} ({doing.rstrip(',')})")
    if done.returncode:
        raise ChildFailed(f"{doing} {how_ended(done.returncode)}; it said:\n{_tail(said)}".rstrip())
    return said


def python(module: str, arguments: Sequence[str | Path] = ()) -> tuple[list[str], dict[str, str]]:
    """The command and the environment that run a module with this interpreter: it finds edgearte as we did, and no hub."""
    package = Path(edgearte.__file__).resolve().parent.parent
    # An installed package is found without: adding site-packages would put it before the standard library.
    places = ["" if "site-packages" in package.parts else str(package), os.environ.get("PYTHONPATH", "")]
    path = os.pathsep.join(filter(None, places))
    # All that a conversion needs lies in the checkpoint: a child that asks a hub has lost its way and should say so.
    ours = {"PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "PYTHONIOENCODING": "utf-8"}
    # -P: a module in the user's working folder must not shadow the converter's.
    return [sys.executable, "-P", "-m", module, *map(str, arguments)], {**os.environ, **ours}


def how_ended(code: int) -> str:
    """What an exit code that is not 0 means, with advice where there is some."""
    if code > 0:
        return f"failed with exit code {code}"
    name = signal.Signals(-code).name if -code in list(signal.Signals) else f"signal {-code}"
    advice = {
        "SIGILL": " (an instruction this CPU does not run: `edgearte doctor` says how to rebuild the runtime)",
        "SIGKILL": " (most often for lack of memory)",
    }.get(name, "")
    return f"died of {name}{advice}"


def _tail(text: str) -> str:
    """The last lines, without what progress bars overwrote."""
    lines = [line.rsplit("\r", 1)[-1].rstrip() for line in text.replace("\r\n", "\n").splitlines()]
    return "\n".join([line for line in lines if line][-LAST_LINES:])
