"""How far each quantized tensor of a student is from the float network's."""

import math

import torch
from torch import Tensor

from intraq_deploy.quantization.network import FakeQuantNetwork
from intraq_deploy.training.teacher import Teacher

_BATCH = 8
"""Images at a time: all tensors of both networks are held."""


@torch.no_grad()
def signal_to_noise(student: FakeQuantNetwork, teacher: Teacher, images: Tensor) -> dict[str, float | None]:
    """Returns the ratio of signal to quantization noise of every tensor on a grid, in decibels, by node.

    It is 10 log10(sum t^2 / sum (t - s)^2) over all values of all images: t the teacher's, s the student's, which has
    the noise of all the layers before too. None for tensors that are equal, or all zero in the teacher.

    images: float32 [N, C, H, W], normalised, on the CPU, as both networks.
    """
    names = [node.name for node in student.graph.nodes if student.placement.grid(node.name) is not None]
    signal, noise = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)
    for part in images.split(_BATCH):
        expected, found = teacher.features(part, names)[1], student.features(part, names)[1]
        for name in names:
            signal[name] += float(expected[name].double().square().sum())
            noise[name] += float((expected[name] - found[name]).double().square().sum())
    return {name: _decibels(signal[name], noise[name]) for name in names}


def _decibels(signal: float, noise: float) -> float | None:
    return 10 * math.log10(signal / noise) if signal > 0 and noise > 0 else None
