"""Correction of a layer's means and gains, in closed form. No gradient is taken and no label read.

Rounding a channel's weights to 4 bits turns its output t into y, of another mean and another size, and what the layers
in front of it have done to its input comes on top. Biases and batch norms are not rounded to few bits, so that both are
free to be undone. For every output channel

    y <- s y + (mean t - s mean y)        s = cov(y, t) / var(y)

over images and positions, in front of the activation, is the line through y that is nearest to t in squares. In the
layer's batch norm: gamma <- s gamma, beta <- s beta + (mean t - s mean y). Means, variance and covariance follow from
the `moments` of what the layer reads.

The means alone are the bias correction of Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias
Correction" (ICCV 2019), there from the batch norms' statistics or from data; the gain is ours. Statistics of synthetic
images are no substitute for the network's own, and are not used as such: y is compared with t on the same images.

**What is left as it is.** s where a channel has one value per image (linear layers): that is a fit through as many
points as there are images; and where the layer was cut into parts, whose variances are not known together. s beyond 1/2
and 2, which are taken in its place: where y says nothing of t any more, s falls to 0, and the channel with it.
"""

import torch

from intraq_deploy.quantization.network import QuantizedLayer
from intraq_deploy.training.moments import Columns, Moments

_LEAST, _MOST = 0.5, 2.0
"""Bounds of the factor s."""
_FLAT = 1e-9
"""A share of the mean square: a variance below it is that of a constant, and float32's rounding."""


@torch.no_grad()
def correct_layer(layer: QuantizedLayer, columns: Columns, moments: Moments, *, gains: bool) -> None:
    """Corrects a layer in place (equations above).

    moments: of what it reads, and of the outputs that it is to give. gains: whether the gain too is corrected, and not
    the mean alone.
    """
    y = columns.rows(layer.quantizer(layer.weight)[0].double())
    own = layer.gain().double()
    y_mean = own * columns.outputs((y @ moments.mean[:, :, None])[:, :, 0]) + layer.bias()
    t_mean = columns.outputs(moments.target_mean)
    gain = torch.ones_like(y_mean)
    if gains and columns.parts == 1:
        variance = own.square() * columns.outputs(((y @ moments.covariance) * y).sum(2))
        covariance = own * columns.outputs((moments.cross * y).sum(2))
        alive = variance > _FLAT * (variance + y_mean.square())
        gain = torch.where(alive, covariance / torch.where(alive, variance, 1), 1).clamp(_LEAST, _MOST)
    layer.gamma.mul_(gain.to(layer.gamma.dtype))
    layer.beta.mul_(gain.to(layer.beta.dtype)).add_((t_mean - gain * y_mean).to(layer.beta.dtype))
