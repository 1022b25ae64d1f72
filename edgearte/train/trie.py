"""Texts that begin alike are read once: their trie is one row, in which every token attends to its own ancestors.

What the student is asked begins with the same task for every example, and both answers of a pair follow one prompt. In a
padded batch those tokens are computed again for every text, and the padding besides. Here they are computed once, with the
gradients of all that follow them; nothing else changes, so losses and gradients are those of the texts one by one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgearte.lm.attention import attending

if TYPE_CHECKING:
    import torch

TOKENS = 1024  # of a trie
PADDED = 2048  # of a padded batch


@dataclass(frozen=True)
class Text:
    """Token ids, and which of them are to be predicted (as long as `ids`; the first token never can be)."""

    ids: tuple[int, ...]
    wanted: tuple[bool, ...]

    def targets(self) -> list[int]:
        """The places of the tokens to be predicted."""
        return [i for i, wanted in enumerate(self.wanted) if wanted and i]


@dataclass(frozen=True)
class Row:
    """A trie of texts: `paths[k][i]` is the place in the row of token i of text k; `groups` are the numbers of the groups in it."""

    ids: tuple[int, ...]
    positions: tuple[int, ...]
    texts: tuple[Text, ...]
    paths: tuple[tuple[int, ...], ...]
    groups: tuple[int, ...]


@dataclass(frozen=True)
class Padded:
    """Texts for a padded batch: what a model computes that does not compute a trie (`fits`)."""

    texts: tuple[Text, ...]
    groups: tuple[int, ...]


def parts(groups: Sequence[Sequence[Text]], *, shared: bool, limit: int = 0) -> Sequence[Row | Padded]:
    """The groups of a batch in parts that are computed one after the other, so that memory does not grow with the batch: those
    that begin alike, or are as long, together. A group is never divided; one that is longer than a part may be is a part of its own."""
    make, tokens, order = (_row, TOKENS, _beginning) if shared else (_rectangle, PADDED, _length)
    made: list[Row | Padded] = []
    part: list[int] = []
    for number in sorted(range(len(groups)), key=lambda k: (order(groups[k]), k)):
        if part and _size(make(groups, [*part, number])) > (limit or tokens):
            made.append(make(groups, part))
            part = []
        part.append(number)
    return [*made, make(groups, part)] if part else made


def _beginning(group: Sequence[Text]) -> tuple[int, ...]:
    return group[0].ids


def _length(group: Sequence[Text]) -> tuple[int, ...]:
    return (max(len(t.ids) for t in group),)


def _size(part: Row | Padded) -> int:
    """Tokens computed, padding included."""
    return len(part.ids) if isinstance(part, Row) else len(part.texts) * max(len(t.ids) for t in part.texts)


def _rectangle(groups: Sequence[Sequence[Text]], part: Sequence[int]) -> Padded:
    return Padded(tuple(text for number in part for text in groups[number]), tuple(part))


def _row(groups: Sequence[Sequence[Text]], part: Sequence[int]) -> Row:
    ids: list[int] = []
    positions: list[int] = []
    places: dict[tuple[int, int], int] = {}  # (parent's place, token) -> place
    texts = [text for number in part for text in groups[number]]
    paths = []
    for text in texts:
        path: list[int] = []
        for position, token in enumerate(text.ids):
            place = places.setdefault((path[-1] if path else -1, token), len(ids))
            if place == len(ids):
                ids.append(token)
                positions.append(position)
            path.append(place)
        paths.append(tuple(path))
    return Row(tuple(ids), tuple(positions), tuple(texts), tuple(paths), tuple(part))


@dataclass(frozen=True)
class Read:
    """What a model makes of texts, by the targets of each: their log-probabilities, each given the tokens before it, in float32; `place`
    [targets of all] says which of the head's `inputs` [lines, width] it told each from."""

    log_probs: list[torch.Tensor]
    inputs: torch.Tensor
    place: torch.Tensor

    @property
    def states(self) -> list[torch.Tensor]:
        """The last hidden states that each text's targets were told from, [targets, width]."""
        import torch

        return list(torch.split(self.inputs[self.place], [len(p) for p in self.log_probs]))


def log_probs(model: Any, part: Row | Padded) -> list[torch.Tensor]:
    """The log-probabilities of the part's targets (`Read`)."""
    return read(model, part).log_probs


def read(model: Any, part: Row | Padded) -> Read:
    """What the model makes of a part's texts."""
    import torch

    device = model.device
    if isinstance(part, Padded):
        return _padded(model, part.texts)
    before = [path[i - 1] for text, path in zip(part.texts, part.paths, strict=True) for i in text.targets()]
    kept, place = torch.unique(torch.tensor(before, device=device), return_inverse=True)  # the head computes these alone
    with attending(model, NAME, _attention, _reading, _chains(part, model.device)), _before_head(model) as states:
        logits = model(
            input_ids=torch.tensor([part.ids], device=device),
            position_ids=torch.tensor([part.positions], device=device),
            logits_to_keep=kept,
            use_cache=False,
        ).logits[0]
    return Read(_chosen(logits, place, part.texts), states[0][0], place)


@contextmanager
def _before_head(model: Any) -> Iterator[list[torch.Tensor]]:
    """Collects what the head is given: the last hidden states of the tokens it scores."""
    seen: list[torch.Tensor] = []
    hook = model.get_output_embeddings().register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    try:
        yield seen
    finally:
        hook.remove()


def _padded(model: Any, texts: Sequence[Text]) -> Read:
    import torch

    device, width = model.device, max(len(t.ids) for t in texts)
    first = min(t.targets()[0] for t in texts) - 1  # what comes before any answer needs no logits
    with _before_head(model) as states:
        logits = model(
            input_ids=torch.tensor([[*t.ids, *[0] * (width - len(t.ids))] for t in texts], device=device),
            attention_mask=torch.tensor([[1] * len(t.ids) + [0] * (width - len(t.ids)) for t in texts], device=device),
            logits_to_keep=torch.arange(first, width - 1, device=device),
            use_cache=False,
        ).logits.flatten(0, 1)
    kept = width - 1 - first
    place = torch.tensor([k * kept + i - 1 - first for k, t in enumerate(texts) for i in t.targets()], device=device)
    return Read(_chosen(logits, place, texts), states[0].flatten(0, 1), place)


def _chosen(logits: torch.Tensor, place: torch.Tensor, texts: Sequence[Text]) -> list[torch.Tensor]:
    """Log-probabilities of the targets; `place` [targets] says which line of `logits` [lines, vocabulary] predicts each.

    The matrix of the whole vocabulary is what memory peaks at: it is kept once, as the model gave it, and its gradient is made in
    one float32 buffer.
    """
    import torch

    class Chosen(torch.autograd.Function):
        @staticmethod
        def forward(context: Any, logits: torch.Tensor, place: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
            total = logits.float().logsumexp(-1)
            context.save_for_backward(logits, total, place, tokens)
            return logits[place, tokens].float() - total[place]

        @staticmethod
        def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
            (gradient,) = gradients
            logits, total, place, tokens = context.saved_tensors
            of_line = torch.zeros_like(total).index_add_(0, place, gradient)
            result = logits.to(torch.float32, copy=True).sub_(total[:, None]).exp_().mul_(-of_line[:, None])
            return result.index_put_((place, tokens), gradient, accumulate=True).to(logits.dtype), None, None

    tokens = torch.tensor([t.ids[i] for t in texts for i in t.targets()], device=logits.device)
    found: torch.Tensor = Chosen.apply(logits, place, tokens)  # type: ignore[no-untyped-call]
    return list(torch.split(found, [len(t.targets()) for t in texts]))


class Unsupported(Exception):
    """An attention that this module does not compute."""


@dataclass(frozen=True)
class _Chain:
    """Tokens that follow each other without a branch: `first` to `first + own` in the row, the last `own` places of `path`, which
    leads from the root to them. `later` [own, path] is true for what comes after a token."""

    first: int
    own: int
    path: torch.Tensor
    later: torch.Tensor


def _chains(row: Row, device: Any) -> list[_Chain]:
    """The chains of a trie, in the order of the row: a text adds what is its own at once, so every chain is in one piece."""
    import torch

    def split(paths: Sequence[tuple[int, ...]], start: int) -> Iterator[tuple[tuple[int, ...], int]]:
        end = start
        while all(len(p) > end and p[end] == paths[0][end] for p in paths):
            end += 1
        if end > start:
            yield paths[0][:end], start
        branches: dict[int, list[tuple[int, ...]]] = {}
        for path in paths:
            if len(path) > end:
                branches.setdefault(path[end], []).append(path)
        for branch in branches.values():
            yield from split(branch, end)

    made = []
    for path, start in sorted(split(row.paths, 0), key=lambda chain: chain[0][chain[1]]):
        own = len(path) - start
        later = torch.ones(own, len(path), dtype=torch.bool, device=device).triu(start + 1)
        made.append(_Chain(path[start], own, torch.tensor(path, device=device), later))
    return made


def _attention(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: Any, *, scaling: float | None = None,
    softcap: float | None = None, s_aux: Any = None, **_: Any,
) -> tuple[torch.Tensor, None]:  # fmt: skip
    """What transformers calls in every layer. Matrix products of our own: with torch's fused attention the backward pass takes twice
    as long on a processor."""
    import torch

    if s_aux is not None or softcap is not None:
        raise Unsupported
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    q, k, v = (x[0].transpose(0, 1) for x in (query.float() * scale, key.float(), value))  # [tokens, heads, width]
    # Scores in float32 whatever the model computes in: some models' are in the hundreds, where bfloat16 knows no halves.
    with torch.autocast(query.device.type, enabled=False):
        return torch.cat([_attend(q, k, v, chain) for chain in _reading.get()])[None], None


def _attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, chain: _Chain) -> torch.Tensor:
    """The chain's tokens attend to their path, each up to itself: [own, heads, width]. Query heads that share a key head are one
    matrix product."""
    import torch

    heads, kept = q.shape[1], k.shape[1]
    shape = (kept, heads // kept, chain.own, -1)
    mine = q[chain.first : chain.first + chain.own].view(chain.own, *shape[:2], -1).permute(1, 2, 0, 3).flatten(1, 2)
    keys, values = (x.index_select(0, chain.path).transpose(0, 1) for x in (k, v))
    scores = (mine @ keys.transpose(1, 2)).view(shape).masked_fill(chain.later, -torch.inf)
    seen = scores.softmax(-1).flatten(1, 2).to(values.dtype) @ values
    result: torch.Tensor = seen.view(shape).permute(2, 0, 1, 3).reshape(chain.own, heads, -1)
    return result


_reading: ContextVar[list[_Chain]] = ContextVar("chains")
NAME = "edgearte_trie"


def fits(model: Any, longest: int) -> bool:
    """Whether the model computes a trie as it computes its texts one by one; `longest` is the longest text in tokens.

    What its configuration does not rule out is found by computing two short texts both ways: a model in which tokens meet elsewhere than in
    attention (a recurrence, a convolution) gives other probabilities. A sliding window must hold the longest text: we know of none.
    """
    import torch

    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ())
    window = getattr(config, "sliding_window", None)
    if window is not None and longest > window and (not kinds or "sliding_attention" in kinds):
        return False
    if not getattr(model, "_supports_attention_backend", False) or kinds - {"full_attention", "sliding_attention"}:
        return False
    shared = tuple(range(5, 13))
    texts = [Text((*shared, *own), (True,) * 12) for own in ((20, 21, 22, 23), (30, 31, 32, 33))]
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            trie = log_probs(model, _row([texts], [0]))[1][-3:]
            alone = _padded(model, texts[1:]).log_probs[0][-3:]
            bare = _padded(model, [Text(texts[1].ids[8:], (True,) * 4)]).log_probs[0]
    except (Unsupported, TypeError, ValueError):  # its attention has more to it, or it takes no positions
        return False
    finally:
        model.train(training)
    # What rounding does is small beside what the tokens before do.
    return bool((trie - alone).abs().mean() <= 0.1 * (bare - alone).abs().mean())
