"""The report's plots: SVG text to be put into the page, the same bytes each time.

Colours are the page's own (CSS variables), so that a plot turns dark with it, and text stays text: it takes the page's
font and can be searched. Each plot is drawn about as wide as a phone, since a page can show several beside each other
but cannot make a wide one readable on a small screen.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from edgearte.report.result import AlignmentStep
from edgearte.report.words import visible

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from edgearte.assist.calibration import Bin

_LONGEST = 28  # characters of a label
WIDTH, HEIGHT = 320, 235  # points, which are the units of the picture
# Colours nobody would use, each standing for a variable of the page.
INK, MUTED, LINE, SURFACE = "#010203", "#010204", "#010205", "#010206"
SERIES = tuple(f"#0102{n:02x}" for n in range(16, 22))
VARIABLES = {INK: "ink", MUTED: "muted", LINE: "line", SURFACE: "surface"} | {c: f"c{i}" for i, c in enumerate(SERIES)}


@dataclass(frozen=True)
class Point:
    """One artifact in a trade-off plot; `low` and `high` bound the accuracy `y`."""

    label: str
    x: float
    y: float
    low: float
    high: float
    series: int  # colour and shape
    chosen: bool = False


def trade_off(name: str, points: Sequence[Point], xlabel: str, levels: Mapping[str, float]) -> str:
    """Accuracy against a cost. `levels` are horizontal lines, such as the checkpoint's accuracy, by label; the picture
    shows the heights of the points, and a level far from them is not in it."""

    def draw(figure: Figure) -> None:
        ax = _axes(figure, xlabel, "accuracy, %")
        low, high = min(p.low for p in points), max(p.high for p in points)
        room = 0.1 * (high - low) + 0.01
        bottom, top = max(low - room, -0.02), min(high + room, 1.04)
        ax.set_ylim(100 * bottom, 100 * top)
        ax.set_xlim(0, 1.12 * max(p.x for p in points))
        for label, level in levels.items():
            if bottom < level < top:
                ax.axhline(100 * level, color=MUTED, lw=1, ls=(0, (3, 3)))
                ax.annotate(_name(label), (0, 100 * level), (3, 4), xycoords=("axes fraction", "data"), color=MUTED,
                            textcoords="offset points", fontsize=9.5)  # fmt: skip
        for p in points:
            color = SERIES[p.series % len(SERIES)]
            ax.plot([p.x, p.x], [100 * p.low, 100 * p.high], color=color, lw=1.2, alpha=0.55)
            ax.plot([p.x], [100 * p.y], marker="os^D"[p.series % 4], ms=8, color=color, mec=SURFACE, mew=1)
            if p.chosen:
                ax.plot([p.x], [100 * p.y], marker="o", ms=15, mfc="none", mec=INK, mew=1.2)
        _label(ax, points)

    return _svg(name, draw)


@dataclass(frozen=True)
class Dot:
    """One arm: its accuracy `x` with the interval from `low` to `high`."""

    label: str
    x: float
    low: float
    high: float
    highlighted: bool = False


def dots(name: str, arms: Sequence[Dot], xlabel: str) -> str:
    """Arms one below the other, each a dot in its interval."""

    def draw(figure: Figure) -> None:
        ax = _axes(figure, xlabel, "")
        ax.grid(axis="y", visible=False)
        ax.grid(axis="x", color=LINE, lw=0.7)
        for i, d in enumerate(reversed(arms)):
            color = SERIES[0] if d.highlighted else MUTED
            ax.plot([100 * d.low, 100 * d.high], [i, i], color=color, lw=1.6)
            ax.plot([100 * d.x], [i], marker="o", ms=7, color=color, mec=SURFACE, mew=1)
        ax.set_yticks(range(len(arms)), [_name(d.label) for d in reversed(arms)])
        ax.set_ylim(-0.6, len(arms) - 0.4)

    return _svg(name, draw, height=70 + 21 * len(arms))


def by_budget(name: str, series: Mapping[str, Sequence[tuple[float, Dot]]], xlabel: str, ylabel: str) -> str:
    """Accuracy against a budget, a line a method with the interval of each of its dots; methods stand a little beside each other."""

    def draw(figure: Figure) -> None:
        ax = _axes(figure, xlabel, ylabel)
        budgets = sorted({x for line in series.values() for x, _ in line})
        step = min((b - a for a, b in pairwise(budgets)), default=1) / (2.5 * len(series))
        colors = (MUTED, *SERIES)
        for i, (label, line) in enumerate(series.items()):
            highlighted = any(d.highlighted for _, d in line)
            color, marker = colors[i % len(colors)], "osD^vPX"[i % 7]
            xs = [x + step * (i - (len(series) - 1) / 2) for x, _ in line]
            ax.plot(xs, [100 * d.x for _, d in line], color=color, lw=2.2 if highlighted else 1.1, marker=marker, ms=6, mec=SURFACE,
                    label=_name(label))  # fmt: skip
            ax.vlines(xs, [100 * d.low for _, d in line], [100 * d.high for _, d in line], color=color, lw=0.9, alpha=0.55)
        ax.set_xticks(budgets, [f"{b:g}" for b in budgets])
        figure.legend(loc="outside lower left", ncols=1, frameon=False, fontsize=9.5, labelcolor=INK)

    return _svg(name, draw, height=HEIGHT + 17 * len(series))


def curves(name: str, series: Mapping[str, Sequence[tuple[float, float]]], xlabel: str, ylabel: str) -> str:
    """Falling lines, with names and last values where falling lines leave room: at the top right. Points that are not
    finite are left out."""

    def draw(figure: Figure) -> None:
        ax = _axes(figure, xlabel, ylabel)
        top = 0.0
        for i, (label, values) in enumerate(series.items()):
            finite = [(x, y) for x, y in values if math.isfinite(y)]
            color = SERIES[i % len(SERIES)]
            last = f" {finite[-1][1]:.2f}" if finite else ": no finite value"
            ax.annotate(_name(label) + last, (1, 1), (-4, -8 - 14 * i), xycoords="axes fraction", ha="right", va="top",
                        textcoords="offset points", color=color, fontsize=10.5)  # fmt: skip
            if finite:
                ax.plot(*zip(*finite, strict=True), color=color, lw=1.8, marker="o", ms=2.5)
                top = max(top, *(y for _, y in finite))
        ax.set_ylim(0, 1.06 * top or 1)

    return _svg(name, draw)


def dpo(name: str, steps: Sequence[AlignmentStep], looks: Sequence[AlignmentStep] = ()) -> str:
    """Loss, reward margin and share of pairs ranked rightly, one above the other over the same steps; dashed, of the held-out pairs."""

    def draw(figure: Figure) -> None:
        rows: tuple[tuple[str, Callable[[AlignmentStep], float]], ...] = (
            ("loss", lambda s: s.loss),
            ("margin", lambda s: s.margin),
            ("ranked rightly, %", lambda s: 100 * s.accuracy),
        )
        for i, (label, value) in enumerate(rows):
            ax = _axes(figure, "step" if i == 2 else "", "", (3, 1, i + 1))
            ax.set_title(label, loc="left", fontsize=10, color=MUTED, pad=3)
            shown = [(s.step, value(s)) for s in steps if math.isfinite(value(s))]
            if shown:
                ax.plot(*zip(*shown, strict=True), color=SERIES[i], lw=1.8, marker="o", ms=2.5)
            apart = [(s.step, value(s)) for s in looks if math.isfinite(value(s))]
            if apart:
                ax.plot(*zip(*apart, strict=True), color=SERIES[i], lw=1.4, ls=(0, (3, 2)))
            ax.locator_params(axis="y", nbins=3)
            if i < 2:
                ax.tick_params(labelbottom=False)

    return _svg(name, draw, height=290)


def histogram(name: str, values: Sequence[float], xlabel: str, ylabel: str) -> str:
    """How often each score was seen, from 0 to 1; the mean is marked."""

    def draw(figure: Figure) -> None:
        ax = _axes(figure, xlabel, ylabel)
        finite = [v for v in values if math.isfinite(v)]
        ax.hist(finite, bins=[i / 20 - 0.025 for i in range(22)], color=SERIES[0], rwidth=0.86)
        if finite:
            mean = sum(finite) / len(finite)
            ax.axvline(mean, color=INK, lw=1, ls=(0, (3, 3)))
            side = (4, "left") if mean < 0.6 else (-4, "right")
            ax.annotate(f"mean {mean:.2f}", (mean, 1), (side[0], -10), xycoords=("data", "axes fraction"),
                        textcoords="offset points", ha=side[1], color=INK, fontsize=10)  # fmt: skip
        ax.set_xlim(-0.04, 1.04)
        ax.yaxis.get_major_locator().set_params(integer=True)

    return _svg(name, draw, height=200)


def reliability(name: str, bins: Sequence[Bin], xlabel: str, ylabel: str) -> str:
    """The share of right answers against confidence, a dot a bin as large as the bin is full; on the line confidence is earned."""

    def draw(figure: Figure) -> None:
        ax = _axes(figure, xlabel, ylabel)
        ax.plot([0, 1], [0, 1], color=MUTED, lw=1, ls=(0, (3, 3)))
        most = max(b.n for b in bins)
        ax.plot([b.confidence for b in bins], [b.right for b in bins], color=SERIES[0], lw=1.2, alpha=0.55)
        for b in bins:
            ax.plot([b.confidence], [b.right], marker="o", ms=5 + 9 * math.sqrt(b.n / most), color=SERIES[0], mec=SURFACE, mew=1)
        ax.set_xlim(-0.04, 1.04)
        ax.set_ylim(-0.06, 1.06)

    return _svg(name, draw, height=240)


def _axes(figure: Figure, xlabel: str, ylabel: str, place: tuple[int, int, int] = (1, 1, 1)) -> Any:
    ax = figure.add_subplot(*place, facecolor="none")
    for side in ("top", "right", "left"):
        ax.spines[side].set_visible(False)
    ax.spines["bottom"].set_color(LINE)
    ax.grid(axis="y", color=LINE, lw=0.7)
    ax.set_axisbelow(True)
    ax.tick_params(colors=MUTED, length=0, labelsize=10, pad=5)
    ax.set_xlabel(xlabel, color=MUTED, fontsize=10.5, labelpad=5)
    ax.set_ylabel(ylabel, color=MUTED, fontsize=10.5, labelpad=5)
    ax.locator_params(axis="x", nbins=5)
    ax.locator_params(axis="y", nbins=5)
    return ax


Box = tuple[float, float, float, float]  # left, bottom, right, top in the picture's units


def _label(ax: Any, points: Sequence[Point]) -> None:
    """Put each point's name beside it, where it covers neither a point nor another name, as far as there is room."""
    ax.figure.draw_without_rendering()
    frame = ax.get_window_extent()
    page: Box = (frame.x0, frame.y0, frame.x1 + 12, math.inf)
    at = [ax.transData.transform((p.x, 100 * p.y)) for p in points]
    taken: list[Box] = [(x - 8, y - 8, x + 8, y + 8) for x, y in at]
    for p, (x, _) in zip(points, at, strict=True):  # a name may cross an interval, but not lie along it
        low, high = (float(ax.transData.transform((p.x, 100 * v))[1]) for v in (p.low, p.high))
        taken.append((x - 1, low, x + 1, high))
    for line in ax.texts:  # the names of the levels
        extent = line.get_window_extent()
        taken.append((extent.x0, extent.y0 - 5, extent.x1, extent.y1))
    for p, (x, y) in sorted(zip(points, at, strict=True), key=lambda item: -item[1][1]):
        name = _name(p.label)
        width, height = 6.0 * len(name), 12
        offsets = [(11.0, -6.0), (-11 - width, -6.0)]
        offsets += [(dx, dy) for dy in (9.0, -21.0, 22.0, -34.0) for dx in (-width / 2, 6.0, -6 - width)]
        boxes = [(x + dx, y + dy, x + dx + width, y + dy + height) for dx, dy in offsets]
        best = min(boxes, key=lambda box: sum(_overlap(box, other) for other in taken) + 5 * _outside(box, page))
        taken.append(best)
        ax.annotate(name, (p.x, 100 * p.y), (best[0] - x, best[1] - y + 2), textcoords="offset points", fontsize=10,
                    color=INK, fontweight="bold" if p.chosen else "normal")  # fmt: skip


def _overlap(a: Box, b: Box) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def _outside(box: Box, page: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1]) - _overlap(box, page)


def _name(label: str) -> str:
    """A label that fits into the picture."""
    text = " ".join(visible(label).split())
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def _svg(name: str, draw: Callable[[Figure], None], height: int = HEIGHT) -> str:
    """Draw into a figure and give it as SVG for the page: no header, colours by variable, identifiers of its own."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    style = {"svg.hashsalt": name, "svg.fonttype": "none", "font.size": 10.0, "text.parse_math": False}
    with matplotlib.rc_context({**matplotlib.rcParamsDefault, "backend": "agg", **style}):
        figure = Figure(figsize=(WIDTH / 72, height / 72), dpi=72, layout="constrained", facecolor="none")
        FigureCanvasSVG(figure)
        draw(figure)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"\s*<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = re.sub(r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', r'<svg \1 aria-hidden="true">', svg, count=1, flags=re.S)
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", svg.replace("xlink:href", "href"))
    svg = re.sub(r"font: (?:(\w+) )?([\d.]+)px [^;\"]*", _font, svg)
    return visible(re.sub("|".join(VARIABLES), lambda m: f"var(--{VARIABLES[m[0]]})", svg))


def _font(match: re.Match[str]) -> str:
    weight, pixels = match.groups()
    return f"font-size: {pixels}px" + (f"; font-weight: {weight}" if weight else "")
