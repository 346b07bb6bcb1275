"""Fine-tuning: the student learns from the teacher on synthetic images. Batch norms keep their statistics."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from intraq_deploy import seeds
from intraq_deploy.errors import DivergedError
from intraq_deploy.quantization.network import FakeQuantNetwork
from intraq_deploy.quantization.quantizer import SMALLEST_SCALE
from intraq_deploy.synthesis.reinforcement import random_crops
from intraq_deploy.synthesis.synthetic_set import SyntheticSet
from intraq_deploy.team import ALONE, Team
from intraq_deploy.training import losses
from intraq_deploy.training.averaging import MovingAverage
from intraq_deploy.training.blocks import block_outputs
from intraq_deploy.training.optimizer import is_scale, make_optimizer, schedule
from intraq_deploy.training.oscillations import OscillationFreezer
from intraq_deploy.training.recipe import TrainingRecipe
from intraq_deploy.training.teacher import Teacher

StepReport = Callable[[int, float], None]
"""A function that is told the steps done and the loss."""
DISTILLATION, CENTRED_LOGITS, FEATURES, CROSS_ENTROPY = "distillation", "centred logits", "features", "cross-entropy"
"""The names of losses."""
_REPORT_EVERY = 10
_DIVERGED = 100.0
"""The greatest loss, in multiples of the first step's."""


@dataclass(slots=True)
class TrainingState:
    """The state that a checkpoint holds besides the student: the steps done, the optimiser's state, and that of the
    averages and frozen weights, by "average:NAME" and "oscillations:NAME"."""

    step: int
    optimizer: dict[str, Any]
    first_loss: float | None
    beside: dict[str, Tensor]


class Trainer:
    """One fine-tuning. Every step draws its images from its own seed, so a resumed training takes the same steps."""

    def __init__(
        self,
        student: FakeQuantNetwork,
        teacher: Teacher,
        images: SyntheticSet,
        recipe: TrainingRecipe,
        seed: int,
        device: torch.device,
        team: Team = ALONE,
    ) -> None:
        """team: who trains it. All processes of it make and run the same trainer, and end with the same student."""
        self.step = 0
        # Weights lie as their gradients do, or each pass over both would go against the order of one of them.
        self.student = student.to(device).to(memory_format=torch.channels_last)
        self._teacher, self._recipe, self._seed, self._device = teacher, recipe, seed, device
        self._team, self._images, self._labels = team, images.images, images.labels
        self._trained = [p for p in student.parameters() if p.requires_grad]
        self._scales = [p for name, p in student.named_parameters() if is_scale(name) and p.requires_grad]
        self._blocks = block_outputs(student.graph) if recipe.features else []
        self._average = MovingAverage(student, recipe.average) if recipe.average else None
        self._freezer = OscillationFreezer(student, recipe.freeze_oscillations) if recipe.freeze_oscillations else None
        weights = {
            DISTILLATION: recipe.distillation,
            CENTRED_LOGITS: recipe.centred_logits,
            FEATURES: recipe.features,
            CROSS_ENTROPY: recipe.cross_entropy,
        }
        self._weights = {name: weight for name, weight in weights.items() if weight}
        self._first_loss: float | None = None
        self._low = recipe.precision == "bfloat16"
        for node in student.graph.layers():
            student.layer(node.name).low_gradients = self._low
        self.optimizer = make_optimizer(student, recipe)

    def restore(self, state: TrainingState) -> None:
        """Continues from a checkpoint; the student is restored by the caller."""
        self.step, self._first_loss = state.step, state.first_loss
        self.optimizer.load_state_dict(state.optimizer)
        for parameter, kept in self.optimizer.state.items():
            for name, value in kept.items():
                if value.shape == parameter.shape:
                    kept[name] = _laid_out(value, parameter)
        for name, part in self._beside().items():
            part.restore({key.removeprefix(name): value for key, value in state.beside.items() if key.startswith(name)})

    def state(self) -> TrainingState:
        """The state of the training, for a checkpoint."""
        beside = {f"{name}{key}": value for name, part in self._beside().items() for key, value in part.state().items()}
        return TrainingState(self.step, self.optimizer.state_dict(), self._first_loss, beside)

    def _beside(self) -> dict[str, MovingAverage | OscillationFreezer]:
        parts = {"average:": self._average, "oscillations:": self._freezer}
        return {name: part for name, part in parts.items() if part is not None}

    def run(self, until: int, report: StepReport | None = None) -> None:
        """Trains up to step `until`; with the last step of the recipe the student becomes what is kept.

        Raises DivergedError, with the step and the term, when a loss or a weight is not finite or a loss grows without
        bound; what the last step leaves is looked at too.
        """
        while self.step < until:
            terms = self._take_step()
            self.step += 1
            if self.step == 1 or self.step % _REPORT_EVERY == 0 or self.step == until:
                value = self._finite(terms)
                if report is not None:
                    report(self.step, value)
        if self.step == self._recipe.steps:
            if self._average is not None:
                self._average.keep()
            with torch.no_grad():  # a step's losses are of the weights before it, and none follows this one
                self._finite(self._terms(*self._draw()))
            self.student.to(memory_format=torch.contiguous_format)

    def _finite(self, terms: dict[str, Tensor]) -> float:
        """The summed loss. Raises DivergedError where it or a weight is not finite, or it grew without bound."""
        values = {name: float(term) for name, term in terms.items()}
        loss = sum(values.values())
        self._first_loss = loss if self._first_loss is None else self._first_loss
        whole = all(bool(p.isfinite().all()) for p in self.student.parameters())
        finite = math.isfinite(loss)
        if whole and finite and loss <= _DIVERGED * max(self._first_loss, 1e-3):
            return loss
        worst = max(values, key=lambda name: values[name] if math.isfinite(values[name]) else math.inf)
        term = f"the term {worst!r} is {values[worst]:.3g} at step {self.step}"
        if not math.isfinite(self._first_loss):
            raise DivergedError(
                f"Fine-tuning cannot start: {term}, before anything was learned; use lower weights of the losses under "
                "[training] in the recipe, or look for values that are not finite in the network and the images."
            )
        what = f"{term}, where the loss began at {self._first_loss:.3g}"
        if finite and not whole:
            what = f"weights or scales are not finite after step {self.step}"
        raise DivergedError(
            f"Fine-tuning diverged: {what}; use a lower learning_rate in the recipe, more bits, or another --seed."
        )

    def _take_step(self) -> dict[str, Tensor]:
        images, labels = self._draw()
        terms = self._with_gradients(images, labels)
        factor = schedule(self._recipe, self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = factor * group["base_lr"]
        self.optimizer.step()
        with torch.no_grad():
            for scale in self._scales:
                scale.clamp_(min=SMALLEST_SCALE)
        if self._freezer is not None:
            self._freezer.step()
        if self._average is not None:
            self._average.update(self.step)
        return terms

    def _with_gradients(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Sets the gradients of a step, and returns its losses.

        Where a team trains, both are means over the parts that the step's images are cut into, each a batch of its own.
        """
        cut = list(zip(images.chunk(self._team.parts), labels.chunk(self._team.parts), strict=True))
        own = dict[int, list[Tensor]]()
        for number, (part, theirs) in enumerate(cut):
            if not self._team.owns(number):
                continue
            terms = self._terms(part, theirs)
            losses = torch.stack(list(terms.values())) * (len(part) / len(images))
            found = torch.autograd.grad(losses.sum(), self._trained, allow_unused=True)
            filled = (torch.zeros_like(p) if g is None else g for p, g in zip(self._trained, found, strict=True))
            own[number] = [losses.detach(), *filled]

        def like() -> list[Tensor]:
            return [torch.empty(len(self._weights), device=self._device), *(torch.empty_like(p) for p in self._trained)]

        losses, *gradients = self._team.sum(own, range(len(cut)), like)
        for parameter, gradient in zip(self._trained, gradients, strict=True):
            parameter.grad = _laid_out(gradient, parameter)
        return dict(zip(self._weights, losses, strict=True))

    def _terms(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The named losses, weighted."""
        with torch.no_grad(), torch.autocast(self._device.type, torch.bfloat16, enabled=self._low):
            teacher, expected = self._teacher.features(images, self._blocks)
        teacher, expected = teacher.float(), {name: tensor.float() for name, tensor in expected.items()}
        student, found = self.student.features(images, self._blocks)
        term: dict[str, Callable[[], Tensor]] = {
            DISTILLATION: lambda: losses.distillation(student, teacher, self._recipe.temperature),
            CENTRED_LOGITS: lambda: losses.centred_logits(student, teacher),
            FEATURES: lambda: losses.features(found, expected),
            CROSS_ENTROPY: lambda: losses.cross_entropy(student, labels, teacher, self._recipe.least_confidence),
        }
        return {name: weight * term[name]() for name, weight in self._weights.items()}

    def _draw(self) -> tuple[Tensor, Tensor]:
        """The images and labels of one step."""
        generator = seeds.generator(self._seed, "step", self.step)
        index = torch.randint(len(self._images), (self._recipe.batch,), generator=generator)
        images = self._images[index].to(self._device).to(memory_format=torch.channels_last)
        if self._recipe.smallest_crop < 1:
            images = random_crops(images, self._recipe.smallest_crop, generator)
        if self._recipe.mixup:
            share = torch.rand(len(index), 1, 1, 1, generator=generator).to(self._device)
            partner = torch.randperm(len(index), generator=generator).to(self._device)
            images = share * images + (1 - share) * images[partner]
        return images, self._labels[index].to(self._device)


def _laid_out(value: Tensor, parameter: Tensor) -> Tensor:
    """The value, of the parameter's shape, as this lies in memory, which is what the fused optimiser reads."""
    return value if value.stride() == parameter.stride() else torch.empty_like(parameter).copy_(value)
