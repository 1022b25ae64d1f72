"""A model computes in 32 bits with weights that stay in 16: the same numbers, and never more than one layer of them widened."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma3TextConfig, LlamaConfig, MixtralConfig

from edgearte.convert import wide

SIZE: dict[str, Any] = {"vocab_size": 400, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
                        "num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 128}  # fmt: skip
MODELS: dict[str, Callable[[], Any]] = {
    "llama, tied": lambda: LlamaConfig(**SIZE, tie_word_embeddings=True, attention_bias=True),
    "gemma, which scales its words": lambda: Gemma3TextConfig(**SIZE, sliding_window=16),
    "experts in one tensor": lambda: MixtralConfig(**SIZE, num_local_experts=4, num_experts_per_tok=2),
}
IDS = torch.arange(60)[None] * 5 % 400


@pytest.fixture(params=MODELS)
def checkpoint(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(MODELS[request.param](), dtype=torch.bfloat16).save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("rows", [64, 1 << 20])
def test_the_logits_are_those_of_a_model_in_32_bits(checkpoint: Path, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wide, "ROWS", rows)
    model = wide.load(checkpoint)
    with torch.inference_mode():
        before = model(IDS).logits
        with wide.widened(model):
            logits = model(IDS).logits
        after = model(IDS).logits
        exact = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()(IDS).logits
    assert logits.dtype == torch.float32
    assert (logits - exact).abs().max() < 1e-5 * exact.abs().max()
    assert torch.equal(before, after)
    assert before.dtype == torch.bfloat16


def test_only_what_computes_is_widened(checkpoint: Path) -> None:
    model = wide.load(checkpoint)
    seen: list[int] = []
    with wide.widened(model), torch.inference_mode():
        for module in model.modules():
            module.register_forward_pre_hook(lambda *_: seen.append(sum(p.dtype == torch.float32 for p in model.parameters())))
        model(IDS)
    assert seen
    assert max(seen) <= 2  # of one module, its weight and its bias, or its experts' two
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


def test_a_model_in_32_bits_is_left_as_it_is(tmp_path: Path) -> None:
    AutoModelForCausalLM.from_config(LlamaConfig(**SIZE), dtype=torch.float32).save_pretrained(tmp_path)
    model = wide.load(tmp_path)
    with wide.widened(model):
        assert all("forward" not in vars(m) and not m._forward_pre_hooks for m in model.modules())
