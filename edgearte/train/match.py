"""Hidden-state matching: beside the teacher's words the student learns which answers are alike to the teacher.

EmbedDistill (arXiv 2301.12005) has the student take over the geometry of the teacher's embeddings. Here an example's embedding is the
mean of the last hidden states its answer is told from, one vector whatever the tokens of the two; and the geometries of a batch
are compared by linear CKA (arXiv 1905.00414), which needs no projection from one width onto the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

TINY = 1e-12


@dataclass(frozen=True)
class Match:
    """What is to be matched: the teacher's `states` [examples, width], how much that counts beside the loss on the answers, and which
    teacher's they are."""

    states: Sequence[Sequence[float]]
    weight: float
    teacher: str


def distance(states: Sequence[torch.Tensor], wanted: torch.Tensor) -> torch.Tensor:
    """How unlike the geometry of a batch's `states` (of each text [targets, own width]) is to that of `wanted` [texts, width]: a scalar
    from 0 to 1, of which one text alone has none.

    1 - CKA = 1 - <K, L> / (|K| |L|), K and L being the inner products of both after their means are taken away.
    """
    import torch

    with torch.autocast(wanted.device.type, enabled=False):
        mine, theirs = (_products(x) for x in (torch.stack([s.float().mean(0) for s in states]), wanted.float()))
        apart: torch.Tensor = 1 - (mine * theirs).sum() / (mine.norm() * theirs.norm() + TINY)
    return apart


def _products(x: torch.Tensor) -> torch.Tensor:
    centred = x - x.mean(0)
    return centred @ centred.T
