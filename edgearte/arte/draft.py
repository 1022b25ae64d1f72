"""Drafting: the teacher writes questions (paper 1a), and rationales for them (paper 1b), which `explain.py` asks for.

The same two functions draft for alignment and write the tailored set: what differs is the teacher and the prompt.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from typing import Any

from edgearte.answers import spelled
from edgearte.arte import labelled, prompts, whole
from edgearte.arte.asking import VERSION, Settings, cost, for_targets, listed, naive, options, room
from edgearte.arte.explain import (
    bare,
    bare_calls,
    draft_rationales,
    rationale_calls,
    rationale_prompt,
    rationales,
    reasoned,
    unanswered,
)
from edgearte.arte.verify import Check, Dropped, Verifier
from edgearte.lm.base import LM, Completion, Prompt, Sampling, sharing
from edgearte.records import Draft, Question
from edgearte.store import Store, digest, seed_of
from edgearte.task import Task

__all__ = [
    "Drafted", "Settings", "bare", "bare_calls", "draft_questions", "draft_rationales", "for_targets", "naive", "options", "prompt_of",
    "question_prompt", "rationale_calls", "rationale_prompt", "rationales", "reasoned", "unanswered", "written",
]  # fmt: skip

# A chunk has so many prompts, or fewer where together they may write more than so many tokens. It is lost where a build is stopped in it,
# and 64 long prompts are an hour for a large teacher on a processor.
PROMPTS, TOKENS = 64, 16_384
SURPLUS = 4  # prompts sent for each one whose questions are still missing, once the first round is over


@dataclass(frozen=True)
class Drafted:
    """Drafts in the order they were written, how many questions the teacher was asked for, and why others were dropped, with a few of
    them for each reason; `stood` says how many passed each check."""

    drafts: tuple[Draft, ...]
    asked: int
    dropped: Mapping[str, int]
    samples: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    stood: Mapping[str, int] = field(default_factory=dict)


def draft_questions(
    teacher: LM, task: Task, settings: Settings, count: int, store: Store, *, purpose: str, label: str,
    checks: Sequence[Check] = (),
) -> Drafted:  # fmt: skip
    """`count` verified questions, or as many as `settings.attempts` rounds of prompts bring.

    `purpose` keys the random choices, so that the unaligned and the aligned teacher see the same seeds when they write for the
    same purpose. Where questions are drafted for given answers, every answer gets its share as far as the teacher can write to
    it: a student taught one label too often says it too often. What must stand up to `checks` is judged together, over all that
    was written so far: a vote is calibrated on drafts of every answer, and a later round has but a few.
    """
    verifier = Verifier(task, settings.near_copy)
    answers = task.answer.choices if for_targets(task, settings) else ("",)
    share = -(-count // len(answers))
    found: list[Draft] = []
    shared = _Shared({}, [])
    fell = Dropped()
    asked = wave = 0
    for attempt in range(settings.attempts):
        wanted = {t: share - len(shared.own.get(t, [])) for t in answers}
        turns = [t for t, n in wanted.items() if n > 0]
        size = sum(-(-wanted[t] // settings.per_prompt) for t in turns)
        wave = min(wave, SURPLUS * size) if attempt else size
        items = [_ask(task, settings, purpose, asked + i, turns[i % len(turns)]) for i in range(wave)]
        found += _fresh(teacher, task, settings, items, store, label, verifier)
        asked += wave
        fell = Dropped()
        standing = found
        for check in checks:
            standing = check.passed(standing, fell)
        shared = _Shared.of(standing, answers, share)
        if shared.size >= count:
            break
    dropped = verifier.dropped.joined(fell)
    drafts = [d for turn in zip_longest(*shared.own.values()) for d in turn if d] + shared.spare
    return Drafted(tuple(drafts[:count]), asked * settings.per_prompt, dropped.reasons(), dropped.shown(), dict(fell.stood))


@dataclass(frozen=True)
class _Shared:
    """Drafts by the answer they are for, at most a share of each, and those beyond."""

    own: Mapping[str, list[Draft]]
    spare: list[Draft]

    @classmethod
    def of(cls, drafts: Sequence[Draft], answers: Sequence[str], share: int) -> _Shared:
        own: dict[str, list[Draft]] = {t: [] for t in answers}
        spare: list[Draft] = []
        for d in drafts:
            mine = own[d.target if d.target in own else answers[0]]
            (mine if len(mine) < share else spare).append(d)
        return cls(own, spare)

    @property
    def size(self) -> int:
        return sum(map(len, self.own.values()))


def _fresh(
    teacher: LM, task: Task, settings: Settings, items: list[dict[str, Any]], store: Store, label: str, verifier: Verifier
) -> list[Draft]:
    """The well-formed and new questions that these prompts bring."""
    chunk = max(1, min(PROMPTS, TOKENS // (room(settings, settings.question_tokens) * settings.per_prompt)))
    outputs = store.rows(
        "draft questions", VERSION, options(teacher, task, settings), items,
        lambda part: _questions(teacher, task, settings, part), chunk=chunk, label=label,
    )  # fmt: skip
    fresh = []
    for item, output in zip(items, outputs, strict=True):
        for text in output["cut"]:
            verifier.dropped.add("cut off", text)
        missing = settings.per_prompt - len(output["questions"]) - len(output["cut"])
        verifier.dropped.add("not in the form asked for", times=max(missing, 0))
        for text, target in output["questions"]:
            if verifier.accepts(text, target):
                fresh.append(_draft(item, text, spelled(target, task.answer)))
    return fresh


def question_prompt(teacher: LM, task: Task, settings: Settings, seeds: Sequence[str], target: str, index: int = 0) -> str:
    """The drafting prompt that shows these seeds (by id) and asks for `target`, if for any; `index` is that of the prompt, which its
    wording goes by."""
    if listed(task, settings):
        return labelled.ask(teacher, task, _own(task, seeds, target), target, settings.per_prompt, _style(task, settings, index))
    by_id = {q.id: q for q in task.seeds}
    shown = [by_id[s] for s in seeds]
    if settings.style == "chat":
        return prompts.draft_chat(teacher, task, shown, settings.per_prompt)
    return prompts.draft_continuation(task, shown, target)


def _own(task: Task, seeds: Sequence[str], target: str) -> list[Question]:
    """Of these seeds those of one answer: a label without seeds is shown none, for those of others would mislead."""
    by_id = {q.id: q for q in task.seeds}
    return [by_id[s] for s in seeds if by_id[s].target == target]


def prompt_of(teacher: LM, task: Task, settings: Settings, draft: Draft) -> str:
    """The prompt that a draft came from; alignment's question pairs are made on it."""
    target = draft.target if for_targets(task, settings) else ""
    index = draft.source.rpartition("/")[2]
    return question_prompt(teacher, task, settings, draft.seeds, target, int(index) if index.isdecimal() else 0)


def written(task: Task, settings: Settings, draft: Draft, number: int) -> str:
    """What the teacher would have to write after a drafting prompt to ask this one question; `number` is that of the first question the
    prompt asks for: seeds shown + 1."""
    target = draft.target if for_targets(task, settings) else ""
    if listed(task, settings):
        return labelled.written(draft.input)
    return prompts.question_text(number, draft.input, draft.target, given=bool(target)).removeprefix(prompts.opening(number, target))


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
    """What prompts bring: `questions` with their targets, those that were `cut` off, the whole `text`, and the `tokens` it cost."""
    patterns = [_pattern(settings, item) for item in items]
    texts = [question_prompt(teacher, task, settings, i["seeds"], i["targets"][0], i["index"]) for i in items]
    seeds = [seed_of(settings.seed, i["purpose"], i["index"]) for i in items]
    if listed(task, settings):
        asked = [replace(p, seed=seed) for p, seed in zip(sharing(texts), seeds, strict=True)]
    else:
        asked = [Prompt("", text, seed, pattern) for text, seed, pattern in zip(texts, seeds, patterns, strict=True)]
    # A chat is told where to stop; lists end where the one that shows most seeds does, and a continuation with its pattern.
    last = settings.per_prompt + max(len(_own(task, i["seeds"], i["targets"][0])) for i in items)
    stop: tuple[str, ...] = ()
    if settings.style == "chat":
        stop = (f"\n{last + 1}.",) if listed(task, settings) else (f"</Question_{settings.shots + settings.per_prompt}>",)
    most = room(settings, settings.question_tokens) * settings.per_prompt
    outputs = teacher.generate(asked, Sampling(most, settings.temperature, settings.top_p, stop))
    return [
        {**_read(task, settings, i, c), "text": c.text, "tokens": cost(c)} for i, c in zip(items, outputs, strict=True)
    ]


def _read(task: Task, settings: Settings, item: dict[str, Any], c: Completion) -> dict[str, Any]:
    """A question that was cut off is no question, whole sentences or not: what it asks stands at its end."""
    target, most = item["targets"][0], settings.per_prompt
    if listed(task, settings):
        texts = labelled.read(c.text, task, target, most, cut=c.ended == "length")
        return {"questions": [(labelled.as_seeds(t, task.seeds), target) for t in texts], "cut": []}
    read = prompts.read_questions(c.text, len(item["seeds"]) + 1, target)[:most]
    cut = [q for q, _ in read if settings.style == "continuation" and whole.bounded(q, prompts.bound(settings.question_tokens))]
    return {"questions": [(q, t) for q, t in read if q not in cut], "cut": cut}


def _pattern(settings: Settings, item: dict[str, Any]) -> str:
    if settings.style != "continuation":
        return ""
    return prompts.continuation_pattern(len(item["seeds"]) + 1, item["targets"], settings.question_tokens)


def _style(task: Task, settings: Settings, index: int) -> str:
    """How a prompt's texts are worded: every label sees all styles in turn, and a round of prompts has not one alone."""
    turn, place = divmod(index, len(task.answer.choices))
    return settings.styles[(turn + place) % len(settings.styles)] if settings.styles else ""


def _draft(item: dict[str, Any], text: str, target: str) -> Draft:
    return Draft(
        id=digest(item["purpose"], text, target)[:12],
        input=text,
        target=target,
        source=f"{item['purpose']}/{item['index']}",
        seeds=tuple(item["seeds"]),
    )
