"""Labelled images, which only ever measure: they never synthesize, calibrate or choose anything."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from intraq_deploy.models.model import Preprocessing


class ImageSource(Protocol):
    """Images by position, read when they are asked for."""

    def read(self, index: int) -> NDArray[np.uint8]:
        """Returns one image, uint8 [H, W, C], at the network's size. Raises DataError for an unreadable one."""


@dataclass(frozen=True, slots=True)
class LabelledImages:
    """Images and their class indices.

    Iterate with `batches` for a float network, with `uint8_batches` for one whose input is uint8.
    """

    name: str
    """The path or name that was given, for messages."""
    labels: Tensor
    """The class of each image, int64 [N], from 0 to classes - 1."""
    images: ImageSource
    preprocessing: Preprocessing
    sorted_labels: Tensor | None = None
    """The class of each image if numbered folders counted by the order of their names as text, as torchvision's
    ImageFolder takes them: int64 [N]; None where that is no other class, or folders are not numbered."""
    empty: tuple[str, ...] = ()
    """The class folders without an image of a known format."""

    def __len__(self) -> int:
        return len(self.labels)

    def first(self, count: int) -> "LabelledImages":
        """The first `count` images, or all if there are fewer."""
        others = None if self.sorted_labels is None else self.sorted_labels[:count]
        return replace(self, labels=self.labels[:count], sorted_labels=others)

    def uint8_batches(self, batch_size: int = 100) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields pixels, uint8 [n, C, H, W], at the network's size, and their labels, int64 [n].

        n is `batch_size`, or less at the end. Raises DataError for an unreadable image.
        """
        for start in range(0, len(self), batch_size):
            labels = self.labels[start : start + batch_size]
            pixels = np.stack([self.images.read(start + offset) for offset in range(len(labels))])
            yield torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), labels

    def batches(self, batch_size: int = 100) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields images, float32 [n, C, H, W], normalised with the model's mean and std, and their labels, int64 [n].

        n is `batch_size`, or less at the end. Raises DataError for an unreadable image.
        """
        for pixels, labels in self.uint8_batches(batch_size):
            yield normalise(pixels, self.preprocessing), labels


def normalise(pixels: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Normalises pixels, uint8 [N, C, H, W], per channel: (x / 255 - mean) / std, float32 [N, C, H, W]."""
    mean, std = (
        torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1)
        for values in (preprocessing.mean, preprocessing.std)
    )
    return pixels.to(torch.float32).div_(255).sub_(mean).div_(std)
