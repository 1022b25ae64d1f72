from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path

import pytest

from edgearte.errors import UserError
from edgearte.measure import machine
from edgearte.measure.header import embedding_alone
from edgearte.measure.machine import detect_runtime
from edgearte.measure.suite import load_suite

ROOT = Path(__file__).resolve().parents[2]


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def header() -> bytes:
    """A complete header: a string, a number, an array of strings and one of numbers, and two tensors of 8 floats."""
    keys = [
        text(b"general.architecture") + struct.pack("<I", 8) + text(b"llama"),
        text(b"llama.block_count") + struct.pack("<II", 4, 1),
        text(b"tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, 2) + text(b"a") + text(b"b"),
        text(b"tokenizer.ggml.scores") + struct.pack("<IIQff", 9, 6, 2, 0.0, 1.0),
    ]
    tensors = [text(b"t%d" % i) + struct.pack("<IQIQ", 1, 8, 0, 32 * i) for i in range(2)]
    raw = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys)) + b"".join(keys) + b"".join(tensors)
    return raw + bytes(-len(raw) % 32)


def gguf(folder: Path, raw: bytes) -> Path:
    path = folder / "model.gguf"
    path.write_bytes(raw)
    return path


def test_a_gguf_file_and_a_genai_folder_are_recognised(tmp_path: Path) -> None:
    assert detect_runtime(gguf(tmp_path, header() + bytes(64))) == "llama.cpp"
    (tmp_path / "genai_config.json").write_text("{}")
    assert detect_runtime(tmp_path) == "onnxruntime-genai"


def test_a_gguf_file_cut_anywhere_in_its_header_or_before_its_last_tensor_is_refused(tmp_path: Path) -> None:
    whole = header() + bytes(64)
    for length in range(len(whole) - 32):
        with pytest.raises(UserError, match=r"GGUF") as caught:
            detect_runtime(gguf(tmp_path, whole[:length]))
        assert "model.gguf" in str(caught.value)


@pytest.mark.parametrize(
    ("at", "value", "message"),
    [
        (4, struct.pack("<I", 9), "version 9"),
        (8, struct.pack("<Q", 1 << 60), "cut off or damaged"),  # tensors
        (16, struct.pack("<Q", 1 << 60), "cut off or damaged"),  # keys
        (24, struct.pack("<Q", 1 << 62), "cut off or damaged"),  # the length of a key
        (header().index(b"tokenizer.ggml.tokens") + 29, struct.pack("<Q", 1 << 62), "cut off or damaged"),
        (header().index(b"tokenizer.ggml.scores") + 29, struct.pack("<Q", 1 << 62), "cut off or damaged"),
        (header().index(b"tokenizer.ggml.scores") + 25, struct.pack("<I", 9), "cut off or damaged"),  # nested arrays
        (header().index(b"t1") + 2, struct.pack("<I", 1000), "1000 dimensions"),
        (header().index(b"t1") + 18, struct.pack("<Q", 1 << 61), "cut short"),  # an offset beyond the file
    ],
)
def test_a_gguf_header_that_lies_is_refused_at_once(tmp_path: Path, at: int, value: bytes, message: str) -> None:
    raw = bytearray(header() + bytes(64))
    raw[at : at + len(value)] = value
    with pytest.raises(UserError, match=message):
        detect_runtime(gguf(tmp_path, bytes(raw)))


def test_what_is_no_artifact_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        detect_runtime(tmp_path / "nothing")
    with pytest.raises(UserError, match=r"genai_config\.json"):
        detect_runtime(tmp_path)
    (tmp_path / "q8.gguf").write_bytes(b"PK\x03\x04 a zip")
    with pytest.raises(UserError, match=r"name one of its GGUF files: q8\.gguf"):
        detect_runtime(tmp_path)
    with pytest.raises(UserError, match="not a GGUF file"):
        detect_runtime(tmp_path / "q8.gguf")
    (tmp_path / "model.onnx").write_bytes(b"onnx")
    with pytest.raises(UserError, match="name the folder"):
        detect_runtime(tmp_path / "model.onnx")


def test_the_machine_is_described() -> None:
    described = machine.describe()
    assert described["cpu"] and described["memory_bytes"] > described["memory_available_bytes"] > 1 << 20
    assert 1 <= described["cores"] <= described["logical_cores"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the kernel's rule is Linux's")
def test_peak_memory_does_not_start_from_what_the_parent_held() -> None:
    ballast = bytearray(400 << 20)
    code = "from edgearte.measure import machine; print(machine.peak_memory())"
    child = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert len(ballast) > 300 << 20 > int(child.stdout)


def test_packaged_suites_load_and_are_as_long_as_they_say() -> None:
    assert (load_suite("short").prompt_tokens, load_suite("short").new_tokens) == (128, 32)
    assert load_suite("standard").repeats == 5


def test_a_wrong_suite_is_refused_with_all_its_mistakes(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\nabout: x\nprompt_token: 5\nnew_tokens: true\nrepeats: 0\nwarmups: 0\n")
    with pytest.raises(UserError) as caught:
        load_suite(str(path))
    said = str(caught.value)
    assert "did you mean prompt_tokens?" in said and "prompt_tokens is missing" in said
    assert "new_tokens must be a whole number" in said and "repeats must be" in said and "warmups" not in said
    assert str(path) in said


@pytest.mark.parametrize("apart", [True, False])
def test_an_embedding_beside_an_output_layer_is_not_read_for_a_token(tmp_path: Path, apart: bool) -> None:
    import gguf
    import numpy as np

    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    rows = np.ones((100, 64), np.float16)
    for name in ["token_embd.weight", "blk.0.ffn_up.weight", *(["output.weight"] if apart else [])]:
        writer.add_tensor(name, rows)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert embedding_alone([path]) == (rows.nbytes if apart else 0)
    assert embedding_alone([tmp_path]) == 0
