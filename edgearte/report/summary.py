"""The end of a build in the terminal: what the teaching brought, what each artifact is, and where the bundle lies."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgearte.report import frontier, words
from edgearte.report.result import ArtifactResult, Closing, Result

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_PIPED_WIDTH = 130  # columns where nobody's terminal sets the width: a log should not be wrapped at 80


def print_summary(result: Result) -> None:
    """Print the tables of a build to standard output."""
    from rich.text import Text

    console = plain_console(_PIPED_WIDTH)
    for note in result.notes:
        console.print(Text(f"! {words.visible(note)}", style="yellow"))
    if result.endpoint:
        console.print(words.visible(words.endpoint(result.endpoint)))
    if (found := result.alignment) and (found.looks or not found.skipped):
        said = [words.pairs(found), *([words.held_out(found)] if found.looks else [])]
        said += [f"Judged: {found.judged.sentence}."] if found.judged else []
        said += [words.moved(found.moved)] if found.moved else []
        console.print(words.visible(f"Alignment: {' '.join(said)}"))
    if result.accuracy:
        console.print(_accuracy(result))
    for c in result.comparisons:
        console.print(
            words.visible(
                f"{c.a} against {c.b}: {words.points(c.difference)} points, p {words.p_value(c.p_value)} "
                f"(both right {c.both}, only the first {c.only_a}, only the second {c.only_b}, neither {c.neither})"
            )
        )
    if result.arm:
        console.print(words.visible(f"Delivered: the student of {result.arm.name}; {result.arm.reason}"))
    if result.artifacts:
        console.print(_artifacts(result))
        if any(a.measurement for a in result.artifacts):
            console.print(_speed(result))
        for item in result.artifacts:
            if item.artifact.failed:
                console.print(
                    Text(
                        words.visible(f"✗ {item.artifact.preset}: {words.first_line(item.artifact.failed)}"),
                        style="red",
                    )
                )
    if result.closing:
        _print_loop(console, result.closing)
    if result.decision and result.decision.preset:
        console.print(words.visible(f"Embed {result.decision.preset}: {result.decision.reason}"))
    elif result.decision:
        console.print(words.visible(f"Nothing to embed: {result.decision.reason}"))
    if result.bundle:
        console.print(Text(words.visible(f"The bundle is in {result.bundle}"), style="bold"))


def _print_loop(console: Console, closing: Closing) -> None:
    """The turns of a closed loop, a line each and a line for every device."""
    for name, turn, done in words.turns(closing):
        console.print(words.visible(f"{name}: {done}"))
        for on in turn.devices:
            met = f"{on.preset} meets the budget" if on.preset else f"not met: {on.reason}"
            console.print(words.visible(f"  {on.device}: {met}" + (f"; {on.brought}" if on.brought else "")))
    if not closing.met:
        console.print(words.visible(f"The loop ended: {closing.ended}"))


def plain_console(piped_width: int) -> Console:
    """Standard output for text as it is, `piped_width` columns wide where no terminal says how wide it is."""
    from rich.console import Console

    console = Console(highlight=False, markup=False, emoji=False)
    return console if console.is_terminal else Console(highlight=False, markup=False, emoji=False, width=piped_width)


def _table(title: str, *columns: str) -> Table:
    """A table whose first column is text and whose others are figures."""
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold", header_style="dim")
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 else "right", overflow="fold")
    return table


def _row(table: Table, *cells: str, style: str = "") -> None:
    from rich.text import Text

    table.add_row(*(Text(words.visible(cell)) for cell in cells), style=style)


def _accuracy(result: Result) -> Table:
    table = _table(
        "Accuracy on held-out questions", "model", "asked as", "right", "accuracy", "95 %", "no answer found"
    )
    for row in result.accuracy:
        a = row.accuracy
        cells = (f"{a.correct} of {a.n}", words.percent(a.accuracy), words.interval(a), str(a.unextracted))
        _row(table, row.model, f"{row.where}, {row.shots}-shot", *cells, style=_style(result, row.where))
    return table


def _artifacts(result: Result) -> Table:
    table = _table("Artifacts", "artifact", "size", "bits/weight", "KL, nats", "top-1", "accuracy", "95 %", "frontier", "gates")
    found = frontier.beaten(result.artifacts)
    for item in result.artifacts:
        a, accuracy = item.artifact, item.accuracy
        gates = " ".join("✗" + gate.name for gate in a.gates if not gate.passed) or (f"all {len(a.gates)}" if a.gates else words.DASH)
        right = (words.percent(accuracy.accuracy), words.interval(accuracy)) if accuracy else (words.DASH, words.DASH)
        bits = words.number(a.bits_per_weight) if a.bytes else words.DASH
        figures = (words.size(a.bytes or None), bits, words.number(words.kl(a), 4))
        top1 = words.percent(words.top1(a))
        _row(table, a.preset, *figures, top1, *right, frontier.said(a.preset, found), gates, style=_style(result, a.preset))
    return table


def _speed(result: Result) -> Table:
    columns = (
        "load",
        "first token",
        "prefill tok/s",
        "decode tok/s",
        "p50 / p90 / p99 ms",
        "peak memory",
        "whole answer",
    )
    table = _table("Measured on this machine", "artifact", *columns)
    for item in result.artifacts:
        if item.measurement:
            _row(table, *_measured(item), style=_style(result, item.artifact.preset))
    return table


def _measured(item: ArtifactResult) -> list[str]:
    m = item.measurement
    assert m is not None
    between = (m.inter_token_p50_s, m.inter_token_p90_s, m.inter_token_p99_s)
    return [
        item.artifact.preset,
        words.duration(m.load_s.median),
        words.duration(m.first_token_s.median),
        words.significant(m.prefill_tps.median),
        words.significant(m.decode_tps.median),
        " / ".join(words.significant(1000 * s) for s in between),
        words.size(m.peak_memory_bytes),
        words.duration(words.answer_seconds(item)),
    ]


def _style(result: Result, preset: str) -> str:
    return "bold" if result.decision and preset == result.decision.preset else ""
