"""Top-1 and top-5 on labelled images. They measure; they never quantize, calibrate or select."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

Predict = Callable[[Tensor], Tensor]
"""Images to logits [N, classes]."""


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Over `images` labelled images."""

    images: int
    top1: float
    """Percent."""
    top5: float
    """Percent; 100 for networks of at most five classes."""


def evaluate(predict: Predict, batches: Iterable[tuple[Tensor, Tensor]]) -> Accuracy:
    """Accuracy of `predict` over batches of (images, labels int64 [N])."""
    images = first = among_five = 0
    with torch.no_grad():
        for batch, labels in batches:
            logits = predict(batch).cpu()
            top = logits.topk(min(5, logits.shape[1]), dim=1).indices
            hits = top == labels[:, None]
            images += len(labels)
            first += int(hits[:, 0].sum())
            among_five += int(hits.any(1).sum())
    return Accuracy(images, 100 * first / images, 100 * among_five / images)
