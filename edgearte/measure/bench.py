"""Measures artifacts that the user already has, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgearte.measure.host import measure
from edgearte.measure.machine import detect_runtime
from edgearte.measure.suite import load_suite
from edgearte.records import Measurement, Spread

if TYPE_CHECKING:
    from rich.table import Table


def bench(paths: Sequence[Path], suite_name: str, threads: int = 0) -> list[Measurement]:
    """One measurement per artifact, one after the other. All paths are checked before the first is measured."""
    suite = load_suite(suite_name)
    runtimes = [detect_runtime(path) for path in paths]
    return [
        measure(path, runtime, suite, name=path.resolve().name, threads=threads)
        for path, runtime in zip(paths, runtimes, strict=True)
    ]


def table(measurements: Sequence[Measurement]) -> Table:
    """The measurements as a table, with the machine below it. Medians; the lowest and highest run where they differ
    much."""
    from rich.table import Table

    result = Table(caption=_caption(measurements[0]) if measurements else None, caption_justify="left")
    result.add_column("artifact", overflow="fold")
    for heading in ("MB", "peak MB", "load s", "first s", "prefill/s", "decode/s", "p50 ms", "p90", "p99"):
        result.add_column(heading, justify="right")
    for m in measurements:
        result.add_row(
            m.artifact,
            f"{m.file_bytes / 1e6:.0f}",
            f"{m.peak_memory_bytes / 1e6:.0f}",
            _shown(m.load_s, 2),
            _shown(m.first_token_s, 3),
            _shown(m.prefill_tps, 0),
            _shown(m.decode_tps, 1),
            f"{1000 * m.inter_token_p50_s:.1f}",
            f"{1000 * m.inter_token_p90_s:.1f}",
            f"{1000 * m.inter_token_p99_s:.1f}",
        )
    return result


def _shown(spread: Spread, digits: int) -> str:
    text = f"{spread.median:.{digits}f}"
    steady = spread.high - spread.low <= 0.1 * abs(spread.median)
    return text if steady else f"{text} ({spread.low:.{digits}f}-{spread.high:.{digits}f})"


def _caption(m: Measurement) -> str:
    machine = m.machine
    load = machine.get("load_average")
    parts = [
        f"{m.prompt_tokens} prompt + {m.new_tokens} new tokens, median of {m.decode_tps.runs}, {m.threads} threads",
        f"{machine.get('cpu')}, {machine.get('cores')} cores, {machine.get('memory_bytes', 0) / 1e9:.0f} GB",
        f"load average before: {load[0]}" if load else "",
    ]
    if load and load[0] > 0.5:
        parts.append("other work was running: these figures are lower than the machine's best")
    return "; ".join(p for p in parts if p)
