"""Building a fake-quant module, ready to be trained, from a traced network and images."""

from torch import Tensor

from intraq_deploy import seeds
from intraq_deploy.graph.graph import Graph
from intraq_deploy.quantization.equalization import equalize
from intraq_deploy.quantization.network import FakeQuantNetwork
from intraq_deploy.quantization.placement import place
from intraq_deploy.quantization.quantizer import LearnedWeightQuantizer
from intraq_deploy.quantization.ranges import Range, calibrate, search_weight
from intraq_deploy.quantization.recipe import QuantizationRecipe
from intraq_deploy.quantization.scheme import Scheme


def prepare(graph: Graph, recipe: QuantizationRecipe, scheme: Scheme, images: Tensor, seed: int) -> Graph:
    """Prepares a network for quantization by `scheme`, as the recipe says. It stays the same function of the image.

    graph: with float weights, which are copied. images: float32 [N, C, H, W], normalised; no label is read.
    """
    if not recipe.equalize:
        return graph
    return equalize(graph, place(graph, scheme), images, seeds.derive(seed, "equalization") % (1 << 31))


def build_network(graph: Graph, scheme: Scheme, images: Tensor, seed: int) -> FakeQuantNetwork:
    """Places quantizers as `scheme` says and finds where their scales start.

    graph: with float weights, which are copied. images: float32 [N, C, H, W], normalised; no label is read.
    """
    placement = place(graph, scheme)
    ranges = calibrate(graph, placement, images, scheme.ranges, seeds.derive(seed, "ranges") % (1 << 31))
    network = FakeQuantNetwork(graph, placement, ranges, scheme.ranges)
    for node in graph.layers():
        layer = network.layer(node.name)
        if isinstance(layer.quantizer, LearnedWeightQuantizer):
            layer.quantizer.scale.data.copy_(search_weight(layer.weight, layer.quantizer.spec))
    return network


def empty_network(graph: Graph, scheme: Scheme) -> FakeQuantNetwork:
    """The module that `build_network` makes, without calibration, to load a kept state into."""
    placement = place(graph, scheme)
    ranges = {name: Range(1.0, 0) for name in placement.quantized()}
    return FakeQuantNetwork(graph, placement, ranges, scheme.ranges)
