"""Moments of what layers read: patches are what convolutions multiply, whatever their shape."""

import pytest
import torch

from intraq_deploy.graph.execute import apply_layer
from intraq_deploy.graph.ops import Conv2d, Linear
from intraq_deploy.training import moments
from intraq_deploy.training.moments import Columns, MomentSums

CPU = torch.device("cpu")
EVERY = 1 << 30
LAYERS = {
    "dense": (Conv2d((1, 1), (1, 1, 1, 1), (1, 1), 1), (6, 8, 3, 3)),
    "strided": (Conv2d((2, 2), (0, 0, 1, 1), (1, 1), 1), (6, 8, 3, 3)),
    "dilated": (Conv2d((1, 2), (2, 1, 0, 3), (2, 3), 1), (6, 8, 3, 2)),
    "grouped": (Conv2d((1, 1), (1, 1, 1, 1), (1, 1), 2), (6, 4, 3, 3)),
    "depthwise": (Conv2d((2, 2), (1, 1, 1, 1), (1, 1), 8), (16, 1, 3, 3)),
    "pointwise": (Conv2d((1, 1), (0, 0, 0, 0), (1, 1), 1), (6, 8, 1, 1)),
    "linear": (Linear(), (6, 8)),
    "tokens": (Linear(), (6, 8)),
}


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def layer(name):
    """Its columns and weight, and what it reads in both networks."""
    op, shape = LAYERS[name]
    size = {"linear": (5, 8), "tokens": (5, 7, 8)}.get(name, (5, 8, 9, 10))
    return Columns(op, torch.Size(shape)), drawn(*shape), 1 + drawn(*size, seed=1), drawn(*size, seed=2)


def by_channel(op, x, weight):
    """Outputs without bias, float64 [values, O]."""
    y = apply_layer(op, x.double(), weight.double(), None)
    return y.movedim(1 if y.dim() == 4 else -1, -1).flatten(0, -2)


def outputs_of(columns, x, weight):
    return apply_layer(columns.op, x, weight, None)


@pytest.fixture(params=["whole", "cut"])
def cut(request, monkeypatch):
    """Layers are also cut into parts of at most 20 values, where they have one group."""
    if request.param == "cut":
        monkeypatch.setattr(moments, "_MOST_VALUES", 20)
    return request.param == "cut"


@pytest.mark.parametrize("name", LAYERS)
def test_patches_times_rows_is_the_layer(name, cut):
    columns, weight, x, _ = layer(name)
    patches, _ = columns.patches(x, outputs_of(columns, x, weight), EVERY, torch.Generator())
    if cut and weight[0].numel() == 72:
        assert columns.parts == 4
    products = patches @ columns.rows(weight).mT
    found = products.sum(0) if columns.parts > 1 else products.transpose(0, 1).flatten(1)
    torch.testing.assert_close(found.double(), by_channel(columns.op, x, weight), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", LAYERS)
def test_rows_and_back_is_the_same_weight(name, cut):
    columns, weight, _, _ = layer(name)
    rows = columns.rows(weight)
    assert rows.shape[2] == columns.values
    assert torch.equal(columns.weight(rows), weight)


@pytest.mark.parametrize("name", LAYERS)
def test_moments_give_the_outputs_means_and_covariances(name):
    columns, weight, x, other = layer(name)
    rows = columns.rows(weight.double())
    parts = [MomentSums(rows.shape, CPU) for _ in range(2)]
    for number, (one, two) in enumerate(zip(x.split(2), other.split(2), strict=True)):
        parts[number % 2].add(*columns.patches(one, outputs_of(columns, two, weight), EVERY, torch.Generator()))
    found = (parts[0] + parts[1]).moments()
    y, t = by_channel(columns.op, x, weight), by_channel(columns.op, other, weight)
    close = {"atol": 1e-4, "rtol": 1e-4}
    torch.testing.assert_close(columns.outputs((rows @ found.mean[:, :, None])[:, :, 0]), y.mean(0), **close)
    torch.testing.assert_close(columns.outputs(found.target_mean), t.mean(0), **close)
    variance = columns.outputs(((rows @ found.covariance) * rows).sum(2))
    torch.testing.assert_close(variance, y.var(0, correction=0), **close)
    covariance = columns.outputs((found.cross * rows).sum(2))
    torch.testing.assert_close(covariance, ((y - y.mean(0)) * (t - t.mean(0))).mean(0), **close)


@pytest.mark.parametrize("name", LAYERS)
def test_outputs_are_drawn_where_the_patches_are(name):
    columns, weight, x, _ = layer(name)
    patches, found = columns.patches(x, outputs_of(columns, x, weight), 40, torch.Generator().manual_seed(3))
    assert patches.shape[1] == found.shape[1] <= 40
    torch.testing.assert_close(patches @ columns.rows(weight).mT, found, atol=1e-4, rtol=1e-4)


def test_the_generator_says_which_patches_are_drawn():
    columns, weight, x, _ = layer("strided")
    outputs = outputs_of(columns, x, weight)
    one, again, other = (columns.patches(x, outputs, 40, torch.Generator().manual_seed(seed))[0] for seed in (3, 3, 4))
    assert one.shape == (1, 40, 72)
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
