"""What a device's memory and cores can do, found out on the device: the roofs of `roofline.py`. Needs numpy and llama.cpp."""

from __future__ import annotations

import ctypes
import os
import tempfile
import threading
import time
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from edgearte.measure import machine
from edgearte.measure.roofline import BITS, handed_on

TYPES = ("f16", "bf16", "q8_0", "q6_k", "q5_1", "q5_0", "q4_1", "q4_0", "q5_k", "q4_k", "q3_k", "q2_k", "iq4_nl", "iq4_xs")
PROMPT, STEPS = 128, 12
BLOCK = 256 << 20  # bytes that are read, where a quarter of what is free is as much


class Made(NamedTuple):
    """The sizes of a made model."""

    width: int
    feed: int
    layers: int


WIDE = Made(1024, 4096, 4)  # 67 M weights: more than caches hold, in most types
NARROW = Made(512, 1536, 12)  # as small models are: more of the time goes into what lies between the products


class Seconds(NamedTuple):
    """To read a prompt, and of a decoded token."""

    read: float
    step: float


def probe(threads: int) -> dict[str, Any]:
    """`read_gb_per_s`, by `types` how many weights a second are multiplied with one token (`vector`) and with a prompt's (`matrix`, weights
    times tokens) and what each number takes that a layer hands on in a prompt (`number_s`), and `layer_s`, what a layer takes beside for
    one token."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "probe.gguf"
        for type in TYPES:
            wide, narrow = (_timed(path, type, shape, threads) for shape in (WIDE, NARROW))
            # A prompt takes what its products take, by weights, and what lies between them, by numbers: two models, two unknowns.
            sides = PROMPT * np.array([[_weights(shape), shape.layers * handed_on(shape.width, shape.feed)] for shape in (WIDE, NARROW)])
            product_s, number_s = np.linalg.solve(sides, [wide.read, narrow.read])
            if not (product_s > 0 and number_s > 0):  # of so little between them, noise is more
                product_s, number_s = wide.read / sides[0, 0], 0.0
            vector = _weights(WIDE) / wide.step
            beside = max(0.0, narrow.step - _weights(NARROW) / vector) / NARROW.layers
            found[type] = {"vector": vector, "matrix": 1 / float(product_s), "number_s": float(number_s), "layer_s": beside}
    # The best that was seen is what the memory gives.
    read_by_products = max(found[type]["vector"] * BITS[type] / 8 for type in found)
    return {
        "read_gb_per_s": max(bandwidth(threads), read_by_products) / 1e9,
        "types": found,
        "layer_s": found["q8_0"]["layer_s"],
    }


def _weights(shape: Made) -> int:
    return shape.layers * (4 * shape.width**2 + 3 * shape.width * shape.feed)


def _timed(path: Path, type: str, shape: Made, threads: int) -> Seconds:
    """What a made model takes."""
    from edgearte import tiny_gguf
    from edgearte.measure.llamacpp import Engine
    from edgearte.measure.rows import Timed

    tiny_gguf.write_like(path, type, width=shape.width, feed=shape.feed, layers=shape.layers)
    engine = Engine(path, threads=threads)
    how = Timed([], [[1 + k % 60 for k in range(PROMPT)]], STEPS)
    engine.time_once(how)  # memory touched for the first time is slow
    runs = [engine.time_once(how) for _ in range(2)]
    engine.close()
    return Seconds(min(run[0] for run in runs), median(step for run in runs for step in run[2]))


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
