"""An ARM64 board without the board: emulated here, and emulated behind a real sshd, "an ARM board over SSH"."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgearte.cli import main
from edgearte.convert.make import Source, convert
from edgearte.convert.presets import load_preset
from edgearte.device.profile import load_device
from edgearte.device.remote import Remote
from edgearte.errors import UserError
from edgearte.lm.weights import Weights
from edgearte.measure.host import answer, measure
from edgearte.measure.suite import Suite
from edgearte.store import Store
from tests import emulated, sshd, tiny
from tests.cutting import cutting
from tests.integration.test_devices import PROMPTS, left, said_here, until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(1800)]  # the first to need it builds the ARM64 harness
SUITE = Suite(name="tiny", about="", prompt_tokens=12, new_tokens=3, repeats=2, warmups=1)
FEW = [{"text": f"{n} and {n} are", "prefix": "Answer in a word. "} for n in ("Two", "Three", "Four")]


@pytest.fixture(scope="module")
def board() -> Remote:
    emulated.set_up()
    return Remote(load_device("arm64-emulated"))


@pytest.fixture(scope="module")
def server(board: Remote, tmp_path_factory: pytest.TempPathFactory) -> Iterator[sshd.Server]:
    with sshd.running(tmp_path_factory.mktemp("sshd")) as found:
        yield found


def behind(server: sshd.Server, **changes: Any) -> Remote:
    """The board that the server emulates."""
    like = load_device("arm64-emulated")
    said = {"name": "board", "architecture": "aarch64", "emulate": {"cpu": "cortex-a76"}, "features": list(like.features),
            "runtimes": list(like.runtimes), **changes}  # fmt: skip
    return Remote(load_device(str(server.profile(**said))))


@pytest.fixture(scope="module")
def onnx(source: Weights, store: Store) -> Path:
    return convert(Source(source.folder, source.identity, None, store), load_preset("onnx-int4"))


def said(to: Remote, artifact: Path, runtime: str, prompts: list[dict[str, str]], tokens: int) -> list[dict[str, Any]]:
    return answer(artifact, runtime, prompts, max_tokens=tokens, stop=["\n"], threads=1, target=to)


def test_what_llama_cpp_writes_there_is_what_it_writes_here(board: Remote, server: sshd.Server) -> None:
    """These prompts are continued without a near-tie, so that other kernels choose the same tokens."""
    here = said_here(together=False)
    assert said(board, tiny.smollm2(), "llama.cpp", PROMPTS, 10) == here
    assert said(behind(server), tiny.smollm2(), "llama.cpp", PROMPTS, 10) == here


def test_what_onnxruntime_writes_there_is_what_it_writes_here(board: Remote, onnx: Path) -> None:
    """Its kernels for this core are further from those here than llama.cpp's: of these continuations the model is certain."""
    certain = [{"text": "Monday, Tuesday, Wednesday,"}, {"text": "1, 2, 3, 4,"}]
    here = answer(onnx, "onnxruntime-genai", certain, max_tokens=6, stop=["\n"], threads=1)
    assert "Thursday" in here[0]["text"]
    assert said(board, onnx, "onnxruntime-genai", certain, 6) == here


@pytest.mark.parametrize("runtime", ["llama.cpp", "onnxruntime-genai"])
def test_instructions_are_counted_in_place_of_time_and_repeat(board: Remote, onnx: Path, runtime: str) -> None:
    artifact = tiny.smollm2() if runtime == "llama.cpp" else onnx
    first, again = (measure(artifact, runtime, SUITE, name="q", target=board).instructions for _ in range(2))
    assert first and again
    for figure in ("load", "prompt_token", "new_token"):
        assert getattr(again, figure) == pytest.approx(getattr(first, figure), rel=1e-6)
    weights = 106e6  # that a token is multiplied with beside the output layer's 28 million; some are done at once
    assert weights / 16 < first.prompt_token < first.new_token < 16 * weights


def test_a_suite_on_a_board_behind_ssh_says_that_its_times_are_an_emulators(server: sshd.Server) -> None:
    found = measure(tiny.smollm2(), "llama.cpp", SUITE, name="q", threads=1, target=behind(server))
    assert (found.device, found.decode_tps.runs, found.instructions) == ("board", 2, None)
    assert found.machine["architecture"] == "aarch64"
    assert "asimddp" in found.machine["features"]
    assert any("emulator" in doubt for doubt in found.doubts())


def test_a_board_behind_a_connection_that_is_cut_loses_and_repeats_nothing(server: sshd.Server) -> None:
    to = behind(server)
    whole = said(to, tiny.smollm2(), "llama.cpp", FEW, 6)
    job = {"kind": "answer", "artifact": str(tiny.smollm2()), "runtime": "llama.cpp", "threads": 1, "prompts": FEW, "max_tokens": 6,
           "stop": ["\n"]}  # fmt: skip
    records, seen = list[dict[str, Any]](), list[int]()
    with cutting(server.cut, 0.8, 3.0) as cuts:
        for record in to.records(job, None):
            seen.append(record["index"])
            records.append({k: record[k] for k in whole[0]})
            time.sleep(0.5)
    assert (seen, records) == (list(range(len(FEW))), whole)
    assert sum(cuts) >= 2
    assert until(lambda: not left(server.home), 20)


def test_bench_counts_there_and_holds_counts_against_earlier_ones(
    board: Remote, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suite, old = tmp_path / "tiny.yaml", tmp_path / "old.json"
    suite.write_text(json.dumps({"name": "tiny", "about": "", "prompt_tokens": 8, "new_tokens": 2, "repeats": 3, "warmups": 1}))
    asked = ["bench", str(tiny.smollm2()), "--device", "arm64-emulated", "--suite", str(suite)]
    assert main([*asked, "--out", str(old)]) == 0
    assert "millions of instructions" in capsys.readouterr().out.replace("\n", " ")
    assert main([*asked, "--compare", str(old)]) == 0
    said = capsys.readouterr().out
    assert "instructions, a new token" in said
    assert "worse" not in said
    record = json.loads(old.read_text())
    record["instructions"]["new_token"] *= 0.9
    old.write_text(json.dumps(record))
    assert main([*asked, "--compare", str(old)]) == 1


def test_a_board_that_is_not_set_up_says_what_sets_it_up(board: Remote, tmp_path: Path) -> None:
    profile = tmp_path / "bare.yaml"
    profile.write_text(json.dumps({"name": "bare", "architecture": "aarch64", "emulate": {"cpu": "cortex-a72", "root": str(tmp_path)}}))
    to = Remote(load_device(str(profile)))
    with pytest.raises(UserError, match="edgearte device setup bare"):
        measure(tiny.smollm2(), "llama.cpp", SUITE, name="q", target=to)
    with pytest.raises(UserError, match="edgearte device setup bare"):
        said(to, tiny.smollm2(), "llama.cpp", FEW, 2)
