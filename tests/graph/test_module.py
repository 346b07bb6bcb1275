"""A graph as a module again: the same logits, and the batch norms that the network was trained with."""

import pytest
import torch
from support import SMALL_NETWORKS, SMALL_SHAPE, random_images, small_network
from torch import nn

from intraq_deploy.graph.module import GraphModule
from intraq_deploy.graph.trace import trace
from intraq_deploy.synthesis.probe import Probe


@pytest.mark.parametrize("name", SMALL_NETWORKS)
def test_it_computes_the_network(name):
    network, images = small_network(name), random_images(4)
    module = GraphModule(trace(network, SMALL_SHAPE))
    with torch.no_grad():
        torch.testing.assert_close(module(images), network(images), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["resnet", "mobilenet"])
def test_its_batch_norms_read_as_the_networks(name):
    network, images = small_network(name), random_images(4)
    own, other = (Probe(each, SMALL_SHAPE) for each in (network, GraphModule(trace(network, SMALL_SHAPE))))
    assert own.widths == other.widths
    assert torch.equal(own.stored_means, other.stored_means)
    mine, theirs = own.read(images), other.read(images)
    for what in ("means", "variances", "features"):
        torch.testing.assert_close(getattr(mine, what), getattr(theirs, what), atol=1e-4, rtol=1e-4)


def test_a_scale_of_channels_is_no_batch_norm():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.bn, self.other = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)
            self.bn1d, self.fc, self.last = nn.BatchNorm1d(6), nn.Linear(4, 6), nn.Linear(6, 5)
            self.gain = nn.Parameter(torch.rand(4, 1, 1) + 0.5)

        def forward(self, x):
            x = torch.relu(self.other(torch.relu(self.bn(self.conv(x)))) * self.gain)
            return self.last(torch.relu(self.bn1d(self.fc(x.mean((2, 3))))))

    network, images = Scaled().eval(), random_images(4)
    module = GraphModule(trace(network, SMALL_SHAPE))
    torch.testing.assert_close(module(images), network(images), atol=1e-4, rtol=1e-4)
    kinds = [type(each).__name__ for each in module.modules() if "BatchNorm" in type(each).__name__]
    assert kinds == ["BatchNorm2d", "BatchNorm1d"]
