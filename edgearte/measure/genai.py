"""onnxruntime-genai: one sequence at a time.

Its batches pad prompts on the left, and with an int4 model of its own builder the padding changed the answers (0.18.0:
seven of eight prompts of unequal length), so rows are not batched. A shared prefix is kept in the cache and rewound to.
"""

from __future__ import annotations

import importlib.metadata
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgearte.errors import UserError
from edgearte.measure.machine import cores
from edgearte.measure.mark import READ, READING, WROTE, mark
from edgearte.measure.rows import Continuation, Row, Timed, Writer, shared_prefixes


class Engine:
    """One folder with genai_config.json, loaded. `threads` 0 means the physical cores that may be used."""

    def __init__(self, path: Path, *, threads: int = 0) -> None:
        self._og = og = library()
        self.threads = threads or cores()
        packages = ("onnxruntime-genai", "onnxruntime")
        self.versions = {name: importlib.metadata.version(name) for name in packages}
        options = {"intra_op_num_threads": self.threads}
        try:
            settings = json.loads((path / "genai_config.json").read_text("utf-8"))
            self.context = int(settings["model"]["context_length"])
            config = og.Config(str(path))
            config.overlay(json.dumps({"model": {"decoder": {"session_options": options}}}))
            self._model = og.Model(config)
            self._tokenizer = og.Tokenizer(self._model)
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            raise UserError(f"{path}: onnxruntime-genai cannot load this folder: {error}") from error
        self._ends = {int(i) for i in self._tokenizer.eos_token_ids}

    def close(self) -> None:
        """Free the model; the engine is of no use afterwards."""
        del self._tokenizer, self._model

    def tokens(self, text: str) -> list[int]:
        """Token ids of a text, special tokens in it parsed, with one BOS where the tokenizer adds it."""
        ids = [int(i) for i in self._tokenizer.encode(text)]
        bos = int(self._tokenizer.bos_token_id)
        return ids[1:] if ids[:2] == [bos, bos] else ids

    def generate(
        self,
        rows: Sequence[Row],
        *,
        max_tokens: int,
        stop: Sequence[str] = (),
        done: Callable[[int, Continuation], None] = lambda index, continuation: None,
    ) -> list[Continuation]:
        """Continue every row greedily; `done` hears of each as it ends."""
        prompts = [self._prompt(row, max_tokens) for row in rows]
        results: dict[int, Continuation] = {}
        for group in shared_prefixes([row.prefix for row in rows], prompts):
            generator = self._generator(max(len(prompts[i]) for i in group.rows) + max_tokens + 1)
            if group.shared:
                generator.append_tokens(np.array(prompts[group.rows[0]][: group.shared], np.int32))
            for count, index in enumerate(group.rows):
                if count:
                    generator.rewind_to(group.shared)
                generator.append_tokens(np.array(prompts[index][group.shared :], np.int32))
                text, written, ended = self._continue(generator, max_tokens, stop)
                results[index] = Continuation(text, len(prompts[index]), written, ended)
                done(index, results[index])
        return [results[i] for i in range(len(rows))]

    def time_once(self, how: Timed) -> tuple[float, float, list[float]]:
        """Seconds to read the last turn's prompt, until its first token is chosen, and between the new tokens after that. EOS does not end
        it: the length is the measure. `UserError` for a batch: rows are not batched here."""
        if how.batch > 1:
            raise UserError("onnxruntime-genai is measured one sequence at a time; take a suite without batch")
        length = how.length + len(how.turns)
        generator = self._generator(length, min_length=length)
        if how.context:
            generator.append_tokens(np.array(how.context, np.int32))
        read, first, steps = 0.0, 0.0, list[float]()
        for prompt in how.turns:
            ids = np.array(prompt, np.int32)
            mark(READING, len(prompt))
            start = time.perf_counter()
            generator.append_tokens(ids)
            read = time.perf_counter() - start
            generator.generate_next_token()
            first = time.perf_counter() - start
            mark(READ, len(prompt))
            steps = []
            for number in range(how.new_tokens):
                start = time.perf_counter()
                generator.generate_next_token()
                steps.append(time.perf_counter() - start)
                mark(WROTE, number)
        return read, first, steps

    def _generator(self, length: int, min_length: int = 0) -> Any:
        params = self._og.GeneratorParams(self._model)
        params.set_search_options(max_length=length, min_length=min_length, do_sample=False, num_beams=1)
        return self._og.Generator(self._model, params)

    def _prompt(self, row: Row, max_tokens: int) -> list[int]:
        ids = self.tokens(row.prefix + row.text)
        if not ids:
            raise UserError("a prompt is empty")
        if len(ids) + max_tokens >= self.context:
            raise UserError(
                f"a prompt of {len(ids)} tokens and {max_tokens} new ones are more than the {self.context} tokens of "
                "this model's context; shorten the prompt or ask for fewer tokens"
            )
        return ids

    def _continue(self, generator: Any, max_tokens: int, stop: Sequence[str]) -> tuple[str, int, str]:
        stream = self._tokenizer.create_stream()  # holds back a character until all of its tokens are there
        writer = Writer(stop)
        for written in range(1, max_tokens + 1):
            generator.generate_next_token()
            token = int(generator.get_next_tokens()[0])
            if token in self._ends:
                return writer.text(), written, "eos"
            if writer.add(stream.decode(token).encode()):
                return writer.text(), written, "stop"
        return writer.text(), max_tokens, "length"


def library() -> Any:
    """onnxruntime_genai, or a `UserError` that says how to get it."""
    try:
        import onnxruntime_genai as og
    except ImportError as error:
        raise UserError(
            f"ONNX artifacts need onnxruntime-genai, which cannot be imported ({error}): pip install 'edgearte[onnx]'"
        ) from error
    return og
