"""The child process that measures: `python -m edgearte.measure.harness` reads one JSON job (a line on standard input)
and prints one JSON record per line.

It runs where the artifact is to run. This folder, edgearte/errors.py, numpy and one runtime are all it needs; torch and
transformers are never imported, they would count as the artifact's memory.

Job: `kind` (measure | answer | probe), `artifact`, `runtime`, `threads`, then `suite` and `passage`, or `prompts`, `max_tokens`, `stop`.
With `tethered` the child ends as soon as its standard input closes, so that it cannot outlive its parent, near or far.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgearte.errors import UserError
from edgearte.measure import machine
from edgearte.measure.conditions import Watch
from edgearte.measure.mark import LOADED, LOADING, mark
from edgearte.measure.rows import Timed

if TYPE_CHECKING:
    from edgearte.measure import genai, llamacpp

    Engine = llamacpp.Engine | genai.Engine


def main() -> int:
    records = _own_stdout()

    def emit(record: dict[str, Any]) -> None:
        records.write(json.dumps(record) + "\n")
        records.flush()

    job = json.loads(sys.stdin.readline())
    if job.get("tethered"):
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then lets go of the tether
        threading.Thread(target=_tether, daemon=True).start()
    try:
        {"measure": measure, "answer": answer, "probe": probe}[job["kind"]](job, emit)
    except UserError as error:
        emit({"kind": "error", "message": str(error)})
        return 2
    except Exception as error:
        traceback.print_exc()
        emit({"kind": "error", "message": f"{type(error).__name__}: {error}"})
        return 1
    return 0


def measure(job: dict[str, Any], emit: Callable[[dict[str, Any]], None]) -> None:
    """Time the suite. Records: `machine`, one `run` per repeat (and prompt) with the device's conditions, `memory`, `load` with the seconds
    of every load: `cold_s` from the disk, where the system could be asked to forget the file, and the others; `bandwidth`, bytes a second
    that these threads read."""
    suite, artifact = job["suite"], Path(job["artifact"])
    described = machine.describe()  # before we are the load
    _engine(job)
    before = machine.peak_memory()
    cold = machine.forget(artifact)
    engine, seconds = _load(job)
    emit({"kind": "machine", "machine": {**described, **engine.versions}, "threads": engine.threads})
    todo = timed(suite, job["passage"], engine.tokens)
    needed = max(how.length for how in todo)
    if needed >= engine.context:
        raise UserError(f"suite {suite['name']} needs {needed} tokens of context, this artifact has {engine.context}")
    for number, how in enumerate([todo[0]] * suite["warmups"] + todo * suite["repeats"]):
        watch, start = Watch(), time.perf_counter()
        spent, first, steps = engine.time_once(how)
        if number >= suite["warmups"]:
            conditions, read = watch.read(time.perf_counter() - start), len(how.turns[-1])
            emit({"kind": "run", "prompt_tokens": read, "prefill_s": spent, "first_token_s": first, "steps_s": steps, **conditions})
    emit({"kind": "memory", "peak_bytes": machine.peak_memory(), "steady_bytes": machine.memory(), "before_load_bytes": before})
    loads = [] if cold else [seconds]
    while len(loads) < suite["repeats"]:
        engine.close()
        engine, again = _load(job)
        loads.append(again)
    emit({"kind": "load", "cold_s": seconds if cold else None, "load_s": loads})
    engine.close()
    from edgearte.measure.probe import bandwidth

    emit({"kind": "bandwidth", "bytes_per_s": bandwidth(engine.threads)})


def timed(suite: dict[str, Any], text: str, tokens: Callable[[str], list[int]]) -> list[Timed]:
    """What a suite has timed: each of its prompts, or the text cut to its lengths. The longest prompt comes first: its room is made before
    anything is timed."""
    read, write, turns = suite["prompt_tokens"], suite["new_tokens"], suite.get("turns", 1)
    depth, batch = suite.get("depth", 0), suite.get("batch", 1)
    if prompts := suite.get("prompts"):
        cut = sorted((tokens(prompt)[:read] for prompt in prompts), key=len, reverse=True)
        return [Timed([], [ids], write, batch) for ids in cut]
    ids = passage(tokens, text, depth + turns * read)
    return [Timed(ids[:depth], [ids[depth + k * read :][:read] for k in range(turns)], write, batch)]


def answer(job: dict[str, Any], emit: Callable[[dict[str, Any]], None]) -> None:
    """Continue the prompts greedily. Records: one `answer` each, as they end."""
    from edgearte.measure.rows import Continuation, Row

    def done(index: int, written: Continuation) -> None:
        emit({"kind": "answer", "index": index, "text": written.text, "prompt_tokens": written.prompt_tokens,
              "new_tokens": written.new_tokens, "ended": written.ended})  # fmt: skip

    engine, _ = _load(job)
    rows = [Row(text=p["text"], prefix=p.get("prefix", "")) for p in job["prompts"]]
    engine.generate(rows, max_tokens=job["max_tokens"], stop=job["stop"], done=done)


def probe(job: dict[str, Any], emit: Callable[[dict[str, Any]], None]) -> None:
    """Find out what the device can do. Records: `machine`, `probe`."""
    from edgearte.measure.probe import probe

    threads = job["threads"] or machine.cores()
    emit({"kind": "machine", "machine": machine.describe(), "threads": threads})
    emit({"kind": "probe", **probe(threads)})


def passage(tokens: Callable[[str], list[int]], text: str, length: int) -> list[int]:
    """Exactly `length` token ids of a text, repeated as often as that takes: the same every time."""
    copies = -(-length // max(len(tokens(text)) - 1, 1))
    return tokens(text * copies)[:length]


def _engine(job: dict[str, Any]) -> type[Engine]:
    """The engine of the job's runtime, with the runtime's libraries loaded."""
    if job["runtime"] == "llama.cpp":
        from edgearte.measure import llamacpp, llamalib

        llamalib.library()
        return llamacpp.Engine
    if job["runtime"] in ("onnxruntime-genai", "transformers.js"):  # a folder for a browser is read by both
        from edgearte.measure import genai

        genai.library()
        return genai.Engine
    raise UserError(f"no runtime called {job['runtime']!r}; known: llama.cpp, onnxruntime-genai, transformers.js")


def _load(job: dict[str, Any]) -> tuple[Engine, float]:
    """The artifact, ready, and the seconds it took to load (the runtime's own libraries apart)."""
    engine = _engine(job)
    mark(LOADING)
    start = time.perf_counter()
    loaded = engine(Path(job["artifact"]), threads=job["threads"])
    spent = time.perf_counter() - start
    mark(LOADED)
    return loaded, spent


def _own_stdout() -> Any:
    """Standard output for records alone: whatever a runtime prints there goes to standard error."""
    records = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return records


def _tether() -> None:
    while os.read(0, 1):  # not sys.stdin: its lock, held here, would be missed when the interpreter shuts down
        pass
    os._exit(3)


if __name__ == "__main__":
    sys.exit(main())
