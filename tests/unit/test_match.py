"""Hidden-state matching: what is matched, and that training brings the student nearer to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgearte.cli import main
from edgearte.lm import hidden
from edgearte.lm.hf import TransformersLM
from edgearte.records import Example
from edgearte.setup import opened
from edgearte.steps import taught
from edgearte.store import Store
from edgearte.train import match, sft, trie
from edgearte.train.common import read_log
from edgearte.train.trie import Text
from tests import tiny

EXAMPLES = [
    Example(f"{label}{k}", command, f"It is about {label}. <ans>{label}</ans>", label, "")
    for label, commands in tiny.COMMANDS.items()
    for k, command in enumerate(commands)
]
WIDTH = 24  # of a teacher that is wider or narrower than the student


@pytest.mark.parametrize("shared", [True, False])
def test_what_is_read_is_what_the_model_tells_the_answer_from(tiny_model: Path, shared: bool) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    texts = [Text((5, 6, 7, 8, *own), (False,) * 4 + (True,) * len(own)) for own in ((20, 21, 22), (20, 31))]
    for part in trie.parts([[t] for t in texts], shared=shared):
        for number, states in zip(part.groups, trie.read(model, part).states, strict=True):
            text = texts[number]
            whole = model(torch.tensor([text.ids]), output_hidden_states=True).hidden_states[-1][0]
            assert torch.allclose(states, whole[3 : len(text.ids) - 1], atol=1e-4)


def test_a_state_is_the_mean_of_those_that_tell_the_answer(tiny_model: Path, tmp_path: Path) -> None:
    import torch

    model = TransformersLM(tiny_model, "tiny", dtype="float32")
    (found,) = hidden.pooled(model, [("play some", " jazz now")], Store(tmp_path))
    before, whole = (model.tokens(text) for text in ("play some", "play some jazz now"))
    with torch.no_grad():
        states = model.model(torch.tensor([whole]), output_hidden_states=True).hidden_states[-1][0]
    assert found == pytest.approx(states[len(before) - 1 : -1].mean(0).tolist(), abs=1e-5)


@pytest.mark.parametrize(("rank", "rate"), [(0, 1e-3), (4, 2e-2)])
def test_training_brings_the_students_geometry_near_the_teachers(tiny_model: Path, tmp_path: Path, rank: int, rate: float) -> None:
    """Switched off (a weight of next to nothing), the words alone do not."""
    import numpy as np

    chance = np.random.default_rng(0)
    axes = {label: chance.normal(size=WIDTH) for label in tiny.COMMANDS}  # a teacher to whom commands of one kind are alike
    states = [(3 + axes[e.target] + 0.1 * chance.normal(size=WIDTH)).tolist() for e in EXAMPLES]
    rows = sft.rows(EXAMPLES, lambda text: f"Question: {text}\nAnswer:")
    how = sft.Settings(learning_rate=rate, epochs=6, batch=4, lora_rank=rank, warmup=0.0, max_tokens=100, seed=1)
    store = Store(tmp_path)
    ends = []
    for weight in (1.0, 1e-9):
        folder = sft.train(tiny_model, "tiny", rows, how, store, label="x", matched=match.Match(states, weight, "a teacher"))
        distance = [step["distance"] for step in read_log(folder).curve]
        assert np.mean(distance[:2]) > 0.25
        ends.append(np.mean(distance[-6:]))
    assert ends[0] < 0.5 * ends[1]


def test_a_distance_is_of_geometry_alone() -> None:
    import torch

    torch.manual_seed(0)
    texts = [torch.randn(tokens, 8) for tokens in (3, 1, 4, 2)]
    means = torch.stack([t.mean(0) for t in texts])
    turned, _ = torch.linalg.qr(torch.randn(8, 8))
    assert float(match.distance(texts, 5 * means @ turned + 2)) == pytest.approx(0, abs=1e-5)
    apart = float(match.distance(texts, torch.eye(4)))
    assert 0.05 < apart < 1
    assert float(match.distance(texts[:1], means[:1])) == pytest.approx(1), "one alone has no geometry"


def test_a_recipe_matches_its_teachers_states(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = tiny.write_recipe(tmp_path / "task", tiny_model)
    seen: list[Any] = []

    def train(*given: Any, matched: match.Match | None = None, **named: Any) -> Path:
        seen.append(matched)
        return tmp_path

    monkeypatch.setattr(sft, "train", train)
    for weight in ("0.5", "0"):
        with opened(recipe, [f"train.match={weight}"], tmp_path / "runs", "-test") as (setup, _):
            taught(setup, [*EXAMPLES[:2], EXAMPLES[0]], "x")
    found, nothing = seen
    assert nothing is None
    assert (found.weight, len(found.states)) == (0.5, 3)
    assert found.states[0] == found.states[2] != found.states[1]


def test_an_endpoints_states_cannot_be_matched(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tiny.write_recipe(tmp_path / "task", tiny_model)
    options = ["teacher.endpoint.url=http://localhost:9/v1", "teacher.style=chat", "align.question_pairs=0", "align.rationale_pairs=0"]
    assert main(["build", str(recipe), *options, "train.match=1", "--runs", str(tmp_path / "runs")]) == 2
    assert "train.match: an endpoint's hidden states cannot be matched" in capsys.readouterr().err
