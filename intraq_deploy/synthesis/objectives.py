"""IntraQ's five loss terms (Zhong et al., CVPR 2022), as pure functions of tensors to a scalar.

    L = L_mean + L_var + L_SIL + L_lower + L_upper                          every weight 1

with, for BN layer l with stored (m_l, s_l) and batch mean mu_l, biased batch variance v_l of its input,

    L_mean = mean_l (1/C_l) |mu_l - m_l|^2        L_var = mean_l (1/C_l) |v_l - s_l|^2

the soft inception loss, with a target t_i for the probability of the image's own class,

    L_SIL = mean_i (softmax(F(x_i))_{y_i} - t_i)^2

and the marginal distance constraint, with d_i = 1 - cos(phi(x_i), c_{y_i}),

    L_lower = mean_i max(lambda_l - d_i, 0)       L_upper = mean_i max(d_i - lambda_u, 0)

over the images whose class has a centre c (a mean of phi over finished images). Variances, not deviations, enter.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def channel_shares(widths: Sequence[int], shallow_weight: float = 1.0) -> Tensor:
    """The weight of each channel in L_mean and L_var, which are means over layers of means over channels.

    widths: channels of each layer. shallow_weight: the weight of the first half of the layers. Returns float32 [C], of
    all layers' channels, with the sum 1.
    """
    shallow = len(widths) // 2
    weights = [shallow_weight] * shallow + [1.0] * (len(widths) - shallow)
    shares = [torch.full((width,), weight / width) for width, weight in zip(widths, weights, strict=True)]
    return torch.cat(shares) / sum(weights)


def statistics_distance(batch: Tensor, stored: Tensor, shares: Tensor) -> Tensor:
    """The term L_mean or L_var, a scalar, float32. batch, stored: of all layers' channels, and shares: their weights,
    float32 [C]."""
    return (batch - stored).square() @ shares


def soft_inception(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """The term L_SIL, a scalar. logits: float32 [N, K]; labels: int64 [N]; targets: float32 [N], in (0, 1]."""
    probability = logits.softmax(1).gather(1, labels[:, None])[:, 0]
    return F.mse_loss(probability, targets)


def marginal_distance(
    features: Tensor, centres: Tensor, known: Tensor, labels: Tensor, lower: float, upper: float
) -> tuple[Tensor, Tensor]:
    """The terms L_lower and L_upper, scalars, float32.

    features: float32 [N, D]; centres: float32 [K, D]; known: bool [K], classes with a centre; labels: int64 [N].
    Both are 0 if no image's class is known. lower, upper: lambda_l and lambda_u, cosine distances in [0, 2].
    """
    mask = known[labels].float()
    distance = 1 - F.cosine_similarity(features, centres[labels], dim=1)
    count = mask.sum().clamp(min=1)
    too_near = (mask * (lower - distance).clamp(min=0)).sum() / count
    too_far = (mask * (distance - upper).clamp(min=0)).sum() / count
    return too_near, too_far
