"""Drafting: the teacher writes questions (paper 1a) and rationales for them (paper 1b).

The same two functions draft for alignment and write the tailored set: what differs is the teacher and the prompt.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from typing import Any

from edgearte.answers import extract, spelled
from edgearte.arte import labelled, prompts, whole
from edgearte.arte.verify import Check, Dropped, Verifier
from edgearte.lm.base import LM, Completion, Prompt, Sampling, sharing
from edgearte.records import Draft, Question, Rationale
from edgearte.store import Store, digest, seed_of
from edgearte.task import Task

VERSION = 2
PROMPTS = 64  # prompts of a chunk
RATIONALES = 64  # rationales of a chunk
SURPLUS = 4  # prompts sent for each one whose questions are still missing, once the first round is over
WORKED = 6  # seeds shown when a continuation explains an answer


@dataclass(frozen=True)
class Settings:
    """How a teacher is asked; `recipe.Draft` in the stage's own terms. `styles` are how texts are worded where a chat drafts for one label
    at a time, one a prompt, in turn."""

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
    styles: tuple[str, ...] = ()


@dataclass(frozen=True)
class Drafted:
    """Drafts in the order they were written, how many questions the teacher was asked for, and why others were dropped, with a few of
    them for each reason."""

    drafts: tuple[Draft, ...]
    asked: int
    dropped: Mapping[str, int]
    samples: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


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
    return Drafted(tuple(drafts[:count]), asked * settings.per_prompt, dropped.reasons(), dropped.shown())


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
    outputs = store.rows(
        "draft questions", VERSION, options(teacher, task, settings), items,
        lambda part: _questions(teacher, task, settings, part), chunk=PROMPTS, label=label,
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


def question_prompt(teacher: LM, task: Task, settings: Settings, seeds: Sequence[str], target: str, index: int = 0) -> str:
    """The drafting prompt that shows these seeds (by id) and asks for `target`, if for any; `index` is that of the prompt, which its
    wording goes by."""
    by_id = {q.id: q for q in task.seeds}
    shown = [by_id[s] for s in seeds]
    if settings.style != "chat":
        return prompts.draft_continuation(task, shown, target)
    if target:
        return labelled.ask(teacher, task, shown, target, settings.per_prompt, _style(task, settings, index))
    return prompts.draft_chat(teacher, task, shown, settings.per_prompt)


def prompt_of(teacher: LM, task: Task, settings: Settings, draft: Draft) -> str:
    """The prompt that a draft came from; alignment's question pairs are made on it."""
    target = draft.target if for_targets(task, settings) else ""
    index = draft.source.rpartition("/")[2]
    return question_prompt(teacher, task, settings, draft.seeds, target, int(index) if index.isdecimal() else 0)


def written(task: Task, settings: Settings, draft: Draft, number: int) -> str:
    """What the teacher would have to write after a drafting prompt to ask this one question; `number` is that of the first question the
    prompt asks for: seeds shown + 1."""
    target = draft.target if for_targets(task, settings) else ""
    if target and settings.style == "chat":
        return labelled.written(draft.input)
    return prompts.question_text(number, draft.input, draft.target, given=bool(target)).removeprefix(prompts.opening(number, target))


def reasoned(task: Task, settings: Settings, rationale: Rationale) -> str:
    """What the teacher would have to write after the naive prompt to give this rationale. Where it was told the answer, that is no part
    of it."""
    if not _told(task, settings, "any"):
        return rationale.text if settings.style == "chat" else f" {rationale.text}"
    sentence = rationale.text.rpartition(task.answer.open)[0].strip()
    return f" {sentence}" if settings.style == "chat" else f" {sentence}\n"


def rationale_prompt(
    teacher: LM, task: Task, settings: Settings, text: str, target: str, strategy: str, shown: Sequence[Question] = ()
) -> str:
    """The prompt for a rationale. A chat is given the strategy as an instruction (`prompts.NAIVE` for the naive one), a
    continuation goes on from the strategy's opening words (none for the naive one). Both may be `shown` worked examples, the
    continuation in place of as many seeds."""
    worked = [*[q for q in task.seeds if q.rationale][: WORKED - len(shown)], *shown]
    if settings.style != "chat":
        return prompts.rationale_continuation(task, worked, text, target, strategy)
    if _told(task, settings, target):
        return prompts.why_chat(teacher, task, worked, text, target, "" if strategy == prompts.NAIVE else strategy)
    return prompts.rationale_chat(teacher, task, text, strategy, shown)


def for_targets(task: Task, settings: Settings) -> bool:
    """Whether each question is drafted *for* a given answer: a weak teacher can write to a label where it cannot label. A chat is asked so
    for labels that are words; an option letter, or yes and no, name nothing to write about."""
    return bool(task.answer.choices) and (settings.style == "continuation" or task.answer.kind == "tag")


def _told(task: Task, settings: Settings, target: str) -> bool:
    """Whether a rationale is asked for a given answer, and does not find its own."""
    return bool(target) and for_targets(task, settings)


def naive(settings: Settings) -> str:
    """The strategy of alignment's rationale pairs and of the tailored set."""
    return prompts.NAIVE if settings.style == "chat" else ""


def options(teacher: LM, task: Task, settings: Settings) -> dict[str, Any]:
    """What a row of the teacher's depends on besides its own item."""
    kept = {k: v for k, v in vars(settings).items() if k not in ("attempts", "near_copy")}
    seeds = [(q.input, q.target, q.rationale) for q in task.seeds]
    told = {"teacher": teacher.identity, "task": task.description, "answer": task.answer, "meanings": dict(task.meanings)}
    return {**told, "seeds": seeds, "read": VERSION, **kept}  # the version: what is kept of a text depends on it for all who ask here


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
    asked = [_asked(teacher, task, settings, item) for item in items]
    # A chat is told where to stop, and shows as many seeds in every prompt; a continuation ends with its pattern.
    stop: tuple[str, ...] = ()
    if settings.style == "chat":
        last = f"\n{settings.per_prompt + 1}."
        stop = (last,) if for_targets(task, settings) else (f"</Question_{settings.shots + settings.per_prompt}>",)
    room = _room(settings, settings.question_tokens) * settings.per_prompt
    outputs = teacher.generate(asked, Sampling(room, settings.temperature, settings.top_p, stop))
    return [
        {**_read(task, settings, i, c), "text": c.text, "tokens": _cost(c)} for i, c in zip(items, outputs, strict=True)
    ]


def _read(task: Task, settings: Settings, item: dict[str, Any], c: Completion) -> dict[str, Any]:
    """A question that was cut off is no question, whole sentences or not: what it asks stands at its end."""
    target, most = item["targets"][0], settings.per_prompt
    if settings.style == "chat" and target:
        texts = labelled.read(c.text, task, target, most, cut=c.ended == "length")
        return {"questions": [(labelled.as_seeds(t, task.seeds), target) for t in texts], "cut": []}
    read = prompts.read_questions(c.text, len(item["seeds"]) + 1, target)[:most]
    cut = [q for q, _ in read if settings.style == "continuation" and whole.bounded(q, prompts.bound(settings.question_tokens))]
    return {"questions": [(q, t) for q, t in read if q not in cut], "cut": cut}


def _asked(teacher: LM, task: Task, settings: Settings, item: dict[str, Any]) -> Prompt:
    pattern = ""
    if settings.style == "continuation":
        first = len(item["seeds"]) + 1
        pattern = prompts.continuation_pattern(first, item["targets"], settings.question_tokens)
    shown = question_prompt(teacher, task, settings, item["seeds"], item["targets"][0], item["index"])
    return Prompt("", prefix=shown, seed=seed_of(settings.seed, item["purpose"], item["index"]), pattern=pattern)


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


def rationales(
    teacher: LM, task: Task, settings: Settings, items: list[dict[str, Any]], temperature: float = 0.0
) -> list[dict[str, Any]]:
    """What the teacher writes for items of `input`, `target` and `instruction` (and a `seed`, where it is sampled, and `shown`
    questions): the `text` as far as it may be taught, "" where it was cut off, why it `ended`, and the `tokens` it cost."""
    outputs = teacher.generate(*rationale_calls(teacher, task, settings, items, temperature))
    texts = [_rationale(task, settings, i, c) for i, c in zip(items, outputs, strict=True)]
    return [{"text": t, "ended": c.ended, "tokens": _cost(c)} for t, c in zip(texts, outputs, strict=True)]


def _rationale(task: Task, settings: Settings, item: dict[str, Any], c: Completion) -> str:
    """A rationale without what was cut off. One that finds its own answer is dropped then: its last steps are missing."""
    chat, target, most = settings.style == "chat", item["target"], prompts.bound(settings.rationale_tokens)
    text = c.text.strip()
    cut = c.ended == "length"
    if not _told(task, settings, target):
        reasoning = text.rpartition(task.answer.open)[0] if not chat and task.answer.tagged else ""
        if cut or whole.bounded(reasoning, most):
            return ""
        return text if chat else f"{item['instruction']} {text}".strip()
    if chat:
        sentence = whole.finished(labelled.reason(text), cut=cut)
    else:
        text = f"{item['instruction']} {text}".strip()
        sentence = whole.finished(text, cut=cut or whole.bounded(c.text.strip(), most))
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
    if settings.style == "chat" and items and all(_told(task, settings, i["target"]) for i in items):
        stop = ("\n",)  # one line of why
    return asked, Sampling(_room(settings, settings.rationale_tokens), temperature, settings.top_p, stop)


def _room(settings: Settings, tokens: int) -> int:
    """Tokens a completion may take. A pattern bounds the text itself, by characters: there the bound on tokens must never cut
    the closing tags off, however badly a model's tokenizer splits them."""
    return tokens if settings.style == "chat" else prompts.CHARACTERS * tokens + 60


def _cost(completion: Completion) -> int:
    return completion.prompt_tokens + completion.new_tokens
