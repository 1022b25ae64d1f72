"""A child process: `python -m edgearte.convert.probe REQUEST.json ANSWER.json` asks an artifact, through its
real runtime, what the gates compare. It imports neither torch nor transformers, so nothing of
the checkpoint can leak into the answer."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Logits = NDArray[np.float32]

CHUNK = 64  # positions compared at once
# Both runtimes wait for their threads by spinning: on a busy machine a thread more than there are cores costs tenfold.
THREADS = max(1, (os.cpu_count() or 1) // 2)
AFTER = 16  # tokens an artifact may add to a finished answer before it has to stop


class Runtime(Protocol):
    def declared(self) -> dict[str, list[int]]:
        """The ids the artifact itself calls EOS and BOS."""
        ...

    def stops_at(self, token: int) -> bool:
        """The runtime's own test for the end of generation."""
        ...

    def tokenize(self, text: str) -> list[int]: ...

    def render(self, messages: list[dict[str, str]], prompt: bool) -> str | None:
        """The conversation by the artifact's own chat template; None where there is none, or it refuses."""
        ...

    def logits(self, ids: list[int]) -> Logits:
        """Positions × vocabulary."""
        ...

    def greedy(self, ids: list[int], most: int) -> tuple[list[int], bool]:
        """The next tokens, the one that stopped the runtime included, and whether one did."""
        ...


class LlamaCpp:
    def __init__(self, path: str, context: int) -> None:
        import llama_cpp

        self.api = llama_cpp
        self.model: Any = llama_cpp.Llama(
            path, n_ctx=context, n_batch=context, logits_all=True, n_threads=THREADS, n_threads_batch=THREADS
        )
        self.vocab = self.model._model.vocab

    def declared(self) -> dict[str, list[int]]:
        keys = {"eos": "tokenizer.ggml.eos_token_id", "bos": "tokenizer.ggml.bos_token_id"}
        metadata = self.model.metadata
        return {name: [int(metadata[key])] if key in metadata else [] for name, key in keys.items()}

    def stops_at(self, token: int) -> bool:
        return bool(self.api.llama_vocab_is_eog(self.vocab, token))

    def tokenize(self, text: str) -> list[int]:
        return list(self.model.tokenize(text.encode(), add_bos=True, special=True))

    def render(self, messages: list[dict[str, str]], prompt: bool) -> str | None:
        from jinja2 import TemplateError
        from llama_cpp.llama_chat_format import Jinja2ChatFormatter

        template = self.model.metadata.get("tokenizer.chat_template")
        if not template:
            return None
        eos, bos = (self._text(self.declared()[name]) for name in ("eos", "bos"))
        formatter = Jinja2ChatFormatter(template, eos_token=eos, bos_token=bos, add_generation_prompt=prompt)
        try:
            return str(formatter(messages=messages).prompt)
        except (TemplateError, ValueError):
            return None

    def _text(self, ids: list[int]) -> str:
        return self.model.detokenize(ids, special=True).decode() if ids else ""

    def logits(self, ids: list[int]) -> Logits:
        self.model.reset()
        self.model.eval(ids)
        scores: Logits = self.model.scores[: len(ids)]
        return scores

    def greedy(self, ids: list[int], most: int) -> tuple[list[int], bool]:
        said: list[int] = []
        for token in self.model.generate(ids, temp=0.0, repeat_penalty=1.0):
            said.append(int(token))
            if self.stops_at(token):
                return said, True
            if len(said) == most:
                break
        return said, False


class GenAI:
    def __init__(self, path: str, context: int) -> None:
        import onnxruntime_genai

        self.api = onnxruntime_genai
        settings = onnxruntime_genai.Config(path)
        session = {"session_options": {"intra_op_num_threads": THREADS}}
        settings.overlay(json.dumps({"model": {"decoder": session}}))
        self.model: Any = onnxruntime_genai.Model(settings)
        self.tokenizer: Any = onnxruntime_genai.Tokenizer(self.model)
        self.context = context
        config = json.loads((Path(path) / "genai_config.json").read_text("utf-8"))
        self.config: dict[str, Any] = config["model"]

    def declared(self) -> dict[str, list[int]]:
        found = {name: self.config.get(f"{name}_token_id") for name in ("eos", "bos")}
        return {name: ids if isinstance(ids, list) else [ids] for name, ids in found.items() if ids is not None}

    def stops_at(self, token: int) -> bool:
        return token in self.tokenizer.eos_token_ids

    def tokenize(self, text: str) -> list[int]:
        return [int(i) for i in self.tokenizer.encode(text)]

    def render(self, messages: list[dict[str, str]], prompt: bool) -> str | None:
        try:
            return str(self.tokenizer.apply_chat_template(json.dumps(messages), add_generation_prompt=prompt))
        except RuntimeError:  # its only kind: no template, or the template refused
            return None

    def _generator(self, ids: list[int]) -> Any:
        import numpy as np

        params = self.api.GeneratorParams(self.model)
        params.set_search_options(do_sample=False, max_length=self.context, repetition_penalty=1.0)
        generator = self.api.Generator(self.model, params)
        generator.append_tokens(np.array(ids, dtype=np.int32))
        return generator

    def logits(self, ids: list[int]) -> Logits:
        scores: Logits = self._generator(ids).get_output("logits")[0]
        return scores

    def greedy(self, ids: list[int], most: int) -> tuple[list[int], bool]:
        generator = self._generator(ids)
        said: list[int] = []
        while len(said) < most:
            generator.generate_next_token()
            said.append(int(generator.get_next_tokens()[0]))
            if generator.is_done():
                return said, True
        return said, False


def compare(runtime: Runtime, windows: Sequence[list[int]], logprobs: Path) -> dict[str, Any]:
    """Mean KL(checkpoint‖artifact) in nats and top-1 agreement, over every position of the windows."""
    import numpy as np

    reference = np.load(logprobs, mmap_mode="r")
    kl: list[float] = []
    same = 0
    at = 0
    for ids in windows:
        logits = runtime.logits(ids)
        if logits.shape[-1] != reference.shape[-1]:
            return {"vocabulary": [int(reference.shape[-1]), int(logits.shape[-1])]}
        for start in range(0, len(ids), CHUNK):
            q = logits[start : start + CHUNK].astype(np.float32)
            p = np.asarray(reference[at : at + len(q)])
            at += len(q)
            q = q - q.max(axis=-1, keepdims=True)
            q -= np.log(np.exp(q).sum(axis=-1, keepdims=True, dtype=np.float64)).astype(np.float32)
            # p = 0 in fp32 means no contribution, even where q is -inf
            kl += (np.exp(p) * np.where(p > -80, p - q, 0)).sum(axis=-1, dtype=np.float64).tolist()
            same += int((p.argmax(-1) == q.argmax(-1)).sum())
    if not np.isfinite(kl).all():
        return {"not_finite": int(np.count_nonzero(~np.isfinite(kl))), "positions": at}
    return {"kl": float(np.mean(kl)), "kl_p99": float(np.quantile(kl, 0.99)), "top1": same / at, "positions": at}


def main(request: str, answer: str) -> None:
    asked = json.loads(Path(request).read_text("utf-8"))
    longest = max([len(w) for w in asked["windows"]] + [len(e["prompt"] + e["answer"]) for e in asked["endings"]])
    kind = LlamaCpp if asked["format"] == "gguf" else GenAI
    runtime: Runtime = kind(asked["path"], longest + 2 * AFTER)
    endings = [runtime.greedy(e["prompt"] + e["answer"], AFTER) for e in asked["endings"]]
    result = {
        "ids": [runtime.tokenize(text) for text in asked["strings"]],
        "templates": [runtime.render(messages, prompt) for messages, prompt in asked["conversations"]],
        "declared": runtime.declared(),
        "stops": [runtime.stops_at(token) for token in asked["eos"]],
        "endings": [{"said": said, "stopped": stopped} for said, stopped in endings],
        "logits": compare(runtime, asked["windows"], Path(asked["logprobs"])),
    }
    Path(answer).write_text(json.dumps(result), "utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
