"""Making one batch of images: forward, named losses, step."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from intraq_deploy import seeds
from intraq_deploy.errors import DivergedError
from intraq_deploy.models.model import Model
from intraq_deploy.synthesis import objectives
from intraq_deploy.synthesis.batches import Centres, draw_labels
from intraq_deploy.synthesis.leaves import dead_leaves
from intraq_deploy.synthesis.low_pass import LowPass
from intraq_deploy.synthesis.probe import Probe, Reading
from intraq_deploy.synthesis.recipe import SynthesisRecipe
from intraq_deploy.synthesis.reinforcement import random_crops
from intraq_deploy.synthesis.relative_statistics import RelativeStatistics
from intraq_deploy.synthesis.swing import Swing
from intraq_deploy.synthesis.synthetic_set import SyntheticSet

_PLATEAU_PATIENCE, _PLATEAU_FACTOR, _PLATEAU_THRESHOLD, _LEAST_RATE = 50, 0.1, 1e-4, 1e-4
_REPORT_EVERY = 10
_DIVERGED, _LEAST_FIRST = 100.0, 1.0
"""The greatest loss, in multiples of the first iteration's, and the least that this one counts as: images may start
where there is little to gain."""

BatchReport = Callable[[int, float], None]
"""A function that is told the iterations done and the loss, now and then: reading the loss waits for the device."""


@dataclass(frozen=True, slots=True)
class SetInputs:
    """The inputs that all batches of one set share."""

    model: Model
    probe: Probe
    """The probe that reads a copy of the model's network, on the device where images are made."""
    recipe: SynthesisRecipe
    seed: int


def synthesize_batch(
    inputs: SetInputs, batch: int, centres: Centres | None, report: BatchReport | None = None
) -> SyntheticSet:
    """Makes batch number `batch` of a set. centres: of earlier batches; None where the network has no features.

    Raises DivergedError, with the iteration and the term, when a loss is no longer finite or grows without bound.
    """
    model, probe, recipe, seed = inputs.model, inputs.probe, inputs.recipe, inputs.seed
    device = probe.device
    labels = draw_labels(recipe, model.classes, batch, seed)
    targets = _draw_targets(len(labels), recipe.softest_target, seeds.generator(seed, "targets", batch))
    start = _start(model, recipe, len(labels), seeds.generator(seed, "images", batch))
    images = start.to(device).to(memory_format=torch.channels_last).requires_grad_()
    low_pass = LowPass(*model.input_shape[1:], recipe.low_pass, device) if recipe.low_pass else None
    swing = Swing(seeds.generator(seed, "swing", batch)) if recipe.swing else None
    precision = torch.bfloat16 if recipe.precision == "bfloat16" else torch.float32
    terms = _Terms(probe, recipe, centres, labels.to(device), targets.to(device))
    rate = _Rate(recipe, device)
    optimizer = torch.optim.Adam([images], lr=rate.value, betas=(0.9, 0.999), capturable=device.type == "cuda")
    crops = seeds.generator(seed, "crops", batch)
    first = torch.zeros(())
    limits = [bound.to(device) for bound in pixel_bounds(model)] if recipe.bounded else None
    for iteration in range(recipe.iterations):
        seen = images if low_pass is None else low_pass(images)
        if float(torch.rand((), generator=crops)) < recipe.crop_probability:
            seen = random_crops(seen, recipe.smallest_crop, crops)
        losses = terms(probe.read(seen, precision, swing))
        loss = torch.stack(list(losses.values())).sum()
        first = loss.detach() if iteration == 0 else first
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if limits is not None:
            with torch.no_grad():
                images.clamp_(*limits)
        rate.step(iteration, loss.detach())
        if (iteration + 1) % _REPORT_EVERY == 0 or iteration + 1 == recipe.iterations:
            value = _finite(losses, float(first), iteration + 1)
            if report is not None:
                report(iteration + 1, value)
    finished = images.detach() if low_pass is None or not recipe.iterations else low_pass(images.detach())
    if limits is not None:  # the filter can overshoot
        finished = finished.clamp(*limits)
    if not bool(finished.isfinite().all()):
        raise DivergedError(
            f"Synthesis diverged: batch {batch + 1} has pixels that are not finite after {recipe.iterations} "
            "iterations; use a lower learning_rate in the recipe, or another --seed."
        )
    return SyntheticSet(finished.contiguous().cpu(), labels, targets)


def _start(model: Model, recipe: SynthesisRecipe, count: int, generator: torch.Generator) -> Tensor:
    """Draws the images that a batch starts from, float32 [count, C, H, W], as the network reads them."""
    if recipe.start == "noise":
        return torch.randn(count, *model.input_shape, generator=generator)
    black, white = pixel_bounds(model)
    return black + (white - black) * dead_leaves(count, *model.input_shape, generator)


def pixel_bounds(model: Model) -> tuple[Tensor, Tensor]:
    """Black and white as the network sees them, normalised: float32 [C, 1, 1] each."""
    mean, std = (torch.tensor(v).reshape(-1, 1, 1) for v in (model.preprocessing.mean, model.preprocessing.std))
    return -mean / std, (1 - mean) / std


def _draw_targets(count: int, softest: float, generator: torch.Generator) -> Tensor:
    """Targets t ~ U(softest, 1) for a random half of the images, 1 for the rest: float32 [N]."""
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
        self._relative = None
        if recipe.statistics == "relative":
            self._relative = RelativeStatistics(probe.stored_means, probe.stored_variances, probe.widths)
        self._shares = objectives.channel_shares(probe.widths, recipe.shallow_weight).to(probe.device)
        self._centres = None
        if recipe.marginal_distance and centres is not None and bool(centres.counts.any()):
            means, known = centres.means()
            self._centres = means.to(labels.device), known.to(labels.device)

    def __call__(self, reading: Reading) -> dict[str, Tensor]:
        recipe = self._recipe
        losses = self._statistics(reading)
        if recipe.soft_inception:
            inception = objectives.soft_inception(reading.logits, self._labels, self._targets)
            losses["soft inception"] = recipe.soft_inception * inception
        if self._centres is not None and reading.features is not None:
            lower, upper = objectives.marginal_distance(
                reading.features, *self._centres, self._labels, recipe.lower, recipe.upper
            )
            losses["lower"], losses["upper"] = recipe.marginal_distance * lower, recipe.marginal_distance * upper
        return losses

    def _statistics(self, reading: Reading) -> dict[str, Tensor]:
        recipe, probe, relative = self._recipe, self._probe, self._relative
        if relative is None:
            means, stored_means = reading.means, probe.stored_means
            spreads, stored_spreads = reading.variances, probe.stored_variances
        else:
            means, stored_means = relative.means(reading.means), relative.stored_means
            spreads, stored_spreads = relative.deviations(reading.variances), relative.stored_deviations
        mean = objectives.statistics_distance(means, stored_means, self._shares)
        spread = objectives.statistics_distance(spreads, stored_spreads, self._shares)
        return {"mean": recipe.statistics_weight * mean, "variance": recipe.statistics_weight * spread}


class _Rate:
    """The learning rate, a tensor on the device so that following the loss never waits for it."""

    def __init__(self, recipe: SynthesisRecipe, device: torch.device) -> None:
        self._recipe = recipe
        self.value = torch.tensor(recipe.learning_rate, device=device)
        self._best = torch.tensor(math.inf, device=device)
        self._waited = torch.tensor(0, device=device)

    def step(self, iteration: int, loss: Tensor) -> None:
        """Sets the rate after `iteration` (counted from 0) with this loss."""
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


def _finite(losses: dict[str, Tensor], first: float, iteration: int) -> float:
    """The sum of the losses. first: what it was in the first iteration."""
    values = {name: float(loss.detach()) for name, loss in losses.items()}
    loss = sum(values.values())
    if math.isfinite(loss) and loss <= _DIVERGED * max(first, _LEAST_FIRST):
        return loss
    worst = max(values, key=lambda name: values[name] if math.isfinite(values[name]) else math.inf)
    raise DivergedError(
        f"Synthesis diverged: the term {worst!r} is {values[worst]:.3g} at iteration {iteration}, where the loss began "
        f"at {first:.3g}; use a lower learning_rate or lower weights under [synthesis] in the recipe, check that mean, "
        "std and input size are the network's own, or use another --seed."
    )
