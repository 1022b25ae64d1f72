"""Drafting: the teacher writes questions (paper 1a) and rationales for them (paper 1b).

The same two functions draft for alignment and write the tailored set: what differs is the teacher and the prompt.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any

from edgearte.answers import extract, spelled
from edgearte.arte import prompts
from edgearte.arte.verify import Check, Verifier
from edgearte.lm.base import LM, Completion, Prompt, Sampling, sharing
from edgearte.records import Draft, Question, Rationale
from edgearte.store import Store, digest, seed_of
from edgearte.task import Task

VERSION = 1
PROMPTS = 64  # prompts of a chunk
RATIONALES = 64  # rationales of a chunk
SURPLUS = 4  # prompts sent for each one whose questions are still missing, once the first round is over
WORKED = 6  # seeds shown when a continuation explains an answer


@dataclass(frozen=True)
class Settings:
    """How a teacher is asked; `recipe.Draft` in the stage's own terms."""

    style: str
    shots: int
    per_prompt: int
    temperature: float
    top_p: float
    question_tokens: int
    rationale_tokens: int
    rationale_temperature: float
    near_copy: float
    attempts: int
    seed: int


@dataclass(frozen=True)
class Drafted:
    """Drafts in the order they were written, how many questions the teacher was asked for, and why others were dropped."""

    drafts: tuple[Draft, ...]
    asked: int
    dropped: Mapping[str, int]


def draft_questions(
    teacher: LM, task: Task, settings: Settings, count: int, store: Store, *, purpose: str, label: str,
    checks: Sequence[Check] = (),
) -> Drafted:  # fmt: skip
    """`count` verified questions, or as many as `settings.attempts` rounds of prompts bring.

    `purpose` keys the random choices, so that the unaligned and the aligned teacher see the same seeds when they write for the
    same purpose. Where questions are drafted for given answers, every answer gets its share as far as the teacher can write to
    it: a student taught one label too often says it too often.
    """
    verifier = Verifier(task, settings.near_copy)
    targeted = for_targets(task, settings)
    kept: dict[str, list[Draft]] = {t: [] for t in (task.answer.choices if targeted else ("",))}
    share = -(-count // len(kept))
    spare: list[Draft] = []
    asked = 0
    wave = max(1, -(-count // settings.per_prompt))
    for attempt in range(settings.attempts):
        wanted = [t for t, own in kept.items() if len(own) < share]
        missing = count - sum(map(len, kept.values()))
        size = min(wave, SURPLUS * -(-missing // settings.per_prompt))
        items = [_ask(task, settings, purpose, attempt * wave + i, wanted[i % len(wanted)]) for i in range(size)]
        fresh = _fresh(teacher, task, settings, items, store, label, verifier)
        asked += size * settings.per_prompt
        for check in checks:
            fresh = check.passed(fresh, verifier.dropped)
        for d in fresh:
            own = kept[d.target if targeted else ""]
            (own if len(own) < share else spare).append(d)
        if sum(map(len, kept.values())) >= count:
            break
    dropped = {reason: n for reason, n in verifier.dropped.items() if n}
    drafts = [d for turn in zip_longest(*kept.values()) for d in turn if d] + spare
    return Drafted(tuple(drafts[:count]), asked, dropped)


def _fresh(
    teacher: LM, task: Task, settings: Settings, items: list[dict[str, Any]], store: Store, label: str, verifier: Verifier
) -> list[Draft]:
    """The well-formed and new questions that these prompts bring."""
    outputs = store.rows(
        "draft questions", VERSION, options(teacher, task, settings), items,
        lambda part: _questions(teacher, task, settings, part), chunk=PROMPTS, label=label,
    )  # fmt: skip
    fresh = []
    for item, output in zip(items, outputs, strict=True):
        verifier.dropped["not in the form asked for"] += max(settings.per_prompt - len(output["questions"]), 0)
        for text, target in output["questions"]:
            if verifier.accepts(text, target):
                fresh.append(_draft(item, text, spelled(target, task.answer)))
    return fresh


def draft_rationales(
    teacher: LM, task: Task, settings: Settings, drafts: Sequence[Draft], strategies: Mapping[str, str], store: Store,
    *, label: str,
) -> tuple[Draft, ...]:  # fmt: skip
    """One rationale for every draft and strategy."""
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
        text = output["text"]
        by_draft.setdefault(item["id"], []).append(Rationale(item["strategy"], text, extract(text, task.answer)))
    return tuple(replace(d, rationales=tuple(by_draft.get(d.id, ()))) for d in drafts)


def question_prompt(teacher: LM, task: Task, settings: Settings, seeds: Sequence[str], target: str) -> str:
    """The drafting prompt that shows these seeds (by id) and asks for `target`, if for any; alignment's question pairs are made
    on it."""
    by_id = {q.id: q for q in task.seeds}
    shown = [by_id[s] for s in seeds]
    if settings.style == "chat":
        return prompts.draft_chat(teacher, task, shown, settings.per_prompt)
    return prompts.draft_continuation(task, shown, target)


def rationale_prompt(
    teacher: LM, task: Task, settings: Settings, text: str, target: str, strategy: str, shown: Sequence[Question] = ()
) -> str:
    """The prompt for a rationale. A chat is given the strategy as an instruction (`prompts.NAIVE` for the naive one), a
    continuation goes on from the strategy's opening words (none for the naive one). Both may be `shown` worked examples, the
    continuation in place of as many seeds."""
    if settings.style == "chat":
        return prompts.rationale_chat(teacher, task, text, strategy, shown)
    worked = [q for q in task.seeds if q.rationale][: WORKED - len(shown)]
    return prompts.rationale_continuation(task, [*worked, *shown], text, target, strategy)


def for_targets(task: Task, settings: Settings) -> bool:
    """Whether each question is drafted *for* a given answer: a weak teacher can write to a label where it cannot label."""
    return settings.style == "continuation" and bool(task.answer.choices)


def naive(settings: Settings) -> str:
    """The strategy of alignment's rationale pairs and of the tailored set."""
    return prompts.NAIVE if settings.style == "chat" else ""


def options(teacher: LM, task: Task, settings: Settings) -> dict[str, Any]:
    """What a row of the teacher's depends on besides its own item."""
    kept = {k: v for k, v in vars(settings).items() if k not in ("attempts", "near_copy")}
    seeds = [(q.input, q.target, q.rationale) for q in task.seeds]
    return {"teacher": teacher.identity, "task": task.description, "answer": task.answer, "seeds": seeds, **kept}


def _ask(task: Task, settings: Settings, purpose: str, index: int, target: str) -> dict[str, Any]:
    """One prompt to be sent: which seeds it shows and which target its questions are drafted for, if for any."""
    chance = random.Random(seed_of(settings.seed, purpose, index))
    # A weak teacher needs seeds of that very target to go on from.
    pool = tuple(s for s in task.seeds if s.target == target) or task.seeds
    seeds = chance.sample(pool, min(settings.shots, len(pool)))
    if target:  # in one order, so that prompts for one target are alike, and read once
        seeds.sort(key=pool.index)
    targets = [target] * settings.per_prompt
    return {"purpose": purpose, "index": index, "seeds": [s.id for s in seeds], "targets": targets}


def _questions(teacher: LM, task: Task, settings: Settings, items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    asked = [_asked(teacher, task, settings, item) for item in items]
    # A chat is told where to stop, and shows as many seeds in every prompt; a continuation ends with its pattern.
    stop = (f"</Question_{settings.shots + settings.per_prompt}>",) if settings.style == "chat" else ()
    room = _room(settings, settings.question_tokens) * settings.per_prompt
    outputs = teacher.generate(asked, Sampling(room, settings.temperature, settings.top_p, stop))
    return [
        {
            "questions": prompts.read_questions(c.text, len(i["seeds"]) + 1, i["targets"][0])[: settings.per_prompt],
            "text": c.text,
            "tokens": _cost(c),
        }
        for i, c in zip(items, outputs, strict=True)
    ]


def _asked(teacher: LM, task: Task, settings: Settings, item: dict[str, Any]) -> Prompt:
    pattern = ""
    if settings.style == "continuation":
        first = len(item["seeds"]) + 1
        pattern = prompts.continuation_pattern(first, item["targets"], settings.question_tokens)
    shown = question_prompt(teacher, task, settings, item["seeds"], item["targets"][0])
    return Prompt("", prefix=shown, seed=seed_of(settings.seed, item["purpose"], item["index"]), pattern=pattern)


def _draft(item: dict[str, Any], text: str, target: str) -> Draft:
    return Draft(
        id=digest(item["purpose"], text, target)[:12],
        input=text,
        target=target,
        source=f"{item['purpose']}/{item['index']}",
        seeds=tuple(item["seeds"]),
    )


def rationales(
    teacher: LM, task: Task, settings: Settings, items: list[dict[str, Any]], temperature: float = 0.0
) -> list[dict[str, Any]]:
    """What the teacher writes for items of `input`, `target` and `instruction` (and a `seed`, where it is sampled, and `shown`
    questions): `text`, why it `ended`, and the `tokens` it cost."""
    outputs = teacher.generate(*rationale_calls(teacher, task, settings, items, temperature))
    texts = [c.text.strip() for c in outputs]
    if settings.style == "continuation":
        texts = [
            prompts.rationale_text(task, i["target"], i["instruction"], text)
            for i, text in zip(items, texts, strict=True)
        ]
    return [{"text": t, "ended": c.ended, "tokens": _cost(c)} for t, c in zip(texts, outputs, strict=True)]


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
    return asked, Sampling(_room(settings, settings.rationale_tokens), temperature, settings.top_p, stop)


def _room(settings: Settings, tokens: int) -> int:
    """Tokens a completion may take. A pattern bounds the text itself, by characters: there the bound on tokens must never cut
    the closing tags off, however badly a model's tokenizer splits them."""
    return tokens if settings.style == "chat" else prompts.CHARACTERS * tokens + 60


def _cost(completion: Completion) -> int:
    return completion.prompt_tokens + completion.new_tokens
