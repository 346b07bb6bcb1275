"""The second moments of what a layer reads and of what it is to give: all that it is fitted by in closed form.

A convolution is a product with patches (im2col). With x̂ what the student's layer reads, as patches of
K = C / groups x kh x kw values, and t the R outputs that it is to give there, for every group

    H = cov(x̂, x̂)        T = cov(t, x̂)        m̂ = mean x̂        mean t

from which follow, for any weights w, var(w x̂) = w H w', cov(t, w x̂) = T w' and the mean, without running the layer.

Patches are drawn at random, and summed as they come; none is kept. Held are K x K and R x K values in float64 for each
group: 190 MB for the widest layer of ResNet-50 (K = 4,608, R = 512), and up to 2.5 GB in all while it is rounded. A
layer of more than 4,608 values is cut into parts, whose values count as uncorrelated with those of other parts.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from intraq_deploy.graph.ops import Conv2d, Linear

_MOST_VALUES = 4608
"""The largest K that is not cut."""


@dataclass(frozen=True, slots=True)
class Columns:
    """The way in which a layer's weight [O, ...] is laid out as rows [G, R, K]: groups, or the parts of one group."""

    op: Conv2d | Linear
    shape: torch.Size
    """The shape of the weight."""

    @property
    def groups(self) -> int:
        """The number of groups of channels."""
        return self.op.groups if isinstance(self.op, Conv2d) else 1

    @property
    def parts(self) -> int:
        """The number of parts that one group is cut into."""
        return -(-self.shape[1:].numel() // _MOST_VALUES) if self.groups == 1 else 1

    @property
    def values(self) -> int:
        """The number K, with the zeros that fill the last part."""
        return -(-self.shape[1:].numel() // self.parts)

    def rows(self, weight: Tensor) -> Tensor:
        """The weight, of any dtype, as [G, R, K], where R is O / groups."""
        return self._cut(weight.reshape(self.groups, self.shape[0] // self.groups, -1))

    def weight(self, rows: Tensor) -> Tensor:
        """The weight [O, ...] whose rows these are, [G, R, K] of any dtype."""
        if self.parts > 1:
            rows = rows.transpose(0, 1).flatten(1)[None, :, : self.shape[1:].numel()]
        return rows.reshape(self.shape)

    def outputs(self, sums: Tensor) -> Tensor:
        """Sums over the columns of rows, [G, R] of any dtype, as one number for each output channel, [O]."""
        return sums.sum(0) if self.parts > 1 else sums.flatten()

    def patches(self, x: Tensor, outputs: Tensor, most: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draws at most `most` places of one batch.

        x: what the layer reads, float32 [N, ...]. outputs: what it gives there, float32 [N, O, ...]. Returns the
        patches, float32 [G, P, K], and the outputs, float32 [G, P, R], where all parts of one group have the same.
        """
        if isinstance(self.op, Linear):
            x, outputs = x.reshape(-1, x.shape[-1]), outputs.reshape(-1, outputs.shape[-1])
            chosen = _chosen(len(x), most, generator).to(x.device)
            return self._cut(x[chosen][None]), outputs[chosen][None]
        windows = self._windows(self.op, x)
        count, _, height, width = windows.shape[:4]
        chosen = _chosen(count * height * width, most, generator).to(x.device)
        image, row, column = torch.unravel_index(chosen, (count, height, width))
        # Indices on both sides of the colon make [P, C, kh, kw] and [P, O].
        drawn, given = (
            part[image, :, row, column].reshape(len(chosen), self.groups, -1).transpose(0, 1)
            for part in (windows, outputs)
        )
        return self._cut(drawn), given

    def _cut(self, rows: Tensor) -> Tensor:
        """Cuts [1, R, all values] into [parts, R, K]; more groups stay as they are."""
        if self.parts == 1:
            return rows.contiguous()
        whole = F.pad(rows[0], (0, self.parts * self.values - rows.shape[2]))
        return whole.reshape(len(whole), self.parts, self.values).transpose(0, 1).contiguous()

    def _windows(self, op: Conv2d, x: Tensor) -> Tensor:
        """A view of every patch of x [N, C, H, W]: [N, C, H', W', kh, kw]."""
        top, left, bottom, right = op.padding
        x = F.pad(x, (left, right, top, bottom)) if any(op.padding) else x
        for dim, (size, stride, dilation) in enumerate(zip(self.shape[2:], op.stride, op.dilation, strict=True), 2):
            x = x.unfold(dim, dilation * (size - 1) + 1, stride)[..., ::dilation]
        return x


def _chosen(count: int, most: int, generator: torch.Generator) -> Tensor:
    return torch.arange(count) if count <= most else torch.randint(count, (most,), generator=generator)


@dataclass(frozen=True, slots=True)
class Moments:
    """The moments of a layer's inputs, and of the outputs that it is to give, float64."""

    covariance: Tensor
    """The covariance H of what the layer reads, [G, K, K]."""
    cross: Tensor
    """The covariance T of the outputs it is to give with what it reads, [G, R, K]."""
    mean: Tensor
    """The means m̂ of what the layer reads, [G, K]."""
    target_mean: Tensor
    """The means of the outputs that it is to give, [G, R]."""


class MomentSums:
    """Sums over patches, from which moments follow."""

    def __init__(self, shape: torch.Size, device: torch.device, sums: list[Tensor] | None = None) -> None:
        """Starts from `sums`, as `tensors` gave them, or from nothing. shape: G, R and K."""
        groups, rows, values = shape
        if sums is None:
            square = torch.zeros(groups, values, values, dtype=torch.float64, device=device)
            cross = square.new_zeros(groups, rows, values)
            sums = [square, cross, square[:, 0].clone(), cross[:, :, 0].clone(), square.new_zeros(())]
        self._sums = sums

    def tensors(self) -> list[Tensor]:
        """The sums: float64 [G, K, K], [G, R, K], [G, K], [G, R], and the number of patches, a scalar."""
        return self._sums

    def add(self, inputs: Tensor, targets: Tensor) -> None:
        """Adds patches of what the layer reads, float32 [G, P, K], and the outputs it is to give, float32 [G, P, R]."""
        square, cross, mean, target_mean, patches = self._sums
        square += inputs.mT @ inputs
        cross += targets.mT @ inputs
        mean += inputs.sum(1, dtype=torch.float64)
        target_mean += targets.sum(1, dtype=torch.float64)
        patches += inputs.shape[1]

    def __add__(self, other: "MomentSums") -> "MomentSums":
        """The sums over the patches of both."""
        square, cross = self._sums[:2]
        sums = [mine + theirs for mine, theirs in zip(self._sums, other._sums, strict=True)]
        return MomentSums(cross.shape, square.device, sums)

    def moments(self) -> Moments:
        """The moments of all patches so far."""
        square, cross, mean, target_mean, patches = self._sums
        mean, target_mean = mean / patches, target_mean / patches
        return Moments(
            square / patches - mean[:, :, None] * mean[:, None, :],
            cross / patches - target_mean[:, :, None] * mean[:, None, :],
            mean,
            target_mean,
        )
