"""Random shifts in front of strided convolutions."""

import pytest
import torch
from support import SMALL_SHAPE, random_images, small_network
from torch import nn

from intraq_deploy.synthesis.probe import Probe
from intraq_deploy.synthesis.swing import Swing, is_strided


def swing(seed=0):
    return Swing(torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("stride", [2, 3, (1, 2)])
def test_an_input_is_shifted_by_less_than_the_stride(stride):
    layer = nn.Conv2d(1, 1, 1, stride)
    x = torch.arange(49.0).reshape(1, 1, 7, 7)
    shifts = set()
    move = swing()
    for _ in range(600):
        (shifted,) = move(layer, (x,))
        assert shifted.shape == x.shape
        centre = float(shifted[0, 0, 3, 3]) - float(x[0, 0, 3, 3])
        rows, columns = divmod(round(centre) + 24, 7)
        shifts.add((rows - 3, columns - 3))
    most = [s - 1 for s in layer.stride]
    assert shifts == {(r, c) for r in range(-most[0], most[0] + 1) for c in range(-most[1], most[1] + 1)}


def test_only_strided_convolutions_are_swung():
    network, images = small_network("resnet"), random_images(4)
    assert [is_strided(layer) for layer in (nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1, (1, 2)), nn.MaxPool2d(2))] == [
        False, True, False,
    ]  # fmt: skip
    probe = Probe(network, SMALL_SHAPE)
    plain, swung = probe.read(images), probe.read(images, swing=swing())
    again = probe.read(images, swing=swing())
    first = slice(probe.widths[0])
    assert torch.equal(plain.means[first], swung.means[first]), "nothing in front of the first batch norm is strided"
    assert not torch.equal(plain.logits, swung.logits)
    assert torch.equal(swung.logits, again.logits)
    assert torch.equal(plain.logits, probe.read(images).logits), "no hook stays behind"
