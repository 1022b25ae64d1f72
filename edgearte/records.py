"""What passes between the stages: plain frozen dataclasses, JSON on disk. The words are those of docs/architecture.md."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Question:
    """A question with its target; seeds may bring a worked rationale. `id` is unique within its file."""

    id: str
    input: str
    target: str
    rationale: str = ""


@dataclass(frozen=True)
class Gate:
    """One proof that an artifact is still the checkpoint: what was checked, whether it held, and the evidence."""

    name: str  # tokens | template | eos | logits
    passed: bool
    summary: str  # one sentence with the figure that decided
    evidence: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Tensor:
    """One tensor of an artifact as it truly is on disk."""

    name: str
    type: str
    elements: int
    bytes: int


@dataclass(frozen=True)
class Artifact:
    """One exported file (GGUF) or folder (ONNX). `failed` says why it may not be used; empty when it may."""

    preset: str
    format: str  # gguf | onnx
    runtime: str  # llama.cpp | onnxruntime-genai
    path: str  # the .gguf file, or the folder that holds genai_config.json
    bytes: int
    bits_per_weight: float
    types: dict[str, int]  # storage type -> number of weights stored in it
    tensors: tuple[Tensor, ...] = ()
    notes: tuple[str, ...] = ()  # e.g. which tensors fell back to another type
    gates: tuple[Gate, ...] = ()
    failed: str = ""


@dataclass(frozen=True)
class Accuracy:
    """Graded answers. `unextracted` counts outputs in which no answer was found, apart from wrong ones; the interval is Wilson's
    at 95 %. Fractions are of `n`."""

    n: int
    correct: int
    unextracted: int
    accuracy: float
    low: float
    high: float


@dataclass(frozen=True)
class Spread:
    """A repeated measurement: median with the lowest and highest of `runs`."""

    median: float
    low: float
    high: float
    runs: int


@dataclass(frozen=True)
class Measurement:
    """One artifact on one device. Seconds, tokens per second, bytes."""

    artifact: str
    device: str
    suite: str
    load_s: Spread
    first_token_s: Spread
    prefill_tps: Spread
    decode_tps: Spread
    inter_token_p50_s: float
    inter_token_p90_s: float
    inter_token_p99_s: float
    peak_memory_bytes: int
    file_bytes: int
    prompt_tokens: int
    new_tokens: int
    threads: int
    machine: dict[str, Any] = field(default_factory=dict)
