"""The value that synthesis makes, and that a person's own images can stand in for."""

import base64
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from intraq_deploy.errors import DataError
from intraq_deploy.files import write_atomically
from intraq_deploy.synthesis.contact_sheet import contact_sheet

_SHOWN = 64


@dataclass(frozen=True, slots=True)
class SyntheticSet:
    """Images that a network is quantized with: made from it, or a person's own with its pseudo-labels
    (`calibration_images`)."""

    images: Tensor
    """The images, float32 [N, C, H, W], normalised with the model's mean and std; not clamped."""
    labels: Tensor
    """The class that each image was made for, int64 [N]; of a person's own images the network's pseudo-label."""
    targets: Tensor
    """The probability of its class that each image was made for, or that the network gives: float32 [N]."""

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        size = "x".join(map(str, self.images.shape[1:]))
        return f"SyntheticSet({len(self)} images of {size}, {len(self.labels.unique())} classes)"

    def _repr_html_(self) -> str:
        """The first images of the first classes, for notebooks: a set does not know its mean and std, so the values
        between its percentiles 1 and 99 are shown."""
        some = self.images[:_SHOWN].transpose(0, 1).flatten(1).float()
        low, high = (some.kthvalue(max(1, round(share * some.shape[1])), dim=1).values for share in (0.01, 0.99))
        std = 1 / (high - low).clamp(min=1e-6)
        sheet = contact_sheet(self.images, self.labels, tuple((-low * std).tolist()), tuple(std.tolist()))
        png = base64.b64encode(sheet).decode()
        return f'<p>{self!r}</p><img alt="some of the images" src="data:image/png;base64,{png}">'

    def save(self, path: Path) -> None:
        """Writes the set as a safetensors file that is whole or not there."""
        tensors = {"images": self.images, "labels": self.labels, "targets": self.targets}
        write_atomically(path, save({name: tensor.contiguous() for name, tensor in tensors.items()}))

    @staticmethod
    def load(path: Path) -> "SyntheticSet":
        """Reads a set that `save` wrote. Raises DataError for a missing or damaged file."""
        try:
            tensors = load_file(path)
            return SyntheticSet(tensors["images"], tensors["labels"], tensors["targets"])
        except (OSError, SafetensorError, KeyError) as error:
            raise DataError(f"{path} holds no images to quantize with ({error}): make them again.") from error

    @staticmethod
    def concatenate(parts: "list[SyntheticSet]") -> "SyntheticSet":
        """Makes one set of all parts, in their order."""
        return SyntheticSet(
            torch.cat([part.images for part in parts]),
            torch.cat([part.labels for part in parts]),
            torch.cat([part.targets for part in parts]),
        )
