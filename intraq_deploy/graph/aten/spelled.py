"""Functions that a network spells out in smaller calls: GELU with erf, Mish with softplus, norms over channels.

A group of calls between one tensor and another is told by what it computes on random numbers, so that every way of
writing a function down is known, and exporters' as well.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from intraq_deploy.graph.aten.calls import call_name
from intraq_deploy.graph.execute import FUNCTIONS
from intraq_deploy.graph.ops import ChannelNorm, Unary, UnitNorm

_BEGINNINGS = (
    "aten.erf.default", "aten.exp.default", "aten.softplus.default", "aten.tanh.default", "aten.log1p.default",
    "aten.pow.Tensor_Scalar", "aten.var.dim", "aten.var.correction", "aten.mean.dim", "aten.linalg_vector_norm.default",
    "aten.sum.dim_IntList",
)  # fmt: skip
"""Calls of which every group has one, and that mean little alone."""
_PARTS = (
    *_BEGINNINGS, "aten.add.Tensor", "aten.sub.Tensor", "aten.mul.Tensor", "aten.div.Tensor", "aten.rsub.Scalar",
    "aten.sqrt.default", "aten.rsqrt.default", "aten.reciprocal.default", "aten.sigmoid.default", "aten.neg.default",
    "aten.log.default", "aten.mul.Scalar", "aten.add.Scalar", "aten.pow.Tensor_Tensor",
    "aten.clamp_min.default", "aten.clamp.default", "aten.expand.default", "aten.expand_as.default",
)  # fmt: skip
_LONGEST = 16
_FARTHEST = 3 * _LONGEST
"""How many calls behind its source a group may end."""
_ALIKE = 1e-5
"""How much of their size numbers may differ by: GELU and its form with tanh differ by more."""
_GREATEST_EPSILON = 1e-2
_SPELLED_FUNCTIONS = ("Sigmoid", "Gelu", "GeluTanh", "Mish")


@dataclass(frozen=True, slots=True)
class Spelled:
    """A group of calls that is one function."""

    source: fx.Node
    last: fx.Node
    inner: frozenset[fx.Node]
    """The group's calls but the last."""
    op: Unary | ChannelNorm | UnitNorm
    """The function, or the norm over channels."""
    dim: int = 1
    """The dimension that a norm is over, counted with the batch."""


def find_spelled(calls: Sequence[fx.Node], constants: Mapping[str, Any]) -> Iterator[Spelled]:
    """Yields the groups in the order of their last calls. constants: the values of calls that depend on no image."""
    taken: set[fx.Node] = set()
    for call in calls:
        if call in taken or call.name in constants or call_name(call) not in _BEGINNINGS:
            continue
        found = next(filter(None, (_group(source, call, constants) for source in _sources(call, constants))), None)
        if found is not None:
            taken |= {*found.inner, found.last}
            yield found


def _sources(call: fx.Node, constants: Mapping[str, Any]) -> Iterator[fx.Node]:
    """The tensors that a group with this call may begin at, the nearest first."""
    for _ in range(_LONGEST):
        varying = [node for node in call.all_input_nodes if node.name not in constants]
        if not varying:
            return
        call = varying[0]
        yield call
        if call_name(call) not in _PARTS:
            return


def _group(source: fx.Node, begin: fx.Node, constants: Mapping[str, Any]) -> Spelled | None:
    """The longest group from `source` through `begin` that is a known function; None where there is none."""
    values = {source: _random_like(source)}
    within: dict[fx.Node, frozenset[fx.Node]] = {source: frozenset()}
    call, found = source, None
    for _ in range(_FARTHEST):
        call = call.next
        if call.op == "output":
            break
        varying = [node for node in call.all_input_nodes if node.name not in constants]
        if call_name(call) not in _PARTS or not varying or not all(node in values for node in varying):
            continue
        values[call] = _value(call, values, constants)
        inner = frozenset().union(*(within[node] | {node} for node in varying)) - {source}
        within[call] = inner
        if begin not in inner or not all(set(node.users) <= inner | {call} for node in inner):
            continue
        known = _known(values[source], values[call], inner | {call}, constants)
        if known is not None:
            found = Spelled(source, call, inner, *known)
    return found


def _random_like(call: fx.Node) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return 3 * torch.randn(tuple(call.meta["val"].shape), generator=generator)


def _value(call: fx.Node, values: Mapping[fx.Node, Tensor], constants: Mapping[str, Any]) -> Tensor:
    def known(node: fx.Node) -> Any:
        return constants[node.name] if node.name in constants else values[node]

    with torch.no_grad():
        value: Tensor = call.target(*fx.map_arg(call.args, known), **fx.map_arg(call.kwargs, known))  # type: ignore[operator]
    return value


def _known(
    x: Tensor, y: Tensor, group: frozenset[fx.Node], constants: Mapping[str, Any]
) -> tuple[Unary | ChannelNorm | UnitNorm, int] | None:
    """The function that makes y of x: its operator, and the dimension of a norm."""
    if x.shape != y.shape:
        return None
    for name in _SPELLED_FUNCTIONS:
        if _are_alike(FUNCTIONS[name](x, 0.0), y):
            return Unary(name), 1
    for dim in {1, x.dim() - 1} if x.dim() in (2, 4) else ():
        if _are_alike(F.normalize(x, dim=dim), y):
            return UnitNorm(), dim
        variance, mean = torch.var_mean(x, dim, correction=0, keepdim=True)
        for epsilon in _numbers(group, constants):
            if _are_alike((x - mean) / torch.sqrt(variance + epsilon), y):
                return ChannelNorm(epsilon), dim
    return None


def _numbers(group: frozenset[fx.Node], constants: Mapping[str, Any]) -> list[float]:
    """The small positive numbers that a group's calls add."""
    adds = [call for call in group if call_name(call) in ("aten.add.Tensor", "aten.add.Scalar")]
    given = [constants.get(each.name) if isinstance(each, fx.Node) else each for call in adds for each in call.args]
    single = (each for each in given if isinstance(each, int | float) or (isinstance(each, Tensor) and each.dim() == 0))
    return [float(each) for each in single if 0 < each < _GREATEST_EPSILON]


def _are_alike(x: Tensor, y: Tensor) -> bool:
    return bool((x - y).abs().max() <= _ALIKE * x.abs().max())
