"""Rationales: the teacher explains what it drafted (paper 1b), or answers questions of others; without one where none is taught."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from edgearte.answers import extract
from edgearte.arte import labelled, prompts, whole
from edgearte.arte.asking import VERSION, Settings, cost, naive, options, room, told
from edgearte.lm.base import LM, Completion, Prompt, Sampling, rendered, sharing
from edgearte.records import Draft, Question, Rationale
from edgearte.store import Store, seed_of
from edgearte.task import Task

RATIONALES = 64  # rationales of a chunk
WORKED = 6  # seeds shown when an answer is explained


def draft_rationales(
    teacher: LM, task: Task, settings: Settings, drafts: Sequence[Draft], strategies: Mapping[str, str], store: Store,
    *, label: str,
) -> tuple[Draft, ...]:  # fmt: skip
    """One rationale for every draft and strategy; one that was cut off, and keeps no whole sentence, is left out."""
    items: list[dict[str, Any]] = [
        {
            "id": d.id, "input": d.input, "target": d.target, "strategy": name, "instruction": text,
            "seed": seed_of(settings.seed, "rationale", d.id, name),
        }
        for d in drafts
        for name, text in strategies.items()
    ]  # fmt: skip
    outputs = store.rows(
        "draft rationales", VERSION, options(teacher, task, settings), items,
        lambda part: rationales(teacher, task, settings, part, settings.rationale_temperature), chunk=RATIONALES, label=label,
    )  # fmt: skip
    by_draft: dict[str, list[Rationale]] = {}
    for item, output in zip(items, outputs, strict=True):
        if text := output["text"]:
            by_draft.setdefault(item["id"], []).append(Rationale(item["strategy"], text, extract(text, task.answer)))
    return tuple(replace(d, rationales=tuple(by_draft.get(d.id, ()))) for d in drafts)


def rationale_prompt(
    teacher: LM, task: Task, settings: Settings, text: str, target: str, strategy: str, shown: Sequence[Question] = ()
) -> str:
    """The prompt for a rationale. A chat is given the strategy as an instruction (`prompts.NAIVE` for the naive one), a
    continuation goes on from the strategy's opening words (none for the naive one). Both may be `shown` worked examples, the
    continuation in place of as many seeds."""
    if settings.style != "chat":
        worked = [q for q in task.seeds if q.rationale][: WORKED - len(shown)]
        return prompts.rationale_continuation(task, [*worked, *shown], text, target, strategy)
    if told(task, settings, target):
        # Reasons for other labels are taken over by a small teacher, whatever the answer: it is shown none.
        alike = [q for q in task.seeds if q.rationale and q.target == target][: WORKED - len(shown)]
        return prompts.why_chat(teacher, task, [*alike, *shown], text, target, "" if strategy == prompts.NAIVE else strategy)
    return prompts.rationale_chat(teacher, task, text, strategy, shown)


def rationales(
    teacher: LM, task: Task, settings: Settings, items: list[dict[str, Any]], temperature: float = 0.0
) -> list[dict[str, Any]]:
    """What the teacher writes for items of `input`, `target` and `instruction` (and a `seed`, where it is sampled, and `shown`
    questions): the `text` as far as it may be taught, "" where it was cut off, why it `ended`, and the `tokens` it cost."""
    outputs = teacher.generate(*rationale_calls(teacher, task, settings, items, temperature))
    texts = [_rationale(task, settings, i, c) for i, c in zip(items, outputs, strict=True)]
    return [{"text": t, "ended": c.ended, "tokens": cost(c)} for t, c in zip(texts, outputs, strict=True)]


def _rationale(task: Task, settings: Settings, item: dict[str, Any], c: Completion) -> str:
    """A rationale without what was cut off. One that finds its own answer is dropped then: its last steps are missing."""
    chat, target, most = settings.style == "chat", item["target"], prompts.bound(settings.rationale_tokens)
    text = c.text.strip()
    cut = c.ended == "length"
    if not told(task, settings, target):
        reasoning = text.rpartition(task.answer.open)[0] if not chat and task.answer.tagged else ""
        if cut or whole.bounded(reasoning, most):
            return ""
        return text if chat else f"{item['instruction']} {text}".strip()
    if chat:
        sentence = whole.finished(labelled.reason(text), cut=cut)
        if item["instruction"] == prompts.NAIVE:
            sentence = whole.first(sentence)  # one was asked for
    else:
        if whole.bounded(text, most):
            text, cut = text[:-1], True  # its last mark is the pattern's and not the teacher's
        sentence = whole.finished(text, cut=cut)
        sentence = sentence and f"{item['instruction']} {sentence}".strip()
    return prompts.told(task, sentence, target) if sentence else ""


def rationale_calls(
    teacher: LM, task: Task, settings: Settings, items: list[dict[str, Any]], temperature: float = 0.0
) -> tuple[list[Prompt], Sampling]:
    """What the teacher is asked for such items."""
    patterns = [""] * len(items)
    if settings.style == "continuation":
        patterns = [prompts.rationale_pattern(task, i["target"], settings.rationale_tokens) for i in items]
    texts = [
        rationale_prompt(
            teacher, task, settings, i["input"], i["target"], i["instruction"], [Question(**q) for q in i.get("shown", ())]
        )
        for i in items
    ]
    asked = [replace(p, seed=i.get("seed", 0)) for p, i in zip(sharing(texts, patterns), items, strict=True)]
    stop = (task.answer.close,) if task.answer.tagged else ()
    if settings.style == "chat" and items and all(told(task, settings, i["target"]) for i in items):
        stop = ("\n",)  # one line of why
    return asked, Sampling(room(settings, settings.rationale_tokens), temperature, settings.top_p, stop)


def unanswered(settings: Settings, questions: Sequence[Question], *, bare: bool) -> list[dict[str, Any]]:
    """Questions whose answers the teacher has to find, as items of `rationales`, or of `bare`."""
    if bare:
        return [{"input": q.input, "bare": True} for q in questions]
    return [{"input": q.input, "target": "", "instruction": naive(settings)} for q in questions]


def bare(teacher: LM, task: Task, settings: Settings, items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same where the answer alone is taught: what the teacher answers to items of `input`."""
    outputs = teacher.generate(*bare_calls(teacher, task, settings, items))
    return [{"text": "" if c.ended == "length" else c.text.strip(), "ended": c.ended, "tokens": cost(c)} for c in outputs]


def bare_calls(teacher: LM, task: Task, settings: Settings, items: list[dict[str, Any]]) -> tuple[list[Prompt], Sampling]:
    """What it is asked then: the question after the seeds with their answers and no reasoning, as it is shown them where it drafts."""
    header = replace(task, instruction="").header  # the teacher is told the whole description
    shown = [(q.input, prompts.answered(task, q.target)) for q in task.seeds]
    form = "user" if settings.style == "chat" else "plain"
    texts = rendered(teacher, [prompts.asked(header, form, i["input"], shown) for i in items])
    stop = (task.answer.close,) if task.answer.tagged else ("\n",)
    return sharing(texts), Sampling(room(settings, settings.rationale_tokens), stop=stop)


def reasoned(task: Task, settings: Settings, rationale: Rationale) -> str:
    """What the teacher would have to write after the naive prompt to give this rationale. Where it was told the answer, that is no part
    of it."""
    if not told(task, settings, "any"):
        return rationale.text if settings.style == "chat" else f" {rationale.text}"
    sentence = rationale.text.rpartition(task.answer.open)[0].strip()
    return f" {sentence}" if settings.style == "chat" else f" {sentence}\n"
