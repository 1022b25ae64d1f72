"""A checkpoint that computes in 32 bits while its weights stay as they are stored: the numbers of one that was loaded in 32 bits, in the
memory of one that was not (issue 5: at most one and a half times the 16-bit model)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgearte.errors import UserError

if TYPE_CHECKING:
    import torch

Stored = dict["torch.nn.Module", dict[str, "torch.Tensor"]]  # weights that are widened for now, as they were
ROWS = 16_384  # of a matrix, widened at once: an output layer has ten times as many


def load(checkpoint: Path) -> Any:
    """A causal LM of a folder, weights as stored; `UserError` where it cannot be read."""
    import torch
    from accelerate import init_empty_weights
    from transformers import AutoModelForCausalLM

    try:
        model: Any = AutoModelForCausalLM.from_pretrained(str(checkpoint), dtype="auto", local_files_only=True, use_safetensors=True)
    except (OSError, ValueError) as error:
        raise UserError(f"{checkpoint}: the checkpoint cannot be read: {error}") from error
    # What is computed from the configuration (turns of positions, Gemma's scale of words) was rounded to the weights' type on the way.
    with init_empty_weights(include_buffers=False):
        exact = type(model)._from_config(model.config, dtype=torch.float32)
    stored = model.state_dict().keys()
    for name, buffer in exact.named_buffers():
        if name not in stored:
            owner, _, last = name.rpartition(".")
            setattr(model.get_submodule(owner), last, buffer)
    return model.eval()


@contextmanager
def widened(model: Any) -> Iterator[None]:
    """Within, every module widens its weights to 32 bits as it uses them, and so computes in 32 bits throughout."""
    import torch

    stored: Stored = {}
    with ExitStack() as undo:
        for module in model.modules():
            own = [p for p in module._parameters.values() if p is not None and p.is_floating_point()]
            if all(p.dtype == torch.float32 for p in own):
                continue
            if type(module) in (torch.nn.Linear, torch.nn.Embedding):
                module.forward = partial(_linear if type(module) is torch.nn.Linear else _embedding, module)
                undo.callback(delattr, module, "forward")
            else:
                undo.callback(module.register_forward_pre_hook(partial(_widen, stored)).remove)
                undo.callback(module.register_forward_hook(partial(_narrow, stored), always_call=True).remove)
        yield


def _linear(layer: torch.nn.Linear, x: torch.Tensor) -> torch.Tensor:
    import torch
    from torch.nn import functional

    bias = layer.bias if layer.bias is None else layer.bias.float()
    if layer.out_features <= ROWS:
        return functional.linear(x, layer.weight.float(), bias)
    out = torch.empty(*x.shape[:-1], layer.out_features)
    for at in range(0, layer.out_features, ROWS):
        rows = slice(at, at + ROWS)
        out[..., rows] = functional.linear(x, layer.weight[rows].float(), bias if bias is None else bias[rows])
    return out


def _embedding(layer: torch.nn.Embedding, ids: torch.Tensor) -> torch.Tensor:
    from torch.nn import functional

    return functional.embedding(ids, layer.weight).float()


def _widen(stored: Stored, module: torch.nn.Module, _: Any) -> None:
    stored[module] = {name: p.data for name, p in module._parameters.items() if p is not None}
    for name, data in stored[module].items():
        getattr(module, name).data = data.float()


def _narrow(stored: Stored, module: torch.nn.Module, *_: Any) -> None:
    for name, data in stored.pop(module).items():
        getattr(module, name).data = data
