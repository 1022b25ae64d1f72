"""Supervised fine-tuning of the student (paper 5), through TRL."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgearte.records import Example
from edgearte.store import Store
from edgearte.train import common

VERSION = 3


@dataclass(frozen=True)
class Settings:
    learning_rate: float
    epochs: int
    batch: int
    lora_rank: int
    warmup: float
    max_tokens: int
    seed: int


def rows(examples: Sequence[Example], ask: Callable[[str], list[dict[str, str]] | str]) -> list[dict[str, Any]]:
    """The examples in TRL's prompt/completion form, with a `weight` where they are not all worth the same; `ask` says how the student is
    asked a question (a conversation, or a text)."""
    weighted = any(e.weight != 1 for e in examples)
    made: list[dict[str, Any]] = []
    for e in examples:
        prompt = ask(e.input)
        extra = {"weight": e.weight} if weighted else {}
        if isinstance(prompt, str):
            made.append({"prompt": prompt, "completion": " " + e.completion, **extra})
        else:
            made.append({"prompt": prompt, "completion": [{"role": "assistant", "content": e.completion}], **extra})
    return made


def train(
    folder: Path, identity: str, examples: Sequence[dict[str, Any]], settings: Settings, store: Store, *, label: str
) -> Path:
    """The folder of the student taught with `examples`, as `rows` made them."""
    options = {"student": identity, "rows": examples, **vars(settings)}

    def build(out: Path) -> None:
        _train(folder, list(examples), settings, out)

    return store.tree("train", VERSION, options, build, label=label)


def _train(folder: Path, examples: list[dict[str, Any]], settings: Settings, out: Path) -> None:
    from datasets import Dataset
    from trl import SFTConfig

    model, tokenizer = common.load(folder, "float32")
    with tempfile.TemporaryDirectory() as scratch:
        config = SFTConfig(
            per_device_train_batch_size=settings.batch,
            warmup_steps=settings.warmup,
            lr_scheduler_type="linear",
            max_length=settings.max_tokens,
            completion_only_loss=True,
            bf16=common.bf16(),
            **common.trainer_options(settings, scratch),
        )
        trainer = _trainer(weighted="weight" in examples[0])(
            model=model,
            args=config,
            train_dataset=Dataset.from_list(examples),
            processing_class=tokenizer,
            peft_config=common.adapter(settings),
        )
        common.run(trainer)
    log = common.trained(trainer.state, len(examples), {"loss": "loss", "learning_rate": "learning_rate"})
    tokens = settings.epochs * sum(map(len, trainer.train_dataset["input_ids"]))
    log = replace(log, tokens=tokens)  # what TRL's own loss would have counted
    common.save(common.whole(trainer, settings), folder, out, log)


def _trainer(*, weighted: bool) -> Any:
    """TRL's trainer; on a processor, or where examples have weights, with a step that reads what the batch's texts share once and scores
    the answers alone.

    Without Triton, TRL's loss scores every token of the prompt too, with the whole vocabulary; and it knows no weights.
    """
    import torch
    from trl import SFTTrainer

    if torch.cuda.is_available() and not weighted:
        return SFTTrainer

    class Shared(SFTTrainer):  # type: ignore[misc, unused-ignore]
        def __init__(self, *given: Any, **named: Any) -> None:
            super().__init__(*given, **named)
            if weighted:
                self.data_collator: Any = _with_weights(self.data_collator)

        def _set_signature_columns_if_needed(self) -> None:
            super()._set_signature_columns_if_needed()
            if weighted and "weight" not in self._signature_columns:
                self._signature_columns.append("weight")

        def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Any:
            """Minus the mean over the batch's answer tokens of weight * log p."""
            read = common.texts(inputs, inputs["labels"] != -100)
            kept = [k for k, t in enumerate(read) if t.targets()]  # of some the answer was cut off
            weights = inputs["weight"][kept].tolist() if weighted else []
            count = sum(len(read[k].targets()) for k in kept)

            def loss(numbers: Sequence[int], found: list[Any]) -> Any:
                if weights:
                    found = [weights[n] * f for n, f in zip(numbers, found, strict=True)]
                return -torch.cat(found).sum() / count

            return common.step(self, model, [[read[k]] for k in kept], loss)

    return Shared


def _with_weights(collate: Callable[[list[dict[str, Any]]], dict[str, Any]]) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
    """A collator that keeps the rows' weights."""
    import torch

    def both(rows: list[dict[str, Any]]) -> dict[str, Any]:
        return {**collate(rows), "weight": torch.tensor([row["weight"] for row in rows])}

    return both
