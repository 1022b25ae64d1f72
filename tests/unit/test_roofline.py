"""What is foretold of an artifact before it is made."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgearte.convert.presets import load_preset
from edgearte.device.profile import load_device
from edgearte.measure.roofline import Machine, Shape, foretell, size

SMOLLM2 = {
    "num_hidden_layers": 30, "hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9, "num_key_value_heads": 3,
    "vocab_size": 49152, "tie_word_embeddings": True,
}  # fmt: skip
QWEN = {
    "num_hidden_layers": 24, "hidden_size": 896, "intermediate_size": 4864, "num_attention_heads": 14, "num_key_value_heads": 2,
    "vocab_size": 151936, "tie_word_embeddings": True,
}  # fmt: skip
# Megabytes of real files of both models, as docs/how-to-export.md has them.
FILES = {
    "f16": (270.9, 994.2), "q8_0": (144.8, 531.1), "q6_k": (138.4, 505.7), "q5_k_m": (112.1, 420.1), "q4_k_m": (105.5, 397.8),
    "mixed-q4_k_m": (105.5, 397.7), "mixed-small": (76.8, 286.5), "q4_0": (91.9, 353.0), "iq4_nl": (91.7, 352.7), "iq4_xs": (90.9, 349.4),
    "gptq-q4_0": (77.6, 284.1), "q3_k_m": (93.5, 355.5), "q2_k": (88.2, 338.6), "onnx-fp32": (543.9, 1996.1), "onnx-fp16": (274.2, 1004.2),
    "onnx-int8": (157.3, 576.0), "onnx-int4": (90.0, 329.0), "onnx-int4-k": (92.2, 336.8),
}  # fmt: skip
machines = st.builds(
    Machine, st.floats(1e9, 1e11), st.floats(1e9, 1e12), st.just({}), st.just({}), st.floats(0, 1e-3)
)


@pytest.mark.parametrize("preset", FILES)
@pytest.mark.parametrize("model", [0, 1])
def test_the_size_of_a_file_is_foretold(preset: str, model: int) -> None:
    shape = Shape.of_config((SMOLLM2, QWEN)[model])
    assert size(shape, load_preset(preset)) / 1e6 == pytest.approx(FILES[preset][model], rel=0.03)


def test_the_weights_of_a_shape_are_the_models() -> None:
    assert Shape.of_config(SMOLLM2).weights == pytest.approx(134_515_008, rel=0.001)
    untied = Shape.of_config({**SMOLLM2, "tie_word_embeddings": False})
    assert untied.weights - Shape.of_config(SMOLLM2).weights == 49152 * 576


@given(machines, st.sampled_from(sorted(FILES)), st.integers(1, 2000), st.integers(1, 500))
def test_more_is_never_less(machine: Machine, name: str, prompt: int, new: int) -> None:
    shape, preset = Shape.of_config(SMOLLM2), load_preset(name)
    here = foretell(shape, preset, machine, prompt, new)
    wider = foretell(shape, preset, replace(machine, bandwidth=2 * machine.bandwidth), prompt, new)
    faster = foretell(shape, preset, replace(machine, operations=2 * machine.operations), prompt, new)
    longer = foretell(shape, preset, machine, prompt + 100, new)
    assert wider.decode_tps >= here.decode_tps
    assert faster.first_token_s <= here.first_token_s
    assert longer.first_token_s > here.first_token_s
    assert longer.peak_memory_bytes > here.peak_memory_bytes > here.size_bytes


def test_a_profile_alone_gives_roofs() -> None:
    pi = load_device("raspberry-pi-5")
    found = foretell(Shape.of_config(QWEN), load_preset("q4_0"), Machine.of_profile(pi), 128, 32)
    assert found.bound == "memory"
    assert 10 < found.decode_tps < 60  # a Raspberry Pi 5 decodes half a billion weights in 4 bits at some tens of tokens a second


def test_a_probe_finds_what_this_machine_does() -> None:
    from edgearte.measure.local import LOCAL

    (told,) = (r for r in LOCAL.records({"kind": "probe", "threads": 1, "artifact": "this machine"}, 300) if r["kind"] == "probe")
    machine = Machine.of_probe(told)
    assert machine.bandwidth > 1e8
    assert {"f16", "q8_0", "q4_0", "q4_k", "q6_k"} <= machine.vector.keys() == machine.matrix.keys()
    assert all(machine.matrix[type] > machine.vector[type] * 0.5 > 0 for type in machine.vector)
