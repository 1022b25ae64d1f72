"""The transformers backend: the default, on a CPU or a GPU."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgearte.errors import UserError
from edgearte.lm import decoding, slots, tree
from edgearte.lm.base import Completion, Prompt, Sampling, Score, alike
from edgearte.lm.decode import TOKENS, decode, left_padded, padded, prefixes_of
from edgearte.lm.decoding import Row
from edgearte.lm.packed import pack
from edgearte.lm.slots import Prefix

if TYPE_CHECKING:
    import torch

BATCH = 64  # rows of a padded batch, and of one that is scored
SHARED_ROWS, SHARED_TOKENS = 4, 24  # from here on a shared prefix is computed once


class TransformersLM:
    """A checkpoint folder run by transformers. Loaded at the first call, so that a build found in the store loads nothing."""

    def __init__(self, folder: Path, identity: str, *, dtype: str = "bfloat16") -> None:
        self.folder = folder
        self.dtype = dtype
        self.identity = f"{identity}:{dtype}"
        self._loaded: tuple[Any, Any] | None = None
        self._tok: Any = None
        self._grammar: Any = None
        self._fits: bool | None = None

    @property
    def tokenizer(self) -> Any:
        if self._tok is None:
            from transformers import AutoTokenizer

            self._tok = AutoTokenizer.from_pretrained(self.folder, padding_side="left")
            if self._tok.pad_token_id is None:
                self._tok.pad_token = self._tok.eos_token
        return self._tok

    @property
    def model(self) -> Any:
        if self._loaded is None:
            import torch
            from transformers import AutoModelForCausalLM

            device = "cuda" if torch.cuda.is_available() else "cpu"
            model = AutoModelForCausalLM.from_pretrained(self.folder, dtype=getattr(torch, self.dtype))
            pack(model.to(device).eval())
            self._loaded = (model, device)
        return self._loaded[0]

    def release(self) -> None:
        """Give the memory back; the next call loads again."""
        self._loaded = None

    def chat(self, messages: Sequence[dict[str, str]]) -> str:
        if not self.tokenizer.chat_template:
            raise UserError(f"{self.folder}: this model has no chat template; use style: continuation for it")
        text: str = self.tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
        return text

    def tokens(self, text: str) -> list[int]:
        """Token ids of a prompt; the beginning-of-sequence token is added only where the text does not bring it."""
        bos = self.tokenizer.bos_token
        brings = bool(bos) and text.startswith(bos)
        ids: list[int] = self.tokenizer(text, add_special_tokens=not brings)["input_ids"]
        if ids and ids[-1] == self.tokenizer.eos_token_id and not text.endswith(self.tokenizer.eos_token or "\0"):
            ids = ids[:-1]  # some tokenizers close every text; a prompt is open
        return ids

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Completion]:
        import torch

        rows = self._rows(prompts)
        if any(p.pattern for p in prompts):
            automata = decoding.matchers(self._grammar_tokenizer(), [p.pattern for p in prompts])
            for row, automaton in zip(rows, automata, strict=True):
                row.matcher = automaton
        eos = self._eos()
        ordered = sorted(rows, key=_order(rows))
        with torch.inference_mode():
            if self._slots():
                decode(self.model, ordered, self.tokenizer, eos, sampling)
            else:
                for batch in _batches(ordered, sampling.max_tokens):
                    padded(self.model, batch, self.tokenizer, eos, sampling)
        return [self._completion(row, eos, sampling) for row in rows]

    def _rows(self, prompts: Sequence[Prompt]) -> list[Row]:
        """A row per prompt; prefixes that enough rows share are marked as shared, leaving each row a token of its own."""
        rows = [Row(p.prefix, self.tokens(p.prefix + p.text), p.seed) for p in prompts]
        groups: dict[str, list[Row]] = {}
        for row in rows:
            groups.setdefault(row.prefix, []).append(row)
        for prefix, group in groups.items():
            common = _common([r.ids for r in group]) if prefix and len(group) >= SHARED_ROWS else 0
            for row in group:
                row.shared = common if common >= SHARED_TOKENS and self._slots() else 0
        return rows

    def _slots(self) -> bool:
        """Whether rows can share prefixes and give their places on; said once where they cannot."""
        if self._fits is None:
            self._fits = slots.supported(self.model)
            if not self._fits:
                kind = self.model.config.get_text_config().model_type
                print(
                    f"{self.folder.name} ({kind}): its attention cannot share prefixes; every row is computed whole",
                    file=sys.stderr,
                )
        return self._fits

    def _completion(self, row: Row, eos: list[int], sampling: Sampling) -> Completion:
        new = row.new
        kept = new[:-1] if new and new[-1] in eos else new
        text: str = self.tokenizer.decode(kept, skip_special_tokens=True)
        count = len(new)
        at = min((text.find(s) + len(s) for s in sampling.stop if s in text), default=-1)
        if at >= 0:
            text = text[:at]
            count = _tokens_until(self.tokenizer, new, text)
        return Completion(
            text=text, prompt_tokens=len(row.ids), new_tokens=count, ended="stop" if at >= 0 else row.ended
        )

    def _eos(self) -> list[int]:
        known = self.model.generation_config.eos_token_id
        ids = known if isinstance(known, list) else [known]
        return sorted({i for i in [*ids, self.tokenizer.eos_token_id] if i is not None})

    def _grammar_tokenizer(self) -> Any:
        if self._grammar is None:
            width = self.model.config.get_text_config().vocab_size
            self._grammar = decoding.grammar_tokenizer(self.tokenizer, width)
        return self._grammar

    def loglikelihood(self, pairs: Sequence[tuple[Prompt, str]]) -> list[Score]:
        import torch

        ends = [tuple(self.tokenizer(continuation, add_special_tokens=False)["input_ids"]) for _, continuation in pairs]
        asked: dict[Prompt, dict[tuple[int, ...], list[int]]] = {}
        for k, ((prompt, _), end) in enumerate(zip(pairs, ends, strict=True)):
            asked.setdefault(prompt, {}).setdefault(end, []).append(k)
        told = dict(zip(map(id, rows := self._rows(list(asked))), asked.values(), strict=True))
        rows.sort(key=_order(rows))
        continuations = [list(told[id(row)]) for row in rows]
        scores: dict[int, Score] = {}
        with torch.inference_mode():
            found = (self._trees if self._slots() else self._whole)(rows, continuations)
            for row, of_row in zip(rows, found, strict=True):
                for (end, ks), logprob in zip(told[id(row)].items(), of_row, strict=True):
                    scores |= dict.fromkeys(ks, Score(logprob, len(end)))
        return [scores[k] for k in range(len(pairs))]

    def _trees(self, rows: Sequence[Row], ends: Sequence[Sequence[tuple[int, ...]]]) -> Iterator[list[float]]:
        """The log-probabilities of each row's continuations, a row at a time."""
        trees = [tree.grow(row.ids[row.shared :], some) for row, some in zip(rows, ends, strict=True)]
        limit = tree.TOKENS_GPU if self.model.device.type == "cuda" else tree.TOKENS
        prefixes: dict[str, Prefix] = {}
        for part in tree.parts([len(t.ids) for t in trees], limit):
            found = prefixes_of(self.model, rows[part], prefixes)
            yield from tree.log_probs(self.model, trees[part], found)
            prefixes = {text: p for text, p in prefixes.items() if text == rows[part][-1].prefix}

    def _whole(self, rows: Sequence[Row], ends: Sequence[Sequence[tuple[int, ...]]]) -> Iterator[list[float]]:
        """The same for a model that slots cannot hold, in padded batches. A continuation's last token is predicted, never read: so those
        that differ in it alone are one line."""
        lines: dict[tuple[int, tuple[int, ...]], list[tuple[int, ...]]] = {}
        for k, some in enumerate(ends):
            for end in some:
                lines.setdefault((k, end[:-1]), []).append(end)
        whole = [Row("", [*rows[k].ids, *read], 0) for k, read in lines]
        told = dict(zip(map(id, whole), lines.items(), strict=True))
        found: dict[tuple[int, tuple[int, ...]], float] = {}
        for batch in _batches(sorted(whole, key=_order(whole)), 0):
            keep = max(1, *(len(end) for row in batch for end in told[id(row)][1]))
            for row, logits in zip(batch, self._read(batch, keep), strict=True):
                logprobs = logits.float().log_softmax(-1)
                (k, _), some = told[id(row)]
                for end in some:
                    taken = logprobs[len(logprobs) - len(end) :].gather(-1, logprobs.new_tensor(end, dtype=int)[:, None])
                    found[k, end] = float(taken.sum())
        return ([found[k, end] for end in some] for k, some in enumerate(ends))

    def _read(self, rows: Sequence[Row], keep: int) -> torch.Tensor:
        """Logits after each row's last `keep` tokens: rows x keep x vocabulary."""
        ids, mask = left_padded(rows, self.model.device)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        logits: torch.Tensor = self.model(input_ids=ids, attention_mask=mask, position_ids=positions, logits_to_keep=keep).logits
        return logits


def _common(ids: list[list[int]]) -> int:
    """Length of the tokens all rows begin with, leaving each at least one of its own."""
    return max(0, min(alike(ids), min(map(len, ids)) - 1))


def _order(rows: Sequence[Row]) -> Callable[[Row], tuple[int, int]]:
    """Rows of one prefix together, longer ones first: they take longest, and like lengths are read together."""
    first: dict[str, int] = {}
    for k, row in enumerate(rows):
        if row.shared:
            first.setdefault(row.prefix, k)
    return lambda row: (first.get(row.prefix, -1) if row.shared else -1, -len(row.ids))


def _batches(rows: Sequence[Row], new: int) -> Iterator[list[Row]]:
    """Rows to be computed at once, by what they hold of their own."""
    batch: list[Row] = []
    longest = 0
    for row in rows:
        own = len(row.ids) - row.shared + new
        longest = max(longest, own)
        if batch and (len(batch) == BATCH or longest * (len(batch) + 1) > TOKENS):
            yield batch
            batch, longest = [], own
        batch.append(row)
    if batch:
        yield batch


def _tokens_until(tokenizer: Any, ids: list[int], text: str) -> int:
    """How many tokens it took to write `text`, by bisection over the decoded length."""
    low, high = 1, len(ids)
    while low < high:
        middle = (low + high) // 2
        if len(tokenizer.decode(ids[:middle], skip_special_tokens=True)) >= len(text):
            high = middle
        else:
            low = middle + 1
    return low


def form(folder: Path) -> str:
    """How a checkpoint's chat template takes a task: as a `system` message, in the `user` message (some templates refuse or
    swallow a system message), or `plain` where there is no template."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    if not tokenizer.chat_template:
        return "plain"
    probe = [{"role": "system", "content": "WHAT TO DO"}, {"role": "user", "content": "A QUESTION"}]
    try:
        text = tokenizer.apply_chat_template(probe, tokenize=False, add_generation_prompt=True)
    except Exception:  # whatever a template raises in refusing
        return "user"
    return "system" if "WHAT TO DO" in text else "user"
