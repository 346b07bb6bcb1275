"""The losses by which the low-bit student learns from the float teacher, as pure functions of tensors to a scalar.

    KL_T = T^2 mean_n sum_k p_T log(p_T / q_T)        p_T = softmax(teacher / T), q_T = softmax(student / T)

(Hinton et al. 2015; the factor T^2 keeps the gradient's size.)
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor


def distillation(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """The loss KL_T, a scalar: the batch mean of the divergence at `temperature`, times its square.

    student, teacher: logits, float32 [N, K].
    """
    log_q = F.log_softmax(student / temperature, dim=1)
    log_p = F.log_softmax(teacher / temperature, dim=1)
    return temperature**2 * F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)


def centred_logits(student: Tensor, teacher: Tensor) -> Tensor:
    """The mean squared difference of logits, float32 [N, K], less each row's mean: a scalar. Softmax sees no mean."""
    return F.mse_loss(student - student.mean(1, keepdim=True), teacher - teacher.mean(1, keepdim=True))


def features(student: Mapping[str, Tensor], teacher: Mapping[str, Tensor]) -> Tensor:
    """The mean over tensors of |student - teacher|^2 / |teacher|^2, a scalar. Tensors: float32 [N, C, H, W], by name.

    Feature distillation as in PLF (Fan et al., 2024) and SynQ (Kim et al., ICLR 2025); the division, which makes all
    blocks count alike, is ours.
    """
    parts = [F.mse_loss(student[name], t) / t.square().mean().clamp(min=_LEAST) for name, t in teacher.items()]
    return torch.stack(parts).mean()


def cross_entropy(student: Tensor, labels: Tensor, teacher: Tensor, least_confidence: float) -> Tensor:
    """The cross-entropy against hard labels, over images whose label the teacher gives at least `least_confidence`.

    student, teacher: logits, float32 [N, K]; labels: int64 [N]. Returns a scalar.

    A label that the network itself doubts teaches little (PLF; SynQ: 1 - p_y <= 0.5). 0: over all of them.
    """
    each = F.cross_entropy(student, labels, reduction="none")
    if not least_confidence:
        return each.mean()
    sure = teacher.softmax(1).gather(1, labels[:, None])[:, 0] >= least_confidence
    return (each * sure).sum() / sure.sum().clamp(min=1)


_LEAST = 1e-12
