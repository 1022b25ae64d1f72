"""What a build computes, predicted from a recipe, its task and the models' sizes: calls, tokens, memory and time of every stage.

The physics: a forward pass is 2 floating-point operations per weight and token, a training step 6; decoding one token of a batch
reads every weight once, so it is bound by the memory's bandwidth until the batch is large. The shares of the processor's rate
that are really reached were measured with a small model; they are rough.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgearte import pace
from edgearte.arte import vote
from edgearte.convert.beforehand import GB, PER_WEIGHT
from edgearte.convert.presets import load_preset
from edgearte.recipe import Align, Recipe
from edgearte.records import Question
from edgearte.task import Task

# Shares of the rate of a large matrix product that models reach: in reading, in writing many rows, in training. Seen with SmolLM2-135M,
# whose short texts share what they begin with in training (`trie`): 0.75 there, and less where they share less.
PREFILL, DECODE, TRAIN = 0.7, 0.45, 0.5
LOAD_WEIGHT = 5e-8  # seconds for each weight of a model that is trained: to read, prepare and write it
ROWS = 128  # decoded together
SURPLUS = 2  # questions drafted for one that is kept, where a vote or the teacher's own samples must confirm its target
BYTES = {"bfloat16": 2, "float32": 4}
# Stages in which the teacher writes.
BY_TEACHER = (
    "draft: questions", "draft: rationales", "verify", "judge: texts", "tailor: questions", "tailor: rationales", "ask the teacher",
)  # fmt: skip
# Seconds that it takes to make and check an artifact, and more for each weight.
MAKE, MAKE_WEIGHT = 10.0, 6e-8
ARMS = 3  # students taught: seeds alone, unaligned teacher, ARTE
# The stage of the store that each is computed by, for which the store remembers tokens.
STORED = {
    "preference set": "respond", "draft: questions": "draft questions", "draft: rationales": "draft rationales", "verify": "consistency",
    "vote": "vote", "judge: texts": "draft rationales", "tailor: questions": "draft questions", "tailor: rationales": "draft rationales",
    "ask the teacher": "annotate", "the student's samples": "sample", "the assistant's trust": "confidence", "train": "train",
    "evaluate": "evaluate",
}  # fmt: skip
SCORED = {"icl": "prefer", "icl+correctness": "prefer"}  # scorers that have a stage of another name


@dataclass(frozen=True)
class Machine:
    """Operations per second of a large matrix product on all cores, bytes per second of a large copy, cores."""

    flops: float
    bandwidth: float
    cores: int = 1


@dataclass(frozen=True)
class Work:
    """One stage: model calls, tokens read and written (a prefix that prompts share counts in each, as the store counts it), bytes held at
    once, seconds; the parameters and the type of the model that computes, and the stage of the store. `seen`: the seconds follow from
    what it took here before."""

    stage: str
    calls: int
    tokens_in: int
    tokens_out: int
    memory: float
    seconds: float
    size: int = 0
    dtype: str = ""
    stored: str = ""
    seen: bool = False


@dataclass(frozen=True)
class Sizes:
    """Parameters of the models; 0 while a model is still on the hub. Where their checkpoints are known, the memory of training is
    predicted from the models' shapes."""

    teacher: int
    student: int
    teacher_folder: Path | None = None
    student_folder: Path | None = None
    assistant: int = 0


@dataclass(frozen=True)
class _Counter:
    """Makes `Work` of counts, on a machine."""

    machine: Machine
    elsewhere: tuple[str, ...]  # stages that another machine computes

    def ask(
        self, stage: str, calls: float, read: float, write: float, model: tuple[int, str], *, shared: float = 0, together: float = 1,
        stored: str = "",
    ) -> Work:  # fmt: skip
        """Prompts of `read` tokens after `shared` ones, which are read once for so many prompts `together`, that are continued by
        `write` tokens."""
        size, dtype = model
        n, m = round(calls), self.machine
        rows = max(1, min(ROWS, n))
        step = max(size * BYTES[dtype] / m.bandwidth, 2 * size * rows / (DECODE * m.flops))
        computed = n * (read + shared / together)
        seconds = computed * 2 * size / (PREFILL * m.flops) + n * write / rows * step
        memory = 0.0 if stage in self.elsewhere else size * BYTES[dtype] + ROWS * (read + write) * 50_000
        whole = round(n * (read + shared)), round(n * write)
        return Work(stage, n, *whole, memory, seconds, size, dtype, stored or STORED.get(stage, ""))

    def train(
        self, stage: str, runs: int, examples: float, tokens: float, size: int, folder: Path | None, rank: int, dtype: str, learned: float,
        *, held_out: bool = False, texts: int = 1,
    ) -> Work:  # fmt: skip
        """So many trainings, with steps on so many examples in all, each of so many `texts` of `tokens` together, of which the share
        `learned` is predicted."""
        from edgearte.train import trie
        from edgearte.train.memory import Part, foretell

        seconds = runs * LOAD_WEIGHT * size + examples * tokens * 6 * size / (TRAIN * self.machine.flops) if examples else 0.0
        memory = size * (BYTES[dtype] if rank else 18) + 2 * GB
        if folder and examples:
            longest = round(2 * tokens / texts)  # half of the texts are longer than the mean; few are twice as long
            part = Part(max(trie.TOKENS, longest), round(max(trie.TOKENS, longest) * learned), longest)
            memory = foretell(folder, part, dtype=dtype, lora_rank=rank, held_out=held_out)
        return Work(stage, round(examples), round(examples * tokens), 0, memory, seconds, size, dtype, STORED.get(stage, ""))


def pairs_seen(pairs: int, align: Align) -> float:
    """How many times a pair is learned from. One epoch and `min_steps` are taken in any case. Pairs that are held out say when to stop
    after that, at `max_steps` at the latest: when is known only afterwards, and the geometric middle is wrong by the same factor at
    either end."""
    held = round(align.held_out * pairs)
    if not pairs:
        return 0.0
    batch = min(align.batch, pairs - held)
    epoch = -(-(pairs - held) // align.batch)
    fewest = max(epoch, align.min_steps)
    most = max(epoch, align.max_steps) if held else fewest
    return float(batch * (fewest * most) ** 0.5)


def work(recipe: Recipe, task: Task, sizes: Sizes, machine: Machine) -> list[Work]:
    """Calls, tokens, memory and seconds of every stage, in order."""
    known = task.seeds or task.evaluation
    d, seed = recipe.draft, _tokens(known)
    head = len(task.header) / pace.CHARACTERS
    brief = len(replace(task, instruction="").header) / pace.CHARACTERS  # what the teacher reads, who is told the description
    continues = recipe.teacher.style == "continuation"
    rationale = min(d.rationale_tokens, 30 if continues else 120)
    reasons = recipe.train.reasons  # the teacher writes rationales, and the student learns to
    said = rationale if reasons else sum(len(q.target) for q in known) / len(known) / pace.CHARACTERS
    answer = min(recipe.measure.max_tokens, said + 10)
    count = _Counter(machine, BY_TEACHER if recipe.teacher.endpoint else ())
    ask = count.ask
    teacher, student = (sizes.teacher, recipe.teacher.dtype), (sizes.student, recipe.student.dtype)
    kept_seeds = len(task.seeds) if recipe.train.seeds else 0
    whole = head + seed + said

    def drafting(stage: str, questions: float) -> Work:
        return ask(stage, questions / d.per_prompt, brief + d.shots * (seed + 20), d.per_prompt * (seed + 20), teacher)

    def explaining(stage: str, rationales: float) -> Work:
        shown = 6 * (seed + rationale) if continues else brief
        return ask(stage, rationales, seed + (15 if continues else 40), rationale, teacher, shared=shown, together=64)

    def students(number: int, examples: float, more: float = 0) -> list[Work]:
        learned = number * (examples + kept_seeds) + more
        states = learned if recipe.train.match else 0
        return [
            ask("the teacher's states", states, whole, 0, teacher),
            Work("search", 0, 0, 0, 0.0, float(recipe.train.search)),
            count.train("train", number + (more > 0), learned * recipe.train.epochs, whole, sizes.student, sizes.student_folder,
                        recipe.train.lora_rank, "float32", said / whole),
        ]  # fmt: skip

    if (how := recipe.assist) and how.budget:
        drafted = d.questions if "drafts" in how.pool else 0
        pool = drafted + (len(task.pool) if "questions" in how.pool else 0)
        bought = min(how.budget.calls or pool, pool)
        doubted = pool if {"consistency", "student"} & set(how.signals) else 0
        judged = (doubted if "student" in how.signals else 0) + (bought if "teacher" in how.signals else 0)
        return [
            drafting("draft: questions", drafted),
            ask("ask the teacher", 2 * bought, brief + seed + 40, rationale, teacher),
            ask("the student's samples", doubted * how.samples, head + seed, answer, student),
            ask("the assistant's trust", judged, head + 2 * seed + rationale, 1, (sizes.assistant, how.dtype)),
            *students(ARMS, bought),
            *_device(recipe, task, sizes, count, ARMS, head + seed, answer),
        ]  # fmt: skip

    rounds, writers = recipe.rounds, 1 if recipe.teacher.endpoint else 2  # the aligned teacher writes too, if there can be one
    confirmed = bool(d.vote and task.answer.choices) or bool(recipe.verify.samples)
    surplus = SURPLUS if confirmed else 1
    selected = recipe.select.factor * recipe.tailor.questions if recipe.select.factor > 1 else 0
    tailored = writers * recipe.tailor.questions + selected
    asked, sampled = rounds * surplus * d.questions, rounds * surplus * tailored
    explained = len(d.strategies) if reasons else 0  # rationales of a draft
    written = d.questions * explained
    pairs = 0 if recipe.teacher.endpoint else recipe.align.question_pairs + min(recipe.align.rationale_pairs, written)
    judged = writers * recipe.align.judge if pairs else 0
    choices = sum(map(len, task.answer.choices)) / pace.CHARACTERS
    responses = len(task.preference) * sum(len(r.shots) for r in recipe.prefer.responders)
    tried = len(task.seeds) if recipe.train.teach == "auto" and task.development else 0  # taught the answers alone, to compare
    arms = ARMS + (1 if selected else 0)

    def scoring(stage: str, scored: float, scorer: str) -> Work:
        """The student's scores. An example is read once for all preference questions, which are answered by writing or by reading."""
        questions, stored = max(1, min(recipe.prefer.questions, len(task.preference))), SCORED.get(scorer, scorer)
        match scorer:
            case "naturalness":
                return ask(stage, scored, whole, 0, student, stored=stored)
            case "influence":  # a step on the example, and what it does to the questions' loss
                return ask(stage, scored, 3 * whole + questions * whole, 0, student, stored=stored)
            case "probability":
                read, write = seed + 20 + (choices or seed), 0.0
            case _:
                read, write = seed + 20, float(answer)
        return ask(stage, scored * questions, read, write, student, shared=whole, together=questions, stored=stored)

    return [
        ask("preference set", responses, head + 2.5 * seed, answer, student),
        drafting("draft: questions", asked),
        ask("vote", asked + sampled if d.vote and task.answer.choices else 0, seed + 10 + choices, 0, teacher,
            shared=len(task.seeds) * (seed + 10), together=vote.ROWS),
        explaining("draft: rationales", rounds * written),
        ask("verify", rounds * recipe.verify.samples * surplus * (d.questions + tailored), brief + seed + 40, rationale, teacher),
        scoring("prefer", rounds * d.questions * max(1, explained), recipe.prefer.scorer),
        count.train("align", rounds, rounds * pairs_seen(pairs, recipe.align), 2 * (brief + 2 * seed + said), sizes.teacher,
                    sizes.teacher_folder, recipe.align.lora_rank, recipe.teacher.dtype, 0.5, held_out=recipe.align.held_out > 0, texts=2),
        (explaining if reasons else drafting)("judge: texts", rounds * judged),
        scoring("judge: scores", rounds * judged, recipe.prefer.scorer),
        drafting("tailor: questions", sampled),
        explaining("tailor: rationales", rounds * tailored * reasons),
        scoring("select", rounds * selected, recipe.select.by),
        *students(arms, rounds * recipe.tailor.questions, tried),
        *_device(recipe, task, sizes, count, arms, head + seed, answer),
    ]  # fmt: skip


def _device(recipe: Recipe, task: Task, sizes: Sizes, count: _Counter, arms: int, question: float, answer: float) -> list[Work]:
    """What the students answer as checkpoints, and the delivered one as artifacts, which are timed and answer one question at a time."""
    shots, size = recipe.measure.shots, sizes.student
    examples = sum(shots) * _tokens(task.seeds or task.evaluation) / (1 + len(shots))
    asked = (arms + 1) * len(task.evaluation) * (1 + len(shots)) + arms * len(task.development)
    checkpoints = count.ask("evaluate", asked, question + examples, answer, (size, recipe.student.dtype))
    answered = recipe.measure.questions or len(task.evaluation)
    names = recipe.export.presets
    rate, read = PREFILL * count.machine.flops, sum(PER_WEIGHT.get(load_preset(name).type, 2.0) for name in names) * size
    one_by_one = answered * (len(names) * question * 2 * size / rate + answer * read / count.machine.bandwidth)
    seconds = len(names) * (MAKE + MAKE_WEIGHT * size) + one_by_one
    n = len(names) * answered
    return [checkpoints, Work("export and measure", n, round(n * question), round(n * answer), 4.0 * size + GB, seconds)]


def _tokens(questions: Sequence[Question]) -> float:
    """Mean tokens of a question with its target, at about four characters a token."""
    return sum(len(q.input) + len(q.target) for q in questions) / len(questions) / pace.CHARACTERS
