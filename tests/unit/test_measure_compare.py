"""Measurements against earlier ones: a change is called one only where noise does not explain it."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from edgearte import cli
from edgearte.errors import UserError
from edgearte.measure import bench, compare
from edgearte.records import Instructions, Measurement, Spread
from edgearte.report import bench as report

QUIET = {"cpu": "a CPU", "cores": 4, "logical_cores": 4, "load_average": [0.1, 0.1, 0.1], "governor": "performance"}
FIGURES = ("load", "first token", "prefill", "decode", "peak memory", "file")


def spread(median: float, noise: float = 0.01, runs: int = 5) -> Spread:
    return Spread(median, median * (1 - noise), median * (1 + noise), runs)


def measurement(**changes: Any) -> Measurement:
    usual = Measurement("model.gguf", "local", "standard", spread(0.5), spread(0.2), spread(300), spread(40), 0.02, 0.03, 0.04,
                        10**9, 10**8, 512, 128, 4, QUIET)  # fmt: skip
    return replace(usual, **changes)


def verdicts(old: Measurement, new: Measurement) -> dict[str, str]:
    return {v.figure: v.verdict for v in compare.compare(old, new)}


def test_what_is_measured_again_is_alike() -> None:
    assert verdicts(measurement(), measurement(decode_tps=spread(39.5), load_s=spread(0.505))) == dict.fromkeys(FIGURES, "alike")


def test_slower_larger_and_faster_are_told_apart() -> None:
    new = measurement(decode_tps=spread(30), prefill_tps=spread(400), peak_memory_bytes=2 * 10**9)
    found = compare.compare(measurement(), new)
    told = {v.figure: (v.verdict, round(v.ratio, 2)) for v in found}
    assert told["decode"] == ("worse", 1.33)  # a token takes a third longer
    assert told["prefill"] == ("better", 0.75)
    assert told["peak memory"] == ("worse", 2.0)
    assert told["first token"] == told["load"] == told["file"] == ("alike", 1.0)


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ({}, {"decode_tps": spread(36, 0.2)}, "the runs of both overlap"),
        ({"decode_tps": spread(40, runs=3)}, {"decode_tps": spread(30, runs=3)}, "3 and 3 runs are too few"),
        ({}, {"decode_tps": spread(30), "machine": QUIET | {"load_average": [3.0]}}, "other work was running now"),
        ({"threads": 2}, {"decode_tps": spread(30)}, "measured otherwise then: threads 2, now 4"),
        ({"machine": QUIET | {"cpu": "another"}}, {"decode_tps": spread(30)}, "measured otherwise then: cpu 'another', now 'a CPU'"),
    ],
)
def test_what_noise_may_explain_is_no_change(old: dict[str, Any], new: dict[str, Any], why: str) -> None:
    (found,) = (v for v in compare.compare(measurement(**old), measurement(**new)) if v.figure == "decode")
    assert (found.verdict, found.why) == ("unsure", why)


@pytest.mark.parametrize(("decode", "code"), [(40.0, 0), (30.0, 1), (50.0, 0)])
def test_bench_ends_with_1_where_something_became_worse(
    decode: float, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "bench", lambda *_: [measurement(decode_tps=spread(decode))])
    old = tmp_path / "old.json"
    old.write_text(json.dumps(asdict(measurement())) + "\n")
    asked = ["bench", str(tmp_path / "model.gguf"), "--compare", str(old)]
    assert cli.main(asked) == code
    assert ("worse" in capsys.readouterr().out) == bool(code)
    assert cli.main([*asked, "--json"]) == code
    said = capsys.readouterr().out
    first, *told = map(json.loads, said.splitlines())
    (tmp_path / "again.json").write_text(said)
    assert compare.read(tmp_path / "again.json") == [measurement(decode_tps=spread(decode))]
    assert first["artifact"] == "model.gguf"
    assert [v["figure"] for v in told] == list(FIGURES)


def test_what_is_measured_is_kept_in_every_form(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "a|b<c>.gguf"
    monkeypatch.setattr(bench, "bench", lambda *_: [measurement(artifact=name, decode_tps=spread(30))])
    old, asked = tmp_path / "old.json", ["bench", name, "--compare", str(tmp_path / "old.json"), "--out"]
    old.write_text(json.dumps(asdict(measurement(artifact=name))) + "\n")
    for form in ("json", "md", "html"):
        assert cli.main([*asked, str(tmp_path / f"new.{form}")]) == 1
    assert compare.read(tmp_path / "new.json")[0].decode_tps.median == 30
    page = (tmp_path / "new.md").read_text("utf-8")
    assert "| a\\|b<c>.gguf | 100 | 1000 | 0.50 |" in page
    assert "| a\\|b<c>.gguf | decode | 1.33 × | worse |" in page
    html = (tmp_path / "new.html").read_text("utf-8")
    assert "a|b&lt;c&gt;.gguf" in html
    assert "<c>" not in html
    capsys.readouterr()
    for out, why in (("new.txt", "ends in .json, .md, .html"), ("nowhere/new.md", "there is no folder")):
        assert cli.main([*asked, str(tmp_path / out)]) == 2
        assert why in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "{", "[]", '{"artifact": "model.gguf"}', "\x00"])
def test_what_is_no_measurement_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "old.json"
    path.write_text(text)
    with pytest.raises(UserError, match=r"old\.json.*(holds no measurement|no record of edgearte bench --json)"):
        compare.read(path)


def test_an_artifact_that_was_not_measured_then_is_told_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "bench", lambda *_: pytest.fail("measured"))
    old = tmp_path / "old.json"
    old.write_text(json.dumps(asdict(measurement())) + "\n")
    assert cli.main(["bench", "other.gguf", "--compare", str(old)]) == 2
    assert "holds no measurement of other.gguf; it has model.gguf" in capsys.readouterr().err


def test_what_a_device_does_is_held_against_that_device(tmp_path: Path) -> None:
    old = [measurement(), measurement(device="board", decode_tps=spread(4))]
    board = compare.against(old, measurement(device="board", decode_tps=spread(3)))
    assert {v.figure: v.verdict for v in board}["decode"] == "worse"
    assert board[0].artifact == "model.gguf on board"
    other = compare.against(old, measurement(device="phone", decode_tps=spread(3)))
    assert {v.figure: v.verdict for v in other}["decode"] == "unsure"


def test_counted_instructions_are_compared_without_noise() -> None:
    def counted(new_token: float) -> Measurement:
        return measurement(device="arm64", instructions=Instructions(100, 17.0, new_token))

    found = {v.figure: v.verdict for v in compare.compare(counted(40.0), counted(42.0))}
    assert found == {"instructions, a new token": "worse", "instructions, a prompt token": "alike", "instructions, loading": "alike",
                     "file": "alike"}  # fmt: skip


def test_each_device_has_a_table_that_says_what_makes_it_doubtful(tmp_path: Path) -> None:
    hot = measurement(device="board", throttled=True, temperature_c=spread(85), clock_mhz=Spread(1000, 600, 1500, 5))
    swings = replace(spread(40), values=(40.0, 40.1, 39.9, 40.0, 10.0))
    found = [measurement(decode_tps=swings, bandwidth=20e9, token_bytes=10**8), hot]
    report.write(tmp_path / "both.md", found, [])
    here, there = (tmp_path / "both.md").read_text("utf-8").split("**On board**")
    assert "outliers among the runs: 10.0 tokens/s" in here
    assert "| 20% |" in here  # 100 MB, 40 times a second, of 20 GB/s
    for words in ("the device held itself back", "its clock fell to 600 of 1500 MHz", "up to 86 °C"):
        assert words in there
        assert words not in here


def test_times_of_an_emulator_are_doubted() -> None:
    found = measurement(machine={**QUIET, "cpu": "cortex-a76, emulated by qemu"})
    assert found.doubts() == ["emulated: these times are the emulator's"]
