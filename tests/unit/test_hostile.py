"""Files made to harm: whatever stands in them, they are refused with a sentence, in bounded time and memory."""

from __future__ import annotations

import json
import shutil
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import jinja2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgearte import tiny_gguf
from edgearte.lm import weights
from edgearte.lm.headers import BrokenFile, read_gguf, read_safetensors
from edgearte.lm.template import render

MEMORY = 64e6  # of Python's objects; the files are of a megabyte
NUMBERS = [0, 1, 7, 8, 9, 10, 255, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1]
VALUES: list[Any] = [
    None, True, -1, 2**70, 1e308, float("inf"), float("nan"), "", "x", "../../etc/passwd", [], {}, [[]], {"a": {}}, [None] * 3,
]  # fmt: skip
patient = settings(deadline=5000, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """With every kind of metadata that is looked at."""
    import gguf as package

    path = tmp_path_factory.mktemp("gguf") / "model.gguf"
    tiny_gguf.write(path)
    writer = package.GGUFWriter(path.with_name("whole.gguf"), "llama")
    writer.add_uint32("general.alignment", 32)
    writer.add_uint32("split.count", 1)
    writer.add_string("llama.rope.scaling.type", "none")
    writer.add_array("tokenizer.ggml.tokens", ["a", "b", "c"])
    writer.add_array("tokenizer.ggml.token_type", [1, 1, 1])
    writer.add_uint32("tokenizer.ggml.eos_token_id", 2)
    for tensor in package.GGUFReader(path).tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.with_name("whole.gguf").read_bytes()


def refused_or_read(path: Path) -> None:
    """`check` says what is wrong, or nothing; it never stumbles, and never takes much."""
    tracemalloc.start()
    for problem in weights.check(str(path)):
        assert str(path) in str(problem)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < MEMORY


@patient
@given(at=st.integers(4, 1400), number=st.sampled_from(NUMBERS), wide=st.booleans())
def test_numbers_in_a_gguf_header(gguf: bytes, tmp_path: Path, at: int, number: int, wide: bool) -> None:
    packed = struct.pack("<Q", number) if wide else struct.pack("<I", number & 0xFFFFFFFF)
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf[:at] + packed + gguf[at + len(packed) :])
    refused_or_read(path)


@patient
@given(at=st.integers(0, 1400), junk=st.binary(min_size=1, max_size=64))
def test_bytes_in_a_gguf_header(gguf: bytes, tmp_path: Path, at: int, junk: bytes) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf[:at] + junk + gguf[at + len(junk) :])
    refused_or_read(path)


def test_arrays_in_arrays_without_end(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    head = struct.pack("<4sIQQ", b"GGUF", 3, 0, 1) + struct.pack("<Q", 1) + b"a" + struct.pack("<I", 9)
    path.write_bytes(head + struct.pack("<IQ", 9, 1) * 50_000)
    with pytest.raises(BrokenFile):
        read_gguf(path)
    refused_or_read(path)


def spoiled(data: Any, choose: Any) -> Any:
    """The same JSON with one value, anywhere in it, that has no business there."""
    if isinstance(data, dict) and data and choose(st.integers(0, 4)):
        key = choose(st.sampled_from(sorted(data)))
        return {**data, key: spoiled(data[key], choose)}
    if isinstance(data, list) and data and choose(st.integers(0, 4)):
        k = choose(st.integers(0, len(data) - 1))
        return [*data[:k], spoiled(data[k], choose), *data[k + 1 :]]
    return choose(st.sampled_from(VALUES))


@patient
@given(data=st.data())
def test_values_in_a_safetensors_header(tiny_model: Path, tmp_path: Path, data: st.DataObject) -> None:
    whole = (tiny_model / "model.safetensors").read_bytes()
    (length,) = struct.unpack_from("<Q", whole)
    header = json.dumps(spoiled(json.loads(whole[8 : 8 + length]), data.draw)).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(64))
    try:
        read_safetensors(path)
    except BrokenFile as error:
        assert str(error)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors.index.json"])
@settings(patient, max_examples=25)
@given(data=st.data())
def test_values_in_a_folders_small_files(
    tiny_model: Path, tmp_path_factory: pytest.TempPathFactory, name: str, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("model")
    for file in ("config.json", "model.safetensors"):
        (folder / file).symlink_to(tiny_model / file)
    known = {
        "config.json": json.loads((tiny_model / "config.json").read_text("utf-8")),
        "tokenizer.json": {"model": {"vocab": {"a": 0, "b": 1}}, "added_tokens": [{"id": 2, "content": "c"}]},
        "model.safetensors.index.json": {"weight_map": {"a": "b.safetensors"}},
    }
    for file in {"tokenizer.json", name}:
        (folder / file).unlink(missing_ok=True)
        (folder / file).write_text(json.dumps(spoiled(known[file], data.draw) if file == name else known[file]), "utf-8")
    refused_or_read(folder)
    shutil.rmtree(folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_json_nested_without_end(tiny_model: Path, tmp_path: Path, name: str) -> None:
    folder = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    deep = b"[" * 200_000
    (folder / name).write_bytes(struct.pack("<Q", len(deep)) + deep if name.endswith("safetensors") else deep)
    assert weights.check(str(folder))
    refused_or_read(folder)


@pytest.mark.parametrize(
    "template",
    [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{{ 'x' | center(100000000000) }}",
        "{% set n = namespace(s='aaaaaaaa') %}{% for i in range(60) %}{% set n.s = n.s + n.s %}{% endfor %}",
    ],
)
def test_templates_without_end(tiny_model: Path, tmp_path: Path, template: str) -> None:
    folder = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    (folder / "chat_template.jinja").write_text(template, "utf-8")
    (problem,) = weights.check(str(folder))
    assert "its chat template takes more than" in str(problem)


@pytest.mark.parametrize(
    "template",
    [
        "{% include '/etc/passwd' %}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__.os.system('touch PLACE/been-here') }}",
        "{{ messages.append(1) }}",
        "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}",
    ],
)
def test_templates_that_reach_out_are_stopped(tmp_path: Path, template: str) -> None:
    with pytest.raises((jinja2.TemplateError, TypeError, RecursionError)):
        render(template.replace("PLACE", str(tmp_path)), [{"role": "user", "content": "Hi"}])
    assert not list(tmp_path.iterdir())
