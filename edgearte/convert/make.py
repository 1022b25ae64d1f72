"""The conversions of one checkpoint: each made once, kept in the store, and shared by all artifacts that begin with it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from edgearte.child import ChildFailed
from edgearte.convert import (
    browser,
    calibrate,
    converters,
    graphs,
    heal,
    imatrix,
    layerwise,
    mixed,
    overwrite,
    sensitivity,
)
from edgearte.convert.describe import Description
from edgearte.convert.gptq import BLOCK, Rounded
from edgearte.convert.presets import BROWSER, OF_ANOTHER, Preset, load_preset
from edgearte.errors import UserError
from edgearte.lm.headers import read_gguf
from edgearte.measure import host
from edgearte.measure.machine import describe
from edgearte.measure.suite import load_suite
from edgearte.store import Store, digest

VERSION = 1
MIXING = 4  # of how types are chosen tensor by tensor
IMATRIX = "imatrix.gguf"
LEAST = 0.5  # of a file's weights that have to be the checkpoint's own matrices


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
class Source:
    """A checkpoint on its way to all its artifacts. What failed once is in `broken`, by what it was to be made of, and not tried again."""

    checkpoint: Path
    identity: str
    calibration: Calibration | None
    store: Store
    description: Description = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)

    def options(self, preset: Preset) -> dict[str, Any]:
        """What the bytes of an artifact depend on."""
        made: dict[str, Any] = {
            "identity": self.identity, "format": preset.format, "type": preset.type, "tools": converters.tools(preset.format),
        }  # fmt: skip
        if self.calibration and preset.calibration != "none":
            made["calibration"] = self.calibration.key
        if preset.calibration == "gptq":
            made["rounding"] = "gptq"
        if preset.heal:
            made["healing"] = heal.VERSION
        if preset.format == "onnx":
            made["graph"] = graphs.VERSION
        if preset.type == "int8":
            made["sharing"] = graphs.SHARING
        if preset.runtime == BROWSER:
            made["browser"] = browser.LAYOUT
        if preset.format == "gguf" and self.description:
            made["description"] = dict(self.description)
        if preset.split:
            made["split"] = preset.split
        return made | ({"budget": dict(preset.budget), "mixing": MIXING} if preset.budget else {})


def calibrated(source: Source, preset: Preset) -> list[str]:
    """What a calibrated artifact was calibrated on."""
    if preset.calibration == "none":
        return []
    if not source.calibration:
        return [f"{preset.name} is better calibrated, and no texts to calibrate on were given"]
    if preset.calibration == "gptq":
        return [f"rounded for what its layers meet in {source.calibration.name}"]
    found = imatrix.read(importance(source))
    tokens = max(float(c.max()) for c in found.counts.values())
    return [f"calibrated on {tokens:,.0f} tokens: {', '.join(found.datasets) or source.calibration.name}"]


def convert(source: Source, preset: Preset) -> Path:
    """The store tree of one conversion. All GGUF types come from one f16 file."""
    options = source.options(preset)
    made_of = digest(options)
    if made_of in source.broken:
        raise ChildFailed(source.broken[made_of])
    try:
        return source.store.tree("export", VERSION, options, lambda folder: _build(source, preset, folder), label=f"export {preset.name}")
    except ChildFailed as error:
        source.broken[made_of] = str(error)
        raise


def _build(source: Source, preset: Preset, folder: Path) -> None:
    out = folder / "model.gguf"
    if preset.calibration == "gptq":
        _by_gptq(source, preset, folder)
    elif preset.format == "onnx":
        converters.to_onnx(source.checkpoint, folder, preset.type)
    elif preset.type in converters.CONVERTED:
        converters.to_gguf(source.checkpoint, source.identity, out, preset.type, source.description)
    else:
        weighed = importance(source) if source.calibration and preset.calibration != "none" else None
        type, tensors = _mixed(source, preset) if preset.type == "mixed" else (preset.type, {})
        converters.quantize(_f16(source), out, type, weighed, tensors)
        if mixed.ROUNDED in tensors.values():
            overwrite.into_gguf(out, _rounded(source, preset.name, mixed.ROUNDED), mixed.ROUNDED)
    if preset.runtime == BROWSER:
        browser.lay_out(folder, source.checkpoint)
    if preset.split:
        converters.split(out, preset.split * 10**6)


def _by_gptq(source: Source, preset: Preset, folder: Path) -> None:
    """A file of one 4-bit type throughout, its matrices rounded by GPTQ."""
    rounded = (_healed if preset.heal else _rounded)(source, preset.name, preset.type)
    if preset.format == "onnx":
        converters.to_onnx(source.checkpoint, folder, preset.type)
        put = overwrite.into_onnx(folder, rounded)
    else:
        f16, out = _f16(source), folder / "model.gguf"
        matrices = [t.name for t in read_gguf(f16).tensors.values() if len(t.shape) == 2 and t.shape[0] % BLOCK == 0]
        converters.quantize(f16, out, preset.type, None, dict.fromkeys(matrices, preset.type))
        put = overwrite.into_gguf(out, rounded, preset.type)
    if put < LEAST:
        raise ChildFailed(f"{preset.name}: only {put:.0%} of the weights in the file were recognized as the checkpoint's own")


def _rounded(source: Source, name: str, type: str) -> dict[str, Rounded]:
    """The checkpoint's matrices, rounded to the levels of this type for what its layers meet."""
    how, levels = _shown(source, name), overwrite.levels(type)
    keys = {"identity": source.identity, "calibration": how.key, "levels": list(levels)}
    build = partial(layerwise.quantized, source.checkpoint, how.texts, how.general, how.share, levels)
    return _matrices(source, "gptq", VERSION, keys, build, "round")


def _healed(source: Source, name: str, type: str) -> dict[str, Rounded]:
    """The same with scales that the checkpoint taught, on the task's texts alone."""
    how, levels = _shown(source, name), overwrite.levels(type)
    keys = {"identity": source.identity, "calibration": how.key, "levels": list(levels)}
    build = partial(heal.healed, source.checkpoint, how.texts, _rounded(source, name, type), levels)
    return _matrices(source, "heal", heal.VERSION, keys, build, "heal")


def _shown(source: Source, name: str) -> Calibration:
    """The calibration, where it holds texts."""
    if source.calibration is None or not source.calibration.texts:
        raise ChildFailed(f"{name}: its weights are rounded for what texts show, and no texts to calibrate on were given")
    return source.calibration


def _matrices(
    source: Source, stage: str, version: int, keys: dict[str, Any], build: Callable[[], Mapping[str, Rounded]], label: str
) -> dict[str, Rounded]:
    """Rounded matrices, made once and kept in the store."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    def write(folder: Path) -> None:
        made = build()
        held = {f"{n}.{k}": t for n, r in made.items() for k, t in (("codes", r.codes), ("scales", r.scales.half()))}
        save_file(held, folder / "rounded.safetensors", {n: repr(r.gain) for n, r in made.items()})

    with safe_open(source.store.tree(stage, version, keys, write, label=label) / "rounded.safetensors", "pt") as held:
        return {
            name: Rounded(held.get_tensor(f"{name}.codes"), held.get_tensor(f"{name}.scales").float(), float(gain))
            for name, gain in held.metadata().items() if name != "format"
        }  # fmt: skip


def _f16(source: Source) -> Path:
    """The GGUF file that all types are quantized from."""
    return _plain(source, "f16")


def _plain(source: Source, type: str) -> Path:
    """The GGUF file of a type, calibrated as its preset says."""
    return convert(source, load_preset(type)) / "model.gguf"


def _mixed(source: Source, preset: Preset) -> tuple[str, dict[str, str]]:
    """What a mixed file is called by, and the type of each of its tensors."""
    how = source.calibration
    if how is None or not how.texts:
        raise ChildFailed(f"{preset.name}: types are mixed by what texts show, and no texts to calibrate on were given")

    def measured(folder: Path) -> None:
        f16 = _f16(source)
        uses = sensitivity.measure(source.checkpoint, f16, how.texts)
        names, rounded = calibrate.weight_names(source.checkpoint, f16), _rounded(source, preset.name, mixed.ROUNDED)
        gains = {names[n]: r.gain for n, r in rounded.items() if n in names}
        found = mixed.options(f16, uses, importance(source), gains, folder)
        (folder / "options.json").write_text(json.dumps({n: [asdict(o) for o in some] for n, some in found.items()}), "utf-8")

    keys = {"identity": source.identity, "calibration": how.key, "tools": converters.tools("gguf")}
    held = source.store.tree("sensitivity", MIXING, keys, measured, label="sensitivities") / "options.json"
    found = {n: [mixed.Option(**o) for o in some] for n, some in json.loads(held.read_text("utf-8")).items()}
    if "speed_of" in preset.budget:
        pace = _paces(source, list(found))
        found = {n: [replace(o, seconds=o.elements * pace[o.type]) for o in some] for n, some in found.items()}
    other = next((preset.budget[kind] for kind in OF_ANOTHER if kind in preset.budget), None)
    try:
        chosen = mixed.choose(found, **mixed.limits(found, preset.budget, _plain(source, other) if other else None))
    except UserError as error:  # what does not fit is told of this artifact, and the others are made
        raise ChildFailed(str(error)) from error
    return mixed.base(chosen), {name: option.type for name, option in chosen.items()}


def _paces(source: Source, names: list[str]) -> dict[str, float]:
    """Seconds that a weight takes of a decoded token here, by type."""

    def timed(folder: Path) -> None:
        suite = load_suite("short")
        found = mixed.speeds(_f16(source), names, folder, lambda p: 1 / host.measure(p, "llama.cpp", suite, name=p.name).decode_tps.median)
        (folder / "speeds.json").write_text(json.dumps(found), "utf-8")

    keys = {"identity": source.identity, "tools": converters.tools("gguf"), "machine": describe()["cpu"]}
    held = source.store.tree("speeds", MIXING, keys, timed, label="speeds") / "speeds.json"
    return {type: float(seconds) for type, seconds in json.loads(held.read_text("utf-8")).items()}


def importance(source: Source) -> Path:
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


