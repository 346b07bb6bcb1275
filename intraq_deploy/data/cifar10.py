"""The built-in sample: the first 1,000 images of the CIFAR-10 test set, for measuring without a download.

Kept as one lossless WebP sheet of 32x32 tiles, 100 per row, and one label per line; CIFAR10_ATTRIBUTION.txt
says whose they are.
"""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from intraq_deploy.data.arrays import ArrayImages
from intraq_deploy.data.labelled import LabelledImages
from intraq_deploy.errors import DataError
from intraq_deploy.models.builtin.networks import CIFAR10_CLASSES
from intraq_deploy.models.model import Model

SHEET = Path(__file__).with_name("cifar10_sample.webp")
LABELS = Path(__file__).with_name("cifar10_sample_labels.txt")
TILE = 32


def load_cifar10_sample(name: str, model: Model) -> LabelledImages:
    """Loads the built-in sample for a model with CIFAR-10's classes.

    Raises DataError if the model does not read colour images or has not 10 classes.
    """
    if model.channels != 3 or model.classes != len(CIFAR10_CLASSES):
        raise DataError(
            f"{name} has colour images of {len(CIFAR10_CLASSES)} classes, and the network reads "
            f"{model.channels} channels and has {model.classes} classes; give images of your own."
        )
    images, labels = read_cifar10_sample()
    if model.class_names is not None and set(model.class_names) == set(CIFAR10_CLASSES):
        order = [model.class_names.index(class_name) for class_name in CIFAR10_CLASSES]
        labels = np.array(order, dtype=np.int64)[labels]
    return LabelledImages(name, torch.from_numpy(labels), ArrayImages(images, model.preprocessing), model.preprocessing)


def read_cifar10_sample() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Reads the sample: images, uint8 [1000, 32, 32, 3] in the official order, and labels, int64 [1000]."""
    with Image.open(SHEET) as file:
        sheet = np.array(file.convert("RGB"))
    labels = np.loadtxt(LABELS, dtype=np.int64)
    rows, columns = sheet.shape[0] // TILE, sheet.shape[1] // TILE
    tiles = sheet.reshape(rows, TILE, columns, TILE, 3).transpose(0, 2, 1, 3, 4)
    return np.ascontiguousarray(tiles.reshape(-1, TILE, TILE, 3)), labels
