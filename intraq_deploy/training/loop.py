"""Fine-tuning: the student learns the teacher's logits on synthetic images. Batch norms keep their statistics."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from intraq_deploy import seeds
from intraq_deploy.errors import DivergedError
from intraq_deploy.quantization.network import FakeQuantNetwork
from intraq_deploy.quantization.quantizer import SMALLEST_SCALE
from intraq_deploy.synthesis.reinforcement import random_crops
from intraq_deploy.synthesis.synthetic_set import SyntheticSet
from intraq_deploy.training import losses
from intraq_deploy.training.recipe import TrainingRecipe

Report = Callable[[int, float], None]
"""Steps done and the loss."""
_REPORT_EVERY = 10


@dataclass(slots=True)
class Progress:
    """What a checkpoint holds besides the student: how far, and the optimiser's state."""

    step: int
    optimizer: dict[str, Any]


class Trainer:
    """One fine-tuning. Every step draws its images from its own seed, so a resumed training takes the same steps."""

    def __init__(
        self,
        student: FakeQuantNetwork,
        teacher: nn.Module,
        images: SyntheticSet,
        recipe: TrainingRecipe,
        seed: int,
        device: torch.device,
    ) -> None:
        self.step = 0
        self.student = student.to(device)
        self._teacher, self._recipe, self._seed, self._device = teacher, recipe, seed, device
        self._images, self._labels = images.images, images.labels
        self._scales = [p for name, p in student.named_parameters() if _is_scale(name) and p.requires_grad]
        self.optimizer = _optimizer(student, recipe)

    def restore(self, progress: Progress) -> None:
        """Continues from a checkpoint; the student is restored by the caller."""
        self.step = progress.step
        self.optimizer.load_state_dict(progress.optimizer)

    def progress(self) -> Progress:
        """For a checkpoint."""
        return Progress(self.step, self.optimizer.state_dict())

    def run(self, until: int, report: Report | None = None) -> None:
        """Trains up to step `until`. Raises DivergedError when the loss is no longer finite."""
        while self.step < until:
            loss = self._take_step()
            self.step += 1
            if self.step % _REPORT_EVERY == 0 or self.step == until:
                value = float(loss)
                if not math.isfinite(value):
                    raise DivergedError(
                        f"Fine-tuning diverged: the loss is {value} at step {self.step}; use more bits, fewer --steps, "
                        "or another --seed."
                    )
                if report is not None:
                    report(self.step, value)

    def _take_step(self) -> Tensor:
        recipe = self._recipe
        images, labels = self._draw()
        with torch.no_grad():
            teacher = self._teacher(images)
        student = self.student(images)
        loss = recipe.distillation * losses.distillation(student, teacher, recipe.temperature)
        if recipe.centred_logits:
            loss = loss + recipe.centred_logits * losses.centred_logits(student, teacher)
        if recipe.cross_entropy:
            loss = loss + recipe.cross_entropy * losses.cross_entropy(student, labels)
        factor = _schedule(recipe, self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = factor * group["base_lr"]
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        with torch.no_grad():
            for scale in self._scales:
                scale.clamp_(min=SMALLEST_SCALE)
        return loss.detach()

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


def _is_scale(name: str) -> bool:
    return name.endswith("scale")


def _optimizer(student: FakeQuantNetwork, recipe: TrainingRecipe) -> torch.optim.Optimizer:
    """Scales have groups of their own, with rates relative to their size: fine and coarse grids move alike."""
    rate = recipe.learning_rate
    weights = [p for name, p in student.named_parameters() if p.requires_grad and not _is_scale(name)]
    groups: list[dict[str, Any]] = [{"params": weights, "base_lr": rate, "weight_decay": recipe.weight_decay}]
    for name, scale in student.named_parameters():
        if scale.requires_grad and _is_scale(name):
            size = float(scale.detach().abs().mean())
            groups.append({"params": [scale], "base_lr": rate * recipe.scale_rate * size, "weight_decay": 0.0})
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=rate, momentum=0.9, nesterov=True)
    return torch.optim.AdamW(groups, lr=rate)


def _schedule(recipe: TrainingRecipe, step: int) -> float:
    """The factor on every rate."""
    progress = step / recipe.steps
    if recipe.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    return math.prod(0.1 for milestone in recipe.milestones if progress >= milestone)
