"""llama-cpp-python's low-level API made fit for use: its log kept for a failure, and a batch of tokens over numpy
arrays."""

from __future__ import annotations

import ctypes
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgearte.errors import UserError

_log: deque[str] = deque(maxlen=30)


@dataclass
class Work:
    """Tokens to decode in one go, each in one sequence or in several that begin alike; `tags` names whose logits are wanted after a
    token, None where nobody's are."""

    tokens: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    sequences: list[list[int]] = field(default_factory=list)
    tags: list[Any] = field(default_factory=list)

    def add(self, tokens: Sequence[int], position: int, sequence: int, tags: Sequence[Any]) -> None:
        self.tokens += tokens
        self.positions += range(position, position + len(tokens))
        self.sequences += [[sequence] for _ in tokens]
        self.tags += tags


class Batch:
    """A llama_batch over numpy arrays, with up to `most` sequences per token."""

    def __init__(self, library: Any, size: int, most: int = 1) -> None:
        self._tokens = np.zeros(size, np.int32)
        self._positions = np.zeros(size, np.int32)
        self._sequences = np.zeros((size, most), np.int32)
        self._counts = np.ones(size, np.int32)
        self._wanted = np.zeros(size, np.int8)
        self._pointers = (self._sequences.ctypes.data + 4 * most * np.arange(size)).astype(np.uintp)
        ids = ctypes.POINTER(ctypes.c_int32)
        self._batch = library.llama_batch(
            n_tokens=0,
            token=self._tokens.ctypes.data_as(ids),
            pos=self._positions.ctypes.data_as(ids),
            n_seq_id=self._counts.ctypes.data_as(ids),
            seq_id=self._pointers.ctypes.data_as(ctypes.POINTER(ids)),
            logits=self._wanted.ctypes.data_as(ctypes.POINTER(ctypes.c_int8)),
        )

    def fill(self, work: Work, part: slice) -> Any:
        """The llama_batch of this part of the work; valid until the next call."""
        count = len(work.tokens[part])
        self._tokens[:count] = work.tokens[part]
        self._positions[:count] = work.positions[part]
        sequences = work.sequences[part]
        self._counts[:count] = [len(several) for several in sequences]
        self._sequences[:count, 0] = [several[0] for several in sequences]
        for k, several in enumerate(sequences):
            if len(several) > 1:
                self._sequences[k, : len(several)] = several
        self._wanted[:count] = [tag is not None for tag in work.tags[part]]
        self._batch.n_tokens = count
        return self._batch

    def again(self, tokens: Sequence[int], position: int) -> Any:
        """The llama_batch that was filled last, with these tokens in place of its own, all at one position."""
        count = len(tokens)
        self._tokens[:count] = tokens
        self._positions[:count] = position
        return self._batch


def log_text() -> str:
    """What llama.cpp warned of since `clear_log`."""
    return "".join(_log).strip() or "it gave no reason"


def clear_log() -> None:
    _log.clear()


_callback: Any = None  # ctypes keeps no reference to it


def library() -> Any:
    """llama_cpp, with the runtime's log kept for a failure instead of printed."""
    global _callback
    try:
        import llama_cpp
    except ImportError as error:
        raise UserError(
            f"GGUF artifacts need llama-cpp-python, which cannot be imported ({error}): "
            "pip install 'edgearte[llamacpp]'"
        ) from error
    if _callback is None:

        def keep(level: int, text: bytes, data: Any) -> None:
            if level in (3, 4):  # GGML_LOG_LEVEL_WARN, _ERROR
                _log.append(text.decode("utf-8", "replace"))

        _callback = llama_cpp.llama_log_callback(keep)
        llama_cpp.llama_log_set(_callback, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
    return llama_cpp
