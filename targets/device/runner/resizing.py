"""Resizing and normalising: from an image's pixels to what the network takes."""

import math
from typing import Callable, Dict, List, Tuple

from .arrays import Array, np
from .base import Problem
from .manifest import Manifest, PreprocessingEntry


def network_input(pixels: Array, manifest: Manifest) -> Array:
    """The network's input [1, C, H, W], of the manifest's type, from pixels: uint8 [H, W, C] of any size."""
    preprocessing = manifest["preprocessing"]
    image = to_network_size(pixels, preprocessing).transpose(2, 0, 1)[None]
    if manifest["input"]["type"] == "uint8":
        return np.ascontiguousarray(image)
    mean, std = (
        np.array(values, dtype=np.float32).reshape(-1, 1, 1) for values in (preprocessing["mean"], preprocessing["std"])
    )
    return np.ascontiguousarray((image.astype(np.float32) / np.float32(255) - mean) / std, dtype=np.float32)


def to_network_size(pixels: Array, preprocessing: PreprocessingEntry) -> Array:
    """Pixels (uint8 [H, W, C]), resized and centre-cropped; what lies outside the image is black."""
    height, width = preprocessing["input_size"]
    target = _target_size(pixels.shape[0], pixels.shape[1], preprocessing)
    top, left = round((target[0] - height) / 2), round((target[1] - width) / 2)
    rows, columns = (
        range(max(0, first), min(size, first + wanted))
        for first, size, wanted in ((top, target[0], height), (left, target[1], width))
    )
    part = resized(pixels, target[0], target[1], preprocessing["interpolation"], rows, columns)
    crop = np.zeros((height, width, pixels.shape[2]), dtype=np.uint8)
    crop[max(0, -top) : max(0, -top) + part.shape[0], max(0, -left) : max(0, -left) + part.shape[1]] = part
    return crop


def _target_size(rows: int, columns: int, preprocessing: PreprocessingEntry) -> Tuple[int, int]:
    """The height and width to which an image is resized before the crop."""
    (height, width), resize = preprocessing["input_size"], preprocessing["resize"]
    if resize is None:
        if (rows, columns) == (height, width):
            return rows, columns
        scale = max(height / rows, width / columns)
        return max(height, round(rows * scale)), max(width, round(columns * scale))
    if preprocessing["squash"]:
        short = min(height, width)
        return resize * height // short, resize * width // short
    if columns <= rows:
        return int(resize * rows / columns), resize
    return resize, int(resize * columns / rows)


_BITS = 22
"""Bits of the fraction of a filter's weights, as in PIL: sums of 8-bit pixels stay in 32 bits."""


def resized(pixels: Array, height: int, width: int, interpolation: str, rows: range, columns: range) -> Array:
    """Resizes uint8 [H, W, C], pixel for pixel as Pillow 13: one axis, then the other, each rounded to 8 bits. Only
    `rows` and `columns` of the result are computed: an elongated image becomes many times as long before it is cut.

    Which comes first changes a few pixels. Older ones always begin with the width, 13 with the height where that
    loses more than twice as much (observed).
    """
    if interpolation == "nearest":
        down, across = _nearest(pixels.shape[0], height), _nearest(pixels.shape[1], width)
        return pixels[down[_slice(rows)]][:, across[_slice(columns)]]
    if interpolation not in FILTERS:
        raise Problem(
            f"the interpolation {interpolation!r} is not known here: known are nearest, {', '.join(FILTERS)}."
        )
    fewer_rows, fewer_columns = pixels.shape[0] - height, pixels.shape[1] - width
    height_first = fewer_rows > 0 and fewer_rows > 2 * fewer_columns
    for vertical in (height_first, not height_first):
        if vertical:
            pixels = _filtered(pixels, height, interpolation, rows) if fewer_rows else pixels[_slice(rows)]
        else:
            turned = pixels.transpose(1, 0, 2)
            turned = _filtered(turned, width, interpolation, columns) if fewer_columns else turned[_slice(columns)]
            pixels = turned.transpose(1, 0, 2)
    return pixels


def _slice(part: range) -> slice:
    return slice(part.start, part.stop)


def _nearest(size: int, wanted: int) -> List[int]:
    """The index of the old pixel that each new one copies: steps are added up, as PIL does."""
    step, place, found = size / wanted, size / wanted * 0.5, []
    for _ in range(wanted):
        found.append(min(int(place), size - 1))
        place += step
    return found


def _filtered(pixels: Array, wanted: int, interpolation: str, part: range) -> Array:
    """Resizes the first axis to `wanted`, and gives the indices in `part` of the result."""
    function, support = FILTERS[interpolation]
    size = pixels.shape[0]
    scale = size / wanted
    stretch = max(scale, 1.0)
    out = np.empty((len(part), *pixels.shape[1:]), dtype=np.uint8)
    for place, index in enumerate(part):
        centre = (index + 0.5) * scale
        first = max(int(centre - support * stretch + 0.5), 0)
        last = min(int(centre + support * stretch + 0.5), size)
        weights = [function((x - centre + 0.5) * (1.0 / stretch)) for x in range(first, last)]
        total = sum(weights)
        fixed = [int(math.copysign(0.5, w) + w / total * (1 << _BITS)) if w else 0 for w in weights]
        # Products and sums stay far below 2^53.
        sums = np.tensordot(np.array(fixed, dtype=np.float64), pixels[first:last].astype(np.float64), axes=1)
        out[place] = np.clip((sums.astype(np.int64) + (1 << (_BITS - 1))) >> _BITS, 0, 255)
    return out


def _triangle(x: float) -> float:
    return max(0.0, 1.0 - abs(x))


def _cubic(x: float) -> float:
    x, a = abs(x), -0.5
    if x < 1:
        return ((a + 2.0) * x - (a + 3.0)) * x * x + 1
    return (((x - 5) * x + 8) * x - 4) * a if x < 2 else 0.0


def _lanczos(x: float) -> float:
    return _sinc(x) * _sinc(x / 3) if -3 <= x < 3 else 0.0


def _sinc(x: float) -> float:
    return 1.0 if x == 0 else math.sin(x * math.pi) / (x * math.pi)


FILTERS: Dict[str, Tuple[Callable[[float], float], float]] = {
    "bilinear": (_triangle, 1.0),
    "bicubic": (_cubic, 2.0),
    "lanczos": (_lanczos, 3.0),
}
"""Filters by name, each with how far it reaches, in pixels."""
