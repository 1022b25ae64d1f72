"""GGUF files: headers as the gguf package reads them, damage found before loading, the way to a trainable model."""

from __future__ import annotations

import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgearte import tiny_gguf
from edgearte.errors import UserError
from edgearte.lm.headers import BrokenFile, read_gguf
from edgearte.lm.weights import check, resolve
from edgearte.store import Store

WIDTH, HEADS, HIDDEN, LAYERS = 64, 4, 96, 2
BEGIN, END, PAD = 257, 258, 259
TEMPLATE = "{% for m in messages %}{{ m['content'] }}<end>{% endfor %}"


def _bytes_vocabulary() -> list[str]:
    """The 256 byte letters of a GPT-2 tokenizer, one merged pair and three special tokens."""
    from tokenizers.pre_tokenizers import ByteLevel

    return [*sorted(ByteLevel.alphabet()), "ab", "<begin>", "<end>", "<pad>"]


def write(path: Path, *, tokens: int | None = None, change: Callable[[Any], None] | None = None) -> dict[str, Any]:
    """A random llama as GGUF in F16, whose output is its embedding stored once more; the weights come back by name."""
    import gguf

    vocabulary = _bytes_vocabulary()
    vocabulary += [f"<extra{i}>" for i in range((tokens or len(vocabulary)) - len(vocabulary))]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_license("mit")
    writer.add_context_length(128)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_freq_base(50000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(vocabulary)
    writer.add_token_types([1] * BEGIN + [3] * (len(vocabulary) - BEGIN))
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(BEGIN)
    writer.add_eos_token_id(END)
    writer.add_pad_token_id(PAD)
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE)
    random = np.random.default_rng(1)
    rows = len(_bytes_vocabulary())
    shapes: dict[str, tuple[int, ...]] = {"token_embd": (rows, WIDTH), "output_norm": (WIDTH,)}
    for i in range(LAYERS):
        shapes |= {f"blk.{i}.attn_{x}": (WIDTH, WIDTH) for x in ("q", "k", "v", "output")}
        shapes |= {f"blk.{i}.ffn_{x}": (HIDDEN, WIDTH) for x in ("gate", "up")}
        shapes |= {f"blk.{i}.ffn_down": (WIDTH, HIDDEN), f"blk.{i}.attn_norm": (WIDTH,), f"blk.{i}.ffn_norm": (WIDTH,)}
    tensors = {name: random.normal(0, 0.05, shape).astype(np.float16) for name, shape in shapes.items()}
    tensors["output"] = tensors["token_embd"] + random.normal(0, 0.002, (rows, WIDTH)).astype(np.float16)
    for name, tensor in tensors.items():
        writer.add_tensor(f"{name}.weight", tensor.astype(np.float32) if tensor.ndim == 1 else tensor)
    if change:
        change(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tensors


def test_the_header_is_what_the_gguf_package_reads(tmp_path: Path) -> None:
    import gguf

    for name, make in (("tiny.gguf", tiny_gguf.write), ("llama.gguf", write)):
        path = tmp_path / name
        make(path)
        ours, theirs = read_gguf(path), gguf.GGUFReader(path)
        assert {t.name: (t.shape, t.type, t.elements, t.bytes) for t in ours.tensors.values()} == {
            t.name: (tuple(t.shape.tolist()), t.tensor_type.name, t.n_elements, t.n_bytes) for t in theirs.tensors
        }
        for key, value in ours.metadata.items():
            assert theirs.fields[key].contents() == value
        for key, length in ours.lengths.items():
            assert len(theirs.fields[key].data) == length


def test_the_same_tiny_model_each_time(tmp_path: Path) -> None:
    tiny_gguf.write(tmp_path / "a")
    tiny_gguf.write(tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_file_cut_anywhere_is_said_to_be_cut(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    tiny_gguf.write(path)
    data = path.read_bytes()
    for length in [*range(4, 1000, 7), len(data) // 2, len(data) - 40]:
        path.write_bytes(data[:length])
        with pytest.raises(BrokenFile, match=r"cut short|truncated"):
            read_gguf(path)


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (b"", "it is empty"),
        (b"PK\x03\x04rest", "zip archive or a PyTorch pickle"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"<!doctype html>", "web page"),
        (b"hello there", "not with b'GGUF'"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "version 1"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**60), "damaged or cut short"),
    ],
)
def test_what_only_calls_itself_gguf(tmp_path: Path, start: bytes, message: str) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(start)
    (problem,) = check(str(path))
    assert message in str(problem)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tokens": 300}, "vocabulary differs from its tokenizer: 260 rows"),
        ({"change": lambda w: w.add_eot_token_id(1) or w.add_uint16("split.count", 2)}, "split GGUF"),
        ({"change": lambda w: w.add_tensor("rope_freqs.weight", np.ones(8, np.float32))}, "rope_freqs.weight"),
    ],
)
def test_models_that_cannot_be_trained(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    path = tmp_path / "model.gguf"
    write(path, **options)
    (problem,) = check(str(path))
    assert message in str(problem)
    with pytest.raises(UserError):
        resolve(str(path), Store(tmp_path / "store"))


def test_a_gguf_becomes_a_trainable_folder(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = tmp_path / "model.gguf"
    tensors = write(path, change=lambda w: w.add_eot_token_id(PAD))
    found = resolve(str(path), Store(tmp_path / "store"))
    assert (found.gguf, found.licence) == (path, "mit")

    model = AutoModelForCausalLM.from_pretrained(found.folder, dtype="auto")
    assert model.config.rope_parameters["rope_theta"] == 50000.0
    assert model.config.tie_word_embeddings  # what was stored twice is one matrix again
    assert found.parameters == model.num_parameters() == sum(t.size for n, t in tensors.items() if n != "output")
    assert model.generation_config.eos_token_id == [END, PAD]
    down = model.model.layers[1].mlp.down_proj.weight.detach().numpy()
    assert np.array_equal(down, tensors["blk.1.ffn_down"].astype(np.float32))
    tokenizer = AutoTokenizer.from_pretrained(found.folder)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (BEGIN, END, PAD)
    assert tokenizer.chat_template == TEMPLATE
    assert tokenizer.decode(tokenizer("Äpfel, 3 pears").input_ids) == "Äpfel, 3 pears"

    shutil.copy(path, tmp_path / "other.gguf")
    again = resolve(str(tmp_path / "other.gguf"), Store(tmp_path / "another store"))
    assert again.identity == found.identity
    for file in found.folder.iterdir():
        assert (again.folder / file.name).read_bytes() == file.read_bytes()


def test_a_different_output_matrix_stays_untied(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    path = tmp_path / "model.gguf"
    random = np.random.default_rng(2)

    def replace(writer: Any) -> None:
        for shard in writer.tensors:
            if "output.weight" in shard:
                shard["output.weight"].tensor = random.normal(0, 0.05, (PAD + 1, WIDTH)).astype(np.float16)

    write(path, change=replace)
    found = resolve(str(path), Store(tmp_path / "store"))
    assert not AutoModelForCausalLM.from_pretrained(found.folder).config.tie_word_embeddings


@pytest.mark.parametrize("short", ["memory", "disk"])
def test_too_little_room_is_told_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, short: str) -> None:
    path = tmp_path / "model.gguf"
    write(path)
    store = Store(tmp_path / "store")
    if short == "memory":
        monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=10**8))
    else:
        monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=10**5))
    with pytest.raises(UserError, match="GB are free"):
        resolve(str(path), store)
    assert list((store.root / "trees").iterdir()) == []


def test_an_unknown_architecture_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write(path)
    data = path.read_bytes()
    at = data.index(b"llama", 24)  # general.architecture is written first
    path.write_bytes(data[:at] + b"lloma" + data[at + 5 :])
    with pytest.raises(UserError, match="lloma"):
        resolve(str(path), Store(tmp_path / "store"))
