"""A checkpoint becomes artifacts: converted, weighed, and compared with the checkpoint before anyone may use them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

from edgearte.convert import converters
from edgearte.convert.bits import bits
from edgearte.convert.child import ChildFailed, run_module
from edgearte.convert.gates import eos_gate, logits_gate, template_gate, tokens_gate
from edgearte.convert.presets import Preset
from edgearte.convert.reference import CONVERSATIONS, Reference, read_reference
from edgearte.records import Artifact, Gate, Tensor
from edgearte.store import Store, digest

STAGE, VERSION = "export", 1


def export(
    checkpoint: Path,
    identity: str,
    presets: Sequence[Preset],
    texts: Sequence[str],
    store: Store,
    *,
    chat: Sequence[str] = (),
) -> list[Artifact]:
    """Make and check one artifact per preset, in order.

    `checkpoint` is a Hugging Face folder (safetensors and tokenizer) and `identity` the hash of its contents; `texts`
    are held-out texts for the logit gate, `chat` rendered prompts for the EOS gate. What fails (a converter, a runtime,
    a gate) is told in `Artifact.failed`, and the other artifacts are made all the same. `UserError` where the
    checkpoint itself cannot be read or there is no text.
    """
    broken: dict[str, str] = {}
    with _reference(checkpoint, texts, chat, store) as reference:
        conditions = {"texts": digest(list(texts)), "chat": digest(list(chat))}
        return [_artifact(checkpoint, identity, preset, conditions, store, reference, broken) for preset in presets]


def _artifact(
    checkpoint: Path,
    identity: str,
    preset: Preset,
    conditions: dict[str, str],
    store: Store,
    reference: Callable[[], Reference],
    broken: dict[str, str],
) -> Artifact:
    try:
        tree = _convert(checkpoint, identity, preset.format, preset.type, store, broken)
    except ChildFailed as error:
        return Artifact(preset.name, preset.format, preset.runtime, "", 0, 0.0, {}, failed=str(error))
    path = tree / "model.gguf" if preset.format == "gguf" else tree
    options = _options(identity, preset.format, preset.type)
    held = store.value("bits", VERSION, options, lambda: bits(path), label=f"bits {preset.name}")
    artifact = Artifact(
        preset=preset.name,
        format=preset.format,
        runtime=preset.runtime,
        path=str(path),
        bytes=held["bytes"],
        bits_per_weight=held["bits_per_weight"],
        types=held["types"],
        tensors=tuple(Tensor(**t) for t in held["tensors"]),
        notes=tuple(held["notes"]),
    )
    try:
        # The thresholds are not in the key: what was measured stays measured when a preset is made stricter.
        checked = store.value("gates", VERSION, {**options, **conditions},
                              lambda: check(preset, path, reference()), label=f"gates {preset.name}")  # fmt: skip
    except ChildFailed as error:
        return replace(artifact, failed=str(error))
    gates = (*(Gate(**g) for g in checked["gates"]), logits_gate(preset, checked["logits"]))
    failed = [f"gate {g.name}: {g.summary}" for g in gates if not g.passed]
    return replace(artifact, gates=gates, failed="; ".join(failed))


def _options(identity: str, format: str, type: str) -> dict[str, Any]:
    return {"identity": identity, "format": format, "type": type, "tools": converters.tools(format)}


def _convert(checkpoint: Path, identity: str, format: str, type: str, store: Store, broken: dict[str, str]) -> Path:
    """The store tree of one conversion. All GGUF types come from one f16 file; what failed once is not tried again."""
    name = f"{format}-{type}"
    if name in broken:
        raise ChildFailed(broken[name])

    def build(folder: Path) -> None:
        if format == "onnx":
            converters.to_onnx(checkpoint, folder, type)
        elif type == "f16":
            converters.to_gguf(checkpoint, identity, folder / "model.gguf")
        else:
            f16 = _convert(checkpoint, identity, "gguf", "f16", store, broken)
            converters.quantize(f16 / "model.gguf", folder / "model.gguf", type)

    try:
        return store.tree(STAGE, VERSION, _options(identity, format, type), build, label=f"export {name}")
    except ChildFailed as error:
        broken[name] = str(error)
        raise


def check(preset: Preset, path: Path, reference: Reference) -> dict[str, Any]:
    """Ask an artifact in a child process what it does, and compare: three gates, and the figures for the fourth."""
    request, answer = (reference.logprobs.with_name(f"{preset.name}.{kind}.json") for kind in ("request", "answer"))
    asked = {
        "format": preset.format,
        "path": str(path),
        "strings": [text for _, text in reference.strings],
        "conversations": CONVERSATIONS,
        "eos": reference.eos,
        "endings": reference.endings,
        "windows": reference.windows,
        "logprobs": str(reference.logprobs),
    }
    request.write_text(json.dumps(asked), "utf-8")
    run_module("edgearte.convert.probe", [request, answer], f"{preset.runtime}, reading {preset.name},")
    said = json.loads(answer.read_text("utf-8"))
    gates = [
        tokens_gate(reference, said["ids"]),
        template_gate(reference, said["templates"]),
        eos_gate(reference, said),
    ]
    return {"gates": [asdict(g) for g in gates], "logits": said["logits"]}


@contextmanager
def _reference(
    checkpoint: Path, texts: Sequence[str], chat: Sequence[str], store: Store
) -> Iterator[Callable[[], Reference]]:
    """A function that runs the checkpoint on first use: where all is in the store already, torch is never loaded."""
    # Named as the store names a tree in the making, so that the store sweeps it away should this process be killed.
    folder = store.root / "trees" / f".reference.{os.getpid()}"

    @cache
    def read() -> Reference:
        folder.mkdir(parents=True, exist_ok=True)
        return read_reference(checkpoint, texts, chat, folder)

    try:
        yield read
    finally:
        shutil.rmtree(folder, ignore_errors=True)
