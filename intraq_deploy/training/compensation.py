"""Compensated rounding: a layer's weights on their grid, from the moments of what it reads. No gradient is taken.

With H, C of `moments`, w the float weights of one output and the ridge r = damping x mean(diag H):

    v = (w C + r w)(H + r)^-1                                      the weights that give the teacher's output
    s = argmin_s sum_k H_kk (v_k - fq(v_k; s))^2                   the step
    q: in order of falling H_kk, q_k = clip(round(v_k / s)), and v_j -= (v_k - s q_k) U_kj / U_kk for all j behind k

with U'U = (H + r)^-1, U upper triangular in that order. What one weight's rounding does to the output, those that are
still free take back. The first line is the asymmetric form: the student's layer reads x̂, not x, and v makes the
teacher's w x out of it as far as it can. The last is OBQ (Frantar and Alistarh, "Optimal Brain Compression", NeurIPS
2022) in the order and by the factor of GPTQ (Frantar et al., ICLR 2023); the first is GPTAQ's (Li et al., ICML 2025),
whose ridge is towards 0 and ours towards w. Moments are centred: `correction` sees to means.

**The ridge.** Synthetic images have directions of their own, and few images have few: along those that carry nothing, r
keeps v at w, and rounding from being taken back. docs/accuracy.md has what it is worth.

Float64, as H is nearly singular where r is small. Groups are solved side by side: a depthwise layer is a batch of small
problems. Columns are taken in blocks of 128, behind which the rest is updated by one product.
"""

import torch
from torch import Tensor

from intraq_deploy.quantization.spec import QuantSpec
from intraq_deploy.training.moments import Moments

_FRACTIONS = torch.linspace(0.4, 1.05, 66).tolist()
"""Steps that are tried, as fractions of the one that just holds the largest weight."""
_BLOCK = 128
_ROUNDING, _LEAST = 1e-5, 1e-30
"""The least ridge, as a share of the inputs' mean square, which is above the rounding of float32 sums; and the least
ridge and step of all."""
_SEARCHED = 1 << 20
"""The number of weights whose step is searched at a time."""


def compensated(
    rows: Tensor, moments: Moments, spec: QuantSpec, damping: float, *, parts: int
) -> tuple[Tensor, Tensor]:
    """Finds the codes, float64 [G, R, K], and the step of each row, float64 [G, R] (equations above).

    rows: the float weights, float64 [G, R, K]. damping: above 0. parts: 1, or G where rows are cut into parts, which
    then share their steps.
    """
    low, high = spec.symmetric_range()
    variance = moments.covariance.diagonal(dim1=1, dim2=2).mean(1)
    least = _ROUNDING * (variance + moments.mean.square().mean(1))
    ridge = torch.maximum(damping * variance, least.clamp(min=_LEAST))
    ridge = torch.diag_embed(ridge[:, None].expand_as(moments.mean))
    target = torch.linalg.solve(moments.covariance + ridge, (rows @ (moments.cross + ridge)).mT).mT
    damped = moments.covariance + ridge
    weights = damped.diagonal(dim1=1, dim2=2)
    if parts > 1:
        whole = target.transpose(0, 1).flatten(1)[None]
        scale = _search(whole, weights.reshape(1, -1), low, high).expand(parts, -1)
    else:
        scale = _search(target, weights, low, high)
    return _round(target, scale, damped, low, high), scale


def _search(rows: Tensor, weights: Tensor, low: int, high: int) -> Tensor:
    """Searches for the step of each row, [G, R], that has the least error weighed by column, weights [G, K]."""
    most = max(1, _SEARCHED // (rows.shape[0] * rows.shape[2]))
    return torch.cat([_search_part(part, weights[:, None], low, high) for part in rows.split(most, 1)], 1)


def _search_part(rows: Tensor, weights: Tensor, low: int, high: int) -> Tensor:
    full = rows.abs().amax(2).clamp(min=_LEAST) / high
    best, least = full.clone(), torch.full_like(full, float("inf"))
    for fraction in _FRACTIONS:
        scale = (full * fraction)[:, :, None]
        error = ((rows / scale).round_().clamp_(low, high).mul_(scale).sub_(rows).square_() * weights).sum(2)
        better = error < least
        best, least = torch.where(better, scale[:, :, 0], best), torch.where(better, error, least)
    return best


def _round(rows: Tensor, scale: Tensor, h: Tensor, low: int, high: int) -> Tensor:
    """Rounds rows [G, R, K] to codes, column by column."""
    order = h.diagonal(dim1=1, dim2=2).argsort(1, descending=True)
    rows = rows.take_along_dim(order[:, None], 2)
    h = h.take_along_dim(order[:, :, None], 1).take_along_dim(order[:, None], 2)
    factor = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(h)), upper=True)
    codes = torch.empty_like(rows)
    for first in range(0, rows.shape[2], _BLOCK):
        last = min(first + _BLOCK, rows.shape[2])
        for column in range(first, last):
            codes[:, :, column] = (rows[:, :, column] / scale).round_().clamp_(low, high)
            # In place of the weight stands what the columns behind it take over.
            error = (rows[:, :, column] - codes[:, :, column] * scale) / factor[:, column, column, None]
            rows[:, :, column + 1 : last] -= error[:, :, None] * factor[:, column, None, column + 1 : last]
            rows[:, :, column] = error
        rows[:, :, last:] -= rows[:, :, first:last] @ factor[:, first:last, last:]
    return torch.empty_like(codes).scatter_(2, order[:, None].expand_as(codes), codes)
