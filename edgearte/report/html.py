"""The report as one HTML file: everything inside it, nothing fetched, no script; it reads on a phone and on paper.

Drafts, rationales and answers are text that models wrote, so all of it is escaped, and a content security policy in the
file forbids scripts and requests even if something slipped through.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgearte.errors import UserError
from edgearte.files import write_text
from edgearte.records import Artifact
from edgearte.report import frontier, plots, words
from edgearte.report.result import ArtifactResult, Result

if TYPE_CHECKING:
    from jinja2 import Environment


@dataclass(frozen=True)
class Tile:
    """One figure at the top of the report."""

    label: str
    value: str
    below: str


@dataclass(frozen=True)
class Plot:
    """One plot with what it shows, in words for those who cannot see it."""

    svg: str
    caption: str


@dataclass(frozen=True)
class StoredType:
    """How many weights of an artifact are stored in one type; `share` of all, `bits` each in truth."""

    name: str
    weights: int
    share: float
    bits: float | None


def write_report(result: Result, path: Path) -> None:
    """Write the report of a build, over one that may stand there; the same result gives the same bytes. `UserError`
    where it cannot be written."""
    write_text(path, render(result))


def environment() -> Environment:
    """Where templates are read and filled in: everything escaped. `UserError` where the packages it needs are not installed."""
    try:
        import matplotlib  # noqa: F401  (the plots need it later; say so now)
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
        from markupsafe import Markup
    except ModuleNotFoundError as error:
        raise UserError(f"the report needs {error.name}; install it with: pip install 'edgearte[report]'") from error

    def visible(value: Any) -> Any:
        return words.visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    made = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=visible,
    )
    made.filters |= {
        name: getattr(words, name)
        for name in ("number", "significant", "percent", "points", "interval", "p_value", "size", "count", "duration",
                     "extremes", "evidence", "doubts", "first_line", "kl", "top1", "answer_seconds", "flat",
                     "endpoint", "turns", "budgets", "figure", "error", "pairs", "held_out", "moved")
    }  # fmt: skip
    made.filters["svg"] = Markup
    made.filters["fallen"] = lambda tailored: [(f"the set of {arm}", t.fell) for arm, t in tailored.items()]
    made.filters["types"] = stored_types
    made.filters["yaml"] = _yaml
    return made


def render(result: Result) -> str:
    """The report's HTML. `UserError` where the packages it is made with are not installed."""
    found = frontier.beaten(result.artifacts)
    return environment().get_template("report.html.j2").render(
        r=result,
        chosen=words.chosen(result),
        frontier={preset: frontier.said(preset, found) for preset in [a.artifact.preset for a in result.artifacts]},
        tiles=_tiles(result),
        costs=_cost_plots(result),
        training=_training_plots(result),
        preferences=_preference_plot(result),
        alignment=_alignment_plot(result),
        assistance=_assistance_plots(result),
        slowest=max((s.seconds for s in result.stages), default=0) or 1,
    )


def _yaml(value: Any) -> str:
    import yaml

    plain = json.loads(json.dumps(value, default=str))  # paths and the like as text
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=100)


def stored_types(artifact: Artifact) -> list[StoredType]:
    """The storage types of an artifact, most weights first."""
    total = sum(artifact.types.values())
    found = []
    for name, weights in sorted(artifact.types.items(), key=lambda item: (-item[1], item[0])):
        elements = sum(t.elements for t in artifact.tensors if t.type == name)
        bits = 8 * sum(t.bytes for t in artifact.tensors if t.type == name) / elements if elements else None
        found.append(StoredType(name, weights, weights / total if total else 0.0, bits))
    return found


def _tiles(result: Result) -> list[Tile]:
    """The chosen artifact in figures, or the best checkpoint where nothing was exported."""
    tiles = []
    item = words.chosen(result)
    rows = [row for row in result.accuracy if row.where == "checkpoint"]
    own = item.accuracy if item else None
    best = max((row.accuracy for row in rows), key=lambda a: a.accuracy, default=None)
    if accuracy := own or best:
        untaught = next((row.accuracy for row in rows if row.model not in result.training), None)
        below = f"95 %: {words.interval(accuracy)}"
        if untaught and result.training:
            below += f"; untaught {words.percent(untaught.accuracy)}"
        tiles.append(Tile("answers right", words.percent(accuracy.accuracy), below))
    if item:
        a = item.artifact
        tiles.append(Tile("size", words.size(a.bytes), f"{words.number(a.bits_per_weight)} bits per weight"))
        if m := item.measurement:
            below = f"after {m.prompt_tokens} prompt tokens"
            tiles.append(Tile("first token", words.duration(m.first_token_s.median), below))
            below = f"tokens a second, {m.threads} threads"
            tiles.append(Tile("decoding", words.significant(m.decode_tps.median), below))
            tiles.append(Tile("peak memory", words.size(m.peak_memory_bytes), "while answering"))
    return tiles


def _cost_plots(result: Result) -> list[Plot]:
    """Accuracy of the artifacts against latency, size and memory."""
    shown = [a for a in result.artifacts if a.accuracy and not a.artifact.failed]
    if not shown:
        return []
    levels = _levels(result)
    formats = list(dict.fromkeys(a.artifact.format for a in result.artifacts))
    chosen = words.chosen(result)
    made = []
    for name, caption, unit, costs in (
        ("latency", "Accuracy against time", "milliseconds to a whole answer", [_ms(a) for a in shown]),
        ("size", "Accuracy against size", "MB on disk", [a.artifact.bytes / 1e6 for a in shown]),
        ("memory", "Accuracy against memory", "MB at the peak", [_peak(a) for a in shown]),
    ):
        points = [
            plots.Point(
                a.artifact.preset, cost, a.accuracy.accuracy, a.accuracy.low, a.accuracy.high,
                formats.index(a.artifact.format), a == chosen,
            )
            for a, cost in zip(shown, costs, strict=True)
            if a.accuracy and cost is not None and math.isfinite(cost)
        ]  # fmt: skip
        if points:
            made.append(Plot(plots.trade_off(name, points, unit, levels), f"{caption}. Up and to the left is better."))
    return made


def _levels(result: Result) -> dict[str, float]:
    """Accuracies to compare the artifacts with: their own checkpoint, and the untaught model asked the same way."""
    deployed = words.deployed(result)
    shots = next((row.shots for row in result.accuracy if row.where != "checkpoint"), 0)
    rows = [row for row in result.accuracy if row.where == "checkpoint" and row.shots == shots]
    levels = {f"{row.model}, checkpoint": row.accuracy.accuracy for row in rows if row.model == deployed}
    if result.training:
        levels |= {row.model: row.accuracy.accuracy for row in rows if row.model not in result.training}
    return levels


def _ms(item: ArtifactResult) -> float | None:
    seconds = words.answer_seconds(item)
    return None if seconds is None else 1000 * seconds


def _peak(item: ArtifactResult) -> float | None:
    return item.measurement.peak_memory_bytes / 1e6 if item.measurement else None


def _training_plots(result: Result) -> list[Plot]:
    series = {arm: [(float(p.step), p.loss) for p in t.curve] for arm, t in result.training.items() if t.curve}
    if not series:
        return []
    caption = "Training loss of each student. Lower fits its own set better, which is not yet a better student."
    return [Plot(plots.curves("training", series, "step", "loss"), caption)]


def _preference_plot(result: Result) -> list[Plot]:
    p = result.preferences
    if p is None or not p.scores or not p.scorer.startswith(("icl", "probability")):
        return []  # other scores are not shares
    xlabel = "probability of the right answer afterwards" if p.scorer == "probability" else "share of right answers afterwards"
    caption = "The student on the preference questions after each rationale. No spread would mean no preference."
    return [Plot(plots.histogram("preferences", p.scores, xlabel, "rationales"), caption)]


def _alignment_plot(result: Result) -> list[Plot]:
    found = result.alignment
    if not found or not found.curve:
        return []
    caption = "DPO of the teacher: its loss, the reward margin of chosen over rejected, and how often chosen is ahead"
    caption += "; dashed, of the pairs it does not learn from." if found.looks else "."
    return [Plot(plots.dpo("alignment", found.curve, found.looks), caption)]


def _assistance_plots(result: Result) -> list[Plot]:
    found = result.assistance
    of = {"teacher": found.on_teacher, "student": found.on_student} if found else {}
    return [
        Plot(
            plots.reliability(f"on-{who}", c.bins, f"the assistant's confidence in the {who}'s answer", "share right"),
            f"How far the assistant's trust in the {who}'s answers is earned: on the dashed line it is right as often as it says.",
        )
        for who, c in of.items()
        if c
    ]
