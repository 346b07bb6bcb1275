"""Synthesis and fine-tuning as one writes them down first, to compare with: no fused passes, nothing saved.

Weights get gradients that nobody reads, statistics are means and variances of their own, crops are made image by image,
images lie in memory channel by channel, and the loss is read in every iteration. Quantizers are sums of detached
differences, as papers' code has them.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize


def synthesis(module: nn.Module, images: Tensor) -> Callable[[], float]:
    """Returns a function that takes one iteration. module: a copy for it alone; images: float32 [N, C, H, W]."""
    module.eval().requires_grad_(True)
    found: list[tuple[Tensor, Tensor]] = []
    norms = [layer for layer in module.modules() if isinstance(layer, nn.BatchNorm2d)]
    for norm in norms:
        norm.register_forward_pre_hook(
            lambda _, inputs: found.append((inputs[0].mean((0, 2, 3)), inputs[0].var((0, 2, 3), unbiased=False)))
        )
    images = images.clone().requires_grad_()
    optimizer = torch.optim.Adam([images], lr=0.1)
    labels = torch.arange(len(images))

    def step() -> float:
        found.clear()
        logits = module(_crops(images))
        labelled = labels % logits.shape[1]
        loss = F.mse_loss(logits.softmax(1)[torch.arange(len(images)), labelled], torch.ones(len(images)))
        for norm, (mean, variance) in zip(norms, found, strict=False):
            loss = loss + F.mse_loss(mean, norm.running_mean) + F.mse_loss(variance, norm.running_var)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def _crops(images: Tensor) -> Tensor:
    size = images.shape[2:]
    parts = []
    for image in images:
        share = float(torch.empty(()).uniform_(0.5, 1)) ** 0.5
        height, width = max(1, round(share * size[0])), max(1, round(share * size[1]))
        top, left = (int(torch.randint(s - part + 1, ())) for s, part in zip(size, (height, width), strict=True))
        crop = image[None, :, top : top + height, left : left + width]
        parts.append(F.interpolate(crop, size, mode="bilinear", align_corners=False))
    return torch.cat(parts)


class _Quantized(nn.Module):
    """Values on a grid of 16 steps between their least and greatest, for weights and for activations."""

    def forward(self, x: Tensor) -> Tensor:
        low, high = x.detach().amin(), x.detach().amax()
        scale = (high - low).clamp(min=1e-8) / 15
        return x + ((((x - low) / scale).round() * scale + low) - x).detach()


def fine_tuning(student: nn.Module, teacher: nn.Module, images: Tensor) -> Callable[[], float]:
    """Returns a function that takes one step. student, teacher: copies for it alone; images: float32 [N, C, H, W]."""
    teacher.eval().requires_grad_(False)
    student.eval().requires_grad_(True)
    for layer in list(student.modules()):
        if isinstance(layer, nn.Conv2d | nn.Linear):
            parametrize.register_parametrization(layer, "weight", _Quantized())
            layer.register_forward_pre_hook(lambda _, inputs: (_Quantized()(inputs[0]),))
    optimizer = torch.optim.SGD(student.parameters(), lr=1e-6, momentum=0.9)

    def step() -> float:
        seen = _crops(images)
        with torch.no_grad():
            expected = teacher(seen)
        loss = F.kl_div(student(seen).log_softmax(1), expected.softmax(1), reduction="batchmean")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step
