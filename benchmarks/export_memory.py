"""How much memory does an export take, against the 16-bit model?

python benchmarks/export_memory.py --model MODEL [--to f16,q8_0,q4_k_m] [--calibrate FILE] [--work FOLDER]

Runs `edgearte export` on a checkpoint (a model of another kind is made one first, which does not count) with an empty store, and watches
it and all that it starts: the most memory they held at a time, what they share counted once, as a multiple of the largest GGUF file. Ends
with 1 where that is over one and a half.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from watched import watch

from edgearte.lm import weights
from edgearte.store import Store

MOST = 1.5


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--model", required=True)
    options.add_argument("--to", default="f16,q8_0,q4_k_m")
    options.add_argument("--calibrate", type=Path)
    options.add_argument("--work", type=Path, default=Path("runs/export-memory"))
    asked = options.parse_args()
    asked.work.mkdir(parents=True, exist_ok=True)
    store = Store(asked.work / "store")
    checkpoint = weights.resolve(asked.model, store).folder
    store.close()
    with tempfile.TemporaryDirectory(dir=asked.work) as place:
        out, log = Path(place) / "out", asked.work / "export.log"
        command = [sys.executable, "-m", "edgearte.cli", "export", checkpoint, "--to", asked.to, "--out", out, "--store", f"{place}/store"]
        calibration = ["--calibrate", asked.calibrate] if asked.calibrate else []
        taken = watch([*command, *calibration], log, os.environ)
        if taken.code:
            sys.exit(f"edgearte export ended with code {taken.code}; {log} says why")
        f16 = max(path.stat().st_size for path in Path(place).rglob("*.gguf"))
    ratio = taken.peak / f16
    print(f"{asked.to}: at most {taken.peak / 1e9:.2f} GB at a time, {ratio:.2f} x the largest file of {f16 / 1e9:.2f} GB")
    return 0 if ratio <= MOST else 1


if __name__ == "__main__":
    sys.exit(main())
