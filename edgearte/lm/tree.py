"""Continuations of one prompt are read as a tree: the prompt's tokens once, then each distinct beginning of a continuation once.

A question with fifteen labels of several tokens is fifteen rows in a batch, all of which begin with the question. Here it is one row, in
which every token attends to its own ancestors and to the prefix that many prompts share (`slots.Prefix`). The rows of a batch stand one
after the other without padding, and the head is computed where a token of a continuation is told, and nowhere else. The last token of
a continuation is told, never read. Log-probabilities are those of each continuation alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from edgearte.lm.attention import attending
from edgearte.lm.slots import Prefix, bias, capped

if TYPE_CHECKING:
    import torch

NAME = "edgearte_tree"
TOKENS = 2_048  # read at once on a processor; its caches gain nothing from more
TOKENS_GPU = 16_384
LINES = 64  # of logits made into probabilities at once: the whole vocabulary in float32 is much


@dataclass(frozen=True)
class Tree:
    """A prompt's own tokens and, branching after them, its continuations `ends`. `parents[i]` is the place that token i follows (-1: none);
    `asked[k]` are the places from which the tokens of continuation k are told."""

    ids: tuple[int, ...]
    parents: tuple[int, ...]
    ends: tuple[tuple[int, ...], ...]
    asked: tuple[tuple[int, ...], ...]

    @property
    def depths(self) -> list[int]:
        """How many tokens of the tree come before each."""
        found: list[int] = []
        for parent in self.parents:
            found.append(found[parent] + 1 if parent >= 0 else 0)
        return found


def grow(own: Sequence[int], ends: Sequence[Sequence[int]]) -> Tree:
    """The tree of a prompt's own tokens (at least one) and the tokens of its continuations."""
    if not own:
        raise ValueError("a prompt without tokens: nothing tells the first token of what follows it")
    ids, parents = list(own), list(range(-1, len(own) - 1))
    places: dict[tuple[int, int], int] = {}  # (parent's place, token) -> place
    asked = []
    for end in ends:
        path = [len(own) - 1]
        for token in end[:-1]:
            place = places.setdefault((path[-1], token), len(ids))
            if place == len(ids):
                ids.append(token)
                parents.append(path[-1])
            path.append(place)
        asked.append(tuple(path[: len(end)]))
    return Tree(tuple(ids), tuple(parents), tuple(tuple(e) for e in ends), tuple(asked))


def parts(sizes: Sequence[int], limit: int) -> Iterator[slice]:
    """Neighbours to be read at once, by their tokens: `limit` in all, and twice that were they all as long as the longest."""
    first = longest = total = 0
    for k, size in enumerate(sizes):
        if k > first and (total + size > limit or max(longest, size) * (k + 1 - first) > 2 * limit):
            yield slice(first, k)
            first, longest, total = k, 0, 0
        longest, total = max(longest, size), total + size
    if sizes:
        yield slice(first, len(sizes))


def log_probs(model: Any, trees: Sequence[Tree], prefixes: Sequence[Prefix]) -> list[list[float]]:
    """The log-probability of each continuation of each tree in nats, summed over its tokens. One forward pass, in inference mode; trees
    of one prefix should stand together."""
    import torch

    batch = Batch(trees, prefixes, model.device)
    told = [(first + place, token) for first, tree in zip(batch.firsts, trees, strict=True)
            for end, places in zip(tree.ends, tree.asked, strict=True) for place, token in zip(places, end, strict=True)]  # fmt: skip
    if not told:
        return [[0.0] * len(tree.ends) for tree in trees]
    places, tokens = torch.tensor(told, device=model.device).T
    kept, line = torch.unique(places, return_inverse=True)
    with attending(model, NAME, _attention, _reading, batch):
        logits = model(input_ids=batch.ids[None], position_ids=batch.positions[None], logits_to_keep=kept, use_cache=False).logits[0]
    totals = torch.cat([some.float().logsumexp(-1) for some in logits.split(LINES)])
    found = iter((logits[line, tokens].float() - totals[line]).double().tolist())
    return [[sum(next(found) for _ in end) for end in tree.ends] for tree in trees]


class Batch:
    """Trees that are read at once, one after the other in one row of tokens. What all layers need of them is made once."""

    def __init__(self, trees: Sequence[Tree], prefixes: Sequence[Prefix], device: Any) -> None:
        import torch

        self.trees, self.prefixes = trees, prefixes
        self.sizes = [len(tree.ids) for tree in trees]
        self.firsts = [sum(self.sizes[:k]) for k in range(len(trees))]
        self.longest = max(self.sizes)
        self.most = max(prefix.length for prefix in prefixes)  # positions of the longest prefix
        self.depths = [tree.depths for tree in trees]
        self.ids = torch.tensor([i for tree in trees for i in tree.ids], device=device)
        starts = zip(prefixes, self.depths, strict=True)
        self.positions = torch.tensor([prefix.length + depth for prefix, some in starts for depth in some], device=device)
        # A rectangle, trees x longest: which token stands at each of its places (the last one again where a tree has ended), and the
        # place of each token.
        ranges = list(zip(self.firsts, self.sizes, strict=True))
        self.tokens = torch.tensor([f + min(i, n - 1) for f, n in ranges for i in range(self.longest)], device=device)
        self.places = torch.tensor([k * self.longest + i for k, n in enumerate(self.sizes) for i in range(n)], device=device)
        self._made: dict[Any, torch.Tensor] = {}

    @cached_property
    def groups(self) -> list[tuple[Prefix, slice]]:
        """The tokens whose trees share a prefix, by neighbouring trees."""
        found: list[tuple[Prefix, slice]] = []
        for prefix, first, size in zip(self.prefixes, self.firsts, self.sizes, strict=True):
            before = found.pop() if found and found[-1][0] is prefix else None
            found.append((prefix, slice(before[1].start if before else first, first + size)))
        return found

    def attend(
        self, layer: int, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scale: float, softcap: float | None,
        window: int | None,
    ) -> torch.Tensor:  # fmt: skip
        """Attention of each token over its tree's prefix and its own ancestors, with one softmax over both.

        query: heads x tokens x size; keys, values: key/value heads x tokens x size. Gives tokens x heads x size.
        """
        heads, tokens, size = query.shape
        kv, rows, longest, most = len(keys), len(self.trees), self.longest, self.most
        grouped = (query * scale).view(kv, -1, tokens, size)  # query heads by the key/value head they meet
        each = grouped.shape[1]
        scores = query.new_empty(kv, each, tokens, most + longest)
        asked = grouped[:, :, self.tokens].view(kv, each, rows, longest, size).transpose(1, 2).reshape(kv * rows, -1, size)
        within = capped(asked @ keys[:, self.tokens].view(kv * rows, longest, size).transpose(1, 2), softcap)
        within = within.view(kv, rows, each, longest, longest) + self._own(window, query.dtype)
        scores[..., most:] = within.transpose(1, 2).reshape(kv, each, -1, longest)[:, :, self.places]
        for prefix, part in self.groups:
            scores[:, :, part, prefix.length : most] = float("-inf")
            if prefix.length:
                shared = capped(grouped[:, :, part].flatten(1, 2) @ prefix.keys[layer], softcap)
                scores[:, :, part, : prefix.length] = shared.view(kv, each, -1, prefix.length)
        if window is not None and most:
            scores[..., :most] += self._before(window, query.dtype)
        weights = scores.softmax(-1)  # summed in float32 whatever the type
        over = weights[..., most:][:, :, self.tokens].view(kv, each, rows, longest, longest).transpose(1, 2)
        found = over.reshape(kv * rows, -1, longest) @ values[:, self.tokens].view(kv * rows, longest, size)
        out = found.view(kv, rows, each, longest, size).transpose(1, 2).reshape(kv, each, -1, size)[:, :, self.places]
        for prefix, part in self.groups:
            if prefix.length:
                over = weights[:, :, part, : prefix.length].flatten(1, 2)
                out[:, :, part] += (over @ prefix.values[layer]).view(kv, each, -1, size)
        return out.reshape(heads, tokens, size).transpose(0, 1)

    def _own(self, window: int | None, dtype: torch.dtype) -> torch.Tensor:
        """0 where a token (third dimension) sees another one of its tree, -infinity elsewhere: trees x 1 x longest x longest."""
        import torch

        if window not in self._made:
            seen = torch.zeros(len(self.trees), self.longest, self.longest, dtype=torch.bool)
            depth = torch.zeros(len(self.trees), self.longest, dtype=torch.long)
            for k, tree in enumerate(self.trees):
                chain = next((i for i, parent in enumerate(tree.parents) if parent != i - 1), len(tree.ids))
                seen[k, :chain, :chain] = torch.ones(chain, chain, dtype=torch.bool).tril()
                for i in range(chain, len(tree.ids)):
                    seen[k, i] = seen[k, tree.parents[i]]
                    seen[k, i, i] = True
                depth[k, : len(tree.ids)] = torch.tensor(self.depths[k])
            if window is not None:
                seen &= depth[:, :, None] - depth[:, None] < window
            self._made[window] = bias(~seen.to(self.ids.device), dtype)[:, None]
        return self._made[window]

    def _before(self, window: int, dtype: torch.dtype) -> torch.Tensor:
        """The same for the positions of each token's prefix: tokens x longest prefix."""
        import torch

        if ("prefix", window) not in self._made:
            at = torch.arange(self.most, device=self.ids.device)
            self._made["prefix", window] = bias(at <= self.positions[:, None] - window, dtype)
        return self._made["prefix", window]


def _attention(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: Any, *, scaling: float | None = None,
    softcap: float | None = None, sliding_window: int | None = None, **_: Any,
) -> tuple[torch.Tensor, None]:  # fmt: skip
    """The function transformers calls in every layer; `slots.supported` has heard all that a layer hands it."""
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    found = _reading.get().attend(module.layer_idx, query[0], key[0], value[0], scale, softcap, sliding_window)
    return found[None], None


_reading: ContextVar[Batch] = ContextVar("trees")
