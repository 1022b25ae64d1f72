"""The comparison with Olive, as far as it works without Olive: what is shown of a failure, and the table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from olive_int4 import WAYS, Job, chosen, contents, last_error, table, workflow

TRACEBACK = """Traceback (most recent call last):
  File "a.py", line 1, in f
KeyError: 'hf_details'

During handling of the above exception, another exception occurred:

Exception: Details not found   in options.
[WARNING] No output model produced.
"""


def test_the_error_it_ended_with() -> None:
    assert last_error(TRACEBACK) == "Exception: Details not found in options."
    assert last_error("a\nb.c.ConnectionError: no hub\nlast") == "b.c.ConnectionError: no hub"
    assert last_error("only\nwords\n") == "words"
    assert last_error("") == "nothing was said"


def test_ratios_are_against_ours_of_the_same_kind() -> None:
    one = {"code": 0, "seconds": 10.0, "processor": 8.0, "making": 4.0, "peak": 100, "failed": "", "bytes": 9_000_000, "kl": 0.3,
           "top1": 0.75, "gates": [], "right": 8, "of": 10}  # fmt: skip
    found = {
        "onnx-int4": one,
        "ModelBuilder": {**one, "seconds": 5.0, "processor": 4.0, "peak": 150, "kl": 0.6, "gates": ["tokens: 2 of 9 differ"]},
        "olive optimize": {"code": 0, "seconds": 2.0, "processor": 2.0, "making": 2.0, "peak": 50,
                           "failed": "ConnectionError: no hub"},
        "Gptq": one,  # ours with calibration is not there to compare with
    }  # fmt: skip
    head, rule, *rows = table(found).splitlines()
    assert rows == [
        "| onnx-int4 | 1.00 × | 1.00 × | 1.00 × | 1.00 × | 9.0 | 0.3000 | 75.0% | 8 of 10 | passed |",
        "| `olive optimize --precision int4` | 0.20 × | 0.25 × | 0.50 × | 0.50 × | | | | |"
        " nothing came of it, exit code 0: ConnectionError: no hub |",
        "| Olive, ModelBuilder | 0.50 × | 0.50 × | 1.00 × | 1.50 × | 9.0 | 0.6000 (2.00 ×) | 75.0% | 8 of 10 | tokens: 2 of 9 differ |",
    ]
    assert {line.count("|") for line in (head, rule, *rows)} == {11}


def test_a_workflow_calibrates_on_the_same_texts(tmp_path: Path) -> None:
    job = Job(tmp_path / "model", ("one", "two\nlines"), ("judged",), ())
    (way,) = chosen("Gptq")
    asked = json.loads(json.dumps(workflow(way, job, tmp_path)))
    assert [p["type"] for p in asked["passes"].values()] == ["Gptq", "Rtn", "ModelBuilder"]
    assert asked["passes"]["0 Gptq"]["data_config"] == "texts"
    for data in asked["data_configs"]:
        assert data["pre_process_data_config"]["max_samples"] == 2
        assert data["load_dataset_config"]["data_files"] == str(tmp_path / "texts.jsonl")


def test_every_data_set_that_a_pass_names_is_there(tmp_path: Path) -> None:
    for way in WAYS:
        asked = workflow(way, Job(tmp_path, ("one",), (), ()), tmp_path)
        named = {p["data_config"] for p in asked["passes"].values() if "data_config" in p}
        assert named <= {d["name"] for d in asked["data_configs"]}, way.name


def test_ways_have_files_of_their_own_and_are_known_by_name() -> None:
    assert len({way.file for way in WAYS}) == len(WAYS)
    assert chosen("") == list(WAYS)
    with pytest.raises(SystemExit, match="no way called 'nothing'"):
        chosen("Gptq; nothing")


def test_a_folder_is_known_by_its_contents(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        (folder / "deep").mkdir(parents=True)
        (folder / "deep" / "file").write_text("a")
    assert contents(one) == contents(other)
    (other / "deep" / "file").write_text("b")
    assert contents(one) != contents(other)
