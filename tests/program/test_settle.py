"""Settling: dead channels, nudges, and that it stays within its bounds."""

import pytest
import torch
from support import SMALL_SHAPE, random_images

from intraq_deploy.errors import FreezeError
from intraq_deploy.program import arithmetic
from intraq_deploy.program.freeze import freeze
from intraq_deploy.program.limits import LARGEST_BIAS
from intraq_deploy.program.program import Grid
from intraq_deploy.program.reference import Reference
from intraq_deploy.program.settle import LARGEST_NUDGE, settle, unsettled


def scale_of(network, name):
    return network.quantizer(name).scale.data


@pytest.mark.parametrize("network", ["resnet", "mobilenet"])
def test_a_settled_network_has_nothing_left_to_settle(student, network):
    module = student(network)
    settle(module)
    assert unsettled(module) == []
    assert settle(module) == []


def test_aligned_scales_of_a_sum_are_nudged_within_bounds(student):
    module = student()
    with torch.no_grad():
        for name in ("layer1.conv2", "maxpool"):
            scale_of(module, name).fill_(0.1)
        scale_of(module, "layer1.add").fill_(0.2)
    assert any("layer1.add" in problem for problem in unsettled(module))
    with pytest.raises(FreezeError, match="not settled"):
        freeze(module)
    adjustments = settle(module)
    assert any(adjustment.name == "layer1.add" and "nudged" in adjustment.what for adjustment in adjustments)
    assert 0 < abs(float(scale_of(module, "layer1.add")) / 0.2 - 1) <= LARGEST_NUDGE
    assert unsettled(module) == []


def test_a_power_of_two_multiplier_is_nudged(student):
    module = student()
    with torch.no_grad():
        layer = module.layer("layer1.conv1")
        layer.gamma.copy_(layer.deviation)
        layer.quantizer.scale.fill_(0.125)
        scale_of(module, "conv1").fill_(0.5)
        scale_of(module, "layer1.conv1").fill_(1.0)
    assert any(adjustment.name == "layer1.conv1" for adjustment in settle(module))


def test_a_frequent_accumulator_between_two_codes_is_nudged_away(student):
    """81 / 32.4 is 2.5: integers round it alike everywhere, the float sums of training do not."""
    module = student()
    with torch.no_grad():
        layer = module.layer("layer1.conv1")
        layer.gamma.copy_(layer.deviation)
        layer.quantizer.scale.fill_(0.1)
        scale_of(module, "conv1").fill_(0.5)
        scale_of(module, "layer1.conv1").fill_(0.05 * 32.4)
    assert arithmetic.near_ties(torch.tensor([1 / 32.4]), Grid(1.0, 4, 0, 15, 0)) == 3, "at 81, 243 and 405"
    adjustments = [adjustment for adjustment in settle(module) if adjustment.name == "layer1.conv1"]
    assert "ambiguous inputs, now 0" in adjustments[0].what
    assert 0 < abs(float(scale_of(module, "layer1.conv1")) / (0.05 * 32.4) - 1) <= LARGEST_NUDGE


def test_small_accumulators_are_near_a_tie_from_further_away():
    """10 * 0.45 is 4.5: sums that cancel to 10 are no more exact than those that end at 64."""
    grid = Grid(1.0, 4, 0, 15, 0)
    near, far = torch.tensor([0.45 * (1 - 7.5e-7)]), torch.tensor([0.45 * (1 - 1e-5)])
    assert arithmetic.near_ties(near, grid) == 2, "at 10 and 30"
    assert arithmetic.near_ties(far, grid) == 0


@pytest.mark.parametrize("scheme", ["integer", "paper"])
@pytest.mark.parametrize("gamma", [0.0, 1e-12, -1e-12])
def test_dead_channels_are_revived(student, scheme, gamma):
    module = student(scheme=scheme)
    images = random_images(16)
    with torch.no_grad():
        layer = module.layer("layer1.conv1")
        layer.gamma[2] = gamma
        layer.beta[2] = 1.5
        before = module(images)
        adjustments = settle(module)
        after = module(images)
    assert any("dead" in adjustment.what and adjustment.name == "layer1.conv1" for adjustment in adjustments)
    codes, scale = module.layer("layer1.conv1").codes()
    assert float(scale[2]) > 0
    assert int(codes[2].abs().max()) <= 7
    torch.testing.assert_close(after, before, atol=0.05, rtol=0.05)
    weights = freeze(module).layers["layer1.conv1"]
    assert 0 < abs(int(weights.bias_codes[2])) < LARGEST_BIAS


def test_a_channel_that_is_zero_altogether_freezes(student):
    module = student()
    with torch.no_grad():
        layer = module.layer("layer1.conv1")
        layer.gamma[0] = 0
        layer.beta[0] = 0
    settle(module)
    program = freeze(module)
    assert int(program.layers["layer1.conv1"].bias_codes[0]) == 0
    assert bool(torch.isfinite(Reference(program).run(random_images(2, SMALL_SHAPE))).all())
