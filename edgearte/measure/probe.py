"""What a device's memory and cores can do, found out on the device: the roofs of `roofline.py`. Needs numpy and llama.cpp."""

from __future__ import annotations

import ctypes
import os
import tempfile
import threading
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from edgearte.measure import machine
from edgearte.measure.roofline import BITS

TYPES = ("f16", "q8_0", "q6_k", "q5_1", "q5_0", "q4_1", "q4_0", "q5_k", "q4_k", "q3_k", "q2_k", "iq4_nl", "iq4_xs")
WIDTH, FEED, LAYERS = 1024, 4096, 4  # 67 M weights: more than caches hold, in most types
PROMPT, STEPS = 128, 12
BLOCK = 256 << 20  # bytes that are read, where a quarter of what is free is as much


def probe(threads: int) -> dict[str, Any]:
    """`read_gb_per_s`, by `types` how many weights a second are multiplied with one token (`vector`) and with a prompt's (`matrix`, weights
    times tokens), and `layer_s`, what a layer takes beside."""
    from edgearte import tiny_gguf

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "probe.gguf"
        found = {}
        for type in TYPES:
            tiny_gguf.write_like(path, type, width=WIDTH, feed=FEED, layers=LAYERS)
            weights = LAYERS * (4 * WIDTH * WIDTH + 3 * WIDTH * FEED)
            read, step = _timed(path, threads)
            found[type] = {"vector": weights / step, "matrix": weights * PROMPT / read}
        narrow = 256
        tiny_gguf.write_like(path, "q8_0", width=narrow, feed=narrow, layers=24)
        _, step = _timed(path, threads)
        weights = 7 * narrow * narrow
    # The best that was seen is what the memory gives.
    read_by_products = max(found[type]["vector"] * BITS[type] / 8 for type in found)
    return {
        "read_gb_per_s": max(bandwidth(threads), read_by_products) / 1e9,
        "types": found,
        "layer_s": max(0.0, step / 24 - weights / found["q8_0"]["vector"]),
    }


def _timed(path: Path, threads: int) -> tuple[float, float]:
    """Seconds to read a prompt, and of a decoded token, of a made model."""
    from edgearte.measure.llamacpp import Engine
    from edgearte.measure.rows import Timed

    engine = Engine(path, threads=threads)
    how = Timed([], [[1 + k % 60 for k in range(PROMPT)]], STEPS)
    engine.time_once(how)  # memory touched for the first time is slow
    runs = [engine.time_once(how) for _ in range(2)]
    engine.close()
    return min(run[0] for run in runs), median(step for run in runs for step in run[2])


def bandwidth(threads: int) -> float:
    """Bytes a second that so many threads read together, at best, in a C library's search for a byte that is not there: it does nothing
    but read, and ctypes lets go of the interpreter meanwhile."""
    search = ctypes.CDLL(None if os.name == "posix" else "msvcrt").memchr
    search.argtypes, search.restype = (ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t), ctypes.c_void_p
    block = np.ones(min(BLOCK, machine.available_memory() // 4), np.uint8)
    parts = np.array_split(block, max(threads, 1))
    best = 0.0
    for _ in range(5):
        workers = [threading.Thread(target=search, args=(part.ctypes.data, 0, part.nbytes)) for part in parts]
        start = time.perf_counter()
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        best = max(best, block.nbytes / (time.perf_counter() - start))
    return best
