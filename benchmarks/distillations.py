"""A real distillation over several seeds: every arm as checkpoint and as a 4-bit file, beside its costs; and beforehand, how large a
difference so many questions and seeds can show.

python benchmarks/distillations.py my-intents/recipe.yaml [key=value …] [--seeds 3] [--runs runs] [--preset gptq-iq4_nl]

Seed K is a build of its own, RUNS/NAME-seedK with `seed=K`: it is started here, goes on where it was stopped, and is read back where it is
finished. `delivered` is the arm that a build chose on its development questions; it may be another one under each seed. Intervals are at
95 % over seeds and questions (significance.py), p-values of a permutation test over the questions.

Minutes and tokens are what an arm takes beyond its evaluation, a mean over the seeds. What is drafted, preferred and aligned counts for
ARTE. On-policy goes on from the arm that was best before it; only its own steps count for it. Where answers are bought (`assist.budget`),
all that the teacher was asked counts for either arm, though half of it was asked for the other.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from edgearte.errors import UserError
from edgearte.load import load_recipe, load_task
from edgearte.significance import Difference, Mean, difference, mean

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

UNTAUGHT, SEEDS, DELIVERED, CHECKPOINT = "untaught", "seeds alone", "delivered", "checkpoint"
ARMS = (UNTAUGHT, SEEDS, "unaligned teacher", "ARTE", "selection", "on-policy", "no signal", "assisted")
DISCORDANT = (0.1, 0.2, 0.3, 0.4)  # shares of the questions that only one of two students answers rightly
ALPHA, POWER = 0.05, 0.8
SPREAD = 0.02  # by which a difference may vary from seed to seed, as a standard deviation
# How the labels begin of the stages that an arm needs; those of other arms have their name.
OWN = {
    "ARTE": ("draft", "student preferences", "naturalness", "influence", "align", "tailor, ARTE", "train: ARTE"),
    "on-policy": ("on-policy",),
    "no signal": ("ask the teacher", "train: no signal"),
    "assisted": ("ask the teacher", "the student's samples", "the assistant", "train: assisted"),
}


@dataclass(frozen=True)
class Line:
    """One arm of the table: how many seeds have it, its accuracy as checkpoint and as file, the file's differences to those of two other
    arms, and its costs in examples, minutes and the teacher's tokens. None where that was not measured, or is the arm itself."""

    arm: str
    seeds: int
    checkpoint: Mean
    file: Mean | None
    over_seeds: Difference | None
    over_untaught: Difference | None
    examples: float
    minutes: float
    teacher_tokens: float


def smallest(questions: int, discordant: float) -> float:
    """The smallest true difference that McNemar's exact test finds in `POWER` of the cases at the level `ALPHA`, where a share `discordant`
    of so many questions is answered rightly by one student alone. NaN where none that is possible is found so often."""
    import numpy as np
    from scipy.stats import binom

    counts = np.arange(questions + 1)
    edges = rejected(counts)  # of d questions that tell the students apart, the first has at most so many, or all but so many

    def power(gap: float) -> float:
        share = (discordant + gap) / (2 * discordant)
        found = np.where(edges >= 0, binom.cdf(edges, counts, share) + binom.sf(counts - edges - 1, counts, share), 0)
        return float((binom.pmf(counts, questions, discordant) * found).sum())

    low, high = 0.0, discordant
    if power(high) < POWER:
        return float("nan")
    while high - low > 1e-4:
        middle = (low + high) / 2
        low, high = (low, middle) if power(middle) >= POWER else (middle, high)
    return high


def rejected(trials: NDArray[np.int64]) -> NDArray[np.int64]:
    """The largest count that a two-sided binomial test of so many trials rejects at `ALPHA`; -1 where it rejects none."""
    import numpy as np
    from scipy.stats import binom

    edges = np.asarray(binom.ppf(ALPHA / 2, trials, 0.5), dtype=np.int64)
    return edges - (2 * binom.cdf(edges, trials, 0.5) > ALPHA)


def power_table(questions: int, seeds: int) -> list[str]:
    """What can be shown, in words and points."""
    lines = [
        f"{questions} questions, {seeds} seeds: the smallest difference, in points, that is found in {POWER:.0%} of the cases "
        f"(McNemar's exact test, two-sided, at {ALPHA:.0%})",
        "",
        "| answered rightly by one of two students alone | one seed | all seeds, if their answers are independent "
        f"| the same, if the difference varies by {100 * SPREAD:.0f} points from seed to seed |",
        "|---|---|---|---|",
    ]
    for share in DISCORDANT:
        one, all_seeds = smallest(questions, share), smallest(questions * seeds, share)
        # 2.8 standard errors are found in 80 % of the cases at the level of 5 %.
        varied = (all_seeds**2 + (2.8 * SPREAD) ** 2 / seeds) ** 0.5
        lines.append(f"| {share:.0%} of the questions | {100 * one:.1f} | {100 * all_seeds:.1f} | {100 * varied:.1f} |")
    return [*lines, "", "Seeds answer the same questions, so the truth lies between the columns."]


def build(recipe: Path, overrides: Sequence[str], runs: Path, name: str) -> dict[str, Any]:
    """The result of a build, which is run, or read where it is finished."""
    command = [sys.executable, "-m", "edgearte.cli", "build", str(recipe), *overrides, f"name={name}", "--runs", str(runs)]
    code = subprocess.run(command, stdout=sys.stderr, check=False).returncode
    if code not in (0, 1):  # 1: no file of this student may be embedded, which the table shows
        raise UserError(f"{name}: the build ended with {code}")
    try:
        found: dict[str, Any] = json.loads((runs / name / "result.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{runs / name}/result.json: cannot be read: {error}") from None
    return found


def lines(results: Sequence[Mapping[str, Any]], preset: str) -> list[Line]:
    """The table of these builds, one a seed."""
    told = {arm: [_of(result, arm) for result in results] for arm in (*ARMS, DELIVERED)}
    return [_line(arm, preset, results, told) for arm, names in told.items() if any(names)]


def _of(result: Mapping[str, Any], arm: str) -> str:
    """What an arm of the table is called in a build, "" where that has none."""
    name = result["arm"]["name"] if arm == DELIVERED else arm
    return name if name in result["hits"] else ""


def _line(arm: str, preset: str, results: Sequence[Mapping[str, Any]], told: Mapping[str, Sequence[str]]) -> Line:
    def table(other: str, where: str) -> dict[int, list[bool]]:
        """By seed, which questions were answered rightly."""
        hits = {k: results[k]["hits"].get(name, {}).get(where) for k, name in enumerate(told[other]) if name}
        return {k: [c == "1" for c in found] for k, found in hits.items() if found}

    def against(other: str) -> Difference | None:
        ours, theirs = table(arm, preset), table(other, preset)
        both = [k for k in ours if k in theirs] if other != arm else []
        return difference([ours[k] for k in both], [theirs[k] for k in both]) if both else None

    file = table(arm, preset)
    named = [(result, name) for result, name in zip(results, told[arm], strict=True) if name]
    costs = [cost(result, name) for result, name in named]
    return Line(
        arm, len(named), mean(list(table(arm, CHECKPOINT).values())), mean(list(file.values())) if file else None,
        against(SEEDS), against(UNTAUGHT),
        fmean(result["training"].get(name, {}).get("examples", 0) for result, name in named),
        fmean(seconds for seconds, _ in costs) / 60, fmean(tokens for _, tokens in costs),
    )  # fmt: skip


def cost(result: Mapping[str, Any], arm: str) -> tuple[float, int]:
    """Seconds of computing and the teacher's tokens that an arm takes, its evaluation apart."""
    begin = OWN.get(arm, (f"tailor, {arm}", f"train: {arm}"))
    own = [stage for stage in result["stages"] if stage["label"].startswith(begin)]
    return sum(stage["seconds"] for stage in own), sum(stage["teacher_tokens"] for stage in own)


def markdown(table: Sequence[Line], preset: str) -> list[str]:
    """The table as docs/results.md holds it."""
    return [
        f"| arm | seeds | checkpoint, % | {preset}, % | file against seeds alone | p | file against untaught | p "
        "| examples | minutes | teacher tokens |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
        *(
            f"| {x.arm} | {x.seeds} | {_mean(x.checkpoint)} | {_mean(x.file)} | {_less(x.over_seeds)} | {_less(x.over_untaught)} "
            f"| {x.examples:.0f} | {x.minutes:.1f} | {_thousands(x.teacher_tokens)} |"
            for x in table
        ),
    ]


def _mean(found: Mean | None) -> str:
    return f"{100 * found.value:.1f} ({100 * found.low:.1f} – {100 * found.high:.1f})" if found else "–"


def _less(found: Difference | None) -> str:
    if found is None:
        return "– | –"
    said, low, high = (f"{100 * x:+.1f}".replace("-", "−") for x in (found.value, found.low, found.high))
    return f"{said} ({low} to {high}) | {'< 0.001' if found.p_value < 0.001 else f'{found.p_value:.3f}'}"


def _thousands(count: float) -> str:
    return f"{round(count):,}".replace(",", " ")


def story(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """What each build delivers and says of itself."""
    told = []
    for result in results:
        files = {a["artifact"]["preset"]: a["artifact"] for a in result["artifacts"]}
        sizes = ", ".join(f"{name} {a['bytes'] / 1e6:.1f} MB at {a['bits_per_weight']:.2f} bits" for name, a in files.items())
        chosen = (result.get("decision") or {}).get("preset") or "no file"
        told.append(f"- {result['name']}: {result['arm']['reason']}; as {chosen} ({sizes}).")
        judged = (result.get("alignment") or {}).get("judged")
        told += [f"  - the alignment: {judged['sentence']}."] if judged else []
        told += [f"  - {note}" for note in result["notes"]]
    return told


def main() -> int:
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("recipe", type=Path)
    args.add_argument("overrides", nargs="*", metavar="key=value")
    args.add_argument("--seeds", type=int, default=3)
    args.add_argument("--runs", type=Path, default=Path("runs"))
    args.add_argument("--preset", default="gptq-iq4_nl", help="the file that is compared, of all arms (default: %(default)s)")
    given = args.parse_args()
    try:
        recipe = load_recipe(given.recipe, given.overrides)
        if given.preset not in recipe.export.presets:
            raise UserError(f"--preset: {given.preset} is none of export.presets: {', '.join(recipe.export.presets)}")
        task = load_task(recipe)
        questions = min(recipe.measure.questions or len(task.evaluation), len(task.evaluation))
        print("\n".join(power_table(questions, given.seeds)), flush=True)
        own = [*given.overrides, f"measure.others=[{given.preset}]"]
        results = [
            build(given.recipe, [*own, f"seed={k}"], given.runs, f"{recipe.name}-seed{k}") for k in range(given.seeds)
        ]
    except UserError as error:
        print(*error.problems, sep="\n", file=sys.stderr)
        return 2
    print("", *markdown(lines(results, given.preset), given.preset), "", *story(results), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
