"""Making a whole set of images, batch after batch, or several batches side by side.

A batch knows the class centres of the batches before it (`objectives.marginal_distance`), so it waits for those that
have one of its classes. Others are made side by side where there are several processes, and come out the same.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from intraq_deploy.errors import IntraqError
from intraq_deploy.models.model import Model
from intraq_deploy.synthesis.batches import Centres, batch_sizes, draw_labels
from intraq_deploy.synthesis.loop import SetInputs, synthesize_batch
from intraq_deploy.synthesis.probe import Probe
from intraq_deploy.synthesis.recipe import SynthesisRecipe
from intraq_deploy.synthesis.synthetic_set import SyntheticSet
from intraq_deploy.team import ALONE, Team

Finished = Callable[[int, SyntheticSet], None]
"""A function that is told of every new batch, by number."""
SetReport = Callable[[list[int], int, float], None]
"""A function that is told the batches that are being made, the iterations done in them, and the loss of the first."""

_AT_ONCE = 128
"""The number of images whose features are read at a time."""


def probe_of(model: Model, device: torch.device) -> Probe:
    """Makes the probe that reads a copy of the network on `device`."""
    return Probe(model.module_on(device), model.input_shape)


def make_images(
    model: Model,
    probe: Probe,
    recipe: SynthesisRecipe,
    seed: int,
    *,
    done: Mapping[int, SyntheticSet] | None = None,
    finished: Finished | None = None,
    report: SetReport | None = None,
    team: Team = ALONE,
) -> SyntheticSet:
    """Makes the set that `recipe` and `seed` describe. done: batches of an interrupted run, by number.

    team: who makes it; all processes of it call this alike, and return the same. Raises DivergedError when a loss is no
    longer finite.
    """
    inputs = SetInputs(model, probe, recipe, seed)
    parts = dict(done or {})
    needed = _needed(recipe, model.classes, seed)
    phi: dict[int, Tensor] = {}
    while len(parts) < len(needed):
        wave = [b for b in range(len(needed)) if b not in parts and needed[b] <= parts.keys()][: team.size]
        made: SyntheticSet | IntraqError | None = None
        if team.rank < len(wave):
            batch = wave[team.rank]

            def on_iteration(iteration: int, loss: float, wave: list[int] = wave) -> None:
                if report is not None:
                    report(wave, iteration, loss)

            try:
                centres = _centres(probe, model.classes, {b: parts[b] for b in sorted(needed[batch])}, phi)
                made = synthesize_batch(inputs, batch, centres, on_iteration)
            except IntraqError as error:
                if team.size == 1:
                    raise
                made = error  # the others learn of it, and all of them stop
        for batch, part in zip(wave, team.gather(made), strict=False):
            if isinstance(part, IntraqError):
                raise part
            if finished is not None:
                finished(batch, part)
            parts[batch] = part
    return SyntheticSet.concatenate([parts[batch] for batch in range(len(needed))])


def _needed(recipe: SynthesisRecipe, classes: int, seed: int) -> list[set[int]]:
    """The batches, for each batch, whose class centres it reads: those before it that have one of its classes."""
    count = len(batch_sizes(recipe))
    if not recipe.marginal_distance:
        return [set() for _ in range(count)]
    labels = [set(draw_labels(recipe, classes, batch, seed).tolist()) for batch in range(count)]
    return [{b for b in range(batch) if labels[b] & labels[batch]} for batch in range(count)]


def _centres(probe: Probe, classes: int, parts: Mapping[int, SyntheticSet], phi: dict[int, Tensor]) -> Centres | None:
    """The class centres of finished batches; None without a batch, or where the network has no features.

    phi: the features of batches so far, float32 [N, D] by number, to which those of others are added.
    """
    centres: Centres | None = None
    for batch, part in parts.items():
        if batch not in phi:
            features = _features(probe, part)
            if features is None:
                return None
            phi[batch] = features
        centres = centres or Centres.empty(classes, phi[batch].shape[1])
        for found, labels in zip(phi[batch].split(_AT_ONCE), part.labels.split(_AT_ONCE), strict=True):
            centres.add(found, labels)
    return centres


def _features(probe: Probe, part: SyntheticSet) -> Tensor | None:
    """The features of finished, un-augmented images, float32 [N, D] on the CPU; None where the network has none."""
    found = []
    with torch.no_grad():
        for images in part.images.split(_AT_ONCE):
            features = probe.read(images.to(probe.device)).features
            if features is None:
                return None
            found.append(features.cpu())
    return torch.cat(found)
