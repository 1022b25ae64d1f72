"""Mixed precision: a type for every tensor, so that a size is spent where it counts most, or a loss kept with the least bytes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
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
    """One type for one tensor of `elements` weights: what it costs in nats a position, in bytes, and where that is asked for in `seconds`
    of a decoded token. Of a type that the weights came from (`born`) the cost says nothing."""

    type: str
    cost: float
    bytes: int
    elements: int
    born: bool = False
    seconds: float = 0.0

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
    found: dict[str, list[Option]] = {name: [] for name in exact}
    for type, wanted, path in _tried(f16, {name: int(t.shape[0]) for name, t in exact.items()}, imatrix, scratch):
        for t in gguf.GGUFReader(path).tensors:
            if t.name in wanted and t.tensor_type.name.lower() == type:
                error = gguf.dequantize(t.data, t.tensor_type) - gguf.dequantize(exact[t.name].data, exact[t.name].tensor_type)
                found[t.name].append(Option(type, cost(uses[t.name], error), int(t.n_bytes), int(t.n_elements)))
    marked = {name: _with_birthplace(some) for name, some in found.items() if some}
    return {
        name: [replace(o, cost=o.cost * gains.get(name, 1.0)) if o.type == ROUNDED else o for o in some] for name, some in marked.items()
    }


def _tried(f16: Path, rows: Mapping[str, int], imatrix: Path | None, scratch: Path) -> Iterator[tuple[str, dict[str, str], Path]]:
    """The model in every type: the type, the tensors that take it (by the length of their `rows`; the others are q8_0), and the file,
    which is gone when the next one is asked for."""
    path = scratch / "tried.gguf"
    for type in (*BY_32, *BY_256):
        block = K_BLOCK if type in BY_256 else 32
        wanted = {name: type for name, row in rows.items() if row % block == 0}
        if wanted:
            converters.quantize(f16, path, "q8_0", imatrix, wanted)
            yield type, wanted, path
            path.unlink()


def speeds(f16: Path, names: Sequence[str], scratch: Path, token: Callable[[Path], float]) -> dict[str, float]:
    """Seconds of a decoded token that a weight takes in each type, from the whole model in each: `token` gives the seconds of a file.
    What no type changes is spread over all weights, and so is the same for every choice of types."""
    shapes = {name: read_gguf(f16).tensors[name].shape for name in names}
    elements = {name: prod(shape) for name, shape in shapes.items()}
    found: dict[str, float] = {}
    for type, wanted, path in _tried(f16, {name: shape[0] for name, shape in shapes.items()}, None, scratch):
        others = sum(count for name, count in elements.items() if name not in wanted)
        found[type] = (token(path) - others * found.get("q8_0", 0.0)) / sum(elements[name] for name in wanted)
    return found


def _with_birthplace(some: Sequence[Option]) -> list[Option]:
    """With types marked that err less than one of a bit more: the weights were stored so before they were taught.

    Small errors add up at random, and that is what a cost counts on. Rounded back to where they came from, weights err by just what they
    were taught, all in one direction: next to nothing by the cost, and the student is the untaught one again.
    """
    return [replace(o, born=any(p.bits > o.bits + 0.9 and p.cost > o.cost for p in some)) for o in some]


def limits(found: Mapping[str, Sequence[Option]], budget: Mapping[str, Any], like: Path | None) -> dict[str, float]:
    """The `bytes`, `nats` or `seconds` that a preset's budget leaves for these tensors: as many as `like` takes of them, a number of bits a
    weight, as much as `like` is expected to lose, a number of nats, or as long as `like` takes; of nats and seconds the budget's own
    `share`, where it has one."""
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
    same = [next(o for o in found[name] if o.type == t.type.lower()) for name, t in taken.items()]
    if "speed_of" in budget:
        return {"seconds": share * sum(o.seconds for o in same)}
    return {"nats": share * sum(o.cost for o in same)}


def base(chosen: Mapping[str, Option]) -> str:
    """The type a mixed file is called by: the commonest one."""
    weights: Counter[str] = Counter()
    for option in chosen.values():
        weights[option.type] += option.elements
    commonest = weights.most_common(1)[0][0]
    return NAMED.get(commonest, commonest)


def choose(found: Mapping[str, Sequence[Option]], **limit: float) -> dict[str, Option]:
    """The option for each tensor that costs least within so many `bytes` or `seconds` in all, or takes the fewest bytes within so many
    `nats`, whichever the limit is: a knapsack with one choice a tensor, none of a type that weights came from. `UserError` where nothing
    fits."""
    import numpy as np
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import block_diag

    found = {name: [option for option in some if not option.born] for name, some in found.items()}
    rows: list[tuple[str, Option]] = [(name, option) for name, some in found.items() for option in some]
    ((unit, most),) = limit.items()
    columns = {"bytes": [o.bytes for _, o in rows], "nats": [o.cost for _, o in rows], "seconds": [o.seconds for _, o in rows]}
    goal, limited = (np.array(columns[c], float) for c in ("bytes" if unit == "nats" else "nats", unit))
    one_each: Any = block_diag([np.ones((1, len(some))) for some in found.values()])
    scale = limited.max()
    result: Any = milp(
        goal / goal.max(), integrality=np.ones(len(rows), int), bounds=Bounds(0, 1),
        constraints=[LinearConstraint(one_each, 1, 1), LinearConstraint((limited / scale)[None], -np.inf, most / scale)],
        options={"mip_rel_gap": 1e-3, "time_limit": 60},
    )  # fmt: skip
    if result.x is None:
        least = sum(min(x for x, (other, _) in zip(limited, rows, strict=True) if other == name) for name in found)
        raise UserError(f"mixed precision: no choice of types fits {most:g} {unit}; the least is {least:g}")
    return {rows[k][0]: rows[k][1] for k in np.flatnonzero(result.x > 0.5)}
