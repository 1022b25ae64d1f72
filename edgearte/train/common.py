"""What the trainings share: loading, saving, one step, a collator, and reading a trainer's log."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from edgearte.files import TOKENIZER, copy_files
from edgearte.train import schedule, trie
from edgearte.train.trie import Text

LOG = "training.json"

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Trained:
    """What a training left: examples learned from, optimiser steps, tokens seen, and the points of its curve. Where examples were held
    out, what each look at them found, and the step whose weights were kept (0: those it began with)."""

    examples: int
    steps: int
    tokens: int
    curve: tuple[Mapping[str, float], ...]
    held_out: tuple[Mapping[str, float], ...] = ()
    best_step: int | None = None


def load(folder: Path, dtype: str) -> tuple[Any, Any]:
    """A model and its tokenizer for training, padded on the right."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
    model.config.use_cache = False
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model, tokenizer


def lora(rank: int) -> Any:
    """LoRA on every linear layer but the head; alpha is twice the rank, as is usual."""
    from peft import LoraConfig

    return LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")


def save(model: Any, tokenizer: Any, source: Path, out: Path, log: Trained) -> None:
    """The trained weights in bfloat16 (what they are exported from, and half the disk), the *source's* tokenizer, and the log.

    The tokenizer is copied, not written again, so that training can never change how a text is split. A base model ends texts with another
    token than its chat template ends answers with; having learned answers, it must stop at both.
    """
    import torch

    model.config.use_cache = True
    end, known = answer_end(tokenizer), model.generation_config.eos_token_id
    stops = known if isinstance(known, list) else [known]
    if end is not None and end not in stops:
        model.generation_config.eos_token_id = sorted({*stops, end} - {None})
    model.to(torch.bfloat16).save_pretrained(out)
    copy_files(source, out, TOKENIZER)
    (out / LOG).write_text(json.dumps(vars(log), indent=1), "utf-8")


def answer_end(tokenizer: Any) -> int | None:
    """The special token with which the chat template closes an answer; None where there is no template, or no such token."""
    from jinja2 import TemplateError

    said = "\N{BLACK STAR} said"
    try:
        text = str(tokenizer.apply_chat_template(
            [{"role": "user", "content": "?"}, {"role": "assistant", "content": said}], tokenize=False
        )) if tokenizer.chat_template else ""  # fmt: skip
    except TemplateError:
        return None
    after = tokenizer(text.rpartition(said)[2], add_special_tokens=False)["input_ids"] if said in text else []
    return int(after[0]) if after and after[0] in tokenizer.get_added_vocab().values() else None


def read_log(folder: Path) -> Trained:
    """The log that `save` wrote."""
    return Trained(**json.loads((folder / LOG).read_text("utf-8")))


class Settings(Protocol):
    """What the settings of every training say."""

    @property
    def learning_rate(self) -> float: ...
    @property
    def lora_rank(self) -> int: ...
    @property
    def seed(self) -> int: ...


def trainer_options(settings: Settings, scratch: str) -> dict[str, Any]:
    """The arguments every trainer of ours gets."""
    import torch

    seed = settings.seed
    return {
        "output_dir": scratch,
        "learning_rate": settings.learning_rate,
        "use_cpu": not torch.cuda.is_available(),
        "seed": seed % 2**31,
        "data_seed": seed % 2**31,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": not sys.stderr.isatty(),
        "gradient_checkpointing": False,  # it trades a third of the speed for memory that small models do not lack
        "dataloader_pin_memory": False,
    }


def bf16() -> bool:
    """Mixed precision where the processor computes in bfloat16; elsewhere it would only be slower."""
    import torch

    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported())
    capability = torch.backends.cpu.get_cpu_capability()
    return capability.startswith("AVX512") and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def texts(inputs: Mapping[str, Any], wanted: Any) -> list[Text]:
    """The texts of a trainer's padded batch; `wanted` [texts, tokens] says which tokens are learned."""
    kept = inputs["attention_mask"].bool()
    batch = zip(inputs["input_ids"], kept, wanted.bool(), strict=True)
    return [Text(tuple(ids[k].tolist()), tuple(want[k].tolist())) for ids, k, want in batch]


def keeping(extra: Sequence[str], collate: Callable[[Rows], dict[str, Any]]) -> Callable[[Rows], dict[str, Any]]:
    """A trainer's collator that keeps these columns of the rows as well."""
    import torch

    def both(rows: Rows) -> dict[str, Any]:
        return {**collate(rows), **{column: torch.tensor([row[column] for row in rows]) for column in extra}}

    return both


def step(
    trainer: Any, model: Any, groups: Sequence[Sequence[Text]], loss: Callable[[Sequence[int], trie.Read], Any], limit: int = 0
) -> Any:
    """One training step over a batch of groups of texts; the batch's loss.

    `loss` gives the share of some groups in the loss of the batch, from their numbers and what the model makes of their texts.
    The batch is computed part by part, each with a backward pass of its own and of up to `limit` tokens (0: as `trie` has them).
    """
    import torch

    model.train()
    total = torch.zeros((), device=model.device)
    for part in trie.parts(groups, shared=shared(trainer, model), limit=limit):
        with trainer.compute_loss_context_manager():
            one = loss(part.groups, trie.read(model, part))
        trainer.accelerator.backward(one)
        total = total + one.detach()
    return total


def shared(trainer: Any, model: Any) -> bool:
    """Whether texts that begin alike are read once (`trie.fits`); found out once per training, and said where not."""
    if not hasattr(trainer, "reads_shared"):
        columns = [c for c in trainer.train_dataset.column_names if c.endswith("ids")]
        longest = max(sum(len(row[c]) for c in columns) for row in trainer.train_dataset)
        trainer.reads_shared = trie.fits(model, longest)
        if not trainer.reads_shared:
            kind = model.config.get_text_config().model_type
            print(f"{kind}: what its texts begin with is computed again for each; training is slower", file=sys.stderr)
    return bool(trainer.reads_shared)


def adapter(settings: Settings) -> Any:
    """The adapter to be trained, or None where all weights are."""
    return lora(settings.lora_rank) if settings.lora_rank else None


def whole(trainer: Any, settings: Settings) -> Any:
    """The trained model, its adapter merged."""
    return trainer.model.merge_and_unload() if settings.lora_rank else trainer.model


def run(trainer: Any, warmup: float, decay: schedule.Decay) -> None:
    """Train, at learning rates by our own schedule. What a trainer prints for every step is in its log, and from there in the report."""
    from transformers.trainer_callback import PrinterCallback

    schedule.attach(trainer, warmup, decay)
    trainer.remove_callback(PrinterCallback)
    trainer.train()


def trained(state: Any, examples: int, keys: Mapping[str, str]) -> Trained:
    """The trainer's log as a curve of `keys` (ours -> the trainer's), beside loss and learning rate."""
    keys = {"loss": "loss", "learning_rate": "learning_rate", **keys}
    history: Sequence[Mapping[str, float]] = [h for h in state.log_history if "loss" in h]
    curve = tuple(
        {"step": float(h["step"]), **{ours: float(h[theirs]) for ours, theirs in keys.items() if theirs in h}}
        for h in history
    )
    tokens = max((int(h.get("num_tokens", 0)) for h in history), default=0)
    return Trained(examples, int(state.global_step), tokens, curve)
