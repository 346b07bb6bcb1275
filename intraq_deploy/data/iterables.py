"""Images in memory: a tensor, a DataLoader, or anything else that yields them as the network takes them."""

import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from intraq_deploy.data.unlabelled import LEAST
from intraq_deploy.errors import DataError, UsageError
from intraq_deploy.models.model import Model, Preprocessing

IMAGE_KEYS = ("image", "images", "pixel_values")
"""The keys under which a dictionary holds images; pixel_values is that of Hugging Face's processors."""
LABEL_KEYS = ("label", "labels")
"""The keys under which a dictionary holds labels."""
_FAR = 20.0
"""How far from 0 a pixel may be, where white is 1: augmentation and noise leave 0..1, but not by this."""
_DARK = 0.1
"""The least mean from which on photographs, normalised, have values below 0."""


def first_images(source: object, model: Model, count: int) -> Tensor:
    """Takes the first `count` images, float32 [N, C, H, W]; where there are fewer, all.

    source: an array or tensor [N, C, H, W] of any float dtype, normalised as the network takes it, or an iterable of
    batches [n, C, H, W] or images [C, H, W]: alone, first in a tuple, or in a dictionary under one of IMAGE_KEYS. It is
    not read further than needed. Warns if the images do not seem to be normalised.

    Raises UsageError for what cannot be iterated, DataError for fewer than two images, and for those that do not fit.
    """
    parts, found = list[Tensor](), 0
    for value, _ in _items(source):
        images = _checked(value, model.input_shape, model.preprocessing)[: count - found]
        parts.append(images)
        found += len(images)
        if found == count:
            break
    if found < LEAST:
        raise DataError(
            f"The images are {found} in number, and at least {LEAST} are needed; give images of what the network will "
            "see."
        )
    taken = torch.cat(parts)
    if min(model.preprocessing.mean) > _DARK and taken.min() >= 0 and taken.max() <= 1:
        warnings.warn(
            f"The images lie between 0 and 1, as before normalisation: {_how(model.preprocessing)}.", stacklevel=3
        )
    return taken


def labelled_batches(
    source: object, shape: tuple[int, ...], classes: int, preprocessing: Preprocessing | None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields images, float32 [n, C, H, W], and their labels, int64 [n].

    source: an iterable of pairs, or of dictionaries with one of IMAGE_KEYS and one of LABEL_KEYS; each holds a batch or
    one image, normalised. shape: of one image. preprocessing: None where it is not known.
    Raises UsageError for what cannot be iterated, DataError for what does not fit.
    """
    for value, given in _items(source):
        if given is None:
            raise DataError("The images come without labels: give an iterable of pairs (images, labels).")
        images, labels = _checked(value, shape, preprocessing), _labels(given, classes)
        if len(images) != len(labels):
            raise DataError(f"A batch has {len(images)} images and {len(labels)} labels: give one label per image.")
        yield images, labels


def _items(source: object) -> Iterator[tuple[Any, Any]]:
    """Yields images and labels; None where there are no labels."""
    if isinstance(source, Tensor | np.ndarray | Mapping):
        yield from _pairs(source)
        return
    if not isinstance(source, Iterable) and not hasattr(source, "__getitem__"):
        raise UsageError(
            f"The images are of type {type(source).__name__}: give a path, a tensor, or an iterable of tensors such as "
            "a DataLoader."
        )
    for item in cast(Iterable[Any], source):
        yield from _pairs(item)


def _pairs(item: Any) -> Iterator[tuple[Any, Any]]:
    """Yields the images and labels of one item; a list may be a pair, or a batch that nobody has collated."""
    if isinstance(item, Mapping):
        images, labels = (next((item[key] for key in keys if key in item), None) for keys in (IMAGE_KEYS, LABEL_KEYS))
        if images is None:
            raise DataError(
                f"A batch is a dictionary with the keys {', '.join(map(str, item)) or 'of nothing'}: name its images "
                f"{', '.join(IMAGE_KEYS[:-1])} or {IMAGE_KEYS[-1]}."
            )
        yield images, labels
    elif isinstance(item, tuple | list) and item:
        if all(isinstance(each, tuple | list | Mapping) or getattr(each, "ndim", 0) == 3 for each in item):
            for each in item:
                yield from _pairs(each)
        else:
            yield item[0], item[1] if len(item) > 1 else None
    else:
        yield item, None


def _checked(value: Any, shape: tuple[int, ...], preprocessing: Preprocessing | None) -> Tensor:
    """Returns images as float32 [n, C, H, W], on the CPU. Raises DataError for what the network cannot take."""
    images = torch.from_numpy(value) if isinstance(value, np.ndarray) else value
    if not isinstance(images, Tensor):
        raise DataError(
            f"The images hold a value of type {type(images).__name__}: give float tensors, as torchvision's ToTensor "
            "and Normalize make them."
        )
    if not images.is_floating_point():
        raise DataError(f"The images are {str(images.dtype).removeprefix('torch.')}: {_how(preprocessing)}.")
    images = images.detach().to("cpu", torch.float32)
    images = images[None] if images.ndim == 3 else images
    if images.shape[1:] != shape:
        hint = " (channels come first)" if images.ndim == 4 and images.shape[3] == shape[0] != images.shape[1] else ""
        raise DataError(
            f"The images have the shape {list(images.shape)}{hint}, and the network reads {shape[0]} channels of "
            f"{shape[1]}x{shape[2]} pixels: give [N, {', '.join(map(str, shape))}]."
        )
    if not bool(images.isfinite().all()):
        raise DataError("The images have values that are not finite: look for NaN in them.")
    if preprocessing is not None and images.numel():
        mean, std = torch.tensor(preprocessing.mean), torch.tensor(preprocessing.std)
        low, high = (images.amin((0, 2, 3)) * std + mean).min(), (images.amax((0, 2, 3)) * std + mean).max()
        if max(high, -low) > _FAR:
            raise DataError(
                f"The images have values from {float(images.min()):g} to {float(images.max()):g}, as pixels have: "
                f"{_how(preprocessing)}."
            )
    return images


def _how(preprocessing: Preprocessing | None) -> str:
    """Returns what to do with pixels."""
    how = "give them as the network takes them, (pixel / 255 - mean) / std"
    if preprocessing is None:
        return how
    mean, std = (", ".join(f"{value:g}" for value in values) for values in (preprocessing.mean, preprocessing.std))
    return f"{how} with mean {mean} and std {std}"


def _labels(given: Any, classes: int) -> Tensor:
    """Returns class indices, int64 [n]. Raises DataError for what is none."""
    try:
        labels = torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"The labels are of type {type(given).__name__}: give class indices, integers.") from error
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool or labels.ndim > 1:
        raise DataError(
            f"The labels are {str(labels.dtype).removeprefix('torch.')} {list(labels.shape)}: give one class index per "
            "image, integers."
        )
    labels = labels.detach().to("cpu", torch.int64).reshape(-1)
    outside = labels[(labels < 0) | (labels >= classes)]
    if len(outside):
        raise DataError(
            f"The labels contain {int(outside[0])}, and the network has {classes} classes: give 0 to {classes - 1}."
        )
    return labels
