"""`result.json`: every number and text of the report, in one schema.

The report is made from this file alone: a build fills a `Result` and writes it, `edgearte report RUN` reads it back.
Sections a command did not run (an export alone has no drafts) are `None` or empty, and the report leaves them out.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import asdict, dataclass, field
from typing import Any

from edgearte.assist.calibration import Calibration
from edgearte.budget import Figures
from edgearte.errors import Problem, UserError
from edgearte.records import Accuracy, ArmChoice, Artifact, Judged, Measurement, Moved, Probe

SCHEMA = 1
_SHOWN_PROBLEMS = 8
_SURROGATES = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class TaskInfo:
    """The task in words, and how many seeds and evaluation questions it has."""

    name: str
    description: str
    answer_format: str
    seeds: int
    evaluation: int


@dataclass(frozen=True)
class ModelInfo:
    """A model as the recipe names it (`source`: hub id, folder, file, package, endpoint) and its weights by content."""

    name: str
    source: str
    identity: str
    licence: str = ""  # as the model's own metadata says; empty when it does not
    parameters: int = 0


@dataclass(frozen=True)
class StageCost:
    """What one stage cost: rows asked for, rows found in the store, seconds of computing (earlier runs' included)."""

    label: str
    rows: int
    cached: int
    seconds: float
    teacher_tokens: int = 0
    student_tokens: int = 0
    processor: float = 0.0  # processor seconds, of all cores


@dataclass(frozen=True)
class EndpointUse:
    """What a teacher behind an endpoint was asked for this recipe, in all its builds: calls, `new` of them since this build began;
    `failed` attempts, which are not billed; calls `lost` when a build was killed, which may be; tokens and money, lost calls at
    the most they can have taken."""

    model: str
    url: str
    calls: int
    new: int
    failed: int
    lost: int
    tokens_read: int
    tokens_written: int
    money: float


@dataclass(frozen=True)
class RationaleSample:
    """One rationale. `score` is the share of preference questions the student answered rightly after reading it,
    `extracted` the share it answered at all; `None` where it was not scored."""

    strategy: str
    text: str
    answer: str
    score: float | None = None
    extracted: float | None = None


@dataclass(frozen=True)
class DraftSample:
    """A drafted question with its rationales; `score` is the mean of theirs."""

    id: str
    input: str
    target: str
    rationales: tuple[RationaleSample, ...] = ()
    score: float | None = None


@dataclass(frozen=True)
class Drafts:
    """The unaligned teacher's questions: how many were asked for and kept, and why the others were dropped."""

    asked: int
    kept: int
    dropped: dict[str, int] = field(default_factory=dict)  # reason -> number
    samples: tuple[DraftSample, ...] = ()
    fell: dict[str, tuple[str, ...]] = field(default_factory=dict)  # reason -> a few of them


@dataclass(frozen=True)
class Preferences:
    """The student's scores, one a rationale. Where the student was asked, `extracted` is the share of its answers in which one
    was found at all, and `among_extracted` the share of right ones among those. `degenerate` when the scores cannot tell
    good from bad, and `reason` then says why."""

    questions: int  # in the preference set
    drafts: int
    rationales: int
    scores: tuple[float, ...] = ()
    extracted: tuple[float, ...] = ()
    scorer: str = "icl"
    chosen_by: str = ""  # how the preference set was chosen
    among_extracted: tuple[float, ...] = ()
    generations: int = 0
    exact_generations: int = 0  # that the exact test would take
    ended: str = ""  # how an adaptive test ended
    degenerate: bool = False
    reason: str = ""
    advice: str = ""  # whether the scores tell drafts apart beyond their own noise, and what to do where they do not


@dataclass(frozen=True)
class AlignmentStep:
    """One logged step of DPO: loss, reward margin (chosen less rejected), share of pairs ranked rightly."""

    step: int
    loss: float
    margin: float
    accuracy: float


@dataclass(frozen=True)
class PairSample:
    """One preference pair; `kind` is `question` or `rationale`."""

    kind: str
    prompt: str
    chosen: str
    rejected: str
    chosen_score: float
    rejected_score: float


@dataclass(frozen=True)
class Alignment:
    """DPO of the teacher; `skipped` says why there was none, and is empty when there was. Of its pairs `certain` ones have a gap beyond the
    noise of their scores, and `held_out` ones were not learned from: `looks` are what was found of these on the way, and `best_step` is
    the point that was kept (0: the teacher as it was). `judged` is what the student makes of it, `moved` how far the teacher is now from
    where it was; `None` where that was not asked."""

    skipped: str = ""
    teacher: str = ""  # the checkpoint that came of it
    question_pairs: int = 0
    rationale_pairs: int = 0
    curve: tuple[AlignmentStep, ...] = ()
    samples: tuple[PairSample, ...] = ()
    certain: int = 0
    held_out: int = 0
    looks: tuple[AlignmentStep, ...] = ()
    best_step: int | None = None
    judged: Judged | None = None
    moved: Moved | None = None


@dataclass(frozen=True)
class AnnotationSample:
    """One answer of the teacher, when it was asked for, the assistant's confidence in it, whether it was kept, and whether it is right
    (`None`: not asked, not known)."""

    input: str
    text: str
    answer: str
    phase: str
    confidence: float | None
    kept: bool
    right: bool | None


@dataclass(frozen=True)
class Assistance:
    """What a budget of the teacher's answers bought with the help of an assistant, `again` of them second answers to a question; and how
    well that one knows right from wrong, of the teacher's answers and of the student's (`None` where no target says)."""

    assistant: str
    signals: tuple[str, ...]
    confidence: str
    pool: int
    calls: int
    again: int
    tokens: int
    warmup: int
    kept: int
    unanswered: int
    threshold: float | None
    threshold_from: str
    on_teacher: Calibration | None
    on_student: Calibration | None
    samples: tuple[AnnotationSample, ...] = ()


@dataclass(frozen=True)
class Tailored:
    """What one arm's teacher wrote for the student to learn from."""

    kept: int
    dropped: dict[str, int] = field(default_factory=dict)  # reason -> number
    samples: tuple[DraftSample, ...] = ()
    fell: dict[str, tuple[str, ...]] = field(default_factory=dict)  # reason -> a few of them
    right: str = ""  # how much of it is right, as an estimate in words


@dataclass(frozen=True)
class LossStep:
    """One logged step of training."""

    step: int
    loss: float


@dataclass(frozen=True)
class Training:
    """One arm's SFT: examples, optimizer steps, tokens seen, seconds."""

    examples: int
    steps: int
    tokens: int
    seconds: float
    curve: tuple[LossStep, ...] = ()


@dataclass(frozen=True)
class AccuracyRow:
    """Accuracy of one model. `where` is `checkpoint` or the export preset it was asked through."""

    model: str
    where: str
    shots: int
    accuracy: Accuracy


@dataclass(frozen=True)
class Comparison:
    """Two models on the same questions: `difference` is the accuracy of `a` less that of `b`, `p_value` that of the
    exact McNemar test."""

    a: str
    b: str
    difference: float
    p_value: float
    both: int
    only_a: int
    only_b: int
    neither: int


@dataclass(frozen=True)
class AnswerOutput:
    """What one model wrote, the answer found in it (`None`: none found) and whether that is right."""

    text: str
    correct: bool
    extracted: str | None = None


@dataclass(frozen=True)
class AnswerSample:
    """One evaluation question as every model answered it (`outputs`: model label -> output)."""

    question: str
    target: str
    outputs: dict[str, AnswerOutput] = field(default_factory=dict)


@dataclass(frozen=True)
class ArtifactResult:
    """An artifact with what was measured of it; `None` where it failed a gate or was not measured. `foretold` is what the roofline model
    said of it on the device of that measurement, before it was made."""

    artifact: Artifact
    measurement: Measurement | None = None
    accuracy: Accuracy | None = None
    foretold: Figures | None = None


@dataclass(frozen=True)
class Decision:
    """The artifact chosen to be embedded (`preset`, empty when none could be), why, and how it came to that."""

    preset: str
    reason: str
    story: tuple[str, ...] = ()


@dataclass(frozen=True)
class OnDevice:
    """How a device's budget was met in one turn: by `preset`, or by none. What each artifact did there, by preset, and the limits it missed
    in words; `brought` says what the turn changed against the one before."""

    device: str
    limits: dict[str, Any]
    preset: str
    reason: str
    story: tuple[str, ...]
    figures: dict[str, Figures]
    missed: dict[str, tuple[str, ...]]
    brought: str = ""
    measurements: dict[str, Measurement] = field(default_factory=dict)


@dataclass(frozen=True)
class TurnResult:
    """Once out to the devices. `kind` is first, cure or round; in a round, the artifact that was asked what teaches it (`deployed`), how
    many seeds it `failed`, and the examples the student has learned from by then. `accuracy` is the student's before its export."""

    kind: str
    why: str
    arm: str
    examples: int
    accuracy: float | None
    devices: tuple[OnDevice, ...]
    deployed: str = ""
    failed: int = 0
    pairs: int = 0


@dataclass(frozen=True)
class Closing:
    """The loop as it was closed: its turns, which of them is embedded (from 0), why it ended, and what was foretold of each artifact, by
    device and preset, before any was made."""

    turns: tuple[TurnResult, ...]
    kept: int
    ended: str
    met: bool
    foretold: dict[str, dict[str, Figures]] = field(default_factory=dict)


@dataclass(frozen=True)
class LineageStep:
    """One link from the bundle back to the seeds: what it is, its hash, what it was made from (other links' `what`)."""

    what: str
    id: str
    made_from: tuple[str, ...] = ()


@dataclass(frozen=True)
class Result:
    """A whole build. Labels of models (arms) are the same in `training`, `tailored`, `accuracy`, `comparisons` and
    `answers`; a label without training is an untaught model."""

    name: str
    edgearte: str  # version
    task: TaskInfo
    schema: int = SCHEMA
    notes: tuple[str, ...] = ()  # said at the top of the report, each a plain sentence
    bundle: str = ""  # where the bundle lies, as the user should be told
    recipe: dict[str, Any] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    models: dict[str, ModelInfo] = field(default_factory=dict)  # role -> model
    stages: tuple[StageCost, ...] = ()
    endpoint: EndpointUse | None = None
    probe: Probe | None = None  # whether there is something to teach, asked before anything was drafted
    drafts: Drafts | None = None
    preferences: Preferences | None = None
    alignment: Alignment | None = None
    assistance: Assistance | None = None
    tailored: dict[str, Tailored] = field(default_factory=dict)  # arm -> set
    training: dict[str, Training] = field(default_factory=dict)  # arm -> run
    accuracy: tuple[AccuracyRow, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    answers: tuple[AnswerSample, ...] = ()
    hits: dict[str, dict[str, str]] = field(default_factory=dict)  # arm -> checkpoint or preset -> a 1 for each right answer, or a 0
    arm: ArmChoice | None = None
    artifacts: tuple[ArtifactResult, ...] = ()
    decision: Decision | None = None
    closing: Closing | None = None
    lineage: tuple[LineageStep, ...] = ()


def to_json(result: Result) -> str:
    """The text of result.json. Numbers JSON has no word for are written as the strings "NaN", "Infinity" and
    "-Infinity" (and stay so in free-form dictionaries); half surrogates, which UTF-8 cannot hold, become U+FFFD."""
    return json.dumps(_plain(asdict(result)), ensure_ascii=False, allow_nan=False, indent=1) + "\n"


def from_json(text: str, where: str = "result.json") -> Result:
    """The result in a text. `UserError` (placed at `where`) when it is broken, foreign, or from a newer edgearte."""
    from pydantic import TypeAdapter, ValidationError

    try:
        data = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise UserError(Problem(f"not valid JSON ({error}); run the build again to write it anew", where)) from error
    if not isinstance(data, dict) or not isinstance(data.get("schema"), int) or "edgearte" not in data:
        raise UserError(Problem("not a result of an edgearte build; name a run's folder or its result.json", where))
    if data["schema"] != SCHEMA:
        raise UserError(
            Problem(
                f"written in schema {data['schema']} by edgearte {data['edgearte']}, and this edgearte reads {SCHEMA}; "
                "run the build again with this version, or report with that one",
                where,
            )
        )
    try:
        return TypeAdapter(Result).validate_python(data)
    except ValidationError as error:
        found = [Problem(f"{'.'.join(map(str, e['loc']))}: {e['msg']}", where) for e in error.errors(include_url=False)]
        more = [Problem(f"and {len(found) - _SHOWN_PROBLEMS} more", where)] if len(found) > _SHOWN_PROBLEMS else []
        last = Problem("the file was changed or cut short; run the build again to write it anew", where)
        raise UserError([*found[:_SHOWN_PROBLEMS], *more, last]) from error


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, str):
        return _SURROGATES.sub("\ufffd", value)
    if isinstance(value, dict):
        return {_plain(str(k)): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if value is None or isinstance(value, int | float):
        return value
    return str(value)  # a Path in the recipe, a version object
