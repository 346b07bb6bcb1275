"""The layers of an engine, read from the compiler's own table: TensorRT for RTX logs one, TensorRT's engine inspector
gives another as JSON."""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass

import onnx_ir as ir

from intraq_deploy.errors import TargetError

INT8, INT4, UNKNOWN = "INT8", "INT4", "not found"
_FIELDS = re.compile(
    r"^Name: (?P<name>.*?), LayerType: (?P<kind>\w+), Inputs: (?P<inputs>.*?), Constants: (?P<constants>.*?), "
    r"Outputs: (?P<outputs>.*?), TacticName: .*?Metadata: ?(?P<metadata>.*)$"
)
_TYPE = re.compile(r"Datatype: (\w+)")
_ONNX = re.compile(r"\[ONNX Layer: ([^\]]*)\]")
_MULTIPLY = re.compile("correlation|conv|gemm|matmul|matrixmultiply|fullyconnected|runtime_fusion", re.IGNORECASE)
"""Kinds of layers that multiply by weights; the others are point-wise, move data or synchronise. TensorRT's are
CaskConvolution, CaskConvActPool, CaskGemmConvolution, MatrixMultiply and the like."""
_FORMATS = {"int8": "Int8", "int4": "Int4", "fp16": "Half", "half": "Half", "fp32": "Float", "float": "Float"}
"""The types by the words for them in TensorRT's descriptions of formats, as in "Thirty-two wide channel vectorized row
major Int8 format"."""
_LAYERS = ("Conv", "Gemm", "MatMul")


@dataclass(frozen=True, slots=True)
class EngineLayer:
    """A layer of an engine."""

    name: str
    kind: str
    inputs: tuple[str, ...]
    constants: tuple[str, ...]
    """The types of the constants, in the compiler's words; those of `inputs` likewise."""
    onnx: tuple[str, ...]
    """The names of the ONNX operators that the layer computes, wholly or in part."""


def parse(log: Iterable[str]) -> list[EngineLayer]:
    """The layers in the lines of a verbose log, in order."""
    found = (_FIELDS.match(line) for text in log for line in text.splitlines())
    return [
        EngineLayer(
            match["name"],
            match["kind"],
            tuple(_TYPE.findall(match["inputs"])),
            tuple(_TYPE.findall(match["constants"])),
            tuple(_ONNX.findall(match["metadata"])),
        )
        for match in found
        if match is not None
    ]


def inspected(information: str) -> list[EngineLayer]:
    """The layers in an engine inspector's JSON. Raises TargetError for an engine that was built without detailed
    verbosity, which lists none."""
    try:
        layers = json.loads(information)["Layers"]
    except (ValueError, KeyError, TypeError):
        layers = []
    if not layers or not isinstance(layers[0], dict):
        raise TargetError("The engine says nothing of its layers: build it with detailed profiling verbosity.")
    return [
        EngineLayer(
            str(layer.get("Name", "")),
            str(layer.get("LayerType", "")),
            tuple(_kind(tensor, "Format/Datatype") for tensor in layer.get("Inputs", ())),
            (_kind(layer["Weights"], "Type"),) if "Weights" in layer else (),
            # Before 8.6 there is no metadata: fused layers are named after their parts.
            tuple(_ONNX.findall(layer.get("Metadata", ""))) or tuple(str(layer.get("Name", "")).split(" + ")),
        )
        for layer in layers
    ]


def _kind(described: object, key: str) -> str:
    text = str(described.get(key, "")).lower() if isinstance(described, dict) else ""
    return next((kind for words, kind in _FORMATS.items() if words in text), UNKNOWN)


def computed_in(model: ir.Model, layers: Iterable[EngineLayer]) -> dict[str, str]:
    """The type in which the engine multiplies, for every convolution and linear layer of `model` by name: INT8, INT4
    (for weights alone; activations are not integers), another one by the compiler's name, or UNKNOWN."""
    multiplying = [layer for layer in layers if _MULTIPLY.search(layer.kind)]
    return {
        str(node.name): _type_of([layer for layer in multiplying if node.name in layer.onnx])
        for node in model.graph
        if node.op_type in _LAYERS
    }


def _type_of(layers: list[EngineLayer]) -> str:
    """The type in which the layers multiply that compute one operator."""
    if not layers:
        return UNKNOWN
    if any("Int4" in layer.constants for layer in layers):
        return INT4
    operands = {kind for layer in layers for kind in _operands(layer)}
    if not operands:
        return UNKNOWN
    return INT8 if operands == {"Int8"} else "/".join(sorted(operands - {"Int8"}))


def _operands(layer: EngineLayer) -> tuple[str, ...]:
    """The types of a layer's operands: its activation, and its weights, which may be an input too."""
    first = layer.inputs[:2] if not layer.constants else (*layer.inputs[:1], layer.constants[0])
    # Of a dynamic batch the inspector may not know the formats; the type of the weights tells them.
    return tuple(kind for kind in first if kind != UNKNOWN)
