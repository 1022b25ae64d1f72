"""Mixed precision: what an error costs is foretold, and a size is spent where it counts."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgearte.convert import converters, mixed, sensitivity
from edgearte.convert.mixed import Option
from edgearte.convert.sensitivity import Use
from edgearte.errors import UserError
from tests import tiny

TEXTS = [f"{command} -> {label}" for label, commands in tiny.COMMANDS.items() for command in commands]
tables = st.lists(st.lists(st.tuples(st.integers(1, 20), st.integers(1, 20)), min_size=1, max_size=3), min_size=1, max_size=4)


@settings(deadline=None, max_examples=40)
@given(tables, st.integers(1, 60), st.booleans())
def test_what_is_chosen_is_what_trying_everything_finds(table: list[list[tuple[int, int]]], most: int, bytes: bool) -> None:
    found = {f"t{k}": [Option(f"{n}", cost, size, 1) for n, (cost, size) in enumerate(some)] for k, some in enumerate(table)}
    fitting = [o for o in product(*table) if sum(x[1] if bytes else x[0] for x in o) <= most]
    limit = {"bytes": float(most)} if bytes else {"nats": float(most)}
    if not fitting:
        with pytest.raises(UserError, match="no choice of types fits"):
            mixed.choose(found, **limit)
        return
    chosen = mixed.choose(found, **limit).values()
    assert sum(o.bytes if bytes else o.cost for o in chosen) <= most
    best = min(sum(x[0] if bytes else x[1] for x in o) for o in fitting)
    assert sum(o.cost if bytes else o.bytes for o in chosen) <= best * 1.01


def test_an_error_costs_what_its_row_and_column_say() -> None:
    error = np.array([[0, 2], [1, 0], [0, 0]], np.float32)
    uses = [Use(np.array([1.0, 10.0, 100.0]), np.array([3.0, 5.0])), Use(np.array([1.0, 0.0, 0.0]), np.array([1.0, 1.0]))]
    assert sensitivity.cost(uses, error) == pytest.approx(1 * 5 * 4 + 10 * 3 * 1 + 4)


def test_the_loss_foretold_is_the_one_that_is_measured(tiny_model: Path, tmp_path: Path) -> None:
    """Of every weight alone, disturbed at random: what matters within a factor of two and a half, and all in the right order."""
    import torch
    from scipy.stats import spearmanr
    from transformers import AutoModelForCausalLM, AutoTokenizer

    converters.to_gguf(tiny_model, "0" * 64, tmp_path / "f16.gguf")
    uses = sensitivity.measure(tiny_model, tmp_path / "f16.gguf", TEXTS * 3)
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    ids = torch.tensor([[token for text in TEXTS for token in tokenizer(text)["input_ids"]][:512]])
    with torch.no_grad():
        exact = model(ids).logits[0].log_softmax(-1)
        torch.manual_seed(0)
        pairs = []
        layers = {f"blk.{k}.{name}.weight": module for k, layer in enumerate(model.model.layers) for name, module in (
            ("attn_q", layer.self_attn.q_proj), ("attn_v", layer.self_attn.v_proj), ("attn_output", layer.self_attn.o_proj),
            ("ffn_gate", layer.mlp.gate_proj), ("ffn_up", layer.mlp.up_proj), ("ffn_down", layer.mlp.down_proj))}  # fmt: skip
        for name, module in {**layers, "token_embd.weight": model.model.embed_tokens}.items():
            weight = module.weight
            kept, error = weight.clone(), torch.randn_like(weight) * weight.std() * 0.05
            weight += error
            moved = model(ids).logits[0].log_softmax(-1)
            weight.copy_(kept)
            measured = float((exact.exp() * (exact - moved)).sum(-1).mean())
            pairs.append((sensitivity.cost(uses[name], error.numpy()), measured))
    most = max(b for _, b in pairs)  # what costs next to nothing cannot be foretold so well
    ratios = {name: a / b for name, (a, b) in zip([*layers, "token_embd"], pairs, strict=True) if b > most / 100}
    assert len(ratios) >= 3
    assert not {name: r for name, r in ratios.items() if not 0.4 < r < 2.5}
    foretold, measured_ = map(np.array, zip(*pairs, strict=True))
    assert spearmanr(foretold, measured_).statistic > 0.9


def test_a_size_is_spent_where_it_counts(tiny_model: Path, tmp_path: Path) -> None:
    f16 = tmp_path / "f16.gguf"
    converters.to_gguf(tiny_model, "0" * 64, f16)
    uses = sensitivity.measure(tiny_model, f16, TEXTS)
    found = mixed.options(f16, uses, None, {"token_embd.weight": 0.5}, tmp_path)
    assert {o.type for some in found.values() for o in some} <= {*mixed.BY_32, *mixed.BY_256}
    for some in found.values():
        by_type = {o.type: o for o in some}
        assert by_type["f16"].cost < by_type["q8_0"].cost < by_type["q4_0"].cost
    like = tmp_path / "q5_0.gguf"
    converters.quantize(f16, like, "q8_0", None, dict.fromkeys(found, "q5_0"))
    same_size = mixed.choose(found, **mixed.limits(found, {"size_of": "q5_0"}, like))
    plain = mixed.limits(found, {"kl_of": "q5_0"}, like)["nats"]
    assert plain == pytest.approx(sum(next(o.cost for o in some if o.type == "q5_0") for some in found.values()))
    assert sum(o.cost for o in same_size.values()) < 0.9 * plain
    same_loss = mixed.choose(found, nats=plain)
    assert sum(o.bytes for o in same_loss.values()) < mixed.limits(found, {"size_of": "q5_0"}, like)["bytes"]
    slow = {"q5_0": 2.0, "q5_1": 1.0, "q8_0": 4.0}  # a machine on which a type of more bits is faster
    timed = {name: [replace(o, seconds=o.elements * slow.get(o.type, 9.0)) for o in some] for name, some in found.items()}
    limit = mixed.limits(timed, {"speed_of": "q5_0", "share": 0.9}, like)
    same_time = mixed.choose(timed, **limit)
    assert sum(o.seconds for o in same_time.values()) <= 0.9 * sum(2.0 * o.elements for o in same_time.values()) * (1 + 1e-9)
    assert max(same_time.values(), key=lambda o: o.elements).type == "q5_1"
    assert sum(o.cost for o in same_time.values()) < 0.9 * plain


def test_the_time_of_a_weight_is_told_from_whole_files(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import gguf

    monkeypatch.setattr(mixed, "BY_32", ("q4_0", "q8_0"))
    f16, slow = tmp_path / "f16.gguf", {"q4_0": 2.0, "q8_0": 5.0}
    converters.to_gguf(tiny_model, "0" * 64, f16)
    names = [t.name for t in gguf.GGUFReader(f16).tensors if len(t.shape) == 2]

    def token(path: Path) -> float:
        return 1e3 + sum(int(t.n_elements) * slow[t.tensor_type.name.lower()] for t in gguf.GGUFReader(path).tensors if t.name in names)

    found = mixed.speeds(f16, names, tmp_path, token)
    weights = sum(int(t.n_elements) for t in gguf.GGUFReader(f16).tensors if t.name in names)
    assert found == pytest.approx({type: slow[type] + 1e3 / weights for type in slow})


def test_weights_are_not_rounded_back_to_where_they_came_from() -> None:
    """Taught weights lie a little beside the grid that they were stored on: nearer to it than to a finer one."""
    usual = [Option("q4_0", 4.0, 18, 32), Option("q4_1", 3.0, 20, 32), Option("q5_1", 0.8, 24, 32), Option("q8_0", 0.01, 34, 32)]
    assert mixed._with_birthplace(usual) == usual
    born = mixed._with_birthplace([replace(o, cost=0.1) if o.type == "q4_1" else o for o in usual])
    assert [o.type for o in born if o.born] == ["q4_1"]
    assert mixed.choose({"a": born}, bytes=21)["a"].type == "q4_0"
    assert mixed.choose({"a": born}, nats=3.5)["a"].type == "q5_1"
