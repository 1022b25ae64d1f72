"""Today's measurements against earlier ones: what became slower or larger, as far as the noise of both lets it be told (issue 6)."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from math import comb
from pathlib import Path

from edgearte.errors import UserError
from edgearte.records import Measurement, Spread

LEAST = 0.03  # of a figure: from one day to another a quiet machine's medians are this far apart
CHANCE = 0.05
SAME = ("device", "suite", "prompt_tokens", "new_tokens", "threads")
MACHINE = ("cpu", "cores", "features", "governor", "llama-cpp-python", "onnxruntime-genai")
SPEEDS = {"load": "load_s", "first token": "first_token_s", "prefill": "prefill_tps", "decode": "decode_tps"}
COUNTS = {"a new token": "new_token", "a prompt token": "prompt_token", "loading": "load"}
HEADINGS = ("artifact", "figure", "against then", "verdict")
WORSE, BETTER, ALIKE, UNSURE = "worse", "better", "alike", "unsure"


@dataclass(frozen=True)
class Verdict:
    """One figure of one artifact: its new median over the old one, what that means, and why where it means nothing."""

    artifact: str
    figure: str
    ratio: float
    verdict: str
    why: str = ""


def read(path: Path) -> list[Measurement]:
    """Measurements that `edgearte bench --json` printed; `UserError` where that is something else."""
    from pydantic import TypeAdapter, ValidationError

    try:
        lines = [line for line in path.read_text("utf-8").splitlines() if line.strip()]
        known: TypeAdapter[Measurement | Verdict] = TypeAdapter(Measurement | Verdict)
        found = [record for record in map(known.validate_json, lines) if isinstance(record, Measurement)]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error
    except ValidationError as error:
        raise UserError(f"{path}: no record of edgearte bench --json: {error.errors()[0]['msg']}") from error
    if not found:
        raise UserError(f"{path}: holds no measurement")
    return found


def against(old: Sequence[Measurement], new: Measurement) -> list[Verdict]:
    """A verdict on every figure of a new measurement; where its device was not measured then, against the artifact on another."""
    of_it = [m for m in old if m.artifact == new.artifact]
    return compare(next((m for m in of_it if m.device == new.device), of_it[0]), new)


def compare(old: Measurement, new: Measurement) -> list[Verdict]:
    """A verdict on every figure; where the two were not measured alike, on the file's size alone."""
    both = {name: (getattr(old, name), getattr(new, name)) for name in SAME}
    both |= {name: (old.machine.get(name), new.machine.get(name)) for name in MACHINE}
    doubts = [f"{name} {then!r}, now {now!r}" for name, (then, now) in both.items() if then != now]
    why = f"measured otherwise then: {'; '.join(doubts)}" if doubts else ""
    busy = [when for when, m in (("then", old), ("now", new)) if m.busy()]
    found, called = [], new.artifact + ("" if new.device == "local" else f" on {new.device}")
    if old.instructions and new.instructions:
        for figure, name in COUNTS.items():
            ratio = getattr(new.instructions, name) / getattr(old.instructions, name)
            found.append(_verdict(called, f"instructions, {figure}", ratio, why))
        return [*found, _verdict(called, "file", new.file_bytes / old.file_bytes, "")]
    for figure, name in SPEEDS.items():
        before, after = getattr(old, name), getattr(new, name)
        if name.endswith("_tps"):  # as the time a token takes, so that more is worse in all figures
            before, after = _inverse(before), _inverse(after)
        doubt = why or (f"other work was running {' and '.join(busy)}" if busy else _noise(before, after))
        found.append(_verdict(called, figure, after.median / before.median, doubt))
    found.append(_verdict(called, "peak memory", new.peak_memory_bytes / old.peak_memory_bytes, why))
    found.append(_verdict(called, "file", new.file_bytes / old.file_bytes, ""))
    return found


def _verdict(artifact: str, figure: str, ratio: float, doubt: str) -> Verdict:
    moved = WORSE if ratio > 1 + LEAST else BETTER if ratio < 1 / (1 + LEAST) else ALIKE
    if moved == ALIKE or not doubt:
        return Verdict(artifact, figure, ratio, moved)
    return Verdict(artifact, figure, ratio, UNSURE, doubt)


def _noise(old: Spread, new: Spread) -> str:
    """Why these runs may differ by chance alone, or "". Where no run of the one is within those of the other it is known how rare that
    would be (an exact permutation test)."""
    if old.low <= new.high and new.low <= old.high:
        return "the runs of both overlap"
    return f"{old.runs} and {new.runs} runs are too few" if 2 / comb(old.runs + new.runs, new.runs) > CHANCE else ""


def _inverse(rate: Spread) -> Spread:
    return Spread(1 / rate.median, 1 / rate.high, 1 / rate.low, rate.runs)


def cells(v: Verdict) -> list[str]:
    """A verdict under `HEADINGS`."""
    return [v.artifact, v.figure, f"{v.ratio:.2f} ×", v.verdict + (f": {v.why}" if v.why else "")]


def table(verdicts: Sequence[Verdict]) -> None:
    """Print the verdicts, a line an artifact and figure."""
    from rich.console import Console
    from rich.table import Table

    result = Table(*HEADINGS, box=None, pad_edge=False)
    for v in verdicts:
        result.add_row(*cells(v))
    Console(width=None if sys.stdout.isatty() else 120).print(result)
