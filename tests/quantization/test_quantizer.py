"""Properties that every quantizer has."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from intraq_deploy.errors import UsageError
from intraq_deploy.graph.ops import Clamp
from intraq_deploy.quantization.quantizer import (
    ActivationQuantizer,
    LearnedWeightQuantizer,
    MinMaxWeightQuantizer,
    fake_quantize,
)
from intraq_deploy.quantization.ranges import search_weight
from intraq_deploy.quantization.spec import QuantSpec, activation_spec, code_bounds, weight_spec

BITS = st.integers(2, 8)
SCALES = st.floats(2**-13, 8.0, width=32)
SEEDS = st.integers(0, 2**31 - 1)


def activation_quantizer(bits, symmetric, scale, zero_point):
    spec = activation_spec(bits, symmetric=symmetric)
    return ActivationQuantizer(spec, scale, 0 if symmetric else zero_point % spec.levels, learned=True)


@given(bits=BITS, symmetric=st.booleans(), scale=SCALES, zero_point=st.integers(0, 255), seed=SEEDS)
@settings(max_examples=60, deadline=None)
def test_activations(bits, symmetric, scale, zero_point, seed):
    quantizer = activation_quantizer(bits, symmetric, scale, zero_point)
    x = torch.randn(500, generator=torch.Generator().manual_seed(seed)) * scale * 2**bits
    with torch.no_grad():
        y = quantizer(x)
        low, high = quantizer.bounds()
        codes = y / quantizer.scale
        assert high - low + 1 == 2**bits
        assert torch.equal(quantizer(y), y), "idempotent"
        assert torch.allclose(codes, codes.round(), atol=1e-4), "on the grid"
        assert low <= codes.min().round() <= codes.max().round() <= high
        assert float(quantizer(torch.zeros(()))) == 0, "zero is zero"
        order = x.argsort()
        assert bool((y[order].diff() >= 0).all()), "monotone"


@given(bits=BITS, seed=SEEDS)
@settings(max_examples=30, deadline=None)
def test_symmetric_weights_change_sign_with_their_values(bits, seed):
    weight = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(seed))
    quantizer = LearnedWeightQuantizer(weight_spec(bits), len(weight))
    quantizer.scale.data.copy_(search_weight(weight, weight_spec(bits)))
    with torch.no_grad():
        assert torch.equal(quantizer(-weight)[0], -quantizer(weight)[0])
        assert torch.equal(quantizer.codes(-weight), -quantizer.codes(weight))
        codes, scale = quantizer.codes(weight), quantizer.scale
        assert torch.equal(codes * scale.reshape(-1, 1, 1, 1), quantizer(weight)[0])
    assert int(codes.abs().max()) <= 2 ** (bits - 1) - 1


@given(bits=BITS, seed=SEEDS, offset=st.floats(-2, 2))
@settings(max_examples=30, deadline=None)
def test_min_max_weights_cover_their_range(bits, seed, offset):
    weight = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(seed)) + offset
    quantizer = MinMaxWeightQuantizer(weight_spec(bits, symmetric=False), 4)
    with torch.no_grad():
        values, scale = quantizer(weight)
        codes = quantizer.codes(weight)
    assert float((values - weight).abs().max()) <= 1.01 * float(scale.max())
    rows = codes.flatten(1)
    assert int((rows.amax(1) - rows.amin(1)).max()) <= (2**bits - 1 if bits < 8 else 254)
    assert int(codes.abs().max()) <= 127, "fits a signed byte"


def test_the_gradients_are_those_of_learned_step_sizes():
    x = torch.tensor([-3.0, -0.4, 0.3, 0.6, 9.0], requires_grad=True)
    scale = torch.tensor(0.5, requires_grad=True)
    fake_quantize(x, scale, -4, 7).backward(torch.ones(5))
    assert x.grad.tolist() == [0, 1, 1, 1, 0]
    inside = (-1 + 0.8) + (1 - 0.6) + (1 - 1.2)
    assert float(scale.grad) == pytest.approx((-4 + inside + 7) / (5 * 7) ** 0.5)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_the_scale_gradient_does_not_depend_on_the_memory_format(memory_format):
    x = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    weights = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(1))
    scale = torch.tensor(0.3, requires_grad=True)
    fake_quantize(x.contiguous(memory_format=memory_format), scale, 0, 15).backward(weights)
    expected = torch.tensor(0.3, requires_grad=True)
    ratio = x / 0.3
    codes = ratio.clamp(0, 15).round()
    inside = (ratio > 0) & (ratio < 15)
    by_hand = (weights * torch.where(inside, codes - ratio, codes)).sum() / (x.numel() * 15) ** 0.5
    assert expected.shape == scale.grad.shape
    torch.testing.assert_close(scale.grad, by_hand, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bits", [-1, 0, 1, 9, 32])
def test_bits_outside_two_to_eight_are_refused(bits):
    with pytest.raises(UsageError, match=f"{bits} bits"):
        QuantSpec(bits, symmetric=True)


@pytest.mark.parametrize(
    ("spec", "zero_point", "bounds"),
    [
        (weight_spec(4), 0, (-7, 7)),
        (weight_spec(8), 0, (-127, 127)),
        (weight_spec(8, symmetric=False), 0, (-127, 127)),
        (activation_spec(8, symmetric=True), 0, (-128, 127)),
        (activation_spec(4), 0, (0, 15)),
        (activation_spec(4), 5, (-5, 10)),
    ],
    ids=str,
)
def test_code_bounds(spec, zero_point, bounds):
    assert code_bounds(spec, zero_point) == bounds


@pytest.mark.parametrize("zero_point", [0, 3])
def test_a_grid_that_begins_at_0_clips_as_relu_does(zero_point):
    x = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    found = []
    for before in (torch.relu, torch.clone):
        quantizer = activation_quantizer(4, False, 0.1, zero_point)
        given = x.clone().requires_grad_()
        y = quantizer(before(given))
        (y * x).sum().backward()
        found.append((y.detach(), given.grad, quantizer.scale.grad))
    alike = [torch.equal(a, b) for a, b in zip(*found, strict=True)]
    assert all(alike) == (zero_point == 0), "only then is ReLU left to it"


@pytest.mark.parametrize("scale", [0.3, 0.5])
def test_a_grid_that_ends_below_6_clips_as_relu6_does(scale):
    x = 8 * torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    found = []
    for before in (torch.nn.functional.relu6, torch.clone):
        quantizer = activation_quantizer(4, False, scale, 0)
        given = x.clone().requires_grad_()
        y = quantizer(before(given))
        (y * x).sum().backward()
        found.append((y.detach(), given.grad, quantizer.scale.grad))
    alike = [torch.equal(a, b) for a, b in zip(*found, strict=True)]
    assert all(alike) == (15 * scale < 6), "only then is ReLU6 left to it"


@pytest.mark.parametrize("scale", [0.3, 0.5])
def test_relu6_is_left_to_a_grid_only_where_that_clips(student, scale):
    module = student("mobilenet")
    node = next(node for node in module.graph.layers() if node.activation == Clamp(0.0, 6.0))
    quantizer = module.quantizer(node.name)
    y = 8 * torch.randn(2, *node.shape, generator=torch.Generator().manual_seed(0))
    module.evaluate_layer = lambda *_: y
    with torch.no_grad():
        quantizer.scale.fill_(scale)
        assert torch.equal(module.evaluate(node, [y]), quantizer(y.clamp(0, 6)))


def test_gradients_lie_as_activations_do():
    x = torch.randn(4, 8, 5, 5).to(memory_format=torch.channels_last).requires_grad_()
    seen = []
    x.register_hook(seen.append)
    fake_quantize(x, torch.tensor(0.1), 0, 15).mean((2, 3)).square().sum().backward()
    assert seen[0].is_contiguous(memory_format=torch.channels_last)
