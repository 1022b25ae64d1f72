"""Keys and values for decoding many rows that share prefixes: each prefix is held once, each row owns a slot for what is its own.

`generate` on a padded batch repeats the prefix in every row and concatenates its whole cache at every step. Here a step writes one
position a row in place, all rows of a prefix attend to it in one matrix product per key/value head, and a slot whose row has
ended takes the next one.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

NAME = "edgearte_slots"


class Unsupported(Exception):
    """The model's attention is not of the kind that slots can hold."""


@dataclass(frozen=True)
class Prefix:
    """Keys and values of a prefix by layer, each key/value heads x positions x head size."""

    keys: tuple[torch.Tensor, ...]
    values: tuple[torch.Tensor, ...]
    length: int


NOTHING = Prefix((), (), 0)


class Slots:
    """A cache in the form transformers asks of one (`update`), with room for `rows` rows of `room` own positions each.

    A row's own tokens stand right-aligned where they were read first: `begin` to `end` of its slot, padding before them.
    """

    def __init__(self, model: Any, rows: int, room: int) -> None:
        import torch

        self.model, self.room = model, room
        self.keys: list[torch.Tensor] = []
        self.values: list[torch.Tensor] = []
        self.begin = torch.zeros(rows, dtype=torch.long, device=model.device)
        self.end = torch.zeros(rows, dtype=torch.long, device=model.device)
        self.prefix = [NOTHING] * rows
        self.longest = 0  # the furthest end of any slot
        self._step: Step | None = None

    def read(
        self, slots: Sequence[int], prefixes: Sequence[Prefix], ids: Sequence[Sequence[int]], keep: int
    ) -> torch.Tensor:
        """Put new rows into `slots` and read their own tokens. Logits of each row's last `keep` tokens: rows x keep x vocabulary."""
        import torch

        at = torch.tensor(list(slots), device=self.begin.device)
        width = max(map(len, ids))
        lead = torch.tensor([width - len(i) for i in ids], device=at.device)
        tokens = torch.tensor([[0] * (width - len(i)) + list(i) for i in ids], device=at.device)
        self.begin[at], self.end[at] = lead, width
        self.longest = max(self.longest, width)
        for slot, prefix in zip(slots, prefixes, strict=True):
            self.prefix[slot] = prefix
        before = torch.tensor([p.length for p in prefixes], device=at.device)
        positions = (before[:, None] + torch.arange(width, device=at.device) - lead[:, None]).clamp(min=0)
        self._step = Step(at, _groups(prefixes, at), lead, width, first=True)
        return self._forward(tokens, positions, keep)

    def step(self, tokens: Sequence[int], going: Sequence[bool]) -> torch.Tensor:
        """Read one more token in every slot; slots that are not `going` read it too, and forget it. Logits: slots x vocabulary."""
        import torch

        device = self.begin.device
        before = torch.tensor([p.length for p in self.prefix], device=device)
        positions = (before + self.end - self.begin)[:, None]
        self._step = Step(None, _groups(self.prefix, self.end), self.begin, self.longest + 1, first=False)
        logits = self._forward(torch.tensor(tokens, device=device)[:, None], positions, 1)[:, 0]
        self.end += torch.tensor(going, device=device).long()
        self.longest = int(self.end.max())
        return logits

    def narrow(self, slots: Sequence[int]) -> None:
        """Keep these slots only, in this order."""
        import torch

        at = torch.tensor(list(slots), device=self.begin.device)
        self.keys = [k[at] for k in self.keys]
        self.values = [v[at] for v in self.values]
        self.begin, self.end = self.begin[at], self.end[at]
        self.prefix = [self.prefix[s] for s in slots]
        self.longest = int(self.end.max())

    def _forward(self, tokens: torch.Tensor, positions: torch.Tensor, keep: int) -> torch.Tensor:
        with _attending(self.model, self):
            logits: torch.Tensor = self.model(
                input_ids=tokens, position_ids=positions, past_key_values=self, use_cache=True, logits_to_keep=keep
            ).logits
        return logits

    # What transformers asks of a cache.

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.longest

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the new keys and values in place, and hand out those that this step attends to."""
        import torch

        if layer_idx == len(self.keys):
            shape = (len(self.begin), key_states.shape[1], self.room)
            self.keys.append(key_states.new_zeros(*shape, key_states.shape[-1]))
            self.values.append(value_states.new_zeros(*shape, value_states.shape[-1]))
        step = self._step
        assert step is not None
        keys, values = self.keys[layer_idx], self.values[layer_idx]
        if step.slots is not None:
            keys[step.slots, :, : step.width] = key_states
            values[step.slots, :, : step.width] = value_states
            return key_states, value_states
        rows = torch.arange(len(self.end), device=self.end.device)
        keys[rows, :, self.end] = key_states[:, :, 0]
        values[rows, :, self.end] = value_states[:, :, 0]
        return keys[:, :, : step.width], values[:, :, : step.width]

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
        kv = keys.shape[1]
        grouped = query.reshape(n, kv, heads // kv * new, size) * scale
        hidden = step.hidden(self.end, new, window)
        own = _capped(grouped @ keys.transpose(-1, -2), softcap)
        own = own.view(n, kv, heads // kv, new, -1).masked_fill_(hidden[:, None, None], float("-inf"))
        own = own.view(n, kv, heads // kv * new, -1)
        out = torch.empty_like(grouped)
        for prefix, rows in step.groups:
            mine = slice(None) if len(rows) == n else rows
            weights = own[mine]
            m = len(rows)
            if prefix.length:
                asked = grouped[mine].transpose(0, 1).reshape(kv, -1, size)
                shared = _capped(asked @ prefix.keys[layer].transpose(-1, -2), softcap)
                shared = shared.view(kv, m, heads // kv, new, -1)
                if window is not None:
                    beyond = step.beyond(self.end, rows, prefix.length, new, window)
                    shared = shared.masked_fill(beyond[None, :, None], float("-inf"))
                shared = shared.view(kv, m, heads // kv * new, -1).transpose(0, 1)
                weights = torch.cat([shared, weights], -1)
            weights = weights.float().softmax(-1).to(query.dtype)
            result = weights[..., prefix.length :] @ values[mine]
            if prefix.length:
                over = weights[..., : prefix.length].transpose(0, 1).reshape(kv, -1, prefix.length)
                result = result + (over @ prefix.values[layer]).view(kv, m, -1, size).transpose(0, 1)
            out[mine] = result
        return out.view(n, heads, new, size).transpose(1, 2)


@dataclass(frozen=True)
class Step:
    """One forward pass: into which slots (None: one token into all), rows by prefix, and where each row's own tokens begin."""

    slots: torch.Tensor | None
    groups: list[tuple[Prefix, torch.Tensor]]
    begin: torch.Tensor
    width: int
    first: bool
    masks: dict[int | None, torch.Tensor] = field(default_factory=dict)

    def hidden(self, end: torch.Tensor, new: int, window: int | None) -> torch.Tensor:
        """Which own positions a new one must not see (padding, the future, and what lies outside a sliding window): rows x new x
        own. Made once for all layers of a kind."""
        if window not in self.masks:
            self.masks[window] = self._hidden(end, new, window)
        return self.masks[window]

    def _hidden(self, end: torch.Tensor, new: int, window: int | None) -> torch.Tensor:
        import torch

        at = torch.arange(self.width, device=end.device)
        last = at[None, :].expand(len(self.begin), -1) if self.first else end[:, None]  # where the new ones stand
        hidden = (at < self.begin[:, None])[:, None] | (at > last[..., None])
        if window is not None:
            hidden = hidden | (at <= last[..., None] - window)
        if self.first:  # a padding position sees itself, so that its softmax is a number
            hidden = hidden & ~torch.eye(new, dtype=torch.bool, device=end.device)
        return hidden

    def beyond(self, end: torch.Tensor, rows: torch.Tensor, prefix: int, new: int, window: int) -> torch.Tensor:
        """Which positions of the prefix lie outside the sliding window: rows x new x prefix."""
        import torch

        own = torch.arange(new, device=end.device)[None] if self.first else end[rows][:, None]
        position = prefix + own - self.begin[rows][:, None]
        return torch.arange(prefix, device=end.device) <= position[..., None] - window


def _capped(scores: torch.Tensor, softcap: float | None) -> torch.Tensor:
    return scores if softcap is None else (scores / softcap).tanh() * softcap


def _groups(prefixes: Sequence[Prefix], like: torch.Tensor) -> list[tuple[Prefix, torch.Tensor]]:
    import torch

    rows: dict[int, list[int]] = {}
    by_id = {id(p): p for p in prefixes}
    for row, prefix in enumerate(prefixes):
        rows.setdefault(id(prefix), []).append(row)
    return [(by_id[key], torch.tensor(found, device=like.device)) for key, found in rows.items()]


def read_prefix(model: Any, ids: Sequence[int]) -> Prefix:
    """Compute a prefix once, with the model's own attention; in inference mode."""
    import torch
    from transformers import DynamicCache

    cache = DynamicCache()  # every layer keeps every position, those with a sliding window too
    model(input_ids=torch.tensor([list(ids)], device=model.device), past_key_values=cache, logits_to_keep=1)
    return Prefix(
        tuple(layer.keys[0] for layer in cache.layers), tuple(layer.values[0] for layer in cache.layers), len(ids)
    )


def supported(model: Any) -> bool:
    """Whether the model's attention goes through transformers' interface, and all of its layers are full or sliding attention.

    Only a layer itself says what else it hands its attention (sinks, say): one token is read to hear it. In inference mode.
    """
    kinds = set(getattr(model.config.get_text_config(), "layer_types", None) or ())
    if not getattr(model, "_supports_attention_backend", False) or kinds - {"full_attention", "sliding_attention"}:
        return False
    try:
        Slots(model, 1, 1).read([0], [NOTHING], [[0]], 1)
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


@contextmanager
def _attending(model: Any, slots: Slots) -> Iterator[None]:
    """The model with our attention in it; its own masks are not made (transformers makes none for an attention without one)."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(NAME, _attention)
    config = model.config.get_text_config()
    before = config._attn_implementation
    config._attn_implementation = NAME
    token = _reading.set(slots)
    try:
        yield
    finally:
        config._attn_implementation = before
        _reading.reset(token)
