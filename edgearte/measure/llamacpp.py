"""llama.cpp through the low-level API of llama-cpp-python: many sequences in one batch, forked from a shared prefix.

Decoding reads all weights once per step whatever the number of rows, so rows are decoded side by side; a row that has
ended makes room for the next one waiting. Which rows meet in a batch follows from the call alone, never from time, so
the same call gives the same bytes. It may still differ in a near-tie from a call with other rows beside it: kernels sum
in another order for another batch size.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgearte.errors import UserError
from edgearte.measure.llamalib import Batch, Work, clear_log, library, log_text
from edgearte.measure.machine import cores
from edgearte.measure.mark import READ, READING, WROTE, mark
from edgearte.measure.rows import Continuation, Group, Logits, Row, Timed, Writer, pick, shared_prefixes

BATCH = 512  # tokens per call of llama_decode, and per pass through the weights
PREFIX = 0  # the sequence that holds the shared prefix; rows live in sequences 1, 2, …


@dataclass
class _Active:
    """A row that is being written, in its sequence."""

    index: int
    row: Row
    sequence: int
    prompt: list[int]
    position: int  # tokens of it in the cache, once the pending ones are decoded
    pending: list[int]  # tokens still to be decoded; the logits after the last one are wanted
    writer: Writer
    written: int = 0


class Engine:
    """One GGUF file, loaded. Not for use by several threads at a time.

    `threads` 0 means the physical cores that may be used; `parallel` is the number of rows decoded side by side and, as
    it decides who shares a batch, can tip a near-tie.
    """

    def __init__(self, path: Path, *, threads: int = 0, parallel: int = 16) -> None:
        self._c = library()
        self.threads = threads or cores()
        self.parallel = parallel
        self.versions = {
            "llama-cpp-python": importlib.metadata.version("llama-cpp-python"),
            "llama.cpp": self._c.llama_print_system_info().decode().strip(" |"),
        }
        params = self._c.llama_model_default_params()
        params.n_gpu_layers = 0
        clear_log()
        self._model = self._c.llama_model_load_from_file(str(path).encode(), params)
        if not self._model:
            raise UserError(f"{path}: llama.cpp cannot load this file:\n{log_text()}")
        self._vocab = self._c.llama_model_get_vocab(self._model)
        self.vocabulary = int(self._c.llama_vocab_n_tokens(self._vocab))
        self.context = int(self._c.llama_model_n_ctx_train(self._model))
        self._context: Any = None
        self._room = 0
        self._pieces: dict[int, bytes] = {}

    def close(self) -> None:
        """Free the model; the engine is of no use afterwards."""
        if self._context is not None:
            self._c.llama_free(self._context)
        self._c.llama_model_free(self._model)
        self._context = self._model = None

    @property
    def vocab(self) -> Any:
        """llama.cpp's vocabulary pointer, for llguidance."""
        return self._vocab

    def metadata(self, key: str) -> str:
        """A GGUF metadata value as text; empty when there is none."""
        size = self._c.llama_model_meta_val_str(self._model, key.encode(), None, 0)
        if size < 0:
            return ""
        buffer = ctypes.create_string_buffer(size + 1)
        self._c.llama_model_meta_val_str(self._model, key.encode(), buffer, size + 1)
        return buffer.value.decode("utf-8", "replace")

    def special(self, name: str) -> int:
        """The id of a special token, `bos` or `eos`; -1 when the model has none."""
        ids = {"bos": self._c.llama_vocab_bos, "eos": self._c.llama_vocab_eos}
        return int(ids[name](self._vocab))

    def ends(self, token: int) -> bool:
        """Whether this token ends a generation (EOS, end of turn, …)."""
        return bool(self._c.llama_vocab_is_eog(self._vocab, token))

    def tokens(self, text: str, *, start: bool = True) -> list[int]:
        """Token ids of a text, special tokens in it parsed; at the `start` of a sequence BOS is added where the model
        wants one and the text brings none."""
        raw = text.encode("utf-8", "replace")
        size = len(raw) + 8
        buffer = (self._c.llama_token * size)()
        count = self._c.llama_tokenize(self._vocab, raw, len(raw), buffer, size, False, True)
        if count < 0:
            raise RuntimeError(f"llama_tokenize wants {-count} tokens for {len(raw)} bytes")
        ids = list(buffer[:count])
        bos = self.special("bos")
        if start and bos >= 0 and self._c.llama_vocab_get_add_bos(self._vocab) and ids[:1] != [bos]:
            ids.insert(0, bos)
        return ids

    def piece(self, token: int, *, special: bool = False) -> bytes:
        """The bytes of one token; empty for a special token unless `special`."""
        if special or token not in self._pieces:
            buffer = ctypes.create_string_buffer(64)
            size = self._c.llama_token_to_piece(self._vocab, token, buffer, 64, 0, special)
            if size < 0:
                buffer = ctypes.create_string_buffer(-size)
                size = self._c.llama_token_to_piece(self._vocab, token, buffer, -size, 0, special)
            if special:
                return buffer.raw[:size]
            self._pieces[token] = buffer.raw[:size]
        return self._pieces[token]

    def generate(
        self,
        rows: Sequence[Row],
        *,
        max_tokens: int,
        temperature: float = 0.0,
        top_p: float = 1.0,
        stop: Sequence[str] = (),
        done: Callable[[int, Continuation], None] = lambda index, continuation: None,
    ) -> list[Continuation]:
        """Continue every row; `done` hears of each as it ends. Rows with the same prefix pay for it once."""
        prompts = [self._prompt(row, max_tokens) for row in rows]
        groups = shared_prefixes([row.prefix for row in rows], prompts)
        waiting = deque((group, index) for group in groups for index in group.rows)
        self._open([(g.shared, [len(prompts[i]) - g.shared + max_tokens for i in g.rows]) for g in groups])
        free = list(range(self.parallel, 0, -1))
        active: list[_Active] = []
        results: dict[int, Continuation] = {}
        resident: Group | None = None
        while waiting or active:
            while waiting and free:
                group, index = waiting.popleft()
                if group is not resident:
                    self._hold(prompts[index][: group.shared])
                    resident = group
                sequence = free.pop()
                self._fork(sequence)
                pending = prompts[index][group.shared :]
                active.append(
                    _Active(index, rows[index], sequence, prompts[index], group.shared, pending, Writer(stop))
                )
            work = Work()
            for row in active:
                work.add(row.pending, row.position, row.sequence, [None] * (len(row.pending) - 1) + [row])
                row.position += len(row.pending)
            for row, logits in self._decode(work):
                ended = self._advance(row, logits, max_tokens, temperature, top_p)
                if ended:
                    results[row.index] = Continuation(row.writer.text(), len(row.prompt), row.written, ended)
                    active.remove(row)
                    self._drop(row.sequence)
                    free.append(row.sequence)
                    done(row.index, results[row.index])
        return [results[i] for i in range(len(rows))]

    def score(self, pairs: Sequence[tuple[Row, str]]) -> list[tuple[float, int]]:
        """Log-likelihood in nats of a continuation after each row, summed over its tokens, and their number. The
        continuation is tokenized on its own, as a model would have to write it."""
        prompts = [self._prompt(row, 0) for row, _ in pairs]
        endings = [self.tokens(text, start=False) for _, text in pairs]
        whole = [p + e for p, e in zip(prompts, endings)]  # noqa: B905 (Python 3.9 runs this)
        groups = shared_prefixes([row.prefix for row, _ in pairs], prompts)
        self._open([(g.shared, [len(whole[i]) - g.shared for i in g.rows]) for g in groups])
        sums = [0.0] * len(pairs)
        for group in groups:
            self._hold(prompts[group.rows[0]][: group.shared])
            for at in range(0, len(group.rows), self.parallel):
                work = Work()
                for sequence, index in enumerate(group.rows[at : at + self.parallel], 1):
                    self._fork(sequence)
                    before = len(prompts[index]) - group.shared - 1
                    tags = [None] * before + [(index, token) for token in endings[index]]
                    work.add(whole[index][group.shared : group.shared + len(tags)], group.shared, sequence, tags)
                for (index, token), logits in self._decode(work):
                    sums[index] += _log_probability(logits, token)
                for sequence in range(1, self.parallel + 1):
                    self._drop(sequence)
        return [(total, len(ending)) for total, ending in zip(sums, endings)]  # noqa: B905

    def time_once(self, how: Timed) -> tuple[float, float, list[float]]:
        """Seconds to read the last turn's prompt, until its first token is chosen, and between the new tokens after that, a step of all
        sequences together. EOS does not end them: the length is the measure."""
        if self._room < how.batch * how.length:  # kept between repeats: memory touched for the first time is slow
            self._open([(0, [how.length] * how.batch)], parallel=how.batch)
        self._c.llama_memory_clear(self._memory, False)
        rows = range(1, how.batch + 1)
        position = 0
        if how.context:
            self._read(how.context, position, rows)
            position = len(how.context)
        read, first, steps = 0.0, 0.0, list[float]()
        for prompt in how.turns:
            mark(READING, how.batch * len(prompt))
            start = time.perf_counter()
            last = self._read(prompt, position, rows)
            read = time.perf_counter() - start
            tokens = [int(logits.argmax()) for logits in last]
            first = time.perf_counter() - start
            mark(READ, how.batch * len(prompt))
            steps = []
            position += len(prompt)
            # What Python does in a step is the runtime's time to whoever reads the figures: as little as can be.
            self._batch.fill(Work(tokens, [position] * how.batch, list(rows), list(rows)), slice(how.batch))
            for number in range(how.new_tokens):
                start = time.perf_counter()
                self._run(self._batch.again(tokens, position))
                tokens = [int(self._logits(i).argmax()) for i in range(how.batch)]
                steps.append(time.perf_counter() - start)
                mark(WROTE, number)
                position += 1
        return read, first, steps

    def _read(self, prompt: Sequence[int], position: int, rows: Sequence[int]) -> list[Logits]:
        """Read a prompt in every sequence; the logits after its last token, one array a sequence."""
        work = Work()
        for row in rows:
            work.add(list(prompt), position, row, [None] * (len(prompt) - 1) + [row])
        return [logits.copy() if len(rows) > 1 else logits for _, logits in self._decode(work)]

    def _prompt(self, row: Row, max_tokens: int) -> list[int]:
        ids = self.tokens(row.prefix + row.text)
        if not ids:
            raise UserError("a prompt is empty, and this model has no token to begin a text with")
        if len(ids) + max_tokens > self.context:
            raise UserError(
                f"a prompt of {len(ids)} tokens and {max_tokens} new ones are more than the {self.context} tokens this "
                "model was trained for; shorten the prompt or ask for fewer tokens"
            )
        return ids

    def _advance(self, row: _Active, logits: Logits, max_tokens: int, temperature: float, top_p: float) -> str:
        """Take the row's next token; why it ended, or nothing."""
        constraint = row.row.constraint
        if constraint is not None:
            logits = constraint.mask(logits)
        token = pick(logits, temperature, top_p, row.row.seed, row.written)
        row.written += 1
        row.pending = [token]
        if self.ends(token):
            return "eos"
        if row.writer.add(self.piece(token)):
            return "stop"
        if constraint is not None and constraint.accept(token):
            return "eos"
        return "length" if row.written >= max_tokens else ""

    def _open(self, groups: Sequence[tuple[int, Sequence[int]]], parallel: int = 0) -> None:
        """A fresh context, large enough for the costliest rows to meet: (length of the prefix, tokens per row) by
        group. Fresh, so that a call's results do not depend on the calls before it."""
        parallel = parallel or self.parallel
        rows = sorted((n for _, lengths in groups for n in lengths), reverse=True)[:parallel]
        prefixes = sorted((n for n, _ in groups), reverse=True)[: parallel + 1]
        params = self._c.llama_context_default_params()
        params.n_ctx = sum(rows) + sum(prefixes) + 256
        params.n_seq_max = parallel + 1
        params.n_batch = params.n_ubatch = min(BATCH, params.n_ctx)
        params.n_threads = params.n_threads_batch = self.threads
        params.kv_unified = True  # a forked prefix is then held once, not copied
        params.no_perf = True
        if self._context is not None:
            self._c.llama_free(self._context)
        clear_log()
        self._context = self._c.llama_init_from_model(self._model, params)
        if not self._context:
            raise UserError(f"llama.cpp has no room for {params.n_ctx} tokens of context:\n{log_text()}")
        self._room = params.n_ctx
        self._views: dict[int, Logits] = {}  # by their addresses, which are the context's
        self._memory = self._c.llama_get_memory(self._context)
        self._batch = Batch(self._c, BATCH)

    def _hold(self, prefix: Sequence[int]) -> None:
        """Make this the prefix that rows are forked from. Rows forked from the one before keep theirs."""
        self._drop(PREFIX)
        work = Work()
        work.add(prefix, 0, PREFIX, [None] * len(prefix))
        for _ in self._decode(work):
            pass

    def _fork(self, sequence: int) -> None:
        self._c.llama_memory_seq_cp(self._memory, PREFIX, sequence, -1, -1)

    def _drop(self, sequence: int) -> None:
        self._c.llama_memory_seq_rm(self._memory, sequence, -1, -1)

    def _decode(self, work: Work) -> Iterator[tuple[Any, Logits]]:
        """Decode, and hand out the logits that were asked for. They are a view: used up before the next ones are
        taken."""
        for at in range(0, len(work.tokens), BATCH):
            part = slice(at, at + BATCH)
            self._run(self._batch.fill(work, part))
            for i, tag in enumerate(work.tags[part]):
                if tag is not None:
                    yield tag, self._logits(i)

    def _run(self, batch: Any) -> None:
        code = self._c.llama_decode(self._context, batch)
        if code:
            raise UserError(f"llama.cpp failed to decode (code {code}):\n{log_text()}")

    def _logits(self, at: int) -> Logits:
        """The logits after a token of the batch that was run last: a view, kept because making one takes long."""
        pointer = self._c.llama_get_logits_ith(self._context, at)
        address = ctypes.addressof(pointer.contents)
        if address not in self._views:
            self._views[address] = np.ctypeslib.as_array(pointer, (self.vocabulary,))
        return self._views[address]


def _log_probability(logits: Logits, token: int) -> float:
    top = logits.max()
    return float(logits[token] - top - np.log(np.exp((logits - top).astype(np.float64)).sum()))
