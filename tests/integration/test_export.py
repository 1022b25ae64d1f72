"""SmolLM2-135M through GGUF and ONNX, from the file a user has to artifacts that pass their gates."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgearte.convert.export import export
from edgearte.convert.make import Calibration
from edgearte.convert.presets import load_preset
from edgearte.lm.general import GENERAL
from edgearte.lm.weights import Weights
from edgearte.records import Artifact
from edgearte.store import Store
from tests import tiny

pytestmark = pytest.mark.integration

TEXTS = [
    "Robin has 21 packages of gum and 17 packages of candy. There are 7 pieces in each package. How many does he have?",
    "The river rises in the hills to the north, passes two small towns and a mill, and reaches the sea.",
    "def mean(values):\n    if not values:\n        raise ValueError('no values')\n    return sum(values) / len(values)\n",
]
CALIBRATION = [
    *GENERAL,
    "Mia buys 12 boxes of pencils and 9 boxes of pens. There are 6 in each box. How many does she have in all?",
    "A bus carries 34 people. At the first stop 8 get off and 5 get on; at the second 11 get off. How many are in it now?",
    "def most(values):\n    best = None\n    for v in values:\n        best = v if best is None or v > best else best\n    return best\n",
    "The road follows the valley for some miles, crosses the stream by a wooden bridge, and climbs to a village on the ridge.",
]
QUESTIONS = ("What is the capital of France? Answer in one word.", "Say hi.", "Is the sky blue? Yes or no.")


@pytest.fixture(scope="module")
def artifacts(source: Weights, store: Store) -> dict[str, Artifact]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source.folder)
    turns = [[{"role": "user", "content": q}] for q in QUESTIONS]
    chat = [str(tokenizer.apply_chat_template(t, tokenize=False, add_generation_prompt=True)) for t in turns]
    presets = [load_preset(name) for name in ("f16", "q8_0", "q4_k_m", "onnx-int4")]
    return {a.preset: a for a in export(source.folder, source.identity, presets, TEXTS, store, chat=chat)}


def test_all_gates_hold(artifacts: dict[str, Artifact]) -> None:
    assert {name: a.failed for name, a in artifacts.items()} == dict.fromkeys(artifacts, "")
    for artifact in artifacts.values():
        eos = tiny.gate(artifact, "eos").evidence
        assert eos["ended_in_checkpoint"] >= 1
        assert eos["ran_past_eos"] == 0


def test_what_quantization_costs_is_in_order(artifacts: dict[str, Artifact]) -> None:
    kl = {name: tiny.gate(a, "logits").evidence["kl"] for name, a in artifacts.items()}
    assert kl["f16"] < 1e-4 < kl["q8_0"] < 0.02 < kl["q4_k_m"] < kl["onnx-int4"]


def test_calibration_on_texts_like_these_costs_nothing_and_loses_less(source: Weights, store: Store) -> None:
    presets, how = [load_preset("iq4_nl")], Calibration("texts like these", tuple(CALIBRATION))
    (plain,) = export(source.folder, source.identity, presets, TEXTS, store)
    (calibrated,) = export(source.folder, source.identity, presets, TEXTS, store, calibration=how)
    assert calibrated.bytes <= plain.bytes
    assert tiny.gate(calibrated, "logits").evidence["kl"] < 0.9 * tiny.gate(plain, "logits").evidence["kl"]


def test_k_quants_that_fell_back_are_said(artifacts: dict[str, Artifact]) -> None:
    (note,) = artifacts["q4_k_m"].notes
    assert note == ("q4_k_m asked, 80% of weights stored as q5_0/q8_0 because rows of 576 are not divisible by 256")
    assert artifacts["q4_k_m"].bits_per_weight == pytest.approx(6.165, abs=0.01)
    assert Path(artifacts["q4_k_m"].path).stat().st_size == artifacts["q4_k_m"].bytes


def test_plain_onnxruntime_writes_what_genai_writes(artifacts: dict[str, Artifact], source: Weights) -> None:
    """A program that knows nothing of genai keeps the past itself."""
    from other_programs import genai, plain_onnxruntime
    from transformers import AutoTokenizer

    folder, count = Path(artifacts["onnx-int4"].path), 12
    start = AutoTokenizer.from_pretrained(source.folder)("One, two, three, four,")["input_ids"]
    said = plain_onnxruntime(folder, start, count)
    assert len(said) == count
    assert said == genai(folder, start, count)
