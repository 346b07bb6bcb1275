"""Fitting the student layer by layer, in closed form, before any gradient: rounding, means and gains.

Layers are taken in execution order, each on what the fitted layers before it make. For each, the moments of what it
reads and of what it is to give are taken (`moments`); its weights are rounded by them (`compensation`), then its
channels' means and gains corrected by them (`correction`). No label is read.

A layer is to give what it gives in the float network. Where nothing but a sum reads it, whose other summand is there
already, it is to give too what that one lacks: what came wrong through the shortcut, as far as it can be told from what
the layer reads.

Random crops of the images are taken beside them: they cost a forward pass each, and no iterations.

The ridge of a layer is that whose rounding by one half of the images errs least on the other half.

It costs one forward pass of each network, and two products of patches for each layer. Held in CPU memory is what layers
read later, of both networks: of as many images as fit into 4 GB, at most `FittingRecipe.images` and their crops.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from intraq_deploy import seeds
from intraq_deploy.graph.execute import Evaluate
from intraq_deploy.graph.graph import Graph, Node
from intraq_deploy.graph.ops import Add, Conv2d, Linear
from intraq_deploy.quantization.network import FakeQuantNetwork, QuantizedLayer
from intraq_deploy.quantization.quantizer import LearnedWeightQuantizer
from intraq_deploy.synthesis.reinforcement import random_crops
from intraq_deploy.synthesis.synthetic_set import SyntheticSet
from intraq_deploy.team import ALONE, PARTS, Team
from intraq_deploy.training.blocks import Block, carried, moved, single_nodes
from intraq_deploy.training.compensation import best_damping, compensated
from intraq_deploy.training.correction import correct_layer
from intraq_deploy.training.moments import Columns, Moments, MomentSums
from intraq_deploy.training.recipe import FittingRecipe
from intraq_deploy.training.rounding import inside
from intraq_deploy.training.teacher import Teacher

_BATCH = 32
MOST_PATCHES = 40_000
"""The number of patches of a layer, at most."""
_DEAD = 1e-3
"""The share of a layer's greatest gain below which a channel's weights stay what they are."""
_MEMORY = 4 << 30
"""Bytes of tensors held, at most."""


@torch.no_grad()
def fit_layers(
    student: FakeQuantNetwork,
    teacher: Teacher,
    images: SyntheticSet,
    recipe: FittingRecipe,
    seed: int,
    device: torch.device,
    *,
    fitted: int = 0,
    report: Callable[[int, int], None] | None = None,
    team: Team = ALONE,
) -> None:
    """Fits the student in place and on `device`, where the teacher is already.

    Weights whose range follows them (min-max) keep their values; their means and gains are corrected. Images and
    patches are drawn with `seed`. fitted: the number of layers that are fitted already, the first ones. report: called
    before each other layer with its number, from 1, and how many there are. team: who fits it; all processes of it call
    this alike, each holds its part of the images, and all end with the same student.
    """
    student.to(device)
    blocks = single_nodes(student.graph)
    taken = _taken(images.images, recipe, _images_that_fit(blocks, images.images), seeds.generator(seed, "fitting"))
    # Two pieces for each half, whatever the number of processes is.
    cut = [(half, part) for half, images in enumerate(taken.chunk(2)) for part in images.chunk(PARTS // 2)]
    most = -(-MOST_PATCHES // sum(-(-len(part) // _BATCH) for _, part in cut))
    name = student.graph.input.name
    own = [_Piece(number, {name: part}, {name: part}) for number, (_, part) in enumerate(cut) if team.owns(number)]
    layers = [node.name for node in student.graph.layers()]
    for index, block in enumerate(blocks):
        (node,) = block.nodes
        number = layers.index(node.name) if node.name in layers else -1
        if number >= fitted:
            assert isinstance(node.op, Conv2d | Linear)
            if report is not None:
                report(number + 1, len(layers))
            layer = student.layer(node.name)
            columns = Columns(node.op, layer.weight.shape)
            weight = columns.rows(teacher.folded(node)[0])
            sums = dict[int, list[Tensor]]()
            for piece in own:
                piece.given = block.run_all(piece.teacher, _ahead(teacher), _BATCH, device)[node.name]
                generator = seeds.generator(seed, "patches", number, piece.number)
                sums[piece.number] = piece.sums(student.graph, node, columns, weight, most, generator).tensors()
            halves = []
            for half in sorted({half for half, _ in cut}):
                pieces = [number for number, (each, _) in enumerate(cut) if each == half]
                total = team.sum(sums, pieces, partial(_no_sums, weight))
                halves.append(MomentSums(weight.shape, device, total))
            moments = sum(halves[1:], halves[0]).moments()
            if recipe.compensate and isinstance(layer.quantizer, LearnedWeightQuantizer):
                _round(layer, layer.quantizer, columns, moments, halves)
            gains = math.prod(node.shape) > len(layer.weight)
            correct_layer(layer, columns, moments, gains=gains)
        for piece in own:
            if piece.given is None:
                expected = block.run_all(piece.teacher, teacher.evaluate, _BATCH, device)
            else:
                expected = {node.name: teacher.activate(node, piece.given)}
                piece.given = None  # as large a tensor is made now
            found = block.run_all(piece.student, student.evaluate, _BATCH, device)
            piece.student = carried(piece.student | found, blocks[index + 1 :])
            piece.teacher = carried(piece.teacher | expected, blocks[index + 1 :])


def _no_sums(weight: Tensor) -> list[Tensor]:
    """The sums of nothing, of a layer whose weight is of this shape, [G, R, K]."""
    return MomentSums(weight.shape, weight.device).tensors()


@dataclass(slots=True)
class _Piece:
    """Some of the images, and what both networks make of them, float32 [N, ...] by name, in CPU memory."""

    number: int
    student: dict[str, Tensor]
    teacher: dict[str, Tensor]
    given: Tensor | None = None
    """The output of the layer in turn in the teacher, in front of its activation, float32 [N, ...]."""

    def sums(
        self, graph: Graph, node: Node, columns: Columns, weight: Tensor, most: int, generator: torch.Generator
    ) -> MomentSums:
        """The sums of a layer over patches of these images.

        weight: the teacher's, float32 [G, R, K], where the sums are made. most: the patches of a batch, at most.
        """
        (name,) = node.inputs
        inputs, given, lacking = self.student[name], self.given, _lacking(graph, node, self.student, self.teacher)
        assert given is not None
        sums = MomentSums(weight.shape, weight.device)
        for part in torch.arange(len(inputs)).split(_BATCH):
            outputs = given[part] if lacking is None else given[part] + lacking[1][part] - lacking[0][part]
            drawn = moved(inputs[part], weight.device), moved(outputs, weight.device)
            x, targets = columns.patches(*drawn, most, generator)
            if columns.parts > 1:
                # Each part gives what it gave, and an equal share of what is then wrong.
                wrong = x @ weight.mT
                targets = wrong + (targets - wrong.sum(0)) / columns.parts
            sums.add(x, targets)
        return sums


def _taken(images: Tensor, recipe: FittingRecipe, most: int, generator: torch.Generator) -> Tensor:
    """Images drawn, and crops of them, `most` in all: float32 [N, C, H, W], as `images`. Crops are in the half of their
    image, but for one if the number of images is odd."""
    count = max(1, min(recipe.images, most // (1 + recipe.crops)))
    taken = []
    for drawn in images[torch.randperm(len(images), generator=generator)[:count]].chunk(2):
        taken += [drawn, *(random_crops(drawn, recipe.smallest_crop, generator) for _ in range(recipe.crops))]
    return torch.cat(taken)[:most]


def _images_that_fit(parts: list[Block], images: Tensor) -> int:
    """The number of images whose tensors, of both networks, fit into the memory. images: float32 [N, C, H, W]."""
    sizes = {node.name: math.prod(node.shape) for block in parts for node in block.nodes}
    held, most = set[str](), 0
    for index, block in enumerate(parts):
        held |= {*block.inputs, *block.outputs}
        most = max(most, sum(sizes[name] for name in held))
        held &= {name for behind in parts[index + 1 :] for name in behind.inputs}
    scale = images[0].numel() / sizes[parts[0].name]
    return max(1, int(_MEMORY / (2 * images.element_size() * most * scale)))


def _ahead(teacher: Teacher) -> Evaluate:
    """Computes layers of the teacher in front of their activations."""
    return lambda node, inputs: teacher.evaluate_layer(node, inputs[0])


def _lacking(
    graph: Graph, node: Node, student: Mapping[str, Tensor], teacher: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor] | None:
    """A sum's other summand in the student and in the teacher, float32 [N, ...] in CPU memory, if nothing but the sum
    reads the node's output; None if there is no such sum, or its other summand is not made yet.

    student, teacher: the tensors that are made, float32 [N, ...] in CPU memory, by name.
    """
    readers = graph.consumers(node.name)
    if node.activation is not None or len(readers) != 1 or not isinstance(readers[0].op, Add):
        return None
    others = [name for name in readers[0].inputs if name in student and name != node.name]
    return (student[others[0]], teacher[others[0]]) if others else None


def _round(
    layer: QuantizedLayer,
    quantizer: LearnedWeightQuantizer,
    columns: Columns,
    moments: Moments,
    halves: Sequence[MomentSums],
) -> None:
    """Puts the layer's weights on their grid, and fits its steps. moments: over all images; halves: of each half."""
    rows, gain = columns.rows(layer.weight.double()), layer.gain().double().reshape(columns.groups, -1, 1)
    alive = gain.abs() > _DEAD * gain.abs().max()

    def ahead(moments: Moments) -> Moments:
        """The moments in front of the layer's batch norm."""
        cross = moments.cross / torch.where(alive, gain, 1)
        return replace(moments, cross=torch.where(alive, cross, rows @ moments.covariance))

    spec, parts = quantizer.spec, columns.parts
    importance = gain[:, :, 0].square()
    damping = best_damping(rows, [ahead(half.moments()) for half in halves], spec, importance, parts=parts)
    codes, scale = compensated(rows, ahead(moments), spec, damping, parts=parts)
    layer.weight.copy_(columns.weight(inside(codes, spec) * scale[:, :, None]))
    quantizer.scale.copy_(scale[0] if parts > 1 else scale.flatten())
