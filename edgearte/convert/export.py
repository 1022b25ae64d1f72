"""A checkpoint becomes artifacts: converted, weighed, and compared with the checkpoint before anyone may use them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from edgearte.convert import calibrate, converters, imatrix, mixed, sensitivity
from edgearte.convert.bits import bits
from edgearte.convert.child import ChildFailed, run_module
from edgearte.convert.gates import eos_gate, logits_gate, template_gate, tokens_gate
from edgearte.convert.presets import Preset, load_preset
from edgearte.convert.reference import CONVERSATIONS, Reference, read_reference
from edgearte.errors import UserError
from edgearte.records import Artifact, Gate, Tensor
from edgearte.store import Store, digest

STAGE, VERSION = "export", 1
IMATRIX = "imatrix.gguf"


@dataclass(frozen=True)
class Calibration:
    """What low-bit types are calibrated on: `texts` (of the data set so called), and `general` ones that count `share` (0 to 1); or an
    importance matrix that is there already."""

    name: str
    texts: tuple[str, ...] = ()
    general: tuple[str, ...] = ()
    share: float = 0.0
    imatrix: Path | None = None

    @cached_property
    def key(self) -> str:
        """What its numbers depend on beside the checkpoint."""
        return digest(self.imatrix.read_bytes().hex() if self.imatrix else [self.name, self.texts, self.general, self.share])


@dataclass(frozen=True)
class _Source:
    """A checkpoint on its way to all its artifacts. What failed once is in `broken`, by what it was to be made of, and not tried again."""

    checkpoint: Path
    identity: str
    calibration: Calibration | None
    store: Store
    broken: dict[str, str] = field(default_factory=dict)

    def options(self, preset: Preset) -> dict[str, Any]:
        """What the bytes of an artifact depend on."""
        made = {"identity": self.identity, "format": preset.format, "type": preset.type, "tools": converters.tools(preset.format)}
        if self.calibration and preset.calibration != "none":
            made["calibration"] = self.calibration.key
        return made | ({"budget": dict(preset.budget)} if preset.budget else {})


def export(
    checkpoint: Path,
    identity: str,
    presets: Sequence[Preset],
    texts: Sequence[str],
    store: Store,
    *,
    chat: Sequence[str] = (),
    calibration: Calibration | None = None,
) -> list[Artifact]:
    """Make and check one artifact per preset, in order.

    `checkpoint` is a Hugging Face folder (safetensors and tokenizer) and `identity` the hash of its contents; `texts`
    are held-out texts for the logit gate, `chat` rendered prompts for the EOS gate. What fails (a converter, a runtime,
    a gate) is told in `Artifact.failed`, and the other artifacts are made all the same. `UserError` where the
    checkpoint itself cannot be read or there is no text.
    """
    source = _Source(checkpoint, identity, calibration, store)
    with _reference(checkpoint, texts, chat, store) as reference:
        conditions = {"texts": digest(list(texts)), "chat": digest(list(chat))}
        return [_artifact(source, preset, conditions, reference) for preset in presets]


def _artifact(source: _Source, preset: Preset, conditions: dict[str, str], reference: Callable[[], Reference]) -> Artifact:
    try:
        tree = _convert(source, preset)
    except ChildFailed as error:
        return Artifact(preset.name, preset.format, preset.runtime, "", 0, 0.0, {}, failed=str(error))
    path = tree / "model.gguf" if preset.format == "gguf" else tree
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
        # What was chosen tensor by tensor did not fall back.
        notes=(*([] if preset.type == "mixed" else held["notes"]), *_calibrated(source, preset)),
        imatrix=str(_imatrix(source)) if "calibration" in options else "",
    )
    try:
        # The thresholds are not in the key: what was measured stays measured when a preset is made stricter.
        checked = source.store.value("gates", VERSION, {**options, **conditions},
                                     lambda: check(preset, path, reference()), label=f"gates {preset.name}")  # fmt: skip
    except ChildFailed as error:
        return replace(artifact, failed=str(error))
    gates = (*(Gate(**g) for g in checked["gates"]), logits_gate(preset, checked["logits"]))
    failed = [f"gate {g.name}: {g.summary}" for g in gates if not g.passed]
    return replace(artifact, gates=gates, failed="; ".join(failed))


def _calibrated(source: _Source, preset: Preset) -> list[str]:
    """What a calibrated artifact was calibrated on."""
    if preset.calibration == "none":
        return []
    if not source.calibration:
        return [f"{preset.name} is better calibrated, and no texts to calibrate on were given"]
    found = imatrix.read(_imatrix(source))
    tokens = max(float(c.max()) for c in found.counts.values())
    return [f"calibrated on {tokens:,.0f} tokens: {', '.join(found.datasets) or source.calibration.name}"]


def _convert(source: _Source, preset: Preset) -> Path:
    """The store tree of one conversion. All GGUF types come from one f16 file."""
    options = source.options(preset)
    made_of = digest(options)
    if made_of in source.broken:
        raise ChildFailed(source.broken[made_of])

    def build(folder: Path) -> None:
        if preset.format == "onnx":
            converters.to_onnx(source.checkpoint, folder, preset.type)
        elif preset.type in converters.CONVERTED:
            converters.to_gguf(source.checkpoint, source.identity, folder / "model.gguf", preset.type)
        else:
            calibrated = _imatrix(source) if "calibration" in options else None
            type, tensors = _mixed(source, preset) if preset.type == "mixed" else (preset.type, {})
            converters.quantize(_f16(source), folder / "model.gguf", type, calibrated, tensors)

    try:
        return source.store.tree(STAGE, VERSION, options, build, label=f"export {preset.name}")
    except ChildFailed as error:
        source.broken[made_of] = str(error)
        raise


def _f16(source: _Source) -> Path:
    """The GGUF file that all types are quantized from."""
    return _plain(source, "f16")


def _plain(source: _Source, type: str) -> Path:
    """The GGUF file of a type, calibrated as its preset says."""
    return _convert(source, load_preset(type)) / "model.gguf"


def _mixed(source: _Source, preset: Preset) -> tuple[str, dict[str, str]]:
    """What a mixed file is called by, and the type of each of its tensors."""
    how = source.calibration
    if how is None or not how.texts:
        raise ChildFailed(f"{preset.name}: types are mixed by what texts show, and no texts to calibrate on were given")

    def measured(folder: Path) -> None:
        f16 = _f16(source)
        uses = sensitivity.measure(source.checkpoint, f16, how.texts)
        found = mixed.options(f16, uses, _imatrix(source), folder)
        (folder / "options.json").write_text(json.dumps({n: [asdict(o) for o in some] for n, some in found.items()}), "utf-8")

    keys = {"identity": source.identity, "calibration": how.key, "tools": converters.tools("gguf")}
    held = source.store.tree("sensitivity", VERSION, keys, measured, label="sensitivities") / "options.json"
    found = {n: [mixed.Option(**o) for o in some] for n, some in json.loads(held.read_text("utf-8")).items()}
    other = preset.budget.get("size_of") or preset.budget.get("kl_of")
    try:
        chosen = mixed.choose(found, **mixed.limits(found, preset.budget, _plain(source, other) if other else None))
    except UserError as error:  # what does not fit is told of this artifact, and the others are made
        raise ChildFailed(str(error)) from error
    return mixed.base(chosen), {name: option.type for name, option in chosen.items()}


def _imatrix(source: _Source) -> Path:
    """The importance matrix of the source's calibration, in llama.cpp's form."""
    how = source.calibration
    if how is None:
        raise RuntimeError("there is nothing to calibrate on")

    def build(folder: Path) -> None:
        if how.imatrix:
            found = imatrix.read(how.imatrix)
        else:
            f16 = _f16(source)
            found = calibrate.collect(source.checkpoint, f16, how.texts, how.name)
            if how.share:
                found = calibrate.mixed(found, calibrate.collect(source.checkpoint, f16, how.general, "general text"), how.share)
        imatrix.write(found, folder / IMATRIX)

    options = {"identity": source.identity, "calibration": how.key, "tools": converters.tools("gguf")}
    return source.store.tree("imatrix", VERSION, options, build, label="calibrate") / IMATRIX


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
