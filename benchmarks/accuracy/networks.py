"""The networks and images that accuracy is measured on.

They are not part of this repository: a folder, given with --data or INTRAQ_TEST_DATA, holds

    weights/NAME.pth          state_dicts, by the names in NETWORKS
    cifar/cifar{10,100}_{test,train2000}.webp, *_labels.txt     sheets of 32 x 32 tiles, one label a line
    images/NAME.tar, NAME.csv      JPEG files for a centre crop of 224 pixels; file,label,...

Test images only ever measure; train2000 is the reference line of real images.
"""

import csv
import io
import os
import sys
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from intraq_deploy.models.loading import load_model
from intraq_deploy.models.model import Model

HERE = Path(__file__).parent
_SIDE = 32


@dataclass(frozen=True, slots=True)
class Network:
    """One network with its preprocessing, and what measures it."""

    arch: str
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    tests: tuple[str, ...]
    """Names of sets; the first one's accuracy is the row's."""
    real: str | None = None


_HALF = (0.5, 0.5, 0.5)
_IMAGENET = ("imagenet_sample1000_256", "ilsvrc12_val500_10cls")
"""Training images of all classes, and validation images of ten."""
NETWORKS = {
    "resnet20_cifar10": Network(
        "resnet20_option_a.py:ResNet20", 32, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), ("cifar10_test",),
        "cifar10_train2000",
    ),
    "resnet20wide_stem_cifar100": Network(
        "published.py:ResNet20Wide", 32, (0.507, 0.487, 0.441), (0.267, 0.256, 0.276), ("cifar100_test",),
        "cifar100_train2000",
    ),
    "mobilenetv1_w075_imagenet": Network(
        "published.py:MobileNetV1", 224, _HALF, _HALF, _IMAGENET, _IMAGENET[0],
    ),
    "mobilenetv2_w1_imagenet": Network(
        "published.py:MobileNetV2Same", 224, _HALF, _HALF, _IMAGENET[::-1], _IMAGENET[0],
    ),
    "efficientnet_lite0_imagenet": Network(
        "published.py:EfficientNetLite0", 224, (127 / 255,) * 3, (128 / 255,) * 3,
        _IMAGENET, _IMAGENET[0],
    ),
}  # fmt: skip


def data_folder(given: Path | None) -> Path:
    """Where weights and images are."""
    folder = given or Path(os.environ.get("INTRAQ_TEST_DATA", HERE.parents[2] / "shared" / "data"))
    if not (folder / "weights").is_dir():
        sys.exit(f"{folder} has no folder weights: give the data's folder with --data (see {Path(__file__).name}).")
    return folder


def load(name: str, data: Path) -> Model:
    """A network of NETWORKS."""
    network = NETWORKS[name]
    return load_model(
        str(data / "weights" / f"{name}.pth"),
        arch=str(HERE.parent / network.arch),
        input_size=(network.size, network.size),
        mean=network.mean,
        std=network.std,
    )


def images(name: str, data: Path) -> tuple[Tensor, Tensor]:
    """A set's pixels, uint8 [N, 3, H, W], and labels, int64 [N]."""
    read: Callable[[str, Path], tuple[np.ndarray, list[int]]] = _cifar if name.startswith("cifar") else _imagenet
    pixels, labels = read(name, data)
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), torch.tensor(labels)


def _cifar(name: str, data: Path) -> tuple[np.ndarray, list[int]]:
    labels = [int(line) for line in (data / "cifar" / f"{name}_labels.txt").read_text().split()]
    sheet = np.asarray(Image.open(data / "cifar" / f"{name}.webp").convert("RGB"))
    rows, columns = sheet.shape[0] // _SIDE, sheet.shape[1] // _SIDE
    tiles = sheet.reshape(rows, _SIDE, columns, _SIDE, 3).swapaxes(1, 2).reshape(-1, _SIDE, _SIDE, 3)
    return np.ascontiguousarray(tiles[: len(labels)]), labels


def _imagenet(name: str, data: Path) -> tuple[np.ndarray, list[int]]:
    with (data / "images" / f"{name}.csv").open() as file:
        labels = {row["file"]: int(row["label"]) for row in csv.DictReader(file)}
    pixels = []
    with tarfile.open(data / "images" / f"{name}.tar") as archive:
        for file in labels:
            member = archive.extractfile(file)
            assert member is not None
            picture = Image.open(io.BytesIO(member.read())).convert("RGB")
            left, top = (picture.width - 224) // 2, (picture.height - 224) // 2
            pixels.append(np.asarray(picture.crop((left, top, left + 224, top + 224))))
    return np.stack(pixels), list(labels.values())
