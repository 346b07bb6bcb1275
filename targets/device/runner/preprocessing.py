"""Makes the network's input of image files: reads with PIL, OpenCV or neither, resizes, normalises."""

import importlib
import math
import re
import warnings
from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple

from .arrays import Array, np
from .base import Problem, one_line
from .manifest import PreprocessingEntry


def read_images(path: Path, channels: int) -> List[Array]:
    """The images of a file, uint8 [H, W, C] each: an .npy may hold several. Raises Problem for what is no image."""
    try:
        if path.suffix.lower() == ".npy":
            return _from_array(path, np.load(str(path), allow_pickle=False), channels)
        pixels = _decoded(path, channels)
        if not pixels.size:
            raise ValueError("it has no pixels")
        return [pixels]
    except Problem:
        raise
    except Exception as error:  # each decoder has its own
        raise Problem(f"the image {path} cannot be read ({one_line(error)})", "give another file") from error


def _from_array(path: Path, array: Array, channels: int) -> List[Array]:
    if array.dtype == np.uint8 and array.ndim == 2:
        array = array[:, :, None]
    if array.dtype != np.uint8 or array.ndim not in (3, 4) or array.shape[-1] not in (1, 3, channels) or not array.size:
        raise Problem(
            f"{path} holds {array.dtype} {array.shape}: give uint8 [H, W, {channels}], or [N, H, W, {channels}]."
        )
    return [_with_channels(image, channels) for image in ([array] if array.ndim == 3 else array)]


def _decoded(path: Path, channels: int) -> Array:
    """Decodes by PIL, else by OpenCV, else .ppm and .pgm by the function below."""
    if channels not in (1, 3):
        raise Problem(f"the network reads {channels} channels, and image files have 1 or 3: give an .npy.")
    try:
        from PIL import Image, ImageOps
    except ImportError:
        return _decoded_without_pil(path, channels)
    try:
        with warnings.catch_warnings(), Image.open(str(path)) as file:
            warnings.simplefilter("ignore")
            if file.mode in ("F", "I") or file.mode.startswith("I;16"):
                raise Problem(f"the image {path} has more than 8 bits per channel: convert it to 8 bits.")
            image = ImageOps.exif_transpose(file).convert("L" if channels == 1 else "RGB")
    except Image.DecompressionBombError as error:
        raise ValueError(str(error)) from error
    pixels = np.array(image, dtype=np.uint8)
    return pixels if pixels.ndim == 3 else pixels[:, :, None]


def _decoded_without_pil(path: Path, channels: int) -> Array:
    data = path.read_bytes()
    if data[:2] in (b"P5", b"P6"):
        return _with_channels(_from_netpbm(path, data), channels)
    try:
        cv2: Any = importlib.import_module("cv2")
    except ImportError as error:
        raise Problem(
            f"{path} needs PIL or OpenCV (sudo apt install python3-pil): without them .ppm, .pgm and .npy are read."
        ) from error
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if pixels is None:
        raise ValueError("OpenCV does not know it")
    return _with_channels(np.ascontiguousarray(pixels[:, :, ::-1]), channels)


def _from_netpbm(path: Path, data: bytes) -> Array:
    space = rb"(?:\s|#[^\n]*\n)+"
    header = re.match(rb"P([56])" + space + rb"(\d+)" + space + rb"(\d+)" + space + rb"(\d+)\s", data)
    if header is None:
        raise ValueError("its header is none")
    kind, width, height, largest = (int(group) for group in header.groups())
    depth = 3 if kind == 6 else 1
    if largest != 255:
        raise Problem(f"the image {path} has values up to {largest}: convert it to 8 bits.")
    if len(data) - header.end() < width * height * depth:
        raise ValueError("it is cut off")
    return np.frombuffer(data, np.uint8, width * height * depth, header.end()).reshape(height, width, depth)


def _with_channels(pixels: Array, channels: int) -> Array:
    """Makes grey from colour as PIL computes it, or colour from grey."""
    if pixels.shape[2] == channels:
        return pixels
    if channels == 3:
        return np.repeat(pixels, 3, axis=2)
    weights = np.array([19595, 38470, 7471], dtype=np.int64)
    return ((pixels.astype(np.int64) @ weights + 0x8000) >> 16).astype(np.uint8)[:, :, None]


def network_input(pixels: Array, kind: str, preprocessing: PreprocessingEntry) -> Array:
    """The network's input [1, C, H, W], of dtype `kind`, float32 or uint8, from pixels: uint8 [H, W, C] of any size."""
    image = to_network_size(pixels, preprocessing).transpose(2, 0, 1)[None]
    if kind == "uint8":
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
