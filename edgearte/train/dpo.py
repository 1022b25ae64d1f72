"""Aligning the teacher with the student's preferences by DPO (paper 3), through TRL, with LoRA."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgearte.records import Pair
from edgearte.store import Store
from edgearte.train import common

VERSION = 1


@dataclass(frozen=True)
class Settings:
    beta: float
    learning_rate: float
    epochs: int
    batch: int
    micro_batch: int
    lora_rank: int
    dtype: str
    seed: int


def align(folder: Path, identity: str, pairs: Sequence[Pair], settings: Settings, store: Store) -> Path:
    """The folder of the aligned teacher, its adapter merged."""
    rows = [{"prompt": p.prompt, "chosen": p.chosen, "rejected": p.rejected} for p in pairs]
    # How many rows are computed at once decides the last bits of the sum, so it belongs to the key as well.
    options = {"teacher": identity, "rows": rows, **vars(settings)}
    return store.tree(
        "align", VERSION, options, lambda out: _align(folder, rows, settings, out), label="align the teacher"
    )


def _align(folder: Path, rows: list[dict[str, str]], settings: Settings, out: Path) -> None:
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    model, tokenizer = common.load(folder, settings.dtype)
    bos = tokenizer.bos_token
    if bos:  # a rendered chat brings it; the trainer's tokenizer would add a second one
        rows = [{**r, "prompt": r["prompt"].removeprefix(bos)} for r in rows]
    with tempfile.TemporaryDirectory() as scratch:
        config = DPOConfig(
            output_dir=scratch,
            beta=settings.beta,
            learning_rate=settings.learning_rate,
            num_train_epochs=settings.epochs,
            per_device_train_batch_size=min(settings.micro_batch, settings.batch),
            gradient_accumulation_steps=max(1, settings.batch // settings.micro_batch),
            warmup_steps=0.1,
            lr_scheduler_type="cosine",
            max_length=None,
            bf16=settings.dtype == "bfloat16",
            **common.trainer_options(settings.seed),
        )
        trainer = DPOTrainer(
            model=model,
            args=config,
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            peft_config=common.lora(settings.lora_rank),
        )
        common.run(trainer)
    keys = {"loss": "loss", "margin": "rewards/margins", "accuracy": "rewards/accuracies"}
    log = common.trained(trainer.state, len(rows), keys)
    common.save(trainer.model.merge_and_unload(), folder, out, log)
