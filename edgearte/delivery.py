"""Out to the devices: a taught student becomes artifacts, each is asked and measured on every device it is for, and held against what the
device allows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from edgearte import budget, decide, evaluate, steps
from edgearte.budget import Figures, Verdict
from edgearte.convert.describe import description
from edgearte.convert.export import export
from edgearte.convert.make import Calibration
from edgearte.convert.presets import load_preset
from edgearte.destination import Destination, foretold
from edgearte.evaluate import Answer
from edgearte.files import read_texts
from edgearte.lm import weights
from edgearte.lm.base import rendered
from edgearte.lm.deployed import Deployed
from edgearte.lm.hf import TransformersLM
from edgearte.measure.host import Unusable, measure
from edgearte.measure.suite import Suite
from edgearte.records import Artifact, Example, Measurement, Question, from_dict
from edgearte.setup import Setup
from edgearte.steps import as_read

GATE_TEXTS = 24  # evaluation questions, with the checkpoint's answers, over which logits are compared


@dataclass(frozen=True)
class Checkpoint:
    """A taught student with what it answers to the evaluation and to the development questions, and what it was taught with."""

    folder: Path
    evaluated: Sequence[Answer]
    developed: Sequence[Answer]
    examples: Sequence[Example]


@dataclass(frozen=True)
class Delivery:
    """What came of one student: its artifacts, what they answer here to the evaluation questions (by preset), and for each device, by
    preset, what was measured and what they answer to the development questions, and how its budget is met."""

    student: Checkpoint
    artifacts: tuple[Artifact, ...]
    evaluated: Mapping[str, list[Answer]]
    developed: Mapping[str, Mapping[str, list[Answer]]]
    measurements: Mapping[str, Mapping[str, Measurement]]
    verdicts: tuple[Verdict, ...]

    @property
    def unmet(self) -> tuple[Verdict, ...]:
        return tuple(v for v in self.verdicts if not v.preset)


def foreseen(setup: Setup, to: Sequence[Destination]) -> dict[str, dict[str, Figures]]:
    """What every artifact that may be made of the student is foretold to do, by device and preset."""
    named = [*setup.recipe.export.presets, *setup.recipe.close.cures]
    return foretold(setup.student.folder, named, to, steps.suite(setup), setup.recipe.measure.threads, setup.store)


def deliver(
    setup: Setup, destinations: Sequence[Destination], model: TransformersLM, student: Checkpoint, presets: Sequence[str]
) -> Delivery:
    """Export by these presets, ask and measure each artifact where it is to run, and judge."""
    return used(setup, destinations, model, student, exported(setup, model, student.evaluated, student.examples, presets))


def used(
    setup: Setup, destinations: Sequence[Destination], model: TransformersLM, student: Checkpoint, artifacts: Sequence[Artifact]
) -> Delivery:
    """What artifacts answer here to the evaluation questions, and what they do on each device. One that its runtime cannot use here has
    failed, as told in `Artifact.failed`; one that a device cannot use is out there."""
    told = list(artifacts)
    evaluated: dict[str, list[Answer]] = {}
    developed: dict[str, dict[str, list[Answer]]] = {to.name: {} for to in destinations}
    measurements: dict[str, dict[str, Measurement]] = {to.name: {} for to in destinations}
    refused: dict[tuple[str, str], str] = {}
    suite = steps.suite(setup)
    for at, artifact in enumerate(artifacts):
        if artifact.failed:
            continue
        try:
            evaluated[artifact.preset] = answers(setup, model, artifact, setup.task.evaluation[: setup.recipe.measure.questions or None])
        except Unusable as error:
            told[at] = replace(artifact, failed=str(error))
            continue
        for to in destinations:
            try:
                if to.target.counted or not to.emulated:
                    measurements[to.name][artifact.preset] = measured(setup, artifact, suite, to)
                if asked := setup.task.development[: to.limits.questions or None]:
                    developed[to.name][artifact.preset] = answers(setup, model, artifact, asked, to)
            except Unusable as error:
                refused[to.name, artifact.preset] = str(error)
    verdicts = tuple(
        _verdict(to, [replace(a, failed=a.failed or refused.get((to.name, a.preset), "")) for a in told], student,
                 developed[to.name], measurements[to.name])
        for to in destinations
    )  # fmt: skip
    return Delivery(student, tuple(told), evaluated, developed, measurements, verdicts)


def as_files(setup: Setup, student: Checkpoint, presets: Sequence[str]) -> dict[str, list[Answer]]:
    """What a student that is not delivered answers to the evaluation questions as these presets make a file of it, so that files are
    compared with files; a file that fails its gates is left out."""
    model = steps.student(setup, student.folder)
    found = exported(setup, model, student.evaluated, student.examples, presets)
    asked = setup.task.evaluation[: setup.recipe.measure.questions or None]
    return {a.preset: answers(setup, model, a, asked) for a in found if not a.failed}


def _verdict(
    to: Destination, artifacts: Sequence[Artifact], student: Checkpoint, developed: Mapping[str, Sequence[Answer]],
    measurements: Mapping[str, Measurement],
) -> Verdict:  # fmt: skip
    figures = {a.preset: budget.measured(a, developed.get(a.preset), measurements.get(a.preset)) for a in artifacts if not a.failed}
    asked = student.developed[: to.limits.questions or None]
    before = sum(a.grade.correct for a in asked) / len(asked) if asked else None
    return budget.judge(to.name, to.limits, artifacts, figures, before, partial(_worse, developed))


def _worse(answers: Mapping[str, Sequence[Answer]], a: str, b: str) -> bool:
    """Whether artifact `a` answers worse than `b`, as far as the questions tell."""
    if a == b or a not in answers or b not in answers:
        return False
    found = decide.compare(answers[a], answers[b])
    return found.difference < 0 and found.p_value < decide.SIGNIFICANT


def exported(
    setup: Setup, model: TransformersLM, found: Sequence[Answer], examples: Sequence[Example], names: Sequence[str]
) -> tuple[Artifact, ...]:
    """The student's artifacts, calibrated on the `examples` it was taught with, each with its gates; `found` are its answers to the
    evaluation questions."""
    held_out = found[:GATE_TEXTS]
    asked = rendered(model, [setup.asked(a.question.input) for a in held_out])
    texts = [prompt + answer.text for prompt, answer in zip(asked, held_out, strict=True)]
    identity = weights.identity(model.folder, setup.store)
    said = description(
        setup.recipe.name, setup.student.called, setup.student.licence,
        teacher=setup.teacher.called, task=setup.task.name, checkpoint=identity,
    )  # fmt: skip
    presets = [load_preset(name) for name in names]
    calibration = _calibration(setup, model, examples)
    made = export(model.folder, identity, presets, texts, setup.store, chat=asked, calibration=calibration, description=said)
    return tuple(made)


def _calibration(setup: Setup, model: TransformersLM, examples: Sequence[Example]) -> Calibration:
    """What the student was taught with, each example once as it is asked and answered."""
    texts = tuple(prompt + answer for prompt, answer in as_read(setup, model, examples).values())
    general = setup.recipe.export.general
    name = f"the examples of {setup.recipe.name}"
    return Calibration(name, texts, tuple(read_texts(Path(general.file))), general.share) if general else Calibration(name, texts)


def answers(
    setup: Setup, model: TransformersLM, artifact: Artifact, questions: Sequence[Question], to: Destination | None = None
) -> list[Answer]:
    """What an exported file answers to questions, on a device or else here."""
    m, task = setup.recipe.measure, setup.task
    asked = [setup.asked(q.input) for q in questions]
    where = "" if to is None or to.is_here else f" on {to.name}"
    return evaluate.artifact(
        Path(artifact.path), artifact.runtime, made(artifact), model, questions, asked, task.answer, m.max_tokens, m.threads, setup.store,
        label=f"answer: {artifact.preset}{where}", target=to.target if to else None,
    )  # fmt: skip


def deployed(setup: Setup, model: TransformersLM, artifact: Artifact) -> Deployed:
    """The student as it is deployed, to be asked in the place of its checkpoint."""
    return Deployed(Path(artifact.path), artifact.runtime, made(artifact), model, threads=setup.recipe.measure.threads)


def made(artifact: Artifact) -> str:
    """The store's name of an artifact, which says what it was made of and how: a preset's name does not, since calibration or the preset's
    own file may be others the next time."""
    path = Path(artifact.path)
    return (path.parent if artifact.format == "gguf" else path).name


def measured(setup: Setup, artifact: Artifact, suite: Suite, to: Destination) -> Measurement:
    """Latency and memory of an exported file on a device."""
    m = setup.recipe.measure
    options = {"artifact": made(artifact), "suite": suite, "threads": m.threads, "machine": to.identity}
    row = setup.store.value(
        "measure", 2, options,
        lambda: asdict(
            measure(Path(artifact.path), artifact.runtime, suite, name=artifact.preset, threads=m.threads, target=to.target)
        ),
        label=f"measure: {artifact.preset}" + ("" if to.is_here else f" on {to.name}"),
    )  # fmt: skip
    return from_dict(Measurement, row)


def foretold_first(
    presets: Sequence[str], guessed: Mapping[str, Mapping[str, Figures]], destinations: Sequence[Destination]
) -> tuple[str, ...]:
    """The presets that are worth making, those most likely to do first: within reach of the most devices, then the least beyond any
    limit, then the larger file, which loses less. What is out of every device's reach is left out."""

    def rank(preset: str) -> tuple[int, float, float]:
        over = [budget.out_of_reach(b.limits, guessed[b.name][preset]) for b in destinations if preset in guessed.get(b.name, {})]
        sizes = [f[preset].size or 0.0 for f in guessed.values() if preset in f]
        return sum(map(bool, over)), max((m.times for some in over for m in some), default=0.0), -max(sizes, default=0.0)

    reachable = [p for p in presets if _within_reach(p, guessed, destinations)]
    return tuple(sorted(reachable, key=rank)) if any(b.limited for b in destinations) else tuple(presets)


def _within_reach(preset: str, guessed: Mapping[str, Mapping[str, Figures]], destinations: Sequence[Destination]) -> bool:
    """Whether any device may allow it, as far as can be foretold."""
    return any(preset not in guessed.get(b.name, {}) or not budget.out_of_reach(b.limits, guessed[b.name][preset]) for b in destinations)
