"""Supervised fine-tuning of the student (paper 5), through TRL."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgearte.records import Example
from edgearte.store import Store
from edgearte.train import common

VERSION = 1


@dataclass(frozen=True)
class Settings:
    learning_rate: float
    epochs: int
    batch: int
    lora_rank: int
    warmup: float
    max_tokens: int
    seed: int


def conversations(examples: Sequence[Example], chat: bool) -> list[dict[str, Any]]:
    """The examples in TRL's prompt/completion form; conversational where the student has a chat template."""
    if not chat:
        return [{"prompt": e.input + "\nAnswer:", "completion": " " + e.completion} for e in examples]
    return [
        {
            "prompt": [{"role": "user", "content": e.input}],
            "completion": [{"role": "assistant", "content": e.completion}],
        }
        for e in examples
    ]


def train(
    folder: Path, identity: str, examples: Sequence[Example], chat: bool, settings: Settings, store: Store, *, label: str
) -> Path:
    """The folder of the student taught with `examples`, whose `input` is the whole text the student is asked."""
    rows = conversations(examples, chat)
    options = {"student": identity, "rows": rows, **vars(settings)}

    def build(out: Path) -> None:
        _train(folder, rows, settings, out)

    return store.tree("train", VERSION, options, build, label=label)


def _train(folder: Path, rows: list[dict[str, Any]], settings: Settings, out: Path) -> None:
    import torch
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    model, tokenizer = common.load(folder, "float32")
    with tempfile.TemporaryDirectory() as scratch:
        config = SFTConfig(
            output_dir=scratch,
            learning_rate=settings.learning_rate,
            num_train_epochs=settings.epochs,
            per_device_train_batch_size=settings.batch,
            warmup_steps=settings.warmup,
            lr_scheduler_type="linear",
            max_length=settings.max_tokens,
            completion_only_loss=True,
            bf16=_bf16(torch),
            **common.trainer_options(settings.seed),
        )
        trainer = SFTTrainer(
            model=model,
            args=config,
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            peft_config=common.lora(settings.lora_rank) if settings.lora_rank else None,
        )
        trainer.train()
    taught = trainer.model.merge_and_unload() if settings.lora_rank else trainer.model
    log = common.trained(trainer.state, len(rows), {"loss": "loss", "learning_rate": "learning_rate"})
    common.save(taught, folder, out, log)


def _bf16(torch: Any) -> bool:
    """Mixed precision where the processor computes in bfloat16; elsewhere it would only be slower."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported())
    capability = torch.backends.cpu.get_cpu_capability()
    return capability.startswith("AVX512") and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
