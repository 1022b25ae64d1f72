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
Table = tuple[Sequence[str], Sequence[Sequence[str]]]  # headings, and rows of cells


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
    tables: list[Table] = [(bench.HEADINGS, [bench.cells(m) for m in measurements])]
    if verdicts:
        tables.append((compare.HEADINGS, [compare.cells(v) for v in verdicts]))
    said = bench.caption(measurements[0])
    write_text(out, _markdown(tables, said) if out.suffix == ".md" else _html(tables, said, measurements[0].suite))


def _markdown(tables: Sequence[Table], said: str) -> str:
    parts = []
    for headings, rows in tables:
        lines = [headings, ["---", *["--:"] * (len(headings) - 1)], *rows]
        parts.append("".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines))
    return "\n".join([*parts, said + "\n"])


def _html(tables: Sequence[Table], said: str, suite: str) -> str:
    from edgearte.report.html import environment

    return environment().get_template("bench.html.j2").render(tables=tables, said=said, suite=suite)
