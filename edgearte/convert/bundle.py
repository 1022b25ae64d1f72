"""The bundle: what an app embeds, in one folder that is the same bytes whenever it is made from the same inputs.

    NAME/gguf/NAME-q8_0.gguf   NAME/onnx-int4/…   tokenizer/   Modelfile   README.md   manifest.json

No time, place or speed is written into it. Files are copied, never linked, from where they were made: whoever edits a
bundle must not be able to change what the store holds. A file whose size and modification time are those of its source
(the rule of rsync) is taken over from the bundle that stood there before, so that writing an unchanged bundle again
costs almost nothing.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from edgearte import __version__
from edgearte.convert.card import Card, for_ollama, readme
from edgearte.convert.modelfile import modelfile
from edgearte.errors import UserError
from edgearte.measure.machine import PART, parts
from edgearte.records import Artifact

SCHEMA = 1
MANIFEST = "manifest.json"
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "merges.txt", "tokenizer.model", "chat_template.jinja", "chat_template.json", "generation_config.json",
)  # fmt: skip


def write_bundle(
    folder: Path,
    *,
    name: str,
    checkpoint: Path,
    artifacts: Sequence[Artifact],
    card: Card,
    lineage: Sequence[Mapping[str, Any]],
) -> None:
    """Write the bundle of a taught student, beside its place and then into it, over a bundle that may stand there.

    `checkpoint` gives the tokenizer; artifacts that failed are left out and named in the manifest. `lineage` is written
    as it comes. Raises `UserError` when the name cannot be a file's, when no artifact is usable, or when the disk does
    not take it.
    """
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", name):
        raise UserError(f"{name!r} cannot name a bundle: use letters, digits, dots, dashes and underscores")
    usable = [(place(name, a), a) for a in artifacts if not a.failed]
    if not usable:
        raise UserError(f"{folder}: there is nothing to bundle: no artifact could be made or held; the report says why")
    usable.sort(key=lambda item: item[1].preset != card.chosen)  # the chosen one first, the others as they came
    sources = _sources(usable, checkpoint)
    texts = {"README.md": readme(name, card, usable, lineage)}
    if ggufs := for_ollama(usable):
        texts["Modelfile"] = modelfile(ggufs, *tokenizer_of(checkpoint), system=card.system)
    partial = folder.parent / f".{folder.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        files = _fill(partial, folder, sources, texts)
        manifest = {
            "schema": SCHEMA,
            "name": name,
            "edgearte": __version__,
            "artifacts": [_described(path, artifact) for path, artifact in usable],
            "left_out": [{"preset": a.preset, "why": _why(a)} for a in artifacts if a.failed],
            "licences": {m.role: {"model": m.name, "licence": m.licence} for m in card.models},
            "lineage": [dict(link) for link in lineage],
            "versions": dict(sorted(card.versions.items())),
            "files": dict(sorted(files.items())),
        }
        text = json.dumps(manifest, ensure_ascii=False, indent=1, default=list) + "\n"
        (partial / MANIFEST).write_text(text, "utf-8")
        _put(partial, folder)
    except OSError as error:
        raise UserError(f"{folder}: the bundle could not be written: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def place(name: str, artifact: Artifact) -> str:
    """Where an artifact lies in the bundle: one file for GGUF (of several parts the first), a folder for ONNX."""
    kind = artifact.preset.removeprefix(f"{artifact.format}-")
    part = PART.search(artifact.path)
    return f"gguf/{name}-{kind}{part[0] if part else '.gguf'}" if artifact.format == "gguf" else f"{artifact.format}-{kind}"


def files_of(path: str, artifact: Artifact) -> dict[str, Path]:
    """Path beside `path`, where the artifact lies -> the file to copy there."""
    origin = Path(artifact.path)
    if artifact.format == "gguf":
        return {part.as_posix(): file for part, file in zip(parts(Path(path)), parts(origin), strict=True) if file.is_file()}
    return {f"{path}/{f.relative_to(origin).as_posix()}": f for f in sorted(origin.rglob("*")) if f.is_file()}


def verify_bundle(folder: Path) -> list[str]:
    """What is wrong with a bundle, a sentence each: files missing, changed or not in the manifest. Empty when whole."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
        expected = {str(path): (int(f["bytes"]), str(f["sha256"])) for path, f in manifest["files"].items()}
    except FileNotFoundError:
        return [f"{MANIFEST} is missing"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return [f"{MANIFEST} cannot be read: {error}"]
    problems = []
    for path, (size, sha256) in sorted(expected.items()):
        pure = PurePosixPath(path)
        if pure.is_absolute() or ".." in pure.parts:
            problems.append(f"{path}: the manifest names a file outside of the bundle")
            continue
        file = folder / pure
        if not file.is_file():
            problems.append(f"{path} is missing")
        elif file.stat().st_size != size:
            problems.append(f"{path} has {file.stat().st_size} bytes instead of {size}")
        elif _sha256(file) != sha256:
            problems.append(f"{path} was changed: its sha256 is another")
    found = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.is_dir()}
    return problems + [f"{path} is not in {MANIFEST}" for path in sorted(found - set(expected) - {MANIFEST})]


def _sources(usable: Sequence[tuple[str, Artifact]], checkpoint: Path) -> dict[str, Path]:
    """Path in the bundle -> the file to copy there."""
    sources: dict[str, Path] = {}
    for path, artifact in usable:
        inside = files_of(path, artifact)
        if not inside:
            raise UserError(f"{artifact.path}: the artifact {artifact.preset} is not there; run the build again")
        for target, file in inside.items():
            if target in sources:
                raise UserError(f"two artifacts of the bundle would both be {path}: give the presets different names")
            sources[target] = file
    tokenizer = {f"tokenizer/{n}": checkpoint / n for n in TOKENIZER_FILES if (checkpoint / n).is_file()}
    if "tokenizer/tokenizer.json" not in tokenizer and "tokenizer/tokenizer.model" not in tokenizer:
        raise UserError(f"{checkpoint}: no tokenizer beside the checkpoint, and a bundle without one cannot be used")
    return sources | tokenizer


def tokenizer_of(checkpoint: Path) -> tuple[dict[str, Any], str]:
    """tokenizer_config.json and the chat template, which older checkpoints keep inside it."""
    path = checkpoint / "tokenizer_config.json"
    config: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    template = config.get("chat_template") or ""
    if not isinstance(template, str):  # several named ones
        template = next((t["template"] for t in template if t.get("name") == "default"), "")
    own = checkpoint / "chat_template.jinja"
    return config, own.read_text("utf-8") if own.is_file() else template


def _why(artifact: Artifact) -> str:
    """Why an artifact is not there; a tool's own output is not repeated, since it may name places and times."""
    failed = [f"{gate.name}: {gate.summary}" for gate in artifact.gates if not gate.passed]
    return "; ".join(failed) or "it could not be made or checked"


def _described(path: str, artifact: Artifact) -> dict[str, Any]:
    return {
        "path": path,
        "preset": artifact.preset,
        "format": artifact.format,
        "runtime": artifact.runtime,
        "bytes": artifact.bytes,
        "bits_per_weight": artifact.bits_per_weight,
        "types": dict(sorted(artifact.types.items())),
        "notes": artifact.notes,
        "gates": [{"name": g.name, "passed": g.passed, "summary": g.summary} for g in artifact.gates],
    }


def _fill(partial: Path, before: Path, sources: Mapping[str, Path], texts: Mapping[str, str]) -> dict[str, Any]:
    """Copy and write everything but the manifest; size and sha256 of each file by its path."""
    known = _known(before)
    files: dict[str, Any] = {}
    for path, source in sources.items():
        (partial / path).parent.mkdir(parents=True, exist_ok=True)
        if path in known and _taken_over(source, before / path, partial / path):
            files[path] = known[path]
        else:
            files[path] = _copy(source, partial / path)
    for path, text in texts.items():
        data = text.encode()
        (partial / path).write_bytes(data)
        files[path] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    return files


def _known(before: Path) -> dict[str, Any]:
    """The files of the manifest that stands there, or none when there is none to trust."""
    try:
        files = json.loads((before / MANIFEST).read_text("utf-8"))["files"]
        return {path: {"bytes": int(f["bytes"]), "sha256": str(f["sha256"])} for path, f in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _taken_over(source: Path, old: Path, target: Path) -> bool:
    """Link a file of the old bundle into the new one if it is still a copy of its source."""
    if not old.is_file() or old.is_symlink():
        return False
    a, b = source.stat(), old.stat()
    if (a.st_size, a.st_mtime_ns) != (b.st_size, b.st_mtime_ns):
        return False
    try:
        os.link(old, target)
    except OSError:  # a file system without hard links
        return False
    return True


def _copy(source: Path, target: Path) -> dict[str, Any]:
    shutil.copyfile(source, target)
    stat = source.stat()
    os.utime(target, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    return {"bytes": stat.st_size, "sha256": _sha256(target)}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _put(partial: Path, folder: Path) -> None:
    """Move the new bundle into its place. On Linux the two folders are exchanged in one step, so that there is a bundle
    at every moment; elsewhere the old one is moved aside first."""
    if not folder.exists():
        partial.rename(folder)
        return
    if not _exchange(partial, folder):
        aside = partial.with_suffix(".old")
        shutil.rmtree(aside, ignore_errors=True)
        folder.rename(aside)
        partial.rename(folder)
        shutil.rmtree(aside, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """renameat2(2) with RENAME_EXCHANGE; False where the system or the file system has no such thing."""
    if not sys.platform.startswith("linux"):
        return False
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    at_fdcwd, rename_exchange = -100, 2
    return renameat2 is not None and not renameat2(
        at_fdcwd, os.fsencode(one), at_fdcwd, os.fsencode(other), rename_exchange
    )
