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

VERSION = 2


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
    """The examples in TRL's prompt/completion form; `ask` says how the student is asked a question (a conversation, or a text)."""
    made: list[dict[str, Any]] = []
    for e in examples:
        prompt = ask(e.input)
        if isinstance(prompt, str):
            made.append({"prompt": prompt, "completion": " " + e.completion})
        else:
            made.append({"prompt": prompt, "completion": [{"role": "assistant", "content": e.completion}]})
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
    import torch
    from datasets import Dataset
    from trl import SFTConfig

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
        trainer = _trainer()(
            model=model,
            args=config,
            train_dataset=Dataset.from_list(examples),
            processing_class=tokenizer,
            peft_config=common.lora(settings.lora_rank) if settings.lora_rank else None,
        )
        common.run(trainer)
    taught = trainer.model.merge_and_unload() if settings.lora_rank else trainer.model
    log = common.trained(trainer.state, len(examples), {"loss": "loss", "learning_rate": "learning_rate"})
    tokens = settings.epochs * sum(map(len, trainer.train_dataset["input_ids"]))
    log = replace(log, tokens=tokens)  # what TRL's own loss would have counted
    common.save(taught, folder, out, log)


def _trainer() -> Any:
    """TRL's trainer; on a processor with a loss that computes logits for the answers alone.

    Without Triton, TRL's loss scores every token of the prompt too, twice, with the matrix of the whole vocabulary in float32:
    half of the time of a step of SmolLM2-135M.
    """
    import torch
    from trl import SFTTrainer

    if torch.cuda.is_available():
        return SFTTrainer

    class AnswersOnly(SFTTrainer):  # type: ignore[misc, unused-ignore]
        def compute_loss(
            self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            labels = inputs.pop("labels")
            first = int((labels != -100).any(0).nonzero()[0])  # the batch's first token of an answer
            kept = torch.arange(first - 1, labels.shape[1] - 1)
            outputs = model(**inputs, use_cache=False, logits_to_keep=kept)
            total = torch.nn.functional.cross_entropy(
                outputs.logits.float().flatten(0, 1), labels[:, first:].flatten(), ignore_index=-100, reduction="sum"
            )
            loss = total / ((labels != -100).sum() if num_items_in_batch is None else num_items_in_batch)
            return (loss, outputs) if return_outputs else loss

    return AnswersOnly


def _bf16(torch: Any) -> bool:
    """Mixed precision where the processor computes in bfloat16; elsewhere it would only be slower."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported())
    capability = torch.backends.cpu.get_cpu_capability()
    return capability.startswith("AVX512") and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
