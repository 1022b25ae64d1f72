"""GPTQ: what a layer puts out is kept, not its weights; and the file another tool laid out takes the numbers."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf.quants import IQ4_NL
from hypothesis import given, settings
from hypothesis import strategies as st

from edgearte.convert import gptq, heal, overwrite
from edgearte.convert.export import export
from edgearte.convert.gptq import BLOCK, EVEN, Rounded
from edgearte.convert.make import Calibration
from edgearte.convert.presets import load_preset
from edgearte.records import Artifact
from edgearte.store import Store
from tests import tiny

TEXTS = [f"{command} -> {label}" for label, commands in tiny.COMMANDS.items() for command in commands]
LEVELS = [EVEN, tuple(IQ4_NL.kvalues)]


def correlated(rows: int = 48, columns: int = 128) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    inputs = torch.randn(512, columns) @ (torch.eye(columns) + 0.3 * torch.randn(columns, columns))
    return torch.randn(rows, columns) * 0.05, inputs.T @ inputs


def loss(weight: torch.Tensor, rounded: torch.Tensor, hessian: torch.Tensor) -> float:
    error = weight - rounded
    return float(((error @ hessian) * error).sum())


def nearest(weight: torch.Tensor) -> torch.Tensor:
    """As the tools round where nothing is known of the inputs."""
    blocks = weight.reshape(len(weight), -1, BLOCK)
    scale = blocks.gather(2, blocks.abs().argmax(2, keepdim=True)) / EVEN[0]
    return ((blocks / scale).round().clamp(EVEN[0], EVEN[-1]) * scale).reshape(weight.shape)


@pytest.mark.parametrize("levels", LEVELS)
def test_what_a_layer_puts_out_is_kept(levels: tuple[int, ...]) -> None:
    weight, hessian = correlated()
    found = gptq.rounded(weight, hessian, levels).weight(levels)
    assert loss(weight, found, hessian) < 0.6 * loss(weight, nearest(weight), hessian)
    assert gptq.rounded(weight, hessian, levels).gain < 0.7, "against rounding each weight by itself, its scale searched"
    blind = gptq.rounded(weight, torch.eye(weight.shape[1]), levels).weight(levels)
    assert loss(weight, found, hessian) < 0.7 * loss(weight, blind, hessian), "it is what the layer meets that helps"


def test_the_scales_are_those_of_least_squares() -> None:
    weight, hessian = correlated()
    values = torch.tensor(EVEN, dtype=torch.float32)[torch.randint(16, weight.shape)]
    scales = gptq.fitted(weight, values, hessian)
    best = loss(weight, values * scales.repeat_interleave(BLOCK, 1), hessian)
    for change in (0.99, 1.01):
        for block in range(scales.shape[1]):
            other = scales.clone()
            other[:, block] *= change
            assert loss(weight, values * other.repeat_interleave(BLOCK, 1), hessian) > best


@settings(deadline=None, max_examples=30)
@given(st.sampled_from(LEVELS), st.sampled_from([0.0, 1e-30, 1e-9, 1.0, 1e4]), st.integers(1, 40), st.booleans())
def test_no_weights_and_no_inputs_make_it_stumble(levels: tuple[int, ...], size: float, met: int, constant: bool) -> None:
    """Few tokens leave H singular; rows of nothing, of one value or of tiny ones are found in real models."""
    torch.manual_seed(met)
    weight = torch.full((3, 64), size) if constant else torch.randn(3, 64) * size
    inputs = torch.randn(met, 64)
    found = gptq.rounded(weight, inputs.T @ inputs, levels)
    assert found.codes.max() < 16
    again = found.weight(levels)
    assert torch.isfinite(again).all()
    assert torch.equal(found.scales, found.scales.half().float()), "all files hold them in 16 bits"
    assert (again - weight).norm() <= 0.5 * weight.norm() + 1e-4


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kept") / "store"


@pytest.fixture(scope="module")
def artifacts(tiny_model: Path, kept: Path) -> dict[str, Artifact]:
    presets = [load_preset(n) for n in ("q4_0", "gptq-q4_0", "gptq-iq4_nl", "onnx-int4", "onnx-int4-gptq")]
    store = Store(kept)
    made = export(tiny_model, "0" * 64, presets, TEXTS[::2], store, calibration=Calibration("the commands", tuple(TEXTS * 8)))
    store.close()
    return {a.preset: a for a in made}


def kl(artifact: Artifact) -> float:
    return float(tiny.gate(artifact, "logits").evidence["kl"])


def test_the_file_takes_the_numbers(artifacts: dict[str, Artifact]) -> None:
    plain, ours = artifacts["onnx-int4"], artifacts["onnx-int4-gptq"]
    assert ours.bytes == plain.bytes
    assert kl(ours) < 0.5 * kl(plain)
    for name in ("gptq-q4_0", "gptq-iq4_nl"):
        assert artifacts[name].bytes <= artifacts["q4_0"].bytes
        assert kl(artifacts[name]) < kl(artifacts["q4_0"])
        assert set(artifacts[name].types) == {name.removeprefix("gptq-"), "f32"}


def test_of_what_texts_is_said(artifacts: dict[str, Artifact], tiny_model: Path, tmp_path: Path) -> None:
    assert artifacts["gptq-q4_0"].notes == ("rounded for what its layers meet in the commands",)
    store = Store(tmp_path)
    (without,) = export(tiny_model, "0" * 64, [load_preset("onnx-int4-gptq")], TEXTS[:1], store)
    store.close()
    assert "no texts to calibrate on were given" in without.failed


def test_the_checkpoint_teaches_the_scales_and_what_it_does_not_better_is_left_out(
    artifacts: dict[str, Artifact], kept: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exported(name: str) -> Artifact:
        store = Store(Path(shutil.copytree(kept, tmp_path / name)))
        preset = replace(load_preset("gptq-q4_0"), heal=True)
        (made,) = export(tiny_model, "0" * 64, [preset], TEXTS[::2], store, calibration=Calibration("the commands", tuple(TEXTS * 8)))
        store.close()
        return made

    before = artifacts["gptq-q4_0"]
    healed = exported("healed")
    assert healed.bytes == before.bytes
    assert kl(healed) < kl(before)
    assert healed.notes[-1] == f"healed: KL {kl(healed):.4f}, before {kl(before):.4f}"
    monkeypatch.setattr(heal, "RATE", 0.5)  # it forgets more than it learns
    harmed = exported("harmed")
    assert kl(harmed) == kl(before)
    assert "healing brought nothing, and is left out" in harmed.notes[-1]


def test_heads_are_found_in_the_order_of_the_file() -> None:
    """llama.cpp keeps the two halves of a head, which rotate together, row by row in turn; joined matrices lie one below the other."""
    weight, hessian = correlated(64)
    matrix = gptq.rounded(weight, hessian)
    for count in (2, 4):
        order = torch.arange(64).reshape(count, 2, -1).transpose(1, 2).reshape(-1)
        found = overwrite._found(weight[order], [gptq.rounded(-weight, hessian), matrix], EVEN, [2, 4])
        assert found is not None
        assert torch.equal(found.codes, matrix.codes[order])
    joined = overwrite._found(torch.cat([weight, -weight[:32]]), [gptq.rounded(-weight[:32], hessian), matrix], EVEN)
    assert joined is not None
    assert torch.equal(joined.codes[:64], matrix.codes)
    assert overwrite._found(torch.randn(64, 128), [matrix], EVEN) is None
    assert overwrite._found(weight[:32], [Rounded(matrix.codes, matrix.scales)], EVEN) is None, "longer than what is held"


def test_levels_are_those_of_the_format() -> None:
    assert overwrite.levels("iq4_nl") == LEVELS[1]
    assert overwrite.levels("q4_0") == overwrite.levels("int4") == EVEN
    assert np.all(np.diff(LEVELS[1]) > 0), "the nearest is searched by bisection"
