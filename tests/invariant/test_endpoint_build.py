"""A build whose teacher is a server that fails in three calls of ten ends with the data and the bundle of an undisturbed one; its key
stands nowhere in what it leaves; and a run that was refused leaves none of it either."""

from __future__ import annotations

import json
import traceback
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from edgearte import steps
from edgearte.cli import main
from edgearte.errors import UserError
from edgearte.lm.endpoint import Address
from edgearte.recipe import Teacher
from edgearte.setup import address
from tests import tiny
from tests.faulty import Faulty, serving

pytestmark = pytest.mark.invariant
KEY = "sk-Secret.0f-the/test+42"


@pytest.fixture
def server() -> Iterator[Faulty]:
    with serving() as made:
        yield made


def impatient(teacher: Teacher) -> Address | None:
    found = address(teacher)
    return replace(found, pause=0.001, longest_pause=0.01) if found else None


def made(run: Path) -> dict[str, str]:
    """What the build taught with and what it hands over, by content."""
    return {f"{folder}/{path}": found for folder in ("data", "bundle") for path, found in tiny.hashes(run / folder).items()}


def test_failures_change_nothing(
    server: Faulty, tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TEACHERS_KEY", KEY)
    monkeypatch.setattr(steps, "address", impatient)
    recipe = tiny.write_recipe(tmp_path / "task", tiny_model)
    changes = [
        "teacher.model=big", "teacher.style=chat", f"teacher.endpoint.url={server.url}", "teacher.endpoint.key=TEACHERS_KEY",
        "teacher.endpoint.price_in=2", "teacher.endpoint.price_out=10", "teacher.endpoint.timeout=1.5", "verify.samples=2",
        "draft.rationale_tokens=40", "draft.question_tokens=40", "align.question_pairs=0", "align.rationale_pairs=0",
        "task.answer.choices=[]",  # the server writes questions with answers of its own
    ]  # fmt: skip
    command = ["build", str(recipe), *changes, "--runs"]

    assert main(["validate", str(recipe), *changes, "--runs", str(tmp_path / "whole")]) == 0
    foretold = capfd.readouterr().out
    assert "of the endpoint: about" in foretold
    assert "at the recipe's prices" in foretold
    assert server.seen == []
    assert main([*command, str(tmp_path / "whole")]) == 0
    expected, sent = made(tmp_path / "whole" / "tiny"), sorted(server.seen)
    assert {"bundle/manifest.json", "bundle/gguf/tiny-q8_0.gguf", "data/train-arte.parquet"} <= expected.keys()
    assert len(set(sent)) == len(sent) > 20, "something was asked twice"
    assert server.failed == 0

    server.rate = 0.3
    server.forget()
    assert main([*command, str(tmp_path / "shaken")]) == 0
    assert made(tmp_path / "shaken" / "tiny") == expected
    assert sorted(set(server.seen)) == sent
    assert server.failed > 0.2 * len(sent)
    used = json.loads((tmp_path / "shaken" / "tiny" / "result.json").read_text())["endpoint"]
    assert (used["calls"], used["new"], used["lost"], used["failed"]) == (len(sent), len(sent), 0, server.failed)
    assert used["money"] == pytest.approx((2 * used["tokens_read"] + 10 * used["tokens_written"]) / 1e6)

    server.refuse = 401
    assert main([*command, str(tmp_path / "refused")]) == 2
    try:
        main(["--debug", *command, str(tmp_path / "refused")])
    except UserError:
        traceback.print_exc()
    said = capfd.readouterr()
    assert f"big at {server.url}: {len(sent)} calls" in said.out
    assert said.err.count("refused, with 401") == 2
    assert "Traceback" in said.err
    assert "[key]" in said.err, "the server repeated it"
    assert KEY not in foretold + said.out + said.err
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and KEY.encode() in p.read_bytes()]
