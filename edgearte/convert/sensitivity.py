"""How much an error in each weight costs the model, in nats: what mixed precision is chosen by.

To second order the KL divergence of a model with weights W + D from itself is half of D' F D, where F is the Fisher information. Of F
we keep what factors by rows and columns (the diagonal of K-FAC, arXiv 1503.05671): for a layer y = W x with g the gradient of
log p(a token drawn from the model) at y,

    KL a position  =  1/2 sum_ij E[g_i^2] E[x_j^2] D_ij^2,

and for an embedding that is looked up, 1/2 sum_ij P(token i) E[g_j^2] D_ij^2. One backward pass over some texts gives all of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgearte.convert.calibrate import Squares, weight_names, windows

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

TOKENS = 8192
EMBEDDING = "token_embd.weight"


@dataclass(frozen=True)
class Use:
    """One way in which a weight [rows, columns] is used: an error of 1 in place (i, j) costs rows[i] * columns[j] nats a position."""

    rows: NDArray[np.float64]
    columns: NDArray[np.float64]


def cost(uses: Sequence[Use], error: NDArray[np.float32]) -> float:
    """What an `error` [rows, columns] in a weight costs, in nats a position."""
    import numpy as np

    squared = np.square(error, dtype=np.float32)
    return sum(float(use.rows @ (squared @ use.columns.astype(np.float32))) for use in uses)


def measure(checkpoint: Path, f16: Path, texts: Sequence[str], seed: int = 0) -> dict[str, list[Use]]:
    """The uses of every weight that a linear layer or the embedding has, by its name in the GGUF file `f16`."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(checkpoint), local_files_only=True)
    model: Any = AutoModelForCausalLM.from_pretrained(str(checkpoint), local_files_only=True, dtype=torch.float32).eval()
    model.requires_grad_(False)
    names = weight_names(checkpoint, f16)
    rows, columns = Squares(), Squares()

    def watch(name: str) -> Any:
        def met(_: Any, given: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            columns.add(name, given[0])
            output.register_hook(lambda gradient: rows.add(name, gradient))  # type: ignore[no-untyped-call]

        return met

    for module_name, module in model.named_modules():
        if module_name in names:
            module.register_forward_hook(watch(names[module_name]))
    looked_up, seen = Squares(), torch.zeros(model.get_input_embeddings().num_embeddings, dtype=torch.float64)

    def embedded(_: Any, given: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        found = output.detach().requires_grad_()
        found.register_hook(lambda gradient: looked_up.add(EMBEDDING, gradient))  # type: ignore[no-untyped-call]
        return found

    model.get_input_embeddings().register_forward_hook(embedded)
    chance = torch.Generator().manual_seed(seed)
    for window in windows(tokenizer, texts, TOKENS):
        ids = torch.tensor([window])
        seen += torch.bincount(ids[0], minlength=len(seen))
        logits = model(ids, use_cache=False).logits[0].float()
        drawn = torch.multinomial(logits.detach().softmax(-1), 1, generator=chance)
        logits.log_softmax(-1).gather(-1, drawn).sum().backward()
    found = {name: [Use(_rows(name, rows.mean(name)) / 2, columns.mean(name))] for name in rows.sums}
    found.setdefault(EMBEDDING, []).append(Use((seen / seen.sum()).numpy() / 2, looked_up.mean(EMBEDDING)))
    return found


def _rows(name: str, found: NDArray[np.float64]) -> NDArray[np.float64]:
    """llama.cpp's converter puts the rows of queries and keys of some models in another order, so of these only the mean is known."""
    import numpy as np

    return np.full_like(found, found.mean()) if "attn_q" in name or "attn_k" in name else found
