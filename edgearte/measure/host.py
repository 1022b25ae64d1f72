"""Measures artifacts from outside: one child process each, so that nothing of ours counts as theirs and a crash is only
theirs."""

from __future__ import annotations

import json
import statistics
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edgearte.child import how_ended, python
from edgearte.errors import UserError
from edgearte.measure.machine import size_of
from edgearte.measure.suite import Suite
from edgearte.records import Measurement, Spread


class Unusable(UserError):
    """An artifact that its runtime does not run here."""


def measure(
    artifact: Path, runtime: str, suite: Suite, *, name: str, threads: int = 0, timeout_s: float = 3600
) -> Measurement:
    """Load, time and weigh one artifact on this machine. `threads` 0 means the physical cores.

    `Unusable` when the child fails, dies or takes longer than `timeout_s`.
    """
    job = {"kind": "measure", "artifact": str(artifact), "runtime": runtime, "threads": threads, "suite": asdict(suite)}
    records = list(_child(job, timeout_s))
    runs = [r for r in records if r["kind"] == "run"]
    (about,) = (r for r in records if r["kind"] == "machine")
    (memory,) = (r for r in records if r["kind"] == "memory")
    (load,) = (r for r in records if r["kind"] == "load")
    steps = sorted(s for run in runs for s in run["steps_s"])
    return Measurement(
        artifact=name,
        device="local",
        suite=suite.name,
        load_s=_spread(load["load_s"]),
        first_token_s=_spread([r["first_token_s"] for r in runs]),
        prefill_tps=_spread([suite.prompt_tokens / r["prefill_s"] for r in runs]),
        decode_tps=_spread([suite.new_tokens / sum(r["steps_s"]) for r in runs]),
        inter_token_p50_s=_percentile(steps, 0.50),
        inter_token_p90_s=_percentile(steps, 0.90),
        inter_token_p99_s=_percentile(steps, 0.99),
        peak_memory_bytes=memory["peak_bytes"],
        file_bytes=size_of(artifact),
        prompt_tokens=suite.prompt_tokens,
        new_tokens=suite.new_tokens,
        threads=about["threads"],
        machine={**about["machine"], "memory_before_load_bytes": memory["before_load_bytes"]},
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
    for record in _child(job, None, {"OMP_WAIT_POLICY": "passive"}):
        answers[record["index"]] = {k: record[k] for k in ("text", "prompt_tokens", "new_tokens", "ended")}
        if progress:
            progress(1)
    return [answers[i] for i in range(len(prompts))]


def _child(job: dict[str, Any], timeout_s: float | None, environment: dict[str, str] | None = None) -> Iterator[Any]:
    """Run a job in a child and hand out its records. Whatever happens here, the child is gone afterwards."""
    what = job["artifact"]
    with tempfile.TemporaryFile() as stderr:
        command, inherited = python("edgearte.measure.harness")
        child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, encoding="utf-8",
            env={**inherited, "GGML_NO_BACKTRACE": "1", **(environment or {})},
        )  # fmt: skip
        late = threading.Event()

        def stop() -> None:
            late.set()
            child.kill()

        timer = threading.Timer(timeout_s, stop) if timeout_s else None
        try:
            if timer:
                timer.start()
            yield from _records(child, job, what)
            code = child.wait()
        finally:
            if timer:
                timer.cancel()
            if child.poll() is None:
                child.kill()
            child.wait()
            for pipe in (child.stdin, child.stdout):
                if pipe:
                    pipe.close()
        if late.is_set():
            raise Unusable(f"{what}: not measured within {timeout_s:.0f} s; the child was stopped")
        if code:
            raise Unusable(_obituary(what, code, _tail(stderr)))


def _records(child: subprocess.Popen[str], job: dict[str, Any], what: str) -> Iterator[Any]:
    assert child.stdin and child.stdout
    try:
        child.stdin.write(json.dumps({**job, "tethered": True}) + "\n")
        child.stdin.flush()
    except BrokenPipeError:
        return  # it is dead already; its exit code says why
    for line in child.stdout:
        try:
            record = json.loads(line)
        except ValueError:
            return  # cut off in the middle of a record by its death
        if record["kind"] == "error":
            said = str(record["message"]).removeprefix(f"{what}: ")
            raise Unusable(f"{what}: {said}")
        yield record


def _obituary(what: str, code: int, said: str) -> str:
    return f"{what}: the measuring process {how_ended(code)}" + (f"\nIt said last:\n{said}" if said else "")


def _tail(stderr: Any, lines: int = 20) -> str:
    stderr.seek(0)
    return "\n".join(stderr.read().decode("utf-8", "replace").strip().splitlines()[-lines:])


def _spread(values: Sequence[float]) -> Spread:
    return Spread(statistics.median(values), min(values), max(values), len(values))


def _percentile(ordered: Sequence[float], share: float) -> float:
    """The value that `share` of the values do not exceed (nearest rank: one that was truly measured)."""
    return ordered[max(0, -(-len(ordered) * round(share * 100) // 100) - 1)]
