"""DPO on the tiny model: the loss and the margins are the formula's, pairs count their weight, and held-out pairs tell when to stop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import exp, log, log1p
from pathlib import Path
from typing import Any

import pytest

from edgearte.errors import UserError
from edgearte.records import Pair
from edgearte.store import Store
from edgearte.train import dpo
from edgearte.train.common import Trained, read_log

PAIRS = [
    Pair("question", "Write a command about music:", " play some jazz", " what is the weather in the town", 1, 0, "a", "b"),
    Pair("question", "Write a command about the lights, please:", " switch on the lamp over there", " no", 1, 0, "c", "d"),
    Pair("rationale", "Write a command about music:", " louder", " quieter than it was before", 1, 0, "e", "f"),
]
SETTINGS = dpo.Settings(
    beta=0.5, learning_rate=1e-2, min_steps=4, max_steps=8, patience=2, batch=3, micro_batch=2, lora_rank=0, sft=0.0,
    length_normalised=False, label_smoothing=0.0, dtype="float32", seed=1,
)  # fmt: skip


def swapped(pairs: Sequence[Pair]) -> list[Pair]:
    return [replace(p, chosen=p.rejected, rejected=p.chosen) for p in pairs]


def held(pairs: Sequence[Pair]) -> list[Pair]:
    return [replace(p, held_out=True) for p in pairs]


def aligned(model: Path, where: Path, pairs: Sequence[Pair], **changed: Any) -> tuple[Path, Trained]:
    folder = dpo.align(model, "tiny", pairs, replace(SETTINGS, **changed), Store(where), label="align")
    return folder, read_log(folder)


def loaded(folder: Path) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), AutoTokenizer.from_pretrained(folder)


def log_probs(folder: Path, prompt: str, answer: str) -> list[float]:
    """Of the answer's tokens, and of the end after them."""
    import torch

    model, tokenizer = loaded(folder)
    start = len(tokenizer(prompt)["input_ids"])
    ids = [*tokenizer(prompt + answer)["input_ids"], tokenizer.eos_token_id]
    with torch.no_grad():
        found = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    return [float(found[i - 1, ids[i]]) for i in range(start, len(ids))]


def same_weights(one: Path, other: Path) -> bool:
    """As they are saved: in bfloat16."""
    import torch

    mine, its = (loaded(folder)[0].state_dict() for folder in (one, other))
    return all(torch.equal(mine[name].bfloat16(), its[name].bfloat16()) for name in mine)


def preference(folder: Path) -> float:
    """By how much the chosen are more probable than the rejected, in nats."""
    return sum(sum(log_probs(folder, p.prompt, p.chosen)) - sum(log_probs(folder, p.prompt, p.rejected)) for p in PAIRS)


@pytest.mark.parametrize("rank", [0, 4])
def test_it_starts_at_its_own_reference_and_learns_the_preference(tiny_model: Path, tmp_path: Path, rank: int) -> None:
    _, tokenizer = loaded(tiny_model)
    _, found = aligned(tiny_model, tmp_path, PAIRS, lora_rank=rank)
    read = sum(len(tokenizer(p.prompt + text)["input_ids"]) + 1 for p in PAIRS for text in (p.chosen, p.rejected))
    assert (found.examples, found.steps, found.tokens) == (3, 4, 4 * read)
    assert not found.held_out and found.best_step is None
    assert found.curve[0]["loss"] == pytest.approx(0.693147, abs=1e-5)  # the model is its own reference
    assert found.curve[0]["margin"] == pytest.approx(0, abs=1e-4)
    assert found.curve[-1]["loss"] < found.curve[0]["loss"] - 1e-4
    assert found.curve[-1]["margin"] > 0 and found.curve[-1]["accuracy"] > 0.5


def test_the_step_is_that_of_trl(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import trl

    _, ours = aligned(tiny_model, tmp_path / "ours", PAIRS)
    monkeypatch.setattr(dpo, "_trainer", lambda settings: trl.DPOTrainer)
    _, theirs = aligned(tiny_model, tmp_path / "theirs", PAIRS)
    for mine, other in zip(ours.curve, theirs.curve, strict=True):
        assert mine == pytest.approx(other, rel=1e-4, abs=1e-5)
    assert ours.tokens == theirs.tokens


def test_swapped_pairs_teach_the_opposite(tiny_model: Path, tmp_path: Path) -> None:
    before = preference(tiny_model)
    learned, _ = aligned(tiny_model, tmp_path, PAIRS)
    opposite, _ = aligned(tiny_model, tmp_path, swapped(PAIRS))
    assert preference(opposite) < before - 1 < before + 1 < preference(learned)


@pytest.mark.parametrize("rank", [0, 4])
def test_pairs_of_no_weight_and_held_out_pairs_are_not_learned_from(tiny_model: Path, tmp_path: Path, rank: int) -> None:
    pairs = [*(replace(p, weight=0.0) for p in PAIRS), *held(PAIRS)]
    folder, found = aligned(tiny_model, tmp_path, pairs, lora_rank=rank)
    assert (found.examples, found.best_step) == (3, 0)
    assert [point["loss"] for point in found.held_out] == pytest.approx([log(2)] * len(found.held_out), abs=1e-6)
    assert same_weights(folder, tiny_model)


def test_a_loss_counts_its_pairs_weight(tiny_model: Path, tmp_path: Path) -> None:
    pairs = [replace(p, weight=w) for p, w in zip(PAIRS, (1.0, 0.5, 0.0), strict=True)]
    _, found = aligned(tiny_model, tmp_path, pairs)
    assert found.curve[0]["loss"] == pytest.approx(log(2) * 1.5 / 3, abs=1e-5)


@pytest.mark.parametrize(("rank", "least", "steps"), [(0, 1, 2), (4, 5, 5)])
def test_where_held_out_pairs_gain_nothing_it_stops_and_stays_the_teacher_it_was(
    tiny_model: Path, tmp_path: Path, rank: int, least: int, steps: int
) -> None:
    """The held-out pairs contradict: after `patience` looks it ends, but not before `min_steps`."""
    folder, found = aligned(tiny_model, tmp_path, PAIRS + held(swapped(PAIRS)), lora_rank=rank, min_steps=least)
    assert (found.steps, found.best_step) == (steps, 0)
    losses = [point["loss"] for point in found.held_out]
    assert losses[0] == pytest.approx(log(2), abs=1e-5) and min(losses[1:]) > losses[0] + 1e-3
    assert found.held_out[-1]["accuracy"] < 0.5 and found.held_out[-1]["margin"] < 0
    assert same_weights(folder, tiny_model)


@pytest.mark.parametrize("rank", [0, 4])
def test_the_best_point_is_kept(tiny_model: Path, tmp_path: Path, rank: int) -> None:
    """One held-out pair of three contradicts, and counts less: at first the others' gain is greater, later its loss is. What is saved gives
    the lowest loss of the curve, and not the last."""
    mixed = [*PAIRS[:2], replace(swapped(PAIRS)[2], weight=0.3)]
    folder, found = aligned(
        tiny_model, tmp_path, PAIRS + held(mixed), lora_rank=rank, max_steps=32, min_steps=16, patience=16, learning_rate=3e-3
    )
    losses = [point["loss"] for point in found.held_out]
    assert found.best_step and losses[0] > min(losses) + 1e-3 and losses[-1] > min(losses) + 1e-3
    assert found.held_out[losses.index(min(losses))]["step"] == found.best_step

    def margin(p: Pair) -> float:
        ratios = [sum(log_probs(folder, p.prompt, t)) - sum(log_probs(tiny_model, p.prompt, t)) for t in (p.chosen, p.rejected)]
        return SETTINGS.beta * (ratios[0] - ratios[1])

    saved = sum(p.weight * log1p(exp(-margin(p))) for p in mixed) / sum(p.weight for p in mixed)
    assert saved == pytest.approx(min(losses), abs=0.02)  # saved in bfloat16


def test_a_margin_and_a_loss_are_the_formulas() -> None:
    import torch

    found = [torch.tensor(x) for x in ([-1.0, -2.0], [-3.0, -1.0, -2.0, -2.0], [-1.0], [-2.0, -2.0])]
    reference = torch.tensor([[-5.0, -6.0], [-1.0, -2.0]])
    plain = dpo.margins(found, reference, SETTINGS)
    assert plain.tolist() == pytest.approx([0.5 * (2 - -2), 0.5 * (0 - -2)])
    a_token = dpo.margins(found, reference, replace(SETTINGS, length_normalised=True))
    assert a_token.tolist() == pytest.approx([0.5 * (2 / 2 - -2 / 4), 0.5 * (0 - -2 / 2)])
    doubted = dpo.losses(plain, replace(SETTINGS, label_smoothing=0.1))
    right, wrong = log1p(exp(-2)), log1p(exp(2))
    assert dpo.losses(plain, SETTINGS)[0].item() == pytest.approx(right)
    assert doubted[0].item() == pytest.approx(0.9 * right + 0.1 * wrong)


def test_the_chosen_texts_own_loss_makes_them_more_probable(tiny_model: Path, tmp_path: Path) -> None:
    folder, found = aligned(tiny_model, tmp_path, PAIRS, sft=2.0)
    nll = [-sum(x) / len(x) for x in (log_probs(tiny_model, p.prompt, p.chosen) for p in PAIRS)]
    assert found.curve[0]["loss"] == pytest.approx(log(2) + 2 * sum(nll) / 3, rel=1e-4)
    plain, _ = aligned(tiny_model, tmp_path, PAIRS)

    def chosen(folder: Path) -> float:
        return sum(sum(log_probs(folder, p.prompt, p.chosen)) for p in PAIRS)

    assert chosen(folder) > chosen(plain) + 1 and chosen(folder) > chosen(tiny_model) + 1


def test_few_pairs_are_seen_again_and_again_many_once() -> None:
    how = replace(SETTINGS, batch=16, min_steps=8, max_steps=64)
    assert [dpo.planned(n, 4, how) for n in (1, 100, 1024, 1025, 5000)] == [64, 64, 64, 65, 313]
    assert [dpo.planned(n, 0, how) for n in (1, 100, 200, 5000)] == [8, 8, 13, 313]


def test_it_says_where_no_pair_is_left_to_learn_from(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="of 3 pairs none is left to learn from"):
        aligned(tiny_model, tmp_path, held(PAIRS))
