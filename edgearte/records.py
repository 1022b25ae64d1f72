"""What passes between the stages: plain frozen dataclasses, JSON on disk. The words are those of docs/architecture.md."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

Record = TypeVar("Record")


def from_dict(kind: type[Record], data: Any) -> Record:
    """A record from the plain values that `dataclasses.asdict` made of it."""
    from pydantic import TypeAdapter

    return TypeAdapter(kind).validate_python(data)


@dataclass(frozen=True)
class Question:
    """A question with its target; seeds may bring a worked rationale. `id` is unique within its file."""

    id: str
    input: str
    target: str
    rationale: str = ""


@dataclass(frozen=True)
class Rationale:
    """Reasoning that ends in an answer. `answer` is None where none could be extracted."""

    strategy: str
    text: str
    answer: str | None


@dataclass(frozen=True)
class Draft:
    """A question by the teacher with its rationales. `source` names the prompt it came from, so that a bundle can be walked
    back to the seeds."""

    id: str
    input: str
    target: str
    source: str
    seeds: tuple[str, ...]
    rationales: tuple[Rationale, ...] = ()


@dataclass(frozen=True)
class Preference:
    """The student's preference for one rationale. `score` is what ranks it, higher is better, in the scorer's own unit. Where
    the student was asked: of `n` preference questions answered with the rationale as the one example, how many right (the
    paper's s_r is `correct / n`) and how many with an answer at all; all 0 where a scorer asks nothing. `marks` is what each of
    those questions gives, in their order (1 or 0 for a hit, or the log-probability of the right answer), empty where that is not
    known; `form` the probability that an answer stands in the form asked for, whatever it is."""

    draft: str
    strategy: str
    score: float
    n: int = 0
    correct: int = 0
    extracted: int = 0
    marks: tuple[float, ...] = ()
    form: float | None = None


@dataclass(frozen=True)
class Pair:
    """A preference pair for DPO, as plain text: exactly what the teacher reads and writes. Its loss counts `weight` (0 to 1), which is
    less the nearer the gap of its scores comes to their noise; `certain` says whether the gap is beyond it. A pair that is `held_out` is
    not learned from: it says when to stop."""

    kind: str  # question | rationale
    prompt: str
    chosen: str
    rejected: str
    chosen_score: float
    rejected_score: float
    chosen_from: str
    rejected_from: str
    weight: float = 1.0
    certain: bool = True
    held_out: bool = False


@dataclass(frozen=True)
class Judged:
    """The student's mean score with the texts of either teacher as its one example, on so many questions; the difference with its
    95 % interval; which teacher is `better` (`aligned`, `unaligned`, or `no difference` where the interval holds 0); and all that in a
    sentence."""

    aligned_mean: float
    unaligned_mean: float
    difference: float
    low: float
    high: float
    n_aligned: int
    n_unaligned: int
    questions: int
    better: str
    sentence: str


@dataclass(frozen=True)
class Moved:
    """How far a teacher is from where it began. `divergence`: the Kullback-Leibler divergence a token, in nats, estimated over so many
    `tokens` that it wrote. Beside it, now and before: the mean length of its questions in words, how unlike they are to each other (0
    to 1, mean over all two of them), and the share of different ones among their pairs of words (distinct-2)."""

    divergence: float
    tokens: int
    words: float
    words_before: float
    diversity: float
    diversity_before: float
    distinct: float
    distinct_before: float


@dataclass(frozen=True)
class Example:
    """One example the student is trained on: a question and the completion wanted of it. Its loss counts `weight` times that of an
    example of weight 1."""

    id: str
    input: str
    completion: str
    target: str
    source: str
    weight: float = 1.0


@dataclass(frozen=True)
class Annotation:
    """What a teacher wrote to a question of the pool. `answer` is None where none could be extracted; `right` says whether it is the
    question's own target, None where that is not known; `tokens` is what the call took; `teacher` which of several it was."""

    id: str
    input: str
    text: str
    answer: str | None
    right: bool | None
    tokens: int
    teacher: int = 0


@dataclass(frozen=True)
class Gate:
    """One proof that an artifact is still the checkpoint: what was checked, whether it held, and the evidence."""

    name: str  # tokens | template | eos | batch | logits | long
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
    runtime: str  # llama.cpp | onnxruntime-genai | transformers.js
    path: str  # the .gguf file, or the folder that holds genai_config.json
    bytes: int
    bits_per_weight: float
    types: dict[str, int]  # storage type -> number of weights stored in it
    tensors: tuple[Tensor, ...] = ()
    notes: tuple[str, ...] = ()  # e.g. which tensors fell back to another type
    gates: tuple[Gate, ...] = ()
    failed: str = ""
    imatrix: str = ""  # the importance matrix it was calibrated with, a file of llama.cpp's form

    def distance(self, figure: str = "kl") -> float | None:
        """A figure of the logits gate: `kl` from the checkpoint in nats, or `top1`, the share of positions with the same first choice."""
        found = next((gate.evidence.get(figure) for gate in self.gates if gate.name == "logits"), None)
        return float(found) if isinstance(found, int | float) else None


@dataclass(frozen=True)
class ArmChoice:
    """The arm whose student is delivered, why, and how many of so many development questions each arm answers rightly."""

    name: str
    reason: str
    right: Mapping[str, int]
    questions: int


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
    """A repeated measurement: median with the lowest and highest of `runs`, which for 5 runs is the median's interval at 94 %, and all
    values in the order they were taken."""

    median: float
    low: float
    high: float
    runs: int
    values: tuple[float, ...] = ()

    @property
    def outliers(self) -> tuple[float, ...]:
        """Values beyond Tukey's fences: further from the middle half than one and a half times its width."""
        from statistics import quantiles

        if len(self.values) < 4:
            return ()
        first, _, third = quantiles(self.values, n=4, method="inclusive")
        reach = 1.5 * (third - first)
        return tuple(v for v in self.values if not first - reach <= v <= third + reach)


@dataclass(frozen=True)
class Instructions:
    """Instructions executed to load an artifact, and for a token: of the prompt while it is read, and newly written, in the mean."""

    load: int
    prompt_token: float
    new_token: float


@dataclass(frozen=True)
class Measurement:
    """One artifact on one device. Seconds, tokens per second, bytes; `load_s` is warm, `cold_load_s` from the disk. What the device does
    not tell of itself is `None`: clock and temperature, whether it held itself back, the energy of a run in joules. `token_bytes` are the
    weights that are read to decode a token, `bandwidth` the bytes a second that the device reads with these threads. Where `instructions`
    were counted, under emulation, times and memory are the emulator's and mean nothing."""

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
    cold_load_s: float | None = None
    steady_memory_bytes: int = 0
    clock_mhz: Spread | None = None
    temperature_c: Spread | None = None
    throttled: bool | None = None
    run_j: Spread | None = None
    batch: int = 1
    token_bytes: int = 0
    bandwidth: float | None = None
    instructions: Instructions | None = None

    @property
    def reached(self) -> float | None:
        """The share of the memory's bandwidth that decoding reaches, by its weights alone: each step reads them once. What caches hold can
        be read faster than the memory gives."""
        return self.token_bytes * self.decode_tps.median / self.batch / self.bandwidth if self.bandwidth and self.token_bytes else None

    def doubts(self) -> list[str]:
        """Why these figures may not be the machine's best, in words."""
        if self.instructions:
            return []
        said = ["other work was running"] if self.busy() else []
        if "emulated" in str(self.machine.get("cpu")):
            said.append("emulated: these times are the emulator's")
        if self.throttled:
            said.append("the device held itself back")
        if self.clock_mhz and self.clock_mhz.low < 0.9 * self.clock_mhz.high:
            said.append(f"its clock fell to {self.clock_mhz.low:.0f} of {self.clock_mhz.high:.0f} MHz")
        if gone := self.decode_tps.outliers:
            said.append(f"outliers among the runs: {', '.join(f'{v:.1f}' for v in gone)} tokens/s decoding")
        return said

    def busy(self) -> bool:
        """Whether other work took a core that these threads needed, as far as the load average before them tells."""
        load = self.machine.get("load_average")
        return bool(load and load[0] + self.threads > self.machine.get("logical_cores", 1) + 0.5)


@dataclass(frozen=True)
class ProbeSample:
    """A text of the teacher's that is of no use, and why: `form` (no answer stands in it as asked for), `length` (it was cut off) or
    `knowledge` (its answer is wrong)."""

    question: str
    target: str
    text: str
    failure: str


@dataclass(frozen=True)
class Probe:
    """What teacher and students know before the teaching, on the same development questions (`seeds` is None where there are none to teach
    with). `go`: the teacher knows more, `improve`: so it does, but too many of its texts are of no use; `stop`: it has nothing to teach
    that these questions show. `failures` counts what is wrong with its texts, by kind, of `written` ones; where the answers are a closed
    set, they are read from its probabilities, and the texts are explanations of given answers."""

    teacher: Accuracy
    untaught: Accuracy
    seeds: Accuracy | None
    verdict: Literal["go", "improve", "stop"]
    reason: str
    failures: Mapping[str, int]
    written: int
    samples: tuple[ProbeSample, ...]
