"""Making one batch of images: forward, named losses, step."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from intraq_deploy import seeds
from intraq_deploy.errors import DivergedError
from intraq_deploy.synthesis import objectives
from intraq_deploy.synthesis.batches import Centres, draw_labels
from intraq_deploy.synthesis.probe import Probe, Reading
from intraq_deploy.synthesis.recipe import SynthesisRecipe
from intraq_deploy.synthesis.reinforcement import random_crops
from intraq_deploy.synthesis.synthetic_set import SyntheticSet

_PLATEAU_PATIENCE, _PLATEAU_FACTOR, _PLATEAU_THRESHOLD, _LEAST_RATE = 50, 0.1, 1e-4, 1e-4
_REPORT_EVERY = 10

Report = Callable[[int, float], None]
"""Iterations done and the loss, now and then: reading the loss waits for the device."""


def synthesize_batch(
    probe: Probe,
    input_shape: tuple[int, int, int],
    recipe: SynthesisRecipe,
    centres: Centres | None,
    classes: int,
    batch: int,
    seed: int,
    report: Report | None = None,
) -> SyntheticSet:
    """Batch number `batch`. centres: of earlier batches; None where the network has no features to compare.

    Raises DivergedError, with the iteration and the term, when a loss is no longer finite.
    """
    device = probe.device
    labels = draw_labels(recipe, classes, batch, seed)
    targets = _draw_targets(len(labels), recipe.softest_target, seeds.generator(seed, "targets", batch))
    start = torch.randn(len(labels), *input_shape, generator=seeds.generator(seed, "images", batch))
    images = start.to(device).to(memory_format=torch.channels_last).requires_grad_()
    terms = _Terms(probe, recipe, centres, labels.to(device), targets.to(device))
    rate = _Rate(recipe, device)
    optimizer = torch.optim.Adam([images], lr=rate.value, betas=(0.9, 0.999), capturable=device.type == "cuda")
    crops = seeds.generator(seed, "crops", batch)
    for iteration in range(recipe.iterations):
        seen = images
        if float(torch.rand((), generator=crops)) < recipe.crop_probability:
            seen = random_crops(images, recipe.smallest_crop, crops)
        losses = terms(probe.read(seen))
        loss = torch.stack(list(losses.values())).sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        rate.step(iteration, loss.detach())
        if (iteration + 1) % _REPORT_EVERY == 0 or iteration + 1 == recipe.iterations:
            value = _finite(losses, iteration + 1)
            if report is not None:
                report(iteration + 1, value)
    return SyntheticSet(images.detach().contiguous().cpu(), labels, targets)


def _draw_targets(count: int, softest: float, generator: torch.Generator) -> Tensor:
    """t ~ U(softest, 1) for a random half, 1 for the rest: float32 [N]."""
    soft = torch.randperm(count, generator=generator)[: count // 2]
    targets = torch.ones(count)
    targets[soft] = softest + (1 - softest) * torch.rand(len(soft), generator=generator)
    return targets


class _Terms:
    """The named losses of one batch."""

    def __init__(
        self, probe: Probe, recipe: SynthesisRecipe, centres: Centres | None, labels: Tensor, targets: Tensor
    ) -> None:
        self._probe, self._recipe, self._labels, self._targets = probe, recipe, labels, targets
        self._centres = None
        if centres is not None and bool(centres.counts.any()):
            means, known = centres.means()
            self._centres = means.to(labels.device), known.to(labels.device)

    def __call__(self, reading: Reading) -> dict[str, Tensor]:
        losses = {
            "mean": objectives.statistics_distance(reading.means, self._probe.stored_means),
            "variance": objectives.statistics_distance(reading.variances, self._probe.stored_variances),
            "soft inception": objectives.soft_inception(reading.logits, self._labels, self._targets),
        }
        if self._centres is not None and reading.features is not None:
            losses["lower"], losses["upper"] = objectives.marginal_distance(
                reading.features, *self._centres, self._labels, self._recipe.lower, self._recipe.upper
            )
        return losses


class _Rate:
    """The learning rate, a tensor on the device so that following the loss never waits for it."""

    def __init__(self, recipe: SynthesisRecipe, device: torch.device) -> None:
        self._recipe = recipe
        self.value = torch.tensor(recipe.learning_rate, device=device)
        self._best = torch.tensor(math.inf, device=device)
        self._waited = torch.tensor(0, device=device)

    def step(self, iteration: int, loss: Tensor) -> None:
        """After `iteration` (counted from 0) with this loss."""
        if self._recipe.schedule == "cosine":
            progress = (iteration + 1) / self._recipe.iterations
            self.value.fill_(self._recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * progress)))
            return
        better = loss < self._best * (1 - _PLATEAU_THRESHOLD)
        self._best = torch.where(better, loss, self._best)
        self._waited = torch.where(better, torch.zeros_like(self._waited), self._waited + 1)
        lower = self._waited > _PLATEAU_PATIENCE
        self.value.copy_(torch.where(lower, (self.value * _PLATEAU_FACTOR).clamp(min=_LEAST_RATE), self.value))
        self._waited = torch.where(lower, torch.zeros_like(self._waited), self._waited)


def _finite(losses: dict[str, Tensor], iteration: int) -> float:
    """The sum of the losses."""
    values = {name: float(loss.detach()) for name, loss in losses.items()}
    for name, value in values.items():
        if not math.isfinite(value):
            raise DivergedError(
                f"Synthesis diverged: the term {name!r} is {value} at iteration {iteration}; "
                "check that mean, std and input size are the network's own, or use another --seed."
            )
    return sum(values.values())
