"""How much one training step on a rationale helps the student to answer the preference questions.

Local data influence (Montessori-Instruct, Li et al. 2024, arXiv 2410.14208): the loss on a reference set before one optimiser step
on a single example, minus the loss after it, every example from the same weights. As in the paper the student is warmed up first
(`steps.warmed`): otherwise what any example teaches is nearly all the form of an answer. Unlike there, the step is Adam's very first,
without the warm-up's moments: nothing but the example itself decides where it goes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from edgearte.arte import prompts
from edgearte.lm.base import Score, alike, sharing
from edgearte.lm.hf import TransformersLM
from edgearte.records import Draft, Example, Question
from edgearte.store import Store
from edgearte.task import Task
from edgearte.train import sft

if TYPE_CHECKING:
    import torch

VERSION = 1
EXAMPLES = 8  # examples of a chunk
QUESTIONS = 16  # reference questions computed at once: every token of their answers takes a row of logits
EPSILON = 1e-8  # Adam's


@dataclass(frozen=True)
class Settings:
    """The rate of the one step, and where training cuts an example off."""

    learning_rate: float
    max_tokens: int


def score(
    folder: Path, identity: str, task: Task, questions: Sequence[Question], drafts: Sequence[Draft], how: str, settings: Settings,
    store: Store,
) -> dict[tuple[str, str], float]:  # fmt: skip
    """The influence of every rationale, by (draft, strategy), in nats a token: positive where the step helps.

    L(weights) - L(weights after one step on the rationale), where L is the mean over the preference `questions` of the mean loss of
    a token of `prompts.completion_of`. A reference question without a rationale asks for the bare answer, and so leans
    towards short ones. `how` is the student's form (`prompts.asked`). Full weights in float32: the student, its gradient and a copy to
    go back to take 12 bytes a weight.
    """
    named = [(d, r) for d in drafts for r in d.rationales]
    items = _rows(task, how, [Example(d.id, d.input, r.text, d.target, "") for d, r in named])
    reference = _rows(task, how, [Example(q.id, q.input, prompts.completion_of(task, q), q.target, "") for q in questions])
    probe = Probe(TransformersLM(folder, identity, dtype="float32"), reference, settings)
    options = {"student": identity, "reference": reference, **vars(settings)}
    found = store.rows(
        "influence", VERSION, options, items, lambda part: [probe.measure(row) for row in part], chunk=EXAMPLES, label="influence"
    )  # fmt: skip
    return {(d.id, r.strategy): row["before"] - row["after"] for (d, r), row in zip(named, found, strict=True)}


def _rows(task: Task, how: str, examples: Sequence[Example]) -> list[dict[str, Any]]:
    return sft.rows(examples, lambda text: prompts.asked(task.header, how, text))


class Probe:
    """A student that takes one step on one example, is asked the reference questions, and goes back to where it was, bit for bit.

    It is loaded at the first example, and stays in evaluation mode: dropout would make chance of a single step.
    """

    def __init__(self, student: TransformersLM, reference: Sequence[dict[str, Any]], settings: Settings) -> None:
        self.student, self.reference, self.settings = student, reference, settings

    @cached_property
    def start(self) -> list[torch.Tensor]:
        """A copy of the weights. Asked for first, so that they are not loaded in inference mode, where nothing takes a gradient."""
        return [p.detach().clone() for p in self.student.model.parameters()]

    @cached_property
    def before(self) -> float:
        return self.loss()

    def measure(self, row: dict[str, Any]) -> dict[str, float]:
        """The reference loss before and after a step on a row of `sft.rows`, and the tokens read on the way."""
        start, before = self.start, self.before
        ids, first = tokens_of(self.student.tokenizer, row)
        ids = ids[: self.settings.max_tokens]
        if len(ids) <= first:  # its question alone fills the room: training would learn nothing from it
            return {"before": before, "after": before, "tokens": 0}
        try:
            self.step(ids, first)
            after = self.loss()
        finally:
            self.restore(start)
        return {"before": before, "after": after, "tokens": len(ids)}

    def loss(self) -> float:
        """L: what the questions begin with alike is computed once."""
        pairs = [text_of(self.student.tokenizer, row) for row in self.reference]
        asked = sharing([question for question, _ in pairs])
        scores: list[Score] = []
        for k in range(0, len(pairs), QUESTIONS):
            part = slice(k, k + QUESTIONS)
            answers = [answer for _, answer in pairs[part]]
            scores += self.student.loglikelihood(list(zip(asked[part], answers, strict=True)))
        return fmean(-s.logprob / s.tokens for s in scores)

    def step(self, ids: Sequence[int], first: int) -> None:
        """One step on the mean loss of the tokens from `first` on.

        Adam's moments, corrected for their bias, are at its first step the gradient g and its square, so that it goes
        rate * g / (|g| + epsilon). No weight decay, as in TRL's defaults.
        """
        import torch

        model = self.student.model
        row = torch.tensor([ids], device=model.device)
        kept = torch.arange(first - 1, len(ids) - 1, device=model.device)
        logits = model(input_ids=row, use_cache=False, logits_to_keep=kept).logits[0].float()
        loss: Any = torch.nn.functional.cross_entropy(logits, row[0, first:])
        loss.backward()
        with torch.no_grad():
            for p in model.parameters():
                if p.grad is not None:
                    p.sub_(p.grad.div_(p.grad.abs().add_(EPSILON)), alpha=self.settings.learning_rate)
                    p.grad = None

    def restore(self, start: Sequence[torch.Tensor]) -> None:
        import torch

        with torch.no_grad():
            for p, saved in zip(self.student.model.parameters(), start, strict=True):
                p.copy_(saved)
                p.grad = None


def tokens_of(tokenizer: Any, row: dict[str, Any]) -> tuple[list[int], int]:
    """A row of `sft.rows` in the tokens TRL trains it with, and which of them is the answer's first: where the question alone and
    the whole part ways. A plain text is closed with the end-of-sequence token; a conversation closes itself."""
    prompt, completion = row["prompt"], row["completion"]
    if isinstance(prompt, str):
        asked = tokenizer(prompt)["input_ids"]
        whole: list[int] = tokenizer(prompt + completion + tokenizer.eos_token)["input_ids"]
    else:
        render = tokenizer.apply_chat_template
        asked = render(prompt, add_generation_prompt=True, tokenize=True, return_dict=True)["input_ids"]
        whole = render(prompt + completion, tokenize=True, return_dict=True)["input_ids"]
    return whole, max(1, alike([asked, whole]))


def text_of(tokenizer: Any, row: dict[str, Any]) -> tuple[str, str]:
    """A row of `sft.rows` as the texts of its question and of its answer, closed like `tokens_of`'s."""
    prompt, completion = row["prompt"], row["completion"]
    if isinstance(prompt, str):
        return prompt, completion + tokenizer.eos_token
    asked: str = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False)
    whole: str = tokenizer.apply_chat_template(prompt + completion, tokenize=False)
    begins = alike([asked, whole])
    return whole[:begins], whole[begins:]
