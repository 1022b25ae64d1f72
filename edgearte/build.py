"""`edgearte build`: a recipe, once through the loop, into a run folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgearte import __version__, catalogue
from edgearte.errors import Problem, UserError
from edgearte.files import write_text
from edgearte.recipe import Recipe
from edgearte.setup import Setup, opened, write_recipe
from edgearte.store import digest

if TYPE_CHECKING:
    from edgearte.loop import Found
    from edgearte.report.result import Result
    from edgearte.workload import Sizes

KEY = "build.key"


def build(recipe_path: Path, overrides: list[str], runs: Path) -> Result:
    """Run a recipe and leave `RUNS/NAME/`. A finished run of the very same inputs is read back, not computed."""
    from edgearte.convert.beforehand import unknown
    from edgearte.convert.presets import load_preset
    from edgearte.forecast import room

    with opened(recipe_path, overrides, runs) as (setup, run):
        recipe, task, teacher, student = setup.recipe, setup.task, setup.teacher, setup.student
        models = [m.identity for m in (teacher, student, setup.assistant) if m]
        key = digest("build", __version__, recipe, task, *models, _catalogued(recipe))
        if done := _finished(run, key):
            return done
        if recipe.on_policy.when != "never":
            _shared_tokenizer(student.folder, teacher.folder)
        room(recipe, task, _sizes(setup), runs)
        _refuse_the_impossible(setup)
        if refused := unknown(student.folder, [load_preset(name).format for name in recipe.export.presets]):
            raise UserError([Problem(f"student.model, for export.presets: {why}") for why in refused.values()])
        return _build(setup, run, key)


def _refuse_the_impossible(setup: Setup) -> None:
    """`UserError` where no artifact of the student can meet a device's budget, as far as can be foretold: before hours are spent."""
    from edgearte import delivery
    from edgearte.destination import destinations, impossible

    if setup.recipe.devices:
        to = destinations(setup.recipe)
        if problems := impossible(to, delivery.foreseen(setup, to), setup.student.parameters):
            raise UserError(problems)


def _sizes(setup: Setup) -> Sizes:
    from edgearte.workload import Sizes

    assistant = setup.assistant.parameters if setup.assistant else 0
    return Sizes(setup.teacher.parameters, setup.student.parameters, setup.teacher.folder, setup.student.folder, assistant)


def _build(setup: Setup, run: Path, key: str) -> Result:
    from edgearte import loop, outcome
    from edgearte.convert.bundle import write_bundle
    from edgearte.report.html import write_report
    from edgearte.report.result import to_json

    (run / KEY).unlink(missing_ok=True)
    write_recipe(setup.recipe, run)
    found = loop.run(setup)
    result = outcome.result(found, setup.store.ledger, run / "bundle")
    _write_data(run / "data", found)
    delivered = found.turn.delivered
    if any(not a.failed for a in delivered.artifacts):
        write_bundle(
            run / "bundle", name=setup.recipe.name, checkpoint=delivered.student.folder, artifacts=delivered.artifacts,
            card=outcome.card(found, result),
            lineage=[vars(step) for step in result.lineage],
        )  # fmt: skip
    write_text(run / "result.json", to_json(result))
    write_report(result, run / "report.html")
    write_text(run / KEY, key)
    return result


def _shared_tokenizer(student: Path, teacher: Path) -> None:
    from edgearte.train.distill import shared_tokenizer

    if reason := shared_tokenizer(student, teacher):
        raise UserError(f"on_policy: teacher and student must share a tokenizer: {reason}")


def _finished(run: Path, key: str) -> Result | None:
    """The result of a run that ended with these very inputs and still has what it left."""
    from edgearte.report.result import from_json

    marker = run / KEY
    kept = [run / name for name in ("result.json", "report.html", "recipe.yaml")]
    if not marker.is_file() or marker.read_text("utf-8") != key or not all(p.is_file() for p in kept):
        return None
    result = from_json((run / "result.json").read_text("utf-8"), str(run / "result.json"))
    bundled = not result.decision or not result.decision.preset or (run / "bundle" / "manifest.json").is_file()
    return result if bundled else None


def _catalogued(recipe: Recipe) -> dict[str, Any]:
    """The catalogue entries a recipe names, by content: editing one makes another build."""
    named = dict.fromkeys([*recipe.export.presets, *(recipe.close.cures if recipe.devices else ())])
    presets = {name: catalogue.load("export", name) for name in named}
    devices = {name: catalogue.load("devices", name) for name in recipe.devices}
    return {"export": presets, "suite": catalogue.load("benchmarks", recipe.measure.suite), **({"devices": devices} if devices else {})}


def _write_data(folder: Path, found: Found) -> None:
    """What was written along the way, as parquet: pairs and training sets in TRL's own forms."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from edgearte.train import sft

    lesson = found.lesson
    tables: dict[str, list[dict[str, Any]]] = {
        "drafts": [
            {"id": d.id, "input": d.input, "target": d.target, "source": d.source, "seeds": list(d.seeds),
             "strategy": x.strategy, "rationale": x.text, "answer": x.answer}
            for once in lesson.rounds for d in once.drafts for x in d.rationales
        ],
        "preferences": [vars(p) for once in lesson.rounds for p in once.preferred.preferences],
        "pairs": [vars(p) for once in lesson.rounds for p in once.pairs],
        "preference-set": [
            {"id": q.id, "input": q.input, "target": q.target, "alpha": a, "alpha_sd": sd, "beta": b}
            for asked in ([lesson.asked] if lesson.asked else [])
            for q in asked.questions
            for a, sd, b in [asked.items.get(q.id, (None, None, None))]
        ],
        "annotations": [
            {**vars(j.annotation), "phase": j.phase, "confidence": j.confidence, "kept": j.kept}
            for found in ([lesson.assisted] if lesson.assisted else []) for j in found.judged
        ],
        "doubts": [vars(d) for found in ([lesson.assisted] if lesson.assisted else []) for d in found.doubts],
    }  # fmt: skip
    for arm, examples in lesson.sets.items():
        rows = sft.rows(examples, found.setup.asked)
        extra = [{"id": e.id, "target": e.target, "source": e.source} for e in examples]
        tables[f"train-{arm.replace(' ', '-').lower()}"] = [{**a, **b} for a, b in zip(rows, extra, strict=True)]
    folder.mkdir(exist_ok=True)
    for name, rows in tables.items():
        if rows:
            partial = folder / f".{name}.partial"
            pq.write_table(pa.Table.from_pylist(rows), partial)
            partial.replace(folder / f"{name}.parquet")
    (folder / "README.md").write_text(
        "Rows of one build, in TRL's forms: `pairs` has prompt/chosen/rejected, `train-*` has prompt/completion.\n",
        "utf-8",
    )


def read_result(run: Path) -> Result:
    """The result of a run folder, or of a result.json named itself."""
    from edgearte.report.result import from_json

    path = run / "result.json" if run.is_dir() else run
    try:
        return from_json(path.read_text("utf-8"), str(path))
    except FileNotFoundError:
        raise UserError(f"{run}: no finished build here (no result.json)") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error
