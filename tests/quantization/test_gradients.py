"""Convolutions whose gradients are computed apart, in float32 and in bfloat16."""

from functools import partial

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


@pytest.mark.parametrize(("dtype", "near", "other"), [(torch.float32, 1e-6, False), (torch.bfloat16, 0.01, True)])
@pytest.mark.parametrize("op", OPS.values(), ids=OPS.keys())
def test_values_are_the_same_and_gradients_near(op, dtype, near, other):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 6, 9, 9, generator=generator)
    weight = torch.randn(6, 6 // op.groups, 3, 3, generator=generator)
    bias = torch.randn(6, generator=generator)
    results = []
    for compute in (apply_layer, partial(convolve, dtype=dtype)):
        inputs = [tensor.clone().requires_grad_() for tensor in (x, weight, bias)]
        y = compute(op, *inputs)
        (y * torch.randn(y.shape, generator=torch.Generator().manual_seed(1))).sum().backward()
        results.append((y.detach(), *(tensor.grad for tensor in inputs)))
    (y, *exact), (found, *approximate) = results
    assert torch.equal(y, found)
    errors = [float((a - b).norm() / a.norm()) for a, b in zip(exact, approximate, strict=True)]
    assert max(errors) < near
    assert (errors[1] > 1e-4) == other, "bfloat16 was used where it was asked for"


def test_an_input_that_needs_none_gets_none():
    weight = torch.randn(6, 6, 3, 3, requires_grad=True)
    x = torch.randn(2, 6, 5, 5)
    convolve(OPS["plain"], x, weight, torch.zeros(6), torch.float32).sum().backward()
    assert x.grad is None
    assert weight.grad is not None


def test_the_student_computes_the_same_values(student):
    module, images = student(), random_images(4)
    before = module(images)
    for node in module.graph.layers():
        module.layer(node.name).low_gradients = True
    assert torch.equal(before, module(images))
