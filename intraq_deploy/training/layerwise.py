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
from dataclasses import replace

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
) -> None:
    """Fits the student in place and on `device`, where the teacher is already.

    Weights whose range follows them (min-max) keep their values; their means and gains are corrected. Images and
    patches are drawn with `seed`. fitted: the number of layers that are fitted already, the first ones. report: called
    before each other layer with its number, from 1, and how many there are.
    """
    student.to(device)
    parts = single_nodes(student.graph)
    taken = _taken(images.images, recipe, _images_that_fit(parts, images.images), seeds.generator(seed, "fitting"))
    student_inputs = teacher_inputs = {student.graph.input.name: taken}
    layers = [node.name for node in student.graph.layers()]
    for index, block in enumerate(parts):
        (node,) = block.nodes
        number = layers.index(node.name) if node.name in layers else -1
        if number >= fitted:
            assert isinstance(node.op, Conv2d | Linear)
            if report is not None:
                report(number + 1, len(layers))
            (name,) = node.inputs
            layer = student.layer(node.name)
            columns = Columns(node.op, layer.weight.shape)
            generator = seeds.generator(seed, "patches", number)
            given = block.run_all(teacher_inputs, _ahead(teacher), _BATCH, device)[node.name]
            lacking = _lacking(student.graph, node, student_inputs, teacher_inputs)
            weight = columns.rows(teacher.folded(node)[0])
            halves = _halves(columns, student_inputs[name], given, lacking, weight, generator)
            moments = sum(halves[1:], halves[0]).moments()
            if recipe.compensate and isinstance(layer.quantizer, LearnedWeightQuantizer):
                _round(layer, layer.quantizer, columns, moments, halves)
            gains = math.prod(node.shape) > len(layer.weight)
            correct_layer(layer, columns, moments, gains=gains)
            expected = {node.name: teacher.activate(node, given)}
            del given  # of the student, as large a tensor is made now
        else:
            expected = block.run_all(teacher_inputs, teacher.evaluate, _BATCH, device)
        found = block.run_all(student_inputs, student.evaluate, _BATCH, device)
        student_inputs = carried(student_inputs | found, parts[index + 1 :])
        teacher_inputs = carried(teacher_inputs | expected, parts[index + 1 :])


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


def _halves(
    columns: Columns,
    inputs: Tensor,
    given: Tensor,
    lacking: tuple[Tensor, Tensor] | None,
    weight: Tensor,
    generator: torch.Generator,
) -> list[MomentSums]:
    """The sums of a layer over patches of each half of the images; of all of them if there is one image.

    inputs: what it reads in the student; given: what it gives in the teacher, in front of its activation; lacking: as
    of `_lacking`: float32 [N, ...] in CPU memory. weight: the teacher's, float32 [G, R, K], where the sums are made.
    """
    halves, device = list[MomentSums](), weight.device
    most = -(-MOST_PATCHES // -(-len(inputs) // _BATCH))
    for half in torch.arange(len(inputs)).chunk(2):
        sums = MomentSums(weight.shape, device)
        for part in half.split(_BATCH):
            outputs = given[part] if lacking is None else given[part] + lacking[1][part] - lacking[0][part]
            x, targets = columns.patches(moved(inputs[part], device), moved(outputs, device), most, generator)
            if columns.parts > 1:
                # Each part gives what it gave, and an equal share of what is then wrong.
                own = x @ weight.mT
                targets = own + (targets - own.sum(0)) / columns.parts
            sums.add(x, targets)
        halves.append(sums)
    return halves


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
