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
from statistics import median
from typing import Any

from edgearte.child import ChildFailed, run_module
from edgearte.convert import beforehand
from edgearte.convert.bits import bits
from edgearte.convert.describe import Description
from edgearte.convert.gates import batch_gate, eos_gate, logits_gate, long_gate, template_gate, tokens_gate
from edgearte.convert.make import VERSION, Calibration, Source, calibrated, convert, importance
from edgearte.convert.presets import BROWSER, CHECKED, RUNTIMES, Preset, load_preset
from edgearte.convert.reference import CONVERSATIONS, LAST, Reference, read_reference
from edgearte.measure import host
from edgearte.measure.suite import load_suite
from edgearte.records import Artifact, Gate, Tensor
from edgearte.store import Store, digest

FOR_A_BROWSER = f"laid out for {BROWSER}; checked and measured here by {RUNTIMES['onnx'][0]}, which reads the same folder"
GATES = 4  # version of what they ask
TRIES, TIGHTER = 3, 0.97  # how often a file over its budget is made again, and how far below the budget that aims
TURNS = 3  # of measuring two files
MEASURED = {"logits": logits_gate, "long": long_gate}  # gates that the preset's thresholds decide
UNQUANTIZED = {"gguf": "f16", "onnx": "onnx-fp32"}  # the preset of each format


def export(
    checkpoint: Path,
    identity: str,
    presets: Sequence[Preset],
    texts: Sequence[str],
    store: Store,
    *,
    chat: Sequence[str] = (),
    calibration: Calibration | None = None,
    description: Description | None = None,
) -> list[Artifact]:
    """Make and check one artifact per preset, in order.

    `checkpoint` is a Hugging Face folder (safetensors and tokenizer) and `identity` the hash of its contents; `texts`
    are held-out texts for the logit gate, `chat` rendered prompts for the EOS gate; GGUF files say of themselves what is in
    `description`. What fails (a converter, a runtime, a gate) is told in `Artifact.failed`, and the other artifacts are made all the
    same. `UserError` where the checkpoint itself cannot be read or there is no text.
    """
    refused = beforehand.unknown(checkpoint, [p.format for p in presets])
    source = Source(checkpoint, identity, calibration, store, description or {})
    with _reference(checkpoint, texts, chat, store) as reference:
        conditions = {"texts": digest(list(texts)), "chat": digest(list(chat))}
        return [
            _failed(preset, refused[preset.format]) if preset.format in refused else _artifact(source, preset, conditions, reference)
            for preset in presets
        ]


def _failed(preset: Preset, why: str) -> Artifact:
    return Artifact(preset.name, preset.format, preset.runtime, "", 0, 0.0, {}, failed=why)


def _artifact(source: Source, preset: Preset, conditions: dict[str, str], reference: Callable[[], Reference]) -> Artifact:
    made = _as_it_is(source, preset, conditions, reference)
    if preset.heal:
        return _if_better(source, preset, made, conditions, reference)
    return _within(source, preset, made, conditions, reference) if set(CHECKED) & set(preset.budget) else made


def _if_better(source: Source, preset: Preset, made: Artifact, conditions: dict[str, str], reference: Callable[[], Reference]) -> Artifact:
    """What was healed, where the gate is better for it; else what it was before."""
    before = _as_it_is(source, replace(preset, heal=False), conditions, reference)
    healed, was = made.distance(), before.distance()
    if healed is None or was is None or was <= healed:
        left_out = "healing brought nothing, and is left out" + (f" (KL {healed:.4f}, before {was:.4f})" if healed and was else "")
        return replace(before, notes=(*before.notes, left_out))
    return replace(made, notes=(*made.notes, f"healed: KL {healed:.4f}, before {was:.4f}"))


def _within(source: Source, preset: Preset, made: Artifact, conditions: dict[str, str], reference: Callable[[], Reference]) -> Artifact:
    """A file of mixed types that loses no more, or takes no longer, than its budget allows, as far as a few tries bring it: where the real
    file is found over it, as much less is allowed than was foretold, and it is made again."""
    ((kind, value),) = preset.budget.items()
    other = None if kind == "kl" else _artifact(source, load_preset(value), conditions, reference)
    allowed: float | None = value if other is None else 1.0 if kind == "speed_of" else other.distance()
    share, story = 1.0, []

    def measured() -> float | None:
        return _time(source, made, other) if other and kind == "speed_of" else made.distance()

    for _ in range(TRIES):
        found = measured()
        if found is None or allowed is None or found <= allowed:
            break
        story.append(f"{found:.4f} in {made.bytes / 1e6:.1f} MB")
        share *= TIGHTER * allowed / found
        tighter = _as_it_is(source, replace(preset, budget={kind: value, "share": round(share, 4)}), conditions, reference)
        if tighter.distance() is None:  # no types are left that lose less, or are faster
            break
        made = tighter
    if not story:
        return made
    what = f"a token's time against {value}'s" if kind == "speed_of" else "KL"
    told = f"{what} {measured():.4f}, of {allowed:.4f} allowed; as foretold it was {', then '.join(story)}"
    return replace(made, notes=(*made.notes, told))


def _time(source: Source, made: Artifact, other: Artifact) -> float | None:
    """How long a decoded token takes against another artifact's, both measured in turn."""
    if made.failed or other.failed:
        return None
    suite, both = load_suite("short"), (made, other)

    def measured() -> float:
        taken = [[1 / host.measure(Path(a.path), a.runtime, suite, name=a.preset).decode_tps.median for a in both] for _ in range(TURNS)]
        mine, its = (median(column) for column in zip(*taken, strict=True))
        return float(mine / its)

    files = [str(Path(a.path).relative_to(source.store.root)) for a in both]
    return float(source.store.value("time", VERSION, {"files": files}, measured, label=f"time {made.preset}"))


def _as_it_is(source: Source, preset: Preset, conditions: dict[str, str], reference: Callable[[], Reference]) -> Artifact:
    try:
        tree = convert(source, preset)
    except ChildFailed as error:
        return _failed(preset, str(error))
    path = min(tree.glob("*.gguf")) if preset.format == "gguf" else tree  # of several parts the first
    options = source.options(preset)
    held = source.store.value("bits", VERSION, options, lambda: bits(path), label=f"bits {preset.name}")
    artifact = Artifact(
        preset=preset.name,
        format=preset.format,
        runtime=preset.runtime,
        path=str(path),
        bytes=held["bytes"],
        bits_per_weight=held["bits_per_weight"],
        types=held["types"],
        tensors=tuple(Tensor(**t) for t in held["tensors"]),
        notes=_notes(source, preset, held["notes"]),
        imatrix=str(importance(source)) if preset.calibration == "imatrix" and source.calibration else "",
    )
    try:
        # The thresholds are not in the key: what was measured stays measured when a preset is made stricter.
        checked = source.store.value("gates", GATES, {**options, **conditions},
                                     lambda: check(preset, path, reference()), label=f"gates {preset.name}")  # fmt: skip
    except ChildFailed as error:
        return replace(artifact, failed=str(error))
    gates = judged(preset, checked)
    failed = [f"gate {g.name}: {g.summary}" for g in gates if not g.passed]
    whole = load_preset(UNQUANTIZED[preset.format])
    if not all(g.passed for g in gates if g.name in MEASURED) and preset.type != whole.type:
        failed.append(_broken_by(_artifact(source, whole, conditions, reference)))
    return replace(artifact, gates=gates, failed="; ".join(failed))


def _notes(source: Source, preset: Preset, fallen: Sequence[str]) -> tuple[str, ...]:
    if preset.type == "mixed":
        fallen = ()  # what was chosen tensor by tensor did not fall back
    return (*fallen, *calibrated(source, preset), *([FOR_A_BROWSER] if preset.runtime == BROWSER else []))


def _broken_by(whole: Artifact) -> str:
    """Which step changed the model, told by the same conversion without quantization."""
    measured = [g for g in whole.gates if g.name in MEASURED]
    if not measured:
        return f"{whole.preset} could not be made either, so it is the conversion that breaks it"
    step = "the quantization" if all(g.passed for g in measured) else "the conversion"
    kl = max(g.evidence.get("kl", float("nan")) for g in measured)
    return f"{whole.preset} has KL {max(kl, 0.0):.4f} nats, so it is {step} that breaks it"


def check(preset: Preset, path: Path, reference: Reference) -> dict[str, Any]:
    """Ask an artifact in a child process what it does, and compare: its gates, and the figures for those that thresholds decide."""
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
        "together": reference.together,
        "long": reference.long,
        "long_logprobs": str(reference.long_logprobs),
        "last": LAST,
    }
    request.write_text(json.dumps(asked), "utf-8")
    run_module("edgearte.convert.probe", [request, answer], f"{RUNTIMES[preset.format][0]}, reading {preset.name},")
    said = json.loads(answer.read_text("utf-8"))
    gates = [
        tokens_gate(reference, said["ids"]),
        template_gate(reference, said["templates"]),
        eos_gate(reference, said),
        batch_gate(reference, said["together"]),
    ]
    return {"gates": [asdict(g) for g in gates], **{name: said[name] for name in MEASURED}}


def judged(preset: Preset, checked: dict[str, Any]) -> tuple[Gate, ...]:
    """All gates, of what `check` found, by the thresholds of a preset."""
    return (*(Gate(**g) for g in checked["gates"]), *(judge(preset, checked[name]) for name, judge in MEASURED.items()))


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
