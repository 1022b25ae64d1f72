"""What the form of the question costs: every student of a finished build is asked as it was taught, and for the label alone.

python benchmarks/asked.py RECIPE [key=value …] [--runs runs]

Taught with a rationale or a label's meaning before its answer, a student writes that first, token by token. Asked for the label alone, it
finds the answer's opening tag already written, and writes two or three tokens. Both are asked of the checkpoints on the evaluation
questions; p-values are McNemar's. The build's stages are read from its store, and computed where they are missing.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from edgearte import catalogue, evaluate, loop, steps
from edgearte.answers import accuracy, grade
from edgearte.decide import compare
from edgearte.errors import UserError
from edgearte.evaluate import Answer
from edgearte.lm.base import Sampling, rendered, sharing
from edgearte.lm.hf import TransformersLM
from edgearte.setup import Setup, opened


def answered(setup: Setup, model: TransformersLM, begun: str = "") -> tuple[list[Answer], list[int]]:
    """The answers, which begin with what is `begun` for the student, and how many tokens it wrote of each."""
    fmt, questions = setup.task.answer, setup.task.evaluation
    asked = [f"{text}{begun}" for text in rendered(model, [setup.asked(q.input) for q in questions])]
    said = model.generate(sharing(asked), Sampling(setup.recipe.measure.max_tokens, stop=evaluate.stop(fmt)))
    texts = [f"{begun}{o.text}" for o in said]
    return [Answer(q, t, grade(t, q.target, fmt)) for q, t in zip(questions, texts, strict=True)], [o.new_tokens for o in said]


def shown(answers: Sequence[Answer], tokens: Sequence[int]) -> str:
    found = accuracy(a.grade for a in answers)
    return f"{100 * found.accuracy:5.1f} ({100 * found.low:.1f} – {100 * found.high:.1f})  {fmean(tokens):6.1f} tokens"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    given = parser.parse_args()
    try:
        with opened(catalogue.find("recipes", given.recipe), given.overrides, given.runs) as (setup, _):
            if not setup.task.answer.tagged:
                raise UserError("the label alone can be asked for where answers stand in tags (task.answer.kind: tag)")
            for arm, folder in loop.run(setup).taught.items():
                model = steps.student(setup, folder)
                (taught, long), (bare, short) = answered(setup, model), answered(setup, model, setup.task.answer.open)
                model.release()
                print(f"{arm}\n  as it was taught      {shown(taught, long)}\n  for the label alone   {shown(bare, short)}")
                found = compare(bare, taught)
                print(f"  label alone against as taught {100 * found.difference:+.1f} points, p {found.p_value:.3f}", flush=True)
    except UserError as error:
        print(*error.problems, sep="\n", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
