"""How fast this machine computed before: what a store remembers of the stages that ran, by the size of the model that computed.

A store keeps seconds by the clock and of the processor for every chunk and tree. Other work on the machine stretches the former; processor
seconds over the number of cores are what the stage takes undisturbed. On a GPU the processor only waits, and the clock counts.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from edgearte.errors import UserError
from edgearte.lm import weights
from edgearte.store import Store

CHARACTERS = 4  # of a token, about
SHORTEST = 1.0  # seconds of a chunk: in less, loading the model counts for much
ENOUGH = 4.0  # seconds of all that a rate is taken from
ALIKE = 0.05  # by how much models of the same size may differ

CHUNKS = """
SELECT c.stage, coalesce(json_extract(c.options, '$.student'), json_extract(c.options, '$.teacher'), json_extract(c.options, '$.model')),
    c.seconds, p.seconds, sum(json_extract(r.value, '$.tokens'))
FROM chunks c JOIN rows r ON r.chunk = c.key LEFT JOIN processor p ON p.key = c.key WHERE c.seconds >= ? GROUP BY c.key"""
TREES = """
SELECT t.options, t.seconds, p.seconds FROM trees t LEFT JOIN processor p ON p.key = t.key WHERE t.stage = 'train' AND t.seconds >= ?"""


@dataclass(frozen=True)
class Pace:
    """One chunk or training: its stage, the parameters of the model and the type it computed in, tokens, undisturbed seconds."""

    stage: str
    size: int
    dtype: str
    tokens: int
    seconds: float


def paces(store: Store, cores: int) -> list[Pace]:
    """What was computed on models whose folders are still there. `cores`: 0 where the clock counts."""
    sizes = _sizes(store)
    found = []
    for stage, model, clock, busy, tokens in store.read(CHUNKS, (SHORTEST,)):
        identity, _, dtype = str(model).rpartition(":")
        if tokens and identity in sizes:
            found.append(Pace(stage, sizes[identity], dtype, int(tokens), _undisturbed(clock, busy, cores)))
    for options, clock, busy in store.read(TREES, (SHORTEST,)):
        how = json.loads(options)
        if size := sizes.get(how["student"]):
            tokens = how["epochs"] * _characters(how["rows"]) // CHARACTERS
            found.append(Pace("train", size, "float32", tokens, _undisturbed(clock, busy, cores)))
    return found


def rate(found: Sequence[Pace], stages: Sequence[str], size: int, dtype: str) -> float | None:
    """Tokens a second that such stages reach on a model of this size: the median. None where too little is known."""
    mine = [p for p in found if p.stage in stages and p.dtype == dtype and abs(p.size - size) <= ALIKE * size]
    if sum(p.seconds for p in mine) < ENOUGH:
        return None
    return median(p.tokens / p.seconds for p in mine)


def _undisturbed(clock: float, busy: float | None, cores: int) -> float:
    return busy / cores if busy and cores else clock


def _sizes(store: Store) -> dict[str, int]:
    """Parameters of the models that the store has seen, by identity."""
    try:
        files = json.loads((store.root / "identities.json").read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    found = {}
    for folder in {Path(file).parent for file in files}:
        if (folder / "config.json").is_file():
            try:
                found[weights.identity(folder, store)] = weights.footprint(str(folder))[0]
            except UserError:  # half of a model, or one that is gone
                continue
    return found


def _characters(value: Any) -> int:
    """Of all texts in a JSON value."""
    if isinstance(value, str):
        return len(value)
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return sum(map(_characters, parts))
