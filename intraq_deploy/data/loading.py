"""A path, or a name, becomes labelled images for one model."""

from pathlib import Path

from intraq_deploy.data.arrays import load_npz
from intraq_deploy.data.cifar10 import load_cifar10_sample
from intraq_deploy.data.folder import load_folder
from intraq_deploy.data.forms import SAMPLE, check_labelled
from intraq_deploy.data.labelled import LabelledImages
from intraq_deploy.models.model import Model


def load_labelled(path: str | Path, model: Model) -> LabelledImages:
    """Open labelled images for measuring `model`.

    path: an ImageFolder (one folder of images per class), an .npz with `images` uint8 [N, H, W, C] and
    `labels`, or
        "builtin:cifar10-sample". Folders are read image by image.
    Raises DataError if there is nothing to read, or the images or labels do not fit the model.
    """
    check_labelled(path)
    if str(path) == SAMPLE:
        return load_cifar10_sample(SAMPLE, model)
    place = Path(path)
    return load_folder(place, model) if place.is_dir() else load_npz(place, model)
