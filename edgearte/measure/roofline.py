"""What an artifact will do on a device, foretold before it is made: its size, its memory, its speed.

A decoded token reads every weight once: it takes as long as the memory needs for the bytes, or as the cores need for the products,
whichever is more. A prompt reads them once for many tokens, so it is the products that count. (Williams, Waterman and Patterson 2009,
"Roofline"; the device's two roofs come from `probe.py`, or from its profile.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgearte.convert.presets import Preset
    from edgearte.device.profile import Device

# Bits a weight of each type, scales included: blocks of llama.cpp's; of the ONNX builder's, 32 and a scale.
BITS = {"f32": 32.0, "f16": 16.0, "bf16": 16.0, "q8_0": 8.5, "q6_k": 6.5625, "q5_1": 6.0, "q5_0": 5.5, "q5_k": 5.5, "q4_1": 5.0,
        "q4_0": 4.5, "iq4_nl": 4.5, "q4_k": 4.5, "iq4_xs": 4.25, "q3_k": 3.4375, "q2_k": 2.625,
        "fp32": 32.0, "fp16": 16.0, "int8": 9.0, "int4": 5.0, "int4_k": 5.125}  # fmt: skip
# What llama.cpp stores a row in whose length 256 does not divide.
FALLS_BACK = {"q6_k": "q8_0", "q5_k": "q5_1", "q4_k": "q5_0", "q3_k": "iq4_nl", "q2_k": "iq4_nl", "iq4_xs": "iq4_nl"}
# llama.cpp's mixes: the type of most, of the value projection, of the feed-forward's way down, of the attention's output; the latter
# three as (type, share of the layers that take it). The output layer is q6_k in all of them (llama-quant.cpp).
Part = tuple[str, float]
MIXES: dict[str, tuple[str, Part, Part, Part]] = {
    "q5_k_m": ("q5_k", ("q6_k", 0.5), ("q6_k", 0.5), ("q5_k", 1.0)),
    "q4_k_m": ("q4_k", ("q6_k", 0.5), ("q6_k", 0.5), ("q4_k", 1.0)),
    "q3_k_m": ("q3_k", ("q4_k", 1.0), ("q4_k", 1.0), ("q4_k", 1.0)),
    "q2_k": ("q2_k", ("q3_k", 1.0), ("q3_k", 1.0), ("q3_k", 1.0)),
    "iq4_xs": ("iq4_xs", ("q5_k", 1.0), ("q5_k", 0.125), ("iq4_xs", 1.0)),
    "iq4_nl": ("iq4_nl", ("q5_k", 1.0), ("q5_k", 0.125), ("iq4_nl", 1.0)),
    "q4_0": ("q4_0", ("q4_0", 1.0), ("q4_0", 1.0), ("q4_0", 1.0)),
}
OUTPUT = "q6_k"
SMALLER = 0.73  # of another's bytes is what a mixed type took that loses no more, in both models of docs/how-to-export.md
# ONNX Runtime's kernels by those of llama.cpp that do the same work, and how fast they are against them with one token and with many, as
# seen with SmolLM2-135M (benchmarks/foretold.py); fp16 is computed in 32 bits, word by word, on a CPU.
LIKE = {"fp32": ("f16", 0.5, 1.05), "fp16": ("f16", 0.25, 0.25), "int8": ("q8_0", 0.8, 1.45), "int4": ("q4_0", 0.9, 0.65),
        "int4_k": ("q4_1", 0.9, 0.65)}  # fmt: skip
# Types that llama.cpp packs anew for the CPU's widest products: they are held twice, as mapped and as packed.
PACKED = ("q4_0", "iq4_nl", "q4_k", "q2_k")
BASE = {"gguf": 55e6, "onnx": 110e6}  # Python, numpy and the runtime's libraries
STATIC = 14e6  # the static program
UBATCH = 512
REACHED = 0.6  # share of the bandwidth in a data sheet that programs reach
OPERATIONS = 2  # of a weight and token
A_WORD = {"gguf": 36, "onnx": 90}  # bytes that a word of the vocabulary takes in the file's header, or in tokenizer.json


@dataclass(frozen=True)
class Shape:
    """What a decoder-only transformer is made of: weights of matrices by role, for all layers together."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head: int
    vocabulary: int
    tied: bool

    @classmethod
    def of_config(cls, config: Mapping[str, Any]) -> Shape:
        """From a checkpoint's config.json. `KeyError` where it is another kind of model."""
        heads, hidden = int(config["num_attention_heads"]), int(config["hidden_size"])
        return cls(
            layers=int(config["num_hidden_layers"]), hidden=hidden, intermediate=int(config["intermediate_size"]), heads=heads,
            kv_heads=int(config.get("num_key_value_heads") or heads), head=int(config.get("head_dim") or hidden // heads),
            vocabulary=int(config["vocab_size"]), tied=bool(config.get("tie_word_embeddings", True)),
        )  # fmt: skip

    @property
    def matrices(self) -> dict[str, tuple[int, int]]:
        """Weights of each role in all layers, and the length of its rows, which decides the types that it can take."""
        query, value = self.heads * self.head, self.kv_heads * self.head
        return {
            "query": (self.layers * self.hidden * (query + value), self.hidden),  # and key
            "value": (self.layers * self.hidden * value, self.hidden),
            "attention": (self.layers * query * self.hidden, query),
            "up": (self.layers * 2 * self.hidden * self.intermediate, self.hidden),  # and gate
            "down": (self.layers * self.hidden * self.intermediate, self.intermediate),
            "output": (self.vocabulary * self.hidden, self.hidden),
            **({} if self.tied else {"embedding": (self.vocabulary * self.hidden, self.hidden)}),
        }

    @property
    def handed_on(self) -> int:
        """Numbers that a layer computes for a token between its products."""
        return handed_on(self.hidden, self.intermediate)

    @property
    def weights(self) -> int:
        return sum(count for count, _ in self.matrices.values())


def handed_on(hidden: int, intermediate: int) -> int:
    """Numbers that a layer computes for a token between its products: queries, keys, values and what comes of them; the gate, what it gates
    and their product."""
    return 4 * hidden + 3 * intermediate


def types(shape: Shape, preset: Preset) -> dict[str, dict[str, float]]:
    """How many weights of each role are stored in which type, as far as a preset decides that beforehand."""
    found: dict[str, dict[str, float]] = {}
    for role, (count, row) in shape.matrices.items():
        stored: dict[str, float] = {}
        for type, share in _parts(preset.type, role):
            kept = FALLS_BACK.get(type, type) if row % 256 else type
            stored[kept] = stored.get(kept, 0.0) + share * count
        found[role] = stored
    return found


def _parts(type: str, role: str) -> list[Part]:
    type = "q4_k_m" if type == "mixed" else type
    if type not in MIXES:
        return [(type, 1.0)]
    most, value, down, attention = MIXES[type]
    if role == "output":
        return [(OUTPUT, 1.0)]
    chosen, share = {"value": value, "down": down, "attention": attention}.get(role, (most, 1.0))
    return [(chosen, share), *([(most, 1 - share)] if share < 1 else [])]


def size(shape: Shape, preset: Preset) -> float:
    """Bytes of the artifact that a preset will make."""
    stored = sum(count * BITS[t] / 8 for some in types(shape, preset).values() for t, count in some.items())
    if preset.type == "mixed":
        budget = preset.budget
        if "bits" in budget:
            stored = shape.weights * float(budget["bits"]) / 8
        elif "size_of" not in budget:
            stored *= SMALLER
    if preset.calibration == "gptq" and preset.format == "gguf":  # all of it in the one type, the output too
        stored = shape.weights * BITS[preset.type] / 8
    norms = 4.0 * shape.hidden * (2 * shape.layers + 1)
    return stored + norms + A_WORD[preset.format] * shape.vocabulary


@dataclass(frozen=True)
class Machine:
    """The roofs of a device: bytes a second that it reads, and by type the weights a second that it multiplies with one token (`vector`)
    and with many at once (`matrix`, weights times tokens); `layer_s` is what a layer takes beside its weights for one token, and
    `number_s` by type each number that it hands on in a prompt (`Shape.handed_on`). Where no type was measured, 8-bit `operations` a second
    stand for all. `base` are the bytes that what runs GGUF files takes itself."""

    bandwidth: float
    operations: float
    vector: Mapping[str, float]
    matrix: Mapping[str, float]
    layer_s: float = 0.0
    number_s: Mapping[str, float] = field(default_factory=dict)
    base: float = BASE["gguf"]

    @classmethod
    def of_probe(cls, said: Mapping[str, Any]) -> Machine:
        """From what `probe.probe` found out on the device."""
        kinds = said["types"]
        return cls(
            1e9 * said["read_gb_per_s"], OPERATIONS * max(k["matrix"] for k in kinds.values()),
            {t: float(k["vector"]) for t, k in kinds.items()}, {t: float(k["matrix"]) for t, k in kinds.items()},
            float(said["layer_s"]), {t: float(k["number_s"]) for t, k in kinds.items()},
        )  # fmt: skip

    @classmethod
    def of_profile(cls, device: Device) -> Machine:
        """From a profile alone: what of its bandwidth programs reach, and where it does not say how fast it computes, the 8-bit dot
        products that its instructions allow at 2 GHz."""
        bandwidth = 1e9 * REACHED * device.bandwidth.gb_per_s if device.bandwidth else 1e10
        lanes = 64 if {"asimddp", "avx512_vnni", "avx_vnni"} & set(device.features) else 32
        operations = 1e9 * device.gops if device.gops else (device.threads or device.cores or 1) * 2e9 * lanes / 2
        return cls(bandwidth, operations, {}, {}, base=STATIC if device.harness == "native" else BASE["gguf"])

    def multiplied(self, type: str, *, many: bool) -> float:
        """Weights (and tokens) a second of a type."""
        known = self.matrix if many else self.vector
        type, one, several = LIKE.get(type, (type, 1.0, 1.0))
        share = several if many else one
        if not known:
            return share * self.operations / OPERATIONS
        return share * known.get(type, min(known.values()))


    def between(self, type: str) -> float:
        """Seconds that each number takes which a layer hands on in a prompt."""
        type, _, several = LIKE.get(type, (type, 1.0, 1.0))
        return self.number_s.get(type, 0.0) / several


@dataclass(frozen=True)
class Foretold:
    """What an artifact is foretold to do: bytes, seconds, tokens a second, and whether reading or multiplying weights binds decoding."""

    size_bytes: float
    peak_memory_bytes: float
    first_token_s: float
    prefill_tps: float
    decode_tps: float
    bound: str  # memory | compute


def foretell(shape: Shape, preset: Preset, machine: Machine, prompt_tokens: int, new_tokens: int) -> Foretold:
    """What the artifact of a preset will do with a prompt and an answer of these lengths."""
    bytes_ = size(shape, preset)
    stored = types(shape, preset)
    read = [some for role, some in stored.items() if role != "embedding"]  # of which a token reads one row
    scale = bytes_ / sum(count * BITS[t] / 8 for some in stored.values() for t, count in some.items())
    kv = 2 * 2 * shape.layers * shape.kv_heads * shape.head  # bytes of keys and values a token, in 16 bits
    length = prompt_tokens + new_tokens
    weights = scale * sum(c * BITS[t] / 8 for some in read for t, c in some.items())
    reading = (weights + kv * (prompt_tokens + new_tokens / 2)) / machine.bandwidth
    multiplying = sum(c / machine.multiplied(t, many=False) for some in read for t, c in some.items())
    step = max(reading, multiplying) + shape.layers * machine.layer_s
    body = [some for role, some in stored.items() if role not in ("embedding", "output")]  # the output is computed for the last token
    per_token = sum(c / machine.multiplied(t, many=True) for some in body for t, c in some.items())
    scores = 2 * shape.layers * shape.heads * shape.head * prompt_tokens / 2  # keys and values that a token of the prompt meets
    weighed = sum(c * machine.between(t) for some in body for t, c in some.items()) / sum(c for some in body for c in some.values())
    between = shape.layers * shape.handed_on * weighed
    prefill = prompt_tokens * (per_token + between + scores / machine.multiplied("f16", many=True)) + step
    return Foretold(
        bytes_, memory(shape, preset, bytes_, kv * (length + 256), stored, machine.base), prefill, prompt_tokens / prefill, 1 / step,
        "memory" if reading > multiplying else "compute",
    )  # fmt: skip


def memory(
    shape: Shape, preset: Preset, size_bytes: float, cache: float, stored: Mapping[str, Mapping[str, float]], base: float
) -> float:
    """The most that a process holds: the mapped file and what is packed anew of it, keys and values, what is computed on the way."""
    if preset.format == "onnx":
        copies = 2.0 if preset.type == "fp16" else 1.25  # some of it is packed anew
        return BASE["onnx"] + copies * size_bytes + 2 * cache + 4 * UBATCH * shape.vocabulary / 4
    packed = sum(
        c * BITS[t] / 8 for role, some in stored.items() if role not in ("output", "embedding") for t, c in some.items() if t in PACKED
    )
    activations = 4 * UBATCH * (6 * shape.hidden + 3 * shape.intermediate) + 4 * shape.vocabulary
    return base + size_bytes + packed + cache + activations
