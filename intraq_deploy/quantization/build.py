"""From a traced network and images to a fake-quant module, ready to be trained."""

from torch import Tensor

from intraq_deploy import seeds
from intraq_deploy.graph.graph import Graph
from intraq_deploy.quantization.network import FakeQuantNetwork
from intraq_deploy.quantization.placement import place
from intraq_deploy.quantization.ranges import Range, calibrate
from intraq_deploy.quantization.scheme import Scheme


def build_network(graph: Graph, scheme: Scheme, images: Tensor, seed: int) -> FakeQuantNetwork:
    """Places quantizers as `scheme` says and finds where their scales start.

    graph: with float weights, which are copied. images: float32 [N, C, H, W], normalised; no label is read.
    """
    placement = place(graph, scheme)
    ranges = calibrate(graph, placement, images, scheme.ranges, seeds.derive(seed, "ranges") % (1 << 31))
    return FakeQuantNetwork(graph, placement, ranges, scheme.ranges)


def empty_network(graph: Graph, scheme: Scheme) -> FakeQuantNetwork:
    """The same module without calibration, to load a kept state into."""
    placement = place(graph, scheme)
    ranges = {name: Range(1.0, 0) for name in placement.quantized()}
    return FakeQuantNetwork(graph, placement, ranges, scheme.ranges)
