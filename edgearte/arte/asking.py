"""How a teacher is asked, and what follows from it: what questions and rationales are drafted with alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edgearte.arte import prompts
from edgearte.lm.base import LM, Completion
from edgearte.task import Task

VERSION = 2  # of what is asked and of what is kept of an answer


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


def for_targets(task: Task, settings: Settings) -> bool:
    """Whether each question is drafted *for* a given answer: a weak teacher can write to a label where it cannot label. A chat is asked so
    for labels that are words; an option letter, or yes and no, name nothing to write about."""
    return bool(task.answer.choices) and (settings.style == "continuation" or task.answer.kind == "tag")


def listed(task: Task, settings: Settings) -> bool:
    """Whether questions are asked for as a list of texts of one label."""
    return settings.style == "chat" and for_targets(task, settings)


def told(task: Task, settings: Settings, target: str) -> bool:
    """Whether a rationale is asked for a given answer, and does not find its own."""
    return bool(target) and for_targets(task, settings)


def naive(settings: Settings) -> str:
    """The strategy of alignment's rationale pairs and of the tailored set."""
    return prompts.NAIVE if settings.style == "chat" else ""


def options(teacher: LM, task: Task, settings: Settings) -> dict[str, Any]:
    """What a row of the teacher's depends on besides its own item."""
    kept = {k: v for k, v in vars(settings).items() if k not in ("attempts", "near_copy")}
    seeds = [(q.input, q.target, q.rationale) for q in task.seeds]
    fixed = {"teacher": teacher.identity, "task": task.description, "answer": task.answer, "meanings": dict(task.meanings)}
    return {**fixed, "seeds": seeds, "read": VERSION, **kept}  # the version: what is kept of a text depends on it for all who ask here


def room(settings: Settings, tokens: int) -> int:
    """Tokens a completion may take. A pattern bounds the text itself, by characters: there the bound on tokens must never cut
    the closing tags off, however badly a model's tokenizer splits them."""
    return tokens if settings.style == "chat" else prompts.CHARACTERS * tokens + 60


def cost(completion: Completion) -> int:
    return completion.prompt_tokens + completion.new_tokens
