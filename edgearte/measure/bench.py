"""Measures artifacts that the user already has, side by side."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgearte.measure.host import Target, run, told
from edgearte.measure.machine import detect_runtime
from edgearte.measure.suite import Suite, load_suite
from edgearte.records import Measurement

HEADINGS = ("artifact", "MB", "peak MB", "load s", "first s", "prefill/s", "decode/s", "±", "p50 ms", "p90", "p99")


def bench(paths: Sequence[Path], suite_name: str, threads: int = 0, devices: Sequence[str] = ()) -> list[Measurement]:
    """One measurement per device and artifact. All paths and devices are checked before the first is measured."""
    from edgearte.device.command import targets
    from edgearte.device.remote import Remote

    suite = load_suite(suite_name)
    artifacts = [(path, detect_runtime(path)) for path in paths]
    found = targets(devices)
    for to in found:
        if isinstance(to, Remote):
            for path, runtime in artifacts:
                to.check(str(path), runtime)
    return [m for to in found for m in interleaved(artifacts, suite, threads, to)]


def interleaved(artifacts: Sequence[tuple[Path, str]], suite: Suite, threads: int, to: Target) -> list[Measurement]:
    """Artifacts measured in turn, half of the repeats in one order and half in the other, so that what changes on the device meanwhile
    changes for all."""
    first = suite.repeats - suite.repeats // 2
    halves = [replace(suite, repeats=n) for n in ((first, suite.repeats - first) if len(artifacts) > 1 else (suite.repeats,)) if n]
    records: list[list[dict[str, Any]]] = [[] for _ in artifacts]
    for turn, half in enumerate(halves):
        for at in range(len(artifacts))[:: 1 if turn % 2 == 0 else -1]:
            path, runtime = artifacts[at]
            records[at] += run(path, runtime, half, threads=threads, target=to)
    return [told(path, suite, some, path.resolve().name, to) for (path, _), some in zip(artifacts, records, strict=True)]


def cells(m: Measurement) -> list[str]:
    """A measurement under `HEADINGS`: medians. `±` is half of what lies between the slowest and the fastest run, of the median: where it is
    large, measure again on a quieter machine."""
    half = (m.decode_tps.high - m.decode_tps.low) / 2 / m.decode_tps.median
    gaps = (m.inter_token_p50_s, m.inter_token_p90_s, m.inter_token_p99_s)
    return [
        m.artifact,
        f"{m.file_bytes / 1e6:.0f}",
        f"{m.peak_memory_bytes / 1e6:.0f}",
        f"{m.load_s.median:.2f}",
        f"{m.first_token_s.median:.3f}",
        f"{m.prefill_tps.median:.0f}",
        f"{m.decode_tps.median:.1f}",
        f"{half:.0%}",
        *(f"{1000 * gap:.1f}" for gap in gaps),
    ]


def table(measurements: Sequence[Measurement]) -> None:
    """Print the measurements as a table, the machine below it."""
    from rich.console import Console
    from rich.table import Table

    result = Table(caption=caption(measurements[0]) if measurements else None, caption_justify="left")
    result.add_column(HEADINGS[0], overflow="fold")
    for heading in HEADINGS[1:]:
        result.add_column(heading, justify="right")
    for m in measurements:
        result.add_row(*cells(m))
    Console(width=None if sys.stdout.isatty() else 120).print(result)


def caption(m: Measurement) -> str:
    """What the figures of a table depend on, in a line."""
    machine = m.machine
    load = machine.get("load_average")
    parts = [
        f"{m.prompt_tokens} prompt and {m.new_tokens} new tokens, rates in tokens/s, median of {m.decode_tps.runs}",
        f"threads: {m.threads}",
        f"{machine.get('cpu')}, {machine.get('cores')} cores, {machine.get('memory_bytes', 0) / 1e9:.0f} GB",
        f"load average before: {load[0]}" if load else "",
    ]
    if doubts := m.doubts():
        parts.append(f"{'; '.join(doubts)}: these figures may be lower than the machine's best")
    return "; ".join(p for p in parts if p)
