"""The loop, top to bottom. Everything here is a function over the store: running it again *is* resuming it.

task ─► draft ─► prefer ─► align ─► tailor ─► train ─► export ─► measure ─► decide
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from edgearte import decide, evaluate
from edgearte.arte import align, draft, prefer, prompts, tailor
from edgearte.convert.export import export
from edgearte.convert.presets import load_preset
from edgearte.errors import UserError
from edgearte.evaluate import Answer
from edgearte.lm import weights
from edgearte.lm.hf import TransformersLM, form
from edgearte.lm.weights import Weights
from edgearte.measure.host import measure
from edgearte.measure.machine import describe
from edgearte.measure.suite import load_suite
from edgearte.recipe import Recipe
from edgearte.records import Artifact, Draft, Example, Measurement, Pair, Preference, from_dict
from edgearte.store import Store, seed_of
from edgearte.task import Task
from edgearte.train import dpo, sft

UNTAUGHT, SEEDS, UNALIGNED, ARTE = "untaught", "seeds alone", "unaligned teacher", "ARTE"
MACHINE = ("cpu", "cores")  # what a measurement belongs to
GATE_TEXTS = 24  # evaluation questions, with the checkpoint's answers, over which logits are compared


@dataclass(frozen=True)
class Found:
    """Everything one time through the loop found; `outcome.py` turns it into a result."""

    teacher: Weights
    student: Weights
    drafted: draft.Drafted
    drafts: tuple[Draft, ...]
    preferences: tuple[Preference, ...]
    skipped: str  # why the teacher was not aligned, or ""
    pairs: tuple[Pair, ...]
    aligned: Path
    tailored: Mapping[str, tailor.Tailored]
    sets: Mapping[str, tuple[Example, ...]]
    form: str  # how the student is asked: system, user or plain
    taught: Mapping[str, Path]
    answers: Mapping[str, list[Answer]]  # by arm, as checkpoint
    artifacts: tuple[Artifact, ...]
    artifact_answers: Mapping[str, list[Answer]]  # by preset
    measurements: Mapping[str, Measurement]  # by preset
    choice: decide.Choice


def once(recipe: Recipe, task: Task, teacher: Weights, student: Weights, store: Store) -> Found:
    """Once through the loop."""
    unaligned = TransformersLM(teacher.folder, teacher.identity, dtype=recipe.teacher.dtype)
    untaught = TransformersLM(student.folder, student.identity, dtype=recipe.student.dtype)
    ask = settings(recipe, task)

    # draft: the teacher asks, and explains in several ways
    drafted = draft.draft_questions(
        unaligned, task, ask, recipe.draft.questions, store, purpose="draft", label="draft: questions"
    )
    if not drafted.drafts:
        raise UserError(_nothing_drafted(drafted))
    drafts = draft.draft_rationales(
        unaligned, task, ask, drafted.drafts, recipe.draft.strategies, store, label="draft: rationales"
    )

    # prefer: the student shows which of it teaches
    preferences = prefer.score(untaught, task, drafts, recipe.prefer.questions, recipe.prefer.max_tokens, store)
    skipped = prefer.degenerate(preferences)

    # align: the teacher learns what the student prefers
    pairs: tuple[Pair, ...] = () if skipped else _pairs(recipe, unaligned, task, ask, drafts, preferences)
    if not skipped and not pairs:
        skipped = (
            "no two drafts that could be held against each other differ in score, so there is no pair to learn from"
        )
    unaligned.release()
    untaught.release()
    aligned = unaligned if skipped else _aligned(recipe, teacher, pairs, store)

    # tailor: both teachers write a training set
    tailored = {
        UNALIGNED: tailor.tailor(unaligned, task, ask, recipe.tailor.questions, store, arm=UNALIGNED),
        ARTE: tailor.tailor(aligned, task, ask, recipe.tailor.questions, store, arm=ARTE),
    }
    unaligned.release()
    aligned.release()
    sets = tailor.equal_size({arm: t.examples for arm, t in tailored.items()})
    if not sets[ARTE]:
        raise UserError(
            "the teacher wrote no example that could be trained on; look at its drafts in the store, or try style: continuation"
        )
    sets = {SEEDS: tailor.seeds_alone(task, len(sets[ARTE])), **sets}

    # train: one student an arm, equal in size and steps
    how = form(student.folder)
    taught = {arm: _taught(recipe, task, student, examples, how, store, arm) for arm, examples in sets.items()}
    answers = {UNTAUGHT: _answers(recipe, task, student.folder, how, store, UNTAUGHT)}
    answers |= {arm: _answers(recipe, task, folder, how, store, arm) for arm, folder in taught.items()}

    # export and measure: what counts is the file
    best = TransformersLM(taught[ARTE], weights.identity(taught[ARTE], store))
    artifacts = _exported(recipe, task, best, how, answers[ARTE], store)
    usable = [a for a in artifacts if not a.failed]
    artifact_answers = {a.preset: _artifact_answers(recipe, task, best, how, a, store) for a in usable}
    measurements = {a.preset: _measured(recipe, best, a, store) for a in usable}

    # decide
    asked = len(next(iter(artifact_answers.values()), []))
    choice = decide.choose(artifacts, artifact_answers, answers[ARTE][:asked])
    return Found(
        teacher, student, drafted, drafts, preferences, skipped, pairs, aligned.folder, tailored, sets, how, taught,
        answers, artifacts, artifact_answers, measurements, choice,
    )  # fmt: skip


def settings(recipe: Recipe, task: Task) -> draft.Settings:
    """How this recipe's teacher is asked."""
    d = recipe.draft
    return draft.Settings(
        style=recipe.teacher.style, shots=min(d.shots, len(task.seeds)), per_prompt=d.per_prompt, temperature=d.temperature,
        top_p=d.top_p, question_tokens=d.question_tokens, rationale_tokens=d.rationale_tokens, near_copy=d.near_copy,
        vote=d.vote, attempts=d.attempts, seed=recipe.seed,
    )  # fmt: skip


def _pairs(
    recipe: Recipe,
    teacher: TransformersLM,
    task: Task,
    ask: draft.Settings,
    drafts: Sequence[Draft],
    preferences: Sequence[Preference],
) -> tuple[Pair, ...]:
    a = recipe.align
    questions = align.question_pairs(teacher, task, ask, drafts, preferences, a.question_pairs)
    return (*questions, *align.rationale_pairs(teacher, task, ask, drafts, preferences, a.rationale_pairs))


def _aligned(recipe: Recipe, teacher: Weights, pairs: Sequence[Pair], store: Store) -> TransformersLM:
    a = recipe.align
    how = dpo.Settings(
        beta=a.beta, learning_rate=a.learning_rate, epochs=a.epochs, batch=a.batch, micro_batch=a.micro_batch,
        lora_rank=a.lora_rank, dtype=recipe.teacher.dtype, seed=seed_of(recipe.seed, "align"),
    )  # fmt: skip
    folder = dpo.align(teacher.folder, teacher.identity, pairs, how, store)
    return TransformersLM(folder, weights.identity(folder, store), dtype=recipe.teacher.dtype)


def _taught(
    recipe: Recipe, task: Task, student: Weights, examples: Sequence[Example], how: str, store: Store, arm: str
) -> Path:
    t = recipe.train
    settings = sft.Settings(
        learning_rate=t.learning_rate, epochs=t.epochs, batch=t.batch, lora_rank=t.lora_rank, warmup=t.warmup,
        max_tokens=t.max_tokens, seed=seed_of(recipe.seed, "train"),
    )  # fmt: skip
    rows = sft.rows(examples, lambda text: prompts.zero_shot(task.header, how, text))
    return sft.train(student.folder, student.identity, rows, settings, store, label=f"train: {arm}")


def _answers(recipe: Recipe, task: Task, folder: Path, how: str, store: Store, arm: str) -> list[Answer]:
    model = TransformersLM(folder, weights.identity(folder, store), dtype=recipe.student.dtype)
    asked = [prompts.zero_shot(task.header, how, q.input) for q in task.evaluation]
    answers = evaluate.checkpoint(model, task.evaluation, asked, task.answer, recipe.measure.max_tokens, store,
                                  label=f"evaluate: {arm}")  # fmt: skip
    model.release()
    return answers


def _exported(
    recipe: Recipe, task: Task, model: TransformersLM, how: str, answers: Sequence[Answer], store: Store
) -> tuple[Artifact, ...]:
    held_out = answers[:GATE_TEXTS]
    asked = evaluate.rendered(model, [prompts.zero_shot(task.header, how, a.question.input) for a in held_out])
    texts = [prompt + answer.text for prompt, answer in zip(asked, held_out, strict=True)]
    presets = [load_preset(name) for name in recipe.export.presets]
    return tuple(export(model.folder, weights.identity(model.folder, store), presets, texts, store, chat=asked))


def _artifact_answers(
    recipe: Recipe, task: Task, model: TransformersLM, how: str, artifact: Artifact, store: Store
) -> list[Answer]:
    questions = task.evaluation[: recipe.measure.questions or None]
    asked = [prompts.zero_shot(task.header, how, q.input) for q in questions]
    identity = f"{model.identity}:{artifact.preset}"
    return evaluate.artifact(
        Path(artifact.path), artifact.runtime, identity, model, questions, asked, task.answer, recipe.measure.max_tokens,
        recipe.measure.threads, store, label=f"answer: {artifact.preset}",
    )  # fmt: skip


def _measured(recipe: Recipe, model: TransformersLM, artifact: Artifact, store: Store) -> Measurement:
    suite, threads = load_suite(recipe.measure.suite), recipe.measure.threads
    machine = {k: v for k, v in describe().items() if k in MACHINE}
    options = {
        "artifact": f"{model.identity}:{artifact.preset}",
        "suite": suite,
        "threads": threads,
        "machine": machine,
    }
    row = store.value(
        "measure", 1, options,
        lambda: asdict(measure(Path(artifact.path), artifact.runtime, suite, name=artifact.preset, threads=threads)),
        label=f"measure: {artifact.preset}",
    )  # fmt: skip
    return from_dict(Measurement, row)


def _nothing_drafted(drafted: draft.Drafted) -> str:
    reasons = ", ".join(f"{n} {reason}" for reason, n in drafted.dropped.items())
    return (
        f"the teacher drafted no usable question out of {drafted.asked} asked for ({reasons}); "
        "a stronger teacher, or style: continuation for a weak one, may help"
    )
