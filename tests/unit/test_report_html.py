"""The report: one file that shows everything, fetches nothing, and runs nothing that a model wrote."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from edgearte.errors import UserError
from edgearte.report import plots
from edgearte.report import result as r
from edgearte.report.html import render, stored_types, write_report
from tests.unit.test_report_result import sample

HOSTILE = (
    "<script>alert(1)</script>{{ 7 * 7 }}{% x %}\"'><img src=http://evil.example/x onerror=alert(2)>$\\frac{&\x00\u202e"
)


class Page(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        self.text += data


def assert_harmless(html: str) -> Page:
    page = Page(html)
    assert page.open == []  # every element is closed, so nothing in the text broke out of its place
    forbidden = {
        "script",
        "img",
        "link",
        "iframe",
        "object",
        "embed",
        "base",
        "form",
        "image",
        "audio",
        "video",
        "foreignobject",
    }
    assert not forbidden & set(page.tags)
    for name, value in page.attributes:
        assert not name.startswith("on") and name not in ("src", "srcset", "action", "data", "background", "poster")
        if "href" in name:
            assert value.startswith("#")
        if name == "style":
            assert "url(" not in re.sub(r"url\(#[\w-]+\)", "", value) and "expression" not in value
    style = re.search("<style>(.*?)</style>", html, re.S)
    assert style is not None and "url(" not in style[1] and "@import" not in style[1]
    return page


def poisoned(value: Any) -> Any:
    """The same JSON with every string and every free key replaced by something nasty."""
    if isinstance(value, str):
        return HOSTILE + value
    if isinstance(value, list):
        return [poisoned(v) for v in value]
    if isinstance(value, dict):
        return {k: poisoned(v) for k, v in value.items()}
    return value


def test_what_models_write_is_shown_and_not_run() -> None:
    page = assert_harmless(
        render(r.from_json(json.dumps(poisoned(json.loads(r.to_json(sample()))) | {"schema": r.SCHEMA})))
    )
    assert "<script>alert(1)</script>{{ 7 * 7 }}{% x %}" in page.text  # as text, uninterpreted
    assert "49" not in re.findall(r"alert\(1\)</script>(\d+)", page.text)
    assert "\x00" not in page.text and "\u2400" in page.text


def test_hostile_labels_of_models_and_artifacts() -> None:
    clean = sample()
    arms = {f"{HOSTILE} {i}": t for i, t in enumerate(clean.training.values())}
    outputs = {f"{HOSTILE}{k}": v for k, v in clean.answers[0].outputs.items()}
    result = replace(
        clean, training=arms, tailored={}, answers=(replace(clean.answers[0], outputs=outputs),),
        machine={HOSTILE: {HOSTILE: HOSTILE}}, versions={HOSTILE: "1"}, recipe={HOSTILE: HOSTILE},
        models={HOSTILE: clean.models["teacher"]},
    )  # fmt: skip
    assert_harmless(render(result))


def test_the_report_says_what_the_result_holds() -> None:
    page = assert_harmless(render(sample()))
    for words in (
        "smart-home",
        "Teacher and student are the same model",
        "Embed q8_0",
        "70.0 %",  # the chosen artifact's accuracy
        "61.3 – 77.5 %",
        "ARTE against seeds alone",
        "+25.0",
        "logits: KL 0.301 nats is over the preset's 0.25",
        "211 of 272 tensors fell back",
        "8.51 bits per weight",
        "31 no answer",
        "It is about how warm a room is.",
        "48 rationale pairs",
        "score preferences",
        "from the bundle back to the seeds",
        "Intel Xeon Platinum 8481C",
        "runs/smart-home/bundle",
        "p90 13.8, p99 20.5",
    ):
        assert words.lower() in page.text.lower(), words
    assert page.tags.count("figure") == 6
    assert "∅ no answer found" in page.text and "✗ wrong" in page.text


def test_no_request_is_allowed_by_the_page_itself() -> None:
    html = render(sample())
    policy = re.search('http-equiv="Content-Security-Policy" content="([^"]*)"', html)
    assert policy is not None and "default-src 'none'" in policy[1] and "script" not in policy[1]
    assert not re.search(r"https?://(?!www\.w3\.org)", html)


def test_the_same_result_gives_the_same_bytes(tmp_path: Path) -> None:
    write_report(sample(), tmp_path / "one.html")
    write_report(r.from_json(r.to_json(sample())), tmp_path / "two.html")
    (tmp_path / "result.json").write_text(r.to_json(sample()), "utf-8")
    code = (
        "import sys; from pathlib import Path; from edgearte.report.html import write_report;"
        "from edgearte.report.result import from_json; p = Path(sys.argv[1]);"
        "write_report(from_json((p / 'result.json').read_text('utf-8')), p / 'three.html')"
    )
    settings = {**os.environ, "PYTHONHASHSEED": "7", "LC_ALL": "C", "MPLBACKEND": "agg"}
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, env=settings)
    one = (tmp_path / "one.html").read_bytes()
    assert one == (tmp_path / "two.html").read_bytes() == (tmp_path / "three.html").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one.html", "result.json", "three.html", "two.html"]


def test_sections_that_did_not_run_are_left_out() -> None:
    bare = r.Result("alone", "0.1.0", r.TaskInfo("t", "d", "tag", 0, 0))
    page = assert_harmless(render(bare))
    assert "figure" not in page.tags and "How it was taught" not in page.text
    exported = replace(bare, artifacts=sample().artifacts[:1])  # `edgearte export` and `bench` alone
    assert "f16" in assert_harmless(render(exported)).text
    unmeasured = replace(bare, artifacts=tuple(replace(a, measurement=None, accuracy=None) for a in sample().artifacts))
    assert "not measured" in assert_harmless(render(unmeasured)).text


def test_what_was_skipped_is_said() -> None:
    clean = sample()
    assert clean.preferences is not None
    result = replace(
        clean,
        preferences=replace(clean.preferences, degenerate=True, reason="every score was zero", scores=(0.0,) * 20),
        alignment=r.Alignment(skipped="the student prefers nothing"),
        decision=r.Decision("", "Every artifact failed."),
    )
    text = assert_harmless(render(result)).text
    for words in (
        "No usable preference: every score was zero",
        "Not aligned: the student prefers nothing",
        "Nothing to embed",
    ):
        assert words in text


def test_numbers_that_are_none() -> None:
    clean = sample()
    nothing = tuple(r.LossStep(i, math.nan) for i in range(3))
    item = clean.artifacts[0]
    assert item.measurement is not None and clean.alignment is not None
    still = replace(item.measurement, decode_tps=replace(item.measurement.decode_tps, median=0.0))
    result = replace(
        clean,
        training={"a": r.Training(1, 1, 1, math.nan, nothing), "b": r.Training(0, 0, 0, 0.0)},
        alignment=replace(clean.alignment, curve=(r.AlignmentStep(1, math.inf, math.nan, math.nan),)),
        artifacts=(replace(item, measurement=still),),
        stages=(r.StageCost("x", 0, 0, 0.0),),
    )
    text = assert_harmless(render(result)).text
    assert "a: no finite value" in text and "nan" not in text.lower().replace("finance", "")


def test_names_in_a_plot_do_not_cover_each_other() -> None:
    points = [plots.Point(f"artifact-{i}", 100 + i, 0.7 + 0.001 * i, 0.6, 0.8, 0) for i in range(3)]
    svg = plots.trade_off("t", points, "MB", {})
    found = re.findall(r'transform="translate\(([\d.]+) ([\d.]+)\)">artifact-\d<', svg) or re.findall(
        r'x="([\d.]+)" y="([\d.]+)"[^>]*>artifact-\d<', svg
    )
    places = [(float(x), float(y)) for x, y in found]
    assert len(places) == 3
    for i, (x, y) in enumerate(places):
        for other_x, other_y in places[i + 1 :]:
            assert abs(x - other_x) > 55 or abs(y - other_y) > 10


def test_bits_are_counted_by_type() -> None:
    types = stored_types(sample().artifacts[2].artifact)
    assert [t.name for t in types][:2] == ["Q5_0", "Q8_0"]
    assert types[0].bits == pytest.approx(5.5) and sum(t.share for t in types) == pytest.approx(1)


def test_a_report_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="could not be written"):
        write_report(sample(), tmp_path / "no" / "such" / "report.html")


def test_importing_the_report_loads_nothing_heavy() -> None:
    code = "import edgearte.report.html, edgearte.report.summary, sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert not {"matplotlib", "jinja2", "numpy", "torch", "rich", "pydantic"} & set(loaded)
