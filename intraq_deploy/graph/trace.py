"""A float network becomes a Graph.

The network is read with torch.export, which sees what really runs (functional calls, subclassed layers, paddings
computed from shapes) with concrete shapes; every call is then translated to the closed set of operators, zero padding
moves into the convolution behind it, batch norms into the convolution before them, and ReLU-like functions onto the
node before them. The result is run against the network once: a graph that computes something else is refused.
"""

import io
import logging
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from intraq_deploy.errors import UnsupportedModelError
from intraq_deploy.graph.execute import run_float
from intraq_deploy.graph.graph import INPUT_NAME, OUTPUT_NAME, BatchNorm, Graph, Node, Weights
from intraq_deploy.graph.ops import (
    HAS_WEIGHT,
    Add,
    AveragePool2d,
    Clamp,
    Conv2d,
    Flatten,
    GlobalAveragePool,
    Input,
    Linear,
    MaxPool2d,
    Op,
    Pad,
    Slice,
)

_TRACE_BATCH = 2
_TOLERANCE = 1e-3
_SMALLEST_LOGIT = 1e-6


def trace(module: nn.Module, input_shape: tuple[int, int, int]) -> Graph:
    """The graph of `module`, a network in eval mode on the CPU, for images float32 [N, *input_shape].

    Raises UnsupportedModelError, naming the layer and the call, for a forward that depends on data, an operator
    outside the closed set, or a graph whose logits differ from the network's.
    """
    images = torch.randn(_TRACE_BATCH, *input_shape, generator=torch.Generator().manual_seed(0))
    exported = _export(module, images)
    graph = _fuse_activations(_fold_padding(_Translator(exported, input_shape).graph()))
    _check_equal(module, graph, images)
    return graph


def _export(module: nn.Module, images: Tensor) -> torch.export.ExportedProgram:
    try:
        with _quiet():
            # The empty table keeps every composite operator and only makes in-place operators functional.
            exported: torch.export.ExportedProgram = torch.export.export(module, (images,)).run_decompositions({})
    except Exception as error:  # torch.export raises many unrelated types
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UnsupportedModelError(
            f"The network's forward cannot be traced ({reason}): it must not depend on the values of its input; "
            "rewrite that part, or give the network without it through --arch."
        ) from error
    return exported


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch prints about a failure, which becomes one sentence."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(disabled)


def _check_equal(module: nn.Module, graph: Graph, images: Tensor) -> None:
    with torch.no_grad():
        expected, found = module(images), run_float(graph, images)
    if not isinstance(expected, Tensor):
        raise UnsupportedModelError(
            f"The network gives a {type(expected).__name__}: its output must be the logits, [N, classes]."
        )
    if expected.shape != found.shape:
        raise UnsupportedModelError(
            f"The traced network gives {tuple(found.shape)} where the network gives {tuple(expected.shape)}: "
            "its output must be the logits, [N, classes]."
        )
    scale = max(_SMALLEST_LOGIT, float(expected.abs().max()))
    difference = float((expected - found).abs().max()) / scale
    if not difference <= _TOLERANCE:
        raise UnsupportedModelError(
            f"The traced network's logits differ from the network's by {difference:.1e} of their size (allowed: "
            f"{_TOLERANCE:.0e}): its forward is random or depends on its input's values."
        )


@dataclass(slots=True)
class _Raw:
    """A node under construction: the fused parts are not yet known."""

    node: Node
    weights: Weights | None = None


class _Translator:
    """Walks an exported program once and builds the node list."""

    def __init__(self, exported: torch.export.ExportedProgram, input_shape: tuple[int, int, int]) -> None:
        signature = exported.graph_signature
        constants = {**exported.state_dict, **exported.constants}
        self._tensors: dict[str, tuple[str, Tensor]] = {}
        lifted = (
            signature.inputs_to_parameters,
            signature.inputs_to_buffers,
            signature.inputs_to_lifted_tensor_constants,
        )
        for placeholder, target in ((key, value) for table in lifted for key, value in table.items()):
            self._tensors[placeholder] = (target, constants[target].detach())
        if len(signature.user_inputs) != 1:
            raise UnsupportedModelError(f"The network takes {len(signature.user_inputs)} inputs: one image is needed.")
        (self._image,) = signature.user_inputs
        self._output = signature.user_outputs[0]
        self._calls = exported.graph.nodes
        self._names = Counter((INPUT_NAME, OUTPUT_NAME))
        self._raw: dict[str, _Raw] = {}
        self._alias: dict[str, str] = {}
        self._input_shape = input_shape

    def graph(self) -> Graph:
        image = Node(INPUT_NAME, Input(), (), self._input_shape)
        self._raw[INPUT_NAME] = _Raw(image)
        self._alias[str(self._image)] = INPUT_NAME
        for call in self._calls:
            if call.op == "call_function":
                self._translate(call)
        nodes = tuple(raw.node for raw in self._raw.values())
        weights = {name: raw.weights for name, raw in self._raw.items() if raw.weights is not None}
        return _prune(Graph(nodes, self._alias[str(self._output)], weights))

    def _translate(self, call: fx.Node) -> None:
        target = _call_name(call)
        translate = _TRANSLATIONS.get(target)
        if translate is None:
            raise UnsupportedModelError(
                f"{_where(call)} uses {target}, which is not supported: known are convolutions, linear layers, "
                "batch norms, ReLU-like functions, sums, poolings, flattening, slicing and zero padding."
            )
        translate(self, call)

    # What translations use.

    def value(self, argument: Any) -> str:
        """The name of the tensor that an argument stands for."""
        if isinstance(argument, fx.Node) and argument.name in self._alias:
            return self._alias[argument.name]
        raise _CallError(f"an argument that is no image or feature map ({argument})")

    def constant(self, argument: Any) -> Tensor | None:
        """A parameter or buffer, or None."""
        if argument is None:
            return None
        if isinstance(argument, fx.Node) and argument.name in self._tensors:
            return self._tensors[argument.name][1].float()
        raise _CallError(f"a weight that is computed in the forward ({argument})")

    def parameter_owner(self, argument: Any) -> str | None:
        if isinstance(argument, fx.Node) and argument.name in self._tensors:
            return self._tensors[argument.name][0].removesuffix(".weight")
        return None

    def shape(self, argument: fx.Node) -> tuple[int, ...]:
        return tuple(int(size) for size in argument.meta["val"].shape[1:])

    def consumers(self, name: str) -> int:
        """How many exported calls read the tensor `name`."""
        return sum(len(call.users) for call in self._calls if self._alias.get(call.name) == name)

    def raw(self, name: str) -> _Raw:
        return self._raw[name]

    def emit(self, call: fx.Node, op: Op, inputs: Sequence[str], name: str, **more: Any) -> None:
        """Adds a node for `call`; `name` is made unique."""
        self._names[name] += 1
        unique = name if self._names[name] == 1 else f"{name}#{self._names[name]}"
        self._raw[unique] = _Raw(Node(unique, op, tuple(inputs), more.pop("shape", self.shape(call))), **more)
        self._alias[call.name] = unique

    def same(self, call: fx.Node, name: str) -> None:
        """`call` changes nothing: it stands for the tensor `name`."""
        self._alias[call.name] = name


class _CallError(Exception):
    """Why a call cannot be translated; the translator adds where."""


def _call_name(call: fx.Node) -> str:
    target = call.target
    return str(target) if isinstance(target, torch._ops.OpOverload) else getattr(target, "__name__", str(target))


def _module_path(call: fx.Node) -> str:
    stack = call.meta.get("nn_module_stack") or {}
    return str(list(stack.values())[-1][0]) if stack else ""


def _where(call: fx.Node) -> str:
    path = _module_path(call)
    return f"Layer {path!r}" if path else "The network's forward"


def _child(call: fx.Node, kind: str) -> str:
    """A name for a call without weights: its module's path if it is a module of its own, else path and kind."""
    stack = list((call.meta.get("nn_module_stack") or {}).values())
    path = stack[-1][0] if stack else ""
    own_module = bool(stack) and str(stack[-1][1]).startswith("torch.nn.modules.")
    if own_module and path:
        return str(path)
    return f"{path}.{kind}" if path else kind


_Translation = Callable[[_Translator, fx.Node], None]
_TRANSLATIONS: dict[str, _Translation] = {}


def _translates(*targets: str) -> Callable[[_Translation], _Translation]:
    """Registers a function that adds the nodes for calls of `targets`; a _CallError gets the layer's name."""

    def register(function: _Translation) -> _Translation:
        def translate(translator: _Translator, call: fx.Node) -> None:
            try:
                function(translator, call)
            except _CallError as refusal:
                raise UnsupportedModelError(
                    f"{_where(call)} uses {_call_name(call)} with {refusal}, which is not supported."
                ) from refusal

        for target in targets:
            if target in _TRANSLATIONS:
                raise ValueError(f"two translations of {target}")
            _TRANSLATIONS[target] = translate
        return function

    return register


def _arguments(call: fx.Node, *defaults: tuple[str, Any]) -> list[Any]:
    """Positional and keyword arguments after the first ones, filled up with defaults: (name, default) in order."""
    values = []
    for index, (name, default) in enumerate(defaults):
        values.append(call.args[index] if index < len(call.args) else call.kwargs.get(name, default))
    return values


def _pair(value: Any) -> tuple[int, int]:
    if isinstance(value, int):
        return (value, value)
    values = [int(v) for v in value]
    return (values[0], values[-1])


@_translates("aten.conv2d.default", "aten.conv2d.padding")
def _conv2d(t: _Translator, call: fx.Node) -> None:
    x, weight, bias, stride, padding, dilation, groups = _arguments(
        call,
        ("input", None),
        ("weight", None),
        ("bias", None),
        ("stride", 1),
        ("padding", 0),
        ("dilation", 1),
        ("groups", 1),
    )
    kernel = t.constant(weight)
    assert kernel is not None
    stride, dilation = _pair(stride), _pair(dilation)
    if padding == "same":
        total = [d * (k - 1) for d, k in zip(dilation, kernel.shape[2:], strict=True)]
        top, left = (value // 2 for value in total)
        pads = (top, left, total[0] - top, total[1] - left)
    else:
        vertical, horizontal = (0, 0) if padding == "valid" else _pair(padding)
        pads = (vertical, horizontal, vertical, horizontal)
    name = t.parameter_owner(weight) or _child(call, "conv")
    weights = Weights(kernel, t.constant(bias), None)
    t.emit(call, Conv2d(stride, pads, dilation, int(groups)), [t.value(x)], name, weights=weights)


@_translates("aten.linear.default")
def _linear(t: _Translator, call: fx.Node) -> None:
    x, weight, bias = _arguments(call, ("input", None), ("weight", None), ("bias", None))
    kernel = t.constant(weight)
    assert kernel is not None
    if len(t.shape(call)) != 1:
        raise _CallError(f"an input of {len(t.shape(call)) + 1} dimensions (2 are supported)")
    name = t.parameter_owner(weight) or _child(call, "linear")
    t.emit(call, Linear(), [t.value(x)], name, weights=Weights(kernel, t.constant(bias), None))


@_translates("aten._native_batch_norm_legit_no_training.default")
def _batch_norm(t: _Translator, call: fx.Node) -> None:
    x, gamma, beta, mean, variance, _, epsilon = call.args
    name = t.value(x)
    raw = t.raw(name)
    if not isinstance(raw.node.op, HAS_WEIGHT) or t.consumers(name) != 1 or raw.weights is None:
        raise _CallError(f"no convolution of its own before it (it normalises {name!r})")
    if raw.weights.batch_norm is not None:
        raise _CallError(f"another batch norm before it (it normalises {name!r})")
    mean_, variance_ = t.constant(mean), t.constant(variance)
    assert mean_ is not None
    assert variance_ is not None
    gamma_, beta_ = t.constant(gamma), t.constant(beta)
    norm = BatchNorm(
        torch.ones_like(mean_) if gamma_ is None else gamma_,
        torch.zeros_like(mean_) if beta_ is None else beta_,
        mean_,
        variance_,
        float(epsilon),  # type: ignore[arg-type]
    )
    raw.weights = replace(raw.weights, batch_norm=norm)
    t.same(call, name)


@_translates("getitem")
def _getitem(t: _Translator, call: fx.Node) -> None:
    source, index = call.args
    if index != 0:
        raise _CallError(f"output {index} of {source}")
    t.same(call, t.value(source))


@_translates(
    "aten.relu.default", "aten.relu6.default", "aten.hardtanh.default", "aten.clamp.default", "aten.clamp_min.default"
)
def _clamp(t: _Translator, call: fx.Node) -> None:
    target = _call_name(call)
    low, high = 0.0, math.inf
    if target == "aten.relu6.default":
        high = 6.0
    elif target != "aten.relu.default":
        first, last = (-1.0, 1.0) if "hardtanh" in target else (None, None)
        _, minimum, maximum = _arguments(call, ("self", None), ("min_val", first), ("max_val", last))
        low = -math.inf if minimum is None else float(minimum)
        high = math.inf if maximum is None else float(maximum)
    kind = "relu" if low == 0 else "clamp"
    t.emit(call, Clamp(low, high), [t.value(call.args[0])], _child(call, kind))


@_translates("aten.add.Tensor")
def _add(t: _Translator, call: fx.Node) -> None:
    a, b = t.value(call.args[0]), t.value(call.args[1])
    if call.kwargs.get("alpha", 1) != 1:
        raise _CallError(f"alpha {call.kwargs['alpha']}")
    if t.raw(a).node.shape != t.raw(b).node.shape:
        raise _CallError(f"shapes {t.raw(a).node.shape} and {t.raw(b).node.shape}")
    t.emit(call, Add(), [a, b], _child(call, "add"))


@_translates("aten.max_pool2d.default")
def _max_pool2d(t: _Translator, call: fx.Node) -> None:
    x, kernel, stride, padding, dilation, ceil_mode = _arguments(
        call,
        ("self", None),
        ("kernel_size", None),
        ("stride", []),
        ("padding", 0),
        ("dilation", 1),
        ("ceil_mode", False),
    )
    op = MaxPool2d(_pair(kernel), _pair(stride or kernel), _pair(padding), _pair(dilation), bool(ceil_mode))
    t.emit(call, op, [t.value(x)], _child(call, "max_pool"))


@_translates("aten.avg_pool2d.default")
def _avg_pool2d(t: _Translator, call: fx.Node) -> None:
    x, kernel, stride, padding, ceil_mode, _, divisor = _arguments(
        call,
        ("self", None),
        ("kernel_size", None),
        ("stride", []),
        ("padding", 0),
        ("ceil_mode", False),
        ("count_include_pad", True),
        ("divisor_override", None),
    )
    if _pair(padding) != (0, 0) or ceil_mode or divisor is not None:
        raise _CallError("padding, ceil_mode or a divisor")
    _average(t, call, t.value(x), _pair(kernel), _pair(stride or kernel))


@_translates("aten.adaptive_avg_pool2d.default")
def _adaptive_avg_pool2d(t: _Translator, call: fx.Node) -> None:
    name = t.value(call.args[0])
    height, width = t.raw(name).node.shape[1:]
    out_height, out_width = t.shape(call)[1:]
    if height % out_height or width % out_width:
        raise _CallError(f"output {out_height}x{out_width}, which does not divide its input {height}x{width}")
    kernel = (height // out_height, width // out_width)
    _average(t, call, name, kernel, kernel)


def _average(t: _Translator, call: fx.Node, name: str, kernel: tuple[int, int], stride: tuple[int, int]) -> None:
    if kernel == (1, 1) and stride == (1, 1):
        t.same(call, name)
    elif kernel == t.raw(name).node.shape[1:]:
        t.emit(call, GlobalAveragePool(), [name], _child(call, "avg_pool"))
    else:
        t.emit(call, AveragePool2d(kernel, stride), [name], _child(call, "avg_pool"))


@_translates("aten.mean.dim")
def _mean(t: _Translator, call: fx.Node) -> None:
    x, dims, keepdim = _arguments(call, ("self", None), ("dim", None), ("keepdim", False))
    name = t.value(x)
    channels, *spatial = t.raw(name).node.shape
    if len(spatial) != 2 or sorted(d % 4 for d in dims) != [2, 3]:
        raise _CallError(f"dimensions {list(dims)} (the mean over height and width is supported)")
    t.emit(call, GlobalAveragePool(), [name], _child(call, "avg_pool"), shape=(channels, 1, 1))
    if not keepdim:
        pooled = t.value(call)
        t.emit(call, Flatten(), [pooled], f"{pooled}.flatten", shape=(channels,))


@_translates(
    "aten.view.default", "aten.reshape.default", "aten.flatten.using_ints", "aten.squeeze.dims", "aten.squeeze.dim"
)
def _reshape(t: _Translator, call: fx.Node) -> None:
    name = t.value(call.args[0])
    before, after = t.raw(name).node.shape, t.shape(call)
    if int(call.meta["val"].shape[0]) != _TRACE_BATCH:
        raise _CallError(f"a shape that mixes images ({tuple(call.meta['val'].shape)})")
    if before == after:
        t.same(call, name)
    elif len(after) == 1:
        t.emit(call, Flatten(), [name], _child(call, "flatten"))
    else:
        raise _CallError(f"a change of shape from {before} to {after}")


@_translates("aten.slice.Tensor")
def _slice(t: _Translator, call: fx.Node) -> None:
    x, dim, start, stop, step = _arguments(
        call, ("self", None), ("dim", 0), ("start", None), ("end", None), ("step", 1)
    )
    name = t.value(x)
    shape = t.raw(name).node.shape
    axis = int(dim) % (len(shape) + 1) - 1
    size = _TRACE_BATCH if axis < 0 else shape[axis]
    first, last, _ = slice(start, stop).indices(size)
    if (first, last, step) == (0, size, 1):
        t.same(call, name)
    elif axis < 0:
        raise _CallError("a slice of the batch")
    else:
        t.emit(call, Slice(axis, first, last, int(step)), [name], _child(call, "slice"))


@_translates("aten.pad.default", "aten.constant_pad_nd.default")
def _pad(t: _Translator, call: fx.Node) -> None:
    values = list(call.args[1])  # type: ignore[arg-type]
    rest = [*call.args[2:], *call.kwargs.values()]
    if any(value not in ("constant", 0, 0.0, None) for value in rest):
        raise _CallError(f"{rest} (zero padding is supported)")
    name = t.value(call.args[0])
    if not any(values):
        t.same(call, name)
        return
    values += [0] * (6 - len(values))
    if len(values) > 6 or any(int(v) < 0 for v in values) or len(t.raw(name).node.shape) != 3:
        raise _CallError(f"padding {values}")
    w0, w1, h0, h1, c0, c1 = (int(v) for v in values)
    t.emit(call, Pad((c0, h0, w0), (c1, h1, w1)), [name], _child(call, "pad"))


@_translates(
    "aten.dropout.default", "aten.feature_dropout.default", "aten.alias.default", "aten.clone.default",
    "aten.contiguous.default", "aten.detach.default", "aten.detach_.default", "aten.to.dtype",
)  # fmt: skip
def _identity(t: _Translator, call: fx.Node) -> None:
    t.same(call, t.value(call.args[0]))


@_translates(
    "_guards_fn", "aten._assert_tensor_metadata.default", "aten.sym_size.int", "aten.sym_constrain_range.default"
)
def _ignored(t: _Translator, call: fx.Node) -> None:
    """Checks that export adds; they compute nothing."""


def _prune(graph: Graph) -> Graph:
    """Leaves out what the logits do not depend on."""
    needed = {graph.output}
    for node in reversed(graph.nodes):
        if node.name in needed:
            needed.update(node.inputs)
    if graph.input.name not in needed:
        raise UnsupportedModelError("The network's logits do not depend on its input.")
    nodes = tuple(node for node in graph.nodes if node.name in needed)
    return replace(graph, nodes=nodes, weights={k: v for k, v in graph.weights.items() if k in needed})


def _fold_padding(graph: Graph) -> Graph:
    """Zero padding of height and width that only convolutions read becomes their own padding. Changes no value."""
    nodes = {node.name: node for node in graph.nodes}
    for pad in graph.nodes:
        readers = graph.consumers(pad.name)
        if not isinstance(pad.op, Pad) or pad.op.before[0] or pad.op.after[0] or pad.name == graph.output:
            continue
        if not all(isinstance(reader.op, Conv2d) for reader in readers):
            continue
        _, h0, w0 = pad.op.before
        _, h1, w1 = pad.op.after
        for reader in readers:
            conv = nodes[reader.name].op
            assert isinstance(conv, Conv2d)
            top, left, bottom, right = conv.padding
            padded = replace(conv, padding=(top + h0, left + w0, bottom + h1, right + w1))
            nodes[reader.name] = replace(nodes[reader.name], op=padded, inputs=pad.inputs)
        del nodes[pad.name]
    return replace(graph, nodes=tuple(nodes.values()))


def _contains(outer: Clamp, inner: Clamp) -> bool:
    return outer.low <= inner.low and inner.high <= outer.high


def _fuse_activations(graph: Graph) -> Graph:
    """Clamps become activations of the nodes before them. Changes no value.

    A clamp that alone reads a convolution, linear layer or sum becomes that node's activation; one that clamps what is
    already within its bounds (a ReLU behind a ReLU) goes.
    """
    nodes = {node.name: node for node in graph.nodes}
    renamed: dict[str, str] = {}
    for clamp in graph.nodes:
        inputs = tuple(renamed.get(name, name) for name in clamp.inputs)
        nodes[clamp.name] = replace(clamp, inputs=inputs)
        if not isinstance(clamp.op, Clamp):
            continue
        source = nodes[inputs[0]]
        already = source.op if isinstance(source.op, Clamp) else source.activation
        if already is not None and _contains(clamp.op, already):
            renamed[clamp.name] = source.name
            del nodes[clamp.name]
            continue
        alone = len(graph.consumers(clamp.inputs[0])) == 1 and clamp.inputs[0] != graph.output
        if alone and source.activation is None and isinstance(source.op, Conv2d | Linear | Add):
            nodes[source.name] = replace(source, activation=clamp.op)
            renamed[clamp.name] = source.name
            del nodes[clamp.name]
    return replace(graph, nodes=tuple(nodes.values()), output=renamed.get(graph.output, graph.output))
