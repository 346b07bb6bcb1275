"""The value that synthesis makes, and that a person's own images can stand in for."""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from intraq_deploy.errors import DataError
from intraq_deploy.files import write_atomically


@dataclass(frozen=True, slots=True)
class SyntheticSet:
    """Images that a network is quantized with: made from it, or a person's own, answered by it
    (`calibration_images`)."""

    images: Tensor
    """float32 [N, C, H, W], normalised with the model's mean and std; not clamped."""
    labels: Tensor
    """int64 [N]: the class that each image was made for; of a person's own images, the network's answer."""
    targets: Tensor
    """float32 [N]: the probability of that class that it was made for, or that the network gives."""

    def __len__(self) -> int:
        return len(self.images)

    def save(self, path: Path) -> None:
        """As safetensors, written beside and renamed."""
        tensors = {"images": self.images, "labels": self.labels, "targets": self.targets}
        write_atomically(path, save({name: tensor.contiguous() for name, tensor in tensors.items()}))

    @staticmethod
    def load(path: Path) -> "SyntheticSet":
        """Raises DataError for a missing or damaged file."""
        try:
            tensors = load_file(path)
            return SyntheticSet(tensors["images"], tensors["labels"], tensors["targets"])
        except (OSError, SafetensorError, KeyError) as error:
            raise DataError(f"{path} holds no images to quantize with ({error}): make them again.") from error

    @staticmethod
    def concatenate(parts: "list[SyntheticSet]") -> "SyntheticSet":
        """One set of all parts, in order."""
        return SyntheticSet(
            torch.cat([part.images for part in parts]),
            torch.cat([part.labels for part in parts]),
            torch.cat([part.targets for part in parts]),
        )
