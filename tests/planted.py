"""A planted preference: a student rigged to answer better after examples of one recognisable kind, and a small task for a real teacher.

Everything between the two is the real thing: drafting, the student's scores, the pairs, DPO, drafting again (`test_planted.py`,
`benchmarks/alignment.py`).
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import sqrt
from pathlib import Path
from statistics import NormalDist

from edgearte.answers import AnswerFormat
from edgearte.arte import align, draft, prefer
from edgearte.lm.base import Completion, Prompt, Sampling, Score
from edgearte.lm.hf import TransformersLM
from edgearte.lm.weights import identity
from edgearte.records import Draft, Pair, Question
from edgearte.store import Store, seed_of
from edgearte.task import Task
from edgearte.train import dpo

DRAFTS = 60  # of a teacher: from them its share of the kind is read
STRATEGIES = {"wish": "They want", "cause": "Because"}
RIGHT = {True: 0.7, False: 0.4}  # how often the student answers rightly after an example of its kind, and after another
SEEDS = {
    "lights": [
        ("Switch on the lamp in the hallway.", "They want a lamp, which is a light, switched on."),
        ("I can't see a thing down here.", "Because it is dark, a light should go on."),
        ("Make the bedroom a little dimmer.", "They want the lamps to shine less."),
    ],
    "music": [
        ("I want to hear something by Nina Simone.", "Because Nina Simone is a singer, they ask for a song."),
        ("This one is boring, skip it.", "They want to skip the song that is playing."),
        ("We feel like dancing tonight!", "Because people dance to music, a song should play."),
    ],
    "shopping": [
        ("Put eggs and butter on the list.", "They want to buy eggs and butter."),
        ("We have run out of washing powder again.", "Because something is used up, it has to be bought."),
        ("I forgot to order the cat food.", "They want something bought, and order it."),
    ],
}
PREFERENCE = {
    "lights": ["Turn the lights off.", "Make the kitchen brighter.", "I cannot see the stairs.", "The porch should be lit."],
    "music": ["Turn the song up.", "Put on the radio.", "Play some jazz.", "Next track."],
    "shopping": ["We need more milk.", "Add rice to the list.", "Buy two lemons.", "The coffee is all gone."],
}


def of(name: str, texts: dict[str, list[tuple[str, str]]]) -> tuple[Question, ...]:
    return tuple(Question(f"{name}-{t}-{k}", q, t, why) for t, found in texts.items() for k, (q, why) in enumerate(found))


TASK = Task(
    "planted", "Say what the spoken command is about.", AnswerFormat(choices=tuple(SEEDS)), of("seed", SEEDS),
    of("preference", {t: [(q, "") for q in found] for t, found in PREFERENCE.items()}), (),
)  # fmt: skip
ASK = draft.Settings(
    style="continuation", shots=3, per_prompt=1, temperature=0.8, top_p=0.95, question_tokens=14, rationale_tokens=16,
    rationale_temperature=0.7, near_copy=1.0, attempts=6, seed=1,
)  # fmt: skip
HOW = dpo.Settings(
    beta=0.1, learning_rate=5e-4, min_steps=3, max_steps=6, patience=3, batch=8, micro_batch=8, lora_rank=16, sft=0.0,
    length_normalised=False, label_smoothing=0.0, dtype="bfloat16", seed=1,
)  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """What the student prefers: questions or rationales of a kind that anyone can tell. `shows(question, rationale)`."""

    name: str  # question | rationale
    shows: Callable[[str, str], bool]


PERSONAL = Kind("question", lambda question, _: re.match(r"(I|We)\b", question) is not None)
CAUSAL = Kind("rationale", lambda _, rationale: rationale.startswith("Because"))


class Rigged:
    """A student that answers after one example; more often rightly where the example is of its kind. The chance is each row's own."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.identity = f"rigged:{kind.name}:{RIGHT}"

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Completion]:
        return [Completion(f"{self._answer(p)}", 1, 1, "stop") for p in prompts]

    def _answer(self, prompt: Prompt) -> str:
        example = re.search(r"Question: (.*)\nAnswer: Let's think step by step. (.*)\n", prompt.prefix)
        assert example
        target = next(q.target for q in TASK.preference if prompt.text.startswith(q.input))
        chance = random.Random(seed_of(self.identity, prompt.prefix, prompt.text))
        if chance.random() >= RIGHT[self.kind.shows(*example.groups())]:
            target = chance.choice([t for t in TASK.answer.choices if t != target])
        return f"It is <ans>{target}</ans>"

    def loglikelihood(self, pairs: Sequence[tuple[Prompt, str]]) -> list[Score]:
        raise NotImplementedError

    def chat(self, messages: Sequence[dict[str, str]]) -> str:
        raise NotImplementedError


def teacher(folder: Path, store: Store) -> TransformersLM:
    return TransformersLM(folder, identity(folder, store))


def pairs(kind: Kind, author: TransformersLM, store: Store) -> list[Pair]:
    """What the student's preference makes of the teacher's drafts; every fifth pair is held out."""
    found = draft.draft_questions(author, TASK, ASK, 48, store, purpose="draft", label="draft").drafts
    drafts = draft.draft_rationales(author, TASK, ASK, found, STRATEGIES, store, label="draft")
    preferred = prefer.exact(Rigged(kind), TASK, drafts, TASK.preference, 16, store).preferences
    make = align.question_pairs if kind is PERSONAL else align.rationale_pairs
    made = make(author, TASK, ASK, drafts, preferred, 30)
    return [replace(p, held_out=k % 5 == 0) for k, p in enumerate(made)]


def questions(author: TransformersLM, store: Store, count: int = DRAFTS) -> tuple[Draft, ...]:
    """A teacher's new questions, which took no part in making pairs."""
    return draft.draft_questions(author, TASK, ASK, count, store, purpose="after", label="after").drafts


def written(kind: Kind, author: TransformersLM, asked: Sequence[Draft], store: Store) -> list[str]:
    """What a teacher newly writes: as many questions as are `asked`, or rationales of these, whoever wrote them."""
    if kind is PERSONAL:
        return [d.input for d in questions(author, store, len(asked))]
    explained = draft.draft_rationales(author, TASK, ASK, asked, {"naive": ""}, store, label="after")
    return [r.text for d in explained for r in d.rationales]


def of_the_kind(kind: Kind, texts: Sequence[str]) -> list[bool]:
    return [kind.shows(text, text) for text in texts]


def higher(after: Sequence[bool], before: Sequence[bool]) -> float:
    """The probability of a share so much higher by chance: the two-proportion test, one-sided."""
    n, m = len(after), len(before)
    both = (sum(after) + sum(before)) / (n + m)
    error = sqrt(both * (1 - both) * (1 / n + 1 / m))
    return 1 - NormalDist().cdf((sum(after) / n - sum(before) / m) / error) if error else 1.0


def swapped(found: Sequence[Pair]) -> list[Pair]:
    return [replace(p, chosen=p.rejected, rejected=p.chosen) for p in found]
