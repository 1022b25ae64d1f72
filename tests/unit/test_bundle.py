"""The bundle: the same bytes each time, whole, and usable by those who embed it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from edgearte.convert import bundle
from edgearte.convert import modelfile as mf
from edgearte.convert.bundle import verify_bundle, write_bundle
from edgearte.convert.card import Card, Figure, Origin
from edgearte.errors import UserError
from edgearte.lm.template import render
from edgearte.records import Accuracy, Artifact, Gate

CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are helpful<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3 = (
    "{% for message in messages %}{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
    " + message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}"
    "{% endif %}{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
LLAMA31 = """{{- bos_token }}
{%- if not date_string is defined %}
    {%- set date_string = "26 Jul 2024" %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\nToday Date: " + date_string + "\\n\\n" + system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}"""
GEMMA = """{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- set prefix = messages[0]['content'] + '\\n\\n' -%}
    {%- set rest = messages[1:] -%}
{%- else -%}
    {%- set prefix = "" -%}
    {%- set rest = messages -%}
{%- endif -%}
{%- for message in rest -%}
    {{ '<start_of_turn>' + ('model' if message['role'] == 'assistant' else 'user') + '\\n' }}
    {{- prefix if loop.first else "" }}
    {{- message['content'] | trim }}
    {{- '<end_of_turn>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{ '<start_of_turn>model\\n' }}
{%- endif -%}"""


def say(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def as_ollama(go: str, system: str, messages: list[dict[str, str]]) -> str:
    """What Go's text/template makes of our templates, by writing their few words in jinja's."""
    import jinja2

    words = [
        (r"\{\{ range \$i, \$_ := \.Messages \}\}", "{% for m in messages %}"),
        (r"\{\{ \$last := eq \(len \(slice \$\.Messages \$i\)\) 1 \}\}", ""),
        (r'\{\{ if eq \.Role "user" \}\}', '{% IF m.role == "user" %}'),
        (r'\{\{ else if eq \.Role "assistant" \}\}', '{% elif m.role == "assistant" %}'),
        (r'\{\{ if and \$last \(ne \.Role "assistant"\) \}\}', '{% IF loop.last and m.role != "assistant" %}'),
        (r"\{\{ if not \$last \}\}", "{% IF not loop.last %}"),
        (r"\{\{ if and \$first \$\.System \}\}", "{% IF state.first and system %}"),
        (r"\{\{ if \.System \}\}", "{% IF system %}"),
        (r"\{\{ \$first (:=|=) (true|false) \}\}", r"{% set state.first = \2 %}"),
        (r"\{\{ \$?\.System \}\}", "{{ system }}"),
        (r"\{\{ \.Content \}\}", "{{ m.content }}"),
    ]
    for pattern, replacement in words:
        go = re.sub(pattern, replacement, go)
    opened: list[str] = []

    def close(match: re.Match[str]) -> str:
        word = match.group(0)
        if "for " in word or "IF" in word:
            opened.append("endfor" if "for " in word else "endif")
            return word.replace("IF", "if")
        return "{% " + opened.pop() + " %}"

    go = re.sub(r"\{% (for |IF).*?%\}|\{\{ end \}\}", close, go)
    assert "$" not in go and not opened
    environment = jinja2.Environment(keep_trailing_newline=True)
    text = "{% set state = namespace(first=true) %}" + go
    return environment.from_string(text).render(messages=messages, system=system)


TALKS = [
    [say("user", "How many?")],
    [say("user", "a\nb"), say("assistant", "c {{x}}"), say("user", "d")],
]


@pytest.mark.parametrize("template", [CHATML, LLAMA3, LLAMA31, GEMMA], ids=["chatml", "llama-3", "llama-3.1", "gemma"])
@pytest.mark.parametrize("talk", TALKS, ids=["one", "many"])
@pytest.mark.parametrize("system", ["", "Be brief."])
def test_ollama_writes_a_chat_as_the_checkpoint_does(template: str, talk: list[dict[str, str]], system: str) -> None:
    chat = mf.recognise(template)
    assert chat is not None
    asked = ([say("system", system)] if system else []) + talk
    effective = system or chat.default_system or ""
    assert as_ollama(mf.go_template(chat), effective, asked) == render(template, asked)


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}",
        CHATML.replace("<|im_start|>assistant\n'", "<|im_start|>assistant\n<think>\n'"),
        CHATML.replace("<|im_start|>system\n", "<|im_start|>sys\n"),
        CHATML + "{% generation %}",
        "{{ raise_exception('no') }}",
    ],
    ids=["other", "thinking", "odd system turn", "broken", "refusing"],
)
def test_an_unknown_template_is_left_out_and_said(template: str) -> None:
    assert mf.recognise(template) is None
    text = mf.modelfile(["gguf/a.gguf"], {"eos_token": "</s>"}, template)
    assert "# No TEMPLATE" in text
    assert not any(line.startswith("TEMPLATE") for line in text.splitlines())
    assert 'PARAMETER stop "</s>"' in text


def test_the_modelfile_names_files_system_and_stops() -> None:
    text = mf.modelfile(["gguf/a-q8_0.gguf", "gguf/a-q4_0.gguf"], {"eos_token": {"content": "</s>"}}, CHATML)
    assert text.splitlines()[1:3] == ["FROM ./gguf/a-q8_0.gguf", "# or: FROM ./gguf/a-q4_0.gguf"]
    assert 'SYSTEM """You are helpful"""' in text  # the template's own, when the task has none
    assert 'PARAMETER stop "<|im_end|>"' in text and 'PARAMETER stop "</s>"' in text
    assert 'SYSTEM """Answer."""' in mf.modelfile(["gguf/a.gguf"], {}, CHATML, system="Answer.")
    with pytest.raises(UserError, match="cannot quote"):
        mf.modelfile(["gguf/a.gguf"], {}, CHATML, system='say """x"""')


def inputs(root: Path) -> tuple[Path, list[Artifact], Card]:
    """A checkpoint folder and three artifacts, one failed, as a build leaves them in its store."""
    checkpoint = root / "store" / "checkpoint"
    checkpoint.mkdir(parents=True)
    (checkpoint / "tokenizer.json").write_text('{"model": {}}')
    (checkpoint / "tokenizer_config.json").write_text('{"eos_token": "<|im_end|>"}')
    (checkpoint / "chat_template.jinja").write_text(CHATML)
    (checkpoint / "model.safetensors").write_bytes(b"weights stay at home")
    gguf = root / "store" / "model.gguf"
    gguf.write_bytes(b"GGUF" + bytes(range(256)) * 40)
    onnx = root / "store" / "onnx"
    (onnx / "sub").mkdir(parents=True)
    (onnx / "genai_config.json").write_text("{}")
    (onnx / "sub" / "model.onnx").write_bytes(b"\x08\x01" * 100)
    bad = Gate("logits", False, "KL 0.9 over 0.2", {})
    gate = Gate("logits", True, "KL 0.0035 under 0.02", {"kl": 0.0035})
    artifacts = [
        Artifact("onnx-int4", "onnx", "onnxruntime-genai", str(onnx), 202, 5.1, {"int4": 90}, gates=(gate,)),
        Artifact("q8_0", "gguf", "llama.cpp", str(gguf), 10244, 8.5, {"Q8_0": 9}, notes=("a | b",), gates=(gate,)),
        Artifact("q4_k_m", "gguf", "llama.cpp", str(root / "no"), 1, 4.5, {}, failed="gate logits", gates=(bad,)),
    ]  # fmt: skip
    accuracy = Accuracy(100, 71, 2, 0.71, 0.614, 0.79)
    card = Card(
        task="Smart home: intents",
        description="Say which intent a spoken command has.\n\nOne of five.",
        answer_format="tag <ans>",
        models=(
            Origin("teacher", "Qwen/Qwen2.5-1.5B", "Qwen Research"),
            Origin("student", "HuggingFaceTB/SmolLM2-135M-Instruct", "Apache-2.0"),
        ),
        figures=(
            Figure("untaught", "checkpoint", 0, Accuracy(100, 0, 100, 0.0, 0.0, 0.037)),
            Figure("arte", "q8_0", 0, accuracy),
        ),
        chosen="q8_0",
        prompt="Command: {input}\n```\nAnswer:",
        notes=("A model taught by itself: a demonstration.",),
        versions={"torch": "2.13.0", "gguf": "0.19.0"},
    )
    return checkpoint, artifacts, card


LINEAGE = [{"what": "student", "id": "ab" * 32, "made_from": ["tailored"]}]


def build(root: Path, change: Callable[[Card], Card] = lambda card: card) -> Path:
    checkpoint, artifacts, card = inputs(root)
    folder = root / "runs" / "bundle"
    write_bundle(folder, name="intents", checkpoint=checkpoint, artifacts=artifacts, card=change(card), lineage=LINEAGE)
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_two_bundles_of_the_same_inputs_are_the_same_bytes(tmp_path: Path) -> None:
    one, two = build(tmp_path / "one"), build(tmp_path / "a" / "longer" / "path")
    assert content(one) == content(two)
    assert not any(str(tmp_path).encode() in data for data in content(one).values())


def test_what_lies_in_a_bundle(tmp_path: Path) -> None:
    folder = build(tmp_path)
    assert list(content(folder)) == [
        "Modelfile", "README.md", "gguf/intents-q8_0.gguf", "manifest.json", "onnx-int4/genai_config.json",
        "onnx-int4/sub/model.onnx", "tokenizer/chat_template.jinja", "tokenizer/tokenizer.json",
        "tokenizer/tokenizer_config.json",
    ]  # fmt: skip
    assert verify_bundle(folder) == []
    manifest = json.loads((folder / "manifest.json").read_text())
    assert [a["preset"] for a in manifest["artifacts"]] == ["q8_0", "onnx-int4"]  # the chosen one first
    assert manifest["left_out"] == [{"preset": "q4_k_m", "why": "logits: KL 0.9 over 0.2"}]
    assert manifest["licences"]["student"]["licence"] == "Apache-2.0"
    assert manifest["lineage"] == LINEAGE
    assert set(manifest["files"]) == set(content(folder)) - {"manifest.json"}
    assert [p.name for p in folder.parent.iterdir()] == ["bundle"]  # nothing half-written is left beside it


def test_the_store_cannot_be_changed_through_a_bundle(tmp_path: Path) -> None:
    folder = build(tmp_path)
    source = tmp_path / "store" / "model.gguf"
    before = source.read_bytes()
    with (folder / "gguf" / "intents-q8_0.gguf").open("r+b") as file:
        file.write(b"XXXX")
    assert source.read_bytes() == before


def test_verify_finds_what_was_done_to_a_bundle(tmp_path: Path) -> None:
    folder = build(tmp_path)
    model = folder / "gguf" / "intents-q8_0.gguf"
    data = bytearray(model.read_bytes())
    data[5000] ^= 1
    model.write_bytes(data)
    (folder / "extra").write_text("x")
    (folder / "Modelfile").unlink()
    (folder / "README.md").write_text("short")
    problems = "\n".join(verify_bundle(folder))
    assert "gguf/intents-q8_0.gguf was changed" in problems
    assert "Modelfile is missing" in problems
    assert "README.md has 5 bytes" in problems
    assert "extra is not in manifest.json" in problems
    assert len(problems.splitlines()) == 4
    (folder / "manifest.json").write_text("[1, 2")
    assert "cannot be read" in verify_bundle(folder)[0]
    (folder / "manifest.json").write_text('{"files": {"../../etc/passwd": {"bytes": 1, "sha256": ""}}}')
    assert "outside of the bundle" in verify_bundle(folder)[0]
    (folder / "manifest.json").unlink()
    assert verify_bundle(folder) == ["manifest.json is missing"]


def test_a_bundle_is_replaced_whole(tmp_path: Path) -> None:
    folder = build(tmp_path)
    checkpoint, artifacts, card = (
        tmp_path / "store" / "checkpoint",
        inputs(tmp_path / "other")[1],
        inputs(tmp_path / "x")[2],
    )
    first = content(folder)
    (folder / "left over").write_text("from the user")
    inode = (folder / "gguf" / "intents-q8_0.gguf").stat().st_ino
    own = [a for a in artifacts if a.preset == "q8_0"]
    write_bundle(folder, name="intents", checkpoint=checkpoint, artifacts=own, card=card, lineage=LINEAGE)
    assert "left over" not in content(folder) and "onnx-int4/genai_config.json" not in content(folder)
    assert content(folder)["gguf/intents-q8_0.gguf"] == first["gguf/intents-q8_0.gguf"]
    assert (folder / "gguf" / "intents-q8_0.gguf").stat().st_ino != inode  # another source, so copied again
    assert verify_bundle(folder) == []


@pytest.mark.parametrize("lacking", ["exchange", "links"])
def test_a_system_that_lacks_something_gets_the_same_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacking: str
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("not supported")

    folder = build(tmp_path / "one")
    if lacking == "exchange":
        monkeypatch.setattr(bundle, "_exchange", lambda one, other: False)
    else:
        monkeypatch.setattr(os, "link", refuse)
    checkpoint, artifacts, card = inputs(tmp_path / "two")
    write_bundle(folder, name="intents", checkpoint=checkpoint, artifacts=artifacts, card=card, lineage=LINEAGE)
    assert content(folder) == content(build(tmp_path / "three"))
    assert [p.name for p in folder.parent.iterdir()] == ["bundle"]


def test_unchanged_files_are_taken_over_and_edited_ones_are_not(tmp_path: Path) -> None:
    folder = build(tmp_path)
    first = content(folder)
    gguf, onnx = folder / "gguf" / "intents-q8_0.gguf", folder / "onnx-int4" / "sub" / "model.onnx"
    inode = gguf.stat().st_ino
    onnx.write_bytes(b"\x09\x01" * 100)  # the same size, edited by the user
    os.utime(onnx, ns=(1, 1))
    checkpoint, artifacts, card = (
        tmp_path / "store" / "checkpoint",
        inputs(tmp_path / "y")[1],
        inputs(tmp_path / "x")[2],
    )
    here = [Artifact(**{**vars(a), "path": a.path.replace(str(tmp_path / "y"), str(tmp_path))}) for a in artifacts]
    write_bundle(folder, name="intents", checkpoint=checkpoint, artifacts=here, card=card, lineage=LINEAGE)
    assert content(folder) == first
    assert gguf.stat().st_ino == inode


def test_a_failing_write_leaves_the_old_bundle(tmp_path: Path) -> None:
    folder = build(tmp_path)
    first = content(folder)
    checkpoint, artifacts, card = inputs(tmp_path / "z")
    Path(artifacts[1].path).unlink()
    with pytest.raises(UserError, match="q8_0 is not there"):
        write_bundle(folder, name="intents", checkpoint=checkpoint, artifacts=artifacts, card=card, lineage=[])
    assert content(folder) == first
    with pytest.raises(UserError, match="nothing to bundle"):
        write_bundle(folder, name="intents", checkpoint=checkpoint, artifacts=artifacts[2:], card=card, lineage=[])
    with pytest.raises(UserError, match="cannot name a bundle"):
        write_bundle(folder, name="../x", checkpoint=checkpoint, artifacts=artifacts, card=card, lineage=[])
    (checkpoint / "tokenizer.json").unlink()
    with pytest.raises(UserError, match="no tokenizer"):
        write_bundle(folder, name="i", checkpoint=checkpoint, artifacts=artifacts[:1], card=card, lineage=[])


def test_the_model_card_is_one_a_hub_reads(tmp_path: Path) -> None:
    folder = build(tmp_path)
    text = (folder / "README.md").read_text()
    front = yaml.safe_load(text.split("---\n")[1])
    assert front["base_model"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert front["license"] == "apache-2.0"
    assert front["library_name"] == "gguf"
    metric = front["model-index"][0]["results"][0]["metrics"][0]
    assert (metric["type"], metric["value"]) == ("accuracy", 0.71)
    assert "````text\nCommand: {input}\n```\nAnswer:\n````" in text  # the fence is longer than what it holds
    assert "71 of 100 (71.0 %)" in text and "KL 0.0035 under 0.02" in text
    hub = pytest.importorskip("huggingface_hub")
    results = hub.ModelCard(text).data.eval_results
    assert [r.metric_value for r in results] == [0.71]


def test_a_licence_the_hub_does_not_know_is_called_other(tmp_path: Path) -> None:
    from dataclasses import replace

    folder = build(tmp_path, lambda card: replace(card, models=(Origin("student", "/home/me/model", "Own terms 1.0"),)))
    front = yaml.safe_load((folder / "README.md").read_text().split("---\n")[1])
    assert (front["license"], front["license_name"]) == ("other", "Own terms 1.0")
    assert "base_model" not in front  # a folder is no hub id


def test_a_folder_for_a_browser_is_shown_in_use(tmp_path: Path) -> None:
    checkpoint, artifacts, card = inputs(tmp_path)
    for_a_browser = replace(artifacts[0], preset="onnx-int4-web", runtime="transformers.js")
    write_bundle(tmp_path / "b", name="intents", checkpoint=checkpoint, artifacts=[for_a_browser], card=card, lineage=[])
    card_text = (tmp_path / "b" / "README.md").read_text("utf-8")
    assert 'await pipeline("text-generation", "onnx-int4-web")' in card_text
    assert "transformers" not in (build(tmp_path / "other") / "README.md").read_text("utf-8")
