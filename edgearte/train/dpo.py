"""Aligning the teacher with the student's preferences by DPO (paper 3, arXiv 2305.18290), through TRL.

A pair's loss is -log sigmoid(m), m = beta * (r(chosen) - r(rejected)); r is the log of how much more probable the teacher makes the text
than the one it started as did. Three things usual beside it are options: r per token (`length_normalised`, arXiv 2405.14734), a share e of
pairs taken to be the wrong way round (`label_smoothing`: (1 - e) * -log sigmoid(m) + e * -log sigmoid(-m), arXiv 2305.18290's authors' note
on conservative DPO), and the chosen text's own loss (`sft`: minus its mean log-probability a token, arXiv 2404.19733).

How long it learns is told by pairs that it does not learn from (`held_out.py`).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgearte.errors import UserError
from edgearte.records import Pair
from edgearte.store import Store
from edgearte.train import common, held_out, trie

if TYPE_CHECKING:
    import torch

VERSION = 3
WARMUP = 0.1  # share of the steps


@dataclass(frozen=True)
class Settings:
    """`recipe.Align` in the training's own terms, with the teacher's `dtype` and a `seed`."""

    beta: float
    learning_rate: float
    min_steps: int
    max_steps: int
    patience: int
    batch: int
    micro_batch: int  # pairs computed at once on a GPU; on a processor a part of a batch is as large as `trie` says
    lora_rank: int  # 0: all weights
    sft: float
    length_normalised: bool
    label_smoothing: float
    dtype: str
    seed: int


def planned(learned: int, held: int, settings: Settings) -> int:
    """Optimiser steps for so many pairs: an epoch, or `max_steps` where an epoch has fewer, which pairs that are `held` out may end
    earlier. Without those nothing tells when it is enough: an epoch, and `min_steps` at least."""
    return max(-(-learned // settings.batch), settings.max_steps if held else settings.min_steps)


def align(folder: Path, identity: str, pairs: Sequence[Pair], settings: Settings, store: Store, *, label: str) -> Path:
    """The folder of the aligned teacher, its adapter merged. Pairs that are held out are not learned from: they tell when to stop, and
    which step's weights to keep; its log says which (`best_step`, 0 for the teacher as it was). UserError where that leaves none."""
    learned, held = ([_row(p) for p in pairs if p.held_out is out] for out in (False, True))
    if not learned:
        raise UserError(f"align.held_out: of {len(pairs)} pairs none is left to learn from; make it smaller, or draft more questions")
    # How many rows are computed at once decides the last bits of the sum, so it belongs to the key as well.
    options = {"teacher": identity, "rows": learned, "held out": held, **vars(settings)}
    return store.tree("align", VERSION, options, lambda out: _align(folder, learned, held, settings, out), label=label)


def _row(pair: Pair) -> dict[str, Any]:
    return {"prompt": pair.prompt, "chosen": pair.chosen, "rejected": pair.rejected, "weight": pair.weight}


def _align(
    folder: Path, learned: list[dict[str, Any]], held: list[dict[str, Any]], settings: Settings, out: Path
) -> None:
    from trl import DPOConfig

    # All weights are trained in float32: steps as small as these would be lost in bfloat16. An adapter is float32 in any case.
    model, tokenizer = common.load(folder, settings.dtype if settings.lora_rank else "float32")
    steps = planned(len(learned), len(held), settings)
    with tempfile.TemporaryDirectory() as scratch:
        config = DPOConfig(
            beta=settings.beta,
            per_device_train_batch_size=settings.batch,
            per_device_eval_batch_size=settings.batch,
            max_steps=steps,
            max_length=None,
            precompute_ref_log_probs=True,  # once, before the first step: no second model is held, and no epoch computes them again
            bf16=settings.dtype == "bfloat16" and common.bf16(),
            **common.trainer_options(settings, scratch),
        )
        trainer = _trainer(settings)(
            model=model,
            args=config,
            train_dataset=_dataset(learned, tokenizer),
            eval_dataset=_dataset(held, tokenizer) if held else None,
            processing_class=tokenizer,
            peft_config=common.adapter(settings),
        )
        looks = None
        if held:
            looks = held_out.Looks(trainer, steps, settings.min_steps, settings.patience, half=not settings.lora_rank)
            trainer.add_callback(looks.callback())
        common.run(trainer, WARMUP, "cosine")
    log = common.trained(trainer.state, len(learned), {"margin": "rewards/margins", "accuracy": "rewards/accuracies"})
    if looks:
        looks.restore()
        log = replace(log, held_out=tuple(looks.curve), best_step=looks.best_step)
    common.save(common.whole(trainer, settings), tokenizer, folder, out, log)


def _dataset(rows: list[dict[str, Any]], tokenizer: Any) -> Any:
    from datasets import Dataset

    bos = tokenizer.bos_token
    if bos:  # a rendered chat brings it; the trainer's tokenizer would add a second one
        rows = [{**r, "prompt": r["prompt"].removeprefix(bos)} for r in rows]
    return Dataset.from_list(rows)


def margins(found: Sequence[torch.Tensor], reference: torch.Tensor, settings: Settings) -> torch.Tensor:
    """beta * (r(chosen) - r(rejected)) of each pair; `found` holds the log-probabilities of its two texts' tokens, one text after the
    other, `reference` [pairs, 2] their sums before the first step."""
    import torch

    ratios = torch.stack([f.sum() for f in found]).view(-1, 2) - reference
    if settings.length_normalised:
        ratios = ratios / torch.tensor([len(f) for f in found], device=ratios.device).view(-1, 2)
    return settings.beta * (ratios[:, 0] - ratios[:, 1])


def losses(margin: torch.Tensor, settings: Settings) -> torch.Tensor:
    """The preference loss of each pair."""
    from torch.nn.functional import logsigmoid

    wrong = settings.label_smoothing
    return -(1 - wrong) * logsigmoid(margin) - wrong * logsigmoid(-margin)


def _trainer(settings: Settings) -> Any:
    """TRL's trainer with a step of our own: pairs have weights, and the prompt of a pair is read once, its answers alone scored."""
    import torch
    from trl import DPOTrainer

    limit = settings.micro_batch * trie.TOKENS if torch.cuda.is_available() else 0

    class Shared(DPOTrainer):  # type: ignore[misc, unused-ignore]
        def __init__(self, *given: Any, **named: Any) -> None:
            super().__init__(*given, **named)
            self.data_collator: Any = common.keeping(["weight"], self.data_collator)

        def _set_signature_columns_if_needed(self) -> None:
            super()._set_signature_columns_if_needed()
            if "weight" not in self._signature_columns:
                self._signature_columns.append("weight")

        def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Any:
            """The mean over the batch's pairs of weight * (preference loss + sft * minus the chosen's mean log-probability a token)."""
            groups, reference, weights = self._read(model, inputs)
            told = torch.zeros(len(groups))

            def loss(numbers: Sequence[int], found: trie.Read) -> Any:
                mine = list(numbers)
                margin = margins(found.log_probs, reference[mine], settings)
                told[mine] = margin.detach().cpu()
                each = losses(margin, settings)
                if settings.sft:
                    each = each - settings.sft * torch.stack([chosen.mean() for chosen in found.log_probs[::2]])
                return (weights[mine] * each).sum() / len(groups)

            total = common.step(self, model, groups, loss, limit)
            self._total_train_tokens += int(inputs["attention_mask"].sum())
            self._metrics["train"]["num_tokens"] = [self._total_train_tokens]
            self._metrics["train"]["rewards/margins"].append(told.mean().item())
            self._metrics["train"]["rewards/accuracies"].append((told > 0).float().mean().item())
            return total

        def look(self) -> dict[str, float]:
            """What the model now makes of the held-out pairs: their mean loss, each by its weight; the share that it has the right way
            round; the mean margin."""
            rows, model = self.eval_dataset, self.model
            model.eval()
            found: list[tuple[torch.Tensor, torch.Tensor]] = []
            for start in range(0, len(rows), settings.batch):
                inputs = self.data_collator([rows[k] for k in range(start, min(start + settings.batch, len(rows)))])
                groups, reference, weights = self._read(model, inputs)
                found += [(margins(f, reference[k], settings), weights[k]) for k, f in self._seen(model, groups)]
            margin, weight = (torch.cat(column) for column in zip(*found, strict=True))
            loss = (weight * losses(margin, settings)).sum() / weight.sum().clamp(min=1e-9)
            return {"loss": loss.item(), "accuracy": (margin > 0).float().mean().item(), "margin": margin.mean().item()}

        def compute_ref_log_probs(self, model: Any, inputs: dict[str, Any]) -> tuple[Any, Any]:
            """Called before the first step, when a new adapter still adds nothing: the model is its own reference."""
            groups = self._pairs(inputs)
            sums = torch.zeros(len(groups), 2, device=model.device)
            for numbers, found in self._seen(model, groups):
                sums[numbers] = torch.stack([f.sum() for f in found]).view(-1, 2)
            return sums[:, 0], sums[:, 1]

        def _seen(self, model: Any, groups: list[list[trie.Text]]) -> Iterator[tuple[list[int], list[torch.Tensor]]]:
            """The numbers of some pairs, and the log-probabilities of their texts' tokens; of all pairs, part by part."""
            for part in trie.parts(groups, shared=common.shared(self, model), limit=limit):
                with torch.no_grad(), self.accelerator.autocast():
                    yield list(part.groups), trie.log_probs(model, part)

        def _read(self, model: Any, inputs: dict[str, Any]) -> tuple[list[list[trie.Text]], torch.Tensor, torch.Tensor]:
            """A batch's pairs, their reference sums [pairs, 2] and their weights."""
            reference = torch.stack((inputs["ref_chosen_logps"], inputs["ref_rejected_logps"]), 1)
            return self._pairs(inputs), reference.to(model.device), inputs["weight"].to(model.device)

        def _pairs(self, inputs: dict[str, Any]) -> list[list[trie.Text]]:
            """TRL's batch holds the chosen texts, then the rejected ones."""
            texts = common.texts(inputs, inputs["completion_mask"])
            half = len(texts) // 2
            return [list(pair) for pair in zip(texts[:half], texts[half:], strict=True)]

    return Shared
