"""A person's own images without labels, which stand in for synthetic ones: for networks that nothing can be made from.

They set ranges and train the student, so they must never be among those that measure.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from intraq_deploy import seeds
from intraq_deploy.data.arrays import read_arrays
from intraq_deploy.data.folder import read_folder
from intraq_deploy.data.forms import SUFFIXES, check_unlabelled
from intraq_deploy.data.labelled import ImageSource, normalise
from intraq_deploy.errors import DataError
from intraq_deploy.models.model import Model

LEAST = 2
"""The least number of images: statistics of one image are no statistics."""


@dataclass(frozen=True, slots=True)
class UnlabelledImages:
    """A person's images in memory, as the network takes them."""

    name: str
    """The path that was given, for messages."""
    images: Tensor
    """The images, float32 [N, C, H, W], normalised with the model's mean and std."""
    found: int
    """How many images there were to draw N from."""


def load_unlabelled(path: str | Path, model: Model, count: int, seed: int) -> UnlabelledImages:
    """Read at most `count` images, in the order of their paths; where there are more, `seed` draws which.

    path: a folder, searched through, whatever its folders mean; or an .npz with `images` uint8 [N, H, W, C], whose
        labels are not read.
    Raises DataError if there are fewer than two images, one is unreadable, or they do not fit the model.
    """
    path = Path(path)
    source, found = _source(path, model)
    if found < LEAST:
        known = f" (known are {' '.join(SUFFIXES)})" if path.is_dir() else ""
        raise DataError(
            f"{path} has {found} images{known}, and at least {LEAST} are needed; give images of what the network will "
            "see."
        )

    drawn = list(range(found))
    if found > count:
        order = torch.randperm(found, generator=seeds.generator(seed, "calibration"))
        drawn = sorted(order[:count].tolist())
    pixels = torch.from_numpy(np.stack([source.read(index) for index in drawn])).permute(0, 3, 1, 2).contiguous()
    return UnlabelledImages(str(path), normalise(pixels, model.preprocessing), found)


def _source(path: Path, model: Model) -> tuple[ImageSource, int]:
    """The images, and how many there are."""
    check_unlabelled(path)
    if path.is_dir():
        files = read_folder(path, model)
        return files, len(files.paths)
    arrays = read_arrays(path, model)
    return arrays, len(arrays.images)
