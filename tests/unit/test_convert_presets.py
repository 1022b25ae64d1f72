"""Export presets: what the catalogue ships, and what is said about a broken file."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgearte import catalogue
from edgearte.convert.presets import RUNTIMES, load_preset
from edgearte.errors import UserError

GOOD = {
    "name": "mine",
    "format": "gguf",
    "type": "q8_0",
    "calibration": "none",
    "runtime": "llama.cpp",
    "about": "for a test",
    "max_kl": 0.1,
    "min_top1": 0.9,
}


def write(folder: Path, **changes: object) -> str:
    lines = {**GOOD, **changes}
    path = folder / "mine.yaml"
    path.write_text("".join(f"{k}: {v}\n" for k, v in lines.items() if v is not None), "utf-8")
    return str(path)


def test_every_preset_of_the_catalogue_loads_under_its_own_name() -> None:
    names = catalogue.names("export")
    assert {"f16", "q8_0", "q4_k_m", "onnx-fp32", "onnx-int4"} <= set(names)
    for name in names:
        preset = load_preset(name)
        assert preset.name == name
        assert preset.runtime in RUNTIMES[preset.format]


def test_a_users_own_file(tmp_path: Path) -> None:
    preset = load_preset(write(tmp_path, max_kl=1))
    assert (preset.name, preset.max_kl, preset.min_top1) == ("mine", 1.0, 0.9)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"max_kl": None}, "missing key 'max_kl'"),
        ({"max_k1": 0.1}, "unknown key 'max_k1'; did you mean max_kl?"),
        ({"colour": "red"}, "unknown key 'colour'; known: name, format"),
        ({"max_kl": "small"}, "max_kl: expected a number"),
        ({"min_top1": 1.5}, "min_top1: expected a number from 0 to 1, found 1.5"),
        ({"max_kl": ".nan"}, "max_kl: expected a number"),
        ({"min_top1": "true"}, "min_top1: expected a number"),
        ({"format": "tflite"}, "format: 'tflite' is not known; known: gguf, onnx"),
        ({"type": "int4"}, "type: gguf has no 'int4'; known: f16, bf16, q8_0"),
        ({"calibration": "some"}, "calibration: gguf has no 'some'; known: none, imatrix, gptq"),
        ({"budget": "{bits: 4}"}, "budget: only a mixed type has one"),
        ({"type": "mixed"}, "budget: a mixed type needs one of size_of, bits, kl_of, kl, speed_of, found None"),
        ({"type": "mixed", "budget": "{size_of: q9}"}, "budget: size_of names a type of f16, bf16"),
        ({"type": "mixed", "budget": "{kl: -1}"}, "budget: kl is a number above 0, found -1"),
        ({"type": "mixed", "budget": "{bits: 5}"}, "calibration: a mixed type is chosen by what texts show"),
        ({"runtime": "onnxruntime-genai"}, "runtime: gguf is run by llama.cpp"),
        ({"format": "onnx", "type": "int8", "runtime": "transformers.js"}, "transformers.js loads is made of int4, not of 'int8'"),
        ({"heal": "true"}, "heal: true or false, and true where calibration is gptq alone"),
        ({"split": "0"}, "split: whole megabytes that a file of GGUF may have, found 0"),
        ({"split": "1.5"}, "split: whole megabytes"),
        ({"format": "onnx", "type": "int8", "runtime": "onnxruntime-genai", "split": "100"}, "split: whole megabytes that a file of GGUF"),
        ({"about": "' '"}, "about: expected text"),
    ],
)
def test_mistakes_are_named_with_the_file(tmp_path: Path, changes: dict[str, object], said: str) -> None:
    path = write(tmp_path, **changes)
    with pytest.raises(UserError) as caught:
        load_preset(path)
    assert said in str(caught.value)
    assert path in str(caught.value)


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        load_preset(write(tmp_path, max_kl=-1, min_top1="no"))
    assert len(caught.value.problems) == 2


def test_an_unknown_name_brings_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean q8_0"):
        load_preset("q8_O")
