"""The transformers backend on the tiny model, in float32: batching, shared prefixes, samples keyed per row, patterns."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from edgearte.lm import tree
from edgearte.lm.base import Prompt, Sampling, sharing
from edgearte.lm.hf import TransformersLM, form

QUESTIONS = (
    "play some jazz",
    "will it rain today, and if so, how much of it",
    "switch on",
    "is it sunny",
    "skip this track now",
)
EXAMPLE = "Question: switch on the lamp\nAnswer: Let's think step by step. So it is <ans>lights</ans>\nQuestion: "
OTHER = "Question: do I need a coat\nAnswer: Let's think step by step, slowly. So it is <ans>weather</ans>\nQuestion: "


@pytest.fixture(scope="module")
def lm(tiny_model: Path) -> TransformersLM:
    return TransformersLM(tiny_model, "tiny", dtype="float32")


def test_a_batch_and_a_shared_prefix_change_no_greedy_token(lm: TransformersLM) -> None:
    rows = [Prompt(q + "\nAnswer:", prefix=p) for p in (EXAMPLE, OTHER) for q in QUESTIONS]
    sampling = Sampling(12, stop=("</ans>",))
    together = lm.generate(rows, sampling)
    assert together == [lm.generate([p], sampling)[0] for p in rows]
    assert together == lm.generate([Prompt(p.prefix + p.text) for p in rows], sampling)
    assert len({c.text for c in together}) > 1


def test_a_sample_depends_on_its_row_alone(lm: TransformersLM) -> None:
    sampling = Sampling(8, temperature=1.0, top_p=0.95)
    rows = [Prompt(f"Question: {q}", seed=i) for i, q in enumerate(QUESTIONS)]
    whole = lm.generate(rows, sampling)
    assert lm.generate(rows[::-1], sampling) == whole[::-1]
    assert lm.generate(rows[2:3], sampling) == whole[2:3]
    hot = Sampling(8, temperature=3.0)
    other = lm.generate([Prompt(rows[0].text, seed=99 + i) for i in range(8)], hot)
    assert len({c.text for c in other}) > 1


def test_generation_ends_after_the_stop_text_and_counts_its_tokens(lm: TransformersLM) -> None:
    prompt = Prompt("Question: play some jazz\nAnswer:")
    whole = lm.generate([prompt], Sampling(20))[0].text
    stop = whole[12:17]
    found = lm.generate([prompt], Sampling(40, stop=(stop,)))[0]
    assert found.text == whole[: whole.find(stop) + len(stop)]
    assert found.ended == "stop"
    assert 0 < found.new_tokens < 20


def test_a_pattern_is_matched_by_the_whole_completion(lm: TransformersLM) -> None:
    patterns = [r" (yes|no), [a-z]{3,6}\.", r"\d{2}", ""]
    found = lm.generate(
        [Prompt("Answer:", pattern=p, seed=i) for i, p in enumerate(patterns)], Sampling(40, temperature=1.0)
    )
    for pattern, completion in zip(patterns[:2], found, strict=False):
        assert re.fullmatch(pattern, completion.text), completion
        assert completion.ended == "eos"


def test_likelihoods_do_not_depend_on_batch_or_prefix(lm: TransformersLM) -> None:
    pairs = [
        (Prompt(q + "\nThis is about", prefix=EXAMPLE), f" {c}")
        for q in QUESTIONS
        for c in ("lights", "music and more")
    ]
    together = lm.loglikelihood(pairs)
    for (prompt, continuation), score in zip(pairs, together, strict=True):
        alone = lm.loglikelihood([(Prompt(prompt.prefix + prompt.text), continuation)])[0]
        assert score.logprob == pytest.approx(alone.logprob, abs=1e-3)
        assert score.tokens == alone.tokens
    assert lm.loglikelihood(pairs[:2]) != lm.loglikelihood(pairs[2:4])


def test_a_likelihood_is_the_sum_of_log_probabilities(lm: TransformersLM) -> None:
    import torch

    ids = lm.tokenizer("Question: play some", return_tensors="pt")["input_ids"]
    end = lm.tokenizer(" jazz now")["input_ids"]
    whole = torch.cat([ids, torch.tensor([end])], 1)
    with torch.no_grad():
        logprobs = lm.model(whole).logits.log_softmax(-1)[0]
    expected = sum(float(logprobs[ids.shape[1] - 1 + k, token]) for k, token in enumerate(end))
    assert lm.loglikelihood([(Prompt("Question: play some"), " jazz now")])[0].logprob == pytest.approx(
        expected, abs=1e-4
    )


def test_the_form_of_a_template_is_told(tiny_model: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    assert form(tiny_model) == "system"
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    for template, expected in (
        (
            "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}{{ messages[-1].content }}",
            "user",
        ),
        ("{{ messages[-1].content }}", "user"),
        (None, "plain"),
    ):
        tokenizer.chat_template = template
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        tokenizer.save_pretrained(folder)
        (folder / "config.json").write_bytes((tiny_model / "config.json").read_bytes())
        assert form(folder) == expected


def test_what_texts_begin_with_is_shared_to_the_character() -> None:
    """Slashes and points of a text are no path."""
    texts = ["one <ans>1</ans>. two <ans>2.//./x</ans> play it", "one <ans>1</ans>. two <ans>2.//./x</ans> pause it"]
    shared = sharing(texts)
    assert [p.prefix + p.text for p in shared] == texts
    assert shared[0].prefix.endswith("</ans> p")
    assert [p.prefix + p.text for p in sharing(["a", "a"])] == ["a", "a"]


LABELS = (" play_music", " play_list", " play_list_update", " todo_list", " todo_list", " weather")


def test_labels_of_a_question_are_read_with_it_and_what_they_share_once(lm: TransformersLM, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[tuple[int, ...]] = []
    forward = tree.log_probs

    def spied(model: Any, trees: Sequence[tree.Tree], prefixes: Sequence[Any]) -> list[list[float]]:
        read.extend(t.ids for t in trees)
        return forward(model, trees, prefixes)

    monkeypatch.setattr(tree, "log_probs", spied)
    pairs = [(Prompt(q), label) for q in QUESTIONS for label in LABELS]
    lm.loglikelihood(pairs)
    ends = [lm.tokens(label) for label in LABELS]
    beginnings = {tuple(end[:k]) for end in ends for k in range(1, len(end))}
    assert sorted(map(len, read)) == sorted(len(lm.tokens(q)) + len(beginnings) for q in QUESTIONS)


def test_a_model_that_slots_cannot_hold_tells_the_same(lm: TransformersLM, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = [(Prompt(q, prefix=p), label) for p in (EXAMPLE, OTHER, "") for q in QUESTIONS for label in LABELS]
    chance = random.Random(2)
    chance.shuffle(pairs)
    found = lm.loglikelihood(pairs)
    monkeypatch.setattr(lm, "_slots", lambda: False)
    monkeypatch.setattr(tree, "log_probs", None)
    whole = lm.loglikelihood(pairs)
    assert [s.tokens for s in found] == [s.tokens for s in whole]
    assert [s.logprob for s in found] == pytest.approx([s.logprob for s in whole], abs=1e-3)
    assert len({round(s.logprob, 3) for s in found}) > len(pairs) // 2


def test_a_prefix_that_goes_on_into_the_next_batch_is_read_once(lm: TransformersLM, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgearte.lm.slots import read_prefixes

    read: list[int] = []

    def counted(model: Any, prefixes: Sequence[Sequence[int]]) -> Any:
        read.extend(map(len, prefixes))
        return read_prefixes(model, prefixes)

    pairs = [(Prompt(q, prefix=p), " music") for p in (EXAMPLE, OTHER) for q in QUESTIONS]
    together = lm.loglikelihood(pairs)
    monkeypatch.setattr("edgearte.lm.decode.read_prefixes", counted)
    monkeypatch.setattr(tree, "TOKENS", 8)
    assert [s.logprob for s in lm.loglikelihood(pairs)] == pytest.approx([s.logprob for s in together], abs=1e-3)
    assert len(read) == 2
