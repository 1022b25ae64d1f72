"""On-policy distillation (arXiv 2306.13649): the student answers, and learns at every token of its own answer what the teacher would
have said there; through TRL."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgearte.errors import UserError
from edgearte.store import Store
from edgearte.train import common

VERSION = 2
PROBE = "Über 3.14 × 10⁻² people — don't\n\tsay 'naïve' in 日本語 😀: def f(x):\n        return x"


@dataclass(frozen=True)
class Settings:
    """`beta` chooses the generalized Jensen-Shannon divergence: 0 is KL(teacher || student), 1 is KL(student || teacher), between them
    a mixture. `temperature` is that of the student's answers and of both distributions; `max_tokens` the room for an answer."""

    learning_rate: float
    epochs: int
    batch: int
    lora_rank: int  # 0: all weights
    warmup: float
    beta: float
    temperature: float
    max_tokens: int
    teacher_dtype: str
    seed: int


def shared_tokenizer(student: Path, teacher: Path) -> str:
    """Why the teacher's distribution over tokens says nothing about the student's, or an empty text where it does."""
    from transformers import AutoTokenizer

    mine, other = AutoTokenizer.from_pretrained(student), AutoTokenizer.from_pretrained(teacher)
    words, others = mine.get_vocab(), other.get_vocab()
    if words != others:
        apart = sorted(words.items() ^ others.items(), key=lambda item: item[1])
        return (
            f"their vocabularies differ: {len(words)} and {len(others)} tokens, the first difference at {apart[0][1]} ({apart[0][0]!r})"
        )
    if mine(PROBE, add_special_tokens=False)["input_ids"] != other(PROBE, add_special_tokens=False)["input_ids"]:
        return "they have the same tokens but split a text differently"
    if mine.eos_token_id != other.eos_token_id:
        return f"the student ends with {mine.eos_token!r}, the teacher with {other.eos_token!r}: it would teach the student not to end"
    if _width(student) > _width(teacher):
        return f"the student scores {_width(student)} tokens, the teacher only {_width(teacher)}"
    return ""


def distill(
    student: Path, student_identity: str, teacher: Path, teacher_identity: str, prompts: Sequence[list[dict[str, str]] | str],
    settings: Settings, store: Store, *, label: str,
) -> Path:  # fmt: skip
    """The folder of the student taught on its own answers to the prompts (conversations or texts, as `sft.rows` has them).

    A UserError says why two models cannot be teacher and student. The log's `tokens` are those of prompts and answers.
    """
    reason = shared_tokenizer(student, teacher)
    if reason:
        raise UserError(f"distillation needs a teacher with the student's own tokens: {reason}")
    options = {"student": student_identity, "teacher": teacher_identity, "prompts": prompts, **vars(settings)}
    return store.tree(
        "distill", VERSION, options, lambda out: _distill(student, teacher, prompts, settings, out), label=label
    )


def _distill(student: Path, teacher: Path, prompts: Sequence[Any], settings: Settings, out: Path) -> None:
    from datasets import Dataset
    from trl import DistillationConfig, DistillationTrainer

    model, tokenizer = common.load(student, "float32")
    model.config.use_cache = True  # it writes as well
    with tempfile.TemporaryDirectory() as scratch:
        config = DistillationConfig(
            per_device_train_batch_size=settings.batch,
            num_train_epochs=settings.epochs,
            beta=settings.beta,
            temperature=settings.temperature,
            max_completion_length=settings.max_tokens,
            bf16=common.bf16(),
            **common.trainer_options(settings, scratch),
        )
        trainer = DistillationTrainer(
            model=model,
            teacher_model=_teacher(teacher, settings.teacher_dtype, _width(student)),
            args=config,
            train_dataset=Dataset.from_list([{"prompt": p} for p in prompts]),
            processing_class=tokenizer,
            peft_config=common.adapter(settings),
        )
        common.run(trainer, settings.warmup, "linear")
    log = common.trained(trainer.state, len(prompts), {"entropy": "entropy", "length": "completions/mean_length"})
    common.save(common.whole(trainer, settings), tokenizer, student, out, log)


def _teacher(folder: Path, dtype: str, width: int) -> Any:
    """The teacher, scoring `width` tokens: what a vocabulary is filled up with for the sake of its size is cut off."""
    model, _ = common.load(folder, dtype)
    if model.config.get_text_config().vocab_size != width:
        model.resize_token_embeddings(width)
    return model.eval().requires_grad_(False)


def _width(folder: Path) -> int:
    from transformers import AutoConfig

    return int(AutoConfig.from_pretrained(folder).get_text_config().vocab_size)
