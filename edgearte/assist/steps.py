"""What `assisted.py` asks of the models, as a recipe sets it: each step is a stage over the store."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from edgearte import steps
from edgearte.answers import grade
from edgearte.arte import draft, influence, naturalness
from edgearte.assist import annotate, confidence, signals, weigh
from edgearte.assist import familiar as familiarity
from edgearte.errors import UserError
from edgearte.lm import hidden, weights
from edgearte.lm.base import Completion, Prompt, Sampling, Score
from edgearte.lm.calls import Budgeted, Calls, Kept, Limits, Price, Purse, Recorded
from edgearte.lm.endpoint import Endpoint
from edgearte.lm.hf import TransformersLM, form
from edgearte.recipe import Assist, Budget, Several
from edgearte.records import Annotation, Draft, Example, Question, Rationale
from edgearte.setup import Setup
from edgearte.store import digest, seed_of


class Spent(UserError):
    """A budget that ended before what it was for."""


class Paying:
    """A teacher that must be able to pay for all it is asked; where it cannot, nothing goes on without it."""

    def __init__(self, model: Recorded, purse: Purse) -> None:
        self.identity = model.identity
        self._model = model
        self._paid = Budgeted(model, purse)

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Completion]:
        found = [c for c in self._paid.generate(prompts, sampling) if c is not None]
        if len(found) < len(prompts):
            raise Spent("assist.budget: it was spent before the pool was drafted; give it more, or draft fewer questions")
        return found

    def loglikelihood(self, pairs: Sequence[tuple[Prompt, str]]) -> list[Score]:
        return self._model.loglikelihood(pairs)

    def chat(self, messages: Sequence[dict[str, str]]) -> str:
        return self._model.chat(messages)


class Allowance:
    """A budget that is spent phase by phase, each from a purse of its own: a build that goes on after a kill goes through all phases
    again, and what the later ones have spent by then must not count in the earlier ones."""

    def __init__(self, setup: Setup, how: Assist, most: Budget) -> None:
        self.left = Limits(most.calls or None, most.tokens or None, most.money or None)
        self._setup = setup
        self._calls = Calls(setup.store)
        self._recipe = f"{setup.recipe.name}, seed {setup.recipe.seed}"
        self._run = f"{self._recipe}, {digest(how, most)[:12]}"
        self._purses: list[Purse] = []

    @contextmanager
    def phase(self, name: str, limits: Limits, number: int = 0, *, shared: bool = False) -> Iterator[Purse]:
        """A purse for one teacher with these limits, which are a part of what is left; what it does not spend is left. What is `shared`,
        being kept as rows of the store that no purse looks behind, counts for every budget of the recipe."""
        e = self._setup.author(number)[0].endpoint
        price = Price(e.price_in, e.price_out) if e else Price()  # weights at hand cost no money
        run = self._recipe if shared else self._run
        purse = Purse(self._calls, f"{run}: {name}" + (f", teacher {number}" if number else ""), limits, price)
        yield purse
        self._purses.append(purse)
        self.left = self.left.less(purse.spent(), price)

    def tokens(self) -> int:
        """Read and written in all phases."""
        return sum(found.read + found.written for found in (p.spent() for p in self._purses))


@contextmanager
def recorded(setup: Setup, number: int = 0) -> Iterator[Recorded]:
    """A teacher, with every call kept and counted for the recipe."""
    model = steps.teacher(setup, setup.author(number)[1].folder, number)
    yield model if isinstance(model, Endpoint) else Kept(model, Calls(setup.store), setup.recipe.name)
    model.release()


def pool(setup: Setup, how: Assist, spend: Purse) -> tuple[Question, ...]:
    """The questions the teacher may be asked: the user's own, what it drafts itself (without the targets it drafted), or both."""
    found = setup.task.pool if "questions" in how.pool else ()
    if "drafts" in how.pool:
        ask, count = steps.settings(setup.recipe, setup.task), setup.recipe.draft.questions
        with recorded(setup) as teacher:
            written = draft.draft_questions(
                Paying(teacher, spend), setup.task, ask, count, setup.store, purpose="draft", label="draft: questions"
            )
        found += tuple(Question(d.id, d.input, "") for d in written.drafts)
    return found


def annotated(
    setup: Setup, questions: Sequence[Question], spend: Purse, phase: str, number: int = 0, shown: Sequence[Sequence[Question]] = (),
    usual: Sequence[str] = (),
) -> list[Annotation]:  # fmt: skip
    """What a teacher answers to the first of these questions, as many as can be paid for; after worked examples, if any are shown. Where
    it only names a label, `usual` texts tell which ones it likes in any case."""
    ask = steps.settings(setup.recipe, setup.task, setup.author(number)[0].style)
    label = f"ask the teacher: {phase}" if number == 0 else f"ask teacher {number + 1}: {phase}"
    with recorded(setup, number) as teacher:
        if names(setup, number) and not shown:
            return annotate.named(
                teacher, setup.task, questions, spend, setup.store, setup.teach, label=label, usual=usual, number=number
            )
        return annotate.annotate(
            teacher, setup.task, ask, questions, spend, setup.store, label=label, shown=shown, bare=setup.bare and not shown,
            number=number,
        )  # fmt: skip


def names(setup: Setup, number: int) -> bool:
    """Whether a teacher's answer is the label that it finds most probable: a closed set of answers that seeds show, no rationale to be
    taught, and weights at hand."""
    return setup.bare and bool(setup.task.answer.choices) and setup.author(number)[0].endpoint is None


def natural(setup: Setup, folder: Path, answers: Sequence[Annotation]) -> list[float]:
    """How natural the student in `folder` finds each answer; what has no text least of all."""
    drafts = [Draft(f"{k}", a.input, "", "", (), (Rationale("", a.text, a.answer),)) for k, a in enumerate(answers)]
    model = steps.student(setup, folder)
    found = naturalness.score(model, setup.task, drafts, setup.form, setup.store)
    model.release()
    return [found.get((d.id, ""), float("-inf")) for d in drafts]


def familiar(setup: Setup, how: Several, texts: Sequence[str]) -> list[list[float]]:
    """What each teacher counts for each question, by how familiar it is to it: [questions, teachers]; empty where that is not asked for."""
    if not how.familiarity or not texts:
        return []
    found = []
    for number in range(1 + len(how.teachers)):
        model = steps.teacher(setup, setup.author(number)[1].folder, number)
        found.append(familiarity.log_probs(model, setup.task.header, texts, setup.store))
        model.release()
    return familiarity.weights(found)


def trusted(setup: Setup, how: Assist, said: Sequence[tuple[str, str]], label: str) -> list[float]:
    """The assistant's confidence in each (question, answer)."""
    found = setup.assistant
    if found is None:
        raise RuntimeError("this recipe has no assistant")
    model = TransformersLM(found.folder, found.identity, dtype=how.dtype)
    shares = confidence.confidences(model, form(found.folder), setup.task, said, how.confidence, setup.store, label=label)
    model.release()
    return shares


def sampled(setup: Setup, how: Assist, folder: Path, questions: Sequence[Question]) -> list[signals.Sampled]:
    """What the student in `folder` says to each question, several times."""
    model, task = steps.student(setup, folder), setup.task
    asked = [setup.asked(q.input) for q in questions]
    found = signals.sampled(
        model, asked, task.answer, how.samples, how.temperature, setup.recipe.measure.max_tokens,
        seed_of(setup.recipe.seed, "samples"), setup.store, label="the student's samples",
    )  # fmt: skip
    model.release()
    return found


def right(setup: Setup, question: Question, text: str) -> bool | None:
    """Whether a text answers a question rightly; None where that is not known."""
    return grade(text, question.target, setup.task.answer).correct if question.target else None


def weighed(setup: Setup, examples: Sequence[Example]) -> tuple[Example, ...]:
    """The examples with the weights that the recipe asks for; alike ones once."""
    t, p = setup.recipe.train, setup.recipe.prefer
    if t.weights == "alike":
        return tuple(examples)
    apart = list({(e.input, e.completion): e for e in examples}.values())
    places = range(len(apart)) if t.weights == "influence" else weigh.measured(len(apart), setup.recipe.seed)
    drafts = [
        Draft(f"{k}", apart[k].input, apart[k].target, "", (), (Rationale("", apart[k].completion, ""),)) for k in places
    ]
    warm, asked = steps.warmed(setup, setup.student.folder), steps.preference_questions(setup)
    how = influence.Settings(p.learning_rate, t.max_tokens)
    identity = weights.identity(warm, setup.store)
    found = influence.score(warm, identity, setup.task, asked.questions, drafts, setup.form, how, setup.store)
    worth = [found[d.id, ""] for d in drafts]
    if t.weights == "scorer":
        model = steps.student(setup, warm)
        states = hidden.pooled(model, list(steps.as_read(setup, model, apart).values()), setup.store)
        model.release()
        worth = weigh.scored(states, dict(zip(places, worth, strict=True)))
    by_text = {(e.input, e.completion): w for e, w in zip(apart, weigh.rectified(worth), strict=True)}
    return tuple(replace(e, weight=by_text[e.input, e.completion]) for e in examples)
