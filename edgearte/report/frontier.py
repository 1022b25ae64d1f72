"""The Pareto frontier of the artifacts: those that no other one beats in everything at once."""

from __future__ import annotations

from collections.abc import Sequence

from edgearte.report import words
from edgearte.report.result import ArtifactResult


def beaten(artifacts: Sequence[ArtifactResult]) -> dict[str, str]:
    """By preset, the one that beats it: at least as good in size, time to an answer, KL and right answers, and better in one of them.
    Empty for what is on the frontier; what failed or was not measured is left out."""
    known = {a.artifact.preset: costs for a in artifacts if (costs := _costs(a)) is not None}
    found = {}
    for name, costs in known.items():
        better = [n for n, other in known.items() if other != costs and all(o <= c for o, c in zip(other, costs, strict=True))]
        found[name] = min(better, key=lambda n: known[n], default="")
    return found


def _costs(item: ArtifactResult) -> tuple[float, float, float, int] | None:
    """Bytes, seconds, nats, questions missed."""
    seconds, kl = words.answer_seconds(item), words.kl(item.artifact)
    if item.artifact.failed or seconds is None or kl is None or item.accuracy is None:
        return None
    return item.artifact.bytes, seconds, kl, item.accuracy.n - item.accuracy.correct


def said(name: str, found: dict[str, str]) -> str:
    """How a table says it."""
    if name not in found:
        return words.DASH
    return f"beaten by {found[name]}" if found[name] else "✓"
