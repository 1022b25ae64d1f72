"""A rounded model healed: what was rounded stays, and the scales of its blocks are taught by the model it was made from.

GPTQ rounds layer by layer, each for its own outputs. Here all scales are moved together, a little, so that what the whole model says
comes back: the mean KL divergence (checkpoint‖rounded) over the calibration texts, by Adam. Codes, and so the file's layout and
size, are what they were.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgearte.convert.calibrate import windows
from edgearte.convert.gptq import BLOCK, Rounded
from edgearte.convert.layerwise import TOKENS

if TYPE_CHECKING:
    import torch

VERSION = 1
EPOCHS = 2
RATE = 2e-4  # of each scale's own size, falling to nothing; at ten times that a few thousand tokens were learned by heart


def healed(checkpoint: Path, texts: Sequence[str], rounded: Mapping[str, Rounded], levels: tuple[int, ...]) -> dict[str, Rounded]:
    """The matrices of `layerwise.quantized` with the scales that the whole model does best with on the texts."""
    import torch
    from torch.func import functional_call
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(checkpoint), local_files_only=True)
    model: Any = AutoModelForCausalLM.from_pretrained(str(checkpoint), local_files_only=True, dtype=torch.float32).eval()
    model.requires_grad_(False)
    read = [torch.tensor([window]) for window in windows(tokenizer, texts, TOKENS)]
    moved = {name: torch.zeros_like(r.scales, dtype=torch.float32, requires_grad=True) for name, r in rounded.items()}
    optimizer = torch.optim.Adam(moved.values(), lr=RATE, betas=(0.9, 0.95))
    steps = EPOCHS * len(read)
    falling = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    for step in range(steps):
        ids = read[step % len(read)]
        with torch.no_grad():  # again in each epoch: kept, it would be a vocabulary of numbers for each token
            wanted = model(ids, use_cache=False).logits[0].log_softmax(-1)
        weights = {f"{n}.weight": _weight(r, r.scales * (1 + moved[n]), levels) for n, r in rounded.items()}
        found = functional_call(model, weights, (ids,), {"use_cache": False}).logits[0].log_softmax(-1)
        loss = torch.nn.functional.kl_div(found, wanted, reduction="batchmean", log_target=True)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        falling.step()
    return {n: replace(r, scales=(r.scales * (1 + moved[n].detach())).half().float()) for n, r in rounded.items()}


def _weight(matrix: Rounded, scales: torch.Tensor, levels: tuple[int, ...]) -> torch.Tensor:
    weight: torch.Tensor = _scaled()(matrix.codes, scales, levels)
    return weight


@cache
def _scaled() -> Any:
    """Codes times scales, whose gradient is worked out from the codes again: nothing as large as the model is kept for it."""
    import torch

    class Scaled(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, codes: torch.Tensor, scales: torch.Tensor, levels: tuple[int, ...]) -> torch.Tensor:
            ctx.save_for_backward(codes)
            ctx.levels = levels
            return Rounded(codes, scales).weight(levels)

        @staticmethod
        def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[None, torch.Tensor, None]:
            (codes,), (gradient,) = ctx.saved_tensors, gradients
            table = torch.tensor(ctx.levels, dtype=torch.float32)
            return None, (gradient * table[codes.long()]).reshape(len(codes), -1, BLOCK).sum(-1), None

    return Scaled.apply
