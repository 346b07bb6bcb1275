"""Makes the pictures of docs/accuracy.md: images by each method, and where their features lie beside real ones'.

    python benchmarks/accuracy/pictures.py [--seed 0] [--imagenet]

Of the published CIFAR-10 ResNet-20; with --imagenet, what the images of ImageNet networks start as and become. Sets
that are missing are made. Features are those in front of the classifier, shown by the first two principal components of
real training images'.
"""

import argparse
import math
from pathlib import Path

import matplotlib as mpl
import networks
import numpy as np
import plan
import torch
from PIL import Image
from sets import image_set, recipe_of
from torch import Tensor

from intraq_deploy import seeds
from intraq_deploy.models.model import Model
from intraq_deploy.synthesis.leaves import dead_leaves
from intraq_deploy.synthesis.make import probe_of
from intraq_deploy.synthesis.synthetic_set import SyntheticSet

mpl.use("Agg")
import matplotlib.pyplot as plt

FOLDER = Path(__file__).parents[2] / "docs" / "images"
SHOWN = ("noise", "bns", "bns-lor", "intraq", "bounded", "low-pass", "relative", "real")
_CLASSES, _EACH = 10, 2
_LARGE = 8
"""The number of images of each ImageNet network."""


def pixels_of(images: Tensor, model: Model) -> np.ndarray:
    """The pixels of normalised images, uint8 [N, H, W, 3]."""
    mean, std = (torch.tensor(v).reshape(1, 3, 1, 1) for v in (model.preprocessing.mean, model.preprocessing.std))
    return as_bytes(images * std + mean)


def as_bytes(images: Tensor) -> np.ndarray:
    """The pixels of images from 0 to 1, uint8 [N, H, W, 3]."""
    return (images.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def of_each_class(images: SyntheticSet, model: Model) -> np.ndarray:
    """Two images of each class side by side, uint8 [2 H, 10 W, 3]."""
    pixels, rows = pixels_of(images.images, model), []
    for index in range(_EACH):
        chosen = [int(torch.nonzero(images.labels == label).flatten()[index]) for label in range(_CLASSES)]
        rows.append(np.concatenate([pixels[i] for i in chosen], axis=1))
    return np.concatenate(rows)


def sheet(rows: dict[str, np.ndarray], height: float, name: str) -> None:
    """One row of pixels, uint8 [H, W, 3], under another. height: of a row, in inches."""
    figure, axes = plt.subplots(len(rows), 1, figsize=(7, height * len(rows)))
    for axis, (title, pixels) in zip(axes, rows.items(), strict=True):
        axis.imshow(pixels, interpolation="nearest")
        axis.set_title(title, loc="left", fontsize=9)
        axis.set_axis_off()
    figure.tight_layout(pad=0.4)
    save(figure, name)


def imagenet_rows(seed: int, data: Path) -> dict[str, np.ndarray]:
    """The first images of `standard`, of each network, and what they start as: the same for all of them."""
    rows = {}
    for name in plan.IMAGENET:
        model = networks.load(name, data)
        recipe = recipe_of("standard", model).synthesis
        images, _, _ = image_set(name, model, "standard", recipe, seed, data)
        rows[name] = np.concatenate(list(pixels_of(images.images[:_LARGE], model)), axis=1)
    start = dead_leaves(recipe.batch, *images.images.shape[1:], seeds.generator(seed, "images", 0))[:_LARGE]
    return {"before the first iteration": np.concatenate(list(as_bytes(start)), axis=1)} | rows


def features(sets: dict[str, SyntheticSet], model: Model) -> None:
    probe = probe_of(model, torch.device("cpu"))
    found = {}
    for name, images in sets.items():
        with torch.no_grad():
            parts = [probe.read(part).features for part in images.images.split(128)]
        found[name] = torch.cat([part for part in parts if part is not None]).numpy()
    real = found.pop("real")
    mean = real.mean(0)
    _, _, axes_of_real = np.linalg.svd(real - mean, full_matrices=False)
    plane = axes_of_real[:2].T
    columns = math.ceil(len(found) / 2)
    figure, axes = plt.subplots(2, columns, figsize=(3 * columns, 6), sharex=True, sharey=True)
    for axis in axes.flat[len(found) :]:
        axis.set_axis_off()
    behind = (real - mean) @ plane
    for axis, (name, values) in zip(axes.flat, found.items(), strict=False):  # the last place may be empty
        axis.scatter(*behind.T, s=3, color="#c8c8c8", label="real")
        colours = sets[name].labels.numpy()
        axis.scatter(*((values - mean) @ plane).T, s=4, c=colours, cmap="tab10", vmin=0, vmax=9)
        axis.set_title(name, fontsize=9)
        axis.tick_params(labelsize=7)
    figure.tight_layout(pad=0.6)
    save(figure, "accuracy-features.png")


def save(figure: plt.Figure, name: str) -> None:
    FOLDER.mkdir(exist_ok=True)
    figure.savefig(FOLDER / name, dpi=110)
    with Image.open(FOLDER / name) as picture:
        picture.convert("P", palette=Image.Palette.ADAPTIVE, colors=256).save(FOLDER / name, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--imagenet", action="store_true", help="images of ImageNet networks, and what they start as")
    parser.add_argument("--data", type=Path)
    args = parser.parse_args()
    data = networks.data_folder(args.data)
    if args.imagenet:
        sheet(imagenet_rows(args.seed, data), 1.1, "accuracy-imagenet.png")
        return
    model = networks.load(plan.CIFAR10, data)
    sets = {
        name: image_set(plan.CIFAR10, model, name, recipe_of(name, model).synthesis, args.seed, data)[0]
        for name in SHOWN
    }
    sheet({name: of_each_class(images, model) for name, images in sets.items()}, 1.55, "accuracy-images.png")
    features(sets, model)


if __name__ == "__main__":
    main()
