"""The distance to the stored statistics in units of each channel's stored deviation.

IntraQ compares variances as they are, so that one wide channel outweighs all others of its layer. With s_l the stored
variance of layer l and sigma = sqrt(s_l + epsilon), epsilon a thousandth of the layer's mean variance,

    mean:       (mu_l - m_l) / sigma_l            deviation:  (sqrt(v_l + epsilon) - sigma_l) / sigma_l

whose squares are then averaged over channels and layers as before (deviations in place of variances: GENIE, Jeon et
al., CVPR 2023; the division is ours).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

_EPSILON = 1e-3


class RelativeStatistics:
    """Statistics of all channels in units of the stored deviations; the stored ones become zeros and ones."""

    def __init__(self, means: Tensor, variances: Tensor, widths: Sequence[int]) -> None:
        """Keeps the stored means and variances, float32 [C]. widths: channels of each layer."""
        self._means = means
        self._epsilons = torch.cat([_EPSILON * part.mean().expand_as(part) for part in variances.split(list(widths))])
        self._deviations = torch.sqrt(variances + self._epsilons)
        self.stored_means, self.stored_deviations = torch.zeros_like(means), torch.ones_like(means)

    def means(self, batch: Tensor) -> Tensor:
        """The means of a batch in units of the stored deviations. batch: float32 [C], as the result."""
        return (batch - self._means) / self._deviations

    def deviations(self, variances: Tensor) -> Tensor:
        """The deviations of a batch in units of the stored ones. variances: biased, float32 [C], as the result."""
        return torch.sqrt(variances + self._epsilons) / self._deviations
