"""The learning rate: no step of any training is taken at rate 0."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgearte.records import Example, Pair
from edgearte.store import Store
from edgearte.train import distill, dpo, sft
from edgearte.train.common import read_log
from edgearte.train.schedule import Decay, share

EXAMPLES = [Example(str(k), f"command {k}", f"<ans>{k}</ans>", str(k), "") for k in range(6)]


@given(st.integers(1, 200), st.floats(0, 1), st.sampled_from(["linear", "cosine"]))
def test_every_step_has_a_rate(total: int, warmup: float, decay: Decay) -> None:
    rates = [share(step, total, warmup, decay) for step in range(total)]
    assert all(0 < rate <= 1 for rate in rates)
    rising = round(warmup * total)
    assert rates[:rising] == sorted(rates[:rising]) and rates[rising:] == sorted(rates[rising:], reverse=True)
    assert rising == total or rates[rising] == 1


def test_the_warm_up_is_not_rounded_up_and_its_first_step_counts() -> None:
    assert [share(k, 3, 0.1, "linear") for k in range(3)] == pytest.approx([1, 2 / 3, 1 / 3])
    assert [share(k, 10, 0.2, "linear") for k in range(4)] == pytest.approx([1 / 3, 2 / 3, 1, 7 / 8])
    assert [share(k, 4, 0.0, "cosine") for k in range(4)] == pytest.approx([1, 0.8535534, 0.5, 0.1464466])


@pytest.mark.parametrize("trainer", ["sft", "dpo", "on-policy"])
def test_three_steps_of_any_trainer_teach(tiny_model: Path, tmp_path: Path, trainer: str) -> None:
    """With transformers' own schedule the first of three steps had the rate 0."""
    store, rate = Store(tmp_path), 1e-3
    asked = sft.rows(EXAMPLES, lambda text: f"Question: {text}\nAnswer:")
    if trainer == "sft":
        how = sft.Settings(rate, epochs=1, batch=2, lora_rank=0, warmup=0.1, max_tokens=100, seed=1)
        taught = sft.train(tiny_model, "tiny", asked, how, store, label="t")
    elif trainer == "dpo":
        pairs = [Pair("question", e.input, e.completion, " no", 1, 0, "a", "b") for e in EXAMPLES]
        align = dpo.Settings(
            beta=0.1, learning_rate=rate, min_steps=3, max_steps=3, patience=3, batch=2, micro_batch=2, lora_rank=0, sft=0.0,
            length_normalised=False, label_smoothing=0.0, dtype="float32", seed=1,
        )  # fmt: skip
        taught = dpo.align(tiny_model, "tiny", pairs, align, store, label="t")
    else:
        on_policy = distill.Settings(rate, 1, 2, 0, 0.1, 0.5, 1.0, 4, "float32", 1)
        prompts = [row["prompt"] for row in asked]
        taught = distill.distill(tiny_model, "s", tiny_model, "t", prompts, on_policy, store, label="t")
    rates = [point["learning_rate"] for point in read_log(taught).curve]
    cosine = [rate, 0.75 * rate, 0.25 * rate]
    assert rates == pytest.approx(cosine if trainer == "dpo" else [rate, rate * 2 / 3, rate / 3])
