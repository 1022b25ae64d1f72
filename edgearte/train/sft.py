"""Supervised fine-tuning of the student (paper 5), through TRL."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgearte.records import Example
from edgearte.store import Store
from edgearte.train import common, match, trie

VERSION = 4


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
    folder: Path, identity: str, examples: Sequence[dict[str, Any]], settings: Settings, store: Store, *, label: str,
    matched: match.Match | None = None,
) -> Path:  # fmt: skip
    """The folder of the student taught with `examples`, as `rows` made them; with the teacher's states of them where they are `matched`."""
    options = {"student": identity, "rows": examples, **vars(settings)}
    if matched:
        options["matched"] = {"teacher": matched.teacher, "weight": matched.weight}

    def build(out: Path) -> None:
        _train(folder, list(examples), settings, matched, out)

    return store.tree("train", VERSION, options, build, label=label)


def _train(folder: Path, examples: list[dict[str, Any]], settings: Settings, matched: match.Match | None, out: Path) -> None:
    from datasets import Dataset
    from trl import SFTConfig

    model, tokenizer = common.load(folder, "float32")
    with tempfile.TemporaryDirectory() as scratch:
        config = SFTConfig(
            per_device_train_batch_size=settings.batch,
            num_train_epochs=settings.epochs,
            max_length=settings.max_tokens,
            completion_only_loss=True,
            bf16=common.bf16(),
            **common.trainer_options(settings, scratch),
        )
        if matched:
            examples = [{**e, "state": state} for e, state in zip(examples, matched.states, strict=True)]
        trainer = _trainer([c for c in ("weight", "state") if c in examples[0]], matched.weight if matched else 0.0)(
            model=model,
            args=config,
            train_dataset=Dataset.from_list(examples),
            processing_class=tokenizer,
            peft_config=common.adapter(settings),
        )
        common.run(trainer, settings.warmup, "linear")
    log = common.trained(trainer.state, len(examples), {"distance": "distance"})
    tokens = settings.epochs * sum(map(len, trainer.train_dataset["input_ids"]))
    log = replace(log, tokens=tokens)  # what TRL's own loss would have counted
    common.save(common.whole(trainer, settings), tokenizer, folder, out, log)


def _trainer(extra: Sequence[str], matching: float) -> Any:
    """TRL's trainer; on a processor, or where examples have `extra` columns (a weight, the teacher's state), with a step that reads what
    the batch's texts share once and scores the answers alone.

    Without Triton, TRL's loss scores every token of the prompt too, with the whole vocabulary; and it knows neither column.
    """
    import torch
    from trl import SFTTrainer

    if torch.cuda.is_available() and not extra:
        return SFTTrainer

    class Shared(SFTTrainer):  # type: ignore[misc, unused-ignore]
        def __init__(self, *given: Any, **named: Any) -> None:
            super().__init__(*given, **named)
            if extra:
                self.data_collator: Any = common.keeping(extra, self.data_collator)

        def _set_signature_columns_if_needed(self) -> None:
            super()._set_signature_columns_if_needed()
            self._signature_columns += [c for c in extra if c not in self._signature_columns]

        def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Any:
            """Minus the mean over the batch's answer tokens of weight * log p, and `matching` times how unlike its geometry is to the
            teacher's (for which the batch is computed in one part)."""
            read = common.texts(inputs, inputs["labels"] != -100)
            kept = [k for k, t in enumerate(read) if t.targets()]  # of some the answer was cut off
            groups = [kept] if matching else [[k] for k in kept]
            count = sum(len(read[k].targets()) for k in kept)
            weights = inputs["weight"].tolist() if "weight" in extra else [1.0] * len(read)

            def loss(numbers: Sequence[int], found: trie.Read) -> Any:
                mine = [weights[k] for n in numbers for k in groups[n]]
                total = -torch.cat([w * p for w, p in zip(mine, found.log_probs, strict=True)]).sum() / count
                if matching and len(kept) > 1:
                    apart = match.distance(found.states, inputs["state"][kept].to(model.device))
                    self._metrics["train"]["distance"].append(apart.item())
                    total = total + matching * apart
                return total

            return common.step(self, model, [[read[k] for k in group] for group in groups], loss)

    return Shared

