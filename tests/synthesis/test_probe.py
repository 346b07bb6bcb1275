"""What synthesis reads from a network."""

from functools import partial

import pytest
import torch
from support import SMALL_SHAPE, random_images, small_network
from torch import nn

from intraq_deploy.errors import UnsupportedModelError
from intraq_deploy.synthesis.probe import Probe, Reading


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("fused", [True, False], ids=["fused", "hooked"])
def test_a_norm_and_its_statistics_have_the_gradients_of_both(memory_format, affine, fused):
    generator = torch.Generator().manual_seed(0)
    norm = nn.BatchNorm2d(5, affine=affine).double()
    for tensor in (norm.running_mean, norm.running_var, *norm.parameters()):
        tensor.data.uniform_(-1, 1, generator=generator)
    norm.running_var.abs_()
    if not fused:
        norm.forward = norm.forward
    network = nn.Sequential(norm, nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(60, 3).double())
    network.eval().requires_grad_(False).to(memory_format=memory_format)
    probe = Probe(network.float(), (5, 4, 3))
    network.double()
    x = torch.randn(6, 5, 4, 3, generator=generator, dtype=torch.float64)
    weights = torch.arange(1.0, 6.0, dtype=torch.float64)
    gradients = []
    for read in (probe.read, partial(plainly, network)):
        given = x.clone(memory_format=memory_format).requires_grad_()
        found = read(given)
        loss = found.logits.double().square().sum() + (found.means * weights).sum()
        (loss + (found.variances * weights.flip(0)).sum()).backward()
        gradients.append(given.grad)
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-6)


def plainly(network, x):
    """What a probe reads of a network that begins with its batch norm."""
    variance, mean = torch.var_mean(x, (0, 2, 3), correction=0)
    return Reading(network(x).float(), None, mean, variance)


def test_a_reading_is_one_pass_with_everything():
    network, images = small_network("resnet"), random_images(6)
    probe = Probe(network, SMALL_SHAPE)
    reading = probe.read(images)
    norms = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert probe.layers == len(norms) == len(probe.widths) == 8
    torch.testing.assert_close(reading.logits, network(images))
    assert reading.features.shape == (6, 32)
    torch.testing.assert_close(network.fc(reading.features), reading.logits)
    with torch.no_grad():
        first = network.conv1(images)
    torch.testing.assert_close(reading.means[: probe.widths[0]], first.mean((0, 2, 3)), atol=1e-5, rtol=1e-4)
    assert torch.equal(probe.stored_means[: probe.widths[0]], network.bn1.running_mean)


def test_no_hook_stays_behind():
    network = small_network("resnet")
    Probe(network, SMALL_SHAPE).read(random_images(2))
    assert not any(layer._forward_pre_hooks or "forward" in vars(layer) for layer in network.modules())


def test_a_forward_of_its_own_is_left_to_a_norm():
    network, images = small_network("resnet"), random_images(4)
    expected = Probe(network, SMALL_SHAPE).read(images)
    own = network.bn1.forward
    network.bn1.forward = own
    reading = Probe(network, SMALL_SHAPE).read(images)
    assert network.bn1.forward is own
    torch.testing.assert_close(reading.means, expected.means)


def test_the_head_is_the_first_linear_layer_behind_the_features():
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3),
    )  # fmt: skip
    assert Probe(network.eval(), SMALL_SHAPE).read(random_images(2)).features.shape == (2, 16)


def test_networks_without_a_linear_layer_have_no_features():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert Probe(network.eval(), SMALL_SHAPE).read(random_images(2)).features is None


@pytest.mark.parametrize("norm", [None, nn.BatchNorm2d(4, track_running_stats=False)], ids=["none", "no statistics"])
def test_a_network_without_statistics_is_refused_with_the_reason(norm):
    network = nn.Sequential(nn.Conv2d(3, 4, 3), *([norm] if norm else []), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(
        UnsupportedModelError, match="no batch norm with stored statistics.*vgg11_bn.*--calibration DIR"
    ):
        Probe(network.eval(), SMALL_SHAPE)


def test_a_batch_norm_used_twice_is_read_twice():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.conv2 = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)
            self.norm = nn.BatchNorm2d(4)

        def forward(self, x):
            return self.norm(self.conv2(self.norm(self.conv1(x)))).mean((2, 3))

    probe = Probe(Twice().eval(), SMALL_SHAPE)
    assert probe.layers == 1
    assert probe.widths == [4, 4]
    assert len(probe.read(random_images(2)).means) == len(probe.stored_means) == 8
