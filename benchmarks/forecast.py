"""Does a build take what `edgearte validate` predicts?

python benchmarks/forecast.py RECIPE [--runs runs] [--run FOLDER] [--set KEY=VALUE …] [--empty]

Predicts, then builds, and prints stage by stage and in all what was predicted, what it took by the clock, what it took of the processor by
the number of cores, which is what it would have taken undisturbed, and predicted over taken of both. With `--run` a finished run's ledger
(`result.json`) is read in place of building. `--empty` predicts as if no stage had run here before. Stages found in the store count
with what they took when they were computed.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from edgearte.errors import UserError
from edgearte.forecast import predicted
from edgearte.load import load_recipe, load_task
from edgearte.report.result import StageCost, from_json
from edgearte.workload import Work

# The stage of the forecast that a line of the ledger belongs to, by the beginning or a part of its label.
BELONGS = (
    (r": vote$", "vote"),
    (r": self-consistency$", "verify"),
    (r"^(tailor|draft)\b.*: (questions|rationales)$", r"\1: \2"),
    (r"^judge\b.*(questions|texts|rationales)$", "judge: texts"),
    (r"^judge\b", "judge: scores"),
    (r"^select\b", "select"),
    (r"^preference set$", "preference set"),
    (r"^(student preferences|naturalness|influence|probability)", "prefer"),
    (r"^align\b", "align"),
    (r"^hidden states$", "the teacher's states"),
    (r"^(train|develop): search\b", "search"),
    (r"^(train|warm-up)\b", "train"),
    (r"^(evaluate|develop)\b", "evaluate"),
    (r"^annotate|^ask", "ask the teacher"),
    (r"^(export|gates|answer|measure|time|bits|calibrate|sensitivities|speeds|read|merge|probe this)\b", "export and measure"),
)


@dataclass
class Taken:
    clock: float = 0.0
    busy: float = 0.0


def stage_of(label: str) -> str:
    """The forecast's stage of a ledger line, or what it says itself where no stage foresees it."""
    for pattern, stage in BELONGS:
        if found := re.search(pattern, label):
            return found.expand(stage)
    return label


def taken(costs: Iterable[StageCost]) -> dict[str, Taken]:
    found: dict[str, Taken] = {}
    for cost in costs:
        mine = found.setdefault(stage_of(cost.label), Taken())
        mine.clock += cost.seconds
        mine.busy += cost.processor
    return found


def show(stages: list[Work], found: dict[str, Taken], cores: int) -> None:
    """The table; what was not predicted counts in all."""

    def line(name: str, told: float, took: Taken) -> None:
        undisturbed = took.busy / cores
        ratios = "".join(f"{told / s:8.2f} x" if s > 0 and told > 0 else f"{'-':>10}" for s in (took.clock, undisturbed))
        print(f"{name:24} {told:10.1f} {took.clock:10.1f} {undisturbed:12.1f}{ratios}")

    print(f"{'stage':24} {'predicted':>10} {'by clock':>10} {'undisturbed':>12}{'of clock':>10}{'of undist.':>11}   (seconds)")
    names = dict.fromkeys([*(w.stage for w in stages if w.seconds), *found])
    for name in names:
        line(name, sum(w.seconds for w in stages if w.stage == name), found.get(name, Taken()))
    line("in all", sum(w.seconds for w in stages), Taken(sum(t.clock for t in found.values()), sum(t.busy for t in found.values())))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--run", type=Path, help="a finished run's folder, whose ledger is read")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="overrides of the recipe")
    parser.add_argument("--empty", action="store_true", help="predict as if no stage had run here before")
    asked = parser.parse_args()

    import torch

    from edgearte import catalogue
    from edgearte.build import build

    try:
        path = catalogue.find("recipes", asked.recipe)
        recipe = load_recipe(path, asked.set)
        _, stages = predicted(recipe, load_task(recipe), asked.runs / "nothing" if asked.empty else asked.runs)
        if asked.run:
            result = from_json((asked.run / "result.json").read_text("utf-8"), str(asked.run / "result.json"))
        else:
            result = build(path, asked.set, asked.runs)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{recipe.name}, {torch.get_num_threads()} threads")
    show(stages, taken(result.stages), torch.get_num_threads())
    return 0


if __name__ == "__main__":
    sys.exit(main())
