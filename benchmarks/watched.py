"""What a command takes, whatever it is written in: its seconds, and the memory of it and of all that it starts."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

PAUSE = 0.1  # seconds between two looks, at least
SHARE = 0.05  # of a processor may be spent looking: counting a large process's pages takes a while


@dataclass(frozen=True)
class Taken:
    """The exit code, wall-clock seconds, processor seconds (what other programs take meanwhile does not count), and the most bytes of
    memory that were held at a time."""

    code: int
    seconds: float
    processor: float
    peak: int


def held(process: psutil.Process) -> int:
    """Bytes that a process and all below it hold now. What they share is counted once where the system tells (Linux: proportional set
    size), else in each of them."""
    total = 0
    with suppress(psutil.Error):
        for one in (process, *process.children(recursive=True)):
            with suppress(psutil.Error):  # ended in between
                memory = one.memory_full_info()
                total += getattr(memory, "pss", 0) or memory.rss
    return total


def _processor() -> float:
    """Processor seconds of all children that have ended, and of theirs."""
    times = psutil.Process().cpu_times()
    return float(times.children_user + times.children_system)


def watch(command: Sequence[str | Path], log: Path, environment: Mapping[str, str], folder: Path | None = None) -> Taken:
    """Run a command to its end, in `folder` if given; what it writes goes into `log`, both streams together."""
    peak = 0
    ended = threading.Event()

    def look(process: psutil.Process) -> None:
        nonlocal peak
        while not ended.is_set():
            began = time.thread_time()
            peak = max(peak, held(process))
            ended.wait(max(PAUSE, (time.thread_time() - began) / SHARE))

    with log.open("wb") as said:
        start, before = time.perf_counter(), _processor()
        child = subprocess.Popen(list(map(str, command)), env=dict(environment), cwd=folder, stdin=subprocess.DEVNULL,
                                 stdout=said, stderr=subprocess.STDOUT)  # fmt: skip
        watcher = threading.Thread(target=look, args=(psutil.Process(child.pid),))
        watcher.start()
        try:
            code = child.wait()
        except BaseException:
            child.kill()
            child.wait()
            raise
        finally:
            ended.set()
            watcher.join()
        return Taken(code, time.perf_counter() - start, _processor() - before, peak)
