"""Top-1 and top-5 on labelled images. They measure; they never quantize, calibrate or select."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

Predict = Callable[[Tensor], Tensor]
"""A function from images, of any dtype [N, C, H, W], to logits, float32 [N, classes]."""


@dataclass(frozen=True, slots=True)
class Accuracy:
    """The accuracy of one network over `images` labelled images."""

    images: int
    top1: float
    """Percent of the images whose most likely class is the label."""
    top5: float
    """Percent of the images whose label is among the five most likely classes; 100 for networks of at most five."""
    predicted: Tensor = field(compare=False, repr=False)
    """The most likely class of each image, int64 [images]."""
    right: Tensor = field(compare=False, repr=False)
    """Whether that is its label, bool [images]."""
    probability: Tensor = field(compare=False, repr=False)
    """The probability of that class, float32 [images]."""

    @property
    def confidence(self) -> float:
        """The mean probability of the most likely class, in percent."""
        return 100 * float(self.probability.double().mean())


def evaluate(predict: Predict, batches: Iterable[tuple[Tensor, Tensor]]) -> Accuracy:
    """Measures `predict` over batches of images, of the dtype that it takes [N, C, H, W], and labels, int64 [N]."""
    predicted, right, probability = list[Tensor](), list[Tensor](), list[Tensor]()
    among_five = 0
    with torch.no_grad():
        for batch, labels in batches:
            logits = predict(batch).cpu()
            top = logits.topk(min(5, logits.shape[1]), dim=1).indices
            hits = top == labels[:, None]
            predicted.append(top[:, 0])
            right.append(hits[:, 0])
            among_five += int(hits.any(1).sum())
            probability.append(logits.softmax(1).amax(1))
    first = torch.cat(right)
    count = len(first)
    return Accuracy(
        count,
        100 * int(first.sum()) / count,
        100 * among_five / count,
        torch.cat(predicted),
        first,
        torch.cat(probability),
    )
