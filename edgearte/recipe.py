"""The recipe: everything a user can say, in one readable file.

Paths are relative to the recipe's folder. `${NAME}` is replaced from the environment. Unknown keys are errors.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import BaseModel, ByteSize, ConfigDict, Field, field_validator, model_validator

from edgearte.answers import named

Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Above0 = Annotated[float, Field(gt=0)]
Temperature = Annotated[float, Field(ge=0)]
Price = Annotated[float, Field(ge=0)]

STRATEGIES = {
    "procedure": "Describe the general procedure that solves this kind of question, then apply it to this one.",
    "step by step": "Think step by step, one short sentence a step.",
    "plain": "Explain in a sentence or two how the answer is found.",
    "options": "Look at what the answer could be, rule out what does not fit, and choose what remains.",
}


# One a prompt, in turn, where a chat drafts for one label at a time: asked in one way alone, a teacher writes the same thing again.
STYLES = (
    "short and casual, as said in passing",
    "polite, in a full sentence",
    "as a question",
    "indirect: say what is wanted or felt without naming it",
    "with a detail of a real situation: a name, a time, an amount or a place",
    "as somebody in a hurry would say it",
    "with everyday words that the examples do not use",
    "long and a little wordy",
)


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Answer(Section):
    """What an answer looks like; see docs/recipe.md for each kind."""

    kind: Literal["tag", "choice", "yesno", "number", "text", "json"] = "tag"
    # The closed set of labels or letters, if there is one; as a mapping, with a few words on what each label means.
    choices: tuple[str, ...] | dict[str, str] = ()
    tag: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]*$")] = "ans"
    strict: bool = True  # only what stands between the tags counts, as in the paper

    @field_validator("choices")
    @classmethod
    def _told_apart(cls, value: tuple[str, ...] | dict[str, str]) -> tuple[str, ...] | dict[str, str]:
        seen: dict[str, str] = {}
        for label in value:
            if (other := seen.setdefault(named(label), label)) != label:
                raise ValueError(f"{other!r} and {label!r} are the same words to the teacher, which reads _ as a space")
        return value


class Questions(Section):
    """A file of questions, or the slice `take: "0:40"` of it."""

    file: str
    take: str = ""


class TaskSection(Section):
    name: str = ""
    description: str
    # What the student is told in place of the description: one that is taught needs few words, and every word costs it time, in training
    # and on the device.
    instruction: str = ""
    answer: Answer = Answer()
    seeds: Questions | None = None  # start the drafting; never measured on. A description alone may do, for a teacher that chats
    preference: Questions | None = None  # score the drafts; the seeds where none are given
    # Decides which student and which artifact is delivered; never taught, and never reported as the outcome. Where none is named and there
    # are enough evaluation questions, a third of those is split off.
    development: Questions | None = None
    evaluation: Questions  # only ever measured on
    pool: Questions | None = None  # may be put to the teacher where an assistant takes part; targets only check it, and may be missing


class Endpoint(Section):
    """An OpenAI-compatible server whose model writes; see docs/how-to-ask-an-endpoint.md."""

    url: str  # such as http://localhost:8000/v1
    key: str = ""  # the name of the environment variable that holds the key
    price_in: Price = 0.0  # money per million tokens read
    price_out: Price = 0.0  # and written
    concurrency: Positive = 8  # calls at once
    per_minute: Count = 0  # calls a minute; 0: without limit
    timeout: Above0 = 60.0  # seconds a call may take
    attempts: Positive = 6  # at one call, before the build gives up

    @field_validator("url")
    @classmethod
    def _no_key_in_it(cls, value: str) -> str:
        from edgearte.lm.endpoint import url_problem

        if problem := url_problem(value):
            raise ValueError(problem.removeprefix("url: "))
        return value

    @field_validator("key")
    @classmethod
    def _a_name(cls, value: str) -> str:
        if value and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value):
            raise ValueError("the name of an environment variable is wanted, not the key itself")
        return value


class Teacher(Section):
    model: str  # hub id, folder, .gguf file, or package:NAME; with an endpoint, what its server calls the model
    endpoint: Endpoint | None = None
    revision: str = ""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    style: Literal["chat", "continuation"] = "chat"  # continuation: for base or weak models, with constrained decoding
    # What writes for the teacher as it came: llama.cpp takes a GGUF file in its own types, which is faster on a processor. What is aligned
    # is always the checkpoint.
    runtime: Literal["transformers", "llama.cpp"] = "transformers"


class Student(Section):
    model: str
    revision: str = ""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"  # how it answers; it trains with float32 weights


class Draft(Section):
    """Questions and rationales by the unaligned teacher (paper 1a, 1b)."""

    questions: Positive = 250
    shots: Positive = 3  # seeds shown in a prompt
    per_prompt: Positive = 5  # questions asked of a prompt
    temperature: Temperature = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    question_tokens: Positive = 120  # room for one question
    strategies: dict[str, str] = STRATEGIES  # name -> the instruction that elicits that kind of rationale
    rationale_tokens: Positive = 300
    rationale_temperature: Temperature = 0.0  # the paper does not state it
    near_copy: Share = 0.9  # likeness from which two questions are the same (0 to 1)
    vote: Share = 0.0  # keep a draft only where the teacher, asked anew, gives its target at least this probability
    attempts: Positive = 4  # prompts sent per prompt needed, before the build gives up on the number
    styles: tuple[str, ...] = STYLES  # how the questions of a prompt are to be worded, where a chat drafts for one label at a time


class Sieve(Section):
    """Which drafts are fit to teach. How many fall to each sieve is in the report, with samples."""

    plausible: Annotated[float, Field(ge=0)] = 3.0  # standard deviations that a draft may be less likely than the seeds; 0: off
    length: Annotated[float, Field(ge=0)] = 3.0  # times longer than the longest seed, or shorter than the shortest; 0: off
    known: Share = 0.0  # a draft whose answer a student taught on the seeds gives with at least this probability is left out; 0: off


class Responder(Section):
    """A model that answers the preference questions with so many examples, so that item response theory can tell which of
    them discriminate."""

    model: str
    shots: tuple[Count, ...] = (0, 1, 2, 3)


class Verify(Section):
    """What a drafted target must stand up to. The paper verifies nothing."""

    samples: Count = 0  # answers the teacher gives anew to each drafted question (self-consistency)
    temperature: Above0 = 0.7
    agreement: Share = 0.5  # of them that must confirm the target, or agree on another one to replace it
    relabel: bool = False
    # A program of yours, given {"input", "target"} a line, that answers {"ok": bool, "target": optional} a line.
    checker: tuple[str, ...] = ()


class Prefer(Section):
    """What the student prefers (paper 2)."""

    # icl: the paper's one-shot accuracy. icl+correctness: the same, and nothing for a rationale whose answer is wrong.
    # naturalness: the student's own log-probability of the rationale (GRAPE). influence: what one step on it does to the
    # loss on the preference questions (Montessori-Instruct). probability: as icl, but the probability of the right answer is read, not
    # written: it tells drafts apart where a student hits too rarely to be counted.
    scorer: Literal["icl", "icl+correctness", "probability", "naturalness", "influence"] = "icl"
    questions: Positive = 40
    responders: tuple[Responder, ...] = ()  # choose the questions by item response theory (paper 2a); none: the first ones
    max_tokens: Positive = 200
    confidence: Share = 0.0  # stop asking once the ranking is settled at this confidence; 0: every draft, every question
    learning_rate: Above0 = 1e-5  # of influence's one step


class Align(Section):
    """DPO on the student's preferences, through TRL (paper 3)."""

    question_pairs: Count = 50
    rationale_pairs: Count = 250
    # quarter: drawn at random from the top against the bottom quarter; extremes: the highest against the lowest.
    questions_from: Literal["quarter", "extremes"] = "quarter"
    rationale_prompt: Literal["naive", "strategy"] = "naive"  # strategy: the one that elicited the chosen rationale
    beta: Above0 = 0.1
    learning_rate: Above0 = 1e-5
    held_out: Share = 0.2  # of the drafts, whose pairs are not learned from but say when to stop
    min_steps: Positive = 8
    max_steps: Positive = 64  # and one epoch at least: few pairs are seen again and again, many once
    patience: Positive = 3  # looks at the held-out pairs without a gain, after which it ends; the best point is kept
    batch: Positive = 16
    micro_batch: Positive = 4  # rows computed at once
    lora_rank: Count = 16  # 0: all weights
    sft: Annotated[float, Field(ge=0)] = 0.0  # weight of the chosen text's own loss beside the preference
    length_normalised: bool = False  # log-probabilities a token, so that length itself is not learned
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0  # share of the pairs that are supposed to be the wrong way round
    judge: Count = 24  # texts of either teacher that the student scores afterwards, on questions that made no pair; 0: not judged


class Tailor(Section):
    """What the aligned teacher writes (paper 4), and as much by the unaligned one."""

    questions: Positive = 250
    temperature: Temperature = 1.0
    rationale_temperature: Temperature = 0.0


class Select(Section):
    """Selection, a cheaper relative of alignment: the teacher drafts `factor` times as much, and the student keeps what it prefers."""

    factor: Positive = 1  # 1: no such arm
    by: Literal["probability", "naturalness", "influence", "icl"] = "probability"
    diversity: Share = 0.5  # how much an example's unlikeness to those already kept counts beside the score


class Train(Section):
    """SFT of the student through TRL (paper 5)."""

    seeds: Count = 1  # times that each of the user's own seeds is in every set
    # What a completion is: a rationale that ends in the answer, the answer alone, half of each, or what the answer's label means before
    # it (task.answer.choices with meanings). auto: what teaches best on the development questions, found with the seeds; rationale where
    # there are none.
    teach: Literal["auto", "rationale", "answer", "both", "meaning"] = "auto"

    # Seconds of computing in which other rates, epochs and LoRA may be tried on the development questions, for all arms; 0: as they stand.
    search: Count = 0
    learning_rate: Above0 = 2e-5
    epochs: Positive = 1
    batch: Positive = 8
    lora_rank: Count = 0  # 0: all weights
    warmup: Share = 0.03
    max_tokens: Positive = 1024
    # What each example's loss counts. influence: what one step on it does to the loss on the preference questions, nothing where it
    # harms. scorer: the same of a third of them, told for the others from the student's states.
    weights: Literal["alike", "influence", "scorer"] = "alike"
    # What it counts, beside the answers, that to the student's last hidden states those answers are alike that are to the teacher's
    # (EmbedDistill).
    match: Annotated[float, Field(ge=0)] = 0.0

    @property
    def reasons(self) -> bool:
        """Whether a rationale is taught; yes, while that is not decided."""
        return self.teach not in ("answer", "meaning")


class OnPolicy(Section):
    """On-policy distillation, where teacher and student share a tokenizer: the student writes, the teacher's distribution over
    what it wrote is the target."""

    when: Literal["never", "instead", "after"] = "never"  # instead of SFT, or after it
    learning_rate: Above0 = 1e-5
    epochs: Positive = 1
    batch: Positive = 8
    lora_rank: Count = 0  # 0: all weights
    warmup: Share = 0.03
    beta: Share = 0.5  # of the generalized Jensen-Shannon divergence: 0 forward, 1 reverse KL
    temperature: Above0 = 1.0
    max_tokens: Positive = 200


class Budget(Section):
    """What the teacher's answers may take at most; 0: no limit of this kind."""

    calls: Count = 0
    tokens: Count = 0  # read and written
    money: Price = 0.0  # at the prices of teacher.endpoint

    @model_validator(mode="after")
    def _some(self) -> Budget:
        if not (self.calls or self.tokens or self.money):
            raise ValueError("a budget of calls, tokens or money is needed")
        return self


class Again(Section):
    """The teacher is asked once more, with detail and similar answers, where the assistant's trust is low (DualChecker)."""

    below: Share = 0.75  # trust under which an answer is asked for again
    share: Share = 0.2  # of the budget, set aside for it


class Several(Section):
    """More teachers beside `teacher`. All are asked in the warm-up; from what their answers were worth it is learned which one is asked
    afterwards. `agreement` asks all, every time, and believes them where they agree (ATSEN)."""

    teachers: Annotated[tuple[Teacher, ...], Field(min_length=1)]
    choose: Literal["router", "policy", "best", "uniform", "agreement"] = "router"
    quality: Share = 0.6  # of an answer's worth; the rest is how natural it is to the student (PerSyn)
    familiarity: bool = False  # what the router predicts of a teacher counts less where a question is unlike what it knows (STRATANET)

    @model_validator(mode="after")
    def _predicted(self) -> Several:
        if self.familiarity and self.choose != "router":
            raise ValueError(f"familiarity is for choose: router, which predicts what an answer is worth, and not for {self.choose}")
        return self


class Guide(Section):
    """What the assistant does within ARTE."""

    score: Annotated[float, Field(gt=0, le=1)] = 0.5  # share of the drafts, the most doubted, that get rationales and scores
    filter: bool = True  # rationales it does not trust become no pairs
    weigh: bool = True  # a tailored example counts as much as it is trusted


class Assist(Section):
    """A teaching assistant makes an imperfect, costly teacher go further (TA-in-the-Loop, arXiv 2406.05322): the student's and the
    assistant's doubts choose what to ask the teacher, the assistant's trust which of its answers to believe."""

    model: str
    revision: str = ""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    budget: Budget | None = None  # what is bought of the teacher's answers, in place of ARTE
    arte: Guide | None = None  # or the assistant helps ARTE
    pool: tuple[Literal["questions", "drafts"], ...] = ("questions",)  # the task's own, or what the teacher drafts
    # consistency: how many answers the student has to one question. student: the assistant's doubt of the student's answer.
    # teacher: the assistant's trust in the teacher's.
    signals: tuple[Literal["consistency", "student", "teacher"], ...] = ("consistency", "student", "teacher")
    warmup: Share = 0.2  # of the budget, spent at random before the student is asked
    samples: Annotated[int, Field(ge=2)] = 8
    temperature: Above0 = 0.7
    uncertainty: Literal["answers", "texts", "entropy"] = "answers"  # what of the samples is compared
    confidence: Literal["yes/no", "number"] = "yes/no"  # a probability, or a number that the assistant names
    weigh: bool = False  # an example counts as much as the assistant trusts it
    again: Again | None = None
    several: Several | None = None
    threshold: Share | None = None  # trust from which an answer is kept; none: fitted on the warm-up where targets are known, or 0.5

    @model_validator(mode="after")
    def _one(self) -> Assist:
        if (self.budget is None) == (self.arte is None):
            raise ValueError("an assistant either spends a budget or helps ARTE: one of budget and arte is needed")
        return self


class General(Section):
    """Text of any kind that calibration counts beside what the student was taught, so that it keeps what else it knows."""

    file: str  # one text a line
    share: Share = 0.2


class Export(Section):
    presets: tuple[str, ...] = ("f16", "q8_0", "q4_k_m", "onnx-fp32", "onnx-int4")
    general: General | None = None

    @field_validator("presets")
    @classmethod
    def _some(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise ValueError("at least one preset is needed")
        if len(set(value)) != len(value):
            raise ValueError("a preset is named twice")
        return value


class Measure(Section):
    suite: str = "short"
    threads: Count = 0  # 0: as many as the device has cores
    questions: Count = 0  # evaluation questions each artifact answers; 0: all
    shots: tuple[Positive, ...] = ()  # checkpoints are asked without examples, and again with so many seeds shown
    others: tuple[str, ...] = ()  # presets by which the students that are not delivered are asked as well, to compare files with files
    max_tokens: Positive = 300  # room for an answer, for checkpoints and artifacts alike; as much as draft.rationale_tokens, or more


class Floor(Section):
    """The accuracy that is wanted of an artifact, on the development questions."""

    threshold: Share | None = None  # at least this share of right answers
    max_degradation: Share | None = None  # or at most so much less than the student's before its export

    @model_validator(mode="after")
    def _one(self) -> Floor:
        if (self.threshold is None) == (self.max_degradation is None):
            raise ValueError("one of threshold and max_degradation is needed")
        return self


class Limits(Section):
    """What a device allows an artifact: its budget. Times are those of the suite; what is not named has no limit."""

    accuracy: Floor | None = None
    first_token_s: Above0 | None = None
    answer_s: Above0 | None = None  # of the whole answer: the first token and all others of the suite
    memory: Annotated[ByteSize, Field(ge=1)] | None = None  # at its peak, such as "400 MB"
    size: Annotated[ByteSize, Field(ge=1)] | None = None  # of the file
    questions: Count = 0  # development questions that are answered on this device; 0: all


class Close(Section):
    """How the loop is closed where no artifact meets the budget of a device."""

    cures: tuple[str, ...] = ("q8_0", "mixed-q4_k_m", "mixed-small", "healed-iq4_nl")  # presets tried before the student is taught anew
    rounds: Count = 2  # new rounds of teaching, at most
    hours: Above0 | None = None  # of computing, after which no new round begins

    @field_validator("cures")
    @classmethod
    def _once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) != len(value):
            raise ValueError("a preset is named twice")
        return value


class Recipe(Section):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    about: str = ""
    seed: Count = 0
    rounds: Positive = 1  # times through the loop: the aligned teacher drafts again, the taught student scores again
    task: TaskSection
    teacher: Teacher
    student: Student
    draft: Draft = Draft()
    sieve: Sieve = Sieve()
    verify: Verify = Verify()
    prefer: Prefer = Prefer()
    align: Align = Align()
    tailor: Tailor = Tailor()
    select: Select = Select()
    train: Train = Train()
    on_policy: OnPolicy = OnPolicy()
    assist: Assist | None = None
    export: Export = Export()
    measure: Measure = Measure()
    devices: dict[str, Limits] = {}  # the devices it is for, by the name of their profile; none: this machine, without limits
    close: Close = Close()
