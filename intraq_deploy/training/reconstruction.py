"""Block-wise reconstruction, before fine-tuning.

The blocks' roundings and activation scales are learned one block at a time, each on what the quantized blocks before it
make (BRECQ, Li et al., "Pushing the Limit of Post-Training Quantization by Block Reconstruction", ICLR 2021; data-free
in GENIE, Jeon et al., CVPR 2023). For block b

    E = mean_o |B_b(x) - y_o|^2 / |y_o|^2        L = E + lambda R(beta)

with y_o the teacher's outputs of the block, B_b the student's, and R of `rounding`. R is left out for the first fifth
of the steps; beta then falls linearly from 20 to 2. What the block reads mixes both networks, value by value (QDrop,
Wei et al., ICLR 2022): x is the teacher's with probability p, else the student's, drawn anew at every step.

Differences: E is relative, where BRECQ weighs squares with gradients of the task's loss; blocks end where `blocks`
says; QDrop also drops the quantizers inside a block; weight scales, which GENIE learns along, stay.

What a block reads and gives is kept in CPU memory for all images, the student's and the teacher's: at its most four
tensors of images x C x H x W x 4 bytes, 1.6 GB for 512 images of ResNet-18 at 224 pixels. Running the network up to the
block anew at each step would need none of it, and cost several times the block's own work, more with every block.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from intraq_deploy import seeds
from intraq_deploy.errors import DivergedError, UsageError
from intraq_deploy.graph.ops import HAS_WEIGHT
from intraq_deploy.quantization.network import FakeQuantNetwork
from intraq_deploy.quantization.quantizer import SMALLEST_SCALE, ActivationQuantizer, MinMaxWeightQuantizer
from intraq_deploy.quantization.scheme import Ranges
from intraq_deploy.synthesis.synthetic_set import SyntheticSet
from intraq_deploy.training import losses
from intraq_deploy.training.blocks import Block, blocks, carried, moved
from intraq_deploy.training.recipe import ReconstructionRecipe
from intraq_deploy.training.rounding import SoftWeightQuantizer, commit, soften, undecided
from intraq_deploy.training.teacher import Teacher

BlockReport = Callable[[int, int, float], None]
"""A function that is told the block, counted from 0, its steps done, and its error E."""
_REPORT_EVERY = 10
_FREE = 0.2
"""The fraction of a block's steps before R counts."""
_FIRST_BETA, _LAST_BETA = 20.0, 2.0
_DIVERGED, _WORTHLESS = 2.0, 0.9
"""The greatest E, in multiples of the first, and an E that is none too high: 1 is what an output of zeros has."""


def check_ranges(ranges: Ranges) -> None:
    """Checks that ranges do not follow the weights: rounding one would then move the grid of its whole row.

    Raises UsageError for ranges that do.
    """
    if ranges != "learned":
        raise UsageError(
            f"Reconstruction needs learned ranges, and these are {ranges}: leave reconstruction out, use another "
            '--scheme than paper, or set ranges = "learned" under [quantization] in the recipe.'
        )


def reconstruct(
    student: FakeQuantNetwork,
    teacher: Teacher,
    images: SyntheticSet,
    recipe: ReconstructionRecipe,
    seed: int,
    device: torch.device,
    report: BlockReport | None = None,
) -> None:
    """Learns the student's roundings and activation scales, in place and on `device`, where the teacher is already.

    Weights end on their grids, so that what comes next starts from these codes. No label is read. Raises UsageError
    for a student with min-max ranges, DivergedError, with block and step, for a block that comes to nothing.
    """
    layers = [student.layer(node.name) for node in student.graph.layers()]
    check_ranges("min-max" if any(isinstance(x.quantizer, MinMaxWeightQuantizer) for x in layers) else "learned")
    student.to(device)
    parts = blocks(student.graph)
    student_inputs = teacher_inputs = {student.graph.input.name: images.images}
    for index, block in enumerate(parts):
        expected = block.run_all(teacher_inputs, teacher.evaluate, recipe.batch, device)
        tensors = _Tensors(student_inputs, teacher_inputs, expected)
        reconstruction = _Reconstruction(student, block, tensors, recipe, device)
        for step in range(recipe.steps if reconstruction.rounded else 0):
            reconstruction.take_step(step, seeds.generator(seed, "reconstruction", index, step))
            if step % _REPORT_EVERY == 0 or step + 1 == recipe.steps:
                error = reconstruction.finite_error(step)
                if report is not None:
                    report(index, step + 1, error)
        reconstruction.commit()
        found = block.run_all(student_inputs, student.evaluate, recipe.batch, device)
        student_inputs = carried(student_inputs | found, parts[index + 1 :])
        teacher_inputs = carried(teacher_inputs | expected, parts[index + 1 :])


@dataclass(frozen=True, slots=True)
class _Tensors:
    """The tensors that a block reads, in both networks, and those it is to give, of all images: float32 [N, ...], by
    name."""

    student_inputs: Mapping[str, Tensor]
    teacher_inputs: Mapping[str, Tensor]
    expected: Mapping[str, Tensor]


class _Reconstruction:
    """The reconstruction of one block."""

    def __init__(
        self,
        student: FakeQuantNetwork,
        block: Block,
        tensors: _Tensors,
        recipe: ReconstructionRecipe,
        device: torch.device,
    ) -> None:
        self._student, self._block, self._tensors = student, block, tensors
        self._recipe, self._device = recipe, device
        self._layers = [student.layer(node.name) for node in block.nodes if isinstance(node.op, HAS_WEIGHT)]
        self.rounded = [soften(layer) for layer in self._layers]
        """Empty where the block has no layer: there is nothing to learn."""
        self._scales = [quantizer.scale for quantizer in _quantizers(student, block)]
        self._trained = [*[soft.v for soft in self.rounded], *self._scales]
        self._optimizer = _optimizer(self.rounded, self._scales, recipe)
        self._error = torch.zeros(())
        self._first_error: float | None = None

    def take_step(self, step: int, generator: torch.Generator) -> None:
        """Takes step number `step`, counted from 0, on images drawn with `generator`."""
        inputs, expected = self._draw(generator)
        loss = losses.features(self._block.run(inputs, self._student.evaluate), expected)
        self._error, beta = loss.detach(), _beta(step / self._recipe.steps)
        if beta is not None:
            loss = loss + self._recipe.rounding_weight * undecided(self.rounded, beta)
        self._optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss, inputs=self._trained)
        self._optimizer.step()
        with torch.no_grad():
            for scale in self._scales:
                scale.clamp_(min=SMALLEST_SCALE)

    def finite_error(self, step: int) -> float:
        """The error E at step number `step`, the last one taken.

        Raises DivergedError where it, or what is learned, no longer is finite, or E is about that of zeros or worse,
        and far above where it began.
        """
        error = float(self._error)
        self._first_error = error if self._first_error is None else self._first_error
        whole = all(bool(parameter.isfinite().all()) for parameter in self._trained)
        if whole and math.isfinite(error) and error <= max(_DIVERGED * self._first_error, _WORTHLESS):
            return error
        what, name = f"is {error:.3g} at step {step + 1}, where it began at {self._first_error:.3g}", self._block.name
        if not whole and math.isfinite(error):
            what = f"is {error:.3g}, and roundings or scales are not finite after step {step + 1}"
        raise DivergedError(
            f"Reconstruction diverged: the error of the block that ends with {name} {what}; use a lower learning_rate "
            "or scale_rate under [reconstruction] in the recipe, more bits, or no reconstruction."
        )

    def commit(self) -> None:
        """Rounds the block's weights for good."""
        for layer in self._layers:
            commit(layer)

    def _draw(self, generator: torch.Generator) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The tensors that the block reads in one step, mixed of both networks, and those it is to give."""
        tensors = self._tensors
        count = len(tensors.student_inputs[self._block.inputs[0]])
        index = torch.randint(count, (self._recipe.batch,), generator=generator)
        inputs = {}
        for name in self._block.inputs:
            from_student, from_teacher = tensors.student_inputs[name][index], tensors.teacher_inputs[name][index]
            dropped = torch.rand(from_student.shape, generator=generator) < self._recipe.drop
            inputs[name] = moved(torch.where(dropped, from_teacher, from_student), self._device)
        return inputs, {name: moved(tensor[index], self._device) for name, tensor in tensors.expected.items()}


def _quantizers(student: FakeQuantNetwork, block: Block) -> list[ActivationQuantizer]:
    """The quantizers that the block is the first to use: a later block does not move those of an earlier one."""
    own = {node.name for node in block.nodes}
    found = [student.quantizer(name) for name in student.placement.quantized() if name in own]
    return [quantizer for quantizer in found if quantizer is not None]


def _optimizer(
    rounded: list[SoftWeightQuantizer], scales: list[nn.Parameter], recipe: ReconstructionRecipe
) -> torch.optim.Optimizer:
    groups = [{"params": [soft.v for soft in rounded], "lr": recipe.learning_rate}]
    groups += [{"params": [scale], "lr": recipe.scale_rate * float(scale.detach())} for scale in scales]
    return torch.optim.Adam(groups)


def _beta(progress: float) -> float | None:
    """The exponent beta at `progress` (0 to 1) through a block's steps; None while it does not count."""
    if progress < _FREE:
        return None
    left = (1 - progress) / (1 - _FREE)
    return _LAST_BETA + (_FIRST_BETA - _LAST_BETA) * left
