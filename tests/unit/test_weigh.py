"""Weights of examples: what training does with them, and that planted useless examples lose theirs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgearte.assist import steps, weigh
from edgearte.records import Example
from edgearte.setup import opened
from edgearte.store import Store
from edgearte.train import sft
from tests import tiny

HOW = sft.Settings(learning_rate=1e-2, epochs=1, batch=2, lora_rank=0, warmup=0.0, max_tokens=100, seed=1)


def weights_after(model: Path, examples: list[Example], store: Store) -> dict[str, Any]:
    from transformers import AutoModelForCausalLM

    rows = sft.rows(examples, lambda text: f"Question: {text}\nAnswer:")
    folder = sft.train(model, "tiny", rows, HOW, store, label="x")
    return dict(AutoModelForCausalLM.from_pretrained(folder, dtype="float32").state_dict())


def test_an_example_counts_as_much_as_it_weighs(tiny_model: Path, tmp_path: Path) -> None:
    import torch

    a, b = ("switch on the lamp", "It is about lights."), ("play some jazz", "It is about music.")  # as many tokens each
    store = Store(tmp_path)
    alone = weights_after(tiny_model, [Example("a", *a, "", ""), Example("a", *a, "", "")], store)
    nothing = weights_after(tiny_model, [Example("a", *a, "", "", 2.0), Example("b", *b, "", "", 0.0)], store)
    alike = weights_after(tiny_model, [Example("a", *a, "", ""), Example("b", *b, "", "")], store)
    for name, value in alone.items():
        assert torch.allclose(value, nothing[name], atol=2e-3), name
    assert any(not torch.allclose(v, alike[n], atol=2e-3) for n, v in alone.items()), "without weights the other one counts"


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=20))
def test_weights_have_mean_one_and_nothing_weighs_less_than_nothing(worth: list[float]) -> None:
    found = weigh.rectified(worth)
    assert sum(found) / len(found) == pytest.approx(1)
    assert min(found) >= 0
    if max(worth) > 0:
        assert all(w == 0 for w, x in zip(found, worth, strict=True) if x <= 0)
    else:
        assert set(found) == {1.0}, "where none helps nothing can be told"


def test_a_scorer_tells_the_useless_from_some_that_were_measured() -> None:
    import numpy as np

    chance = np.random.default_rng(0)
    useless = np.arange(60) % 3 == 0
    states = chance.normal(size=(60, 16))
    states[:, 3] += np.where(useless, -3, 3)
    worth = np.where(useless, -0.2, 0.3) + chance.normal(scale=0.05, size=60)
    places = weigh.measured(60, 0)
    assert len(places) == 20
    found = weigh.scored(states.tolist(), {k: float(worth[k]) for k in places})
    assert all(found[k] == worth[k] for k in places)
    told = [k for k in range(60) if k not in places]
    pairs = [(found[a], found[b]) for a in told if useless[a] for b in told if not useless[b]]
    assert sum(low < high for low, high in pairs) > 0.95 * len(pairs)
    assert weigh.measured(5, 0) == [0, 1, 2, 3, 4]
    assert weigh.scored(states[:1].tolist(), {0: -0.5}) == [-0.5], "one that is known needs no scorer"


@pytest.mark.parametrize("how", ["influence", "scorer"])
def test_planted_useless_examples_lose_their_weight(how: str, tiny_model: Path, tmp_path: Path) -> None:
    recipe = tiny.write_recipe(tmp_path / "task", tiny_model)
    good = [
        Example(f"good{k}", f"{command} now", f"It is about {label}. <ans>{label}</ans>", label, "")
        for k, (label, commands) in enumerate(tiny.COMMANDS.items())
        for command in commands
    ]
    useless = [Example(f"bad{k}", f"play {k} times", "zebra " * (4 + k % 3), "", "") for k in range(12)]
    # At a tenth of the recipe's rate: a student that knows its seeds by heart cannot be helped by any example.
    gently = ["prefer.learning_rate=1.0e-4", "train.learning_rate=1.0e-4"]
    with opened(recipe, [f"train.weights={how}", *gently], tmp_path / "runs", "-test") as (setup, _):
        found = steps.weighed(setup, [*good, *useless])
    weight = {kind: sum(e.weight for e in found if e.id.startswith(kind)) for kind in ("good", "bad")}
    assert weight["bad"] < 0.5 * weight["good"]
    assert sum(weight.values()) == pytest.approx(len(found))
