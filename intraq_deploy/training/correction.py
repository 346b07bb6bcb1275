"""Correction of means and gains, layer by layer, before fine-tuning. No gradient is taken and no label read.

Rounding a channel's weights to 4 bits turns its output t into y, of another mean and another size, and what the layers
in front of it have done to its input comes on top. Biases and batch norms are not rounded to few bits, so that both are
free to be undone. For every output channel of every layer, in execution order, each on what the corrected layers before
it make,

    y <- s y + (mean t - s mean y)        s = cov(y, t) / var(y)

over images and positions, in front of the activation, is the line through y that is nearest to t in squares. In the
layer's batch norm: gamma <- s gamma, beta <- s beta + (mean t - s mean y).

The means alone are the bias correction of Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias
Correction" (ICCV 2019), there from the batch norms' statistics or from data; the gain is ours. Statistics of synthetic
images are no substitute for the network's own, and are not used as such: y is compared with t on the same images.

**What is left as it is.** s where a channel has one value per image (linear layers): that is a fit through as many
points as there are images. s beyond 1/2 and 2, which are taken in its place: where y says nothing of t any more, s
falls to 0, and the channel with it.

What it is worth, before any training and after it, stands in docs/accuracy.md. It costs two forward passes of the float
network and two of the student. Held in CPU memory are what layers read later, of both networks and at most 128 images:
four tensors at once in most networks, 2.5 GB for MobileNetV2 at 224 pixels.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from intraq_deploy import seeds
from intraq_deploy.graph.ops import HAS_WEIGHT
from intraq_deploy.quantization.network import FakeQuantNetwork
from intraq_deploy.synthesis.synthetic_set import SyntheticSet
from intraq_deploy.training.blocks import carried, moved, single_nodes
from intraq_deploy.training.teacher import Teacher

_IMAGES, _BATCH = 128, 32
_LEAST, _MOST = 0.5, 2.0
"""Bounds of the factor s."""
_FLAT = 1e-9
"""A share of the mean square: a variance below it is that of a constant, and float32's rounding."""


@torch.no_grad()
def correct(
    student: FakeQuantNetwork,
    teacher: Teacher,
    images: SyntheticSet,
    seed: int,
    device: torch.device,
    report: Callable[[int, int], None] | None = None,
) -> None:
    """Corrects the student in place and on `device`, where the teacher is already (equations above).

    Of more than 128 images, so many are drawn with `seed`. report: called before each layer with its number, from 1,
    and how many there are.
    """
    student.to(device)
    drawn = torch.randperm(len(images), generator=seeds.generator(seed, "correction"))[:_IMAGES]
    student_inputs = teacher_inputs = {student.graph.input.name: images.images[drawn]}
    parts = single_nodes(student.graph)
    count, corrected = sum(isinstance(block.nodes[0].op, HAS_WEIGHT) for block in parts), 0
    for index, block in enumerate(parts):
        (node,) = block.nodes
        if isinstance(node.op, HAS_WEIGHT):
            corrected += 1
            if report is not None:
                report(corrected, count)
            (name,) = node.inputs
            layer, pairs = student.layer(node.name), _Pairs()
            batches = (inputs[name].split(_BATCH) for inputs in (student_inputs, teacher_inputs))
            for x, reference in zip(*batches, strict=True):
                y = student.evaluate_layer(node, moved(x, device))
                pairs.see(y, teacher.evaluate_layer(node, moved(reference, device)))
            gain, offset = pairs.line()
            layer.gamma.mul_(gain)
            layer.beta.mul_(gain).add_(offset)
        expected = block.run_all(teacher_inputs, teacher.evaluate, _BATCH, device)
        found = block.run_all(student_inputs, student.evaluate, _BATCH, device)
        student_inputs = carried(student_inputs | found, parts[index + 1 :])
        teacher_inputs = carried(teacher_inputs | expected, parts[index + 1 :])


class _Pairs:
    """Sums over pairs (y, t), by channel, in float64, as they cancel."""

    def __init__(self) -> None:
        self._sums: Tensor | None = None
        self._count = 0
        self._images = 0

    def see(self, y: Tensor, t: Tensor) -> None:
        """Adds pairs, float32 [N, C, H, W] each, or [N, ..., C] behind linear layers."""
        self._images += len(y)
        y, t = (value.double().movedim(1 if value.dim() == 4 else -1, 0).flatten(1) for value in (y, t))
        self._count += y.shape[1]
        sums = torch.stack([value.sum(1) for value in (y, t, y * y, y * t)])
        self._sums = sums if self._sums is None else self._sums + sums

    def line(self) -> tuple[Tensor, Tensor]:
        """The line's s and mean t - s mean y, float32 [C] each."""
        assert self._sums is not None
        y, t, yy, yt = self._sums / self._count
        variance = yy - y * y
        gain = torch.ones_like(y)
        if self._count > self._images:
            alive = variance > _FLAT * yy
            gain = torch.where(alive, (yt - y * t) / torch.where(alive, variance, 1), 1).clamp(_LEAST, _MOST)
        return gain.float(), (t - gain * y).float()
