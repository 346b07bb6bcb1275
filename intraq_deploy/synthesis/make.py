"""Making a whole set of images, batch after batch."""

from collections.abc import Callable, Sequence

import torch

from intraq_deploy.models.model import Model
from intraq_deploy.synthesis.batches import Centres, batch_sizes
from intraq_deploy.synthesis.loop import SetInputs, synthesize_batch
from intraq_deploy.synthesis.probe import Probe
from intraq_deploy.synthesis.recipe import SynthesisRecipe
from intraq_deploy.synthesis.synthetic_set import SyntheticSet

Finished = Callable[[int, SyntheticSet], None]
"""A function that is told of every new batch, by number."""
SetReport = Callable[[int, int, float], None]
"""A function that is told the batch, the iterations done in it, and the loss."""


def probe_of(model: Model, device: torch.device) -> Probe:
    """Makes the probe that reads a copy of the network on `device`."""
    return Probe(model.module_on(device), model.input_shape)


def make_images(
    model: Model,
    probe: Probe,
    recipe: SynthesisRecipe,
    seed: int,
    *,
    done: Sequence[SyntheticSet] = (),
    finished: Finished | None = None,
    report: SetReport | None = None,
) -> SyntheticSet:
    """Makes the set that `recipe` and `seed` describe. done: its first batches, from an interrupted run.

    Raises DivergedError when a loss is no longer finite.
    """
    inputs = SetInputs(model, probe, recipe, seed)
    centres: Centres | None = None
    parts: list[SyntheticSet] = []
    for batch in range(len(batch_sizes(recipe))):
        if batch < len(done):
            part = done[batch]
        else:

            def on_iteration(iteration: int, loss: float, batch: int = batch) -> None:
                if report is not None:
                    report(batch, iteration, loss)

            part = synthesize_batch(inputs, batch, centres, on_iteration)
            if finished is not None:
                finished(batch, part)
        parts.append(part)
        centres = _with_centres(centres, probe, part, model.classes)
    return SyntheticSet.concatenate(parts)


def _with_centres(centres: Centres | None, probe: Probe, part: SyntheticSet, classes: int) -> Centres | None:
    """The class centres, the finished un-augmented images of `part` counted in."""
    with torch.no_grad():
        for images, labels in zip(part.images.split(128), part.labels.split(128), strict=True):
            features = probe.read(images.to(probe.device)).features
            if features is None:
                return None
            centres = centres or Centres.empty(classes, features.shape[1])
            centres.add(features, labels)
    return centres
