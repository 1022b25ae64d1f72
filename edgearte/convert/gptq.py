"""Rounding a matrix to 4 bits so that its *outputs* stay: GPTQ (arXiv 2210.17323), its scales searched and fitted.

A row is cut into blocks of `BLOCK` weights with a scale each; a weight is its block's scale times one of 16 levels. With the inputs x
that a layer met, H = sum of x x^T, the error that counts for a row of weights w rounded to v is (w - v) H (w - v)^T.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

BLOCK = 32  # of ONNX Runtime's MatMulNBits as its builder sets it, and of llama.cpp's q4_0 and iq4_nl
EVEN = tuple(range(-8, 8))
DAMPING = 0.01  # of the mean diagonal, as in the paper
SHRINK = [1 - 0.06 * k for k in range(6)]  # scales tried: this share of the one that holds the largest weight
ROUNDS = 3  # of rounding with given scales, then fitting the scales to what was rounded
LAZY = 32  # columns rounded before those far away hear of the errors
ROWS = 4096  # rows worked on at once: what bounds the memory


@dataclass(frozen=True)
class Rounded:
    """A matrix as `codes` [rows, columns], the places of its weights among the levels, and `scales` [rows, columns / BLOCK], which are
    float16 numbers whatever holds them. `gain` is the error in what it puts out, against that of rounding each weight by itself."""

    codes: torch.Tensor
    scales: torch.Tensor
    gain: float = 1.0

    def weight(self, levels: tuple[int, ...]) -> torch.Tensor:
        """What it stands for, in float32."""
        import torch

        return torch.tensor(levels, dtype=torch.float32)[self.codes.long()] * self.scales.repeat_interleave(BLOCK, 1)


def rounded(weight: torch.Tensor, hessian: torch.Tensor, levels: tuple[int, ...] = EVEN) -> Rounded:
    """`weight` [rows, columns] rounded for inputs whose sum of x x^T is `hessian` [columns, columns]."""
    import torch

    h = hessian / hessian.diagonal().mean().clamp_min(1e-30)
    h.diagonal().add_(DAMPING)
    order = h.diagonal().argsort(descending=True)  # what matters most is rounded first, while much can still make up for it
    upper = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(h[order][:, order])), upper=True)
    table = torch.tensor(levels, dtype=torch.float32)
    parts = [_rows(part.float(), h, order, upper, table) for part in torch.split(weight, ROWS)]
    codes, scales, left, plain = zip(*parts, strict=True)
    return Rounded(torch.cat(codes), torch.cat(scales), float(sum(left) / max(sum(plain), 1e-30)))


def _rows(
    weight: torch.Tensor, h: torch.Tensor, order: torch.Tensor, upper: torch.Tensor, table: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, float, float]:
    """Rounding and fitting by turns, of each row the best that was met: codes, scales, the error left and that of rounding alone."""
    import torch

    def loss(codes: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
        error = weight - table[codes.long()] * scales.repeat_interleave(BLOCK, 1)
        found: torch.Tensor = ((error @ h) * error).sum(1)
        return found

    scales = searched(weight, h.diagonal(), table)
    codes = _nearest(weight / scales.repeat_interleave(BLOCK, 1), table)
    best, least = (codes, scales), loss(codes, scales)
    plain = float(least.sum())
    for _ in range(ROUNDS):
        codes = _compensated(weight, scales.repeat_interleave(BLOCK, 1), order, upper, table)
        scales = fitted(weight, table[codes.long()], h).half().float()
        now = loss(codes, scales)
        better = (now < least)[:, None]
        best, least = (torch.where(better, codes, best[0]), torch.where(better, scales, best[1])), torch.minimum(now, least)
    return *best, float(least.sum()), plain


def searched(weight: torch.Tensor, importance: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """The scale of each block, of either sign, that leaves the least squared error weighed by the columns' `importance`."""
    import torch

    w, d = weight.reshape(len(weight), -1, BLOCK), importance.reshape(-1, BLOCK)
    largest = w.gather(2, w.abs().argmax(2, keepdim=True))
    best, least = torch.ones_like(largest), torch.full_like(largest, float("inf"))
    for end in (table[0], table[-1]):  # which of the ends the largest weight of the block takes
        for share in SHRINK:
            scale = torch.where(largest == 0, 1.0, largest / end * share).half().float()
            scale = torch.where(scale == 0, 1.0, scale)  # too small for float16: all of the block is
            error = (d * (w - table[_nearest(w / scale, table).long()] * scale).square()).sum(2, keepdim=True)
            best, least = torch.where(error < least, scale, best), torch.minimum(error, least)
    return best.squeeze(2)


def _nearest(values: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """The places of the levels nearest to the values."""
    import torch

    return torch.bucketize(values, (table[1:] + table[:-1]) / 2).to(torch.uint8)


def _compensated(
    weight: torch.Tensor, scales: torch.Tensor, order: torch.Tensor, upper: torch.Tensor, table: torch.Tensor
) -> torch.Tensor:
    """The codes [rows, columns], column after column, each column's error made up for by those that are still to come."""
    import torch

    w, s = weight[:, order].T.contiguous(), scales[:, order].T.contiguous()  # a column's numbers beside each other
    codes = torch.empty(w.shape, dtype=torch.uint8)
    for start in range(0, len(w), LAZY):
        end = min(start + LAZY, len(w))
        errors = torch.empty(end - start, w.shape[1])
        for k in range(start, end):
            codes[k] = _nearest(w[k] / s[k], table)
            errors[k - start] = (w[k] - table[codes[k].long()] * s[k]) / upper[k, k]
            w[k + 1 : end] -= upper[k, k + 1 : end, None] * errors[k - start]
        w[end:] -= upper[start:end, end:].T @ errors
    found = torch.empty_like(codes.T)
    found[:, order] = codes.T
    return found


def fitted(weight: torch.Tensor, values: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
    """The scales that leave the least error for these levels: of each row a linear least-squares problem with an unknown a block."""
    import torch

    blocks = values.reshape(len(values), -1, BLOCK).transpose(0, 1)  # [blocks, rows, BLOCK]
    through = blocks @ h.reshape(-1, BLOCK, len(h))  # each block's share of what the row puts out, [blocks, rows, columns]
    normal = torch.einsum("brdi,dri->rbd", through.reshape(*through.shape[:2], -1, BLOCK), blocks)
    normal.diagonal(dim1=1, dim2=2).add_(1e-6 * normal.diagonal(dim1=1, dim2=2).mean(1, keepdim=True) + 1e-12)
    wanted = torch.einsum("brk,rk->rb", through, weight)
    found: torch.Tensor = torch.linalg.solve(normal, wanted)
    return found
