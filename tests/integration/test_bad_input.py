"""What a user gets wrong: one clear message, exit 2 (130 for Ctrl-C), no traceback, nothing half-written."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgearte.cli import main
from tests import tiny

pytestmark = pytest.mark.integration
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def recipe(tmp_path: Path, tiny_model: Path) -> Path:
    return tiny.write_recipe(tmp_path / "task", tiny_model)


def refused(
    recipe: Path, capsys: Capture, *says: str, overrides: tuple[str, ...] = (), runs: Path | None = None
) -> str:
    """Build, expect exit 2 with these words, no traceback, and no run folder but an empty one."""
    runs = runs or recipe.parent.parent / "runs"
    assert main(["build", str(recipe), *overrides, "--runs", str(runs)]) == 2
    said = capsys.readouterr().err
    for words in says:
        assert words in said, said
    assert "Traceback" not in said
    if runs.is_dir():
        left = [p for p in runs.rglob("*") if p.is_file() and "store" not in p.relative_to(runs).parts[0]]
        assert left == []
    return said


def edit(path: Path, change: Callable[[str], str]) -> None:
    path.write_text(change(path.read_text("utf-8")), "utf-8")


def test_missing_key(recipe: Path, capsys: Capture) -> None:
    edit(recipe, lambda text: text.replace("  description: Say what a spoken command is about.\n", ""))
    refused(recipe, capsys, f"{recipe}:2: task.description: missing")


def test_misspelt_keys_all_at_once_with_file_line_and_the_nearest_known(recipe: Path, capsys: Capture) -> None:
    edit(
        recipe,
        lambda text: (
            text.replace("temperature", "x").replace("  attempts: 6", "  atempts: 6").replace("tailor:", "tailer:")
        ),
    )
    said = refused(
        recipe,
        capsys,
        "draft.atempts: unknown key; did you mean attempts?",
        "tailer: unknown key; did you mean tailor?",
    )
    lines = recipe.read_text("utf-8").splitlines()
    assert f"{recipe}:{1 + lines.index('  atempts: 6')}" in said


def test_a_value_of_the_wrong_kind_and_an_override(recipe: Path, capsys: Capture) -> None:
    refused(recipe, capsys, "train.epochs:", "override 'train.epochs=many'", overrides=("train.epochs=many",))


def test_an_environment_variable_that_is_not_set(recipe: Path, capsys: Capture) -> None:
    edit(recipe, lambda text: text.replace("seeds.jsonl", "'${NO_SUCH_VARIABLE}/seeds.jsonl'"))
    refused(recipe, capsys, "the environment has no NO_SUCH_VARIABLE")


def test_a_key_that_stands_twice(recipe: Path, capsys: Capture) -> None:
    edit(recipe, lambda text: text + "tailor: {questions: 9}\n")
    refused(recipe, capsys, "the key tailor stands twice")


def test_yaml_that_is_none(recipe: Path, capsys: Capture) -> None:
    edit(recipe, lambda text: text + "\n  - [\n")
    refused(recipe, capsys, "not valid YAML")


def test_seeds_without_a_target_and_a_duplicate_id(recipe: Path, capsys: Capture) -> None:
    seeds = recipe.parent / "seeds.jsonl"
    edit(
        seeds,
        lambda text: text + '{"id": "a", "input": "play it"}\n{"id": "lights-0", "input": "on", "target": "lights"}\n',
    )
    refused(recipe, capsys, f"{seeds}:7", "no target", f"{seeds}:8", "duplicate id 'lights-0', first seen at")


def test_a_target_that_is_none_of_the_choices(recipe: Path, capsys: Capture) -> None:
    edit(recipe.parent / "seeds.jsonl", lambda text: text + '{"input": "feed it", "target": "the cat"}\n')
    refused(recipe, capsys, "'the cat' is not one of lights, music, weather")


def test_labels_that_are_the_same_words(recipe: Path, capsys: Capture) -> None:
    edit(recipe, lambda text: text.replace("weather", "next_song, next song", 1))
    refused(recipe, capsys, "'next_song' and 'next song' are the same words")


def test_an_evaluation_question_among_the_seeds(recipe: Path, capsys: Capture) -> None:
    question = (recipe.parent / "evaluation.jsonl").read_text("utf-8").splitlines()[0]
    edit(recipe.parent / "seeds.jsonl", lambda text: text + question + "\n")
    refused(recipe, capsys, "what is measured on must not be taught")


def test_an_empty_evaluation_set(recipe: Path, capsys: Capture) -> None:
    (recipe.parent / "evaluation.jsonl").write_text("\n")
    refused(recipe, capsys, "evaluation.jsonl", "no questions in it")


def test_broken_utf8(recipe: Path, capsys: Capture) -> None:
    seeds = recipe.parent / "seeds.jsonl"
    seeds.write_bytes(seeds.read_bytes() + b'{"input": "caf\xe9", "target": "music"}\n')
    refused(recipe, capsys, f"{seeds}:7", "not UTF-8")


def test_no_such_file(recipe: Path, capsys: Capture) -> None:
    refused(recipe, capsys, "nowhere.jsonl", "no such file", overrides=("task.seeds.file=nowhere.jsonl",))
    assert main(["build", "no-such-recipe"]) == 2
    assert "no recipes entry called 'no-such-recipe'" in capsys.readouterr().err


def test_a_truncated_gguf(recipe: Path, capsys: Capture, tmp_path: Path) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(tiny.smollm2().read_bytes()[:5_000_000])
    refused(recipe, capsys, "teacher.model", "cut.gguf", overrides=(f"teacher.model={cut}",))


def test_a_pickle_instead_of_safetensors(recipe: Path, capsys: Capture, tmp_path: Path, tiny_model: Path) -> None:
    folder = tmp_path / "pickled"
    shutil.copytree(tiny_model, folder)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"weight": 1}))
    refused(recipe, capsys, "student.model", "pytorch_model.bin", "safetensors", overrides=(f"student.model={folder}",))


def test_a_vocabulary_that_differs_from_the_tokenizer(
    recipe: Path, capsys: Capture, tmp_path: Path, tiny_model: Path
) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    folder = tmp_path / "short"
    shutil.copytree(tiny_model, folder)
    config = AutoConfig.from_pretrained(tiny_model)
    config.vocab_size = 1000
    config.bos_token_id = config.eos_token_id = config.pad_token_id = 1
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    refused(recipe, capsys, "student.model", "1,000 rows", overrides=(f"student.model={folder}",))


def test_no_disk(recipe: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1_000_000, total=1, used=1))
    refused(recipe, capsys, "disk: about", "GB are free")


def test_no_memory(recipe: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    import psutil

    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=100_000_000, total=1))
    refused(recipe, capsys, "memory: about", "take a smaller model")


def test_a_disk_that_fills_up_on_the_way(recipe: Path, tmp_path: Path) -> None:
    """A limit on the size of a file stops the store as a full disk would; without it the same command goes on."""
    limited = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000)); "
        "from edgearte.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run([sys.executable, "-c", limited, "build", str(recipe), "--runs", str(tmp_path / "runs")],
                          capture_output=True, text=True, timeout=300)  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "could not be written" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "runs").glob("tiny/result.json"))


def test_a_read_only_run_folder(recipe: Path, capsys: Capture) -> None:
    refused(recipe, capsys, "cannot be written", runs=Path("/sys/edgearte-runs"))
    assert not Path("/sys/edgearte-runs").exists()


def test_a_broken_result_is_no_report(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "result.json").write_text('{"schema": 1, "edgearte"')
    assert main(["report", str(tmp_path)]) == 2
    assert "not valid JSON" in capsys.readouterr().err
    assert not (tmp_path / "report.html").exists()
    assert main(["report", str(tmp_path / "nothing")]) == 2
    assert "no finished build here" in capsys.readouterr().err


def test_init_does_not_overwrite(tmp_path: Path, capsys: Capture) -> None:
    target = tmp_path / "mine"
    assert main(["init", str(target)]) == 0
    before = {p: p.read_bytes() for p in target.iterdir()}
    assert "name: mine" in (target / "recipe.yaml").read_text("utf-8")
    assert main(["init", str(target)]) == 2
    assert {p: p.read_bytes() for p in target.iterdir()} == before
    assert "exists already" in capsys.readouterr().err


def test_bench_of_what_is_no_artifact(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "text.gguf"
    path.write_text("this is no model")
    assert main(["bench", str(path), "--suite", "short"]) == 2
    assert "text.gguf" in capsys.readouterr().err


def onnx_folder(folder: Path, decoder: str = "model.onnx", **external: object) -> Path:
    """One matrix, which lies where `external` says."""
    import onnx
    from onnx import TensorProto, helper

    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4, 4], data_location=TensorProto.EXTERNAL)
    for key, value in ({"location": "model.onnx.data", "offset": 0, "length": 64} | external).items():
        weight.external_data.add(key=key, value=str(value))
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in ("x", "logits")]
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["logits"])], "g", ends[:1], ends[1:], [weight])
    folder.mkdir()
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), str(folder / "model.onnx"))
    sizes = {"head_size": 4, "hidden_size": 4, "num_attention_heads": 1, "num_hidden_layers": 1, "num_key_value_heads": 1}
    model = {
        "type": "llama", "context_length": 64, "vocab_size": 4, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1,
        "decoder": {"filename": decoder, **sizes, "inputs": {"input_ids": "x"}, "outputs": {"logits": "logits"}},
    }  # fmt: skip
    (folder / "genai_config.json").write_text(json.dumps({"model": model, "search": {"max_length": 64}}))
    return folder


@pytest.mark.parametrize(
    ("spoiled", "said"),
    [
        ({"location": "../secret.bin"}, "escapes model directory"),
        ({"location": "linked.bin"}, "escapes model directory"),
        ({"offset": 2**62}, "out of bounds"),
        ({"length": 2**62}, "size mismatch"),
        ({"decoder": "../elsewhere/model.onnx"}, "path traversal"),
    ],
)
def test_bench_of_an_onnx_folder_made_to_harm(tmp_path: Path, capsys: Capture, spoiled: dict[str, Any], said: str) -> None:
    (tmp_path / "secret.bin").write_bytes(bytes(64))
    folder = onnx_folder(tmp_path / "model", **spoiled)
    (folder / "model.onnx.data").write_bytes(bytes(64))
    (folder / "linked.bin").symlink_to(tmp_path / "secret.bin")
    assert main(["bench", str(folder), "--suite", "short"]) == 2
    assert said in capsys.readouterr().err


def test_ctrl_c_ends_with_130_and_the_same_command_goes_on(recipe: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "edgearte.cli", "build", str(recipe), "--runs", str(tmp_path / "runs")]
    database = tmp_path / "runs" / "store" / "store.sqlite"
    child = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=_hear_ctrl_c,
    )
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and child.poll() is None and _attempts(database) < 2:
        time.sleep(0.2)
    os.killpg(child.pid, signal.SIGINT)
    _, said = child.communicate(timeout=120)
    assert child.returncode == 130, said
    assert "the same command goes on" in said
    assert "Traceback" not in said
    assert not list((tmp_path / "runs" / "store" / "trees").glob(".*"))
    assert not (tmp_path / "runs" / "tiny" / "result.json").exists()


def _hear_ctrl_c() -> None:
    """A shell that starts the tests in the background has them ignore Ctrl-C, and children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _attempts(database: Path) -> int:
    import sqlite3

    if not database.is_file():
        return 0
    try:
        with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as db:
            return int(db.execute("SELECT count(*) FROM attempts").fetchone()[0])
    except sqlite3.OperationalError:
        return 0


def test_what_looks_like_a_defect_of_ours_is_said_without_a_traceback(
    recipe: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(*_: object) -> None:
        raise ZeroDivisionError("planted")

    monkeypatch.setattr("edgearte.loop.run", breaks)
    assert main(["build", str(recipe), "--runs", str(recipe.parent.parent / "runs")]) == 1
    said = capsys.readouterr().err
    assert "planted" in said
    assert "--debug" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    "line",
    [["a.b=1", "c.d=2", "--runs", "X"], ["--runs", "X", "a.b=1", "c.d=2"], ["a.b=1", "--runs", "X", "c.d=2"]],
)
def test_overrides_may_stand_before_and_after_options(line: list[str], recipe: Path, capsys: Capture) -> None:
    assert main(["build", str(recipe), *line]) == 2
    said = capsys.readouterr().err
    assert ": a: unknown key" in said
    assert ": c: unknown key" in said


@pytest.mark.parametrize("line", [["build", "r.yaml", "--rums", "x"], ["build", "r.yaml", "--runs", "x", "y"], ["doctor", "a=b"]])
def test_what_is_no_argument_is_said_with_the_usage(line: list[str], capsys: Capture) -> None:
    with pytest.raises(SystemExit) as ended:
        main(line)
    assert ended.value.code == 2
    assert "unrecognized arguments" in capsys.readouterr().err
