"""The llama.cpp backend: GGUF files, many rows side by side, patterns through llguidance."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgearte.errors import UserError
from edgearte.lm.base import Completion, Prompt, Sampling, Score

if TYPE_CHECKING:
    from edgearte.measure.llamacpp import Engine
    from edgearte.measure.rows import Logits
    from edgearte.store import Store

ROWS = 32  # decoded side by side: a processor is then two thirds as fast as in reading, and more rows bring little


class LlamaCpp:
    """A GGUF file run by llama.cpp. Loaded at the first call, so that a build found in the store loads nothing.

    `identity` names the file by content (its sha256); `threads` 0 means the physical cores.
    """

    def __init__(self, path: Path, identity: str, *, threads: int = 0) -> None:
        self.path = path
        self.identity = f"{identity}:llama.cpp"
        self._threads = threads
        self._loaded: Engine | None = None
        self._patterns: Any = None

    @property
    def engine(self) -> Engine:
        if self._loaded is None:
            with _patient_threads():
                from edgearte.measure.llamacpp import Engine

                self._loaded = Engine(self.path, threads=self._threads, parallel=ROWS)
        return self._loaded

    def release(self) -> None:
        """Give the memory back; the next call loads again."""
        self._patterns = None
        if self._loaded is not None:
            self._loaded.close()
            self._loaded = None

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Completion]:
        from edgearte.measure.rows import Row

        rows = [Row(p.text, p.prefix, p.seed, self._constraint(p.pattern) if p.pattern else None) for p in prompts]
        written = self.engine.generate(
            rows,
            max_tokens=sampling.max_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            stop=sampling.stop,
        )
        return [Completion(w.text, w.prompt_tokens, w.new_tokens, w.ended) for w in written]

    def loglikelihood(self, pairs: Sequence[tuple[Prompt, str]]) -> list[Score]:
        from edgearte.measure.rows import Row

        rows = [(Row(prompt.text, prompt.prefix), continuation) for prompt, continuation in pairs]
        return [Score(logprob, tokens) for logprob, tokens in self.engine.score(rows)]

    def chat(self, messages: Sequence[dict[str, str]]) -> str:
        template = self.engine.metadata("tokenizer.chat_template")
        if not template:
            raise UserError(f"{self.path}: this model has no chat template; use style: continuation for it")
        specials = {f"{name}_token": self._special(name) for name in ("bos", "eos")}
        return render(template, messages, specials, str(self.path))

    def _special(self, name: str) -> str:
        token = self.engine.special(name)
        return self.engine.piece(token, special=True).decode("utf-8", "replace") if token >= 0 else ""

    def _constraint(self, pattern: str) -> Pattern:
        if self._patterns is None:
            self._patterns = grammar_tokenizer(self.engine)
        return Pattern(self._patterns, pattern)


class Pattern:
    """A regular expression that the whole completion must match; the automaton is llguidance's."""

    def __init__(self, tokenizer: Any, pattern: str) -> None:
        import llguidance
        import llguidance.numpy as bits

        self._matcher = llguidance.LLMatcher(tokenizer, llguidance.LLMatcher.grammar_from_regex(pattern))
        if self._matcher.is_error():
            raise UserError(f"pattern {pattern!r}: {self._matcher.get_error()}")
        self._bitmask = bits.allocate_token_bitmask(1, tokenizer.vocab_size)

    def mask(self, logits: Logits) -> None:
        import llguidance.numpy as bits
        import numpy as np

        bits.fill_next_token_bitmask(self._matcher, self._bitmask, 0)
        allowed = np.unpackbits(self._bitmask[0].view(np.uint8), count=len(logits), bitorder="little")
        logits[allowed == 0] = -np.inf

    def accept(self, token: int) -> bool:
        self._matcher.consume_token(token)
        if self._matcher.is_error():
            raise RuntimeError(f"llguidance: {self._matcher.get_error()}")
        return bool(self._matcher.is_stopped())


def as_gguf(folder: Path, identity: str, texts: Sequence[str], store: Store) -> Path:
    """The checkpoint in `folder` as a GGUF file in q8_0, made once and kept in the store; `UserError` where it cannot be made, or a gate
    finds on `texts` that it is not the same model."""
    from edgearte.convert.export import export
    from edgearte.convert.presets import load_preset

    (made,) = export(folder, identity, [load_preset("q8_0")], texts, store)
    if made.failed:
        raise UserError(f"the teacher cannot write by llama.cpp: {made.failed}; set teacher.runtime to transformers")
    return Path(made.path)


def grammar_tokenizer(engine: Engine) -> Any:
    """The vocabulary of a GGUF file as llguidance wants it; about a second."""
    try:
        import llguidance.llamacpp
    except ImportError as error:
        raise UserError(f"patterns need llguidance ({error}): pip install llguidance") from error
    ends = [token for token in range(engine.vocabulary) if engine.ends(token)]
    eos = engine.special("eos")
    ordered = [eos, *(token for token in ends if token != eos)] if eos in ends else ends
    with warnings.catch_warnings():  # it asks for each token's attributes through a deprecated name
        warnings.simplefilter("ignore", DeprecationWarning)
        return llguidance.llamacpp.lltokenizer_from_vocab(engine.vocab, eos_token=ordered)


def render(template: str, messages: Sequence[dict[str, str]], specials: dict[str, str], where: str) -> str:
    """A chat template applied as transformers applies it: the same sandbox, whitespace rules and helper functions."""
    import json
    from datetime import datetime

    from jinja2.exceptions import TemplateError
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %}` marks the assistant's words for training; here only what is inside counts."""

        tags = {"generation"}  # noqa: RUF012 (jinja2's own form)

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    def refuse(message: str) -> None:
        raise TemplateError(message)

    def tojson(value: Any, **options: Any) -> str:
        return json.dumps(value, **{"ensure_ascii": False, **options})

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, Generation]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    try:
        return environment.from_string(template).render(
            messages=list(messages), add_generation_prompt=True, tools=None, documents=None, **specials
        )
    except TemplateError as error:
        raise UserError(f"{where}: its chat template does not accept this conversation: {error}") from error


@contextlib.contextmanager
def _patient_threads() -> Iterator[None]:
    """Threads that sleep at a barrier instead of spinning, for the OpenMP that llama.cpp brings: ten times faster where
    other work shares the cores, a little slower where none does. The library reads the variable once, when it is
    loaded."""
    before = os.environ.get("OMP_WAIT_POLICY")
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("OMP_WAIT_POLICY", None)
