"""Measures artifacts that the user already has, side by side."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgearte.errors import UserError
from edgearte.measure.host import Target, run, told
from edgearte.measure.machine import detect_runtime
from edgearte.measure.suite import TASK, Suite, load_suite
from edgearte.records import Measurement

HEADINGS = ("artifact", "MB", "peak MB", "load s", "first s", "prefill/s", "decode/s", "±", "bw", "p50 ms", "p90", "p99", "J")

COUNTED = ("artifact", "MB", "a new token", "a prompt token", "loading")


def bench(paths: Sequence[Path], suite_name: str, threads: int = 0, devices: Sequence[str] = ()) -> list[Measurement]:
    """One measurement per device and artifact. All paths and devices are checked before the first is measured."""
    from edgearte.device.command import targets
    from edgearte.device.remote import Remote

    suite = load_suite(suite_name)
    if suite.prompts == TASK:
        raise UserError(f"suite {suite.name}: its prompts are those of a recipe, which edgearte build measures with (measure.suite: "
                        f"{suite_name}); copy its file, and name a file of texts as prompts: in it")  # fmt: skip
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
    first = suite.repeats if len(artifacts) == 1 or to.counted else suite.repeats - suite.repeats // 2
    halves = [replace(suite, repeats=n) for n in (first, suite.repeats - first) if n]
    records: list[list[dict[str, Any]]] = [[] for _ in artifacts]
    for turn, half in enumerate(halves):
        for at in range(len(artifacts))[:: 1 if turn % 2 == 0 else -1]:
            path, runtime = artifacts[at]
            records[at] += run(path, runtime, half, threads=threads, target=to)
    return [told(path, suite, some, path.resolve().name, to) for (path, _), some in zip(artifacts, records, strict=True)]


def headings(some: Sequence[Measurement]) -> tuple[str, ...]:
    """What stands over the measurements of a device."""
    return COUNTED if some[0].instructions else HEADINGS


def cells(m: Measurement) -> list[str]:
    """A measurement under its `headings`. Under `COUNTED`, millions of instructions. Under `HEADINGS`, medians: `±` is half of what lies
    between the slowest and the fastest run, of the median: where it is large, measure again on a quieter machine. `bw` is the share of the
    memory's bandwidth that decoding reaches, `J` the energy of a run, where the device tells it."""
    if counts := m.instructions:
        figures = (counts.new_token, counts.prompt_token, counts.load)
        return [m.artifact, f"{m.file_bytes / 1e6:.0f}", *(f"{n / 1e6:.2f}" for n in figures)]
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
        f"{m.reached:.0%}" if m.reached else "",
        *(f"{1000 * gap:.1f}" for gap in gaps),
        f"{m.run_j.median:.3g}" if m.run_j else "",
    ]


def by_device(measurements: Sequence[Measurement]) -> list[list[Measurement]]:
    """Measurements by device, in the order of their first."""
    found: dict[str, list[Measurement]] = {}
    for m in measurements:
        found.setdefault(m.device, []).append(m)
    return list(found.values())


def table(measurements: Sequence[Measurement]) -> None:
    """Print the measurements, a table a device with the machine below it."""
    from rich.console import Console
    from rich.table import Table

    for some in by_device(measurements):
        result = Table(title=f"on {some[0].device}", caption=caption(some), title_justify="left", caption_justify="left")
        first, *others = headings(some)
        result.add_column(first, overflow="fold")
        for heading in others:
            result.add_column(heading, justify="right")
        for m in some:
            result.add_row(*cells(m))
        Console(width=None if sys.stdout.isatty() else 130).print(result)


def caption(some: Sequence[Measurement]) -> str:
    """What the figures of a device's table depend on, and why they may not be its best, in a line."""
    first, machine = some[0], some[0].machine
    if first.instructions:
        counted = "millions of instructions that an emulated core executes; an emulator's times mean nothing"
        return f"{first.prompt_tokens} prompt and {first.new_tokens} new tokens, one thread; {counted}; {machine.get('cpu')}"
    load, hot, clocks = machine.get("load_average"), [m.temperature_c.high for m in some if m.temperature_c], [m.clock_mhz for m in some]
    parts = [
        f"{first.prompt_tokens} prompt and {first.new_tokens} new tokens, rates in tokens/s, median of {first.decode_tps.runs}",
        f"threads: {first.threads}",
        f"{machine.get('cpu')}, {machine.get('cores')} cores, {machine.get('memory_bytes', 0) / 1e9:.0f} GB",
        f"load average before: {load[0]}" if load else "",
        f"bw: of {max(read) / 1e9:.1f} GB/s that these threads read" if (read := [m.bandwidth for m in some if m.bandwidth]) else "",
        f"up to {max(hot):.0f} °C" if hot else "",
        f"{min(c.low for c in clocks if c):.0f} to {max(c.high for c in clocks if c):.0f} MHz" if all(clocks) else "",
    ]
    doubted: dict[str, list[str]] = {}
    for m in some:
        for doubt in m.doubts():
            doubted.setdefault(doubt, []).append(m.artifact)
    for doubt, artifacts in doubted.items():
        whose = f" ({', '.join(artifacts)})" if len(artifacts) < len(some) else ""
        parts.append(f"{doubt}{whose}: these figures may be lower than the device's best")
    return "; ".join(p for p in parts if p)
