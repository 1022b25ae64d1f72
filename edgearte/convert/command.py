"""`edgearte export`: any model the user already has, through presets and their gates, into a folder."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from edgearte.convert import beforehand, imatrix
from edgearte.convert.bundle import files_of, place, tokenizer_of
from edgearte.convert.card import for_ollama
from edgearte.convert.describe import description
from edgearte.convert.export import export
from edgearte.convert.make import IMATRIX, Calibration
from edgearte.convert.modelfile import modelfile
from edgearte.convert.presets import load_preset
from edgearte.errors import Problem, UserError
from edgearte.files import read_texts
from edgearte.lm import weights
from edgearte.lm.general import GENERAL
from edgearte.records import Artifact
from edgearte.store import Store


def export_command(
    model: str, presets: Sequence[str], out: Path, texts: Path | None, store_folder: Path, calibrate: Path | None = None
) -> int:
    """Export `model`, calibrated on the texts or with the importance matrix in `calibrate`, copy what passed its gates into `out`, and
    print the evidence. 1 when an artifact failed."""
    wanted = [load_preset(name.strip()) for name in presets if name.strip()]
    if not wanted:
        raise UserError("--to names no preset; `edgearte ls export` lists them")
    held_out = read_texts(texts) if texts else list(GENERAL)
    calibration = _calibration(calibrate) if calibrate else None
    if lacking := beforehand.room(weights.footprint(model)[0], wanted, store_folder):
        raise UserError(lacking)
    store = Store(store_folder)
    try:
        source = weights.resolve(model, store)
        refused = beforehand.unknown(source.folder, [p.format for p in wanted])
        if all(p.format in refused for p in wanted):
            raise UserError([Problem(why, model) for why in refused.values()])
        said = description(file_name(model), source.called, source.licence, checkpoint=source.identity)
        artifacts = export(
            source.folder, source.identity, wanted, held_out, store,
            chat=_prompts(source.folder), calibration=calibration, description=said,
        )  # fmt: skip
    finally:
        store.close()
    _put(artifacts, file_name(model), source.folder, out)
    _show(artifacts)
    return 1 if any(a.failed for a in artifacts) else 0


def file_name(model: str) -> str:
    """What the files of a model are called: its name without the place it came from, as every file system takes it."""
    last = Path(model.removeprefix(weights.PACKAGE)).name.removesuffix(".gguf")
    return re.sub(r"[^\w.+-]", "-", last) or "model"


def _calibration(path: Path) -> Calibration:
    """Of a file of texts, or of an importance matrix as llama.cpp writes it."""
    try:
        with path.open("rb") as file:
            begins = file.read(4)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    if begins == b"GGUF" or path.suffix in (".dat", ".imatrix"):
        imatrix.read(path)  # said before any work
        return Calibration(path.name, imatrix=path)
    return Calibration(path.name, tuple(read_texts(path)))


def _prompts(folder: Path) -> list[str]:
    """A few rendered conversations for the gate that watches EOS; none for a model without a chat template."""
    from edgearte.lm.hf import TransformersLM, form

    if form(folder) == "plain":
        return []
    model = TransformersLM(folder, "")
    return [model.chat([{"role": "user", "content": text}]) for text in GENERAL]


def _put(artifacts: Sequence[Artifact], name: str, checkpoint: Path, out: Path) -> None:
    """Copy what passed into `out`, with what Ollama needs beside the GGUF files."""
    usable = [(place(name, a), a) for a in artifacts if not a.failed]
    try:
        for path, artifact in usable:
            if artifact.format == "gguf":
                for target, file in files_of(path, artifact).items():
                    _put_file(file, out / target)
            else:
                _put_folder(Path(artifact.path), out / path)
        out.mkdir(parents=True, exist_ok=True)
        if ggufs := for_ollama(usable):
            (out / "Modelfile").write_text(modelfile(ggufs, *tokenizer_of(checkpoint)), "utf-8")
        for used in {a.imatrix for a in artifacts if a.imatrix}:
            shutil.copyfile(used, out / IMATRIX)
        (out / "export.json").write_text(json.dumps([asdict(a) for a in artifacts], indent=1) + "\n", "utf-8")
    except OSError as error:
        raise UserError(f"{out}: could not be written: {error.strerror}") from error


def _put_file(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial")
    shutil.copyfile(source, partial)
    partial.replace(target)


def _put_folder(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(source, partial)
    shutil.rmtree(target, ignore_errors=True)
    partial.replace(target)


def _show(artifacts: Sequence[Artifact]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table("preset", "MB", "bits/weight", "gates", box=None, pad_edge=False)
    for a in artifacts:
        gates = ", ".join(f"{g.name} {'ok' if g.passed else 'FAILED'}" for g in a.gates)
        table.add_row(a.preset, f"{a.bytes / 1e6:.1f}", f"{a.bits_per_weight:.2f}", gates)
    console.print(table)
    for a in artifacts:
        for gate in a.gates:
            console.print(f"{a.preset} {gate.name}: {gate.summary}", soft_wrap=True, markup=False)
        for line in (*a.notes, *([f"not usable: {a.failed}"] if a.failed else [])):
            console.print(f"{a.preset}: {line}", soft_wrap=True, markup=False)
