"""Images in one .npz file, with or without labels."""

import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from intraq_deploy.data.labelled import LabelledImages
from intraq_deploy.data.resizing import to_network_size
from intraq_deploy.errors import DataError
from intraq_deploy.models.model import Model, Preprocessing
from intraq_deploy.wording import reason

RESIZABLE = (1, 3)
"""Channel counts of images that PIL can resize."""


@dataclass(frozen=True, slots=True)
class ArrayImages:
    """Images in memory: uint8 [N, H, W, C]."""

    images: NDArray[np.uint8]
    preprocessing: Preprocessing

    def read(self, index: int) -> NDArray[np.uint8]:
        """Returns the image at `index`, uint8 [H, W, C], resized and cropped where it has not the network's size."""
        pixels: NDArray[np.uint8] = self.images[index]
        if pixels.shape[:2] == self.preprocessing.input_size:
            return pixels
        return to_network_size(
            Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels), self.preprocessing
        )


def load_npz(path: Path, model: Model) -> LabelledImages:
    """Read `images`, uint8 [N, H, W, C] (or [N, H, W] for one channel), and `labels`, integers [N].

    Raises DataError if either is missing, of another type or shape, or does not fit the model.
    """
    content = _read(path, ("images", "labels"))
    images = _images(path, content["images"], model)
    labels = _labels(path, content["labels"], model.classes)
    if len(images) != len(labels):
        raise DataError(f"{path} has {len(images)} images and {len(labels)} labels; give one label per image.")
    if len(images) == 0:
        raise DataError(f"{path} has no images (images is {list(images.shape)}); give at least one.")
    return LabelledImages(
        str(path), torch.from_numpy(labels), ArrayImages(images, model.preprocessing), model.preprocessing
    )


def read_arrays(path: Path, model: Model) -> ArrayImages:
    """Read `images` alone, as `load_npz` does.

    Raises DataError if they are missing, of another type or shape, or do not fit the model.
    """
    content = _read(path, ("images",))
    return ArrayImages(_images(path, content["images"], model), model.preprocessing)


def _read(path: Path, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    call = f"numpy.savez(path, {', '.join(f'{name}=...' for name in names)})"
    try:
        content = np.load(path, allow_pickle=False)
        if isinstance(content, np.ndarray):
            raise DataError(f"{path} is one array, as in an .npy, and no .npz; save it with {call}.")
        with content as file:
            missing = [name for name in names if name not in file]
            if missing:
                raise DataError(
                    f"{path} has no {' and no '.join(missing)} (it has {', '.join(file) or 'nothing'}); save it with "
                    f"{call}."
                )
            return {name: file[name] for name in names}
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({reason(error)}); save it again with {call}.") from error


def _images(path: Path, images: NDArray[Any], model: Model) -> NDArray[np.uint8]:
    if images.dtype != np.uint8:
        raise DataError(
            f"images in {path} are {images.dtype}; give uint8 pixels of 0..255, neither scaled nor normalised."
        )
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4:
        raise DataError(f"images in {path} have the shape {list(images.shape)}; give [N, height, width, channels].")

    channels = images.shape[3]
    if channels != model.channels:
        hint = " (channels come last)" if images.shape[1] == model.channels else ""
        raise DataError(
            f"images in {path} have {channels} channels{hint}, and the network reads {model.channels}; give "
            f"images of shape [N, height, width, {model.channels}]."
        )
    if channels not in RESIZABLE and images.shape[1:3] != model.preprocessing.input_size:
        height, width = model.preprocessing.input_size
        raise DataError(
            f"images in {path} are {images.shape[1]}x{images.shape[2]}, and images of {channels} channels "
            f"cannot be resized; give them at {height}x{width}."
        )
    return images


def _labels(path: Path, labels: NDArray[Any], classes: int) -> NDArray[np.int64]:
    if not np.issubdtype(labels.dtype, np.integer):
        raise DataError(f"labels in {path} are {labels.dtype}; give integers, 0 to {classes - 1}.")
    if labels.ndim != 1:
        raise DataError(f"labels in {path} have the shape {list(labels.shape)}; give one class index per image, [N].")
    outside = labels[(labels < 0) | (labels >= classes)]
    if outside.size:
        raise DataError(
            f"labels in {path} contain {outside[0]}, and the network has {classes} classes; labels must be 0 "
            f"to {classes - 1}."
        )
    return labels.astype(np.int64)
