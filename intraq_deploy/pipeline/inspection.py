"""The inspection of a network before anything is done to it."""

import json
from dataclasses import asdict, dataclass

from intraq_deploy.errors import UnsupportedModelError
from intraq_deploy.graph.trace import trace
from intraq_deploy.models.model import Model
from intraq_deploy.pipeline.report import Bits
from intraq_deploy.pipeline.schemes import SchemeChoice, check_depthwise
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
    problems: list[str]
    """The reasons why it cannot be synthesized from or quantized, one sentence each."""

    def to_json(self) -> str:
        """Returns the inspection as JSON."""
        return json.dumps(asdict(self), indent=2)


def inspect_model(model: Model, scheme: str, bits: Bits) -> Inspection:
    """Inspects a network as it would be quantized for the default target.

    Raises UsageError for an unknown scheme, or bits that are not supported or do not fit the network.
    """
    chosen = SchemeChoice(scheme, depthwise_bits=bits.depthwise).at(bits.weights, bits.activations)
    problems: list[str] = []
    rows: list[LayerRow] = []
    batch_norms = 0
    try:
        batch_norms = Probe(model.module, model.input_shape).layers
    except UnsupportedModelError as error:
        problems.append(f"Cannot be synthesized from: {error}")
    try:
        graph = trace(model.module, model.input_shape)
        check_depthwise(graph, bits.depthwise, bits.weights)
        rows = layer_rows(graph, place(graph, chosen))
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
        problems=problems,
    )
