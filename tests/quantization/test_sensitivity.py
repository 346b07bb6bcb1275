"""What one layer's bits cost, against a network that is built for it."""

from dataclasses import replace

import pytest
import torch
from support import SMALL_SHAPE, random_images, small_network

from intraq_deploy.graph.trace import trace
from intraq_deploy.quantization.build import build_network
from intraq_deploy.quantization.placement import place
from intraq_deploy.quantization.scheme import make_scheme
from intraq_deploy.quantization.sensitivity import layer_losses, logits_of, loss_between, requantize
from intraq_deploy.quantization.spec import weight_spec

CPU = torch.device("cpu")
IMAGES = random_images(80)


@pytest.fixture(scope="module", params=["resnet", "mobilenet"])
def network(request):
    """Its graph, and the float network's logits."""
    module = small_network(request.param)
    return trace(module, SMALL_SHAPE), logits_of(module, IMAGES, CPU)


def scheme_with(graph, name="integer", **bits):
    """8 bits everywhere but in the layers that are named."""
    layers = {node.name: 8 for node in graph.layers()} | bits
    return replace(make_scheme(name, 2, 8), layer_bits=layers)


def specs(graph, bits, name="integer"):
    layers = place(graph, scheme_with(graph, name, **{node.name: bits for node in graph.layers()})).layers
    return {layer: placement.weight for layer, placement in layers.items()}


@pytest.mark.parametrize("scheme", ["integer", "paper"])
def test_it_is_the_loss_of_a_network_built_with_that_layer_otherwise(network, scheme):
    graph, teacher = network
    eight = build_network(graph, scheme_with(graph, scheme), IMAGES, 0)
    before = logits_of(eight, IMAGES, CPU)
    found = layer_losses(eight, specs(graph, 3, scheme), IMAGES, teacher, CPU)
    assert list(found) == [node.name for node in graph.layers()]
    for name, loss in list(found.items())[::4]:
        built = build_network(graph, scheme_with(graph, scheme, **{name: 3}), IMAGES, 0)
        assert built.layer(name).quantizer.spec.bits == 3
        expected = loss_between(teacher, logits_of(built, IMAGES, CPU))
        assert loss.kl == pytest.approx(expected.kl, rel=1e-4)
        assert loss.agreement == expected.agreement
    assert torch.equal(logits_of(eight, IMAGES, CPU), before), "the network is as it was"


def test_more_bits_lose_less(network):
    graph, teacher = network
    eight = build_network(graph, scheme_with(graph), IMAGES, 0)
    two, four, seven = (layer_losses(eight, specs(graph, bits), IMAGES, teacher, CPU) for bits in (2, 4, 7))
    for name in two:
        assert two[name].kl > four[name].kl > 0
        assert two[name].kl > 3 * seven[name].kl
    sums = [sum(loss.kl for loss in losses.values()) for losses in (two, four, seven)]
    assert sums[0] > 3 * sums[1] > 3 * sums[2]
    reference = loss_between(teacher, logits_of(eight, IMAGES, CPU))
    for loss in layer_losses(eight, specs(graph, 8), IMAGES, teacher, CPU).values():
        assert loss.kl == pytest.approx(reference.kl, rel=1e-9)


def test_how_many_images_are_done_is_told(network):
    graph, teacher = network
    eight = build_network(graph, scheme_with(graph), IMAGES, 0)
    seen = []
    layer_losses(eight, specs(graph, 4), IMAGES, teacher, CPU, seen.append)
    assert seen == [64, 80]


def test_requantizing_is_building_with_those_bits(network):
    graph, _ = network
    bits = {node.name: 2 + index % 7 for index, node in enumerate(graph.layers())}
    changed = build_network(graph, scheme_with(graph), IMAGES, 0)
    requantize(changed, {name: weight_spec(value) for name, value in bits.items()})
    built = build_network(graph, scheme_with(graph, **bits), IMAGES, 0)
    assert torch.equal(logits_of(changed, IMAGES, CPU), logits_of(built, IMAGES, CPU))


def test_a_perfect_copy_loses_nothing():
    logits = random_images(5).flatten(1)
    loss = loss_between(logits, logits.clone())
    assert (loss.kl, loss.agreement) == (0.0, 100.0)
    assert loss_between(logits, -logits).agreement == 0.0
    assert loss_between(logits, logits + 3).kl == pytest.approx(0, abs=1e-9), "softmax does not see a constant"
