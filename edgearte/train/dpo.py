"""Aligning the teacher with the student's preferences by DPO (paper 3, arXiv 2305.18290), through TRL."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgearte.records import Pair
from edgearte.store import Store
from edgearte.train import common, trie

VERSION = 2


@dataclass(frozen=True)
class Settings:
    beta: float
    learning_rate: float
    epochs: int
    batch: int
    micro_batch: int  # pairs computed at once on a GPU; on a processor a part of a batch is as large as `trie` says
    lora_rank: int  # 0: all weights
    dtype: str
    seed: int


def align(folder: Path, identity: str, pairs: Sequence[Pair], settings: Settings, store: Store, *, label: str) -> Path:
    """The folder of the aligned teacher, its adapter merged."""
    rows = [{"prompt": p.prompt, "chosen": p.chosen, "rejected": p.rejected} for p in pairs]
    # How many rows are computed at once decides the last bits of the sum, so it belongs to the key as well.
    options = {"teacher": identity, "rows": rows, **vars(settings)}
    return store.tree("align", VERSION, options, lambda out: _align(folder, rows, settings, out), label=label)


def _align(folder: Path, rows: list[dict[str, str]], settings: Settings, out: Path) -> None:
    from datasets import Dataset
    from trl import DPOConfig

    # All weights are trained in float32: steps as small as these would be lost in bfloat16. An adapter is float32 in any case.
    model, tokenizer = common.load(folder, settings.dtype if settings.lora_rank else "float32")
    bos = tokenizer.bos_token
    if bos:  # a rendered chat brings it; the trainer's tokenizer would add a second one
        rows = [{**r, "prompt": r["prompt"].removeprefix(bos)} for r in rows]
    trainer_class, at_once = _trainer(settings)
    with tempfile.TemporaryDirectory() as scratch:
        config = DPOConfig(
            beta=settings.beta,
            per_device_train_batch_size=at_once,
            gradient_accumulation_steps=max(1, settings.batch // at_once),
            warmup_steps=0.1,
            lr_scheduler_type="cosine",
            max_length=None,
            precompute_ref_log_probs=True,  # once, before the first step: no second model is held, and no epoch computes them again
            bf16=settings.dtype == "bfloat16" and common.bf16(),
            **common.trainer_options(settings, scratch),
        )
        trainer = trainer_class(
            model=model,
            args=config,
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            peft_config=common.adapter(settings),
        )
        common.run(trainer)
    keys = {"loss": "loss", "margin": "rewards/margins", "accuracy": "rewards/accuracies"}
    log = common.trained(trainer.state, len(rows), keys)
    common.save(common.whole(trainer, settings), tokenizer, folder, out, log)


def _trainer(settings: Settings) -> tuple[Any, int]:
    """The trainer, and how many pairs it is given at once: TRL's own, or on a processor one that reads the prompt of a pair once and
    scores the answers alone."""
    import torch
    from trl import DPOTrainer

    if torch.cuda.is_available():
        return DPOTrainer, min(settings.micro_batch, settings.batch)

    class Shared(DPOTrainer):  # type: ignore[misc, unused-ignore]
        def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Any:
            groups = self._pairs(inputs)
            reference = torch.stack((inputs["ref_chosen_logps"], inputs["ref_rejected_logps"]), 1)
            margins = torch.zeros(len(groups))

            def loss(numbers: Sequence[int], found: trie.Read) -> Any:
                """The pairs' share of the mean of -log sigmoid(beta * (chosen's log-ratio - rejected's))."""
                ratios = torch.stack([f.sum() for f in found.log_probs]).view(-1, 2) - reference[list(numbers)]
                margin = settings.beta * (ratios[:, 0] - ratios[:, 1])
                margins[list(numbers)] = margin.detach()
                return -torch.nn.functional.logsigmoid(margin).sum() / len(groups)

            total = common.step(self, model, groups, loss)
            self._total_train_tokens += int(inputs["attention_mask"].sum())
            self._metrics["train"]["num_tokens"] = [self._total_train_tokens]
            self._metrics["train"]["rewards/margins"].append(margins.mean().item())
            self._metrics["train"]["rewards/accuracies"].append((margins > 0).float().mean().item())
            return total

        def compute_ref_log_probs(self, model: Any, inputs: dict[str, Any]) -> tuple[Any, Any]:
            """Called before the first step, when a new adapter still adds nothing: the model is its own reference."""
            groups = self._pairs(inputs)
            sums = torch.zeros(len(groups), 2)
            with torch.no_grad(), self.accelerator.autocast():
                for part in trie.parts(groups, shared=common.shared(self, model)):
                    found = trie.log_probs(model, part)
                    sums[list(part.groups)] = torch.stack([f.sum() for f in found]).view(-1, 2)
            return sums[:, 0], sums[:, 1]

        def _pairs(self, inputs: dict[str, Any]) -> list[list[trie.Text]]:
            """TRL's batch holds the chosen texts, then the rejected ones."""
            texts = common.texts(inputs, inputs["completion_mask"])
            half = len(texts) // 2
            return [list(pair) for pair in zip(texts[:half], texts[half:], strict=True)]

    return Shared, settings.batch
