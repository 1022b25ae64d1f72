"""What a build will take, said before it begins: whether memory and disk are enough, and calls, tokens and time of every stage.

`workload.py` counts; the rate is that of a short measurement of this machine, and where a stage has run here on a model of the same
size (`pace.py`), that of the stage. All times are those of a machine that does nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from edgearte import pace
from edgearte.check import check
from edgearte.convert.beforehand import GB, PER_WEIGHT, lacking
from edgearte.convert.presets import load_preset
from edgearte.errors import UserError
from edgearte.files import disk_free
from edgearte.lm import weights
from edgearte.lm.calls import Price
from edgearte.recipe import Endpoint, Recipe
from edgearte.store import Store
from edgearte.task import Task
from edgearte.workload import ARMS, BY_TEACHER, Machine, Sizes, Work, work


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


def corrected(stages: Sequence[Work], seen: Sequence[pace.Pace]) -> list[Work]:
    """The same, with the rate of what ran here before where that is known. What is in the store already is not taken off."""
    found = []
    for w in stages:
        tokens, rate = w.tokens_in + w.tokens_out, pace.rate(seen, [w.stored], w.size, w.dtype) if w.stored and w.memory else None
        found.append(replace(w, seconds=tokens / rate, seen=True) if rate else w)
    return found


def measure_machine() -> Machine:
    """Half a second of matrix products and copies on one core, in seconds of its own time: other work on the machine does not count. All
    cores multiply as many times as fast; of a copy, memory may give them no more than it gives one."""
    import time

    import torch

    cores = torch.get_num_threads()
    matrix = torch.randn(1024, 1024).bfloat16()
    block, other = (torch.ones(64 << 20, dtype=torch.uint8) for _ in range(2))

    def best(action: object, times: int) -> float:
        seconds = []
        for _ in range(times):
            start = time.thread_time()
            action()  # type: ignore[operator]
            seconds.append(time.thread_time() - start)
        return min(seconds)

    torch.set_num_threads(1)  # another thread's time would not be seen
    try:
        product, copy = best(lambda: matrix @ matrix, 12), best(lambda: other.copy_(block), 6)
    finally:
        torch.set_num_threads(cores)
    return Machine(cores * 2 * 1024**3 / product, 2 * block.numel() / copy, cores)


def predicted(recipe: Recipe, task: Task, runs: Path) -> tuple[Sizes, list[Work]]:
    """The models' sizes and every stage, corrected by what the store in `runs` remembers; everything is checked first."""
    check(recipe, task)
    teacher = 0 if recipe.teacher.endpoint else weights.footprint(recipe.teacher.model)[0]
    assistant = weights.footprint(recipe.assist.model)[0] if recipe.assist else 0
    sizes = Sizes(teacher, weights.footprint(recipe.student.model)[0], assistant=assistant)
    room(recipe, task, sizes, runs)
    machine = measure_machine()
    return sizes, corrected(work(recipe, task, sizes, machine), _seen(runs, machine))


def _seen(runs: Path, machine: Machine) -> list[pace.Pace]:
    import torch

    if not (runs / "store" / "store.sqlite").is_file():
        return []
    store = Store(runs / "store")
    try:
        return pace.paces(store, 0 if torch.cuda.is_available() else machine.cores)
    finally:
        store.close()


def print_forecast(recipe: Recipe, task: Task, runs: Path) -> None:
    """Resolve and check everything, then say what a build will take."""
    from rich.console import Console
    from rich.table import Table

    sizes, stages = predicted(recipe, task, runs)
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
            _time(w.seconds) + (" *" if w.seen else "  "),
        )
    console = Console()
    console.print(f"{recipe.name}: {len(task.seeds)} seeds, {len(task.evaluation)} evaluation questions")
    console.print(table)
    if recipe.teacher.endpoint:
        console.print(_bill(recipe.teacher.endpoint, stages))
    total = _time(sum(w.seconds for w in stages))
    console.print(
        f"about {total} in all (within a factor of two) where the machine does nothing else, "
        f"{max(w.memory for w in stages) / GB:.1f} GB of memory at most, {disk_needed(recipe, sizes) / GB:.1f} GB of disk "
        f"of {disk_free(runs) / GB:.1f} GB free"
    )
    if any(w.seen for w in stages):
        console.print("* at the rate at which this stage ran here before")
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
