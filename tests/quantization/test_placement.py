"""Who gets a quantizer, by scheme: what the placement report says."""

from dataclasses import replace

import pytest
from support import SMALL_SHAPE, small_network
from torch import nn

from intraq_deploy.errors import UnsupportedModelError, UsageError
from intraq_deploy.graph.trace import trace
from intraq_deploy.quantization.layers_report import layer_rows
from intraq_deploy.quantization.placement import place
from intraq_deploy.quantization.scheme import TargetConstraints, make_scheme
from intraq_deploy.quantization.spec import activation_spec, weight_spec

BYTE = activation_spec(8, symmetric=True)
NIBBLE = activation_spec(4)


@pytest.fixture(scope="module")
def graphs():
    return {name: trace(small_network(name), SMALL_SHAPE) for name in ("resnet", "mobilenet")}


def specs(graphs, network, scheme, weight_bits=4, activation_bits=4):
    placement = place(graphs[network], make_scheme(scheme, weight_bits, activation_bits))
    return {name: tensor.spec for name, tensor in placement.tensors.items()}, placement


def test_integer_quantizes_every_tensor_but_the_logits(graphs):
    for network in graphs:
        found, placement = specs(graphs, network, "integer")
        floats = [name for name in found if placement.grid(name) is None]
        assert floats == [graphs[network].output]
        assert all(layer.integer for layer in placement.layers.values())


def test_integer_roles(graphs):
    found, placement = specs(graphs, "resnet", "integer")
    assert found["image"] == BYTE
    assert found["conv1"] == found["layer1.add"] == NIBBLE
    assert found["layer1.conv2"] == found["layer2.downsample.0"] == BYTE
    assert found["avgpool"] == BYTE
    assert found["maxpool"] is None
    assert placement.grid("maxpool") == "conv1"
    assert {layer.weight for layer in placement.layers.values()} == {weight_spec(4)}
    found, _ = specs(graphs, "mobilenet", "integer")
    assert found["blocks.0.project.0"] == found["blocks.0.add"] == BYTE


def test_eight_bit_activations_are_symmetric(graphs):
    found, _ = specs(graphs, "resnet", "integer", 8, 8)
    assert found["conv1"] == BYTE


def test_paper_quantizes_behind_relus_only(graphs):
    found, placement = specs(graphs, "resnet", "paper")
    assert {name for name, spec in found.items() if spec} == {
        "conv1", "layer1.conv1", "layer1.add", "layer2.conv1", "layer2.add", "layer3.conv1", "layer3.add",
    }  # fmt: skip
    assert not placement.layers["conv1"].integer
    assert "input image is float" in placement.layers["conv1"].reason
    assert "output is float" in placement.layers["layer1.conv2"].reason
    assert placement.layers["layer1.conv1"].integer
    assert {layer.weight for layer in placement.layers.values()} == {weight_spec(4, symmetric=False)}


def test_ends8_quantizes_what_layers_read(graphs):
    found, placement = specs(graphs, "resnet", "ends8")
    assert found["image"] == found["avgpool"] == BYTE
    assert found["layer1.conv2"] is None, "only the sum reads it"
    weights = {name: layer.weight.bits for name, layer in placement.layers.items()}
    assert weights.pop("conv1") == weights.pop("fc") == 8
    assert set(weights.values()) == {4}
    found, _ = specs(graphs, "mobilenet", "ends8")
    assert found["blocks.0.add"] == NIBBLE
    assert found["blocks.0.project.0"] is None


def test_the_report_has_a_reason_for_every_node(graphs):
    for scheme in ("integer", "paper", "ends8"):
        graph = graphs["resnet"]
        rows = layer_rows(graph, place(graph, make_scheme(scheme, 4, 4)))
        assert [row.name for row in rows] == [node.name for node in graph.nodes]
        assert all(row.reason for row in rows)


def test_a_convolution_as_the_classifier_keeps_float_logits():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 5, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    placement = place(trace(network.eval(), (3, 8, 8)), make_scheme("integer", 4, 4))
    assert placement.grid("3") is None
    assert placement.tensors["3"].role == "logits"


def test_a_network_without_layers_is_refused():
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(UnsupportedModelError, match="nothing to quantize"):
        place(trace(network, (3, 8, 8)), make_scheme("integer", 4, 4))


def test_unknown_schemes_are_refused():
    with pytest.raises(UsageError, match="'intger' is unknown: choose one of integer, paper, ends8"):
        make_scheme("intger", 4, 4)


@pytest.mark.parametrize("network", ["resnet", "scales"])
def test_8_bit_weights_stay_within_what_the_targets_ask_for(graphs, network):
    """Those of the first and last layer of ends8, and of batch norms alone, too; narrower ones are within it anyway."""
    scaled = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))
    graph = graphs["resnet"] if network == "resnet" else trace(scaled.eval(), (3, 8, 8))
    for name in ("integer", "paper", "ends8"):
        for bits in (4, 8):
            placement = place(graph, make_scheme(name, bits, bits, TargetConstraints(largest_weight=64)))
            limits = {layer.weight.limit for layer in placement.layers.values() if layer.weight.bits == 8}
            assert limits <= {64}, name
            assert limits or (bits, name) in ((4, "integer"), (4, "paper")), name
            assert all(layer.weight.limit is None for layer in placement.layers.values() if layer.weight.bits < 8)


def test_single_layers_have_bits_of_their_own(graphs):
    """Layers by name beat roles; the kind of the scheme's weights stays, and so does everything about activations."""
    graph = graphs["resnet"]
    for name, symmetric in (("integer", True), ("paper", False), ("ends8", True)):
        scheme = make_scheme(name, 4, 4)
        mixed = place(graph, replace(scheme, layer_bits={"conv1": 6, "layer2.conv1": 3, "layer3.conv2": 8}))
        plain = place(graph, scheme)
        assert mixed.layers["conv1"].weight == weight_spec(6, symmetric=symmetric)
        assert mixed.layers["layer2.conv1"].weight == weight_spec(3, symmetric=symmetric)
        assert mixed.layers["layer3.conv2"].weight == weight_spec(8)
        others = plain.layers.keys() - {"conv1", "layer2.conv1", "layer3.conv2"}
        assert all(mixed.layers[other] == plain.layers[other] for other in others)
        assert mixed.tensors == plain.tensors
