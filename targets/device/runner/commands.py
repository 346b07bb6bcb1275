"""The commands `build`, `bench`, `classify` and `predict`."""

import math
import sys
from argparse import Namespace
from pathlib import Path
from typing import List, Optional, Sequence, cast

from .arrays import np
from .backends import EngineBackend, ModelSession, engine_of
from .base import LARGEST_BATCH, OUTPUT, Problem
from .choosing import Choice, Json, Result
from .machine import power_mode, temperatures
from .manifest import Bundle, InputEntry, PreprocessingEntry
from .preprocessing import network_input, read_images
from .timing import Measured

LIKELIEST = 5
"""The classes that `classify` shows of an image."""


def build(bundle: Bundle, choice: Choice, options: Namespace) -> Result:
    """Builds the engines that are not in the cache. Raises Problem where TensorRT refuses a model."""
    engines = []
    if choice.backend.kind == "tensorrt":
        backend = cast(EngineBackend, choice.backend)
        for with_codes in (False, True):
            path = engine_of(backend, bundle, choice.model, options.cache, with_codes)
            engines.append({"path": str(path), "bytes": path.stat().st_size})
    lines = [f"{engine['path']} ({engine['bytes']:,} bytes)" for engine in engines]
    return Result({"engines": engines}, lines or [f"{choice.words()}: it needs no engine."])


def bench(bundle: Bundle, choice: Choice, options: Namespace) -> Result:
    """Times batches of 1 and of `options.batch`, made of the parity images. Raises Problem where they cannot be run."""
    session = choice.backend.prepare(bundle, choice.model, options.cache, False)
    images = np.load(str(bundle.path(bundle.manifest["check"]["images"])), allow_pickle=False)
    rows = []
    for size in sorted({1, options.batch}):
        given = np.concatenate([images] * math.ceil(size / len(images)))[:size]
        rows.append(_row(size, session.measured(given, options.runs)))
    values = {"batches": rows, "power_mode": power_mode(), "temperatures": temperatures()}
    return Result(values, bench_lines(choice.words(), values))


def _row(batch: int, found: Measured) -> Json:
    times = {"median_ms": found.median, "p90_ms": found.p90, "p99_ms": found.p99}
    return {
        "batch": batch,
        "runs": found.runs,
        "images_per_second": round(1000 * batch / found.median, 2),
        **{name: None if value is None else round(value, 4) for name, value in times.items()},
        "watts": found.watts,
        "power_samples": found.power_samples,
    }


def bench_lines(where: str, result: Json) -> List[str]:
    """The lines that `bench` prints for a person."""
    lines = [where]
    for row in result["batches"]:
        known = [key for key, value in row.items() if key.endswith("_ms") and value is not None]
        times = ", ".join(f"{key[:-3]} {row[key]:.3f} ms" for key in known)
        power = "".join(f", {rail} {value:.2f} W" for rail, value in row["watts"].items())
        lines.append(f"batch {row['batch']}: {times}, {row['images_per_second']:,.1f} images/s{power}")
    if result["power_mode"] is not None:
        lines.append(f"power mode: {result['power_mode']}")
    if result["temperatures"]:
        lines.append(
            "temperatures: " + ", ".join(f"{name} {value:.1f}" for name, value in result["temperatures"].items())
        )
    return lines


def classify(bundle: Bundle, choice: Choice, options: Namespace) -> Result:
    """The five likeliest classes of each image, or why a file cannot be read. Raises Problem where nothing can run."""
    session = choice.backend.prepare(bundle, choice.model, options.cache, False)
    manifest = bundle.manifest
    found = classified(
        options.images, session, manifest["input"], manifest["preprocessing"], bundle.classes(), LIKELIEST
    )
    errors = [image["error"] for image in found if "error" in image]
    return Result({"images": found}, classify_lines(found), 1 if errors else 0, errors)


def classified(
    names: Sequence[str],
    session: ModelSession,
    about: InputEntry,
    preprocessing: PreprocessingEntry,
    classes: Optional[Sequence[str]],
    most: int,
) -> List[Json]:
    """The `most` likeliest classes of each image of the files `names`, or why a file cannot be read."""
    found: List[Json] = []
    for name in names:
        try:
            images = read_images(Path(name), about["shape"][0])
        except Problem as problem:  # the other images are classified all the same
            found.append({"image": name, "error": str(problem)})
            continue
        for index, pixels in enumerate(images):
            given = network_input(pixels, about["type"], preprocessing)
            logits = session.run(given)[OUTPUT][0].astype(np.float64)
            likely = np.exp(logits - logits.max())
            likely /= likely.sum()
            top = [
                {
                    "class": int(k),
                    "name": str(k) if classes is None else classes[k],
                    "share": round(float(likely[k]), 6),
                }
                for k in np.argsort(-logits, kind="stable")[:most]
            ]
            found.append({"image": name if index == 0 else f"{name}[{index}]", "top": top})
    return found


def predict(bundle: Bundle, choice: Choice, options: Namespace) -> Result:
    """Numbers of the classes of images on standard input, which are raw, one behind the other: [C, H, W] in the
    network's type. Raises Problem where the input ends in the middle of one."""
    about = bundle.manifest["input"]
    kind, shape = np.dtype(about["type"]), tuple(about["shape"])
    size = int(np.prod(shape)) * kind.itemsize
    session = choice.backend.prepare(bundle, choice.model, options.cache, False)
    classes: List[int] = []
    while True:
        data = sys.stdin.buffer.read(LARGEST_BATCH * size)
        if len(data) % size:
            raise Problem(f"input ends in the middle of image {len(classes) + len(data) // size}: send all of it.")
        if not data:
            return Result({"classes": classes}, [str(number) for number in classes])
        images = np.frombuffer(data, dtype=kind).reshape(-1, *shape)
        classes += [int(number) for number in session.run(images)[OUTPUT].argmax(axis=1)]


def classify_lines(found: Sequence[Json]) -> List[str]:
    """The lines that `classify` prints for a person; images that cannot be read have none."""
    lines = []
    for each in found:
        if "top" in each:
            lines.append(each["image"])
            lines += [f"  {100 * one['share']:6.2f} %  {one['name']}" for one in each["top"]]
    return lines
