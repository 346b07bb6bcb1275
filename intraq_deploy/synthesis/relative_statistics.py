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
    """Statistics of every layer in units of the stored deviations; the stored ones become zeros and ones."""

    def __init__(self, means: Sequence[Tensor], variances: Sequence[Tensor]) -> None:
        """Keeps the stored means and variances, float32 [C_l] per layer."""
        self._means = means
        self._epsilons = [_EPSILON * variance.mean() for variance in variances]
        self._deviations = [torch.sqrt(v + e) for v, e in zip(variances, self._epsilons, strict=True)]
        self.stored_means = [torch.zeros_like(mean) for mean in means]
        self.stored_deviations = [torch.ones_like(mean) for mean in means]

    def means(self, batch: Sequence[Tensor]) -> list[Tensor]:
        """The means of a batch in units of the stored deviations. batch: float32 [C_l] per layer, as the result."""
        return [(b - m) / s for b, m, s in zip(batch, self._means, self._deviations, strict=True)]

    def deviations(self, variances: Sequence[Tensor]) -> list[Tensor]:
        """The deviations of a batch in units of the stored ones.

        variances: biased, float32 [C_l] per layer, as the result.
        """
        layers = zip(variances, self._epsilons, self._deviations, strict=True)
        return [torch.sqrt(v + e) / s for v, e, s in layers]
