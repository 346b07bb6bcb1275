"""Compensated rounding: a layer's weights on their grid, from the moments of what it reads. No gradient is taken.

With H, T of `moments`, w the float weights of one output and the ridge r = damping x mean(diag H):

    v = (T + r w)(H + r)^-1                                        the weights that give the outputs they are to give
    s = argmin_s sum_k H_kk (v_k - fq(v_k; s))^2                   the step to begin with
    q: in order of falling H_kk, q_k = clip(round((v_k - sum_{j<k} (s q_j - v_j) U_jk / U_kk) / s))

with U U' = H + r, U upper triangular in that order. What the weights before it do to the output, each takes back as far
as it can. The first line is the asymmetric form: the student's layer reads x̂, not x, and v makes t out of it as far as
it can; it is GPTAQ's (Li et al., ICML 2025), whose ridge is towards 0 and ours towards w. The third is OBQ (Frantar and
Alistarh, "Optimal Brain Compression", NeurIPS 2022) in the order of GPTQ (Frantar et al., ICLR 2023), written as the
same thing that it is, Babai's nearest plane, which needs no inverse (Chen et al., "The Geometry of LLM Quantization",
2025). Moments are centred: `correction` sees to means.

The third line is done at several steps around s; each row keeps that of the least error (s q - v)(H + r)(s q - v)'.
Then one code at a time moves to where this error is least with all others fixed, over all columns in turn, until none
moves or four times (as in QuantEase, Behdin et al., 2023): what was rounded first could not yet know of what followed.

**The ridge.** Synthetic images have directions of their own, and few images have few: along those that carry nothing, r
keeps v at w, and rounding from being taken back. First layers, which see many patches, want little of it, and the last
ones much. So each layer takes that of `_DAMPINGS` whose rounding by one half of the images errs least on the other half
(`best_damping`). docs/accuracy.md has what it is worth.

Float64, as H is nearly singular where r is small. Groups are solved side by side: a depthwise layer is a batch of small
problems. Columns are taken in blocks of 128, behind which the rest is updated by one product.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from intraq_deploy.quantization.spec import QuantSpec
from intraq_deploy.training.moments import Moments

_FRACTIONS = torch.linspace(0.4, 1.05, 66).tolist()
"""Steps that are tried for rounding to the nearest, as fractions of the one that just holds the largest weight."""
_AROUND = (1.0, 0.7, 0.8, 0.9, 1.1, 1.2)
"""Steps that are tried for compensated rounding, as multiples of the one to begin with."""
_DAMPINGS = (0.01, 0.05, 0.2, 1.0, 5.0)
"""In rising order."""
_SWEEPS = 4
_BLOCK = 128
_ROUNDING, _LEAST = 1e-5, 1e-30
"""The least ridge, as a share of the inputs' mean square, which is above the rounding of float32 sums; and the least
ridge and step of all."""
_AT_ONCE = 1 << 22
"""The number of weights that are solved at a time."""
_ENOUGH = 1 << 18
"""The number of weights by which a layer's damping is chosen, at most: rows at equal distances."""


def compensated(
    rows: Tensor, moments: Moments, spec: QuantSpec, damping: float, *, parts: int
) -> tuple[Tensor, Tensor]:
    """Finds the codes, float64 [G, R, K], and the step of each row, float64 [G, R] (equations above).

    rows: the float weights, float64 [G, R, K]. damping: above 0. parts: 1, or G where rows are cut into parts, which
    then share their steps.
    """
    return _Problem.of(moments, spec, damping, parts).solve(rows)


def best_damping(rows: Tensor, halves: Sequence[Moments], spec: QuantSpec, importance: Tensor, *, parts: int) -> float:
    """Finds the damping by which the codes of the first half of the images err least on the second half.

    Dampings are tried from the greatest down, until the next one errs more. Each row's gain is that of least squares on
    the first half, as it is corrected afterwards. rows, parts: as of `compensated`. halves: the moments of each half;
    if there is but one, the greatest damping is taken. importance: how much the square of an error of each row counts,
    float64 [G, R].
    """
    best = _DAMPINGS[-1]
    if len(halves) < 2:
        return best
    some = slice(None, None, -(-rows.numel() // _ENOUGH))
    rows, importance = rows[:, some], importance[:, some]
    halves = [replace(half, cross=half.cross[:, some]) for half in halves]
    least = math.inf
    for damping in reversed(_DAMPINGS):
        problem = _Problem.of(halves[0], spec, damping, parts)
        codes, scale = problem.solve(rows, thorough=False)
        y = codes * scale[:, :, None]
        (variance, covariance), (held_variance, held_covariance) = (
            (problem.by_row(((y @ half.covariance) * y).sum(2)), problem.by_row((half.cross * y).sum(2)))
            for half in halves
        )
        gain = covariance / variance.clamp(min=_LEAST)
        error = float(((gain.square() * held_variance - 2 * gain * held_covariance) * importance).sum())
        if error >= least:
            break
        best, least = damping, error
    return best


@dataclass(frozen=True, slots=True)
class _Problem:
    """The moments, the ridge and the grid that all rows of a layer share, columns in the order of their rounding."""

    order: Tensor
    """The columns' places in the layer, int64 [G, K]."""
    damped: Tensor
    """H + r, float64 [G, K, K]."""
    factor: Tensor
    """U, float64 [G, K, K]."""
    cross: Tensor
    """T, float64 [G, R, K]."""
    ridge: Tensor
    """r, float64 [G, 1, 1]."""
    low: int
    high: int
    parts: int

    @staticmethod
    def of(moments: Moments, spec: QuantSpec, damping: float, parts: int) -> "_Problem":
        """Orders the columns, and factors H + r. damping, parts: as of `compensated`."""
        diagonal = moments.covariance.diagonal(dim1=1, dim2=2)
        variance = diagonal.mean(1)
        least = _ROUNDING * (variance + moments.mean.square().mean(1))
        ridge = torch.maximum(damping * variance, least.clamp(min=_LEAST))[:, None]
        order = diagonal.argsort(1, descending=True)
        damped = moments.covariance.take_along_dim(order[:, :, None], 1).take_along_dim(order[:, None], 2)
        damped = damped + torch.diag_embed(ridge.expand_as(order))
        factor = torch.linalg.cholesky(damped.flip(1, 2)).flip(1, 2)
        cross = moments.cross.take_along_dim(order[:, None], 2)
        return _Problem(order, damped, factor, cross, ridge[:, :, None], *spec.symmetric_range(), parts)

    def solve(self, rows: Tensor, *, thorough: bool = True) -> tuple[Tensor, Tensor]:
        """Finds the codes of `rows`, both float64 [G, R, K], and their steps, float64 [G, R].

        thorough: whether several steps are tried, and codes moved again.
        """
        order = self.order[:, None]
        wanted = self.cross + self.ridge * rows.take_along_dim(order, 2)
        # torch solves by the lower factor of the columns in the opposite order.
        target = torch.cholesky_solve(wanted.flip(2).mT, self.factor.flip(1, 2)).mT.flip(2)
        most = max(1, _AT_ONCE // (rows.shape[0] * rows.shape[2]))
        solved = [self._solve(part, thorough) for part in target.split(most, 1)]
        codes, scale = (torch.cat(found, 1) for found in zip(*solved, strict=True))
        return torch.empty_like(codes).scatter_(2, order.expand_as(codes), codes), scale

    def _solve(self, target: Tensor, thorough: bool) -> tuple[Tensor, Tensor]:
        """Finds the codes, [G, R, K], and steps, [G, R], of rows whose weights v are `target`, float64 [G, R, K]."""
        first = self._nearest_step(target)
        if not thorough:
            return self._round(target, first)[0], first
        codes, scale, least = target, first, torch.full_like(first, float("inf"))
        for multiple in _AROUND:
            tried, error = self._round(target, multiple * first)
            error = self.by_row(error)
            better = error < least
            codes = torch.where(better[:, :, None], tried, codes)
            scale, least = torch.where(better, multiple * first, scale), torch.where(better, error, least)
        return self._refined(codes, scale, target), scale

    def _nearest_step(self, target: Tensor) -> Tensor:
        """The step of each row that has the least error, weighed by column, where every weight is rounded alone."""
        weights = self.damped.diagonal(dim1=1, dim2=2)[:, None]
        full = target.abs().amax(2)
        full = (full.amax(0, keepdim=True).expand_as(full) if self.parts > 1 else full).clamp(min=_LEAST) / self.high
        best, least = full, torch.full_like(full, float("inf"))
        for fraction in _FRACTIONS:
            scale = (full * fraction)[:, :, None]
            rounded = (target / scale).round_().clamp_(self.low, self.high).mul_(scale)
            error = self.by_row((rounded.sub_(target).square_() * weights).sum(2))
            better = error < least
            best, least = torch.where(better, scale[:, :, 0], best), torch.where(better, error, least)
        return best

    def by_row(self, error: Tensor) -> Tensor:
        """Sums over columns, [G, R]: of rows in parts, each part has the sum of all."""
        return error.sum(0, keepdim=True).expand_as(error) if self.parts > 1 else error

    def _round(self, target: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        """Rounds rows column by column; each takes back what the columns before it do to the output.

        Returns the codes, and each row's error (s q - v)(H + r)(s q - v)', [G, R]: the square of (s q - v) U, of which
        each column is there as it is rounded.
        """
        codes, done, error = torch.empty_like(target), torch.zeros_like(target), torch.zeros_like(scale)
        for first, last in self._blocks():
            for column in range(first, last):
                diagonal = self.factor[:, column, column, None]
                wanted = target[:, :, column] - done[:, :, column] / diagonal
                rounded = (wanted / scale).round_().clamp_(self.low, self.high)
                codes[:, :, column] = rounded
                error += (rounded * scale).sub_(wanted).mul_(diagonal).square_()
                off = rounded * scale - target[:, :, column]
                done[:, :, column + 1 : last] += off[:, :, None] * self.factor[:, column, None, column + 1 : last]
            off = codes[:, :, first:last] * scale[:, :, None] - target[:, :, first:last]
            done[:, :, last:] += off @ self.factor[:, first:last, last:]
        return codes, error

    def _refined(self, codes: Tensor, scale: Tensor, target: Tensor) -> Tensor:
        """Moves one column of codes at a time to where the error is least."""
        codes = codes.clone()
        slope = (codes * scale[:, :, None] - target) @ self.damped
        for _ in range(_SWEEPS):
            moved = False
            for first, last in self._blocks():
                own, block = slope[:, :, first:last].clone(), self.damped[:, first:last, first:last]
                before = codes[:, :, first:last].clone()
                for column in range(last - first):
                    at = codes[:, :, first + column]
                    found = at - own[:, :, column] / (block[:, column, column, None] * scale)
                    found = found.round_().clamp_(self.low, self.high)
                    own += ((found - at) * scale)[:, :, None] * block[:, column, None]
                    codes[:, :, first + column] = found
                by = codes[:, :, first:last] - before
                slope += (by * scale[:, :, None]) @ self.damped[:, first:last]
                moved |= bool(by.any())
            if not moved:
                break
        return codes

    def _blocks(self) -> list[tuple[int, int]]:
        """The first column of each block, and the first one behind it."""
        count = self.damped.shape[1]
        return [(first, min(first + _BLOCK, count)) for first in range(0, count, _BLOCK)]
