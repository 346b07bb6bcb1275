"""Gradients reach the images whatever a forward does to them."""

import pytest
import torch
from support import SMALL_SHAPE, model_of, realistic
from torch import nn
from torch.utils.checkpoint import checkpoint

from intraq_deploy import synthesize
from intraq_deploy.graph.trace import trace
from intraq_deploy.pipeline.probing import differentiable_probe

CPU = torch.device("cpu")


class Frozen(nn.Module):
    """A body whose gradients are kept from the image in some way, and a head."""

    def __init__(self, way):
        super().__init__()
        self.way = way
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.head = nn.Sequential(nn.Conv2d(8, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.fc = nn.Linear(8, 10)

    def forward(self, images):
        return self.fc(self.head(self.way(self.body, images)).mean((2, 3)))


def no_grad(body, x):
    with torch.no_grad():
        return body(x)


def inference_mode(body, x):
    with torch.inference_mode():
        return body(x)


WAYS = {
    "plain": lambda body, x: body(x),
    "no_grad": no_grad,
    "inference_mode": inference_mode,
    "checkpoint": lambda body, x: checkpoint(body, x, use_reentrant=False),
    "reentrant checkpoint": lambda body, x: checkpoint(body, x, use_reentrant=True),
    "detached": lambda body, x: body(x).detach(),
}


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("way", WAYS)
def test_every_statistic_moves_the_images(way):
    network = Frozen(WAYS["plain"])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        realistic(network, SMALL_SHAPE)
    network.way = WAYS[way]
    model = model_of(network.eval(), SMALL_SHAPE, 10)
    probe = differentiable_probe(model, lambda: trace(network, SMALL_SHAPE), CPU)
    images = torch.randn(4, *SMALL_SHAPE, requires_grad=True)
    reading = probe.read(images)
    layers = reading.variances.split(probe.widths)
    assert len(layers) == 2
    for variance in layers:
        (gradient,) = torch.autograd.grad(variance.sum(), images, retain_graph=True)
        assert float(gradient.abs().max()) > 0
    made = synthesize(model, images=4, iterations=2)
    assert made.images.isfinite().all()
