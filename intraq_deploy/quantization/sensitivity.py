"""The loss that each layer's weight bits cost: one layer at a time, everything else at 8 bits.

    kl(l, b) = mean_n KL(p_n || q_n)      p: the float network, q: W8A8 but for layer l's weights, which have b bits

Sums of such losses over layers are what bits are chosen by (as in HAWQ-V2, Dong et al., NeurIPS 2020, and its
successors). The rest is W8A8 rather than float, so that biases lie on grids as they will, and rather than at the
activations' own few bits, whose rounding drowns what 4 to 8 bits of one layer's weights change. No label is
read.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from intraq_deploy.graph.execute import walk
from intraq_deploy.graph.graph import Node
from intraq_deploy.quantization.network import FakeQuantNetwork, QuantizedLayer
from intraq_deploy.quantization.quantizer import LearnedWeightQuantizer, MinMaxWeightQuantizer
from intraq_deploy.quantization.ranges import search_weight
from intraq_deploy.quantization.spec import QuantSpec

Quantizer = LearnedWeightQuantizer | MinMaxWeightQuantizer
_SMALL_PIXELS = 64 * 64
_SMALL_BATCH, _LARGE_BATCH = 64, 16


@dataclass(frozen=True, slots=True)
class Loss:
    """The loss of a quantized network against the float one, over some images."""

    kl: float
    """The divergence KL(float || quantized), in nats per image."""
    agreement: float
    """Percent of the images that both networks give the same class."""


class _Tally:
    """Sums over batches."""

    def __init__(self) -> None:
        self._kl = 0.0
        self._agreed = self._images = 0

    def add(self, teacher: Tensor, student: Tensor) -> None:
        log_p, log_q = F.log_softmax(teacher.double(), 1), F.log_softmax(student.double(), 1)
        self._kl += float(F.kl_div(log_q, log_p, reduction="sum", log_target=True))
        self._agreed += int((teacher.argmax(1) == student.argmax(1)).sum())
        self._images += len(teacher)

    def result(self) -> Loss:
        return Loss(self._kl / self._images, 100 * self._agreed / self._images)


def batches(images: Tensor) -> Sequence[Tensor]:
    """Splits images, of any dtype [N, C, H, W], into parts whose activations fit in memory several times over."""
    small = images.shape[2] * images.shape[3] <= _SMALL_PIXELS
    return torch.split(images, _SMALL_BATCH if small else _LARGE_BATCH)


def logits_of(network: Callable[[Tensor], Tensor], images: Tensor, device: torch.device) -> Tensor:
    """The logits of `network`, which is on `device`: float32 [N, classes], on the CPU.

    images: float32 [N, C, H, W], normalised.
    """
    with torch.no_grad():
        return torch.cat([network(_on(part, device)).cpu() for part in batches(images)])


def loss_between(teacher: Tensor, student: Tensor) -> Loss:
    """Compares a student with its teacher. teacher, student: their logits, float32 [N, classes]."""
    tally = _Tally()
    tally.add(teacher, student)
    return tally.result()


def layer_losses(
    network: FakeQuantNetwork,
    specs: Mapping[str, QuantSpec],
    images: Tensor,
    teacher: Tensor,
    device: torch.device,
    report: Callable[[int], None] = lambda done: None,
) -> dict[str, Loss]:
    """Measures the loss of `network` with one layer's weights quantized otherwise, for every layer in `specs`.

    network: calibrated, on `device`; it is as before afterwards. specs: which quantizer to try, by layer. images:
    float32 [N, C, H, W], normalised. teacher: the float network's logits, [N, classes]. report: is told how many images
    are done. A layer costs what runs behind it: the tensors before it are made once per batch.
    """
    changed = {name: _quantizer(network.layer(name), spec) for name, spec in specs.items()}
    tallies = {name: _Tally() for name in specs}
    done = 0
    with torch.no_grad():
        for part, expected in zip(batches(images), teacher.split(len(batches(images)[0])), strict=True):
            for name, found in _one_at_a_time(network, changed, _on(part, device)):
                tallies[name].add(expected, found.cpu())
            done += len(part)
            report(done)
    return {name: tally.result() for name, tally in tallies.items()}


def _on(images: Tensor, device: torch.device) -> Tensor:
    return images.to(device).to(memory_format=torch.channels_last)


def _quantizer(layer: QuantizedLayer, spec: QuantSpec) -> Quantizer:
    """Another quantizer for a layer's weights, its scales searched for as `build_network` does."""
    quantizer = type(layer.quantizer)(spec, layer.weight.shape[0])
    if isinstance(quantizer, LearnedWeightQuantizer):
        quantizer.scale.data.copy_(search_weight(layer.weight, spec))
    return quantizer.to(layer.weight.device)


def _one_at_a_time(
    network: FakeQuantNetwork, changed: Mapping[str, Quantizer], images: Tensor
) -> Iterator[tuple[str, Tensor]]:
    """The logits with each layer's quantizer replaced in turn, in execution order."""
    graph = network.graph
    position = {node.name: index for index, node in enumerate(graph.nodes)}
    values: dict[str, Tensor] = {}
    for index, node in enumerate(graph.nodes):
        if node.name in changed:

            def behind(other: Node, inputs: Sequence[Tensor], index: int = index) -> Tensor:
                ahead = position[other.name] < index
                # What nobody reads from here on is no longer kept, and its value does not matter.
                return values.get(other.name, images) if ahead else network.evaluate(other, inputs)

            with _replaced(network.layer(node.name), changed[node.name]):
                logits = walk(graph, images, behind)
            yield node.name, logits
        values[node.name] = network.evaluate(node, [values[name] for name in node.inputs] or [images])
        for name in list(values):
            if name != graph.output and all(position[reader.name] <= index for reader in graph.consumers(name)):
                del values[name]


@contextmanager
def _replaced(layer: QuantizedLayer, quantizer: Quantizer) -> Iterator[None]:
    before, layer.quantizer = layer.quantizer, quantizer
    try:
        yield
    finally:
        layer.quantizer = before


def requantize(network: FakeQuantNetwork, specs: Mapping[str, QuantSpec]) -> None:
    """Gives layers other quantizers for their weights, by name, for good."""
    for name, spec in specs.items():
        layer = network.layer(name)
        if layer.quantizer.spec != spec:
            layer.quantizer = _quantizer(layer, spec)
