"""Measures artifacts from outside: one child process each, so that nothing of ours counts as theirs and a crash is only
theirs."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Protocol

from edgearte.measure.header import embedding_alone
from edgearte.measure.local import LOCAL, Unusable
from edgearte.measure.machine import parts, size_of
from edgearte.measure.suite import PASSAGE, Suite
from edgearte.records import Instructions, Measurement, Spread

__all__ = ["LOCAL", "Target", "Unusable", "answer", "measure"]


class Target(Protocol):
    """Where an artifact runs. `records` has the harness do a job there and hands out what it tells, record by record; the job's `artifact`
    is the path here. `Unusable` when it fails there, dies or takes too long; whatever happens here, it is gone afterwards. Where it is
    `counted`, instructions are, in place of times: once is enough."""

    @property
    def name(self) -> str: ...

    @property
    def counted(self) -> bool: ...

    def records(
        self, job: dict[str, Any], timeout_s: float | None, environment: dict[str, str] | None = None
    ) -> Iterator[dict[str, Any]]: ...


def measure(
    artifact: Path, runtime: str, suite: Suite, *, name: str, threads: int = 0, timeout_s: float = 3600, target: Target = LOCAL
) -> Measurement:
    """Load, time and weigh one artifact on a target. `threads` 0 means the physical cores.

    `Unusable` when the harness fails, dies or takes longer than `timeout_s`.
    """
    return told(artifact, suite, run(artifact, runtime, suite, threads=threads, timeout_s=timeout_s, target=target), name, target)


def run(
    artifact: Path, runtime: str, suite: Suite, *, threads: int = 0, timeout_s: float = 3600, target: Target = LOCAL
) -> list[dict[str, Any]]:
    """The records of one run of the harness on a suite."""
    if target.counted:
        suite = replace(suite, repeats=1, warmups=0)
    job = {"kind": "measure", "artifact": str(artifact), "runtime": runtime, "threads": threads or suite.threads,
           "suite": asdict(suite), "passage": PASSAGE}  # fmt: skip
    return list(target.records(job, timeout_s))


def told(artifact: Path, suite: Suite, records: Sequence[dict[str, Any]], name: str, target: Target) -> Measurement:
    """What the records of one or more runs on a suite tell."""
    runs = [r for r in records if r["kind"] == "run"]
    about = next(r for r in records if r["kind"] == "machine")
    memory = [r for r in records if r["kind"] == "memory"]
    loads = [r for r in records if r["kind"] == "load"]
    cold = [r["cold_s"] for r in loads if r["cold_s"] is not None]
    steps = sorted(s for run in runs for s in run["steps_s"])
    return Measurement(
        artifact=name,
        device=target.name,
        suite=suite.name,
        load_s=_spread([seconds for r in loads for seconds in r["load_s"]]),
        first_token_s=_spread([r["first_token_s"] for r in runs]),
        prefill_tps=_spread([suite.batch * r["prompt_tokens"] / r["prefill_s"] for r in runs]),
        decode_tps=_spread([suite.batch * suite.new_tokens / sum(r["steps_s"]) for r in runs]),
        inter_token_p50_s=_percentile(steps, 0.50),
        inter_token_p90_s=_percentile(steps, 0.90),
        inter_token_p99_s=_percentile(steps, 0.99),
        peak_memory_bytes=max(r["peak_bytes"] for r in memory),
        file_bytes=size_of(artifact),
        prompt_tokens=round(statistics.median(r["prompt_tokens"] for r in runs)),
        new_tokens=suite.new_tokens,
        threads=about["threads"],
        machine={**about["machine"], "memory_before_load_bytes": memory[0]["before_load_bytes"]},
        cold_load_s=statistics.median(cold) if cold else None,
        steady_memory_bytes=max(r["steady_bytes"] for r in memory),
        clock_mhz=_told(runs, "clock_mhz"),
        temperature_c=_told(runs, "temperature_c"),
        throttled=any(held) if (held := [r["throttled"] for r in runs if r["throttled"] is not None]) else None,
        run_j=_told(runs, "energy_j"),
        batch=suite.batch,
        token_bytes=size_of(artifact) - embedding_alone(parts(artifact)),
        bandwidth=max((r["bytes_per_s"] for r in records if r["kind"] == "bandwidth"), default=None),
        instructions=next((_instructions(r) for r in records if r["kind"] == "instructions"), None),
    )


def answer(
    artifact: Path,
    runtime: str,
    prompts: Sequence[dict[str, str]],
    *,
    max_tokens: int,
    stop: Sequence[str],
    threads: int = 0,
    progress: Callable[[int], None] | None = None,
    target: Target = LOCAL,
) -> list[dict[str, Any]]:
    """What the artifact itself says to each prompt, greedily.

    A prompt is `{"text": …}`, already rendered with the chat template, with an optional shared `"prefix"` before it.
    Each answer is `{"text", "prompt_tokens", "new_tokens", "ended"}`; `ended` is `stop` (the stop string is kept),
    `eos` or `length`. `progress` hears 1 for each answer finished.
    """
    if not prompts:
        return []
    job = {"kind": "answer", "artifact": str(artifact), "runtime": runtime, "threads": threads,
           "prompts": list(prompts), "max_tokens": max_tokens, "stop": list(stop)}  # fmt: skip
    answers: dict[int, dict[str, Any]] = {}
    # Threads that sleep at a barrier instead of spinning: a little slower alone, ten times faster beside other work.
    for record in target.records(job, None, {"OMP_WAIT_POLICY": "passive"}):
        answers[record["index"]] = {k: record[k] for k in ("text", "prompt_tokens", "new_tokens", "ended")}
        if progress:
            progress(1)
    return [answers[i] for i in range(len(prompts))]


def _instructions(record: dict[str, Any]) -> Instructions:
    return Instructions(record["load"], record["prompt_token"], record["new_token"])


def _told(runs: Sequence[dict[str, Any]], name: str) -> Spread | None:
    """What the device told of itself in every run, if it did."""
    values = [r[name] for r in runs]
    return None if None in values else _spread(values)


def _spread(values: Sequence[float]) -> Spread:
    return Spread(statistics.median(values), min(values), max(values), len(values), tuple(values))


def _percentile(ordered: Sequence[float], share: float) -> float:
    """The value that `share` of the values do not exceed (nearest rank: one that was truly measured)."""
    return ordered[max(0, -(-len(ordered) * round(share * 100) // 100) - 1)]
