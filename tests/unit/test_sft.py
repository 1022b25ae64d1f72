"""The student's fine-tuning on the tiny model: the loss is that of the answers alone, token by token."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgearte.records import Example
from edgearte.store import Store
from edgearte.train import common, sft
from edgearte.train.common import read_log

EXAMPLES = (
    Example("a", "play some jazz", "So it is <ans>music</ans>", "music", ""),
    Example("b", "will it rain today, and if so, how much of it", "Rain. <ans>weather</ans>", "weather", ""),
    Example("c", "switch on", "They want to see something, so it is about <ans>lights</ans>", "lights", ""),
)
SETTINGS = sft.Settings(1e-6, 1, 3, 0, 0.0, 512, 1)


@pytest.mark.parametrize("rank", [0, 4])
def test_the_loss_is_the_mean_over_the_tokens_of_all_answers(tiny_model: Path, tmp_path: Path, rank: int) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    rows = sft.rows(EXAMPLES, lambda text: f"Question: {text}\nAnswer:")
    settings = sft.Settings(**{**vars(SETTINGS), "lora_rank": rank})
    taught = sft.train(tiny_model, "tiny", rows, settings, Store(tmp_path), label="t")

    tokenizer, model = AutoTokenizer.from_pretrained(tiny_model), AutoModelForCausalLM.from_pretrained(tiny_model)
    losses: list[float] = []
    read = 0
    for row in rows:
        prompt = tokenizer(row["prompt"])["input_ids"]
        whole = tokenizer(row["prompt"] + row["completion"])["input_ids"] + [tokenizer.eos_token_id]
        logits = model(torch.tensor([whole])).logits[0].detach().log_softmax(-1)
        losses += [-float(logits[i - 1, whole[i]]) for i in range(len(prompt), len(whole))]
        read += len(whole)
    log = read_log(taught)
    assert log.curve[0]["loss"] == pytest.approx(sum(losses) / len(losses), rel=0.02)  # bfloat16 on some processors
    assert (log.steps, log.tokens, log.examples) == (1, read, 3)


@pytest.mark.parametrize(("most", "rank"), [(512, 0), (512, 4), (14, 0)])
def test_the_curve_is_that_of_trl(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int, rank: int
) -> None:
    """Also where answers are cut off, wholly (then there is nothing to learn from the example) or in part."""
    import trl

    monkeypatch.setattr(common, "bf16", lambda: False)
    rows = sft.rows(EXAMPLES * 2, lambda text: f"Question: {text}\nAnswer:")
    settings = sft.Settings(1e-3, 3, 2, rank, 0.0, most, 1)
    ours = read_log(sft.train(tiny_model, "tiny", rows, settings, Store(tmp_path / "ours"), label="t"))
    monkeypatch.setattr(sft, "_trainer", lambda *_: trl.SFTTrainer)
    theirs = read_log(sft.train(tiny_model, "tiny", rows, settings, Store(tmp_path / "theirs"), label="t"))
    assert len(ours.curve) == ours.steps == theirs.steps > 3
    for mine, other in zip(ours.curve, theirs.curve, strict=True):
        assert mine == pytest.approx(other, rel=1e-4)
    assert ours.curve[-1]["loss"] < ours.curve[0]["loss"]
    assert ours.tokens == theirs.tokens
