"""The tables at the end of a build."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from edgearte.report import result as r
from edgearte.report.frontier import beaten, said
from edgearte.report.summary import print_summary
from tests.unit.test_report_result import accuracy, artifact, measured, sample


def cells(text: str, start: str) -> list[list[str]]:
    """The cells of the table rows that begin with a word."""
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in text.splitlines() if line.startswith("│")]
    return [row for row in rows if row[0] == start]


def test_the_tables_hold_the_figures_of_the_result(capsys: pytest.CaptureFixture[str]) -> None:
    print_summary(sample())
    text = capsys.readouterr().out
    assert ["ARTE", "q8_0, 0-shot", "84 of 120", "70.0 %", "61.3 – 77.5 %", "0"] in cells(text, "ARTE")
    quality, speed = cells(text, "q8_0")
    assert quality[1:7] == ["145 MB", "8.51", "0.0035", "96.7 %", "70.0 %", "61.3 – 77.5 %"]
    assert quality[7:] == ["✓", "all 4"]
    assert speed[1:] == ["190 ms", "168 ms", "395", "78.0", "12.8 / 13.8 / 20.5", "262 MB", "565 ms"]
    assert len(cells(text, "onnx-int4")) == 1  # failed, so not measured
    assert "✗ onnx-int4: logits: KL 0.301 nats is over the preset's 0.25" in text
    assert "ARTE against seeds alone: +25.0 points, p < 0.001" in text
    assert text.splitlines()[-1] == "The bundle is in runs/smart-home/bundle"


def test_on_the_frontier_is_what_nothing_beats_in_everything() -> None:
    def item(preset: str, megabytes: float, decode: float, kl: float, right: int) -> r.ArtifactResult:
        made = artifact(preset, megabytes, {"Q8_0": 100}, kl, 0.9)
        return r.ArtifactResult(made, measured(preset, megabytes, 1, 0.1, 100, decode, 300), accuracy(right, 0))

    small, large = item("small", 80, 90, 0.05, 70), item("large", 100, 60, 0.01, 75)
    worse = item("worse", 100, 60, 0.05, 70)
    failed = r.ArtifactResult(artifact("failed", 10, {"Q8_0": 100}, 9.0, 0.1, failed="gate logits"), None, None)
    found = beaten([small, large, worse, failed])
    assert found == {"small": "", "large": "", "worse": "small"}
    assert [said(n, found) for n in ("small", "worse", "failed")] == ["✓", "beaten by small", "–"]


def test_what_models_write_is_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    row = sample().accuracy[0]
    hostile = "[bold red]x[/] :smile: \x1b[31m"
    print_summary(replace(sample(), notes=(hostile,), accuracy=(replace(row, model=hostile),)))
    text = capsys.readouterr().out
    assert "[bold red]x[/] :smile: ␛[31m" in text and "\x1b" not in text
    assert re.search(r"│ \[bold red\]x", text)


def test_a_bare_result_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    print_summary(r.Result("x", "0.1.0", r.TaskInfo("", "", "", 0, 0)))
    assert capsys.readouterr().out == ""
