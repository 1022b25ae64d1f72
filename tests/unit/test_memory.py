"""The forecast of memory: its parts are those of the formula, on a model whose parameters can be counted by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from edgearte.train import memory
from edgearte.train.memory import Part
from edgearte.train.trie import Text

# tests/tiny.py: 2 layers, hidden 64, inner 128, 4 heads of 16 and 2 for keys and values, 49,152 words tied to the head
LAYER = {"q": (64, 64), "k": (64, 32), "v": (64, 32), "o": (64, 64), "gate": (64, 128), "up": (64, 128), "down": (128, 64)}
NORMS = 2 * 2 * 64 + 64
ALL = 49152 * 64 + 2 * sum(a * b for a, b in LAYER.values()) + NORMS
PART = Part(tokens=100, answers=30, longest=40)


def test_the_parameters_are_counted(tiny_model: Path) -> None:
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(tiny_model)
    assert memory.parameters(config, 0) == (ALL, ALL)
    assert memory.parameters(config, 4) == (ALL, 2 * 4 * sum(a + b for a, b in LAYER.values()))


def test_all_weights_cost_eighteen_bytes_each_and_an_adapter_none_of_it(tiny_model: Path) -> None:
    nothing = Part(0, 0, 0)
    whole = memory.foretell(tiny_model, nothing, dtype="bfloat16", lora_rank=0) - memory.PROCESS
    assert whole == 18 * ALL
    adapter = memory.foretell(tiny_model, nothing, dtype="bfloat16", lora_rank=4) - memory.PROCESS
    trained = 2 * 4 * sum(a + b for a, b in LAYER.values())
    assert adapter == 2 * ALL + 16 * trained
    # Where examples are held out the best point's weights are kept beside them.
    for rank, kept in ((0, 2 * ALL), (4, 4 * trained)):
        plain, looked = (memory.foretell(tiny_model, nothing, dtype="bfloat16", lora_rank=rank, held_out=held) for held in (False, True))
        assert looked - plain == kept


def test_tokens_and_answers_cost_what_the_formula_says(tiny_model: Path) -> None:
    def of(**changed: int) -> int:
        return memory.foretell(tiny_model, replace(PART, **changed), dtype="float32", lora_rank=0)

    assert of(tokens=101) - of() == 2 * (28 * 64 + 8 * 128 + 12 * 64 + 6 * 4 * 40)
    assert of(answers=31) - of() == 12 * 49152


def test_the_largest_part_is_what_is_computed_at_once() -> None:
    head, long = tuple(range(50)), tuple(range(1000, 3000))
    short = [Text((*head, 60 + k, 70), (False,) * 51 + (True,)) for k in range(3)]
    assert memory.largest([[[t] for t in short]]) == Part(tokens=56, answers=3, longest=52)
    assert memory.largest([[[t] for t in short], [[Text(long, (True,) * 2000)]]]).tokens == 2000
