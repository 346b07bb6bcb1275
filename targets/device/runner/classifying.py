"""The commands `classify` and `predict`: classes of images."""

import sys
from pathlib import Path
from typing import List

from .arrays import np
from .base import LARGEST_BATCH, OUTPUT, Problem
from .bench import Json
from .choosing import Choice
from .images import read_images
from .manifest import Bundle
from .resizing import network_input


def classify(bundle: Bundle, choice: Choice, cache: Path, names: List[str]) -> List[Json]:
    """The five likeliest classes of each image, or why a file cannot be read. Raises Problem where nothing can run."""
    session = choice.backend.prepare(bundle, choice.model, cache, False)
    classes = bundle.classes()
    found: List[Json] = []
    for name in names:
        try:
            images = read_images(Path(name), bundle.manifest["input"]["shape"][0])
        except Problem as problem:  # the other images are classified all the same
            found.append({"image": name, "error": str(problem)})
            continue
        for index, pixels in enumerate(images):
            logits = session.run(network_input(pixels, bundle.manifest))[OUTPUT][0].astype(np.float64)
            likely = np.exp(logits - logits.max())
            likely /= likely.sum()
            best = np.argsort(-logits, kind="stable")[:5]
            top = [
                {
                    "class": int(k),
                    "name": str(k) if classes is None else classes[k],
                    "share": round(float(likely[k]), 6),
                }
                for k in best
            ]
            found.append({"image": name if index == 0 else f"{name}[{index}]", "top": top})
    return found


def predict(bundle: Bundle, choice: Choice, cache: Path) -> List[int]:
    """Numbers of the classes of images on standard input, which are raw, one behind the other: [C, H, W] in the
    network's type. Raises Problem where the input ends in the middle of one."""
    about = bundle.manifest["input"]
    kind, shape = np.dtype(about["type"]), tuple(about["shape"])
    size = int(np.prod(shape)) * kind.itemsize
    session = choice.backend.prepare(bundle, choice.model, cache, False)
    classes: List[int] = []
    while True:
        data = sys.stdin.buffer.read(LARGEST_BATCH * size)
        if len(data) % size:
            raise Problem(f"input ends in the middle of image {len(classes) + len(data) // size}: send all of it.")
        if not data:
            return classes
        images = np.frombuffer(data, dtype=kind).reshape(-1, *shape)
        classes += [int(number) for number in session.run(images)[OUTPUT].argmax(axis=1)]


def classify_lines(found: List[Json]) -> List[str]:
    """What `classify` prints for a person."""
    lines = []
    for each in found:
        if "top" in each:
            lines.append(each["image"])
            lines += [f"  {100 * one['share']:6.2f} %  {one['name']}" for one in each["top"]]
    return lines
