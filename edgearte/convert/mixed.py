"""Mixed precision: a type for every tensor, so that a size is spent where it counts most, or a loss kept with the least bytes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgearte.convert import converters
from edgearte.convert.bits import K_BLOCK
from edgearte.convert.sensitivity import Use, cost
from edgearte.errors import UserError
from edgearte.lm.headers import read_gguf

# What llama.cpp computes fast. Those of 256 weights a block need rows that 256 divides.
BY_32 = ("q4_0", "iq4_nl", "q4_1", "q5_0", "q5_1", "q8_0", "f16")
BY_256 = ("q2_k", "q3_k", "iq4_xs", "q4_k", "q5_k", "q6_k")
ROUNDED = "iq4_nl"  # the type whose tensors are rounded by GPTQ
# The name a file goes by in which this type is the commonest, where it is another.
NAMED = {"q3_k": "q3_k_m", "q4_k": "q4_k_m", "q5_k": "q5_k_m", "f16": "q8_0"}


@dataclass(frozen=True)
class Option:
    """One type for one tensor of `elements` weights: what it costs in nats a position and in bytes. Of a type that the weights came from
    (`born`) the cost says nothing."""

    type: str
    cost: float
    bytes: int
    elements: int
    born: bool = False

    @property
    def bits(self) -> float:
        """A weight's, with its share of the scales."""
        return 8 * self.bytes / self.elements


def options(
    f16: Path, uses: Mapping[str, Sequence[Use]], imatrix: Path | None, gains: Mapping[str, float], scratch: Path
) -> dict[str, list[Option]]:
    """Every type that each tensor may take, from quantizing the whole model to each type and reading it back; `gains` is the share of its
    cost that a tensor of type `ROUNDED` keeps when it is rounded with care."""
    import gguf

    exact = {t.name: t for t in gguf.GGUFReader(f16).tensors if t.name in uses}
    tensors = {name: int(t.shape[0]) for name, t in exact.items()}
    found: dict[str, list[Option]] = {name: [] for name in tensors}
    for type in (*BY_32, *BY_256):
        block = K_BLOCK if type in BY_256 else 32
        wanted = {name: type for name, row in tensors.items() if row % block == 0}
        if not wanted:
            continue
        path = scratch / "tried.gguf"
        converters.quantize(f16, path, "q8_0", imatrix, wanted)
        for t in gguf.GGUFReader(path).tensors:
            if t.name in wanted and t.tensor_type.name.lower() == type:
                error = gguf.dequantize(t.data, t.tensor_type) - gguf.dequantize(exact[t.name].data, exact[t.name].tensor_type)
                found[t.name].append(Option(type, cost(uses[t.name], error), int(t.n_bytes), int(t.n_elements)))
        path.unlink()
    marked = {name: _with_birthplace(some) for name, some in found.items() if some}
    return {
        name: [replace(o, cost=o.cost * gains.get(name, 1.0)) if o.type == ROUNDED else o for o in some] for name, some in marked.items()
    }


def _with_birthplace(some: Sequence[Option]) -> list[Option]:
    """With types marked that err less than one of a bit more: the weights were stored so before they were taught.

    Small errors add up at random, and that is what a cost counts on. Rounded back to where they came from, weights err by just what they
    were taught, all in one direction: next to nothing by the cost, and the student is the untaught one again.
    """
    return [replace(o, born=any(p.bits > o.bits + 0.9 and p.cost > o.cost for p in some)) for o in some]


def limits(found: Mapping[str, Sequence[Option]], budget: Mapping[str, Any], like: Path | None) -> dict[str, float]:
    """The `bytes` or `nats` that a preset's budget leaves for these tensors: as many as `like` takes of them, a number of bits a weight,
    as much as `like` is expected to lose, or a number of nats; of nats the budget's own `share`, where it has one."""
    if "bits" in budget:
        return {"bytes": float(budget["bits"]) / 8 * sum(some[0].elements for some in found.values())}
    share = float(budget.get("share", 1))
    if "kl" in budget:
        return {"nats": share * float(budget["kl"])}
    if like is None:
        raise RuntimeError("this budget is another artifact's")
    header = read_gguf(like)
    taken = {name: header.tensors[name] for name in found}
    if "size_of" in budget:
        return {"bytes": float(sum(t.bytes for t in taken.values()))}
    return {"nats": share * sum(next(o.cost for o in found[name] if o.type == t.type.lower()) for name, t in taken.items())}


def base(chosen: Mapping[str, Option]) -> str:
    """The type a mixed file is called by: the commonest one."""
    weights: Counter[str] = Counter()
    for option in chosen.values():
        weights[option.type] += option.elements
    commonest = weights.most_common(1)[0][0]
    return NAMED.get(commonest, commonest)


def choose(found: Mapping[str, Sequence[Option]], *, bytes: float = 0.0, nats: float = 0.0) -> dict[str, Option]:
    """The option for each tensor that costs least within so many `bytes` in all, or takes the fewest bytes within so many `nats`: a
    knapsack with one choice a tensor, none of a type that weights came from. `UserError` where nothing fits."""
    import numpy as np
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import block_diag

    found = {name: [option for option in some if not option.born] for name, some in found.items()}
    rows: list[tuple[str, Option]] = [(name, option) for name, some in found.items() for option in some]
    sizes = np.array([o.bytes for _, o in rows], float)
    costs = np.array([o.cost for _, o in rows], float)
    goal, limited, most = (costs, sizes, bytes) if bytes else (sizes, costs, nats)
    one_each: Any = block_diag([np.ones((1, len(some))) for some in found.values()])
    scale = limited.max()
    result: Any = milp(
        goal / goal.max(), integrality=np.ones(len(rows), int), bounds=Bounds(0, 1),
        constraints=[LinearConstraint(one_each, 1, 1), LinearConstraint((limited / scale)[None], -np.inf, most / scale)],
        options={"mip_rel_gap": 1e-3, "time_limit": 60},
    )  # fmt: skip
    if result.x is None:
        least = sum(min(o.bytes if bytes else o.cost for o in some) for some in found.values())
        raise UserError(f"mixed precision: no choice of types fits {most:g} {'bytes' if bytes else 'nats'}; the least is {least:g}")
    return {rows[k][0]: rows[k][1] for k in np.flatnonzero(result.x > 0.5)}
