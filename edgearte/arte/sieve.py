"""Which drafts are fit to teach: a sieve says of each whether it stands. What a teacher writes is often nothing that a person would say,
and a student takes that over as readily as the rest. The paper sieves nothing.

A sieve is a function of the drafts over the store; `verify.Check` gives it its reason, counts what falls and keeps samples.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from statistics import fmean, stdev
from typing import Any

from edgearte.answers import grade
from edgearte.arte import prompts
from edgearte.arte.verify import Verdict
from edgearte.lm.base import LM, Asked, Prompt, Sampling, rendered
from edgearte.records import Draft, Question
from edgearte.store import Store
from edgearte.task import Task

VERSION = 1
ROWS = 64  # drafts of a chunk
CONTEXT = 16  # seeds shown before a text whose likelihood is read
FOLDS = 5  # parts of the seeds, each of which is left out once
FEWEST = 4  # seeds whose likelihoods have a spread worth the name
LEAST_SPREAD = 0.25  # nats a token: seeds that are alike by chance must not make every draft implausible
RUN = 3  # times that a word may follow itself, or a phrase of two or three words


def form(task: Task, drafts: Sequence[Draft]) -> list[Verdict]:
    """Whether a draft is a text at all: it holds words, its brackets and quotes close, it does not stammer, and where it is drafted for a
    label it does not spell that of another (`update_playlist`), as no person does. What the seeds do themselves is allowed."""
    seeds = [s.input for s in task.seeds]
    faults = [fault for fault in _FAULTS if not any(fault(s) for s in seeds)]
    spelled = [c for c in task.answer.choices if "_" in c]
    return [Verdict(not any(f(d.input) for f in faults) and not any(c in d.input for c in spelled)) for d in drafts]


def length(task: Task, drafts: Sequence[Draft], times: float) -> list[Verdict]:
    """Whether a draft has at most `times` the words of the longest seed and at least the shortest seed's by `times`."""
    sizes = [len(s.input.split()) for s in task.seeds]
    if not sizes or not times:
        return [Verdict(True)] * len(drafts)
    low, high = min(sizes) / times, max(sizes) * times
    return [Verdict(low <= len(d.input.split()) <= high) for d in drafts]


def plausible(teacher: LM, task: Task, drafts: Sequence[Draft], deviations: float, store: Store, *, label: str) -> list[Verdict]:
    """Whether the teacher finds a draft about as likely as the seeds.

    L(x) = log P(x | a list of seeds) / tokens, in nats. A seed is read after a list that it is not in (of `FOLDS` parts of the seeds its
    own is left out), a draft after the whole. A draft stands where L(draft) >= mean(L of seeds) - `deviations` * their standard deviation.
    Where there are too few seeds to tell what is usual, all stand.
    """
    if len(task.seeds) < FEWEST or not deviations:
        return [Verdict(True)] * len(drafts)
    parts = folds(task.seeds)
    own = [
        value
        for k, part in enumerate(parts)
        for value in _likelihoods(teacher, [q for n, p in enumerate(parts) if n != k for q in p], [q.input for q in part], store, label)
    ]
    least = fmean(own) - deviations * max(stdev(own), LEAST_SPREAD)
    return [Verdict(value >= least) for value in _likelihoods(teacher, task.seeds, [d.input for d in drafts], store, label)]


def known(
    student: LM, task: Task, asked: Callable[[str], Asked], drafts: Sequence[Draft], at_least: float, max_tokens: int, store: Store,
    *, label: str,
) -> list[Verdict]:  # fmt: skip
    """Whether a draft has something to teach still: it falls where the student gives its target with a probability of `at_least` already.

    With choices the probability is read over them, of the bare answer (so a student taught on the seeds' answers alone fits best); an open
    answer is written greedily, and known where it is right. `asked` is how the student is asked for a text.
    """
    if not at_least:
        return [Verdict(True)] * len(drafts)
    choices = task.answer.choices
    options = {"student": student.identity, "header": task.header, "answer": task.answer, "max_tokens": 0 if choices else max_tokens}
    items = [{"input": d.input, "target": d.target} for d in drafts]

    def compute(part: list[dict[str, Any]]) -> list[dict[str, Any]]:
        texts = rendered(student, [asked(i["input"]) for i in part])
        if not choices:
            stop = (task.answer.close,) if task.answer.tagged else ()
            outputs = student.generate([Prompt(t) for t in texts], Sampling(max_tokens, stop=stop))
            return [
                {"right": float(grade(o.text, i["target"], task.answer).correct), "tokens": o.prompt_tokens + o.new_tokens}
                for o, i in zip(outputs, part, strict=True)
            ]
        pairs = [(Prompt("", prefix=t), prompts.answered(task, c)) for t in texts for c in choices]
        scores = [s.logprob for s in student.loglikelihood(pairs)]
        rows = [scores[k : k + len(choices)] for k in range(0, len(scores), len(choices))]
        return [
            {"right": _share(row, choices.index(i["target"])), "tokens": len(t) // prompts.CHARACTERS}
            for row, i, t in zip(rows, part, texts, strict=True)
        ]

    rows = store.rows("known", VERSION, options, items, compute, chunk=ROWS, label=label)
    return [Verdict(row["right"] < at_least) for row in rows]


def folds(seeds: Sequence[Question]) -> list[list[Question]]:
    """The seeds in parts, each of which holds something of every answer as far as that goes, and none empty."""
    ordered = sorted(seeds, key=lambda q: (q.target, q.id))
    count = min(FOLDS, len(ordered))
    return [ordered[k::count] for k in range(count)]


def _likelihoods(teacher: LM, seeds: Sequence[Question], texts: Sequence[str], store: Store, label: str) -> list[float]:
    """The mean log-probability a token of each text, as the next of a list of seeds."""
    spread = sorted(seeds, key=lambda q: q.id)
    shown = spread[:: max(1, -(-len(spread) // CONTEXT))]
    prefix = "".join(f"- {q.input}\n" for q in shown) + "-"
    options = {"teacher": teacher.identity, "prefix": prefix}

    def compute(part: list[str]) -> list[dict[str, Any]]:
        scores = teacher.loglikelihood([(Prompt("", prefix=prefix), f" {t}\n") for t in part])
        return [{"mean": s.logprob / max(1, s.tokens), "tokens": s.tokens + len(prefix) // prompts.CHARACTERS} for s in scores]

    return [row["mean"] for row in store.rows("plausible", VERSION, options, list(texts), compute, chunk=ROWS, label=label)]


def _share(scores: Sequence[float], own: int) -> float:
    top = max(scores)
    return math.exp(scores[own] - top) / sum(math.exp(s - top) for s in scores)


def _no_words(text: str) -> bool:
    return not any(c.isalpha() for c in text)


def _stray(text: str) -> bool:
    """A mark at the beginning that opens nothing, one at the end that closes nothing, or one that is open still."""
    plain = re.sub(r"(?<=\w)['’](?=\w)|(?<=s)['’](?=\s)", "", text.strip())
    return (
        bool(re.match(r"[-–—*•,;:.!?)\]}>|/\\=]", plain))
        or bool(re.search(r"[-–—*•,;:(\[{<|/\\=]$", plain))
        or plain.count('"') % 2 == 1
        or plain.count("“") != plain.count("”")
        or any(plain.count(a) != plain.count(b) for a, b in ("()", "[]", "{}"))
    )


def _stammers(text: str) -> bool:
    """One word, or a phrase of two or three, more than `RUN` times on end; or half of a long text being one word."""
    words = re.findall(r"\w+", text.casefold())
    for size in (1, 2, 3):
        pieces = [tuple(words[k : k + size]) for k in range(len(words) - size + 1)]
        if any(len({*pieces[k : k + size * RUN + 1 : size]}) == 1 for k in range(len(pieces) - size * RUN)):
            return True
    return len(words) > 5 and max(Counter(words).values()) * 2 > len(words)


def _marked_up(text: str) -> bool:
    """Tags, a gap to be filled in ("[song name]"), a link, code, or a line that only introduces another."""
    return bool(re.search(r"</?\w+[^>]*>|\[[^\]]+\]|\{[^}]*\}|_{2,}|https?://|```|\\n", text)) or text.rstrip().endswith(":")


_FAULTS: tuple[Callable[[str], bool], ...] = (_no_words, _stray, _stammers, _marked_up)
