"""What a checkpoint's weights meet while it reads texts: the importance matrix that quantizers are calibrated with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgearte.convert.imatrix import Imatrix
from edgearte.errors import UserError
from edgearte.lm.headers import read_gguf

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

WINDOW = 512  # tokens read at once, as llama.cpp's own tool reads by default
TOKENS = 32_768  # of each kind of text; what is longer is cut off


def collect(checkpoint: Path, f16: Path, texts: Sequence[str], dataset: str) -> Imatrix:
    """The importance matrix of `checkpoint`, whose conversion is `f16`, over `texts` (of the data set so called).

    The sum over tokens of x_j^2 for the inputs x of every linear layer, column by column; also of the output layer, whose weights
    are the embedding's where the two are tied (llama.cpp's tool leaves that one out). Experts that lie in one tensor are not linear
    layers, and are left out.
    """
    import numpy as np
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    names = weight_names(checkpoint, f16)
    tokenizer = AutoTokenizer.from_pretrained(str(checkpoint), local_files_only=True)
    read = windows(tokenizer, texts, TOKENS)
    model: Any = AutoModelForCausalLM.from_pretrained(str(checkpoint), local_files_only=True, dtype="auto").eval()
    met = Squares()
    for module_name, module in model.named_modules():
        if name := names.get(module_name):
            module.register_forward_pre_hook(lambda _, given, name=name: met.add(name, given[0]))
    with torch.no_grad():
        for window in read:
            model(torch.tensor([window]), use_cache=False)
    return Imatrix(
        {n: s.numpy().astype(np.float32)[None] for n, s in met.sums.items()},
        {n: np.array([c], np.float32) for n, c in met.counts.items()}, (dataset,), len(read), WINDOW,
    )  # fmt: skip


class Squares:
    """Sums of squares, column by column, and of how many rows, by name."""

    def __init__(self) -> None:
        self.sums: dict[str, Any] = {}
        self.counts: dict[str, int] = {}

    def add(self, name: str, values: torch.Tensor) -> None:
        """Count in `values` [..., columns]."""
        x = values.detach().float().flatten(0, -2)
        self.sums[name] = self.sums.get(name, 0) + x.square().sum(0).double()
        self.counts[name] = self.counts.get(name, 0) + len(x)

    def mean(self, name: str) -> NDArray[np.float64]:
        """The mean square of each column."""
        found: NDArray[np.float64] = (self.sums[name] / self.counts[name]).numpy()
        return found


def weight_names(checkpoint: Path, f16: Path) -> dict[str, str]:
    """The GGUF name of each linear layer's weight, by the layer's name in transformers."""
    import gguf
    import torch
    from accelerate import init_empty_weights
    from transformers import AutoConfig, AutoModelForCausalLM

    header = read_gguf(f16)
    kinds = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}
    config = AutoConfig.from_pretrained(str(checkpoint), local_files_only=True)
    table = gguf.get_tensor_name_map(kinds[header.metadata["general.architecture"]], config.get_text_config().num_hidden_layers)
    with init_empty_weights():
        model = AutoModelForCausalLM.from_config(config)
    found = {}
    for name, module in model.named_modules():
        if not isinstance(module, torch.nn.Linear):
            continue
        mapped = table.get_name(f"{name}.weight", try_suffixes=(".weight",))
        if module is model.get_output_embeddings() and mapped not in header.tensors:
            mapped = "token_embd.weight"  # tied
        if mapped in header.tensors and header.tensors[mapped].shape[0] == module.in_features:
            found[name] = mapped
    return found


def windows(tokenizer: Any, texts: Sequence[str], most: int) -> list[list[int]]:
    """The texts one after the other, at `most` so many tokens, cut into windows; each text begins as its tokenizer begins it.
    `UserError` where there is no window of two."""
    ids = [token for text in texts for token in tokenizer(text)["input_ids"]][:most]
    found = [w for w in (ids[k : k + WINDOW] for k in range(0, len(ids), WINDOW)) if len(w) > 1]
    if not found:
        raise UserError("calibration: its texts have no two tokens")
    return found


def mixed(task: Imatrix, general: Imatrix, share: float) -> Imatrix:
    """Both, with the general text's mean squares counting `share`."""

    def mean(one: Imatrix, name: str) -> NDArray[np.float32]:
        return one.importance(name).reshape(one.sums[name].shape)

    names = [n for n in task.sums if n in general.sums]
    counts: Mapping[str, NDArray[np.float32]] = {n: task.counts[n] + general.counts[n] for n in names}
    sums = {n: ((1 - share) * mean(task, n) + share * mean(general, n)) * counts[n][:, None] for n in names}
    datasets = tuple(dict.fromkeys((*task.datasets, *general.datasets)))
    return Imatrix(sums, counts, datasets, task.chunks + general.chunks, max(task.chunk_size, general.chunk_size))
