"""What a compiler made of a model's layers, read from its own table."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

import onnx_ir as ir

INT8, INT4, UNKNOWN = "INT8", "INT4", "not found"
_FIELDS = re.compile(
    r"^Name: (?P<name>.*?), LayerType: (?P<kind>\w+), Inputs: (?P<inputs>.*?), Constants: (?P<constants>.*?), "
    r"Outputs: (?P<outputs>.*?), TacticName: .*?Metadata: ?(?P<metadata>.*)$"
)
_TYPE = re.compile(r"Datatype: (\w+)")
_ONNX = re.compile(r"\[ONNX Layer: ([^\]]*)\]")
_MULTIPLY = ("correlation", "convolution", "gemm", "matmul", "runtime_fusion")
"""Kinds of layers that multiply by weights; the others are point-wise, move data or synchronise."""
_LAYERS = ("Conv", "Gemm", "MatMul")


@dataclass(frozen=True, slots=True)
class EngineLayer:
    """One layer of an engine."""

    name: str
    kind: str
    inputs: tuple[str, ...]
    constants: tuple[str, ...]
    """Types, as the compiler calls them."""
    onnx: tuple[str, ...]
    """Names of the ONNX operators that it computes, wholly or in part."""


def parse(log: Iterable[str]) -> list[EngineLayer]:
    """The layers, in order, from the lines of a verbose log."""
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


def computed_in(model: ir.Model, layers: Iterable[EngineLayer]) -> dict[str, str]:
    """For every convolution and linear layer of `model`, by name, in which type the engine multiplies: INT8, INT4
    (weights; its activations are not integers), another one by the compiler's name, or UNKNOWN."""
    multiplying = [layer for layer in layers if layer.kind in _MULTIPLY]
    return {
        str(node.name): _type_of([layer for layer in multiplying if node.name in layer.onnx])
        for node in model.graph
        if node.op_type in _LAYERS
    }


def _type_of(layers: list[EngineLayer]) -> str:
    """Of the layers that compute one operator."""
    if not layers:
        return UNKNOWN
    if any("Int4" in layer.constants for layer in layers):
        return INT4
    operands = {kind for layer in layers for kind in _operands(layer)}
    return INT8 if operands == {"Int8"} else "/".join(sorted(operands - {"Int8"}))


def _operands(layer: EngineLayer) -> tuple[str, ...]:
    """The types of what is multiplied: activation and weights, which may be an input too."""
    return (*layer.inputs, *layer.constants)[:2]
