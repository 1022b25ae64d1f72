"""Keys and values for decoding many rows that share prefixes: each prefix is held once, each row owns a slot for what is its own.

`generate` on a padded batch repeats the prefix in every row and concatenates its whole cache at every step. Here a step writes one
position a row in place, all rows of a prefix attend to it in one matrix product per key/value head, and a slot whose row has
ended takes the next one.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from edgearte.lm.attention import attending

if TYPE_CHECKING:
    import torch

NAME = "edgearte_slots"
GROWTH = 16  # positions by which slots grow


class Unsupported(Exception):
    """The model's attention is not of the kind that slots can hold."""


@dataclass(frozen=True)
class Prefix:
    """A prefix by layer: keys as key/value heads x head size x positions, values as key/value heads x positions x head size."""

    keys: tuple[torch.Tensor, ...]
    values: tuple[torch.Tensor, ...]
    length: int


NOTHING = Prefix((), (), 0)


class Slots:
    """A cache in the form transformers asks of one (`update`), for `rows` rows; their room grows with the longest.

    A row's own tokens stand right-aligned where they were read first: `begin` to `end` of its slot, padding before them.
    """

    def __init__(self, model: Any, rows: int) -> None:
        self.model = model
        self.keys: list[torch.Tensor] = []
        self.values: list[torch.Tensor] = []
        self.begin = [0] * rows
        self.end = [0] * rows
        self.prefix = [NOTHING] * rows
        self.width = 0  # own positions there is room for
        self._step: Step | None = None

    def read(
        self, slots: Sequence[int], prefixes: Sequence[Prefix], ids: Sequence[Sequence[int]], keep: int
    ) -> torch.Tensor:
        """Put new rows into `slots` and read their own tokens. Logits of each row's last `keep` tokens: rows x keep x vocabulary."""
        import torch

        width = max(map(len, ids))
        for slot, prefix, own in zip(slots, prefixes, ids, strict=True):
            self.begin[slot], self.end[slot], self.prefix[slot] = width - len(own), width, prefix
        self.width = max(self.width, width)
        lead = [width - len(i) for i in ids]
        first = torch.tensor([p.length - n for p, n in zip(prefixes, lead, strict=True)])
        positions = (first[:, None] + torch.arange(width)).clamp(min=0)
        step = Step(list(slots), prefixes, lead, [width] * len(ids), width, self.model.device)
        return self._forward(step, torch.tensor([[0] * n + list(i) for n, i in zip(lead, ids, strict=True)]), positions, keep)

    def step(self, tokens: Sequence[int], going: Sequence[bool]) -> torch.Tensor:
        """Read one more token in every slot; slots that are not `going` read it too, and forget it. Logits: slots x vocabulary."""
        import torch

        for slot, goes in enumerate(going):
            if not goes:  # it takes no room
                self.begin[slot] = self.end[slot] = 0
        longest = max(self.end) + 1
        if longest > self.width:
            self.width = -(-longest // GROWTH) * GROWTH
        positions = [p.length + e - b for p, b, e in zip(self.prefix, self.begin, self.end, strict=True)]
        step = Step(None, self.prefix, self.begin, self.end, self.width, self.model.device)
        logits = self._forward(step, torch.tensor(tokens)[:, None], torch.tensor(positions)[:, None], 1)[:, 0]
        self.end = [e + goes for e, goes in zip(self.end, going, strict=True)]
        return logits

    def narrow(self, slots: Sequence[int]) -> None:
        """Keep these slots only, in this order."""
        self.begin, self.end = [self.begin[s] for s in slots], [self.end[s] for s in slots]
        self.prefix = [self.prefix[s] for s in slots]
        self.keys = [k[list(slots)] for k in self.keys]
        self.values = [v[list(slots)] for v in self.values]

    def _forward(self, step: Step, tokens: torch.Tensor, positions: torch.Tensor, keep: int) -> torch.Tensor:
        self._step = step
        device = self.model.device
        with attending(self.model, NAME, _attention, _reading, self):
            logits: torch.Tensor = self.model(
                input_ids=tokens.to(device), position_ids=positions.to(device), past_key_values=self, use_cache=True,
                logits_to_keep=keep,
            ).logits  # fmt: skip
        return logits

    # What transformers asks of a cache.

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return max(self.end)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the new keys and values in place, and hand out those that this step attends to."""
        if layer_idx == len(self.keys):
            self.keys.append(_room(key_states, len(self.begin)))
            self.values.append(_room(value_states, len(self.begin)))
        if self.keys[layer_idx].shape[2] < self.width:
            self.keys[layer_idx] = _grown(self.keys[layer_idx], self.width)
            self.values[layer_idx] = _grown(self.values[layer_idx], self.width)
        keys, values = self.keys[layer_idx], self.values[layer_idx]
        step = self._step
        assert step is not None
        if step.slots is not None:
            keys[step.into, :, : step.width] = key_states
            values[step.into, :, : step.width] = value_states
            return key_states, value_states
        keys[step.into, :, step.end] = key_states[:, :, 0]
        values[step.into, :, step.end] = value_states[:, :, 0]
        return keys, values

    def attend(
        self, layer: int, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scale: float, softcap: float | None,
        window: int | None,
    ) -> torch.Tensor:  # fmt: skip
        """Attention of each row over its prefix and its own positions, with one softmax over both.

        query: rows x heads x new positions x size; keys, values: rows x key/value heads x own positions x size.
        Gives rows x new positions x heads x size.
        """
        import torch

        step = self._step
        assert step is not None
        n, heads, new, size = query.shape
        kv, width, most = keys.shape[1], keys.shape[2], step.most
        grouped = (query * scale).reshape(n, kv, -1, size)  # all that meets a key/value head: its query heads x new
        # Scores over the longest prefix, then over own positions.
        scores = query.new_empty(n, kv, grouped.shape[2], most + width)
        by_new = scores.view(n, kv, -1, new, most + width)
        own = capped(torch.bmm(grouped.flatten(0, 1), keys.flatten(0, 1).transpose(1, 2)), softcap)
        torch.add(own.view(n, kv, -1, new, width), step.bias(window, query.dtype), out=by_new[..., most:])
        for prefix, rows in step.groups:
            if prefix.length < most:
                scores[rows, ..., prefix.length : most] = float("-inf")
            if prefix.length:
                asked = grouped[rows].transpose(0, 1).flatten(1, 2)
                shared = capped(asked @ prefix.keys[layer], softcap).view(kv, -1, grouped.shape[2], prefix.length)
                scores[rows, ..., : prefix.length] = shared.transpose(0, 1)
        if window is not None and most:
            by_new[..., :most] += step.beyond(window, query.dtype)
        weights = scores.softmax(-1)  # summed in float32 whatever the type
        out = torch.bmm(weights[..., most:].flatten(0, 1), values.flatten(0, 1)).view(n, kv, -1, size)
        for prefix, rows in step.groups:
            if prefix.length:
                over = weights[rows, ..., : prefix.length].transpose(0, 1).flatten(1, 2)
                out[rows] += (over @ prefix.values[layer]).view(kv, -1, *out.shape[2:]).transpose(0, 1)
        return out.view(n, heads, new, size).transpose(1, 2)


@dataclass(frozen=True)
class Step:
    """One forward pass: into which slots (None: one token into each), each row's prefix, where its own tokens begin and end,
    and how many own positions are looked at. What all layers need of it is made once."""

    slots: list[int] | None
    prefixes: Sequence[Prefix]
    begins: Sequence[int]
    ends: Sequence[int]
    width: int
    device: torch.device
    made: dict[Any, torch.Tensor] = field(default_factory=dict)

    @cached_property
    def into(self) -> torch.Tensor:
        return self._tensor(range(len(self.begins)) if self.slots is None else self.slots)

    @cached_property
    def end(self) -> torch.Tensor:
        return self._tensor(self.ends)

    @cached_property
    def most(self) -> int:
        """Length of the longest prefix."""
        return max(p.length for p in self.prefixes)

    @cached_property
    def groups(self) -> list[tuple[Prefix, slice | torch.Tensor]]:
        """Rows by prefix; those that stand together as a slice, which costs no copy."""
        found: dict[int, list[int]] = {}
        by_id = {id(p): p for p in self.prefixes}
        for row, prefix in enumerate(self.prefixes):
            found.setdefault(id(prefix), []).append(row)
        return [
            (by_id[key], slice(rows[0], rows[-1] + 1) if rows[-1] - rows[0] < len(rows) else self._tensor(rows))
            for key, rows in found.items()
        ]

    def bias(self, window: int | None, dtype: torch.dtype) -> torch.Tensor:
        """0 for each own position that a new one sees, -infinity for padding, the future, and what lies outside a sliding
        window: rows x 1 x 1 x new x own. One for all layers of a kind."""
        import torch

        if window not in self.made:
            at, last = torch.arange(self.width, device=self.device), self._last()
            hidden = (at < self._tensor(self.begins)[:, None, None]) | (at > last)
            if window is not None:
                hidden |= at <= last - window
            if self.slots is not None:  # a padding position sees itself, so that its softmax is a number
                hidden &= at != last
            self.made[window] = bias(hidden, dtype)[:, None, None]
        return self.made[window]

    def beyond(self, window: int, dtype: torch.dtype) -> torch.Tensor:
        """The same for the positions of each row's prefix: rows x 1 x 1 x new x longest prefix."""
        import torch

        if ("prefix", window) not in self.made:
            before = self._tensor([p.length - begin for p, begin in zip(self.prefixes, self.begins, strict=True)])
            hidden = torch.arange(self.most, device=self.device) <= before[:, None, None] + self._last() - window
            self.made["prefix", window] = bias(hidden, dtype)[:, None, None]
        return self.made["prefix", window]

    def _last(self) -> torch.Tensor:
        """Where the new positions stand in their slots: rows x new x 1."""
        import torch

        if self.slots is None:
            return self.end[:, None, None]
        return torch.arange(self.width, device=self.device)[None, :, None]

    def _tensor(self, numbers: Sequence[int]) -> torch.Tensor:
        import torch

        return torch.tensor(list(numbers), device=self.device)


def _room(like: torch.Tensor, rows: int) -> torch.Tensor:
    """Nothing yet, for keys or values of these rows: rows x key/value heads x no positions x size."""
    return like.new_zeros(rows, like.shape[1], 0, like.shape[3])


def _grown(held: torch.Tensor, positions: int) -> torch.Tensor:
    """What is held with room for so many positions: matrices are multiplied without a copy only where no gap is between them."""
    more = held.new_zeros(*held.shape[:2], positions, held.shape[3])
    more[:, :, : held.shape[2]] = held
    return more


def bias(hidden: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """What is added to scores: -infinity where `hidden`, 0 elsewhere."""
    return hidden.new_zeros(hidden.shape, dtype=dtype).masked_fill_(hidden, float("-inf"))


def capped(scores: torch.Tensor, softcap: float | None) -> torch.Tensor:
    """Scores under the softcap of a model that has one (Gemma 2)."""
    return scores if softcap is None else (scores / softcap).tanh() * softcap


def read_prefixes(model: Any, prefixes: Sequence[Sequence[int]]) -> list[Prefix]:
    """Compute prefixes once, in one batch, with the model's own attention; in inference mode.

    They are padded on the right, where no token sees it.
    """
    import torch
    from transformers import DynamicCache

    width = max(map(len, prefixes))
    tokens = torch.tensor([list(ids) + [0] * (width - len(ids)) for ids in prefixes], device=model.device)
    cache = DynamicCache()  # every layer keeps every position, those with a sliding window too
    model(input_ids=tokens, past_key_values=cache, logits_to_keep=1)
    return [
        Prefix(
            tuple(layer.keys[k, :, : len(ids)].transpose(1, 2).contiguous() for layer in cache.layers),
            tuple(layer.values[k, :, : len(ids)].contiguous() for layer in cache.layers),
            len(ids),
        )
        for k, ids in enumerate(prefixes)
    ]


def supported(model: Any) -> bool:
    """Whether the model's attention goes through transformers' interface, and all of its layers are full or sliding attention.

    Only a layer itself says what else it hands its attention (sinks, say): one token is read to hear it.
    """
    import torch

    kinds = set(getattr(model.config.get_text_config(), "layer_types", None) or ())
    if not getattr(model, "_supports_attention_backend", False) or kinds - {"full_attention", "sliding_attention"}:
        return False
    try:
        with torch.inference_mode():
            Slots(model, 1).read([0], [NOTHING], [[0]], 1)
    except Unsupported:
        return False
    return True


def _attention(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: Any, *, scaling: float | None = None,
    softcap: float | None = None, sliding_window: int | None = None, s_aux: Any = None, **_: Any,
) -> tuple[torch.Tensor, None]:  # fmt: skip
    """The function transformers calls in every layer; it asks the slots that are being read."""
    if s_aux is not None:
        raise Unsupported("attention sinks")
    slots = _reading.get()
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return slots.attend(module.layer_idx, query, key, value, scale, softcap, sliding_window), None


_reading: ContextVar[Slots] = ContextVar("slots")
