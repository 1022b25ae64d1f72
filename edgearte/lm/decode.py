"""The decoding loop: rows that share prefixes, in slots; a row that has ended gives its slot to the next one."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from edgearte.lm.base import Sampling
from edgearte.lm.decoding import Processors, Row, choose, take
from edgearte.lm.slots import NOTHING, Prefix, Slots, read_prefix

if TYPE_CHECKING:
    import torch

ROWS = 128  # rows decoded together: from here on the time of a token hardly falls
TOKENS = 24_576  # own positions held at once
READ = 4_096  # tokens of prompts read at once
REFILL = 8  # an eighth of the slots is waited for before new rows are read, so that reading is done in batches too


def decode(model: Any, rows: Sequence[Row], tokenizer: Any, eos: Sequence[int], sampling: Sampling) -> None:
    """Write `new` and `ended` of every row. Rows of one prefix should stand together. In inference mode."""
    room = max(len(r.ids) - r.shared for r in rows) + sampling.max_tokens
    size = min(len(rows), ROWS, max(1, TOKENS // room))
    slots = Slots(model, size, room)
    seats: list[Row | None] = [None] * size
    waiting, prefixes = deque(rows), dict[str, Prefix]()
    while True:
        free = [k for k, row in enumerate(seats) if row is None]
        if waiting and len(free) >= max(1, size // REFILL):
            for k in free[: len(waiting)]:
                seats[k] = waiting.popleft()
            for part in _alike([(k, row) for k in free if (row := seats[k])]):
                arriving = [row for _, row in part]
                found = [prefix_of(model, row, prefixes) for row in arriving]
                own = [row.ids[row.shared :] for row in arriving]
                logits = slots.read([k for k, _ in part], found, own, 1)[:, 0]
                take(arriving, choose(logits, arriving, sampling), tokenizer, eos, sampling)
            prefixes = {text: prefix for text, prefix in prefixes.items() if waiting and text == waiting[0].prefix}
        elif going := [k for k, row in enumerate(seats) if row]:
            if not waiting and len(going) <= len(seats) // 2:
                slots.narrow(going)
                seats = [seats[k] for k in going]
                going = list(range(len(going)))
            logits = slots.step([row.new[-1] if row else 0 for row in seats], [row is not None for row in seats])
            active = [row for row in seats if row]
            take(active, choose(logits[going], active, sampling), tokenizer, eos, sampling)
        else:
            return
        for k, row in enumerate(seats):
            if row and row.ended:
                seats[k], slots.prefix[k] = None, NOTHING


def prefix_of(model: Any, row: Row, known: dict[str, Prefix]) -> Prefix:
    """The row's shared prefix, computed where it is not known yet."""
    if not row.shared:
        return NOTHING
    if row.prefix not in known:
        known[row.prefix] = read_prefix(model, row.ids[: row.shared])
    return known[row.prefix]


def _alike(arriving: Sequence[tuple[int, Row]]) -> Iterator[list[tuple[int, Row]]]:
    """Rows to be read together: of like length, so that little of a batch is padding, and not too many at once."""
    part: list[tuple[int, Row]] = []
    longest = 0
    for k, row in sorted(arriving, key=lambda a: len(a[1].ids) - a[1].shared, reverse=True):
        own = len(row.ids) - row.shared
        if part and (own < 0.7 * longest or longest * (len(part) + 1) > READ):
            yield part
            part = []
        longest = longest if part else own
        part.append((k, row))
    if part:
        yield part


def padded(model: Any, rows: Sequence[Row], tokenizer: Any, eos: Sequence[int], sampling: Sampling) -> None:
    """The same by transformers' `generate` on one padded batch: for models that slots cannot hold."""
    from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList

    ids, mask = left_padded(rows, model.device)
    ours = Processors(rows, tokenizer, eos, sampling)
    config = GenerationConfig(max_new_tokens=sampling.max_tokens, do_sample=False, num_beams=1,
                              eos_token_id=list(eos), pad_token_id=eos[0])  # fmt: skip
    model.generate(
        input_ids=ids, attention_mask=mask, generation_config=config,
        logits_processor=LogitsProcessorList([ours.process]), stopping_criteria=StoppingCriteriaList([ours.stopped]),
    )  # fmt: skip


def left_padded(rows: Sequence[Row], device: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask of whole rows, both rows x positions, padded on the left."""
    import torch

    width = max(len(r.ids) for r in rows)
    ids = [[0] * (width - len(r.ids)) + r.ids for r in rows]
    mask = [[0] * (width - len(r.ids)) + [1] * len(r.ids) for r in rows]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)
