"""A float network becomes a Graph.

The network is read with torch.export, which sees what really runs (functional calls, subclassed layers, paddings
computed from shapes) with concrete shapes; every call is then translated to the closed set of operators, zero padding
moves into the convolution behind it, batch norms into the convolution before them, and ReLU-like functions onto the
node before them. The result is run against the network once: a graph that computes something else is refused.
"""

import copy
import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr

import torch
from torch import Tensor, nn

from intraq_deploy.errors import UnsupportedModelError
from intraq_deploy.graph.aten import Translator
from intraq_deploy.graph.aten.translator import TRACE_BATCH
from intraq_deploy.graph.execute import evaluate_float, walk
from intraq_deploy.graph.graph import Graph, Node
from intraq_deploy.graph.simplify import simplify
from intraq_deploy.wording import reason

_TOLERANCE = 1e-3
_SPREAD = 4.0
"""The logits may differ by so many times what those in float32 and in float64 do, where that is more."""
_SMALLEST_LOGIT = 1e-6


_ATEN = torch.ops.aten
_COMPOSED = {
    _ATEN.roll.default, _ATEN.rot90.default, _ATEN.glu.default, _ATEN.addcmul.default, _ATEN.tile.default,
    _ATEN.repeat_interleave.self_int, _ATEN.avg_pool1d.default, _ATEN.adaptive_avg_pool1d.default,
    _ATEN.square.default, _ATEN.concat.default, _ATEN.fliplr.default, _ATEN.flipud.default,
}  # fmt: skip
"""Operators that torch says in simpler ones, which are translated."""


def trace(module: nn.Module, input_shape: tuple[int, int, int]) -> Graph:
    """The graph of `module`, a network in eval mode on the CPU, for images float32 [N, *input_shape].

    Raises UnsupportedModelError, naming the layer and the call, for a forward that depends on data, an operator
    outside the closed set, or a graph whose logits differ from the network's.
    """
    images = torch.randn(TRACE_BATCH, *input_shape, generator=torch.Generator().manual_seed(0))
    exported = _export(module, images)
    translator = Translator(exported, input_shape)
    graph = simplify(translator.graph())
    _check_equal(module, graph, images, shifted=translator.leaves_out_softmax)
    return graph


def _export(module: nn.Module, images: Tensor) -> torch.export.ExportedProgram:
    try:
        with _quiet():
            # Other composite operators stay whole, and in-place operators become functional.
            whole = torch.export.export(module, (images,))
            rules = torch.export.default_decompositions()
            exported: torch.export.ExportedProgram = whole.run_decompositions(
                {call: rules[call] for call in _COMPOSED if call in rules}
            )
    except Exception as error:  # torch.export raises many unrelated types
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UnsupportedModelError(
            f"The network's forward cannot be traced ({reason}): it must not depend on the values of its input; "
            "rewrite that part, or give the network without it through --arch."
        ) from error
    return exported


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences what torch prints about a failure, which becomes one sentence."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(disabled)


def _check_equal(module: nn.Module, graph: Graph, images: Tensor, *, shifted: bool) -> None:
    """Raises UnsupportedModelError where the graph gives other logits. shifted: they may be those and a number for each
    image."""
    with torch.no_grad():
        expected = module(images)
        if not isinstance(expected, Tensor):
            raise UnsupportedModelError(
                f"The network gives a {type(expected).__name__}: its output must be the logits, [N, classes]."
            )
        try:
            found = walk(graph, images, lambda node, inputs: _of_its_shape(node, evaluate_float(graph, node, inputs)))
        except (RuntimeError, ValueError, LookupError) as error:
            raise UnsupportedModelError(
                f"The network's forward was read wrongly ({reason(error)}): please report it with the network's code."
            ) from error
    if expected.shape != found.shape:
        raise UnsupportedModelError(
            f"The traced network gives {tuple(found.shape)} where the network gives {tuple(expected.shape)}: "
            "its output must be the logits, [N, classes]."
        )
    if shifted:
        expected, found = (logits - logits.mean(1, keepdim=True) for logits in (expected, found))
    scale = max(_SMALLEST_LOGIT, float(expected.abs().max()))
    difference = float((expected - found).abs().max()) / scale
    if not difference <= _TOLERANCE and not difference <= _SPREAD * _rounding(module, images) / scale:
        raise UnsupportedModelError(
            f"The traced network's logits differ from the network's by {difference:.1e} of their size (allowed: "
            f"{_TOLERANCE:.0e}): its forward is random or depends on its input's values."
        )


def _of_its_shape(node: Node, y: Tensor) -> Tensor:
    """Returns y, float32 [N, ...], if it has the shape that the node has. Raises ValueError for another."""
    if y.shape != (TRACE_BATCH, *node.shape):
        raise ValueError(f"{node.name} has the shape {list(y.shape)}, not {[TRACE_BATCH, *node.shape]}")
    return y


def _rounding(module: nn.Module, images: Tensor) -> float:
    """The greatest distance of the logits, float32 [N, classes], from those in float64, which the order of float32 sums
    explains; 0 for a network that gives other logits each time, or does not run in float64."""
    with torch.no_grad():
        once, again = module(images), module(images)
        if not torch.equal(once, again):
            return 0.0
        try:
            exact = copy.deepcopy(module).double()(images.double())
        except Exception:  # a forward may make float32 tensors of its own, and fail in any way
            return 0.0
    return float((exact - once).abs().max())
