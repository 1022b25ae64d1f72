"""Olive beside edgearte: one checkpoint to 4-bit ONNX for onnxruntime-genai on a CPU.

python benchmarks/olive_int4.py --run runs/quickstart            a finished build's student, calibration texts and evaluation questions
python benchmarks/olive_int4.py --model MODEL --texts FILE       texts, one a line: the first half calibrates, the second is judged on

Olive is installed into an environment of its own (once, some minutes, 2 GB) and runs in processes of its own, with the same calibration
texts, each way anew without caches. What comes of each way is measured alike: size, KL and top-1 against the checkpoint in float32 and
the other gates, and the answers to the task's questions. Prints a table in Markdown: of time and memory, ratios against ours.
What is measured stays in WORK; `--ways` does some only, and the table has all that are there. Delete WORK to measure anew.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from watched import watch

from edgearte.answers import AnswerFormat
from edgearte.child import ChildFailed
from edgearte.convert.export import check, export
from edgearte.convert.gates import logits_gate
from edgearte.convert.make import Calibration
from edgearte.convert.presets import load_preset
from edgearte.convert.reference import Reference, read_reference
from edgearte.errors import UserError
from edgearte.files import read_texts
from edgearte.lm import weights
from edgearte.lm.base import Asked, rendered
from edgearte.lm.general import GENERAL
from edgearte.lm.hf import TransformersLM, form
from edgearte.measure.machine import size_of
from edgearte.records import Question
from edgearte.store import Store, digest

# Olive 0.13.0 names neither requests nor onnxruntime-genai, and its ModelBuilder pass fails with onnxruntime-genai 0.15 and newer.
PACKAGES = (
    "olive-ai==0.13.0", "requests==2.34.2", "torch==2.13.0", "transformers==5.23.0", "datasets==5.2.0", "numpy==2.4.6", "onnx==1.23.2",
    "onnxruntime==1.31.1", "onnxruntime-genai==0.14.1",
)  # fmt: skip
RUNTIME = "onnxruntime-genai"
BUILDER = {"type": "ModelBuilder", "precision": "int4", "int4_block_size": 32, "int4_accuracy_level": 4,
           "int4_op_types_to_quantize": ["MatMul", "Gather"]}  # fmt: skip
BLOCKS = {"bits": 4, "group_size": 32}
ALL = {"embeds": True, "lm_head": True}


@dataclass(frozen=True)
class Way:
    """How an int4 model is made: by a preset of ours, by a workflow of Olive's passes, or by a command of Olive's as one types it."""

    name: str
    calibrated: bool = False
    preset: str = ""
    passes: tuple[dict[str, Any], ...] = ()
    command: tuple[str, ...] = ()

    @property
    def file(self) -> str:
        return re.sub(r"\W+", "-", self.name).strip("-")


WAYS = (
    Way("onnx-int4", preset="onnx-int4"),
    Way("onnx-int4-k", preset="onnx-int4-k"),
    Way("onnx-int4-gptq", True, preset="onnx-int4-gptq"),
    Way("olive auto-opt", command=("auto-opt", "--precision", "int4", "--use_model_builder")),
    Way("olive optimize", command=("optimize", "--precision", "int4")),
    Way("olive quantize", command=("quantize", "--precision", "int4", "--algorithm", "rtn")),
    Way("ModelBuilder", passes=(BUILDER,)),
    Way("ModelBuilder k_quant_mixed", passes=({**BUILDER, "int4_algo_config": "k_quant_mixed"},)),
    Way("KQuant", passes=({"type": "KQuant", **BLOCKS, **ALL}, BUILDER)),
    Way("Gptq", True, passes=({"type": "Gptq", **BLOCKS, "lm_head": True, "data_config": "texts"},
                              {"type": "Rtn", **BLOCKS, **ALL}, BUILDER)),
)  # fmt: skip
OURS = {False: "onnx-int4", True: "onnx-int4-gptq"}  # what is compared with, by whether it is calibrated


@dataclass(frozen=True)
class Job:
    """The checkpoint, the texts that calibrate and those that judge, and the task's questions, if any, as they are asked."""

    checkpoint: Path
    calibration: tuple[str, ...]
    texts: tuple[str, ...]
    chat: tuple[str, ...]
    questions: tuple[Question, ...] = ()
    asked: tuple[Asked, ...] = ()
    format: AnswerFormat | None = None
    max_tokens: int = 0
    right: int = 0  # of the questions, by the checkpoint itself


def of_build(run: Path) -> Job:
    """What a finished build taught its student with and asked it, from its recipe and store."""
    from edgearte import delivery, steps
    from edgearte.lesson import arte, with_assistant
    from edgearte.setup import opened

    result = json.loads((run / "result.json").read_text("utf-8"))
    (taught,) = (s["id"] for s in result["lineage"] if s["what"] == "taught student")
    (folder,) = (run.parent / "store" / "trees").resolve().glob(f"{taught}*")
    with opened(run / "recipe.yaml", [], run.parent) as (setup, _):
        setup = steps.prepared(setup)
        how = setup.recipe.assist
        best = result["arm"]["name"]
        lesson = with_assistant(setup, how, how.budget) if how and how.budget else arte(setup)
        answers = steps.answers(setup, folder, best)
        model = steps.student(setup, folder)
        asked = tuple(setup.asked(a.question.input) for a in answers)
        chat = rendered(model, asked[: delivery.GATE_TEXTS])
        return Job(
            checkpoint=folder,
            calibration=tuple(prompt + answer for prompt, answer in steps.as_read(setup, model, lesson.sets[best]).values()),
            texts=tuple(prompt + a.text for prompt, a in zip(chat, answers, strict=False)),
            chat=tuple(chat),
            questions=tuple(a.question for a in answers),
            asked=asked,
            format=setup.task.answer,
            max_tokens=setup.recipe.measure.max_tokens,
            right=sum(a.grade.correct for a in answers),
        )


def of_files(model: str, texts: Path, store: Store) -> Job:
    folder = weights.resolve(model, store).folder.resolve()
    given = tuple(read_texts(texts))
    half = len(given) // 2
    asks = TransformersLM(folder, "")
    chat = () if form(folder) == "plain" else tuple(asks.chat([{"role": "user", "content": text}]) for text in GENERAL)
    return Job(folder, given[:half], given[half:], chat)


def installed(cache: Path) -> Path:
    """The programs of Olive's own environment, made where it is not there yet."""
    place = cache / hashlib.sha256("\n".join(PACKAGES).encode()).hexdigest()[:12]
    programs = place / ("Scripts" if os.name == "nt" else "bin")
    if not (place / "ready").is_file():
        shutil.rmtree(place, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", place], check=True)
        subprocess.run([programs / "python", "-m", "pip", "install", "-q", "--disable-pip-version-check", *PACKAGES], check=True)
        (place / "ready").touch()
    return programs


def workflow(way: Way, job: Job, place: Path) -> dict[str, Any]:
    """The configuration of `olive run`."""
    texts = {
        "name": "texts",
        "type": "HuggingfaceContainer",
        "load_dataset_config": {"data_name": "json", "data_files": str(place / "texts.jsonl"), "split": "train"},
        "pre_process_data_config": {"text_cols": "text", "strategy": "line-by-line", "max_seq_len": 1024, "pad_to_max_len": False,
                                    "add_special_tokens": False, "max_samples": len(job.calibration)},
        "dataloader_config": {"batch_size": 1},
    }  # fmt: skip
    system = {"type": "LocalSystem", "accelerators": [{"device": "cpu", "execution_providers": ["CPUExecutionProvider"]}]}
    return {
        "input_model": {"type": "HfModel", "model_path": str(job.checkpoint)},
        "systems": {"here": system},
        "host": "here",
        "target": "here",
        "data_configs": [texts],
        "passes": {f"{number} {one['type']}": one for number, one in enumerate(way.passes)},
        "output_dir": str(place / "made"),
        "cache_dir": str(place / "cache"),
        "no_artifacts": True,
    }


def made(way: Way, job: Job, place: Path, cache: Path) -> dict[str, Any]:
    """Make the model in `place`/made; what that took, and what was said where nothing came of it."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    (place / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in job.calibration), "utf-8")
    command: list[str | Path]
    if way.preset:
        asked = {"checkpoint": str(job.checkpoint), "preset": way.preset, "texts": job.texts, "chat": job.chat, "place": str(place),
                 "calibration": job.calibration if way.calibrated else ()}  # fmt: skip
        (place / "job.json").write_text(json.dumps(asked), "utf-8")
        command = [sys.executable, __file__, "--ours", place / "job.json"]
    elif way.command:
        command = [installed(cache) / "olive", *way.command, "-m", job.checkpoint, "-o", place / "made"]
    else:
        (place / "workflow.json").write_text(json.dumps(workflow(way, job, place), indent=1), "utf-8")
        command = [installed(cache) / "olive", "run", "--config", place / "workflow.json"]
    ours = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(place / "hub"), "OLIVE_DISABLE_TELEMETRY": "1"}
    # Olive leaves a cache in the folder it is called in.
    taken = watch(command, place / "said", {**os.environ, **ours}, None if way.preset else place)
    proof = json.loads((place / "proof.json").read_text("utf-8")) if (place / "proof.json").is_file() else 0.0
    failed = "" if (place / "made" / "genai_config.json").is_file() else last_error((place / "said").read_text("utf-8", "replace"))
    return {"code": taken.code, "seconds": taken.seconds, "processor": taken.processor, "making": taken.processor - proof,
            "peak": taken.peak, "failed": failed}  # fmt: skip


def by_us(job: Path) -> None:
    """What `edgearte export` does, the proofs included, with texts that may have several lines."""
    asked = json.loads(job.read_text("utf-8"))
    place = Path(asked["place"])
    store = Store(place / "store")
    source = weights.resolve(asked["checkpoint"], store)
    calibration = Calibration("the texts", tuple(asked["calibration"])) if asked["calibration"] else None
    (artifact,) = export(source.folder, source.identity, [load_preset(asked["preset"])], asked["texts"], store, chat=asked["chat"],
                         calibration=calibration)  # fmt: skip
    print(artifact.failed)
    if artifact.path:
        shutil.copytree(artifact.path, place / "made")
    (place / "proof.json").write_text(json.dumps(sum(e.processor for e in store.ledger if e.stage == "gates")), "utf-8")
    store.close()


def last_error(said: str) -> str:
    """The error that a program ended with, in one line."""
    found = re.findall(r"^[\w.]*(?:Error|Exception)\b.*", said, re.M)
    return " ".join((found or said.strip().splitlines() or ["nothing was said"])[-1].split())[:160]


def measured(way: Way, job: Job, folder: Path, reference: Reference, store: Store) -> dict[str, Any]:
    """Size, the gates, KL and top-1, and the questions answered right."""
    from edgearte import evaluate

    preset = replace(load_preset("onnx-int4"), name=way.file, max_kl=float("inf"), min_top1=0.0)
    try:
        said = check(preset, folder, reference)
    except ChildFailed as error:
        return {"failed": last_error(str(error))}
    logits = said["logits"]
    failed = [f"{g['name']}: {g['summary'].split(', first ')[0]}" for g in said["gates"] if not g["passed"]]
    if "kl" not in logits:
        return {"failed": logits_gate(preset, logits).summary}
    answers = evaluate.artifact(
        folder, RUNTIME, contents(folder), TransformersLM(job.checkpoint, ""), job.questions, job.asked, job.format, job.max_tokens, 0,
        store, label=f"answer: {way.name}",
    ) if job.format else []  # fmt: skip
    return {"bytes": size_of(folder), "kl": logits["kl"], "top1": logits["top1"], "gates": failed,
            "right": sum(a.grade.correct for a in answers), "of": len(answers)}  # fmt: skip


def contents(folder: Path) -> str:
    """A hash of all files of a folder."""
    found = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        found.update(path.relative_to(folder).as_posix().encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()


def table(found: dict[str, dict[str, Any]]) -> str:
    """Markdown: ours, and each of Olive's ways against ours of its kind; time and memory as ratios."""
    rows = ["| | time | processor time | without our proofs | peak memory | MB | KL | top-1 | right | other gates |", "|---" * 10 + "|"]
    for way in WAYS:
        one, base = found.get(way.name), found.get(OURS[way.calibrated])
        if one is None or base is None:
            continue
        name = way.name if way.preset else f"`{way.name} {' '.join(way.command[1:])}`" if way.command else f"Olive, {way.name}"
        what = " | ".join(f"{one[key] / base[key]:.2f} ×" for key in ("seconds", "processor", "making", "peak"))
        if one["failed"]:
            rows.append(f"| {name} | {what} | | | | | nothing came of it, exit code {one['code']}: {one['failed']} |")
            continue
        gates = "; ".join(one["gates"]) or "passed"
        right = f"{one['right']} of {one['of']}" if one["of"] else ""
        kl = f"{one['kl']:.4f}" + ("" if one is base else f" ({one['kl'] / base['kl']:.2f} ×)")
        rows.append(f"| {name} | {what} | {one['bytes'] / 1e6:.1f} | {kl} | {one['top1']:.1%} | {right} | {gates} |")
    return "\n".join(rows)


def chosen(names: str) -> list[Way]:
    known = {way.name: way for way in WAYS}
    wanted = [name.strip() for name in names.split(";")] if names else list(known)
    if unknown := [name for name in wanted if name not in known]:
        sys.exit(f"no way called {unknown[0]!r}; known: {'; '.join(known)}")
    return [known[name] for name in wanted]


def main(arguments: Sequence[str]) -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = options.add_mutually_exclusive_group(required=True)
    which.add_argument("--run", type=Path, help="the folder of a finished build")
    which.add_argument("--model", help="a folder, a .gguf file, a hub id or package:NAME; needs --texts")
    which.add_argument("--ours", type=Path, help=argparse.SUPPRESS)  # the child in which ours is watched
    options.add_argument("--texts", type=Path)
    options.add_argument("--ways", default="", help=f"some only, separated by ; ({'; '.join(way.name for way in WAYS)})")
    options.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "edgearte" / "olive", help="where Olive is installed")
    options.add_argument("--work", type=Path, default=Path("runs/olive"))
    asked = options.parse_args(arguments)
    cache = asked.cache.resolve()
    if asked.ours:
        by_us(asked.ours)
        return 0
    if asked.model and not asked.texts:
        options.error("--model needs --texts")
    ways = chosen(asked.ways)
    store = Store(asked.work.resolve() / "store")
    job = of_build(asked.run) if asked.run else of_files(asked.model, asked.texts, store)
    work = asked.work.resolve() / digest(weights.identity(job.checkpoint, store), job.calibration, job.texts)[:12]
    work.mkdir(parents=True, exist_ok=True)
    held = work / "found.json"
    found: dict[str, dict[str, Any]] = json.loads(held.read_text("utf-8")) if held.is_file() else {}
    todo = [way for way in ways if way.name not in found]
    if todo:
        installed(cache)
        reference = read_reference(job.checkpoint, job.texts, job.chat, work)
    for way in todo:
        place = work / way.file
        one = made(way, job, place, cache)
        found[way.name] = one if one["failed"] else one | measured(way, job, place / "made", reference, store)
        held.write_text(json.dumps(found, indent=1), "utf-8")
        for kept in ("store", "cache", "hub", ".olive-cache"):
            shutil.rmtree(place / kept, ignore_errors=True)
    store.close()
    (work / "reference.npy").unlink(missing_ok=True)
    print(f"with {', '.join(PACKAGES)}; {len(job.calibration)} texts to calibrate on")
    if job.questions:
        print(f"the checkpoint itself: {job.right} of {len(job.questions)} right")
    print(table(found))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except UserError as error:
        sys.exit(str(error))
