"""ARTE with a teaching assistant: doubts choose which drafts are worth explaining and scoring, trust which rationales may become pairs and
how much a tailored example counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from edgearte.assist import signals, steps, weigh
from edgearte.assisted import UNSURE, doubts, wanted
from edgearte.recipe import Assist, Guide
from edgearte.records import Draft, Example, Question
from edgearte.setup import Setup


def worth_scoring(setup: Setup, how: Assist, guide: Guide, student: Path, drafts: Sequence[Draft]) -> tuple[Draft, ...]:
    """The share of the drafts that student and assistant doubt most, in the order they were written: rationales of what the student knows
    already cost as much and tell less."""
    ranked = signals.order(wanted(doubts(setup, how, student, [Question(d.id, d.input, "") for d in drafts]), how))
    kept = set(ranked[: max(1, round(guide.score * len(drafts)))])
    return tuple(d for k, d in enumerate(drafts) if k in kept)


def believed(setup: Setup, how: Assist, drafts: Sequence[Draft]) -> tuple[Draft, ...]:
    """The drafts without the rationales that the assistant does not trust, as far as any are left."""
    flat = [(d, r) for d in drafts for r in d.rationales]
    trust = steps.trusted(setup, how, [(d.input, r.text) for d, r in flat], "the assistant on the rationales")
    least = UNSURE if how.threshold is None else how.threshold
    kept = {(d.id, r.strategy) for (d, r), c in zip(flat, trust, strict=True) if c >= least}
    left = (replace(d, rationales=tuple(r for r in d.rationales if (d.id, r.strategy) in kept)) for d in drafts)
    return tuple(d for d in left if d.rationales)


def weighed(setup: Setup, how: Assist, examples: Sequence[Example]) -> tuple[Example, ...]:
    """The examples, each counting as much as the assistant trusts it."""
    trust = steps.trusted(setup, how, [(e.input, e.completion) for e in examples], "the assistant on what was tailored")
    return tuple(replace(e, weight=w) for e, w in zip(examples, weigh.rectified(trust), strict=True))
