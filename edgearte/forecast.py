"""What a build will take, foretold from headers and a short measurement of this machine: calls, tokens, time, memory, disk.

The physics: a forward pass is 2 floating-point operations per weight and token, a training step 6; decoding one token of a batch
reads every weight once, so it is bound by the memory's bandwidth until the batch is large. The shares of the processor's rate
that are really reached were read off builds of small models; they are rough, and a build prints what it really took.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgearte.check import check
from edgearte.convert.beforehand import GB, PER_WEIGHT, lacking
from edgearte.convert.presets import load_preset
from edgearte.errors import UserError
from edgearte.files import disk_free
from edgearte.lm import weights
from edgearte.lm.calls import Price
from edgearte.recipe import Endpoint, Recipe
from edgearte.records import Question
from edgearte.task import Task

PREFILL, TRAIN = 0.35, 0.12  # shares of the rate of a large matrix product that models reach
ROWS = 128  # decoded together
BYTES = {"bfloat16": 2, "float32": 4}
BY_TEACHER = ("draft: questions", "draft: rationales", "verify", "tailor", "ask the teacher")  # stages in which the teacher writes
ARMS = 3  # students taught: seeds alone, unaligned teacher, ARTE


@dataclass(frozen=True)
class Machine:
    """Operations per second of a large matrix product, bytes per second of a large copy."""

    flops: float
    bandwidth: float


@dataclass(frozen=True)
class Work:
    """One stage: model calls, tokens read and written, bytes held at once, seconds."""

    stage: str
    calls: int
    tokens_in: int
    tokens_out: int
    memory: float
    seconds: float


@dataclass(frozen=True)
class Sizes:
    """Parameters of the models; 0 while a model is still on the hub. Where their checkpoints are known, the memory of training is
    foretold from the models' shapes."""

    teacher: int
    student: int
    teacher_folder: Path | None = None
    student_folder: Path | None = None
    assistant: int = 0


def room(recipe: Recipe, task: Task, sizes: Sizes, runs: Path) -> None:
    """Whether a build has the memory and the disk it needs, as if nothing of it were in the store yet."""
    memory = max(w.memory for w in work(recipe, task, sizes, Machine(1e12, 1e10)))
    advice = "; take a smaller model, train.lora_rank above 0, or smaller batches"
    if problems := lacking(memory, disk_needed(recipe, sizes), runs, advice):
        raise UserError(problems)


def disk_needed(recipe: Recipe, sizes: Sizes) -> float:
    """Bytes of checkpoints, conversions and the bundle's copies, counted as if nothing were there yet."""
    artifacts = sum(PER_WEIGHT.get(load_preset(p).type, 2.0) for p in recipe.export.presets)
    return sizes.teacher * (4 + 2) + sizes.student * (4 + 2 * ARMS + 2 + 2 * artifacts)


def work(recipe: Recipe, task: Task, sizes: Sizes, machine: Machine) -> list[Work]:
    """Calls, tokens, memory and seconds of every stage, in order."""
    from edgearte.train import trie
    from edgearte.train.memory import Part, foretell

    teacher, student = sizes.teacher, sizes.student
    d, seed = recipe.draft, _tokens(task.seeds or task.evaluation)
    head = len(task.header) / 4
    rationale = min(recipe.draft.rationale_tokens, 120 if recipe.teacher.style == "chat" else 30)
    answer = min(recipe.measure.max_tokens, rationale + 10)

    def ask(stage: str, calls: float, read: float, write: float, size: int, dtype: str) -> Work:
        n = round(calls)
        step = max(size * BYTES[dtype] / machine.bandwidth, 2 * size * ROWS / (PREFILL * machine.flops))
        seconds = n * read * 2 * size / (PREFILL * machine.flops) + n * write / ROWS * step
        elsewhere = recipe.teacher.endpoint and stage in BY_TEACHER
        memory = 0.0 if elsewhere else size * BYTES[dtype] + ROWS * (read + write) * 50_000
        return Work(stage, n, round(n * read), round(n * write), memory, seconds)

    def train(
        stage: str, examples: int, tokens: float, size: int, folder: Path | None, rank: int, dtype: str, learned: float
    ) -> Work:
        seconds = examples * tokens * 6 * size / (TRAIN * machine.flops)
        memory = size * (BYTES[dtype] if rank else 18) + 2 * GB
        if folder and examples:
            longest = round(2 * tokens)  # half of the texts are longer than the mean; few are twice as long
            part = Part(max(trie.TOKENS, longest), round(max(trie.TOKENS, longest) * learned), longest)
            memory = foretell(folder, part, dtype=dtype, lora_rank=rank)
        return Work(stage, examples, round(examples * tokens), 0, memory, seconds)

    asking = (recipe.teacher.dtype, teacher)
    prompts = d.questions / d.per_prompt
    tailoring = (1 if recipe.teacher.endpoint else 2) * recipe.tailor.questions  # by the aligned teacher too, if it can be
    shots = sum(1 + n for n in (0, *recipe.measure.shots))
    questions = min(recipe.prefer.questions, len(task.preference))
    rationales = d.questions * len(d.strategies)
    rounds = recipe.rounds
    responses = len(task.preference) * sum(len(r.shots) for r in recipe.prefer.responders)
    confirmed = recipe.verify.samples * (d.questions + tailoring)
    pairs = recipe.align.question_pairs + min(recipe.align.rationale_pairs, d.questions)

    def students(number: int, examples: int) -> list[Work]:
        whole = head + seed + rationale
        return [
            ask("the teacher's states", number * examples if recipe.train.match else 0, whole, 0, asking[1], asking[0]),
            train("train", number * examples * recipe.train.epochs, whole, student, sizes.student_folder, recipe.train.lora_rank,
                  "float32", rationale / whole),
        ]  # fmt: skip

    device = [
        ask("evaluate", (ARMS + 1) * len(task.evaluation) * (1 + len(recipe.measure.shots)),
            (head + seed * shots / (1 + len(recipe.measure.shots))), answer, student, recipe.student.dtype),
        ask("export and measure", len(recipe.export.presets) * (recipe.measure.questions or len(task.evaluation)),
            head + seed, answer * 4, student, "bfloat16"),
    ]  # fmt: skip
    if (how := recipe.assist) and how.budget:
        drafted = d.questions if "drafts" in how.pool else 0
        pool = drafted + (len(task.pool) if "questions" in how.pool else 0)
        bought = min(how.budget.calls or pool, pool)
        doubted = pool if {"consistency", "student"} & set(how.signals) else 0
        judged = (doubted if "student" in how.signals else 0) + (bought if "teacher" in how.signals else 0)
        return [
            ask("draft: questions", drafted / d.per_prompt, head + d.shots * (seed + 20), d.per_prompt * (seed + 20), asking[1], asking[0]),
            ask("ask the teacher", 2 * bought, head + seed + 40, rationale, asking[1], asking[0]),
            ask("the student's samples", doubted * how.samples, head + seed, answer, student, recipe.student.dtype),
            ask("the assistant's trust", judged, head + 2 * seed + rationale, 1, sizes.assistant, how.dtype),
            *students(ARMS, bought),
            *device,
        ]  # fmt: skip
    return [
        ask("preference set", responses, head + 2.5 * seed, answer, student, recipe.student.dtype),
        ask("draft: questions", rounds * prompts, head + d.shots * (seed + 20), d.per_prompt * (seed + 20), asking[1], asking[0]),
        ask("draft: rationales", rounds * rationales, head + seed + 40, rationale, asking[1], asking[0]),
        ask("verify", rounds * confirmed, head + seed + 40, rationale, asking[1], asking[0]),
        # The example is the shared prefix of all preference questions: it is read once a rationale.
        ask("prefer", rounds * rationales * questions, seed + 20 + (head + seed + rationale) / questions, answer, student,
            recipe.student.dtype),
        train("align", rounds * _aligned(recipe, pairs), 2 * (head + 2 * seed + rationale), teacher, sizes.teacher_folder,
              recipe.align.lora_rank, recipe.teacher.dtype, 0.5),
        ask("tailor", rounds * tailoring, head + 2 * seed + 40, seed + rationale, asking[1], asking[0]),
        *students(ARMS, rounds * recipe.tailor.questions),
        *device,
    ]  # fmt: skip


def _aligned(recipe: Recipe, pairs: int) -> int:
    """Pairs that the alignment learns from until its last step, the same ones again and again; the held-out ones often end it earlier."""
    a = recipe.align
    held = round(a.held_out * pairs)
    epoch = -(-(pairs - held) // a.batch)
    return min(a.batch, pairs - held) * max(epoch, a.max_steps if held else a.min_steps) if pairs else 0


def _tokens(questions: Sequence[Question]) -> float:
    """Mean tokens of a question with its target, at about four characters a token."""
    return sum(len(q.input) + len(q.target) for q in questions) / len(questions) / 4


def measure_machine() -> Machine:
    """Half a second of matrix products and copies."""
    import time

    import torch

    matrix = torch.randn(1024, 1024).bfloat16()
    block = torch.zeros(64 << 20, dtype=torch.uint8)

    def best(action: object, times: int) -> float:
        seconds = []
        for _ in range(times):
            start = time.perf_counter()
            action()  # type: ignore[operator]
            seconds.append(time.perf_counter() - start)
        return min(seconds)

    return Machine(2 * 1024**3 / best(lambda: matrix @ matrix, 12), 2 * block.numel() / best(block.clone, 6))


def print_forecast(recipe: Recipe, task: Task, runs: Path) -> None:
    """Resolve and check everything, then say what a build will take."""
    from rich.console import Console
    from rich.table import Table

    check(recipe, task)
    teacher = 0 if recipe.teacher.endpoint else weights.footprint(recipe.teacher.model)[0]
    assistant = weights.footprint(recipe.assist.model)[0] if recipe.assist else 0
    sizes = Sizes(teacher, weights.footprint(recipe.student.model)[0], assistant=assistant)
    room(recipe, task, sizes, runs)
    stages = work(recipe, task, sizes, measure_machine())
    table = Table("stage", "calls", "tokens read", "tokens written", "memory", "time", box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for w in (w for w in stages if w.calls):
        table.add_row(
            w.stage,
            f"{w.calls:,}",
            f"{w.tokens_in:,}",
            f"{w.tokens_out:,}",
            f"{w.memory / GB:.1f} GB",
            _time(w.seconds),
        )
    console = Console()
    console.print(f"{recipe.name}: {len(task.seeds)} seeds, {len(task.evaluation)} evaluation questions")
    console.print(table)
    if recipe.teacher.endpoint:
        console.print(_bill(recipe.teacher.endpoint, stages))
    total = _time(sum(w.seconds for w in stages))
    console.print(
        f"about {total} in all (within a factor of two), {max(w.memory for w in stages) / GB:.1f} GB of memory at most, "
        f"{disk_needed(recipe, sizes) / GB:.1f} GB of disk of {disk_free(runs) / GB:.1f} GB free"
    )
    if told := cut_off(recipe):
        console.print(told)


def cut_off(recipe: Recipe) -> str:
    """What to know of a student that has less room for an answer than those it is taught with, or ""."""
    room, taught = recipe.measure.max_tokens, recipe.draft.rationale_tokens
    if room >= taught:
        return ""
    return (
        f"measure.max_tokens: the student may write {room} tokens, and learns from answers of up to {taught} (draft.rationale_tokens); if "
        "they are that long, it is cut off before its answer, which then counts as wrong"
    )


def _bill(asked: Endpoint, stages: Sequence[Work]) -> str:
    by_teacher = [w for w in stages if w.stage in BY_TEACHER]
    calls = sum(w.calls for w in by_teacher)
    read, written = sum(w.tokens_in for w in by_teacher), sum(w.tokens_out for w in by_teacher)
    money = Price(asked.price_in, asked.price_out).of(read, written)
    cost = f", which costs about {money:,.2f} at the recipe's prices" if money else ""
    return f"of the endpoint: about {calls:,} calls, {read:,} tokens read and {written:,} written{cost}; its own time is not in these"


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
