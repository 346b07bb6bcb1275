"""Images in folders; labelled ones have one folder per class."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from intraq_deploy.data.forms import class_folders, image_files
from intraq_deploy.data.labelled import LabelledImages
from intraq_deploy.data.resizing import to_network_size
from intraq_deploy.errors import DataError
from intraq_deploy.models.model import Model, Preprocessing

logger = logging.getLogger(__name__)

MODES = {1: "L", 3: "RGB"}
"""PIL's names of image modes, by the network's number of channels."""

UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
"""The errors that PIL raises for files that are no whole image."""


@dataclass(frozen=True, slots=True)
class FolderImages:
    """Image files, decoded when they are asked for."""

    paths: Sequence[Path]
    mode: str
    preprocessing: Preprocessing

    def read(self, index: int) -> NDArray[np.uint8]:
        """Decodes the image at `index`, turns it upright as EXIF says, converts, resizes and crops it.

        Returns uint8 [H, W, C] at the network's size. Raises DataError if the file is unreadable.
        """
        path = self.paths[index]
        try:
            with Image.open(path) as file:
                image = ImageOps.exif_transpose(_eight_bits(path, file)).convert(self.mode)
        except UNREADABLE as error:
            raise DataError(_unreadable(path, error)) from error
        return to_network_size(image, self.preprocessing)


def load_folder(path: Path, model: Model) -> LabelledImages:
    """Find the images of an ImageFolder that holds some, and check that each file begins as an image.

    Raises DataError if one is unreadable, or the folders do not fit the classes.
    """
    mode = _mode(model)
    folders = class_folders(path)
    names = [folder.name for folder in folders]
    indices = class_indices(names, model.classes, model.class_names, place=path)
    found = [image_files(folder) for folder in folders]
    files = [file for of_folder in found for file in of_folder]
    _check_headers(files)

    counts = torch.tensor([len(of_folder) for of_folder in found])
    by_number = _are_numbers(names) and indices == [int(name) for name in names]
    return LabelledImages(
        str(path),
        torch.tensor(indices).repeat_interleave(counts),
        FolderImages(files, mode, model.preprocessing),
        model.preprocessing,
        torch.arange(len(names)).repeat_interleave(counts) if by_number and indices != sorted(indices) else None,
        tuple(name for name, of_folder in zip(names, found, strict=True) if not of_folder),
    )


def read_folder(path: Path, model: Model) -> FolderImages:
    """Finds every image under `path`, in the order of the paths, and opens none of them yet.

    Raises DataError if the network does not read images of 1 or 3 channels.
    """
    return FolderImages(image_files(path), _mode(model), model.preprocessing)


def _mode(model: Model) -> str:
    if model.channels not in MODES:
        raise DataError(
            f"the network reads {model.channels} channels, and image files have 1 or 3; give an .npz with "
            f"images of shape [N, height, width, {model.channels}]."
        )
    return MODES[model.channels]


def class_indices(names: Sequence[str], classes: int, class_names: Sequence[str] | None, *, place: Path) -> list[int]:
    """Returns the class index of each folder.

    Folders are matched by class name, if each is named like a class; by number, if each is named by one; otherwise by
    sorted order, for which there must be exactly as many folders as classes.
    names: sorted folder names. place: for messages.
    Raises DataError if none of these applies, or only some folders are named like classes.
    """
    known = {name: index for index, name in enumerate(class_names or ())}
    strangers = [name for name in names if name not in known]
    if not strangers:
        _refuse_doubles(names, class_names or (), place)
        return [known[name] for name in names]
    if len(strangers) < len(names):
        raise DataError(
            f"{place} has folders named like classes and others that are not ({strangers[0]!r}); name every "
            "folder like a class, or give the names with --classes."
        )

    if _are_numbers(names):
        outside = [name for name in names if int(name) >= classes]
        if outside:
            raise DataError(
                f"{place} has a folder {outside[0]}, and the network has {classes} classes: numbered folders must be 0 "
                f"to {classes - 1}; else give their names with --classes, in the order of the network's outputs."
            )
        return [int(name) for name in names]

    if len(names) != classes:
        raise DataError(
            f"{place} has {len(names)} folders ({names[0]!r} to {names[-1]!r}), and the network has "
            f"{classes} classes; give the class names in the order of its outputs with --classes, or number "
            "the folders."
        )
    logger.info("%s: folders are taken as classes 0 to %d in sorted order", place, classes - 1)
    return list(range(classes))


def _are_numbers(names: Sequence[str]) -> bool:
    return all(name.isascii() and name.isdecimal() for name in names)


def _refuse_doubles(names: Sequence[str], class_names: Sequence[str], place: Path) -> None:
    """ImageNet has two cranes: a name that two classes share cannot be a label."""
    doubles = [name for name in names if list(class_names).count(name) > 1]
    if doubles:
        raise DataError(
            f"{place} has a folder {doubles[0]!r}, and two classes have that name; number the folders by class index."
        )


def _check_headers(files: Sequence[Path]) -> None:
    """An unreadable file should be known now, not after the training: reading a header takes about 0.1 ms."""
    for file in files:
        try:
            with Image.open(file) as image:
                _eight_bits(file, image)
        except UNREADABLE as error:
            raise DataError(_unreadable(file, error)) from error


def _eight_bits(path: Path, image: Image.Image) -> Image.Image:
    """The image itself. Raises DataError for more than 8 bits per pixel, which PIL would clip to white."""
    if image.mode in ("F", "I") or image.mode.startswith("I;16"):
        raise DataError(f"the image {path} has more than 8 bits per channel ({image.mode}); convert it to 8 bits.")
    return image


def _unreadable(path: Path, error: Exception) -> str:
    reason = str(error).replace(f" {str(path)!r}", "")[:120]
    return f"the image {path} cannot be read ({reason}); remove or replace it."
