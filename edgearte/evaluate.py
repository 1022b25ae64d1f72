"""Asking a model the evaluation questions and grading what it says: checkpoints here, artifacts through the harness."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgearte.answers import AnswerFormat, Grade, grade
from edgearte.lm.base import LM, Prompt, Sampling
from edgearte.records import Question
from edgearte.store import Store

VERSION = 1
ROWS = 64


@dataclass(frozen=True)
class Answer:
    """One graded answer to one evaluation question."""

    question: Question
    text: str
    grade: Grade


def asked(model: LM, prompts: Sequence[str], chat: bool) -> list[str]:
    """The texts a student is asked with: through its chat template where it has one, as the device's app will."""
    if chat:
        return [model.chat([{"role": "user", "content": p}]) for p in prompts]
    return [p + "\nAnswer:" for p in prompts]


def checkpoint(
    model: LM, questions: Sequence[Question], prompts: Sequence[str], chat: bool, fmt: AnswerFormat, max_tokens: int,
    store: Store, *, label: str,
) -> list[Answer]:  # fmt: skip
    """The answers of a model behind the protocol; `prompts` are what each question is asked as."""

    def compute(part: list[str]) -> list[dict[str, Any]]:
        rows = [Prompt(text) for text in asked(model, part, chat)]
        outputs = model.generate(rows, Sampling(max_tokens, stop=_stop(fmt)))
        return [{"text": o.text, "ended": o.ended, "tokens": o.prompt_tokens + o.new_tokens} for o in outputs]

    options = {"model": model.identity, "chat": chat, "max_tokens": max_tokens, "stop": _stop(fmt)}
    outputs = store.rows("evaluate", VERSION, options, prompts, compute, chunk=ROWS, label=label)
    return _graded(questions, outputs, fmt)


def artifact(
    path: Path, runtime: str, identity: str, questions: Sequence[Question], render: Callable[[Sequence[str]], list[str]],
    prompts: Sequence[str], fmt: AnswerFormat, max_tokens: int, threads: int, store: Store, *, label: str,
) -> list[Answer]:  # fmt: skip
    """The answers of an exported file, by its own runtime in a process of its own. `render` turns prompts into chat text."""
    from edgearte.measure.host import answer

    def compute(part: list[str]) -> list[dict[str, Any]]:
        rows = [{"text": text} for text in render(part)]
        return answer(path, runtime, rows, max_tokens=max_tokens, stop=_stop(fmt), threads=threads)

    options = {"artifact": identity, "max_tokens": max_tokens, "stop": _stop(fmt)}
    outputs = store.rows("answer", VERSION, options, prompts, compute, chunk=len(prompts), label=label)
    return _graded(questions, outputs, fmt)


def _stop(fmt: AnswerFormat) -> tuple[str, ...]:
    return (fmt.close,) if fmt.tagged else ()


def _graded(questions: Sequence[Question], outputs: Sequence[dict[str, Any]], fmt: AnswerFormat) -> list[Answer]:
    return [
        Answer(q, o["text"], grade(o["text"], q.target, fmt)) for q, o in zip(questions, outputs, strict=True)
    ]
