"""The walk over an exported program: every call goes to the function that is registered for it."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.passes.dialect.common.cse_pass import CSEPass, get_CSE_banned_ops

from intraq_deploy.errors import UnsupportedModelError
from intraq_deploy.graph.aten.calls import call_name
from intraq_deploy.graph.aten.spelled import Spelled, find_spelled
from intraq_deploy.graph.graph import INPUT_NAME, Graph, Node, Weights
from intraq_deploy.graph.ops import AVERAGES, MOVES_DATA, Clamp, Input, Op, Transpose, Unary

TRACE_BATCH = 2
SPELLED = "spelled"
"""Stands for the last call of a group that is one function (spelled.py)."""
_NEVER_NEGATIVE = ("Sigmoid", "HardSigmoid", "Softplus", "Exp", "Sqrt", "Abs", "Pow")
OF_PROBABILITIES = ("aten.threshold.default", "aten.log.default")
"""The calls that make log-probabilities of probabilities (models.logits)."""


@dataclass(slots=True)
class Raw:
    """A node under construction: the fused parts are not yet known."""

    node: Node
    weights: Weights | None = None


class CallError(Exception):
    """Why a call cannot be translated; the translator adds where."""


class Translator:
    """Walks an exported program once and builds the node list."""

    def __init__(self, exported: torch.export.ExportedProgram, input_shape: tuple[int, int, int]) -> None:
        signature = exported.graph_signature
        constants = {**exported.state_dict, **exported.constants}
        self._owners: dict[str, str] = {}
        self._constants: dict[str, Any] = {}
        lifted = (
            signature.inputs_to_parameters,
            signature.inputs_to_buffers,
            signature.inputs_to_lifted_tensor_constants,
        )
        for placeholder, target in ((key, value) for table in lifted for key, value in table.items()):
            self._owners[placeholder] = target
            self._constants[placeholder] = constants[target].detach()
        if len(signature.user_inputs) != 1:
            raise UnsupportedModelError(f"The network takes {len(signature.user_inputs)} inputs: one image is needed.")
        (self._image,) = signature.user_inputs
        self._calls, self._output = _merged(exported)
        self._names = Counter((INPUT_NAME, "logits"))
        self._raw: dict[str, Raw] = {}
        self._alias: dict[str, str] = {}
        self._turned: dict[str, tuple[str, tuple[int, ...]]] = {}
        self._broadcast: dict[str, str] = {}
        self._parts: dict[str, Sequence[Callable[[], str]]] = {}
        self._groups: dict[fx.Node, Spelled] = {}
        self._input_shape = input_shape
        self.leaves_out_softmax = False
        """Whether the graph's logits may be the network's plus a number for each image."""

    def graph(self) -> Graph:
        """Translates every call. Raises UnsupportedModelError, with the layer and the call, for one that is unknown."""
        self._raw[INPUT_NAME] = Raw(Node(INPUT_NAME, Input(), (), self._input_shape))
        self._alias[str(self._image)] = INPUT_NAME
        calls = [call for call in self._calls if call.op == "call_function" and not self._compute_constant(call)]
        self._groups = {group.last: group for group in find_spelled(calls, self._constants)}
        inner = {call for group in self._groups.values() for call in group.inner}
        for call in calls:
            if call not in inner:
                self._translate(call)
        if self._output not in self._alias:
            raise UnsupportedModelError("The network's logits do not depend on its input.")
        nodes = tuple(raw.node for raw in self._raw.values())
        weights = {name: raw.weights for name, raw in self._raw.items() if raw.weights is not None}
        return Graph(nodes, self._alias[self._output], weights)

    def _compute_constant(self, call: fx.Node) -> bool:
        """Computes what depends on parameters and buffers only (standardised weights, reshaped gains)."""
        known = all(source.name in self._constants for source in call.all_input_nodes)
        if not known or not (call.all_input_nodes or isinstance(call.target, torch._ops.OpOverload)):
            return False

        def value(node: fx.Node) -> Any:
            return self._constants[node.name]

        with torch.no_grad():
            arguments = fx.map_arg(call.args, value)
            self._constants[call.name] = call.target(*arguments, **fx.map_arg(call.kwargs, value))  # type: ignore[operator]
        return True

    def _translate(self, call: fx.Node) -> None:
        target = SPELLED if call in self._groups else call_name(call)
        translate = _TRANSLATIONS.get(target)
        if translate is None:
            raise UnsupportedModelError(
                f"{_where(call)} uses {target}, which is not supported: known are convolutions, linear layers, "
                "batch and layer norms, usual activations, sums, products, concatenations, poolings, and changes of "
                "shape. Replace it, or give the network without it through --arch."
            )
        translate(self, call)

    # What translations use.

    def leave_out_softmax(self, call: fx.Node) -> bool:
        """Whether the logits are all that is made of `call`, a softmax over classes or the logarithm of one: it moves
        all logits of an image alike, and is left out."""
        if not self._only_gives_the_output(call):
            return False
        self.leaves_out_softmax = True
        return True

    def _only_gives_the_output(self, call: fx.Node) -> bool:
        if call.name == self._output:
            return True
        users = list(call.users)
        return len(users) == 1 and call_name(users[0]) in OF_PROBABILITIES and self._only_gives_the_output(users[0])

    def group(self, call: fx.Node) -> Spelled:
        """The group of calls that `call` is the last of."""
        return self._groups[call]

    def value(self, argument: Any) -> str:
        """The name of the tensor that an argument stands for."""
        if isinstance(argument, fx.Node) and argument.name in self._alias:
            return self._alias[argument.name]
        if self.turned(argument) is not None:
            raise CallError("a transposition of the batch")
        raise CallError(f"an argument that is no image or feature map ({argument})")

    def is_value(self, argument: Any) -> bool:
        """Whether an argument depends on the image."""
        return isinstance(argument, fx.Node) and (argument.name in self._alias or argument.name in self._turned)

    def constant(self, argument: Any) -> Tensor | None:
        """A parameter, buffer or number as a float32 tensor of its own shape; None for none."""
        if argument is None:
            return None
        if isinstance(argument, fx.Node) and isinstance(self._constants.get(argument.name), Tensor):
            constant: Tensor = self._constants[argument.name]
            return constant.float()
        if isinstance(argument, int | float):
            return torch.tensor(float(argument))
        raise CallError(f"a weight that depends on the image ({argument})")

    def parameter_owner(self, argument: Any) -> str | None:
        """The path of the module whose weight an argument is; None where it is no parameter or buffer."""
        if isinstance(argument, fx.Node) and argument.name in self._owners:
            return self._owners[argument.name].removesuffix(".weight")
        return None

    def shape(self, argument: fx.Node) -> tuple[int, ...]:
        """The shape of the tensor that `argument` makes, without the batch."""
        return tuple(int(size) for size in argument.meta["val"].shape[1:])

    def consumers(self, name: str) -> int:
        """How many exported calls read the tensor `name` or a transposition of it, those that stand for them not
        counted."""
        turned = (raw.node for raw in self._raw.values() if isinstance(raw.node.op, Transpose))
        standing = {name, *(node.name for node in turned if name in node.inputs)}
        calls = [call for call in self._calls if self._alias.get(call.name) in standing]
        return len({user for call in calls for user in call.users}.difference(calls))

    def raw(self, name: str) -> Raw:
        """The node that makes the tensor `name`."""
        return self._raw[name]

    def image(self, argument: Any) -> str:
        """The name of the tensor that an argument stands for. Raises CallError for one that is not [C, H, W]."""
        name = self.value(argument)
        if len(self.shape_of(name)) != 3:
            raise CallError(f"a tensor of {len(self.shape_of(name)) + 1} dimensions (4 are supported)")
        return name

    def shape_of(self, name: str) -> tuple[int, ...]:
        """The shape of the tensor `name`, without the batch."""
        return self._raw[name].node.shape

    def is_never_negative(self, name: str) -> bool:
        """Whether every value of the tensor `name` is zero or more, for what makes it says so."""
        node = self._raw[name].node
        match node.op:
            case Clamp(low, _):
                return low >= 0
            case Unary("Pow", power) if power % 2:
                return self.is_never_negative(*node.inputs)
            case Unary(function, _):
                return function in _NEVER_NEGATIVE
            case _ if isinstance(node.op, (*MOVES_DATA, *AVERAGES)):
                return all(map(self.is_never_negative, node.inputs))
        return False

    def add(
        self, name: str, op: Op, inputs: Sequence[str], shape: tuple[int, ...], weights: Weights | None = None
    ) -> str:
        """Adds a node and returns its name, which is `name` made unique."""
        self._names[name] += 1
        unique = name if self._names[name] == 1 else f"{name}#{self._names[name]}"
        self._raw[unique] = Raw(Node(unique, op, tuple(inputs), shape), weights)
        return unique

    def emit(self, call: fx.Node, op: Op, inputs: Sequence[str], name: str, weights: Weights | None = None) -> None:
        """Adds the node that `call` stands for."""
        self._alias[call.name] = self.add(name, op, inputs, self.shape(call), weights)

    def same(self, call: fx.Node, name: str) -> None:
        """Notes that `call` stands for the tensor `name`."""
        self._alias[call.name] = name

    def turn(self, call: fx.Node, name: str, dims: tuple[int, ...]) -> None:
        """Notes that dimension i of `call` is dimension dims[i] of the tensor `name`, counted with the batch, which is
        no longer the first."""
        self._turned[call.name] = (name, dims)

    def turned(self, argument: Any) -> tuple[str, tuple[int, ...]] | None:
        """The tensor and the dimensions of a transposition of the batch, or None."""
        return self._turned.get(argument.name) if isinstance(argument, fx.Node) else None

    def note_broadcast(self, name: str, small: str) -> None:
        """Notes that the tensor `name` repeats the tensor `small`."""
        self._broadcast[name] = small

    def before_broadcast(self, name: str) -> str:
        """The tensor that `name` repeats, or `name`."""
        return self._broadcast.get(name, name)

    def several(self, call: fx.Node, parts: Sequence[Callable[[], str]]) -> None:
        """Notes that `call` stands for several tensors, each made when it is asked for."""
        self._parts[call.name] = parts

    def part(self, call: fx.Node, index: int) -> str | None:
        """The name of one of several tensors, or None where `call` stands for a single one."""
        parts = self._parts.get(call.name)
        if parts is not None and index >= len(parts):
            raise CallError(f"its output {index}")
        return None if parts is None else parts[index]()


def _merged(exported: torch.export.ExportedProgram) -> tuple[Sequence[fx.Node], str]:
    """The program's calls, equal ones as one, and the name of the call that makes its output."""
    place = [each.name for each in _outputs(exported.graph)].index(exported.graph_signature.user_outputs[0])
    merged = CSEPass(get_CSE_banned_ops())(exported.graph_module)
    graph = exported.graph if merged is None else merged.graph_module.graph
    return list(graph.nodes), _outputs(graph)[place].name


def _outputs(graph: fx.Graph) -> Any:
    return graph.output_node().args[0]


def _module_path(call: fx.Node) -> str:
    stack = call.meta.get("nn_module_stack") or {}
    return str(list(stack.values())[-1][0]) if stack else ""


def _where(call: fx.Node) -> str:
    path = _module_path(call)
    return f"Layer {path!r}" if path else "The network's forward"


def _shapes(call: fx.Node) -> str:
    """The shapes of a call's tensors, as text."""
    values = [node.meta.get("val") for node in call.all_input_nodes]
    return ", ".join(str(list(value.shape)) for value in values if isinstance(value, Tensor)) or "no shape"


_Translation = Callable[[Translator, fx.Node], None]
_TRANSLATIONS: dict[str, _Translation] = {}


def translates(*targets: str) -> Callable[[_Translation], _Translation]:
    """Registers a function that adds the nodes for calls of `targets`; a CallError gets the layer's name."""

    def register(function: _Translation) -> _Translation:
        def translate(translator: Translator, call: fx.Node) -> None:
            try:
                function(translator, call)
            except CallError as refusal:
                raise UnsupportedModelError(
                    f"{_where(call)} uses {call_name(call)} with {refusal}, which is not supported."
                ) from refusal
            except (ArithmeticError, AssertionError, LookupError, RuntimeError, TypeError, ValueError) as error:
                # A call of other dimensions or arguments than the translation is made for.
                raise UnsupportedModelError(
                    f"{_where(call)} uses {call_name(call)} in a form that is not supported: tensors of "
                    f"{_shapes(call)}."
                ) from error

        for target in targets:
            if target in _TRANSLATIONS:
                raise ValueError(f"two translations of {target}")
            _TRANSLATIONS[target] = translate
        return function

    return register
