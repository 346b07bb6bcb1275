"""The torch module that computes what an ONNX graph says.

What depends on the image is a tensor. What does not (weights, and the arithmetic that exporters write out for shapes)
is a NumPy array and is computed by onnx itself; so tracing sees the network alone. The layers' modules have the names
that their weights have in the file, and batch norms are torch's own: what reads a network through hooks finds them.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn

from intraq_deploy.errors import UnsupportedModelError
from intraq_deploy.models.onnx import elements, moves, windows  # noqa: F401  # they register themselves
from intraq_deploy.models.onnx.attributes import Attributes, NodeError
from intraq_deploy.models.onnx.calls import CALLS, DESCRIBE
from intraq_deploy.models.onnx.layers import LAYERS
from intraq_deploy.models.onnx.reading import OnnxFile, constants_of
from intraq_deploy.wording import reason


class OnnxNetwork(nn.Module):
    """The network of an ONNX file."""

    def __init__(self, file: OnnxFile) -> None:
        """Builds it. Raises UnsupportedModelError, naming the node, for an operator that is not supported."""
        super().__init__()
        self._image, self._channels_last = file.input, file.channels_last
        self._outputs = [value.name for value in file.graph.output]
        self._constants = constants_of(file.graph)
        self._steps: list[tuple[nn.Module, Sequence[str], Sequence[str]]] = []
        self._sizes: set[str] = set()
        for node in file.graph.node:
            self._add(node, file.batch)
        fixed = [name for name in self._outputs if name in self._constants]
        if fixed:
            raise UnsupportedModelError(f"The output {fixed[0]} of the ONNX file does not depend on the image.")
        self._constants.clear()

    def forward(self, images: Tensor) -> Any:
        """Maps images, float32 [N, C, H, W], to the file's output; to those of several by name."""
        values: dict[str, Any] = {self._image: images.permute(0, 2, 3, 1) if self._channels_last else images}
        for step, inputs, outputs in self._steps:
            made = step(*(values[name] for name in inputs))
            values.update(zip(outputs, made if isinstance(made, list) else [made], strict=False))
        if len(self._outputs) == 1:
            return values[self._outputs[0]]
        return {name: values[name] for name in self._outputs}

    def _add(self, node: onnx.NodeProto, batch: int | None) -> None:
        """Adds a node: computed now where nothing depends on the image, else as a module of its own."""
        if node.op_type == "CastLike":  # every float is float32 here
            node = helper.make_node("Identity", node.input[:1], node.output, node.name)
        given = [self._constants.get(name) if name else None for name in node.input]
        varying = [name for name in node.input if name and name not in self._constants]
        if not varying:
            self._constants.update(zip(node.output, _evaluated(node, given), strict=False))
            return
        if all(name in self._sizes for name in varying):
            step: nn.Module = _Sizes(node, given)
        elif node.op_type not in CALLS.keys() | LAYERS.keys() or node.domain:
            raise _unsupported(node)
        else:
            step = _layer(node, given, varying) or _Call(node, given, batch)
        if isinstance(step, _Sizes) or node.op_type in DESCRIBE:
            self._sizes.update(node.output)
        self._register(_layer_name(node), step)
        self._steps.append((step, varying, list(node.output)))

    def _register(self, name: str, step: nn.Module) -> None:
        """Registers a module under a name with dots, as inner modules have."""
        parent: nn.Module = self
        *outer, last = [part or "_" for part in name.split(".")]
        for part in outer:
            inner = parent._modules.get(part)
            if inner is None:
                inner = nn.Module()
                parent.add_module(_free(parent, part), inner)
            parent = inner
        parent.add_module(_free(parent, last), step)


def _layer(node: onnx.NodeProto, given: Sequence[np.ndarray | None], varying: Sequence[str]) -> nn.Module | None:
    """The module of a node whose weights are constants; None for other nodes."""
    if node.op_type not in LAYERS:
        return None
    if varying != [node.input[0]]:
        raise _unsupported(node, " with weights that depend on the image")
    try:
        return LAYERS[node.op_type](_attributes(node), *given[1:])
    except NodeError as refusal:
        raise _unsupported(node, f" with {refusal}") from refusal


class _Operator(nn.Module):
    """A node without weights of its own: its inputs are given by the file, or by the forward."""

    def __init__(self, node: onnx.NodeProto, given: Sequence[np.ndarray | None]) -> None:
        super().__init__()
        self._node, self._given = node, list(given)
        self._varying = [bool(name) and value is None for name, value in zip(node.input, given, strict=True)]

    def _inputs(self, varying: Sequence[Any]) -> list[Any]:
        left = iter(varying)
        return [next(left) if varies else value for varies, value in zip(self._varying, self._given, strict=True)]


class _Sizes(_Operator):
    """Arithmetic with what describes a tensor's shape."""

    def forward(self, *varying: np.ndarray) -> list[np.ndarray]:
        """Computes the node's outputs. varying: the inputs that the file does not give, in order."""
        return _evaluated(self._node, self._inputs(varying))


class _Call(_Operator):
    """One operator on tensors."""

    def __init__(self, node: onnx.NodeProto, given: Sequence[np.ndarray | None], batch: int | None) -> None:
        super().__init__(node, given)
        self._compute = CALLS[node.op_type]
        self._attributes = _attributes(node) | {"batch": batch, "outputs": len(node.output)}
        for index, value in enumerate(given):
            if value is not None and value.dtype == np.float32 and value.size > 1 and node.op_type != "Resize":
                self.register_buffer(f"value{index}", torch.from_numpy(value.copy()))

    def forward(self, *varying: Any) -> Any:
        """Computes the node's output, or a list of several. varying: the inputs that the file does not give, in order:
        tensors, float32 [N, ...], and arrays of what describes a shape."""
        inputs = [self._buffers.get(f"value{index}", value) for index, value in enumerate(self._inputs(varying))]
        try:
            return self._compute(self._attributes, *inputs)
        except NodeError as refusal:
            raise _unsupported(self._node, f" with {refusal}") from refusal


def _unsupported(node: onnx.NodeProto, why: str = "") -> UnsupportedModelError:
    known = (
        ": known are convolutions, linear layers, batch and layer norms, usual activations, sums, products, "
        "concatenations, poolings, and changes of shape"
    )
    kind = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
    return UnsupportedModelError(
        f"Node {_name(node)!r} of the ONNX file is a {kind}{why}, which is not supported{'' if why else known}. "
        "Replace it, and export again."
    )


def _evaluated(node: onnx.NodeProto, inputs: Sequence[np.ndarray | None]) -> list[np.ndarray]:
    """The outputs of a node that depends on no image, computed by onnx; float ones as float32."""
    feeds = {name: value for name, value in zip(node.input, inputs, strict=True) if name}
    try:
        made = [np.asarray(value) for value in ReferenceEvaluator(node).run(None, feeds)]
    except Exception as error:  # an operator may fail in any way
        raise _unsupported(node, f" of constants that cannot be computed ({reason(error)})") from error
    return [value.astype(np.float32) if value.dtype.kind == "f" else value for value in made]


def _attributes(node: onnx.NodeProto) -> Attributes:
    values = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    return {name: value.decode() if isinstance(value, bytes) else value for name, value in values.items()}


def _name(node: onnx.NodeProto) -> str:
    return str(node.name or node.output[0])


def _layer_name(node: onnx.NodeProto) -> str:
    """The name of a layer for people: its weight's, as torch writes it, else the node's."""
    weight = node.input[1] if node.op_type in LAYERS else ""
    return weight.removesuffix(".weight") if weight.endswith(".weight") else _name(node)


def _free(parent: nn.Module, name: str) -> str:
    """The name, with underscores behind it until it is free."""
    while hasattr(parent, name):
        name += "_"
    return name
