"""llama.cpp through the low-level API of llama-cpp-python: many sequences in one batch, forked from what they share.

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
from pathlib import Path
from typing import Any

import numpy as np

from edgearte.errors import UserError
from edgearte.measure.llamalib import Batch, Work, clear_log, library, log_text
from edgearte.measure.machine import cores
from edgearte.measure.mark import READ, READING, WROTE, mark
from edgearte.measure.rows import Continuation, Logits, Row, Timed, Writer
from edgearte.measure.seats import Arrival, Seats, room
from edgearte.measure.writing import How, Written, advance

BATCH = 512  # tokens per call of llama_decode, and per pass through the weights
SCORED = 128  # rows that are scored side by side: short ends of them fill a batch


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
        # Models that keep a state, and no keys and values by position, cannot share a beginning.
        self._sharing = not (self._c.llama_model_is_recurrent(self._model) or self._c.llama_model_is_hybrid(self._model))
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
        """Continue every row; `done` hears of each as it ends. What rows begin with alike is read once."""
        prompts = [self._prompt(row, max_tokens) for row in rows]
        order = sorted(range(len(rows)), key=prompts.__getitem__)  # what begins alike stands together
        seats = self._seats([prompts[i] for i in order], [max_tokens] * len(rows), self.parallel)
        waiting, free = deque(order), list(range(min(self.parallel, len(rows)) - 1, -1, -1))
        how = How(max_tokens, temperature, top_p)
        active: list[Written] = []
        results: dict[int, Continuation] = {}
        while waiting or active:
            work, arrivals = Work(), []
            for row in active:
                work.add([row.last], len(row.prompt) + row.count - 1, row.seat, [[row]])
            while waiting and free:
                index = waiting.popleft()
                new = Written(index, rows[index], free.pop(), prompts[index], Writer(stop))
                arrivals.append(Arrival(new.seat, new.prompt, [None] * (len(new.prompt) - 1) + [new]))
                active.append(new)
            seats.enter(arrivals, work)
            for tags, logits in self._decode(work):
                for row, ended in advance(tags, logits, self, how):
                    results[row.index] = row.continuation(ended)
                    active.remove(row)
                    seats.leave(row.seat)
                    free.append(row.seat)
                    done(row.index, results[row.index])
            if not waiting:
                seats.empty(free)
        return [results[i] for i in range(len(rows))]

    def score(self, pairs: Sequence[tuple[Row, str]]) -> list[tuple[float, int]]:
        """Log-likelihood in nats of a continuation after each row, summed over its tokens, and their number. The
        continuation is tokenized on its own, as a model would have to write it. What continuations of one row begin with alike is read
        once, too."""
        prompts = [self._prompt(row, 0) for row, _ in pairs]
        endings = [self.tokens(text, start=False) for _, text in pairs]
        whole = [p + e[:-1] for p, e in zip(prompts, endings)]  # noqa: B905 (Python 3.9 runs this)
        order = sorted((i for i, ending in enumerate(endings) if ending), key=whole.__getitem__)
        seats = self._seats([whole[i] for i in order], [0] * len(order), SCORED)
        sums = [0.0] * len(pairs)
        for at in range(0, len(order), SCORED):
            work, arrivals = Work(), []
            for seat, index in enumerate(order[at : at + SCORED]):
                tags = [None] * (len(prompts[index]) - 1) + [(index, token) for token in endings[index]]
                arrivals.append(Arrival(seat, whole[index], tags))
            seats.enter(arrivals, work)
            for several, logits in self._decode(work):
                for tags, row in zip(several, logits):  # noqa: B905
                    total = _log_of_sum(row)
                    for index, token in tags:
                        sums[index] += float(row[token]) - total
        return [(total, len(ending)) for total, ending in zip(sums, endings)]  # noqa: B905

    def time_once(self, how: Timed) -> tuple[float, float, list[float]]:
        """Seconds to read the last turn's prompt, until its first token is chosen, and between the new tokens after that, a step of all
        sequences together. EOS does not end them: the length is the measure."""
        if self._room < how.batch * how.length:  # kept between repeats: memory touched for the first time is slow
            self._open(how.length * how.batch, how.batch)
        self._c.llama_memory_clear(self._memory, False)
        rows = range(how.batch)
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
            self._batch.fill(Work(tokens, [position] * how.batch, [[row] for row in rows], list(rows)), slice(how.batch))
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
        return [row for _, logits in self._decode(work) for row in (logits.copy() if len(rows) > 1 else logits)]

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

    def _seats(self, prompts: Sequence[list[int]], own: Sequence[int], count: int) -> Seats:
        """Seats in a context that has room for these rows, in order, and what each of them writes."""
        count = max(1, min(count, len(prompts)))
        self._open(room(prompts, own, count, sharing=self._sharing), count)
        return Seats(self._c, self._memory, count, sharing=self._sharing)

    def _open(self, tokens: int, sequences: int) -> None:
        """A fresh context, large enough for so many. Fresh, so that a call's results do not depend on the calls before it."""
        params = self._c.llama_context_default_params()
        params.n_ctx = tokens + 256
        params.n_seq_max = sequences
        params.n_batch = params.n_ubatch = min(BATCH, params.n_ctx)
        params.n_threads = params.n_threads_batch = self.threads
        params.kv_unified = True  # what is shared is then held once, not copied
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
        self._batch = Batch(self._c, BATCH, sequences)

    def _decode(self, work: Work) -> Iterator[tuple[list[Any], Logits]]:
        """Decode part by part: the tags whose logits were asked for, and those logits (tags x vocabulary). They are a view, to be used
        up before the next part is taken."""
        for at in range(0, len(work.tokens), BATCH):
            part = slice(at, at + BATCH)
            self._run(self._batch.fill(work, part))
            if tags := [tag for tag in work.tags[part] if tag is not None]:
                pointer = self._c.llama_get_logits(self._context)
                yield tags, np.ctypeslib.as_array(pointer, (len(tags), self.vocabulary))

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


def _log_of_sum(logits: Logits) -> float:
    """The logarithm of the sum of a row's chances before they are normalized."""
    top = logits.max()
    return float(top) + float(np.log(np.exp(logits - top).sum(dtype=np.float64)))
