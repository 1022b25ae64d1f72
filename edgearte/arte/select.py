"""Selection: of more drafts than are needed, the student keeps what it prefers, and not the same thing twice.

A cheaper relative of alignment: the teacher stays as it came and only writes more. Which score the student prefers by is the caller's;
the diversity term is maximal marginal relevance (Carbonell & Goldstein 1998).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edgearte.records import Example


def preferred(examples: Sequence[Example], scores: Mapping[str, float], count: int, diversity: float) -> tuple[Example, ...]:
    """Up to `count` examples, the same share of every target, in the order in which they were taken.

    Each time the example of most (1 - diversity) * rank - diversity * likeness is taken, of the target that has fewest so far: `rank` is
    the share of all examples it scores better than (0 to 1), `likeness` that to the likest one already taken for its target (rapidfuzz's
    token_set_ratio, 0 to 1). An example without a score ranks last.
    """
    worst = float("-inf")
    ordered = sorted(examples, key=lambda e: (scores.get(e.id, worst), e.id))
    rank = {e.id: k / max(1, len(ordered) - 1) for k, e in enumerate(ordered)}
    left: dict[str, list[Example]] = {}
    for e in sorted(examples, key=lambda e: -rank[e.id]):
        left.setdefault(e.target, []).append(e)
    if len(left) > count // 2:  # open answers: nearly every target is its own
        left = {"": [e for own in left.values() for e in own]}
    taken: dict[str, list[Example]] = {target: [] for target in left}
    kept: list[Example] = []
    while len(kept) < count and any(left.values()):
        target = min((t for t in left if left[t]), key=lambda t: (len(taken[t]), t))
        best = max(left[target], key=lambda e: (1 - diversity) * rank[e.id] - diversity * _likeness(e, taken[target]))
        left[target].remove(best)
        taken[target].append(best)
        kept.append(best)
    return tuple(kept)


def _likeness(example: Example, others: Sequence[Example]) -> float:
    from rapidfuzz import fuzz

    return max((fuzz.token_set_ratio(example.input, o.input) / 100 for o in others), default=0.0)
