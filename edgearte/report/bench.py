"""Measurements as a file to keep: JSON to compare with, Markdown for a page or a pull request, HTML to look at."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from edgearte.errors import UserError
from edgearte.files import write_text
from edgearte.measure import bench, compare
from edgearte.measure.compare import Verdict
from edgearte.records import Measurement

FORMS = (".json", ".md", ".html")
Table = tuple[str, Sequence[str], Sequence[Sequence[str]], str]  # title, headings, rows of cells, and what the figures depend on


def check(out: Path) -> None:
    """`UserError` where a file of this name could not be written, before anything is measured."""
    if out.suffix not in FORMS:
        raise UserError(f"{out}: name a file that ends in {', '.join(FORMS)}")
    if not out.parent.is_dir():
        raise UserError(f"{out}: there is no folder {out.parent}")
    if out.suffix == ".html":
        from edgearte.report.html import environment

        environment()


def records(measurements: Sequence[Measurement], verdicts: Sequence[Verdict]) -> str:
    """One JSON record a line, measurements first."""
    return "".join(json.dumps(record) + "\n" for record in [*map(asdict, measurements), *map(asdict, verdicts)])


def write(out: Path, measurements: Sequence[Measurement], verdicts: Sequence[Verdict]) -> None:
    """Write what was measured, and its verdicts if there are any, in the form that the name's end says."""
    if out.suffix == ".json":
        write_text(out, records(measurements, verdicts))
        return
    tables: list[Table] = [
        (f"On {some[0].device}", bench.headings(some), [bench.cells(m) for m in some], bench.caption(some))
        for some in bench.by_device(measurements)
    ]
    if verdicts:
        tables.append(("Against earlier figures", compare.HEADINGS, [compare.cells(v) for v in verdicts], ""))
    write_text(out, _markdown(tables) if out.suffix == ".md" else _html(tables, measurements[0].suite))


def _markdown(tables: Sequence[Table]) -> str:
    parts = []
    for title, headings, rows, said in tables:
        lines = [headings, ["---", *["--:"] * (len(headings) - 1)], *rows]
        body = "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)
        parts.append(f"**{title}**\n\n{body}" + (f"\n{said}\n" if said else ""))
    return "\n".join(parts)


def _html(tables: Sequence[Table], suite: str) -> str:
    from edgearte.report.html import environment

    return environment().get_template("bench.html.j2").render(tables=tables, suite=suite)
