"""The transformers backend: the default, on a CPU or a GPU."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgearte.errors import UserError
from edgearte.lm.base import Completion, Prompt, Sampling, Score

if TYPE_CHECKING:
    import torch

ROWS = 64  # rows decoded together; part of what a chunk computes, so a constant
TOKENS = 24_576  # positions held at once: rows x (prompt + new tokens)
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
            self._loaded = (model.to(device).eval(), device)
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
        results: list[Completion | None] = [None] * len(prompts)
        encoded = [self.tokens(p.prefix + p.text) for p in prompts]
        for batch in _batches(prompts, encoded, sampling.max_tokens):
            completions = self._batch([prompts[i] for i in batch], [encoded[i] for i in batch], sampling)
            for i, completion in zip(batch, completions, strict=True):
                results[i] = completion
        return [r for r in results if r is not None]

    def _batch(self, prompts: list[Prompt], ids: list[list[int]], sampling: Sampling) -> list[Completion]:
        import torch
        from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList

        from edgearte.lm.decoding import KeyedSampling, Patterns, StopAtText

        model, tok = self.model, self.tokenizer
        cache, _, rows, mask = self._layout(prompts, ids, own=1)
        longest = rows.shape[1]
        eos = self._eos()
        processors = LogitsProcessorList()
        if any(p.pattern for p in prompts):
            processors.append(Patterns(self._grammar_tokenizer(), [p.pattern for p in prompts], longest, eos))
        if sampling.temperature > 0:
            processors.append(KeyedSampling([p.seed for p in prompts], longest, sampling.temperature, sampling.top_p))
        stop = StopAtText(tok, longest, sampling.stop)
        config = GenerationConfig(max_new_tokens=sampling.max_tokens, do_sample=False, num_beams=1,
                                  eos_token_id=eos, pad_token_id=tok.pad_token_id)  # fmt: skip
        with torch.inference_mode():
            out = model.generate(
                input_ids=rows,
                attention_mask=mask,
                past_key_values=cache,
                generation_config=config,
                logits_processor=processors,
                stopping_criteria=StoppingCriteriaList([stop]) if sampling.stop else None,
            )
        return [
            self._completion(len(i), new, eos, sampling) for i, new in zip(ids, out[:, longest:].tolist(), strict=True)
        ]

    def _layout(
        self, prompts: list[Prompt], ids: list[list[int]], *, own: int
    ) -> tuple[Any, int, torch.Tensor, torch.Tensor]:
        """A cache of the shared prefixes (or None), its width, and all rows with their attention mask, both rows x positions.

        A row is [padding, shared prefix, padding, its own tokens], so positions follow the mask and every row ends at the last one.
        At least `own` tokens of a row are its own: those whose logits are wanted.
        """
        import torch

        cache, prefixes = self._prefixes(prompts, ids, own)
        width = max(prefixes)
        longest = max(len(i) - shared for i, shared in zip(ids, prefixes, strict=True))
        pad = self.tokenizer.pad_token_id
        rows, mask = [], []
        for i, shared in zip(ids, prefixes, strict=True):
            lead, gap = width - shared, longest - (len(i) - shared)
            rows.append([pad] * lead + i[:shared] + [pad] * gap + i[shared:])
            mask.append([0] * lead + [1] * shared + [0] * gap + [1] * (len(i) - shared))
        device = self.model.device
        return cache, width, torch.tensor(rows, device=device), torch.tensor(mask, device=device)

    def _prefixes(self, prompts: list[Prompt], ids: list[list[int]], own: int) -> tuple[Any, list[int]]:
        """A cache in which every shared prefix was computed once, and how many tokens of each row stand in it.

        Prefixes of several lengths are padded on the left. A cache that does not keep every position (sliding windows)
        cannot be padded: then nothing is shared, and the rows are computed whole.
        """
        import torch
        from transformers import DynamicCache

        groups = [list(g) for _, g in groupby(range(len(prompts)), lambda i: prompts[i].prefix)]
        shared = [
            _common([ids[i] for i in g], own) if prompts[g[0]].prefix and len(g) >= SHARED_ROWS else 0 for g in groups
        ]
        if min(shared) < SHARED_TOKENS:
            return None, [0] * len(ids)
        width, parts = max(shared), []
        with torch.inference_mode():
            for group, length in zip(groups, shared, strict=True):
                part = DynamicCache(config=self.model.config)
                start = torch.tensor([ids[group[0]][:length]], device=self.model.device)
                self.model(input_ids=start, past_key_values=part, logits_to_keep=1)
                if any(layer.keys.shape[-2] != length for layer in part.layers):
                    return None, [0] * len(ids)
                parts.append(part)
            whole = DynamicCache(config=self.model.config)
            for k in range(len(parts[0].layers)):
                both = [
                    torch.cat([
                        torch.nn.functional.pad(states, (0, 0, width - states.shape[-2], 0)).expand(len(g), -1, -1, -1)
                        for g, part in zip(groups, parts, strict=True)
                        for states in [getattr(part.layers[k], name)]
                    ])
                    for name in ("keys", "values")
                ]  # fmt: skip
                whole.update(*both, k)
        return whole, [length for g, length in zip(groups, shared, strict=True) for _ in g]

    def _completion(self, prompt_tokens: int, new: list[int], eos: list[int], sampling: Sampling) -> Completion:
        ends = [k for k, token in enumerate(new) if token in eos]
        kept = new[: ends[0]] if ends else new
        text: str = self.tokenizer.decode(kept, skip_special_tokens=True)
        at = min((text.find(s) + len(s) for s in sampling.stop if s in text), default=-1)
        if at >= 0:
            ended, text = "stop", text[:at]
        else:
            ended = "eos" if ends else "length"
        # Rows that have ended are padded; what was generated for them ends with the stop string or EOS.
        count = len(kept) + 1 if ends else len(kept)
        if ended == "stop":
            count = _tokens_until(self.tokenizer, new, text)
        return Completion(text=text, prompt_tokens=prompt_tokens, new_tokens=count, ended=ended)

    def _eos(self) -> list[int]:
        known = self.model.generation_config.eos_token_id
        ids = known if isinstance(known, list) else [known]
        return sorted({i for i in [*ids, self.tokenizer.eos_token_id] if i is not None})

    def _grammar_tokenizer(self) -> Any:
        if self._grammar is None:
            from edgearte.lm.decoding import grammar_tokenizer

            self._grammar = grammar_tokenizer(self.tokenizer, self.model.config.get_text_config().vocab_size)
        return self._grammar

    def loglikelihood(self, pairs: Sequence[tuple[Prompt, str]]) -> list[Score]:
        # A continuation's last token is predicted, never read: so continuations of one token share the row of their prompt.
        rows: dict[tuple[int, ...], int] = {}
        prompts: list[Prompt] = []
        asked: list[list[tuple[int, list[int]]]] = []  # by row: pairs with the tokens of their continuation
        for k, (prompt, continuation) in enumerate(pairs):
            end = self.tokenizer(continuation, add_special_tokens=False)["input_ids"]
            at = rows.setdefault((*self.tokens(prompt.prefix + prompt.text), *end[:-1]), len(rows))
            if at == len(prompts):
                prompts.append(prompt)
                asked.append([])
            asked[at].append((k, end))
        ids = [list(row) for row in rows]
        scores: dict[int, Score] = {}
        for batch in _batches(prompts, ids, 0):
            wanted = [asked[i] for i in batch]
            logprobs = self._logprobs(
                [prompts[i] for i in batch], [ids[i] for i in batch], max(len(end) for row in wanted for _, end in row)
            )
            for of_row, row in zip(logprobs, wanted, strict=True):
                for k, end in row:
                    taken = of_row[-len(end) :].gather(-1, of_row.new_tensor(end, dtype=int)[:, None])
                    scores[k] = Score(float(taken.sum()), len(end))
        return [scores[k] for k in range(len(pairs))]

    def _logprobs(self, prompts: list[Prompt], ids: list[list[int]], keep: int) -> torch.Tensor:
        """Log-probabilities of what follows each of a row's last `keep` tokens: rows x keep x vocabulary."""
        import torch

        cache, width, rows, mask = self._layout(prompts, ids, own=keep)
        position = (mask.cumsum(-1) - 1).clamp(min=0)
        with torch.inference_mode():
            logits = self.model(
                input_ids=rows[:, width:], attention_mask=mask, position_ids=position[:, width:],
                past_key_values=cache, use_cache=cache is not None, logits_to_keep=keep,
            ).logits  # fmt: skip
            scores: torch.Tensor = logits[:, -keep:].float().log_softmax(-1)
        return scores


def _common(ids: list[list[int]], own: int) -> int:
    """Length of the tokens all rows begin with, leaving each at least `own` of its own."""
    first, last = min(ids), max(ids)
    same = next((k for k, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    return max(0, min(same, min(map(len, ids)) - own))


def _batches(prompts: Sequence[Prompt], ids: list[list[int]], new: int) -> Iterator[list[int]]:
    """Rows to decode together: those that share a prefix first, then those of like length."""
    counts = Counter(p.prefix for p in prompts)
    shares = [bool(p.prefix) and counts[p.prefix] >= SHARED_ROWS for p in prompts]
    alone = sorted((i for i, s in enumerate(shares) if not s), key=lambda i: (len(ids[i]), i))
    # Rows of one prefix stand together; several prefixes go into one batch.
    first = {p.prefix: i for i, p in reversed(list(enumerate(prompts)))}
    together = sorted((i for i, s in enumerate(shares) if s), key=lambda i: (first[prompts[i].prefix], i))
    for group in (alone, together):
        batch: list[int] = []
        for i in group:
            longest = max([len(ids[j]) for j in batch] + [len(ids[i])]) + new
            if batch and (len(batch) == ROWS or longest * (len(batch) + 1) > TOKENS):
                yield batch
                batch = []
            batch.append(i)
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
