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
BATCH = 256  # tokens read at once: what a runtime keeps of them is 4 bytes for every word of the vocabulary
# Both runtimes wait for their threads by spinning: on a busy machine a thread more than there are cores costs tenfold.
THREADS = max(1, (os.cpu_count() or 1) // 2)
AFTER = 16  # tokens an artifact may add to a finished answer before it has to stop
STEPS = 8  # tokens that prompts are answered with in a batch


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

    def logits(self, ids: list[int], last: int) -> Logits:
        """Positions × vocabulary, of the `last` positions; what is long is read in parts, each after what it read before."""
        ...

    def greedy(self, ids: list[int], most: int) -> tuple[list[int], bool]:
        """The next tokens, the one that stopped the runtime included, and whether one did."""
        ...

    def greedy_together(self, prompts: list[list[int]], most: int) -> list[list[int]]:
        """The next tokens of prompts of several lengths, read and answered in one batch; what follows an end counts for nothing."""
        ...


class LlamaCpp:
    def __init__(self, path: str, context: int) -> None:
        import llama_cpp

        self.api = llama_cpp
        self.model: Any = llama_cpp.Llama(path, n_ctx=context, n_batch=BATCH, n_threads=THREADS, n_threads_batch=THREADS)
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

    def logits(self, ids: list[int], last: int) -> Logits:
        import numpy as np

        self.model._ctx.kv_cache_clear()
        found: list[Logits] = []
        for start in range(0, len(ids), BATCH):
            part = ids[start : start + BATCH]
            wanted = start + len(part) > len(ids) - last
            self._decode(self.model._ctx, [(token, start + i, 0, wanted) for i, token in enumerate(part)])
            if wanted:
                rows = self.api.llama_get_logits(self.model.ctx)
                found.append(np.ctypeslib.as_array(rows, shape=(len(part), self.model.n_vocab())).copy())
        self.model.reset()
        return np.concatenate(found)[-last:]

    def greedy(self, ids: list[int], most: int) -> tuple[list[int], bool]:
        said: list[int] = []
        for token in self.model.generate(ids, temp=0.0, repeat_penalty=1.0):
            said.append(int(token))
            if self.stops_at(token):
                return said, True
            if len(said) == most:
                break
        return said, False

    def greedy_together(self, prompts: list[list[int]], most: int) -> list[list[int]]:
        from llama_cpp._internals import LlamaContext

        params = self.api.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = sum(map(len, prompts)) + most * len(prompts)
        params.n_seq_max, params.kv_unified, params.n_threads, params.n_threads_batch = len(prompts), True, THREADS, THREADS
        context: Any = LlamaContext(model=self.model._model, params=params, verbose=False)
        said: list[list[int]] = [[] for _ in prompts]
        unread = [(t, i, k, i == len(ids) - 1) for k, ids in enumerate(prompts) for i, t in enumerate(ids)]
        for step in range(most):
            self._decode(context, unread)
            ends = [i for i, (*_, wanted) in enumerate(unread) if wanted]
            for k, at in enumerate(ends):
                said[k].append(self._best(context.get_logits_ith(at)))
            unread = [(tokens[-1], len(ids) + step, k, True) for k, (ids, tokens) in enumerate(zip(prompts, said, strict=True))]
        context.close()
        return said

    def _best(self, row: Any) -> int:
        import numpy as np

        return int(np.ctypeslib.as_array(row, shape=(self.model.n_vocab(),)).argmax())

    def _decode(self, context: Any, tokens: Sequence[tuple[int, int, int, bool]]) -> None:
        """Read tokens, each with its position, its sequence, and whether its logits are wanted."""
        from llama_cpp._internals import LlamaBatch

        held: Any = LlamaBatch(n_tokens=len(tokens), embd=0, n_seq_max=1, verbose=False)
        batch = held.batch
        batch.n_tokens = len(tokens)
        for i, (token, position, sequence, wanted) in enumerate(tokens):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0], batch.logits[i] = token, position, 1, sequence, wanted
        context.decode(held)
        held.close()


class GenAI:
    def __init__(self, path: str, context: int) -> None:
        import onnxruntime_genai

        self.api = onnxruntime_genai
        settings = onnxruntime_genai.Config(path)
        session = {"session_options": {"intra_op_num_threads": THREADS}}
        settings.overlay(json.dumps({"model": {"decoder": session}}))
        self.model: Any = onnxruntime_genai.Model(settings)
        self.tokenizer: Any = onnxruntime_genai.Tokenizer(self.model)
        config = json.loads((Path(path) / "genai_config.json").read_text("utf-8"))
        self.config: dict[str, Any] = config["model"]
        self.context = min(context, self.config["context_length"])

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

    def _generator(self, prompts: list[list[int]]) -> Any:
        import numpy as np

        params = self.api.GeneratorParams(self.model)
        params.set_search_options(do_sample=False, max_length=self.context, repetition_penalty=1.0, batch_size=len(prompts))
        generator = self.api.Generator(self.model, params)
        longest, pad = max(map(len, prompts)), self.config["pad_token_id"]
        rows = [ids + [pad] * (longest - len(ids)) for ids in prompts]  # its own side: padded on the left it answers another prompt
        generator.append_tokens(np.array(rows, dtype=np.int32))
        return generator

    def logits(self, ids: list[int], last: int) -> Logits:
        import numpy as np

        generator = self._generator([ids[:BATCH]])
        found: list[Logits] = [generator.get_output("logits")[0]]
        for start in range(BATCH, len(ids), BATCH):
            generator.append_tokens(np.array(ids[start : start + BATCH], dtype=np.int32))
            found.append(generator.get_output("logits")[0])
        return np.concatenate(found)[-last:]

    def greedy(self, ids: list[int], most: int) -> tuple[list[int], bool]:
        generator = self._generator([ids])
        said: list[int] = []
        while len(said) < most:
            generator.generate_next_token()
            said.append(int(generator.get_next_tokens()[0]))
            if generator.is_done():
                return said, True
        return said, False

    def greedy_together(self, prompts: list[list[int]], most: int) -> list[list[int]]:
        generator, longest = self._generator(prompts), max(map(len, prompts))
        for _ in range(most):
            if not generator.is_done():
                generator.generate_next_token()
        return [[int(t) for t in generator.get_sequence(k)[longest:]] for k in range(len(prompts))]


def compare(runtime: Runtime, windows: Sequence[list[int]], logprobs: Path, last: int | None = None) -> dict[str, Any]:
    """Mean KL(checkpoint‖artifact) in nats and top-1 agreement, over every position of the windows, or the `last` ones of each."""
    import numpy as np

    reference = np.load(logprobs, mmap_mode="r")
    kl: list[float] = []
    same = 0
    at = 0
    for ids in windows:
        logits = runtime.logits(ids, min(last or len(ids), len(ids)))
        if logits.shape[-1] != reference.shape[-1]:
            return {"vocabulary": [int(reference.shape[-1]), int(logits.shape[-1])]}
        for start in range(0, len(logits), CHUNK):
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


def batched(runtime: Runtime, prompts: list[list[int]]) -> list[list[tuple[int, float]]]:
    """What is answered to prompts in a batch, each token with the nats by which the prompt alone would have made another one likelier."""
    found = []
    for prompt, said in zip(prompts, runtime.greedy_together(prompts, STEPS), strict=True):
        rows = runtime.logits(prompt + said[:-1], len(said))
        found.append([(token, float(row.max() - row[token])) for token, row in zip(said, rows, strict=True)])
    return found


def main(request: str, answer: str) -> None:
    asked = json.loads(Path(request).read_text("utf-8"))
    endings, together, long = asked["endings"], asked["together"], asked["long"]
    longest = max(len(ids) for ids in [long, *asked["windows"], *together, *(e["prompt"] + e["answer"] for e in endings)])
    kind = LlamaCpp if asked["format"] == "gguf" else GenAI
    runtime: Runtime = kind(asked["path"], longest + 2 * AFTER)
    ended = [runtime.greedy(e["prompt"] + e["answer"], AFTER) for e in endings]
    result = {
        "ids": [runtime.tokenize(text) for text in asked["strings"]],
        "templates": [runtime.render(messages, prompt) for messages, prompt in asked["conversations"]],
        "declared": runtime.declared(),
        "stops": [runtime.stops_at(token) for token in asked["eos"]],
        "endings": [{"said": said, "stopped": stopped} for said, stopped in ended],
        "together": batched(runtime, together),
        "logits": compare(runtime, asked["windows"], Path(asked["logprobs"])),
        "long": compare(runtime, [long], Path(asked["long_logprobs"]), asked["last"]),
    }
    Path(answer).write_text(json.dumps(result), "utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
