"""What the low-bit student learns from the float teacher, as pure functions of logits [N, K] to a scalar.

    KL_T = T^2 mean_n sum_k p_T log(p_T / q_T)        p_T = softmax(teacher / T), q_T = softmax(student / T)

(Hinton et al. 2015; the factor T^2 keeps the gradient's size.)
"""

import torch.nn.functional as F
from torch import Tensor


def distillation(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """KL_T: batch mean of the divergence at `temperature`, times its square."""
    log_q = F.log_softmax(student / temperature, dim=1)
    log_p = F.log_softmax(teacher / temperature, dim=1)
    return temperature**2 * F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)


def centred_logits(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of the logits after each row's mean is subtracted (softmax does not see it)."""
    return F.mse_loss(student - student.mean(1, keepdim=True), teacher - teacher.mean(1, keepdim=True))


def cross_entropy(student: Tensor, labels: Tensor) -> Tensor:
    """Against hard labels, int64 [N]."""
    return F.cross_entropy(student, labels)
