"""Asking a model the evaluation questions and grading what it says: checkpoints here, artifacts through the harness."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgearte.answers import AnswerFormat, Grade, grade
from edgearte.lm.base import LM, Asked, Sampling, rendered, sharing
from edgearte.records import Question
from edgearte.store import Store

if TYPE_CHECKING:
    from edgearte.measure.host import Target

VERSION = 1
ROWS = 512


@dataclass(frozen=True)
class Answer:
    """One graded answer to one evaluation question."""

    question: Question
    text: str
    grade: Grade


def checkpoint(
    model: LM, questions: Sequence[Question], prompts: Sequence[Asked], fmt: AnswerFormat, max_tokens: int, store: Store,
    *, label: str,
) -> list[Answer]:  # fmt: skip
    """The answers of a model behind the protocol; `prompts` are what each question is asked as."""

    def compute(part: list[Asked]) -> list[dict[str, Any]]:
        outputs = model.generate(sharing(rendered(model, part)), Sampling(max_tokens, stop=stop(fmt)))
        return [{"text": o.text, "ended": o.ended, "tokens": o.prompt_tokens + o.new_tokens} for o in outputs]

    options = {"model": model.identity, "max_tokens": max_tokens, "stop": stop(fmt)}
    outputs = store.rows("evaluate", VERSION, options, prompts, compute, chunk=ROWS, label=label)
    return _graded(questions, outputs, fmt)


def artifact(
    path: Path, runtime: str, identity: str, model: LM, questions: Sequence[Question], prompts: Sequence[Asked],
    fmt: AnswerFormat, max_tokens: int, threads: int, store: Store, *, label: str, target: Target | None = None,
) -> list[Answer]:  # fmt: skip
    """The answers of an exported file, by its own runtime in a process of its own, here or on a `target`. `model` is the checkpoint it was
    made of, whose chat template renders the prompts (a gate has shown that the artifact's is the same)."""
    from edgearte.measure.host import LOCAL, answer

    def compute(part: list[Asked]) -> list[dict[str, Any]]:
        rows = [{"text": p.text, "prefix": p.prefix} for p in sharing(rendered(model, part))]
        outputs = answer(path, runtime, rows, max_tokens=max_tokens, stop=stop(fmt), threads=threads, target=target or LOCAL)
        return [{**o, "tokens": o["prompt_tokens"] + o["new_tokens"]} for o in outputs]

    options = {"artifact": identity, "max_tokens": max_tokens, "stop": stop(fmt)}
    if target and target is not LOCAL:  # where kernels are others, so are answers in a near-tie
        options["device"] = target.name
    outputs = store.rows("answer", VERSION, options, prompts, compute, chunk=len(prompts), label=label)
    return _graded(questions, outputs, fmt)


def stop(fmt: AnswerFormat) -> tuple[str, ...]:
    """Where an answer ends."""
    return (fmt.close,) if fmt.tagged else ()


def _graded(questions: Sequence[Question], outputs: Sequence[dict[str, Any]], fmt: AnswerFormat) -> list[Answer]:
    return [Answer(q, o["text"], grade(o["text"], q.target, fmt)) for q, o in zip(questions, outputs, strict=True)]
