"""Closing the loop: what is done where a device's budget is not met. First the cheaper cures, other presets of the same student; then a
new round, in which the deployed, quantized student itself shows what teaches it, and seeds are drawn towards what it fails at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgearte import budget
from edgearte.budget import Figures, Verdict
from edgearte.delivery import Delivery
from edgearte.destination import Destination

FIRST, CURE, ROUND = "first", "cure", "round"


@dataclass(frozen=True)
class Step:
    """What is done next, why, with which presets, and in a new round, which artifact of the student is asked."""

    kind: str
    why: str
    presets: tuple[str, ...]
    deployed: str = ""


@dataclass(frozen=True)
class End:
    """That nothing more is done, and why."""

    why: str
    met: bool


def next_step(
    last: Delivery, to: Sequence[Destination], foretold: Mapping[str, Mapping[str, Figures]], cures: Sequence[str], hindered: str,
    parameters: int,
) -> Step | End:  # fmt: skip
    """What follows a delivery. `hindered` says why the student, of so many `parameters`, cannot be taught anew; empty where it can."""
    if not last.unmet:
        return End("every budget is met", True)
    said = "; ".join(f"{v.device}: {v.reason}" for v in last.unmet)
    tried = [a.preset for a in last.artifacts]
    if fresh := [p for p in cures if p not in tried and _may_help(p, last.unmet, to, foretold)]:
        why = f"{said}; other presets of the same student are cheaper than a new round, and foretold to fit: {', '.join(fresh)}"
        return Step(CURE, why, (*tried, *fresh))
    able = [v.nearest for v in last.unmet if v.nearest]
    if not able:
        return End(f"{said}; {_what_would_do(last.unmet, parameters)}", False)
    if hindered:
        return End(f"{said}; {hindered}", False)
    return Step(ROUND, f"{said}; {able[0]} meets every other limit and is asked itself what teaches it", tuple(tried), able[0])


def _may_help(preset: str, unmet: Sequence[Verdict], to: Sequence[Destination], foretold: Mapping[str, Mapping[str, Figures]]) -> bool:
    """Whether a preset may meet the budget of a device that none meets yet, as far as can be foretold."""
    limits = {one.name: one.limits for one in to}
    return any(not budget.out_of_reach(limits[v.device], foretold.get(v.device, {}).get(preset, Figures())) for v in unmet)


def _what_would_do(unmet: Sequence[Verdict], parameters: int) -> str:
    """What would meet the budgets that limits other than accuracy keep this student from."""
    said = []
    for verdict in unmet:
        if verdict.missed:
            worst, preset = budget.nearest(budget.beside_accuracy(verdict.missed))
            said.append(f"on {verdict.device} {worst.limit} binds: {budget.would_do(worst, preset, parameters)}")
    return "; ".join(said) or "no artifact could be used"


def worth(delivered: Delivery) -> tuple[int, float]:
    """How good a delivery is: how many budgets it meets, then the right answers of what meets them, or all of them but the accuracy."""
    found = [v.figures[p].accuracy or 0.0 for v in delivered.verdicts if (p := v.preset or v.nearest)]
    return len(delivered.verdicts) - len(delivered.unmet), sum(found)
