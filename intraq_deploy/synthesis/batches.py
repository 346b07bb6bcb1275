"""The batches of a set: their sizes, their labels, and what later batches know of earlier ones."""

from dataclasses import dataclass

import torch
from torch import Tensor

from intraq_deploy import seeds
from intraq_deploy.synthesis.recipe import SynthesisRecipe


@dataclass(slots=True)
class Centres:
    """Running sums of phi over finished images, by class."""

    sums: Tensor
    """The sum of features of each class, float32 [K, D]."""
    counts: Tensor
    """The number of images of each class, int64 [K]."""

    @staticmethod
    def empty(classes: int, features: int) -> "Centres":
        return Centres(torch.zeros(classes, features), torch.zeros(classes, dtype=torch.int64))

    def add(self, features: Tensor, labels: Tensor) -> None:
        """Counts finished, un-augmented images in. features: float32 [N, D]; labels: int64 [N]."""
        self.sums.index_add_(0, labels.cpu(), features.detach().cpu())
        self.counts += torch.bincount(labels.cpu(), minlength=len(self.counts))

    def means(self) -> tuple[Tensor, Tensor]:
        """The centres, float32 [K, D], and which classes have one, bool [K]."""
        return self.sums / self.counts.clamp(min=1)[:, None], self.counts > 0


def batch_sizes(recipe: SynthesisRecipe) -> list[int]:
    """How many images each batch has: as equal as possible, at most recipe.batch."""
    batches = -(-recipe.images // recipe.batch)
    return [recipe.images // batches + (index < recipe.images % batches) for index in range(batches)]


def draw_labels(recipe: SynthesisRecipe, classes: int, batch: int, seed: int) -> Tensor:
    """The labels of one batch, int64 [N]."""
    sizes = batch_sizes(recipe)
    generator = seeds.generator(seed, "labels", batch)
    if recipe.labels == "uniform":
        return torch.randint(classes, (sizes[batch],), generator=generator)
    # One deck of classes for the whole set, cut into batches, each shuffled.
    deck = (torch.arange(sizes[batch]) + sum(sizes[:batch])) % classes
    order = torch.randperm(classes, generator=seeds.generator(seed, "classes"))
    return order[deck][torch.randperm(sizes[batch], generator=generator)]
