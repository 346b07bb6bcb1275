"""Convolutions with gradients in bfloat16."""

import pytest
import torch
from support import random_images

from intraq_deploy.graph.execute import apply_layer
from intraq_deploy.graph.ops import Conv2d
from intraq_deploy.quantization.gradients import convolve

OPS = {
    "plain": Conv2d((1, 1), (1, 1, 1, 1), (1, 1), 1),
    "strided, padded below": Conv2d((2, 2), (0, 0, 1, 1), (1, 1), 1),
    "depthwise, dilated": Conv2d((1, 1), (2, 2, 2, 2), (2, 2), 6),
}


@pytest.mark.parametrize("op", OPS.values(), ids=OPS.keys())
def test_values_are_the_same_and_gradients_near(op):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 6, 9, 9, generator=generator)
    weight = torch.randn(6, 6 // op.groups, 3, 3, generator=generator)
    bias = torch.randn(6, generator=generator)
    results = []
    for compute in (apply_layer, convolve):
        inputs = [tensor.clone().requires_grad_() for tensor in (x, weight, bias)]
        y = compute(op, *inputs)
        (y * torch.randn(y.shape, generator=torch.Generator().manual_seed(1))).sum().backward()
        results.append((y.detach(), *(tensor.grad for tensor in inputs)))
    (y, *exact), (found, *near) = results
    assert torch.equal(y, found)
    for a, b in zip(exact, near, strict=True):
        assert float((a - b).norm() / a.norm()) < 0.01
    assert not torch.equal(exact[1], near[1]), "bfloat16 was used"


def test_an_input_that_needs_none_gets_none():
    weight = torch.randn(6, 6, 3, 3, requires_grad=True)
    x = torch.randn(2, 6, 5, 5)
    convolve(OPS["plain"], x, weight, torch.zeros(6)).sum().backward()
    assert x.grad is None
    assert weight.grad is not None


def test_the_student_computes_the_same_values(student):
    module, images = student(), random_images(4)
    before = module(images)
    for node in module.graph.layers():
        module.layer(node.name).low_gradients = True
    assert torch.equal(before, module(images))
