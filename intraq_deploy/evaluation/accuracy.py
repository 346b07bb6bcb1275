"""Top-1 and top-5 on labelled images. They measure; they never quantize, calibrate or select."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

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
    right: Tensor = field(compare=False, repr=False)
    """Whether the first answer is the label, bool [images]."""


def evaluate(predict: Predict, batches: Iterable[tuple[Tensor, Tensor]]) -> Accuracy:
    """Accuracy of `predict` over batches of (images, labels int64 [N])."""
    right: list[Tensor] = []
    among_five = 0
    with torch.no_grad():
        for batch, labels in batches:
            logits = predict(batch).cpu()
            top = logits.topk(min(5, logits.shape[1]), dim=1).indices
            hits = top == labels[:, None]
            right.append(hits[:, 0])
            among_five += int(hits.any(1).sum())
    first = torch.cat(right)
    return Accuracy(len(first), 100 * int(first.sum()) / len(first), 100 * among_five / len(first), first)
