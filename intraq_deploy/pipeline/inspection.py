"""The inspection of a network before anything is done to it."""

import json
import math
from dataclasses import asdict, dataclass

from intraq_deploy.errors import UnsupportedModelError
from intraq_deploy.graph.graph import Graph, Node
from intraq_deploy.graph.trace import trace
from intraq_deploy.models.model import Model
from intraq_deploy.pipeline.report import Bits
from intraq_deploy.pipeline.schemes import SchemeChoice, check_depthwise
from intraq_deploy.quantization.allocation import stored_bytes
from intraq_deploy.quantization.layers_report import LayerRow, layer_rows
from intraq_deploy.quantization.placement import place
from intraq_deploy.synthesis.probe import Probe


@dataclass(frozen=True, slots=True)
class Inspection:
    """A network: its parts, which of them would be quantized, and which would stay float and why."""

    architecture: str
    classes: int
    input_shape: tuple[int, int, int]
    parameters: int
    batch_norms: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    preprocessing_source: str
    scheme: str
    bits: str
    rows: list[LayerRow]
    macs: int | None
    """Multiply-accumulates of the layers with weights, for one image; None for a network that cannot be traced."""
    stored_bytes: dict[int, int]
    """Bytes of these layers by the bits of their weights, as `quantization.allocation.stored_bytes` counts them."""
    problems: list[str]
    """The reasons why it cannot be synthesized from or quantized, one sentence each."""

    @property
    def data_free(self) -> bool:
        """Whether images can be made from the network itself."""
        return self.batch_norms > 0

    def to_json(self) -> str:
        """Returns the inspection as JSON."""
        return json.dumps(asdict(self), indent=2)


_WIDTHS = (4, 8)


def inspect_model(model: Model, scheme: str, bits: Bits) -> Inspection:
    """Inspects a network as it would be quantized for the default target.

    Raises UsageError for an unknown scheme, or bits that are not supported or do not fit the network.
    """
    chosen = SchemeChoice(scheme, depthwise_bits=bits.depthwise).at(bits.weights, bits.activations)
    problems: list[str] = []
    rows: list[LayerRow] = []
    batch_norms, macs, stored = 0, None, {}
    try:
        batch_norms = Probe(model.module, model.input_shape).layers
    except UnsupportedModelError as error:
        problems.append(f"Cannot be synthesized from: {error}")
    try:
        graph = trace(model.module, model.input_shape)
        check_depthwise(graph, bits.depthwise, bits.weights)
        rows = layer_rows(graph, place(graph, chosen))
        macs = sum(_macs(graph, node) for node in graph.layers())
        weights = [graph.weights[node.name].weight for node in graph.layers()]
        stored = {bits: sum(stored_bytes(len(each), each.numel(), bits) for each in weights) for bits in _WIDTHS}
    except UnsupportedModelError as error:
        problems.append(f"Cannot be quantized: {error}")
    return Inspection(
        architecture=model.architecture,
        classes=model.classes,
        input_shape=model.input_shape,
        parameters=sum(parameter.numel() for parameter in model.module.parameters()),
        batch_norms=batch_norms,
        mean=model.preprocessing.mean,
        std=model.preprocessing.std,
        preprocessing_source=model.preprocessing.source,
        scheme=scheme,
        bits=bits.label(None),
        rows=rows,
        macs=macs,
        stored_bytes=stored,
        problems=problems,
    )


def _macs(graph: Graph, node: Node) -> int:
    """Returns a layer's multiply-accumulates for one image: each weight meets every position of the output."""
    return graph.weights[node.name].weight.numel() * math.prod(node.shape[1:])
